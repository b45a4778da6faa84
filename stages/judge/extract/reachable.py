"""Find the statements of a module that a function needs, by the names they bind and use."""

import ast
from collections.abc import Iterator, Sequence
from itertools import pairwise

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
ComprehensionNode = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def gives_something(function: ast.stmt) -> bool:
    return any(isinstance(node, ast.Return | ast.Yield | ast.YieldFrom) for node in walk_scope(function))


def reachable_statements(body: list[ast.stmt], names: Sequence[str]) -> list[ast.stmt]:
    """Return the statements of a module that `names` reach, and those that act on these names."""
    defining: dict[str, list[int]] = {}
    for i, node in enumerate(body):
        for name in defined(node):
            defining.setdefault(name, []).append(i)
    kept = set[int]()
    queue = [i for i, node in enumerate(body) if always(node)]
    queue += [i for name in names for i in defining.get(name, [])]
    while queue:
        i = queue.pop()
        if i not in kept:
            kept.add(i)
            queue += [j for name in used(body[i]) for j in defining.pop(name, [])]
    return [body[i] for i in sorted(kept)]


def always(node: ast.stmt) -> bool:
    """Statements without which others may mean something else."""
    if isinstance(node, ast.ImportFrom):
        return node.module == "__future__" or any(alias.name == "*" for alias in node.names)
    return isinstance(node, ast.Expr) and ast.unparse(node.value).startswith("sys.setrecursionlimit(")


def is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def defined(node: ast.stmt) -> set[str]:
    """Names that a module's statement binds or, by a method call or an item, may change."""
    if isinstance(node, FunctionNode | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
        return set()
    found = set[str]()
    for child in walk_scope(node):
        if isinstance(child, FunctionNode | ast.ClassDef | ast.Import | ast.ImportFrom):
            found |= defined(child)
        elif isinstance(child, ast.Expr):
            if isinstance(child.value, ast.Call) and isinstance(child.value.func, ast.Attribute):
                found.add(base_name(child.value.func))
        elif isinstance(child, ast.Name | ast.Attribute | ast.Subscript) and isinstance(child.ctx, ast.Store):
            found.add(base_name(child))
    return found


def base_name(node: ast.expr) -> str:
    """Return the name at the base of an attribute or subscript, "" if it is not a name."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def walk_scope(node: ast.AST) -> Iterator[ast.AST]:
    """Yield `node` and the nodes below it in the same scope."""
    stack = [node]
    while stack:
        here = stack.pop()
        yield here
        if here is node or not isinstance(here, FunctionNode | ast.ClassDef | ast.Lambda | ComprehensionNode):
            stack.extend(ast.iter_child_nodes(here))


def used(node: ast.stmt) -> set[str]:
    """Names that a statement may look up in its module: all that it loads but a function's own locals."""
    loads = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    if not isinstance(node, FunctionNode):
        return loads
    declared = {name for n in ast.walk(node) if isinstance(n, ast.Global) for name in n.names}
    a = node.args
    own = {arg.arg for arg in [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg] if arg}
    own |= {n.id for n in walk_scope(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    outside = [*node.decorator_list, *a.defaults, *(d for d in a.kw_defaults if d), *annotations(node)]
    own -= {n.id for part in outside for n in ast.walk(part) if isinstance(n, ast.Name)}
    return (loads - own) | declared


def annotations(node: FunctionNode) -> list[ast.expr]:
    a = node.args
    arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
    found = [arg.annotation for arg in arguments if arg and arg.annotation]
    return [*found, *([node.returns] if node.returns else [])]


def first_line(node: ast.stmt) -> int:
    """Return the first line of a statement, decorators included."""
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(d.lineno for d in decorators)])


def sharing_lines(body: list[ast.stmt]) -> set[ast.stmt]:
    """Statements that share a line with a neighbour (`x = 1; y = 2`)."""
    pairs = [(a, b) for a, b in pairwise(body) if first_line(b) <= (a.end_lineno or 0)]
    return {node for pair in pairs for node in pair}


def source_of(node: ast.stmt, lines: list[str], shared: set[ast.stmt]) -> str:
    """A statement's own lines as written; rewritten where it shares a line with another."""
    if node in shared:
        return ast.unparse(node)
    return "\n".join(lines[first_line(node) - 1 : node.end_lineno])
