"""Two completions side by side: Python in colour, and the lines in which they differ marked."""

from difflib import SequenceMatcher
from functools import cache
from typing import Any


def highlight_pair(base: str, tuned: str) -> tuple[Any, Any]:
    """Return both texts as HTML (markupsafe.Markup), every character of theirs escaped."""
    from markupsafe import Markup

    lines = [text.replace("\r\n", "\n").replace("\r", "\n").split("\n") for text in (base, tuned)]
    coloured = [highlight_python("\n".join(own)).split("\n") for own in lines]
    first, second = ([line.rstrip() for line in own] for own in lines)
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    for tag, *ends in matcher.get_opcodes():
        if tag != "equal":
            for side, (start, end) in zip(coloured, (ends[:2], ends[2:]), strict=True):
                side[start:end] = [f"<mark>{line}</mark>" if line else line for line in side[start:end]]
    return Markup("\n".join(coloured[0])), Markup("\n".join(coloured[1]))


@cache
def highlight_python(text: str) -> str:
    """Return text as Python in HTML with classes of Pygments; line breaks are those of the text."""
    from pygments import highlight  # type: ignore[import-untyped]
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
    from pygments.lexers import PythonLexer  # type: ignore[import-untyped]

    lexer, formatter = PythonLexer(stripnl=False, ensurenl=False), HtmlFormatter(nowrap=True)
    return highlight(text, lexer, formatter).removesuffix("" if text.endswith("\n") else "\n")
