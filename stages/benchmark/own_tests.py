"""Make test programs of a function's doctests, and of the repository's unit tests that call it.

Each is whole: it holds the imports and helpers that it needs, of the function's module and of the test's file.
"""

import ast
import doctest
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from stages.benchmark.held_out import OwnFunction
from stages.fetch.function_split import PythonFunction, Unfit
from stages.fetch.functions import TEST_FILE, Import, Module, imported_modules

FUTURE = "from __future__ import annotations"
RUNNER = """\
def run_examples(text, names):
    test = doctest.DocTestParser().get_doctest(text, names, "examples", None, 0)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(verbose=False, optionflags=flags)
    assert not runner.run(test, out=lambda line: None).failed
"""


@dataclass(frozen=True)
class OwnTest:
    """The doctests of a function, or a unit test of it."""

    needed: tuple[str, ...]  # sources that it needs, in order
    call: str  # statements of a function with the argument `candidate`


@dataclass
class SuiteFile:
    """A test file. What it imports of the repository is None in it, and given when a test runs."""

    module: Module
    own: dict[str, str] = field(default_factory=dict)  # by name in the file: name in the repository


def top_packages(paths: Iterable[str]) -> set[str]:
    """Return the names under which a repository's own modules are imported, also from src/."""
    parts = [PurePosixPath(path).with_suffix("").parts for path in paths]
    return {(one[1:] if one[0] in ("src", "lib") and one[1:] else one)[0] for one in parts}


def from_repository(module: str, own: set[str]) -> bool:
    return not module or module.split(".")[0] in own


def suite_files(sources: dict[str, str], own: set[str]) -> list[SuiteFile]:
    """Return the repository's test files that parse."""
    found = []
    for path, source in sources.items():
        if TEST_FILE.search(path):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    found.append(read_suite(ast.parse(source), own))
                except (SyntaxError, ValueError, RecursionError):
                    continue
    return found


def read_suite(tree: ast.Module, own: set[str]) -> SuiteFile:
    names: dict[str, str] = {}
    body: list[ast.stmt] = []
    for statement in tree.body:
        if isinstance(statement, Import) and all(
            from_repository(one, own) for one in imported_modules(statement)
        ):
            for alias in statement.names:
                bound = alias.asname or alias.name.split(".")[0]
                names[bound] = alias.name if isinstance(statement, ast.ImportFrom) else ""
                body += ast.parse(f"{bound} = None").body
        else:
            body.append(statement)
    return SuiteFile(Module(ast.unparse(ast.Module(body, []))), names)


def unit_tests(function: OwnFunction, files: Sequence[SuiteFile]) -> Iterator[OwnTest]:
    """Yield each test function, and each method of a test class, that names the function and needs no fixture."""
    for file in files:
        for node in file.module.tree.body:
            if isinstance(node, ast.FunctionDef) and is_test(node):
                yield from unit_test(function, file, node, node, f"{node.name}()")
            elif isinstance(node, ast.ClassDef):
                cases = any(ast.unparse(base).endswith("TestCase") for base in node.bases)
                tests = [one for one in node.body if isinstance(one, ast.FunctionDef) and is_test(one, 1)]
                for test in tests if cases or node.name.startswith("Test") else ():
                    call = f"('{test.name}').debug()" if cases else f"().{test.name}()"
                    rest = [one for one in node.body if one is test or one not in tests]
                    alone = ast.ClassDef(node.name, node.bases, node.keywords, rest, [])
                    yield from unit_test(function, file, alone, test, node.name + call)


def is_test(node: ast.FunctionDef, arguments: int = 0) -> bool:
    return node.name.startswith("test") and len(node.args.args) == arguments and not node.decorator_list


def unit_test(
    function: OwnFunction, file: SuiteFile, whole: ast.stmt, test: ast.FunctionDef, call: str
) -> Iterator[OwnTest]:
    """Yield `whole` as a test if its part `test` names the function, and it can stand alone."""
    name, bindings = function.node.name, function.module.bindings
    if name not in names_used(test, file).values():
        return
    used = names_used(whole, file)
    given = []
    for bound, original in used.items():
        if bound in file.own:
            is_module = file.own[bound] not in (name, *bindings)
            value = f"names[{original!r}]" if original != name else "candidate"
            space = f"types.SimpleNamespace(**{{**names, {name!r}: candidate}})"
            given.append(f"names[{bound!r}] = {space if is_module else value}")
    try:
        library = names_of_library(function, sorted(set(used.values()) & bindings.keys() - {name}))
        imports, helpers = added_closure(file.module, ast.unparse(ast.fix_missing_locations(whole)))
    except (Unfit, SyntaxError):
        return
    needed = [one for one in (imports, *helpers) if one not in {f"{bound} = None\n" for bound in file.own}]
    text = ast.unparse(whole) + "\n"
    yield OwnTest((*library, *needed, text), "\n".join(["names = globals()", *given, call]))


