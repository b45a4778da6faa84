"""Statements of a module: the names they bind and need, and their source."""

import ast
import builtins
from collections.abc import Iterator, Sequence

from stages.common.rows.headers import is_placeholder

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
Assignment = ast.Assign | ast.AnnAssign | ast.AugAssign


def gives_something(function: ast.stmt) -> bool:
    return any(isinstance(node, ast.Return | ast.Yield | ast.YieldFrom) for node in walk_scope(function))


def is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def is_stub(node: ast.stmt) -> bool:
    """Return whether a function has no body but a docstring, `pass`, `return None` or NotImplementedError.

    Nor does an import define it, unless nothing better does: `from solution import f` shows how to use it.
    """
    function = isinstance(node, FunctionNode) and all(map(is_skeleton, node.body))
    return function or isinstance(node, ast.Import | ast.ImportFrom)


def is_skeleton(node: ast.stmt) -> bool:
    if isinstance(node, ast.Return):
        return node.value is None or (
            isinstance(node.value, ast.Constant) and node.value.value in (None, ...)
        )
    if isinstance(node, ast.Raise) and node.exc:
        kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return isinstance(kind, ast.Name) and kind.id == "NotImplementedError"
    return is_placeholder(node)


def is_bare_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def is_use(node: ast.stmt, name: str) -> bool:
    """Return whether a statement only shows or tests a function: a main block, or a print or assert of it."""
    if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
        return True
    call = node.value if isinstance(node, ast.Expr) else None
    shows = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "print"
    return (shows or isinstance(node, ast.Assert)) and name in loaded(node)


def defined(node: ast.stmt) -> set[str]:
    """Return the names that a module's statement binds."""
    if isinstance(node, FunctionNode | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.split(".")[0] for alias in node.names}
    found = set[str]()
    for child in walk_scope(node):
        if child is not node and isinstance(child, FunctionNode | ast.ClassDef | ast.Import | ast.ImportFrom):
            found |= defined(child)
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            found.add(child.id)
    return found


def loaded(node: ast.stmt) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def walk_scope(node: ast.AST) -> Iterator[ast.AST]:
    """Yield `node` and the nodes below it in the same scope."""
    stack = [node]
    while stack:
        here = stack.pop()
        yield here
        if here is node or not isinstance(here, Scope):
            stack.extend(ast.iter_child_nodes(here))


def needed_from(others: Sequence[ast.stmt], body: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Return the imports, functions, classes and assignments of `others` whose names `body` lacks."""
    have = {name for node in body for name in defined(node)} | set(dir(builtins))
    defining: dict[str, list[ast.stmt]] = {}
    for node in others:
        if isinstance(node, Scope | ast.Import | ast.ImportFrom | Assignment):
            for name in defined(node) - have:
                defining.setdefault(name, []).append(node)
    kept = set[ast.stmt]()
    waiting = [name for node in body for name in loaded(node)]
    while waiting:
        for node in defining.pop(waiting.pop(), []):
            if node not in kept:
                kept.add(node)
                waiting += loaded(node)
    return [node for node in others if node in kept]


def first_line(node: ast.stmt) -> int:
    """Return the first line of a statement, decorators included."""
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(d.lineno for d in decorators)])


def source_of(node: ast.stmt, lines: list[str]) -> str:
    """Return a statement as written, without what shares a line with it (`x = 1; y = 2`)."""
    first = first_line(node)
    own = [line.encode() for line in lines[first - 1 : node.end_lineno]]  # columns count bytes
    own[-1] = own[-1][: node.end_col_offset]
    own[0] = own[0][node.col_offset if first == node.lineno else 0 :]
    return b"\n".join(own).decode()
