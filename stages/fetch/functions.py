"""Training rows out of Python files: self-contained functions with a docstring, in the shape of HumanEval.

The prompt is imports, helpers, `def` line and docstring; the completion is the body. Only text is read
(`ast`, `symtable`): nothing of a package is imported or executed.
"""

import ast
import builtins
import re
import symtable
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from stages.fetch.function_split import (
    PythonFunction,
    Unfit,
    split_function,
)

MAX_HELPER_LINES = 80
DOCSTRING_WORD = re.compile(r"[A-Za-z]{2,}")
TEST_FILE = re.compile(r"(^|/)(tests?|testing)/|(^|/)(test_[^/]*|[^/]*_test|conftest)\.py$")
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
NEEDS_PACKAGE = "needs a package outside the standard library"
Import = ast.Import | ast.ImportFrom


@dataclass(frozen=True)
class FunctionRow:
    """A function as a training row; `line` is where it stands in the file."""

    name: str
    line: int
    prompt: str
    completion: str
    helpers: int


class Module:
    """Top level of a module: its lines, what binds each name, and its imports.

    Raises:
        SyntaxError, ValueError: it does not parse.
    """

    def __init__(self, source: str) -> None:
        self.lines, self.tree = source.split("\n"), ast.parse(source)
        self.bindings: dict[str, ast.stmt | None] = {}  # None: bound twice, or conditionally
        self.imports: dict[str, tuple[str, str, str]] = {}  # by name: module, attribute, alias
        self.outside: set[str] = set()  # names imported from outside the standard library
        self.postponed = False  # from __future__ import annotations
        for statement in self.tree.body:
            if isinstance(statement, Import):
                self.add_imports(statement)
            elif isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING"):
                for inner in statement.body:
                    if isinstance(inner, Import):
                        self.add_imports(inner)
            elif not is_overload(statement):
                self.add_bindings(statement)

    def add_imports(self, statement: Import) -> None:
        for alias, origin in zip(statement.names, imported_modules(statement), strict=True):
            bound = alias.asname or alias.name.split(".")[0]
            attribute = alias.name if isinstance(statement, ast.ImportFrom) else ""
            if origin == "__future__":
                self.postponed |= attribute == "annotations"
            elif is_standard(origin):
                self.imports[bound] = (origin, attribute, alias.asname or "")
            else:
                self.outside.add(bound)

    def add_bindings(self, statement: ast.stmt) -> None:
        """Note what a statement binds: a function, a class or one plain assignment; anything else as unclear."""
        targets: list[ast.expr] = []
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign) and statement.value:
            targets = [statement.target]
        if isinstance(statement, PythonFunction | ast.ClassDef):
            name = statement.name
        elif len(targets) == 1 and isinstance(targets[0], ast.Name):
            name = targets[0].id
        else:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    self.bindings[node.id] = None
                elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                    self.bindings[node.name] = None
                elif isinstance(node, ast.alias):
                    self.bindings[node.asname or node.name.split(".")[0]] = None
            return
        self.bindings[name] = None if name in self.bindings else statement

    def segment(self, statement: ast.stmt) -> str:
        """Return a statement's source with its decorators, but for those from outside the standard library.

        They register or dispatch what is here without its package; without them a function is what its body says.
        """
        taken: list[str] = []
        for decorator in getattr(statement, "decorator_list", []):
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if ast.unparse(called).split(".")[0] not in self.outside:
                taken += self.lines[decorator.lineno - 1 : decorator.end_lineno]
        return "\n".join([*taken, *self.lines[statement.lineno - 1 : statement.end_lineno]]) + "\n"

    def free_names(self, statement: ast.stmt) -> set[str]:
        """Return the names that a statement takes from the module around it, without builtins.

        Raises:
            Unfit: it imports from outside the standard library, or assigns to a global name.
        """
        imports = [node for node in ast.walk(statement) if isinstance(node, Import)]
        if not all(is_standard(name) for node in imports for name in imported_modules(node)):
            raise Unfit(NEEDS_PACKAGE)
        top = symtable.symtable(self.segment(statement), "<piece>", "exec")
        free = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
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

    def closure(self, node: PythonFunction) -> tuple[str, list[str]]:
        """Return the imports that a function needs, and the helpers that it needs, transitively, in file order.

        Raises:
            Unfit: a name is neither import nor helper, or the helpers are too long.
        """
        imported: set[str] = set()
        helpers: dict[str, ast.stmt] = {}
        stack = sorted(self.free_names(node))
        while stack:
            name = stack.pop()
            if name in imported or name in helpers or name == node.name:
                continue
            if name in self.outside:
                raise Unfit(NEEDS_PACKAGE)
            if statement := self.bindings.get(name):
                helpers[name] = statement
                stack += sorted(self.free_names(statement))
            elif name in self.bindings:
                raise Unfit("needs a name that is bound conditionally or twice")
            elif name in self.imports:
                imported.add(name)
            else:
                raise Unfit("needs a name that its module does not define")
        texts = [self.segment(one) for one in sorted(helpers.values(), key=lambda helper: helper.lineno)]
        if sum(text.count("\n") for text in texts) > MAX_HELPER_LINES:
            raise Unfit(f"needs more than {MAX_HELPER_LINES} lines of helpers")
        has_class = any(isinstance(helper, ast.ClassDef) for helper in helpers.values())
        return self.import_lines(imported, has_class), texts

    def import_lines(self, names: set[str], has_class: bool) -> str:
        """Return imports of names, one a module, sorted; postponed annotations where a class may name itself."""
        lines = ["from __future__ import annotations"] if self.postponed and has_class else []
        grouped: dict[str, list[str]] = {}
        for name in sorted(names):
            origin, attribute, alias = self.imports[name]
            suffix = f" as {alias}" if alias and alias != attribute else ""
            if attribute:
                grouped.setdefault(origin, []).append(attribute + suffix)
            else:
                lines.append(f"import {origin}{suffix}")
        lines += [
            f"from {origin} import {', '.join(sorted(what))}" for origin, what in sorted(grouped.items())
        ]
        return "".join(f"{line}\n" for line in lines)


