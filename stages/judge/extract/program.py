"""Turn a model's answer into a program: the longest prefix that parses, run whole.

The text is hostile: its size and the work spent on parsing it are bounded, and whatever it does to the parser
counts as the text's own failure. The same code reads the output of every backend and every prompt style.
"""

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from stages.judge.extract.fences import Fence, fenced, unquoted, with_late_fences
from stages.judge.extract.statements import (
    FunctionNode,
    defined,
    first_line,
    gives_something,
    is_bare_text,
    is_future,
    is_stub_function,
    is_use,
    needed_from,
    sharing_lines,
    source_of,
)
from stages.judge.extract.thinking import without_thinking

MAX_TEXT_CHARACTERS = 1_000_000  # of an answer searched for code; the rest is ignored
MAX_COMPLETION_CHARACTERS = 64_000  # of one reading of it
MAX_PARSED = 1_000_000  # characters parsed for one completion, over all attempts
MAX_ATTEMPTS = 400  # calls of the parser for one completion
MAX_STARTS = 40  # places tried as the start of an answer without a fence
WRAPPER = r"(?:answer|final_answer|solution|output|response|result|code|python)"
TOKEN = r"<[|｜][^\s<>|｜][^<>|｜\n]{0,40}[|｜]>|<(?:start|end)_of_(?:turn|utterance)>"
TURN_END = re.compile(rf"(?:{TOKEN})(?!['\"])")  # not where a string of the code holds it
LEADING_MARKS = re.compile(
    rf"(?:\s*(?:(?:{TOKEN})(?:assistant\b)?|<(?:s|bos|BOS_TOKEN)>|</?{WRAPPER}>|\[/?(?:PYTHON|ANSWER|CODE)\]))+(?: (?! ))?",
    re.IGNORECASE,
)
TRAILING_MARKS = re.compile(
    rf"(?:\s*(?:</?(?:s|eos|bos|pad|EOT|EOS_TOKEN|{WRAPPER})>|\[/?(?:PYTHON|ANSWER|CODE|INST)\]))+\s*\Z",
    re.IGNORECASE,
)
WRAPPED = re.compile(rf"^[ \t]*<({WRAPPER})>(.*?)(?:</\1>|\Z)", re.IGNORECASE | re.MULTILINE | re.DOTALL)
DEFINES_UNSEEN = re.compile(r"\b(?:exec|globals|locals|vars|setattr|__dict__)\b|\bimport \*")
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
    rank: int = 0  # of readings that parse whole, the highest counts


@dataclass(frozen=True)
class Built:
    lines: int  # of the completion that are kept
    program: str
    answers: bool  # the entry point does something: it is no stub, no repeated header
    rank: int  # 0 where lines of the reading were cut


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
        self.unseen = ""  # a program that may define the entry point by exec or globals()

    def spend(self, text: str) -> bool:
        self.characters -= len(text)
        self.attempts -= 1
        return self.characters >= 0 and self.attempts >= 0


def extract_program(prompt: str, entry_point: str, completion: str, fence: str = "last") -> Extraction:
    """Return the program of a completion.

    A completion may continue the prompt's function, repeat it, hold it in a code fence, or start with a wrong
    indent. Readings are tried from the most to the least direct; within a group the one that keeps most lines
    wins. One with an empty entry point counts only where no reading has a better one.

    Args:
        prompt: the problem's prompt.
        entry_point: the function that is asked for.
        completion: what the model wrote; thinking starts with its opener, also if the prompt wrote it.
        fence: which of several fences with the function counts: the `first` or the `last` complete one.
    """
    work = Work()
    stub: Built | None = None
    text = answer_in(completion)
    for group in readings(clean(prompt).rstrip(), entry_point, text, fence, work):
        found = [built for reading in group if (built := build(reading, entry_point, work))]
        best = max(found, key=lambda built: (built.answers, built.rank, built.lines), default=None)
        if best and best.answers:
            return Extraction(best.program)
        stub = stub or best
    if stub or work.unseen:
        return Extraction(stub.program if stub else work.unseen)
    read = ", in the part that is read" if len(completion) > MAX_TEXT_CHARACTERS else ""
    if work.error and not work.parsed:
        return Extraction(verdict="syntax_error", reason=work.error + read)
    return Extraction(verdict="no_entry_point", reason=f"nothing defines {entry_point}{read}")


def answer_in(completion: str) -> str:
    """Return the answer after any thinking, without marks and tokens that a backend may have left in."""
    answer = clean(without_thinking(completion)[:MAX_TEXT_CHARACTERS])
    marks = LEADING_MARKS.match(answer)
    answer = answer[marks.end() :] if marks else answer
    answer = TURN_END.split(answer, maxsplit=1)[0]
    while marks := TRAILING_MARKS.search(answer[-1000:]):
        answer = answer[: marks.start() - min(1000, len(answer))]
    return unquoted(answer)


