"""Run the tests and doctests of a row inside the sandbox, where nothing else of ours can be imported.

It raises an AssertionError whose message begins with FAILED or CANNOT_RUN, or nothing if all passed. A
message must be the same in every run, so it never shows a program's output or an object's address.
"""

import io
import re
import sys
import types
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

FAILED = "failed: "
CANNOT_RUN = "cannot run: "
ONLY_AST = 0x400  # ast.PyCF_ONLY_AST: importing ast takes longer than most rows


class Failed(Exception):
    """A check shows that the row is wrong."""


class CannotRun(Exception):
    """A check needs something that neither the row nor the sandbox has."""


def run_row(program: str, tests: str, documents: list[list[tuple[Any, ...]]], flags: list[str]) -> None:
    """Run a row's code, then its tests, then the examples of each docstring."""
    reasons = []
    try:
        module = load_solution(program)
        checks: list[Callable[[], None]] = []
        if tests:
            checks.append(partial(run_tests, tests, program, module))
        checks += [partial(run_document, examples, dict(module.__dict__), flags) for examples in documents]
        for check in checks:
            try:
                check()
            except CannotRun as error:
                reasons.append(str(error))
    except CannotRun as error:
        reasons.append(str(error))
    except Failed as error:
        raise AssertionError(FAILED + str(error)) from None
    if reasons:
        raise AssertionError(CANNOT_RUN + reasons[0])


def load_solution(program: str) -> types.ModuleType:
    module = types.ModuleType("solution")
    sys.modules["solution"] = module  # dataclasses look it up, tests import from it
    sys.stdout = io.StringIO()
    attempt(lambda: exec(compile(program, "<row>", "exec", dont_inherit=True), module.__dict__), "the code")
    return module


def attempt(action: Callable[[], Any], what: str) -> Any:
    """Run `action`; turn an exception into Failed or CannotRun."""
    try:
        return action()
    except BaseException as error:
        raise_failure(error, what)


def raise_failure(error: BaseException, what: str) -> NoReturn:
    """Raise CannotRun if the sandbox lacks what the row needs, otherwise Failed."""
    if isinstance(error, Failed | CannotRun):
        raise error
    reason = missing_from_sandbox(error)
    if reason:
        raise CannotRun(reason) from None
    raise Failed(f"{what} raised {type(error).__name__}") from None


def missing_from_sandbox(error: BaseException) -> str:
    """Name what a row needs and the sandbox lacks; "" if the error is the row's own.

    The sandbox has only Python's standard library: no packages, files, network, threads, programs or input.
    """
    if (
        isinstance(error, ModuleNotFoundError)
        and str(error.name).split(".")[0] not in sys.stdlib_module_names
    ):
        return f"no module {error.name}"
    if isinstance(error, ImportError) and "relative import" in str(error):
        return "a relative import"
    if isinstance(error, OSError):
        return f"files, network or programs are not there ({type(error).__name__})"
    if isinstance(error, EOFError) and "reading a line" in str(error):
        return "no input to read"
    if isinstance(error, RuntimeError) and "new thread" in str(error):
        return "no threads"
    return ""


def is_import_of_the_row(statement: Any, names: dict[str, Any]) -> bool:
    """Whether the statement is `from anywhere import f` and the row itself defines f."""
    return type(statement).__name__ == "ImportFrom" and all(a.name in names for a in statement.names)


def take_from_the_row(statement: Any, names: dict[str, Any]) -> None:
    for alias in statement.names:
        names[alias.asname or alias.name] = names[alias.name]


# tests


def run_tests(tests: str, program: str, module: types.ModuleType) -> None:
    """Run statements in order, then `check(candidate)`, functions test_*, classes Test*, unittest cases."""
    names = module.__dict__
    before = set(names)
    statements = attempt(lambda: compile(tests, "<tests>", "exec", ONLY_AST, True).body, "reading the tests")
    lines = tests.split("\n")  # as the compiler counts them
    for statement in statements:
        run_statement(statement, names, lines)
    defined = [name for name in names if name not in before]
    if "check" in defined and not any(is_call_of(s, "check") for s in statements):
        candidate = last_function(program, names)
        attempt(lambda: names["check"](candidate), "check(candidate)")
    for name in defined:
        value = names[name]
        if name.startswith("test") and isinstance(value, types.FunctionType):
            run_function(value, name)
        elif isinstance(value, type) and value.__module__ == "solution":
            run_class(value, name)


def run_statement(statement: Any, names: dict[str, Any], lines: list[str]) -> None:
    module = type(compile("", "", "exec", ONLY_AST))([statement], [])
    line = f"line {statement.lineno} of the tests ({lines[statement.lineno - 1].strip()[:100]})"
    try:
        exec(compile(module, "<tests>", "exec", dont_inherit=True), names)
    except ModuleNotFoundError as error:
        if not is_import_of_the_row(statement, names):
            raise_failure(error, line)
        take_from_the_row(statement, names)
    except BaseException as error:
        raise_failure(error, line)


