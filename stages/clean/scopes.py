"""Which names Python statements bind in their own scope, and in which order."""

import ast
from collections.abc import Iterable, Iterator
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
IMPORTS = (ast.Import, ast.ImportFrom)
# Not entered when names are collected: scopes of their own, and nodes without children that bind.
LEAVES = {*FUNCTIONS, ast.Lambda, ast.ClassDef, ast.Name, ast.Constant}
NAMED = {*FUNCTIONS, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar}
COMPREHENSIONS = {ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp}

# Where code without `:=` binds names, in source order. Nothing else has to be looked at, which is most of the tree.
BINDING_FIELDS: dict[type, tuple[str, ...]] = {
    ast.Assign: ("targets",),
    ast.AugAssign: ("target",),
    ast.AnnAssign: ("target",),
    ast.Delete: ("targets",),
    ast.For: ("target", "body", "orelse"),
    ast.AsyncFor: ("target", "body", "orelse"),
    ast.While: ("body", "orelse"),
    ast.If: ("body", "orelse"),
    ast.With: ("items", "body"),
    ast.AsyncWith: ("items", "body"),
    ast.withitem: ("optional_vars",),
    ast.Try: ("body", "handlers", "orelse", "finalbody"),
    ast.TryStar: ("body", "handlers", "orelse", "finalbody"),
    ast.ExceptHandler: ("body",),
    ast.Match: ("cases",),
    ast.match_case: ("pattern", "body"),
    ast.MatchSequence: ("patterns",),
    ast.MatchMapping: ("patterns",),
    ast.MatchClass: ("patterns", "kwd_patterns"),
    ast.MatchAs: ("pattern",),
    ast.MatchOr: ("patterns",),
    ast.Tuple: ("elts",),
    ast.List: ("elts",),
    ast.Starred: ("value",),
}


def arguments(args: ast.arguments) -> list[str]:
    """Argument names in the order of the signature."""
    plain = [*args.posonlyargs, *args.args, *([args.vararg] if args.vararg else [])]
    return [arg.arg for arg in [*plain, *args.kwonlyargs, *([args.kwarg] if args.kwarg else [])]]


def imported(node: ast.AST) -> list[str]:
    """Names that an import statement binds."""
    if isinstance(node, IMPORTS):
        return [alias.asname or alias.name.split(".")[0] for alias in node.names]
    return []


def binds(nodes: Iterable[ast.AST], walrus: bool = True) -> list[str]:
    """Names that statements bind in their own scope, in order; not imports, not what is declared global.

    Args:
        walrus: whether `:=` may stand in them.
    """
    outside: set[str] = set()
    found: dict[str, None] = {}
    for node in own_nodes(nodes, walrus):
        kind = type(node)
        if kind is ast.Name:
            if type(node.ctx) is not ast.Load:
                found[node.id] = None
        elif kind in NAMED:
            if node.name:
                found[node.name] = None
        elif kind is ast.MatchMapping:
            if node.rest:
                found[node.rest] = None
        elif kind is ast.Global or kind is ast.Nonlocal:
            outside.update(node.names)
        elif kind is ast.Import or kind is ast.ImportFrom:
            outside.update(imported(node))
    return [name for name in found if name not in outside] if outside else [*found]


def own_nodes(nodes: Iterable[ast.AST], walrus: bool) -> Iterator[Any]:
    """Nodes in source order that can bind in the scope of `nodes`: nested scopes are named, not entered."""
    waiting = [*nodes][::-1]
    while waiting:
        node = waiting.pop()
        kind = type(node)
        if not walrus:
            yield node
            for field in BINDING_FIELDS.get(kind, ())[::-1]:
                value = getattr(node, field)
                if type(value) is list:
                    waiting += value[::-1]
                elif value is not None:
                    waiting.append(value)
        elif kind in COMPREHENSIONS:  # only `:=` reaches out of a comprehension
            waiting += [inner.target for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr)][::-1]
        else:
            yield node
            if kind not in LEAVES:
                waiting += [*ast.iter_child_nodes(node)][::-1]
