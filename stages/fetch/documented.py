"""Training rows out of Python files: every documented function and method, in the shape of HumanEval.

Unlike those of stages.fetch.functions, they may use what their module and package define. The prompt is the
imports that the function uses, the `class` line of a method, `def` line and docstring; the completion is the
body.
"""

import ast
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence

from stages.fetch.function_split import PythonFunction, Unfit, split_at_docstring
from stages.fetch.functions import DOCSTRING_WORD, TEST_FILE, FunctionRow, Import, is_overload

Owners = Sequence[ast.ClassDef]


def documented_of(path: str, source: str, reasons: Counter[str]) -> Iterator[FunctionRow]:
    """Yield the functions and methods of a file that qualify; `reasons` counts the others, and `taken`.

    Raises:
        SyntaxError, ValueError: the file does not parse.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes of other people's strings
        tree, lines = ast.parse(source), source.split("\n")
        imports = [statement for statement in tree.body if isinstance(statement, Import)]
        for owners, node in functions_within(tree, ()):
            try:
                row = documented_row(lines, imports, owners, node, path)
            except Unfit as reason:
                reasons[str(reason)] += 1
            else:
                reasons["taken"] += 1
                yield row


def functions_within(
    scope: ast.Module | ast.ClassDef, owners: Owners
) -> Iterator[tuple[Owners, PythonFunction]]:
    """Yield the functions of a scope and of the classes in it, each with the classes around it."""
    for statement in scope.body:
        if isinstance(statement, PythonFunction):
            yield owners, statement
        elif isinstance(statement, ast.ClassDef):
            yield from functions_within(statement, (*owners, statement))


def documented_row(
    lines: Sequence[str], imports: Sequence[ast.stmt], owners: Owners, node: PythonFunction, path: str
) -> FunctionRow:
    """Return the row of a function or method.

    Raises:
        Unfit: it does not qualify.
    """
    words = (ast.get_docstring(node, clean=True) or "").split(">>>")[0]
    for is_unfit, reason in (
        (TEST_FILE.search(path), "stands in a test file"),
        (is_overload(node), "is a type checker's overload"),
        (len(DOCSTRING_WORD.findall(words)) < 3, "has no docstring in words"),
        (all(map(is_abstract, node.body[1:])), "has no body but a docstring"),
    ):
        if is_unfit:
            raise Unfit(reason)
    first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
    head, body = split_at_docstring(node, lines, first)
    used = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    used |= {
        inner.id for owner in owners for inner in ast.walk(class_line(owner)) if isinstance(inner, ast.Name)
    }
    needed = [ast.unparse(one) for one in (part_of(whole, used) for whole in imports) if one]
    classes = [
        lines[one.lineno - 1][: one.col_offset] + ast.unparse(class_line(one)).splitlines()[0]
        for one in owners
    ]
    prompt = "\n\n\n".join(
        ["\n".join(needed), "\n".join([*classes, head])] if needed else ["\n".join([*classes, head])]
    )
    try:
        rebuilt: ast.AST = ast.parse(prompt + body)
    except SyntaxError:
        raise Unfit("does not parse on its own") from None
    while isinstance(rebuilt, ast.Module | ast.ClassDef):
        rebuilt = rebuilt.body[-1]
    if ast.dump(rebuilt) != ast.dump(node):
        raise Unfit("does not parse on its own")
    name = ".".join([*(owner.name for owner in owners), node.name])
    return FunctionRow(name, node.lineno, prompt, body, 0)


def is_abstract(statement: ast.stmt) -> bool:
    """Return whether a statement is what an abstract function has for a body."""
    if isinstance(statement, ast.Raise) and statement.exc:
        return ast.unparse(statement.exc).startswith("NotImplementedError")
    return isinstance(statement, ast.Pass) or ast.unparse(statement) == "..."


def class_line(owner: ast.ClassDef) -> ast.ClassDef:
    """Return a class with its bases and without its body and decorators."""
    return ast.ClassDef(owner.name, owner.bases, owner.keywords, [ast.Pass()], [])


def part_of(statement: ast.stmt, used: set[str]) -> ast.stmt | None:
    """Return an import of the names alone that are used, None if none is."""
    assert isinstance(statement, Import)
    kept = [one for one in statement.names if (one.asname or one.name.split(".")[0]) in used]
    future = isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
    if future or not kept:
        return statement if future else None
    if isinstance(statement, ast.ImportFrom):
        return ast.ImportFrom(statement.module, kept, statement.level)
    return ast.Import(kept)