def is_call_of(statement: Any, name: str) -> bool:
    value: Any = getattr(statement, "value", None)
    return type(value).__name__ == "Call" and getattr(value.func, "id", "") == name


def last_function(program: str, names: dict[str, Any]) -> Any:
    body = compile(program, "<row>", "exec", ONLY_AST, True).body
    found = [s.name for s in body if type(s).__name__ in ("FunctionDef", "AsyncFunctionDef", "ClassDef")]
    if not found:
        raise CannotRun("check(candidate), and the row defines no function")
    return names[found[-1]]


def run_function(function: Any, name: str, *arguments: Any) -> None:
    code = function.__code__
    if code.co_argcount + code.co_kwonlyargcount > len(arguments) + len(function.__defaults__ or ()):
        raise CannotRun(f"{name} wants arguments")
    attempt(lambda: function(*arguments), name)


def run_class(kind: type, name: str) -> None:
    unittest = sys.modules.get("unittest")
    if unittest and issubclass(kind, unittest.TestCase):
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(kind).run(result)
        if not result.wasSuccessful():
            broken = (result.failures + result.errors)[0][0] if result.failures + result.errors else name
            raise Failed(f"{name}.{getattr(broken, '_testMethodName', 'setUpClass')}")
    elif name.startswith("Test"):
        for method in [m for m in vars(kind) if m.startswith("test")]:
            one = attempt(kind, name)
            run_function(getattr(kind, method), f"{name}.{method}", one)


# doctests


def run_document(examples: list[tuple[Any, ...]], names: dict[str, Any], flags: list[str]) -> None:
    """Run the examples of one docstring, which share names, up to the first that fails."""
    for source, want, exception, line, directives in examples:
        active = {*flags, *(name for name, on in directives if on)} - {
            name for name, on in directives if not on
        }
        if "SKIP" not in active:
            run_example(
                source, want, exception, f"line {line}, >>> {source.splitlines()[0][:100]}", active, names
            )


def run_example(
    source: str, want: str, exception: str | None, where: str, flags: set[str], names: dict[str, Any]
) -> None:
    out = sys.stdout = io.StringIO()
    sys.displayhook = sys.__displayhook__
    raised: BaseException | None = None
    try:
        exec(compile(source, "<example>", "single", dont_inherit=True), names)
    except BaseException as error:
        raised = error
    got = out.getvalue()
    if raised is None:
        if exception is not None:
            raise Failed(f"{where}: no exception, expected {exception.splitlines()[0][:100]}")
        if not output_matches(want, got, flags):
            raise Failed(f"{where}: expected {' '.join(want.split())[:100] or 'nothing'}")
    elif exception is None or not same_exception(exception, raised, flags):
        if isinstance(raised, ModuleNotFoundError):
            statement = compile(source, "<example>", "single", ONLY_AST, True).body[0]
            if is_import_of_the_row(statement, names):
                take_from_the_row(statement, names)
                return
        own = raised.__traceback__ and raised.__traceback__.tb_next  # the example's frame
        if isinstance(raised, NameError) and own and not own.tb_next:
            raise CannotRun(f"{where}: {raised.name} is not in the row")
        raise_failure(raised, where)


def same_exception(want: str, raised: BaseException, flags: set[str]) -> bool:
    """Whether an exception is the one that a docstring shows, apart from the module in its name."""
    message = str(raised)
    name = type(raised).__qualname__
    got = f"{name}: {message}\n" if message else f"{name}\n"
    kind, colon, rest = want.partition(":")
    want = kind.rpartition(".")[2] + colon + rest
    if output_matches(want, got, flags):
        return True
    return "IGNORE_EXCEPTION_DETAIL" in flags and want.partition(":")[0].strip() == name


def output_matches(want: str, got: str, flags: set[str]) -> bool:
    """As `doctest.OutputChecker.check_output`, whose import would take longer than most rows."""
    if got == want or (
        (got, want) in (("True\n", "1\n"), ("False\n", "0\n")) and "DONT_ACCEPT_TRUE_FOR_1" not in flags
    ):
        return True
    if "DONT_ACCEPT_BLANKLINE" not in flags:
        want = re.sub(r"(?m)^<BLANKLINE>\s*?$", "", want)
        got = re.sub(r"(?m)^[^\S\n]+$", "", got)
        if got == want:
            return True
    if "NORMALIZE_WHITESPACE" in flags:
        want, got = " ".join(want.split()), " ".join(got.split())
        if got == want:
            return True
    return "ELLIPSIS" in flags and ellipsis_matches(want, got)


def ellipsis_matches(want: str, got: str) -> bool:
    """`...` stands for any text, the shortest first: pieces are looked for in turn."""
    first, *others = want.split("...")
    if not others:
        return want == got
    *middle, last = others
    if not (got.startswith(first) and got.endswith(last)):
        return False
    start, end = len(first), len(got) - len(last)
    if start > end:
        return False
    for piece in middle:
        start = got.find(piece, start, end)
        if start < 0:
            return False
        start += len(piece)
    return True