def clean(text: str) -> str:
    """Normalise line ends to \\n and cut before the first null byte or lone surrogate, not valid in source."""
    text = re.split("[\0\ud800-\udfff]", text.removeprefix("\ufeff"), maxsplit=1)[0]
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")


def readings(prompt: str, entry_point: str, text: str, fence: str, work: Work) -> Iterator[list[Reading]]:
    inside = ends_in_function(prompt, entry_point)
    before = preamble(prompt, entry_point)
    blocks = fenced(text)
    yield [Reading(prompt + "\n", text)] if inside else [Reading(before, text)]
    yield block_readings(before, blocks, entry_point, fence, work)
    yield [Reading(before, text)]
    for body in (text, *(block.code for block in blocks)) if inside else ():
        yield [Reading(prompt + "\n", other, returns=True) for other in reindented(body)]
    yield [Reading(before, found[2]) for found in WRAPPED.finditer(text)]
    if (separated := with_late_fences(text)) != text:
        yield block_readings(before, fenced(separated), entry_point, fence, work)
    for start in islice(STARTS.finditer(text), MAX_STARTS):
        yield [Reading(before, text[start.start() : start.start() + MAX_COMPLETION_CHARACTERS])]


def block_readings(
    before: str, blocks: Sequence[Fence], entry_point: str, fence: str, work: Work
) -> list[Reading]:
    """Return a reading per fence, with what it needs of the other fences before it."""
    parsed = [longest_prefix(block.code, 0, work) if len(blocks) > 1 else None for block in blocks]
    found = []
    for i, block in enumerate(blocks):
        body, needed = statements_of(parsed[i]), ""
        if any(entry_point in defined(node) for node in body):
            for other in (*parsed[:i], *parsed[i + 1 :]):
                others = [node for node in statements_of(other) if entry_point not in defined(node)]
                shared = sharing_lines(others)
                needed += "".join(
                    source_of(n, other.lines, shared) + "\n" for n in needed_from(others, body) if other
                )
        rank = (i if fence == "last" else len(blocks) - i) + len(blocks) * (block.closed + block.python) + 1
        found.append(Reading(before + needed, block.code, rank=rank))
    return found


def statements_of(parsed: Parsed | None) -> list[ast.stmt]:
    return parsed.tree.body if parsed else []


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


def reindented(text: str) -> list[str]:
    """Return two repairs of a body's indent: of its first line only, and of all lines."""
    lines = text.split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    if first is None:
        return []
    moved = [*lines[:first], "    " + lines[first].lstrip(" \t"), *lines[first + 1 :]]
    return ["\n".join(moved), textwrap.indent(textwrap.dedent(text), "    ")]


def build(reading: Reading, entry_point: str, work: Work) -> Built | None:
    """Return the program of a reading; None without an entry point."""
    header_lines = reading.header.count("\n")
    body = reading.body[:MAX_COMPLETION_CHARACTERS]
    parsed = longest_prefix(reading.header + body, header_lines, work)
    if parsed is None:
        return None
    last = parsed.tree.body[-1] if parsed.tree.body else None
    if last and not reading.returns and (last.end_lineno or 0) > header_lines:
        work.parsed = True
    cut = parsed.lines != (reading.header + reading.body).split("\n")
    try:
        return select(parsed, header_lines, entry_point, reading, cut, work)
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


def select(
    parsed: Parsed, header_lines: int, name: str, reading: Reading, cut: bool, work: Work
) -> Built | None:
    """Keep the module but for uses of the entry point; `from __future__` comes first."""
    body = without_repeats(parsed.tree.body, name, header_lines, cut)
    entries = [n for n in body if name in defined(n) and (n.end_lineno or 0) > header_lines]
    kept = [node for node in body if not is_use(node, name) and not is_bare_text(node)]
    shared = sharing_lines(parsed.tree.body)
    ordered = sorted(kept, key=lambda node: not is_future(node))
    program = "\n".join(source_of(node, parsed.lines, shared) for node in ordered) + "\n"
    if not entries and name in program and not cut and DEFINES_UNSEEN.search(program):
        work.unseen = work.unseen or program
    if not entries or (reading.returns and not any(gives_something(node) for node in entries)):
        return None
    own = (max(0, (n.end_lineno or 0) - max(first_line(n) - 1, header_lines)) for n in kept)
    answers = not all(is_stub_function(node) for node in entries)
    return Built(sum(own), program, answers, 0 if cut else reading.rank)


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
