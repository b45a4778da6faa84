"""Turn a model's answer into a program: the longest prefix that parses, reduced to the entry point's needs.

The text is hostile: its size and the work spent on parsing it are bounded, and whatever it does to the parser
counts as the text's own failure. The same code reads the output of every backend and every prompt style.
"""

import ast
import builtins
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from stages.common.headers import is_placeholder
from stages.judge.extract.fences import fenced, with_late_fences
from stages.judge.extract.reachable import (
    FunctionNode,
    defined,
    first_line,
    gives_something,
    is_future,
    reachable_statements,
    sharing_lines,
    source_of,
)

MAX_COMPLETION_CHARACTERS = 64_000  # of a completion; the rest is ignored
MAX_PARSED = 1_000_000  # characters parsed for one completion, over all attempts
MAX_ATTEMPTS = 400  # calls of the parser for one completion
MAX_STARTS = 40  # places tried as the start of an answer without a fence
TURN_END = re.compile(
    "<[|｜](?:im_end|endoftext|end_of_text|eot_id|EOT|end|end▁of▁sentence)[|｜]>|<end_of_turn>|</s>\\s*\\Z"
)
STARTS = re.compile(
    r"^(?:(?:async def|def|class|import|from)\b|@|[A-Za-z_]\w* *(?::[^=\n]+)?=[^=])", re.MULTILINE
)


@dataclass(frozen=True)
class Extraction:
    """A program, or the verdict that there is none (`syntax_error`, `no_entry_point`), with its reason."""

    program: str = ""
    verdict: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Reading:
    """One way to read a completion: `header` unchanged, then lines of the completion."""

    header: str
    body: str
    returns: bool = False  # asked of the entry point: this reading makes a body of whatever comes


@dataclass(frozen=True)
class Built:
    lines: int  # of the completion that are kept
    program: str
    answers: bool  # the entry point does something: it is no stub, no repeated header


@dataclass(frozen=True)
class Parsed:
    lines: list[str]
    tree: ast.Module


class Work:
    """The work left for parsing one completion."""

    def __init__(self) -> None:
        self.characters = MAX_PARSED
        self.attempts = MAX_ATTEMPTS
        self.error = ""  # the parser's first, which is the most direct reading's
        self.parsed = False  # some reading held a statement

    def spend(self, text: str) -> bool:
        self.characters -= len(text)
        self.attempts -= 1
        return self.characters >= 0 and self.attempts >= 0


def extract_program(prompt: str, entry_point: str, completion: str, also: Sequence[str] = ()) -> Extraction:
    """Return the program of a completion: the entry point, `also` where defined, and what they need.

    A completion may continue the prompt's function, repeat it, hold it in a code fence, or start with a wrong
    indent. Readings are tried from the most to the least direct; within a group the one that keeps most lines
    wins. One with an empty entry point counts only where no reading has a better one.
    """
    work = Work()
    stub: Built | None = None
    for group in readings(clean(prompt).rstrip(), entry_point, answer_in(completion)):
        found = [built for reading in group if (built := build(reading, [entry_point, *also], work))]
        best = max(found, key=lambda built: (built.answers, built.lines), default=None)
        if best and best.answers:
            return Extraction(best.program)
        stub = stub or best
    if stub:
        return Extraction(stub.program)
    if work.error and not work.parsed:
        return Extraction(verdict="syntax_error", reason=work.error)
    return Extraction(verdict="no_entry_point", reason=f"nothing defines {entry_point}")


def answer_in(completion: str) -> str:
    """Return the answer after any thinking, up to an end-of-turn token that a backend may have left in."""
    _, closed, answer = completion.rpartition("</think>")
    if not closed and answer.lstrip().startswith("<think>"):
        return ""
    return TURN_END.split(clean(answer[:MAX_COMPLETION_CHARACTERS]), maxsplit=1)[0]


def clean(text: str) -> str:
    """Normalise line ends to \\n and cut before the first null byte or lone surrogate, not valid in source."""
    text = re.split("[\0\ud800-\udfff]", text.removeprefix("\ufeff"), maxsplit=1)[0]
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")


def readings(prompt: str, entry_point: str, text: str) -> Iterator[list[Reading]]:
    inside = ends_in_function(prompt, entry_point)
    before = preamble(prompt, entry_point)
    blocks = fenced(text)
    yield [Reading(prompt + "\n", text)] if inside else [Reading(before, text)]
    beside = before + helpers(blocks, entry_point) if len(blocks) > 1 else before
    for block in blocks:
        yield [Reading(beside, block)]
    yield [Reading(before, text)]
    for body in (text, *blocks) if inside else ():
        yield [Reading(prompt + "\n", other, returns=True) for other in reindented(body)]
    for block in fenced(with_late_fences(text)):
        yield [Reading(before, block)]
    for start in islice(STARTS.finditer(text), MAX_STARTS):
        yield [Reading(before, text[start.start() :])]


