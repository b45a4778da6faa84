"""Find the names that Python statements bind in their scope, and functions below a module's top level."""

import ast
import copy
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

FunctionDefinition = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTION_NODES = (ast.FunctionDef, ast.AsyncFunctionDef)
IMPORT_NODES = (ast.Import, ast.ImportFrom)
# Scopes of their own
SCOPES = {*FUNCTION_NODES, ast.ClassDef}
# Fields that hold statements, the last of a node first
BLOCKS = ("cases", "finalbody", "orelse", "handlers", "body")
INSTANCES = ("self", "cls")
DECORATORS = ("staticmethod", "classmethod")
MAX_SCOPES = 5  # scopes around a function to read: each of them writes it once more
# Not entered when names are collected: scopes of their own, and nodes without children that bind
LEAVES = {*FUNCTION_NODES, ast.Lambda, ast.ClassDef, ast.Name, ast.Constant}
NAMED = {*FUNCTION_NODES, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar}
COMPREHENSIONS = {ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp}

# Where code without `:=` binds names, in source order. The rest, most of the tree, need not be visited.
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


def argument_names(args: ast.arguments) -> list[str]:
    """Return argument names in signature order."""
    plain = [*args.posonlyargs, *args.args, *([args.vararg] if args.vararg else [])]
    return [arg.arg for arg in [*plain, *args.kwonlyargs, *([args.kwarg] if args.kwarg else [])]]


def imported_names(node: ast.AST) -> list[str]:
    """Return the names that an import statement binds."""
    if isinstance(node, IMPORT_NODES):
        return [alias.asname or alias.name.split(".")[0] for alias in node.names]
    return []


def bound_names(nodes: Iterable[ast.AST], walrus: bool = True) -> list[str]:
    """Return the names that statements bind in their own scope, in order, without imports and globals.

    Args:
        walrus: whether the statements may hold `:=`.
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
            outside.update(imported_names(node))
    return [name for name in found if name not in outside] if outside else [*found]


def own_nodes(nodes: Iterable[ast.AST], walrus: bool) -> Iterator[Any]:
    """Yield nodes that can bind in the scope of `nodes`, in source order; nested scopes are not entered."""
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
        elif kind in COMPREHENSIONS:  # only `:=` binds outside a comprehension
            waiting += [inner.target for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr)][::-1]
        else:
            yield node
            if kind not in LEAVES:
                waiting += [*ast.iter_child_nodes(node)][::-1]


class Method(NamedTuple):
    """A method and the names through which it reaches its class."""

    name: str
    receivers: frozenset[str]


def inner_functions(tree: ast.Module) -> Iterator[tuple[str, FunctionDefinition, Method | None]]:
    """Find functions below the module's top level, inside at most `MAX_SCOPES` functions and classes.

    Yields:
        Dotted name, definition, and for a method how it reaches its class. A method's definition is that of a
        function, without the instance argument.
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


def as_function(node: FunctionDefinition, owner: ast.ClassDef) -> tuple[FunctionDefinition, Method]:
    """Return a method as a function, and how it reaches its class, without changing the tree."""
    named = {d.id: d for d in node.decorator_list if isinstance(d, ast.Name) and d.id in DECORATORS}
    receivers = {owner.name}
    made, args = copy.copy(node), copy.copy(node.args)
    first = [*args.posonlyargs, *args.args][:1]
    if first and first[0].arg in INSTANCES and "staticmethod" not in named:
        receivers.add(first[0].arg)
        args.posonlyargs, args.args = args.posonlyargs[1:], args.args[not args.posonlyargs :]
    made.args, made.decorator_list = args, [d for d in node.decorator_list if d not in named.values()]
    return made, Method(node.name, frozenset(receivers))
