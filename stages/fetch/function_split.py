"""Split a function into what is asked, up to its docstring, and what answers, its body."""

import ast
from collections.abc import Sequence

MAX_BODY_LINES = 60
PythonFunction = ast.FunctionDef | ast.AsyncFunctionDef


class Unfit(Exception):
    """A function that does not qualify; its text is the reason, one of a few fixed phrases that are counted."""


def split_function(source: str) -> tuple[str, str]:
    """Return a function's source as prompt (to the line that closes the docstring) and completion (the body).

    Raises:
        Unfit: docstring or body share a line with something else, or the body is empty or too long.
    """
    node = next(iter(ast.parse(source).body), None)
    if not isinstance(node, PythonFunction):
        raise Unfit("has no body but a docstring")
    return split_at_docstring(node, source.split("\n"), 1)


def split_at_docstring(node: PythonFunction, lines: Sequence[str], start: int) -> tuple[str, str]:
    """Return the lines of a function from line `start` to the docstring's last, and those of its body.

    Raises:
        Unfit: docstring or body share a line with something else, or the body is empty or too long.
    """
    if len(node.body) < 2:
        raise Unfit("has no body but a docstring")
    docstring, first = node.body[0], node.body[1]
    before = lines[docstring.lineno - 1][: docstring.col_offset]
    end = docstring.end_lineno or docstring.lineno
    after = lines[end - 1].encode()[docstring.end_col_offset :].strip()
    if before.strip() or after or first.lineno <= end:
        raise Unfit("shares the docstring's line with code")
    body = [*lines[end : node.end_lineno]]
    while body and not body[0].strip():
        body.pop(0)
    if len(body) > MAX_BODY_LINES:
        raise Unfit(f"has more than {MAX_BODY_LINES} body lines")
    return "\n".join(lines[start - 1 : end]) + "\n", "\n".join(body) + "\n"
