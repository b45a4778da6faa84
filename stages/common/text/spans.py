"""Where a text can be cut for filling in the middle: at nodes of its syntax, or anywhere."""

import ast
import re
import warnings
from collections.abc import Iterator
from itertools import accumulate
from random import Random

Span = tuple[int, int]  # first character, and the one after the last
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")  # as Python's parser counts lines: not at form feeds
LEAST_EXPRESSION = 4  # characters
BLOCKS = ("body", "orelse", "finalbody")


def random_span(text: str, random: Random) -> Span:
    """Return a span of at least one character between two random places of a text that is not empty."""
    start, end = sorted(random.sample(range(len(text) + 1), 2))
    return start, end


def syntax_spans(text: str) -> list[list[Span]]:
    """Return the spans of a Python text's nodes by kind: whole lines, statements, expressions; kinds with any.

    Statements are single ones and blocks; lines are the same, with their indentation and line break, as an
    editor or HumanEval-Infilling leaves them out. A text that is no Python has none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes of other people's strings
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return []
    lines = LINE.findall(text)
    starts = [0, *accumulate(map(len, lines))]

    def place(line: int, column: int) -> int:
        """Return the character at a line (from 1) and a column in bytes of UTF-8."""
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    def span_of(first: ast.stmt | ast.expr, last: ast.stmt | ast.expr) -> Span:
        line, column = last.end_lineno or last.lineno, last.end_col_offset or 0
        return place(first.lineno, first.col_offset), place(line, column)

    statements = {span_of(first, last) for first, last in runs_of_statements(tree)}
    expressions = {span_of(one, one) for one in expressions_of(tree)}
    whole = (len(text) - len(text.lstrip()), len(text.rstrip()))
    widened = (whole_lines(text, span) for span in statements - {whole})
    kinds = (
        {span for span in widened if span},
        statements - {whole},
        {(start, end) for start, end in expressions if end - start >= LEAST_EXPRESSION},
    )
    return [sorted(kind) for kind in kinds if kind]


def runs_of_statements(tree: ast.Module) -> Iterator[tuple[ast.stmt, ast.stmt]]:
    """Yield the first and last statement of each block, and each statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            yield node, node
            for name in BLOCKS:
                if block := getattr(node, name, None):
                    yield block[0], block[-1]


def expressions_of(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield the expressions with a place of their own: those inside an f-string have none before Python 3.12."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.expr):
            yield child
        if not isinstance(child, ast.JoinedStr):
            yield from expressions_of(child)


def whole_lines(text: str, span: Span) -> Span | None:
    """Return a span with its indentation and line break, None if it shares a line with something else."""
    start, end = span
    begin = max(text.rfind("\n", 0, start), text.rfind("\r", 0, start)) + 1
    rest = LINE.match(text, end)
    after = rest[0] if rest else ""
    return None if text[begin:start].strip() or after.strip() else (begin, end + len(after))
