"""Training rows out of Python files: self-contained functions with a docstring, in the shape of HumanEval.

The prompt is imports, helpers, `def` line and docstring; the completion is the body. Only text is read
(`ast`, `symtable`): nothing of a package is imported or executed.
"""

import ast
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stages.fetch.python_module import Module, Unfit, free_names, is_overload, parse_module, segment, standard

MAX_BODY_LINES = 60
MAX_HELPER_LINES = 80
DOCSTRING_WORD = re.compile(r"[A-Za-z]{2,}")
TEST_FILE = re.compile(r"(^|/)(tests?|testing)/|(^|/)(test_[^/]*|[^/]*_test|conftest)\.py$")
PythonFunction = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class FunctionRow:
    """A function as a training row; `line` is where it stands in the file."""

    name: str
    line: int
    prompt: str
    completion: str
    helpers: int


def functions_of(path: str, source: str, reasons: Counter[str]) -> Iterator[FunctionRow]:
    """Yield the functions of a file that qualify, in order; `reasons` counts those that do not, and `taken`.

    Raises:
        SyntaxError, ValueError: the file does not parse.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes of other people's strings
        module = parse_module(source)
        for node in module.tree.body:
            if isinstance(node, PythonFunction) and TEST_FILE.search(path):
                reasons["stands in a test file"] += 1
            elif isinstance(node, PythonFunction):
                yield from one_function(module, node, reasons)


def one_function(module: Module, node: PythonFunction, reasons: Counter[str]) -> Iterator[FunctionRow]:
    try:
        row = function_row(module, node)
    except Unfit as reason:
        reasons[str(reason)] += 1
    else:
        reasons["taken"] += 1
        yield row


def function_row(module: Module, node: PythonFunction) -> FunctionRow:
    """The row of one top-level function.

    Raises:
        Unfit: it does not qualify.
    """
    require_shape(module, node)
    names = require_own_names(module, node)
    imports, helpers = closure(module, names, node)
    prompt, completion = split_function(segment(module, node))
    parts = [text for text in (imports, *helpers) if text]
    row = FunctionRow(node.name, node.lineno, "\n\n".join([*parts, prompt]), completion, len(helpers))
    require_rebuilds(row, node)
    return row


def require_shape(module: Module, node: PythonFunction) -> None:
    """What a function must be by itself: a name, arguments, a docstring in words, a result.

    Raises:
        Unfit: it is not.
    """
    if isinstance(node, ast.AsyncFunctionDef):
        raise Unfit("is async")
    if node.name.startswith("__"):
        raise Unfit("has a name of the interpreter (__x__)")
    if is_overload(node):
        raise Unfit("is a type checker's overload")
    if module.bindings.get(node.name) is not node:
        raise Unfit("is defined twice")
    if node.name.startswith("_") and node.name.strip("_") in module.bindings:
        raise Unfit("is the private double of a public function")
    a = node.args
    if not (a.posonlyargs or a.args or a.vararg or a.kwonlyargs or a.kwarg):
        raise Unfit("has no arguments")
    words = (ast.get_docstring(node, clean=True) or "").split(">>>")[0]
    if len(DOCSTRING_WORD.findall(words)) < 3:
        raise Unfit("has no docstring in words")
    if not gives_result(node):
        raise Unfit("returns and yields nothing")


def gives_result(node: PythonFunction) -> bool:
    """Whether the function itself, not one inside it, returns a value or yields."""
    stack: list[ast.AST] = list(node.body)
    while stack:
        item = stack.pop()
        if isinstance(item, PythonFunction | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(item, ast.Yield | ast.YieldFrom) or (isinstance(item, ast.Return) and item.value):
            return True
        stack += ast.iter_child_nodes(item)
    return False


def require_own_names(module: Module, node: ast.stmt) -> set[str]:
    """Free names of a statement.

    Raises:
        Unfit: it imports from outside the standard library, or assigns to a global name.
    """
    for inner in ast.walk(node):
        if isinstance(inner, ast.Import):
            names = [alias.name for alias in inner.names]
        elif isinstance(inner, ast.ImportFrom):
            names = [inner.module or ""]
        else:
            continue
        if not all(standard(inner, name) for name in names):
            raise Unfit("needs a package outside the standard library")
    return free_names(segment(module, node))


def closure(module: Module, names: set[str], node: PythonFunction) -> tuple[str, list[str]]:
    """The imports that names need, as text, and the helpers of the module they need, transitively, in file order.

    Raises:
        Unfit: a name is neither import nor helper, or the helpers are too long.
    """
    imported: set[str] = set()
    helpers: dict[str, ast.stmt] = {}
    stack = sorted(names - {node.name})
    while stack:
        name = stack.pop()
        if name in imported or name in helpers or name == node.name:
            continue
        if name in module.outside:
            raise Unfit("needs a package outside the standard library")
        statement = module.bindings.get(name)
        if statement is not None:
            helpers[name] = statement
            stack += sorted(require_own_names(module, statement))
        elif name in module.imports and name not in module.bindings:
            imported.add(name)
        elif name in module.bindings:
            raise Unfit("needs a name that is bound conditionally or twice")
        else:
            raise Unfit("needs a name that its module does not define")
    texts = [segment(module, helper) for helper in sorted(helpers.values(), key=lambda helper: helper.lineno)]
    if sum(text.count("\n") for text in texts) > MAX_HELPER_LINES:
        raise Unfit(f"needs more than {MAX_HELPER_LINES} lines of helpers")
    return import_lines(module, imported, any(isinstance(h, ast.ClassDef) for h in helpers.values())), texts


def import_lines(module: Module, names: set[str], has_class: bool) -> str:
    """Import statements for names, one a module, sorted; postponed annotations where a class may name itself."""
    lines = ["from __future__ import annotations"] if module.postponed and has_class else []
    grouped: dict[str, list[str]] = {}
    for name in sorted(names):
        origin, attribute, alias = module.imports[name]
        suffix = f" as {alias}" if alias and alias != attribute else ""
        if attribute:
            grouped.setdefault(origin, []).append(attribute + suffix)
        else:
            lines.append(f"import {origin}{suffix}")
    lines += [f"from {origin} import {', '.join(sorted(what))}" for origin, what in sorted(grouped.items())]
    return "".join(f"{line}\n" for line in lines)


def split_function(source: str) -> tuple[str, str]:
    """A function's source as prompt (to the line that closes the docstring) and completion (the body).

    Raises:
        Unfit: docstring or body share a line with something else, or the body is empty or too long.
    """
    node = next(iter(ast.parse(source).body), None)
    if not isinstance(node, PythonFunction) or len(node.body) < 2:
        raise Unfit("has no body but a docstring")
    docstring, first = node.body[0], node.body[1]
    lines = source.split("\n")
    before = lines[docstring.lineno - 1][: docstring.col_offset]
    end = docstring.end_lineno or docstring.lineno
    after = lines[end - 1].encode()[docstring.end_col_offset :].strip()
    if before.strip() or after or first.lineno <= end:
        raise Unfit("shares the docstring's line with code")
    body = lines[end : node.end_lineno]
    while body and not body[0].strip():
        body.pop(0)
    if len(body) > MAX_BODY_LINES:
        raise Unfit(f"has more than {MAX_BODY_LINES} body lines")
    return "\n".join(lines[:end]) + "\n", "\n".join(body) + "\n"


def require_rebuilds(row: FunctionRow, node: PythonFunction) -> None:
    """The row must parse, and end in the function it was made from.

    Raises:
        Unfit: it does not.
    """
    try:
        rebuilt: Any = ast.parse(row.prompt + row.completion).body[-1]
    except SyntaxError:
        raise Unfit("does not parse on its own") from None
    if not isinstance(rebuilt, ast.FunctionDef) or rebuilt.name != node.name:
        raise Unfit("does not parse on its own")
    if [ast.dump(part) for part in rebuilt.body] != [ast.dump(part) for part in node.body]:
        raise Unfit("does not parse on its own")
