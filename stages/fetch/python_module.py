"""A Python module as text: what its top level binds, and which names a piece of it needs from outside.

Read by `ast` and `symtable` alone: no code of the module runs.
"""

import ast
import builtins
import symtable
from dataclasses import dataclass, field

BUILTINS = frozenset(name for name in dir(builtins) if not name.startswith("_"))
# Standard modules that a self-contained function may import. A fixed list, not sys.stdlib_module_names: the
# rows must not depend on the interpreter that fetches them.
STANDARD_NAMES = (
    "__future__ abc array base64 binascii bisect builtins calendar cmath codecs collections colorsys "
    "contextlib copy csv dataclasses datetime decimal difflib enum errno fractions functools hashlib heapq "
    "html inspect io itertools json keyword locale math numbers operator os pathlib pprint queue random re "
    "secrets shlex statistics string struct sys tempfile textwrap threading time timeit tokenize types "
    "typing unicodedata urllib uuid warnings weakref zlib"
)
STANDARD = frozenset(STANDARD_NAMES.split())


class Unfit(Exception):
    """A function that does not qualify; its text is the reason, one of a few fixed phrases that are counted."""


@dataclass
class Module:
    """Top level of a module: its lines, what binds each name, and its imports."""

    lines: list[str]
    tree: ast.Module
    bindings: dict[str, ast.stmt | None] = field(default_factory=dict)  # None: bound twice, or conditionally
    imports: dict[str, tuple[str, str, str]] = field(default_factory=dict)  # name: (module, attribute, alias)
    outside: set[str] = field(default_factory=set)  # names imported from outside the standard library
    postponed: bool = False  # from __future__ import annotations


def parse_module(source: str) -> Module:
    """Parse a module.

    Raises:
        SyntaxError, ValueError: it does not parse.
    """
    tree = ast.parse(source)
    module = Module(source.split("\n"), tree)
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            add_imports(module, statement)
        elif is_type_checking(statement):
            for inner in statement.body:  # type: ignore[attr-defined]
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    add_imports(module, inner)
        else:
            add_bindings(module, statement)
    return module


def is_type_checking(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING")


def add_imports(module: Module, statement: ast.Import | ast.ImportFrom) -> None:
    for alias in statement.names:
        bound = alias.asname or alias.name.split(".")[0]
        if isinstance(statement, ast.ImportFrom):
            if statement.module == "__future__":
                module.postponed |= alias.name == "annotations"
                continue
            origin = (statement.module or "", alias.name, alias.asname or "")
        else:
            origin = (alias.name, "", alias.asname or "")
        if standard(statement, origin[0]):
            module.imports[bound] = origin
        else:
            module.outside.add(bound)


def standard(statement: ast.Import | ast.ImportFrom, name: str) -> bool:
    relative = isinstance(statement, ast.ImportFrom) and statement.level > 0
    return not relative and name.split(".")[0] in STANDARD


def add_bindings(module: Module, statement: ast.stmt) -> None:
    """Record what a statement binds: a function, a class or one plain assignment; anything else as unclear."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        if not is_overload(statement):
            bind(module, statement.name, statement)
    elif isinstance(statement, ast.Assign) and len(statement.targets) == 1 and is_name(statement.targets[0]):
        bind(module, statement.targets[0].id, statement)  # type: ignore[attr-defined]
    elif isinstance(statement, ast.AnnAssign) and is_name(statement.target) and statement.value:
        bind(module, statement.target.id, statement)  # type: ignore[union-attr]
    else:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                module.bindings[node.id] = None
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                module.bindings[node.name] = None
            elif isinstance(node, ast.alias):
                module.bindings[node.asname or node.name.split(".")[0]] = None


def is_overload(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    return any(ast.unparse(decorator).split(".")[-1] == "overload" for decorator in node.decorator_list)


def is_name(node: ast.expr) -> bool:
    return isinstance(node, ast.Name)


def bind(module: Module, name: str, statement: ast.stmt) -> None:
    module.bindings[name] = None if name in module.bindings else statement


def segment(module: Module, statement: ast.stmt) -> str:
    """Return a top-level statement's source with its decorators, but for those from outside the standard library.

    They register or dispatch what is here without its package; without them a function is what its body says.
    """
    first, taken = statement.lineno, []
    for decorator in getattr(statement, "decorator_list", []):
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if ast.unparse(called).split(".")[0] not in module.outside:
            taken += module.lines[decorator.lineno - 1 : decorator.end_lineno]
    return "\n".join(taken + module.lines[first - 1 : statement.end_lineno]) + "\n"


def free_names(source: str) -> set[str]:
    """Names that a piece of code takes from the module around it, builtins left out.

    Raises:
        Unfit: it assigns to a global name.
    """
    free: set[str] = set()
    top = symtable.symtable(source, "<piece>", "exec")
    for symbol in top.get_symbols():
        if symbol.is_referenced():
            free.add(symbol.get_name())
    stack = list(top.get_children())
    while stack:
        table = stack.pop()
        stack += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_declared_global() and symbol.is_assigned():
                raise Unfit("assigns to a global name")
            if symbol.is_global() and symbol.is_referenced():
                free.add(symbol.get_name())
    return free - BUILTINS