def names_used(tree: ast.AST, file: SuiteFile) -> dict[str, str]:
    """Return what a test takes of the repository: a name in the file, or module.name, by the repository's name."""
    found = {n.id: file.own[n.id] for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id in file.own}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in file.own:
            found[f"{node.value.id}.{node.attr}"] = node.attr
    return found


def doctests(function: OwnFunction, own: set[str]) -> Iterator[OwnTest]:
    """Yield the function's examples as one test, without their imports of the function's own package."""
    try:
        examples = doctest.DocTestParser().get_examples(ast.get_docstring(function.node) or "")
        kept = [(text, one.want) for one in examples if (text := without_own_imports(one.source, own))]
        sources = "".join(text for text, _ in kept)
        called = {function.owner or function.node.name}
        if not called & {node.id for node in ast.walk(ast.parse(sources)) if isinstance(node, ast.Name)}:
            return
        library = names_of_library(function, [], sources)
    except (Unfit, SyntaxError, ValueError):
        return
    lines = [f">>> {text.rstrip().replace(chr(10), f'{chr(10)}... ')}\n{want}" for text, want in kept]
    name, owner = function.node.name, function.owner
    given = f"{{**globals(), {name!r}: candidate}}"
    if owner:
        given = f"{{**globals(), {owner!r}: types.SimpleNamespace({name}=candidate)}}"
    joined = "\n".join(lines)
    yield OwnTest((*library, RUNNER), f"run_examples({joined!r}, {given})")


def without_own_imports(source: str, own: set[str]) -> str:
    """Return an example's source; of an import from the package itself what it renames, "" if nothing.

    Raises:
        SyntaxError: it does not parse.
    """
    (first, *others) = ast.parse(source).body or [ast.Pass()]
    if (
        others
        or not isinstance(first, ast.ImportFrom)
        or not from_repository(imported_modules(first)[0], own)
    ):
        return source
    renamed = [f"{one.asname} = {one.name}" for one in first.names if one.asname not in (None, one.name)]
    return "; ".join(renamed) + "\n" if renamed else ""


def names_of_library(function: OwnFunction, names: Sequence[str], code: str = "") -> list[str]:
    """Return imports and helpers of the function's module that names and code need, without the function itself.

    Raises:
        Unfit: something cannot be had alone.
        SyntaxError: the code does not parse within a function.
    """
    own = ", ".join(filter(None, (function.node.name, function.owner)))
    body = textwrap.indent("".join(f"{name}\n" for name in names) + code, "    ")
    imports, helpers = added_closure(function.module, f"def examples({own}):\n{body}    pass\n")
    return [imports, *helpers]


def added_closure(module: Module, code: str) -> tuple[str, list[str]]:
    """Return the imports and helpers that a function or class at the end of a module needs of it."""
    extended = Module("\n".join(module.lines) + f"\n\n\n{code}")
    for statement in extended.tree.body:  # what no function for training may import, and tests do
        if isinstance(statement, Import) and set(imported_modules(statement)) == {"unittest"}:
            for alias in statement.names:
                attribute = alias.name if isinstance(statement, ast.ImportFrom) else ""
                bound = alias.asname or alias.name
                extended.outside.discard(bound)
                extended.imports[bound] = ("unittest", attribute, alias.asname or "")
    added = extended.tree.body[-1]
    assert isinstance(added, PythonFunction | ast.ClassDef)
    return extended.closure(added)  # type: ignore[arg-type]


def check_program(tests: Sequence[OwnTest]) -> str:
    """Return the program of a problem's tests, which defines `check(candidate)`."""
    pieces = dict.fromkeys(text for test in tests for text in test.needed if text.strip())
    head = [FUTURE] if any(FUTURE in piece for piece in pieces) else []
    texts = [text for piece in pieces if (text := piece.replace(FUTURE, "").strip("\n"))]
    calls = [f"def check_{i}(candidate):\n{textwrap.indent(one.call, '    ')}" for i, one in enumerate(tests)]
    check = "def check(candidate):\n" + "".join(f"    check_{i}(candidate)\n" for i in range(len(tests)))
    return "\n\n\n".join(["\n".join([*head, "import doctest", "import types"]), *texts, *calls, check])