def imported_modules(statement: Import) -> list[str]:
    """Return the module that each name of an import is from; a relative one is ""."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    return ["" if statement.level else statement.module or ""] * len(statement.names)


def is_standard(module: str) -> bool:
    return module.split(".")[0] in STANDARD


def is_overload(node: ast.stmt) -> bool:
    decorators = getattr(node, "decorator_list", [])
    return any(ast.unparse(decorator).split(".")[-1] == "overload" for decorator in decorators)


def functions_of(path: str, source: str, reasons: Counter[str]) -> Iterator[FunctionRow]:
    """Yield the functions of a file that qualify, in order; `reasons` counts those that do not, and `taken`.

    Raises:
        SyntaxError, ValueError: the file does not parse.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes of other people's strings
        module = Module(source)
        for node in module.tree.body:
            if not isinstance(node, PythonFunction):
                continue
            try:
                row = function_row(module, node, path)
            except Unfit as reason:
                reasons[str(reason)] += 1
            else:
                reasons["taken"] += 1
                yield row


def function_row(module: Module, node: PythonFunction, path: str) -> FunctionRow:
    """Return the row of a top-level function.

    Raises:
        Unfit: it does not qualify.
    """
    arguments = node.args
    words = (ast.get_docstring(node, clean=True) or "").split(">>>")[0]
    for is_unfit, reason in (
        (TEST_FILE.search(path), "stands in a test file"),
        (isinstance(node, ast.AsyncFunctionDef), "is async"),
        (node.name.startswith("__"), "has a name of the interpreter (__x__)"),
        (is_overload(node), "is a type checker's overload"),
        (module.bindings.get(node.name) is not node, "is defined twice"),
        (node.name.startswith("_") and node.name.strip("_") in module.bindings, "is the private double of a public function"),
        (not any(vars(arguments)[kind] for kind in ("posonlyargs", "args", "vararg", "kwonlyargs", "kwarg")), "has no arguments"),
        (len(DOCSTRING_WORD.findall(words)) < 3, "has no docstring in words"),
        (not gives_result(node), "returns and yields nothing"),
    ):  # fmt: skip
        if is_unfit:
            raise Unfit(reason)
    imports, helpers = module.closure(node)
    head, body = split_function(module.segment(node))
    prompt = "\n\n".join([*(text for text in (imports, *helpers) if text), head])
    try:
        rebuilt = ast.parse(prompt + body).body[-1]
    except SyntaxError:
        rebuilt = ast.Pass()
    if [ast.dump(part) for part in getattr(rebuilt, "body", [])] != [ast.dump(part) for part in node.body]:
        raise Unfit("does not parse on its own")
    return FunctionRow(node.name, node.lineno, prompt, body, len(helpers))


def gives_result(node: PythonFunction) -> bool:
    """Return whether the function itself, not one inside it, returns a value or yields."""
    stack: list[ast.AST] = list(node.body)
    while stack:
        item = stack.pop()
        if isinstance(item, PythonFunction | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(item, ast.Yield | ast.YieldFrom) or (isinstance(item, ast.Return) and item.value):
            return True
        stack += ast.iter_child_nodes(item)
    return False
