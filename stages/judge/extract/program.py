"""Turn a model's answer into a program: the longest prefix that parses, run whole.

The text is hostile: its size and the work spent on parsing it are bounded, and whatever it does to the parser
counts as the text's own failure. The same code reads the output of every backend and every prompt style.
"""

import ast
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from stages.judge.extract.fences import Fence, fenced, unquoted, with_late_fences
from stages.judge.extract.statements import (
    FunctionNode,
    defined,
    first_line,
    gives_something,
    is_bare_text,
    is_future,
    is_stub,
    is_use,
    needed_from,
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
WRAPPED = re.compile(rf"<({WRAPPER})(?: [^<>\n]*)?>(.*?)(?:</\1>|\Z)", re.IGNORECASE | re.DOTALL)
DEFINES_UNSEEN = re.compile(r"\b(?:exec|globals|locals|vars|setattr|__dict__)\b|\bimport \*")
STARTS = re.compile(
    r"^(?:(?:async def|def|class|import|from)\b|@|[A-Za-z_]\w* *(?::[^=\n]+)?=[^=])", re.MULTILINE
)

# Markdown's block of indented code, after prose: what follows a class or another block is part of it
INDENTED = re.compile(
    r"^(?![ \t]|class\b|def\b|async\b|@)\S.*\n(?:[ \t]*\n)+((?:(?: {4}|\t).*\n?|[ \t]*\n)+)", re.MULTILINE
)


@dataclass(frozen=True)
class Extraction:
    """A program, or the verdict that there is none (`syntax_error`, `no_entry_point`), with its reason."""

    program: str = ""
    verdict: str = ""
    reason: str = ""


class Reading(NamedTuple):
    """One way to read a completion: `header` unchanged, then lines of the completion."""

    header: str
    body: str
    returns: bool = False  # asked of the entry point: this reading makes a body of whatever comes
    rank: int = 0  # of readings that parse whole, the highest counts


class Built(NamedTuple):
    answers: bool  # the entry point does something: it is no stub, no repeated header
    rank: int  # 0 where lines of the reading were cut
    lines: int  # of the completion that are kept
    program: str


class Parsed(NamedTuple):
    lines: list[str]
    tree: ast.Module


NOTHING = Parsed([], ast.Module([], []))


@dataclass
class Work:
    """The work left for parsing one completion."""

    characters: int = MAX_PARSED
    attempts: int = MAX_ATTEMPTS
    error: str = ""  # the parser's first, which is the most direct reading's
    parsed: bool = False  # some reading held a statement
    unseen: str = ""  # a program that may define the entry point by exec or globals()

    def spend(self, text: str) -> bool:
        self.characters -= len(text)
        self.attempts -= 1
        return self.characters >= 0 and self.attempts >= 0


def extract_program(prompt: str, entry_point: str, completion: str, fence: str = "last") -> Extraction:
    """Return the program of a completion.

    A completion may continue the prompt's function, repeat it, hold it in a code fence, or start with a wrong
    indent. Readings are tried from the most to the least direct; within a group the one that keeps most lines
    wins. One with an empty entry point counts only where no reading has a better one.

    Thinking starts with its opener, also if the prompt wrote it. Of several fences with the function the `first`
    or the `last` complete one counts.
    """
    work = Work()
    stub: Built | None = None
    text = answer_in(completion)
    for group in readings(clean(prompt).rstrip(), entry_point, text, fence, work):
        found = [built for reading in group if (built := build(reading, entry_point, work))]
        best = max(found, key=lambda built: built[:3], default=None)
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
    before, inside = split_prompt(prompt, entry_point)
    blocks = fenced(text)
    yield [Reading(prompt + "\n", text)] if inside else [Reading(before, text)]
    yield block_readings(before, blocks, entry_point, fence, work)
    yield [Reading(before, text)]
    for body in (text, *(block.code for block in blocks)) if inside else ():
        yield [Reading(prompt + "\n", other, returns=True) for other in reindented(body)]
    yield [Reading(before, found[2]) for found in islice(WRAPPED.finditer(text), MAX_STARTS)]
    if (separated := with_late_fences(text)) != text:
        yield block_readings(before, fenced(separated), entry_point, fence, work)
    for start in islice(STARTS.finditer(text), MAX_STARTS):
        yield [Reading(before, text[start.start() : start.start() + MAX_COMPLETION_CHARACTERS])]
    for found in islice(INDENTED.finditer(text), MAX_STARTS):
        yield [Reading(before, textwrap.dedent(found[1]))]


def block_readings(
    before: str, blocks: Sequence[Fence], entry_point: str, fence: str, work: Work
) -> list[Reading]:
    """Return a reading per fence, with what it needs of the other fences before it."""
    parsed = [longest_prefix(block.code, 0, work) if len(blocks) > 1 else NOTHING for block in blocks]
    found = []
    for i, block in enumerate(blocks):
        body, needed = parsed[i].tree.body, ""
        if any(entry_point in defined(node) for node in body):
            for other in (*parsed[:i], *parsed[i + 1 :]):
                others = [node for node in other.tree.body if entry_point not in defined(node)]
                needed += "".join(source_of(n, other.lines) + "\n" for n in needed_from(others, body))
        rank = (i if fence == "last" else len(blocks) - i) + len(blocks) * (block.closed + block.python) + 1
        found.append(Reading(before + needed, block.code, rank=rank))
    return found


@lru_cache(maxsize=1024)
def split_prompt(prompt: str, entry_point: str) -> tuple[str, bool]:
    """Return the imports and helpers before the entry point, and whether the prompt stops inside it.

    Where the prompt is no code there are none.
    """
    for ending in ("", "\n    pass"):
        try:
            body = ast.parse(prompt + ending).body
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
        entries = [node for node in body if isinstance(node, FunctionNode) and node.name == entry_point]
        lines = prompt.split("\n")[: first_line(entries[0]) - 1 if entries else None]
        return "".join(line + "\n" for line in lines), body[-1:] == entries[-1:] != []
    return "", False


def reindented(text: str) -> list[str]:
    """Return two repairs of a body's indent: of its first line only, and of all lines."""
    lines = text.split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    if first is None:
        return []
    moved = [*lines[:first], "    " + lines[first].lstrip(" \t"), *lines[first + 1 :]]
    return ["\n".join(moved), textwrap.indent(textwrap.dedent(text), "    ")]


def longest_prefix(source: str, at_least: int, work: Work) -> Parsed:
    """Return the longest run of whole lines from the top that parses and exceeds `at_least` lines.

    The parser reports the line of its error. The lines before it are tried next, so that a bad line costs one
    more attempt, not one per line above it.
    """
    lines = source.split("\n")
    while len(lines) > at_least:
        text = "\n".join(lines) + "\n"
        if not work.spend(text):
            work.error = work.error or "too much to parse"
            break
        try:
            return Parsed(lines, ast.parse(text))
        except SyntaxError as error:
            work.error = work.error or f"{error.msg}, line {(error.lineno or 1) - at_least}"
            lines = lines[: max(0, min((error.lineno or 1) - 1, len(lines) - 1))]
        except (ValueError, MemoryError, RecursionError) as error:
            work.error = work.error or f"the parser gave up ({type(error).__name__})"
            lines = lines[: len(lines) // 2]
    return NOTHING


def build(reading: Reading, name: str, work: Work) -> Built | None:
    """Return the program of a reading, its module but for uses of the entry point; None without an entry point."""
    at_least, source = reading.header.count("\n"), reading.header + reading.body[:MAX_COMPLETION_CHARACTERS]
    parsed = longest_prefix(source, at_least, work)
    module = parsed.tree.body
    work.parsed |= bool(module) and not reading.returns and (module[-1].end_lineno or 0) > at_least
    cut = parsed.lines != (reading.header + reading.body).split("\n")
    try:
        body = without_repeats(module, name, at_least, cut)
        kept = [node for node in body if not is_use(node, name) and not is_bare_text(node)]
        ordered = sorted(kept, key=lambda node: not is_future(node))  # `from __future__` comes first
        program = "\n".join(source_of(node, parsed.lines) for node in ordered) + "\n"
        entries = [n for n in body if name in defined(n) and (n.end_lineno or 0) > at_least]
    except (RecursionError, MemoryError):
        work.error = work.error or "nested too deeply"
        return None
    if not entries and name in program and not cut and DEFINES_UNSEEN.search(program):
        work.unseen = work.unseen or program
    if not entries or (reading.returns and not any(map(gives_something, entries))):
        return None
    own = sum(max(0, (n.end_lineno or 0) - max(first_line(n) - 1, at_least)) for n in kept)
    return Built(not all(map(is_stub, entries)), 0 if cut else reading.rank, own, program)


def without_repeats(body: list[ast.stmt], name: str, header_lines: int, cut: bool) -> list[ast.stmt]:
    """Return statements without later versions of the entry point that are not the answer.

    A model that has finished the prompt's function continues with whatever follows in a file, often the
    prompt again; harnesses that stop at the first line after the body never see it. In a file the last
    version counts, as in Python, except stubs and one that the end of the text cuts off.
    """
    named = [node for node in body if isinstance(node, FunctionNode | ast.ClassDef)]
    versions = [node for node in named if node.name == name and not is_stub(node)]
    if not versions:
        return body
    first = named.index(versions[0]) + 1
    continued = first_line(versions[0]) <= header_lines
    taken = {node.name for node in named[:first]} if continued else {name}
    later = [node for node in named[first:] if node.name in taken]
    dropped = {n for n in later if continued or is_stub(n) or (cut and n is body[-1])}
    return [node for node in body if node not in dropped]
