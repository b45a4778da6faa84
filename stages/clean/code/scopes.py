"""Which names Python statements bind in their own scope, and in which order; where the functions of a module are."""

import ast
import copy
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
IMPORTS = (ast.Import, ast.ImportFrom)
# Not entered when names are collected: scopes of their own, and nodes without children that bind.
SCOPES = {*FUNCTIONS, ast.ClassDef}
BLOCKS = ("cases", "finalbody", "orelse", "handlers", "body")  # of statements, the last of a node first
INSTANCES = ("self", "cls")
DECORATORS = ("staticmethod", "classmethod")
MAX_SCOPES = 5  # scopes around a function that is looked at: each writes it once more
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


class Method(NamedTuple):
    """A method, and the names through which it reaches its class."""

    name: str
    receivers: frozenset[str]


def inner_functions(tree: ast.Module) -> Iterator[tuple[str, Function, Method | None]]:
    """Functions that are no statement of the module, in at most `MAX_SCOPES` functions and classes.

    Yields:
        Dotted name, definition, and for a method how it reaches its class: its definition is that of a function, without
        the instance that it is called on.
    """
    statements = {id(node) for node in tree.body}
    waiting: list[tuple[Any, str, ast.ClassDef | None, int]] = [(n, "", None, 0) for n in tree.body[::-1]]
    while waiting:
        node, prefix, owner, scopes = waiting.pop()
        kind = type(node)
        if kind in SCOPES:
            name = f"{prefix}{node.name}"
            if kind is not ast.ClassDef and id(node) not in statements:
                yield (name, *as_function(node, owner)) if owner else (name, node, None)
            prefix, scopes = f"{name}.", scopes + 1
            owner = node if kind is ast.ClassDef else None
            if scopes > MAX_SCOPES:
                continue
        for block in BLOCKS:
            waiting += [(inner, prefix, owner, scopes) for inner in getattr(node, block, ())[::-1]]


def as_function(node: Function, owner: ast.ClassDef) -> tuple[Function, Method]:
    """A method of a class as a function, and how it reaches the class. The tree is left alone."""
    named = {d.id: d for d in node.decorator_list if isinstance(d, ast.Name) and d.id in DECORATORS}
    receivers = {owner.name}
    made, args = copy.copy(node), copy.copy(node.args)
    first = [*args.posonlyargs, *args.args][:1]
    if first and first[0].arg in INSTANCES and "staticmethod" not in named:
        receivers.add(first[0].arg)
        args.posonlyargs, args.args = args.posonlyargs[1:], args.args[not args.posonlyargs :]
    made.args, made.decorator_list = args, [d for d in node.decorator_list if d not in named.values()]
    return made, Method(node.name, frozenset(receivers))
