"""Canonical text and fingerprint of Python code, equal for programs that differ only in bound names and
prose.

Names bound by the code itself (functions, arguments, locals, loop variables) are numbered scope by scope in
order of appearance; docstrings and annotations of signatures are dropped; module-level imports are sorted.
Constants, attributes, keywords, imported and free names stay, so equal fingerprints mean equal programs.
"""

import ast
import hashlib
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any

from stages.clean.code.scopes import (
    FUNCTION_NODES,
    IMPORT_NODES,
    FunctionDefinition,
    Method,
    argument_names,
    bound_names,
    imported_names,
    inner_functions,
)

ComprehensionExpression = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
CODE_WORD = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\$\d+|\w+""")
SKIPPED = ("ctx", "type_comment", "kind", "type_ignores")
MAX_TREE_DEPTH = (
    250  # levels of a tree: walking it takes a few of the interpreter's thousand frames per level
)


class TooDeepError(Exception):
    """A tree has more than `MAX_TREE_DEPTH` levels."""


def fingerprints(
    tree: ast.Module, walrus: bool = True, inner: bool = True
) -> tuple[str, list[tuple[str, str]]]:
    """Return a module's fingerprint (hex, 128 bits) and the name and canonical text of each function.

    Functions below the top level (methods, nested functions, functions in `if` and `try`) come last, with
    dotted names. A method is written as the function that it would be outside its class.

    Args:
        walrus: whether the source may hold `:=`; collecting names is several times faster if not.
        inner: whether there may be functions below the top level.

    Raises:
        TooDeepError: nested too deeply.
        ValueError: a number has too many decimal digits.
    """
    imports = sorted({import_text(node) for node in tree.body if isinstance(node, IMPORT_NODES)})
    body = without_docstring([node for node in tree.body if not isinstance(node, IMPORT_NODES)])
    functions = [
        (node.name, CanonicalWriter(walrus).module([node]))
        for node in body
        if isinstance(node, FUNCTION_NODES)
    ]
    if len(functions) == len(body) == 1:
        whole = functions[0][1]  # nothing else is bound, so the module reads the same
    else:
        whole = CanonicalWriter(walrus).module(
            body, {name for node in tree.body for name in imported_names(node)}
        )
    digest = digest_128("\n".join([*imports, whole])) if tree.body else ""
    if inner:
        for name, node, method in inner_functions(tree):
            functions.append((name, CanonicalWriter(walrus, method).module([node])))
    return digest, [*dict.fromkeys(functions)]


def digest_128(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def code_shingles(text: str) -> set[tuple[str, ...]]:
    """Return runs of three words (nodes, numbered names, constants) of canonical text; fewer are one run."""
    words = CODE_WORD.findall(text)
    return set(zip(words, words[1:], words[2:], strict=False)) or ({tuple(words)} if words else set())


class CanonicalWriter:
    """Writes a tree as text with bound names numbered, without changing the tree.

    A node's text holds its children's, so each character is copied once per level: `MAX_TREE_DEPTH` keeps
    that linear.
    """

    def __init__(self, walrus: bool = True, method: Method | None = None) -> None:
        """`method`: set when writing a method, with the names through which it reaches its class."""
        self.walrus = walrus
        self.method = method
        self.names: dict[str, str] = {}  # as seen from the innermost scope
        self.hidden: list[list[tuple[str, str | None]]] = []  # for each scope, its names' meanings outside
        self.bound = 0

    def module(self, body: list[ast.stmt], imports: Collection[str] = ()) -> str:
        """Write top-level statements other than imports; names in `imports` stay as they are."""
        self.push(name for name in bound_names(body, self.walrus) if name not in imports)
        return self.write_all(body, 0)

    def push(self, names: Iterable[str]) -> None:
        """Enter a scope that binds `names`."""
        scope = {}
        for name in names:
            if name not in scope:
                scope[name] = f"${self.bound}"
                self.bound += 1
        self.enter(scope)

    def enter(self, scope: dict[str, str]) -> None:
        self.hidden.append([(name, self.names.get(name)) for name in scope])
        self.names.update(scope)

    def pop(self) -> None:
        for name, outside in self.hidden.pop():
            if outside is None:
                del self.names[name]
            else:
                self.names[name] = outside

    def name(self, name: str) -> str:
        return self.names.get(name, name)

    def write(self, node: object, depth: int) -> str:
        """Write a node, or a plain value inside one; `depth` is the number of nodes around it."""
        writer = WRITERS.get(type(node))
        return writer(self, node, depth) if writer else repr(node)

    def write_all(self, nodes: Iterable[object], depth: int) -> str:
        parts = []
        for node in nodes:
            writer = WRITERS.get(type(node))
            parts.append(writer(self, node, depth) if writer else repr(node))
        return f"[{','.join(parts)}]"

    def write_any(self, node: ast.AST, depth: int) -> str:
        if depth > MAX_TREE_DEPTH:
            raise TooDeepError
        depth += 1
        head, fields = SHAPES[type(node)]
        parts = []
        for field in fields:
            value = getattr(node, field)
            writer = WRITERS.get(type(value))
            if writer:
                parts.append(writer(self, value, depth))
            elif type(value) is list:
                parts.append(self.write_all(value, depth) if value else "[]")
            else:
                parts.append(repr(value))
        return f"{head}({','.join(parts)})"

    def write_Name(self, node: ast.Name, depth: int) -> str:
        return self.names.get(node.id, node.id)

    def write_arg(self, node: ast.arg, depth: int) -> str:
        return self.names.get(node.arg, node.arg)

    def write_Constant(self, node: ast.Constant, depth: int) -> str:
        return f"Constant({node.value!r})"

    def write_Attribute(self, node: ast.Attribute, depth: int) -> str:
        if depth > MAX_TREE_DEPTH:
            raise TooDeepError
        if self.method and type(node.value) is ast.Name and node.value.id in self.method.receivers:
            return self.name(node.attr) if node.attr == self.method.name else node.attr
        return f"Attribute({WRITERS[type(node.value)](self, node.value, depth + 1)},{node.attr!r})"

    def write_ExceptHandler(self, node: ast.ExceptHandler, depth: int) -> str:
        name = node.name and self.name(node.name)
        parts = (self.write(node.type, depth + 1), repr(name), self.write_all(node.body, depth + 1))
        return f"ExceptHandler({','.join(parts)})"

    def write_Global(self, node: ast.Global | ast.Nonlocal, depth: int) -> str:
        return f"{type(node).__name__}({self.write_all(map(self.name, node.names), depth)})"

    write_Nonlocal = write_Global

    def write_MatchAs(self, node: ast.MatchAs, depth: int) -> str:
        return f"MatchAs({self.write(node.pattern, depth + 1)},{node.name and self.name(node.name)!r})"

    def write_MatchStar(self, node: ast.MatchStar, depth: int) -> str:
        return f"MatchStar({node.name and self.name(node.name)!r})"

    def write_MatchMapping(self, node: ast.MatchMapping, depth: int) -> str:
        keys, patterns = (self.write_all(nodes, depth + 1) for nodes in (node.keys, node.patterns))
        return f"MatchMapping({keys},{patterns},{node.rest and self.name(node.rest)!r})"

    def write_FunctionDef(self, node: FunctionDefinition, depth: int) -> str:
        if depth > MAX_TREE_DEPTH:
            raise TooDeepError
        depth += 1
        args = node.args
        defaults = self.write_all([*node.decorator_list, *args.defaults, *args.kw_defaults], depth)
        head = f"{type(node).__name__} {self.name(node.name)} {defaults}"
        self.push([*argument_names(args), *bound_names(node.body, self.walrus)])
        text = f"{head}({self.signature(args)}){self.write_all(without_docstring(node.body), depth)}"
        self.pop()
        return text

    write_AsyncFunctionDef = write_FunctionDef

    def write_Lambda(self, node: ast.Lambda, depth: int) -> str:
        if depth > MAX_TREE_DEPTH:
            raise TooDeepError
        depth += 1
        defaults = self.write_all([*node.args.defaults, *node.args.kw_defaults], depth)
        self.push(argument_names(node.args))
        text = f"lambda {defaults}({self.signature(node.args)}){self.write(node.body, depth)}"
        self.pop()
        return text

    def signature(self, args: ast.arguments) -> str:
        positional, plain, keyword = (
            self.write_all(part, 0) if part else "[]"
            for part in (args.posonlyargs, args.args, args.kwonlyargs)
        )
        return f"{positional}|{plain}|{self.write(args.vararg, 0)}|{keyword}|{self.write(args.kwarg, 0)}"

    def write_ClassDef(self, node: ast.ClassDef, depth: int) -> str:
        if depth > MAX_TREE_DEPTH:
            raise TooDeepError
        depth += 1
        outer = self.write_all([*node.decorator_list, *node.bases, *node.keywords], depth)
        head = f"class {self.name(node.name)} {outer}"
        # Reached as attributes, so they keep their names
        self.enter({name: name for name in bound_names(node.body, self.walrus)})
        text = head + self.write_all(without_docstring(node.body), depth)
        self.pop()
        return text

    def write_ListComp(self, node: ComprehensionExpression, depth: int) -> str:
        if depth > MAX_TREE_DEPTH:
            raise TooDeepError
        depth += 1
        generators = node.generators
        parts = [self.write(generators[0].iter, depth)]  # evaluated in the outer scope
        self.push(name for generator in generators for name in bound_names([generator.target], self.walrus))
        parts += [self.write(generator.iter, depth) for generator in generators[1:]]
        parts += [self.write_all([g.target, *g.ifs, g.is_async], depth) for g in generators]
        parts += [
            self.write(getattr(node, key), depth) for key in SHAPES[type(node)][1] if key != "generators"
        ]
        self.pop()
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


def node_writers() -> dict[type, Callable[[CanonicalWriter, Any, int], str]]:
    found: dict[type, Callable[[CanonicalWriter, Any, int], str]] = {}
    for kind in SHAPES:
        found[kind] = getattr(CanonicalWriter, f"write_{kind.__name__}", CanonicalWriter.write_any)
    return found


SHAPES: dict[type, tuple[str, tuple[str, ...]]] = {  # name of a node class, and the fields to write
    kind: (kind.__name__, tuple(field for field in kind._fields if field not in SKIPPED))
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}
WRITERS = node_writers()
