"""Run the tests and doctests of a row inside the sandbox, where nothing else of ours can be imported.

It raises an AssertionError whose message begins with FAILED or CANNOT_RUN, or nothing if all passed. A
message must be the same in every run, so it never shows a program's output or an object's address.
"""

import builtins
import io
import re
import sys
import types
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

FAILED = "failed: "
CANNOT_RUN = "cannot run: "


class Failed(Exception):
    """A check shows that the row is wrong."""


class CannotRun(Exception):
    """A check needs something that neither the row nor the sandbox has."""


def run_row(program: str, tests: str, documents: list[str]) -> None:
    """Run a row's code, then its tests, then the examples of each docstring."""
    reasons = []
    try:
        names = load_solution(program)
        checks: list[Callable[[], None]] = [partial(run_tests, tests, names)] if tests else []
        checks += [partial(run_document, text, names) for text in documents]
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


def load_solution(program: str) -> dict[str, Any]:
    """Run the code as a module; return its names, which tests may import from a module of any name."""
    module = types.ModuleType("solution")
    sys.modules["solution"] = module  # dataclasses look it up, tests import from it
    sys.stdout = io.StringIO()
    names = module.__dict__
    attempt(lambda: exec(compile(program, "<row>", "exec", dont_inherit=True), names), "the code")
    import_module = builtins.__import__

    def import_or_take(name: str, *others: Any, **keywords: Any) -> Any:
        try:
            return import_module(name, *others, **keywords)
        except ModuleNotFoundError:
            wanted = others[2] if len(others) > 2 else None
            if wanted and all(each in names for each in wanted):
                return module
            raise

    builtins.__import__ = import_or_take
    return names


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
    missing = str(error.name) if isinstance(error, ModuleNotFoundError) else "sys"
    if missing.split(".")[0] not in sys.stdlib_module_names:
        return f"no module {missing}"
    if isinstance(error, ImportError) and "relative import" in str(error):
        return "a relative import"
    if isinstance(error, OSError):
        return f"files, network or programs are not there ({type(error).__name__})"
    if isinstance(error, EOFError) and "reading a line" in str(error):
        return "no input to read"
    if isinstance(error, RuntimeError) and "new thread" in str(error):
        return "no threads"
    return ""


# tests


def run_tests(tests: str, names: dict[str, Any]) -> None:
    """Run the tests as a module, then `check(candidate)`, functions test_*, classes Test*, unittest cases."""
    own = [value for value in names.values() if callable(value) and is_own(value)]
    before = set(names)
    code = attempt(lambda: compile(tests, "<tests>", "exec", dont_inherit=True), "reading the tests")
    try:
        exec(code, names)
    except BaseException as error:
        trace = error.__traceback__
        number = trace.tb_next.tb_lineno if trace and trace.tb_next else 1
        line = tests.split("\n")[number - 1].strip()  # as the compiler counts them
        raise_failure(error, f"line {number} of the tests ({line[:100]})")
    defined = [name for name in names if name not in before]
    if "check" in defined and not re.search(r"^check\(", tests, re.M):
        if not own:
            raise CannotRun("check(candidate), and the row defines no function")
        attempt(lambda: names["check"](own[-1]), "check(candidate)")
    for name in defined:
        value = names[name]
        if name.startswith("test") and isinstance(value, types.FunctionType):
            run_function(value, name)
        elif isinstance(value, type) and is_own(value):
            run_class(value, name)


def is_own(value: Any) -> bool:
    """Whether the row or its tests define this function or class."""
    return getattr(value, "__module__", "") == "solution"


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


def run_document(text: str, names: dict[str, Any]) -> None:
    """Run the examples of one docstring, which share names, up to the first that fails."""
    import doctest  # the sandbox of rows has loaded it before the fork

    class Runner(doctest.DocTestRunner):
        def report_start(self, out: Any, test: Any, example: Any) -> None:
            self.expected, example.exc_msg = (
                example.exc_msg,
                None,
            )  # for report_unexpected_exception to decide
            self.where = f"line {example.lineno + 1}, >>> {example.source.splitlines()[0][:100]}"

        def report_success(self, out: Any, test: Any, example: Any, got: str) -> None:
            pass

        def report_failure(self, out: Any, test: Any, example: Any, got: str) -> None:
            if self.expected is not None:
                raise Failed(f"{self.where}: no exception, expected {self.expected.splitlines()[0][:100]}")
            raise Failed(f"{self.where}: expected {' '.join(example.want.split())[:100] or 'nothing'}")

        def report_unexpected_exception(self, out: Any, test: Any, example: Any, exc_info: Any) -> None:
            raised = exc_info[1]
            if self.expected is not None and self.is_expected(raised):
                return
            own = raised.__traceback__ and raised.__traceback__.tb_next  # the example's frame
            if isinstance(raised, NameError) and own and not own.tb_next:
                raise CannotRun(f"{self.where}: {raised.name} is not in the row")
            raise_failure(raised, self.where)

        def is_expected(self, raised: BaseException) -> bool:
            """Whether this is the exception that the docstring shows, apart from the module in its name."""
            kind, colon, rest = self.expected.partition(":")
            name, message = type(raised).__qualname__, str(raised)
            want = kind.rpartition(".")[2] + colon + rest
            if self.optionflags & doctest.IGNORE_EXCEPTION_DETAIL and want.partition(":")[0].strip() == name:
                return True
            got = f"{name}: {message}\n" if message else f"{name}\n"
            return bool(self._checker.check_output(want, got, self.optionflags))  # type: ignore[attr-defined]

    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = Runner(verbose=False, optionflags=flags)
    runner.run(doctest.DocTestParser().get_doctest(text, names, "row", None, 0), out=lambda line: None)
