"""Canonical text and fingerprint of Python code, equal for programs that differ only in bound names and
prose.

Names bound by the code itself (functions, arguments, locals, loop variables) are numbered scope by scope in
order of appearance; docstrings and annotations of signatures are dropped; module-level imports are sorted.
Constants, attributes, keywords, imported and free names stay, so equal fingerprints mean equal programs.
"""

import ast
import hashlib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from stages.clean.code.scopes import (
    FUNCTION_NODES,
    IMPORT_NODES,
    FunctionDefinition,
    Method,
    imported_names,
    inner_functions,
)

ComprehensionExpression = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
CODE_WORD = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\$\d+|\w+""")
MARKED_NAME = re.compile(
    r"\0(\d+) ([^\0]+)\0"
)  # no constant holds a null byte: they are written as by `repr`
SKIPPED = ("ctx", "type_comment", "kind", "type_ignores")
MAX_TREE_DEPTH = (
    250  # levels of a tree: walking it takes a few of the interpreter's thousand frames per level
)


class TooDeepError(Exception):
    """A tree has more than `MAX_TREE_DEPTH` levels."""


def fingerprints(tree: ast.Module, inner: bool = True) -> tuple[str, list[tuple[str, str]]]:
    """Return a module's fingerprint (hex, 128 bits) and the name and canonical text of each function.

    Functions below the top level (methods, nested functions, functions in `if` and `try`) come last, with
    dotted names. A method is written as the function that it would be outside its class.

    Args:
        inner: whether there may be functions below the top level.

    Raises:
        TooDeepError: nested too deeply.
        ValueError: a number has too many decimal digits.
    """
    imports = sorted({import_text(node) for node in tree.body if isinstance(node, IMPORT_NODES)})
    body = without_docstring([node for node in tree.body if not isinstance(node, IMPORT_NODES)])
    functions = [
        (node.name, CanonicalWriter().module([node])) for node in body if isinstance(node, FUNCTION_NODES)
    ]
    if len(functions) == len(body) == 1:
        whole = functions[0][1]  # nothing else is bound, so the module reads the same
    else:
        whole = CanonicalWriter().module(body, {name for node in tree.body for name in imported_names(node)})
    digest = digest_128("\n".join([*imports, whole])) if tree.body else ""
    for name, node, method in inner_functions(tree) if inner else ():
        functions.append((name, CanonicalWriter(method).module([node])))
    return digest, [*dict.fromkeys(functions)]


def digest_128(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def code_shingles(text: str) -> set[tuple[str, ...]]:
    """Return runs of three words (nodes, numbered names, constants) of canonical text; fewer are one run."""
    words = CODE_WORD.findall(text)
    return set(zip(words, words[1:], words[2:], strict=False)) or ({tuple(words)} if words else set())


@dataclass
class Scope:
    """Names that statements bind; each is numbered once all of the text is written."""

    parent: int  # index of the scope around it, -1 for the module
    kind: str  # module or function | class, whose names are reached as attributes, and stay | comprehension
    bound: dict[str, str] = field(default_factory=dict)  # name -> what stands for it
    outside: set[str] = field(default_factory=set)  # imported, global and nonlocal names


class CanonicalWriter:
    """Writes a tree as text with bound names numbered, without changing the tree.

    A node's text holds its children's, so each character is copied once per level: `MAX_TREE_DEPTH` keeps
    that linear.
    """

    def __init__(self, method: Method | None = None) -> None:
        """`method`: set when writing a method, with the names through which it reaches its class."""
        self.method = method
        self.scopes: list[Scope] = []
        self.place = -1  # index of the innermost scope

    def module(self, body: list[ast.stmt], imports: Collection[str] = ()) -> str:
        """Write top-level statements other than imports; names in `imports` stay as they are."""
        self.enter("module", 0)
        self.scopes[0].outside.update(imports)
        text = self.write(body, 0)
        numbers = count()
        for scope in self.scopes:
            names = [name for name in scope.bound if name not in scope.outside]
            scope.bound = {name: name if scope.kind == "class" else f"${next(numbers)}" for name in names}
        return MARKED_NAME.sub(self.resolved, text)

    def resolved(self, marked: re.Match[str]) -> str:
        place, name = int(marked[1]), marked[2]
        while place >= 0:
            scope = self.scopes[place]
            if name in scope.bound:
                return scope.bound[name]
            place = scope.parent
        return name

    def enter(self, kind: str, depth: int) -> None:
        if depth > MAX_TREE_DEPTH:
            raise TooDeepError
        self.scopes.append(Scope(self.place, kind))
        self.place = len(self.scopes) - 1

    def leave(self) -> None:
        self.place = self.scopes[self.place].parent

    def name(self, name: str) -> str:
        """Mark a name with the scope in which it is looked up."""
        return f"\0{self.place} {name}\0"

    def bind(self, name: str) -> str:
        self.scopes[self.place].bound[name] = name
        return self.name(name)

    def write(self, node: object, depth: int) -> str:
        """Write a node, a list, or a plain value; `depth` is the number of nodes around it.

        Raises:
            TooDeepError: more than MAX_TREE_DEPTH.
        """
        writer = WRITERS.get(type(node))
        return writer(self, node, depth) if writer else repr(node)

    def write_list(self, nodes: list[Any], depth: int) -> str:
        parts = []
        for node in nodes:
            writer = WRITERS.get(type(node))
            parts.append(writer(self, node, depth) if writer else repr(node))
        return f"[{','.join(parts)}]"

    # Writers of a kind of node

    def write_any(self, node: ast.AST, depth: int) -> str:
        if depth > MAX_TREE_DEPTH:
            raise TooDeepError
        depth += 1
        head, names = SHAPES[type(node)]
        parts = []
        for name in names:
            value = getattr(node, name)
            writer = WRITERS.get(type(value))
            parts.append(writer(self, value, depth) if writer else repr(value))
        return f"{head}({','.join(parts)})"

    def write_named(self, node: ast.AST, depth: int) -> str:
        """Write a node with a field that holds a bound name as text."""
        head, names = SHAPES[type(node)]
        held = "rest" if "rest" in names else "name"
        bound = getattr(node, held)
        marked = f"'{self.bind(bound)}'" if bound else "None"
        parts = [marked if name == held else self.write(getattr(node, name), depth + 1) for name in names]
        return f"{head}({','.join(parts)})"

    write_ExceptHandler = write_MatchAs = write_MatchStar = write_MatchMapping = write_named

    def write_Global(self, node: ast.Global | ast.Nonlocal, depth: int) -> str:
        self.scopes[self.place].outside.update(node.names)
        names = ",".join([f"'{self.name(name)}'" for name in node.names])
        return f"{type(node).__name__}([{names}])"

    write_Nonlocal = write_Global

    def write_Import(self, node: ast.Import | ast.ImportFrom, depth: int) -> str:
        self.scopes[self.place].outside.update(imported_names(node))
        return self.write_any(node, depth)

    write_ImportFrom = write_Import

    def write_Name(self, node: ast.Name, depth: int) -> str:
        return self.name(node.id) if type(node.ctx) is ast.Load else self.bind(node.id)

    def write_NamedExpr(self, node: ast.NamedExpr, depth: int) -> str:
        inside = self.place
        while self.scopes[self.place].kind == "comprehension":
            self.leave()
        self.bind(node.target.id)
        self.place = inside
        return f"NamedExpr({self.name(node.target.id)},{self.write(node.value, depth + 1)})"

    def write_arg(self, node: ast.arg, depth: int) -> str:
        return self.bind(node.arg)

    def write_Attribute(self, node: ast.Attribute, depth: int) -> str:
        if self.method and type(node.value) is ast.Name and node.value.id in self.method.receivers:
            return self.name(node.attr) if node.attr == self.method.name else node.attr
        return self.write_any(node, depth)

    def write_FunctionDef(self, node: FunctionDefinition, depth: int) -> str:
        args = node.args
        name = self.bind(node.name)
        defaults = self.write([*node.decorator_list, *args.defaults, *args.kw_defaults], depth + 1)
        self.enter("function", depth)
        body = f"({self.signature(args)}){self.write(without_docstring(node.body), depth + 1)}"
        self.leave()
        return f"{type(node).__name__} {name} {defaults}{body}"

    write_AsyncFunctionDef = write_FunctionDef

    def write_Lambda(self, node: ast.Lambda, depth: int) -> str:
        defaults = self.write([*node.args.defaults, *node.args.kw_defaults], depth + 1)
        self.enter("function", depth)
        text = f"lambda {defaults}({self.signature(node.args)}){self.write(node.body, depth + 1)}"
        self.leave()
        return text

    def signature(self, args: ast.arguments) -> str:
        parts = (args.posonlyargs, args.args, args.vararg, args.kwonlyargs, args.kwarg)
        return "|".join([self.write(part, 0) for part in parts])

    def write_ClassDef(self, node: ast.ClassDef, depth: int) -> str:
        head = f"class {self.bind(node.name)} "
        head += self.write([*node.decorator_list, *node.bases, *node.keywords], depth + 1)
        self.enter("class", depth)
        text = head + self.write(without_docstring(node.body), depth + 1)
        self.leave()
        return text

    def write_ListComp(self, node: ComprehensionExpression, depth: int) -> str:
        first, *others = node.generators
        depth += 1
        parts = [self.write(first.iter, depth)]  # evaluated in the outer scope
        self.enter("comprehension", depth)
        parts += [self.write(part.iter, depth) for part in others]
        parts += [self.write([part.target, *part.ifs, part.is_async], depth) for part in node.generators]
        results = [name for name in SHAPES[type(node)][1] if name != "generators"]
        parts += [self.write(getattr(node, name), depth) for name in results]
        self.leave()
        return f"{type(node).__name__}({','.join(parts)})"

    write_SetComp = write_DictComp = write_GeneratorExp = write_ListComp


def without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    """Return the statements that are not just a string."""
    return [
        node
        for node in body
        if not (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        )
    ]


def import_text(node: ast.Import | ast.ImportFrom) -> str:
    """Return text that is equal for equal imports only."""
    origin = f"{'.' * node.level}{node.module or ''}" if isinstance(node, ast.ImportFrom) else None
    return repr((origin, [(alias.name, alias.asname) for alias in node.names]))


SHAPES: dict[type, tuple[str, tuple[str, ...]]] = {  # name of a node class, and the fields to write
    kind: (kind.__name__, tuple(field for field in kind._fields if field not in SKIPPED))
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}
WRITERS: dict[type, Callable[[CanonicalWriter, Any, int], str]] = {
    kind: getattr(CanonicalWriter, f"write_{kind.__name__}", CanonicalWriter.write_any) for kind in SHAPES
} | {list: CanonicalWriter.write_list}