def parse_quietly(text: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


@lru_cache(maxsize=1024)
def ends_in_function(prompt: str, entry_point: str) -> bool:
    """Return whether the prompt stops inside the entry point, so that its body follows."""
    for ending in ("", "\n    pass"):
        try:
            last = parse_quietly(prompt + ending).body[-1]
        except (SyntaxError, ValueError, IndexError, MemoryError, RecursionError):
            continue
        return isinstance(last, FunctionNode) and last.name == entry_point
    return False


@lru_cache(maxsize=1024)
def preamble(prompt: str, entry_point: str) -> str:
    """Return the prompt before the entry point: imports and helpers; "" where the prompt is not code."""
    for ending in ("", "\n    pass"):
        try:
            tree = parse_quietly(prompt + ending)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
        lines = prompt.split("\n")
        for node in tree.body:
            if isinstance(node, FunctionNode) and node.name == entry_point:
                lines = lines[: first_line(node) - 1]
        return "".join(line + "\n" for line in lines)
    return ""


def helpers(blocks: Sequence[str], entry_point: str) -> str:
    """Return imports, functions and classes of fences without the entry point: answers may span several."""
    taken = {entry_point, *dir(builtins)}
    found = []
    for block in blocks:
        try:
            body = parse_quietly(block).body
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
        if any(entry_point in defined(node) for node in body):
            continue
        lines, shared = block.split("\n"), sharing_lines(body)
        kept = [n for n in body if isinstance(n, FunctionNode | ast.ClassDef | ast.Import | ast.ImportFrom)]
        found += [source_of(n, lines, shared) + "\n" for n in kept if not defined(n) & taken]
    return "".join(found)


def reindented(text: str) -> list[str]:
    """Return two repairs of a body's indent: of its first line only, and of all lines."""
    lines = text.split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    if first is None:
        return []
    moved = [*lines[:first], "    " + lines[first].lstrip(" \t"), *lines[first + 1 :]]
    return ["\n".join(moved), textwrap.indent(textwrap.dedent(text), "    ")]


def build(reading: Reading, names: Sequence[str], work: Work) -> Built | None:
    """Return the program of a reading; None without an entry point."""
    header_lines = reading.header.count("\n")
    parsed = longest_prefix(reading.header + reading.body, header_lines, work)
    if parsed is None:
        return None
    last = parsed.tree.body[-1] if parsed.tree.body else None
    if last and not reading.returns and (last.end_lineno or 0) > header_lines:
        work.parsed = True
    try:
        return select(parsed, header_lines, names, reading)
    except (RecursionError, MemoryError):
        work.error = work.error or "nested too deeply"
        return None


def longest_prefix(source: str, at_least: int, work: Work) -> Parsed | None:
    """Return the longest run of whole lines from the top that parses and exceeds `at_least` lines.

    The parser reports the line of its error. The lines before it are tried next, so that a bad line costs one
    more attempt, not one per line above it.
    """
    lines = source.split("\n")
    while len(lines) > at_least:
        text = "\n".join(lines) + "\n"
        if not work.spend(text):
            work.error = work.error or "too much to parse"
            return None
        try:
            return Parsed(lines, parse_quietly(text))
        except SyntaxError as error:
            work.error = work.error or f"{error.msg}, line {(error.lineno or 1) - at_least}"
            lines = lines[: max(0, min((error.lineno or 1) - 1, len(lines) - 1))]
        except (ValueError, MemoryError, RecursionError) as error:
            work.error = work.error or f"the parser gave up ({type(error).__name__})"
            lines = lines[: len(lines) // 2]
    return None


def select(parsed: Parsed, header_lines: int, names: Sequence[str], reading: Reading) -> Built | None:
    """Keep the entry point (the first name), other names, and what they need; `from __future__` comes first."""
    cut = parsed.lines != (reading.header + reading.body).split("\n")
    body = without_repeats(parsed.tree.body, names[0], header_lines, cut)
    entries = [n for n in body if names[0] in defined(n) and (n.end_lineno or 0) > header_lines]
    if not entries or (reading.returns and not any(gives_something(node) for node in entries)):
        return None
    kept = reachable_statements(body, names)
    future = [n for n in kept if is_future(n)]
    rest = [n for n in kept if not is_future(n)]
    shared = sharing_lines(parsed.tree.body)
    program = "\n".join(source_of(node, parsed.lines, shared) for node in future + rest) + "\n"
    own = (max(0, (n.end_lineno or 0) - max(first_line(n) - 1, header_lines)) for n in kept)
    return Built(sum(own), program, not all(is_stub_function(node) for node in entries))


def without_repeats(body: list[ast.stmt], name: str, header_lines: int, cut: bool) -> list[ast.stmt]:
    """Return statements without later versions of the entry point that are not the answer.

    A model that has finished the prompt's function continues with whatever follows in a file, often the
    prompt again; harnesses that stop at the first line after the body never see it. In a file the last
    version counts, as in Python, except stubs and one that the end of the text cuts off.
    """
    versions = [
        i
        for i, n in enumerate(body)
        if isinstance(n, FunctionNode) and n.name == name and not is_stub_function(n)
    ]
    if not versions:
        return body
    first = versions[0] + 1
    continued = first_line(body[versions[0]]) <= header_lines
    taken = (
        {n.name for n in body[:first] if isinstance(n, FunctionNode | ast.ClassDef)} if continued else {name}
    )
    dropped = {
        node
        for node in body[first:]
        if isinstance(node, FunctionNode | ast.ClassDef)
        and node.name in taken
        and (continued or is_stub_function(node) or (cut and node is body[-1]))
    }
    return [node for node in body if node not in dropped]


def is_stub_function(node: ast.stmt) -> bool:
    return isinstance(node, FunctionNode) and all(map(is_placeholder, node.body))
