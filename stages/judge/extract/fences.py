"""Find the code fences of an answer and return their contents."""

import re

MAX_FENCES = 8
FENCE_LINE = re.compile(r"^([ \t]*)(?:```|~~~)[ \t]*([\w+-]*)[^\n]*$", re.MULTILINE)
LATE_FENCE = re.compile(r"(?<=[^\s`])[ \t]*(?=```)")
PYTHON_TAGS = frozenset(("", "python", "python3", "py", "py3", "Python"))


def with_late_fences(text: str) -> str:
    """Move fences that follow other text on a line to lines of their own."""
    return LATE_FENCE.sub("\n", text)


def fenced(text: str) -> list[str]:
    """Return the contents of code fences, Python's first. An unclosed fence extends to the next or the end."""
    blocks: list[tuple[bool, str]] = []
    opening: re.Match[str] | None = None
    for match in FENCE_LINE.finditer(text):
        if opening:
            blocks.append(block_of(opening, text[opening.end() + 1 : match.start()]))
        opening = match if opening is None or match.group(2) else None
        if len(blocks) == MAX_FENCES:
            break
    else:
        if opening:
            blocks.append(block_of(opening, text[opening.end() + 1 :]))
    return [block for _, block in sorted(blocks, key=lambda pair: pair[0])]


def block_of(opening: re.Match[str], text: str) -> tuple[bool, str]:
    """Return whether a fence is not Python's, and its lines without the fence's own indent."""
    indent, lines = opening.group(1), text.split("\n")
    if all(line.startswith(indent) for line in lines if line.strip()):
        lines = [line.removeprefix(indent) for line in lines]
    return opening.group(2) not in PYTHON_TAGS, "\n".join(lines)
