"""Split a text into pieces of about equal length, at line breaks."""

from itertools import accumulate, groupby


def split_at_lines(text: str, pieces: int) -> list[str]:
    """Return at most `pieces` texts, which joined are the text; a line is never split."""
    lines = text.splitlines(keepends=True)
    middles = [end - len(line) / 2 for line, end in zip(lines, accumulate(map(len, lines)), strict=True)]
    numbered = zip((int(at * pieces / len(text)) for at in middles), lines, strict=True)
    return ["".join(line for _, line in group) for _, group in groupby(numbered, key=lambda one: one[0])]
