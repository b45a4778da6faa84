"""Find the names that imports bind, and functions below a module's top level."""

import ast
import copy
from collections.abc import Iterator
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


def imported_names(node: ast.AST) -> list[str]:
    """Return the names that an import statement binds."""
    if isinstance(node, IMPORT_NODES):
        return [alias.asname or alias.name.split(".")[0] for alias in node.names]
    return []


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
