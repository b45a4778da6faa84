"""Find the code fences of an answer and return their contents."""

import re
from typing import NamedTuple

MAX_FENCES = 12  # the last of a text
FENCE_LINE = re.compile(r"^([ \t]*)(?:`{3,}|~{3,})[ \t]*([\w+-]*)[^\n`]*$", re.MULTILINE)
LATE_FENCE = re.compile(r"(?<=[^\s`])[ \t]*(?=```)")
ONE_LINE_FENCE = re.compile(r"```[ \t]*(?:python3?[ \t]|py[ \t])?([^`\n]+)```")
QUOTED_FENCE = re.compile(r"^> ?(?:```|~~~)", re.MULTILINE)
PYTHON_TAGS = frozenset(("", "python", "python3", "py", "py3"))


class Fence(NamedTuple):
    code: str
    closed: bool
    python: bool


def unquoted(text: str) -> str:
    """Return a text without Markdown's quote marks where they quote a fence."""
    return re.sub(r"^> ?", "", text, flags=re.MULTILINE) if QUOTED_FENCE.search(text) else text


def with_late_fences(text: str) -> str:
    """Move fences that follow other text on a line, or hold a single line, to lines of their own."""
    return LATE_FENCE.sub("\n", ONE_LINE_FENCE.sub(r"\n```\n\1\n```\n", text))


def fenced(text: str) -> list[Fence]:
    """Return code fences in order, Python's last. An unclosed fence extends to the next or the end."""
    blocks: list[Fence] = []
    opening: re.Match[str] | None = None
    for match in FENCE_LINE.finditer(text):
        if opening:
            blocks.append(fence_of(opening, text[opening.end() + 1 : match.start()], not match.group(2)))
        opening = match if opening is None or match.group(2) else None
    if opening:
        blocks.append(fence_of(opening, text[opening.end() + 1 :], False))
    return sorted(blocks, key=lambda fence: fence.python)[-MAX_FENCES:]


def fence_of(opening: re.Match[str], text: str, closed: bool) -> Fence:
    """Return a fence with its lines without the fence's own indent."""
    indent, lines = opening.group(1), text.split("\n")
    if all(line.startswith(indent) for line in lines if line.strip()):
        lines = [line.removeprefix(indent) for line in lines]
    return Fence("\n".join(lines), closed, opening.group(2).lower() in PYTHON_TAGS)
