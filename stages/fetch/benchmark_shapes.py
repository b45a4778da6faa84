"""Parse rows of EvoEval, HumanEvalFix, CRUXEval-O, HumanEval-Infilling and LiveCodeBench as the hub has them."""

import ast
import base64
import io
import json
import pickle
import zlib
from typing import Any

from stages.common.rows.schema import Problem
from stages.fetch.evalplus import any_number_of_digits, is_plain

MAX_TESTS_BYTES = 1 << 30  # of one problem's tests, unpacked
MAX_OUTPUT_CHARACTERS = 3 << 20  # of one test: what the judge takes back
# Two examples show the form; the model goes on after `==`, or answers with the value or the whole assert
CRUX_EXAMPLES = """\
# Complete each assert with the value that the call returns, as a literal, and write nothing else.

def f(xs):
    return xs[::-1]

assert f([1, 2]) == [2, 1]

def f(word):
    return word.upper() + "!"

assert f("ab") == "AB!"

"""
READS = "Write a Python program that reads standard input and writes standard output."
DEFINES = "Complete this class, and define nothing that runs by itself:"


def texts_of(row: dict[str, Any], *names: str) -> list[str]:
    """Return fields of a row.

    Raises:
        KeyError: one is missing.
        ValueError: one is not text.
    """
    found = [row[name] for name in names]
    wrong = [name for name, value in zip(names, found, strict=True) if not isinstance(value, str)]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} must be text")
    return found


def evolved_problem(row: dict[str, Any]) -> Problem:
    """Return the problem of a row of EvoEval (Xia et al. 2024).

    On the hub a row has a test program as HumanEval's; released, it has `inputs`, each the text of a call's
    arguments, and the answers are those of the canonical solution.
    """
    task, prompt, name, code = texts_of(row, "task_id", "prompt", "entry_point", "canonical_solution")
    parent = row["parent"] if isinstance(row.get("parent"), str) else ""
    if row.get("test"):
        return Problem(task, prompt, name, code, texts_of(row, "test")[0], parent=parent)
    calls = [f"[{given}]" for given in row["inputs"]]
    with any_number_of_digits():
        plain = all(is_plain(ast.parse(call, mode="eval").body) for call in calls)
    if not calls or not plain:
        raise ValueError("it has no test, and its inputs are not a list of plain values")
    return Problem(task, prompt, name, code, "", inputs=f"[{', '.join(calls)}]", parent=parent)


def fix_problem(row: dict[str, Any]) -> Problem:
    """Return the problem of a row of HumanEvalFix (Muennighoff et al. 2023), whose tests show what is wrong.

    The model reads the faulty function, its tests, an instruction and the header again, whose body it writes:
    prompt `instruct` of bigcode-evaluation-harness.
    """
    header, test = texts_of(row, "declaration", "test")
    return repair_problem(row, header, test)


def fix_docs_problem(row: dict[str, Any]) -> Problem:
    """Return the problem of a row of HumanEvalFix, whose docstring says what is right; see fix_problem."""
    return repair_problem(row, texts_of(row, "prompt")[0], "")


def repair_problem(row: dict[str, Any], header: str, shown: str) -> Problem:
    names = ("task_id", "prompt", "entry_point", "canonical_solution", "test", "buggy_solution")
    task, prompt, name, code, test, fault = texts_of(row, *names)
    given = f"{header}{fault}\n{shown}" if shown else header + fault
    question = f"{given}\nFix bugs in {name}.\n\n{header}".strip()
    if "def check(" not in test:
        raise ValueError("its test defines no function check")
    test = "\n".join(line for line in test.split("\n") if line.rstrip() != f"check({name})")
    number = task.rpartition("/")[2]
    return Problem(f"HumanEvalFix/{number}", prompt, name, code, test, question=question)


def crux_problem(row: dict[str, Any]) -> Problem:
    """Return the problem of a row of CRUXEval (Gu et al. 2024): what does the call return?"""
    code, given, output, number = texts_of(row, "code", "input", "output", "id")
    code = f"{code.strip()}\n"
    ast.parse(code)
    ast.literal_eval(output.strip())
    question = f"{CRUX_EXAMPLES}{code}\nassert f({given}) =="
    return Problem(
        *(f"CRUXEval/{number}", code, "f", f" {output.strip()}", ""),
        expected=output.strip(),
        kind="literal",
        question=question,
    )


def infill_problem(row: dict[str, Any]) -> Problem:
    """Return the problem of a row of HumanEval-Infilling (Bavarian et al. 2022).

    Its parent is HumanEval's problem: SingleLineInfilling/HumanEval/0/L0 is a version of HumanEval/0.
    """
    names = ("task_id", "prompt", "entry_point", "canonical_solution", "test", "suffix")
    task, prompt, name, code, test, suffix = texts_of(row, *names)
    parent = "/".join(task.split("/")[1:3])
    problem = Problem(task, prompt, name, code, test, kind="infill", suffix=suffix, parent=parent)
    ast.parse(problem.solved)
    return problem


def live_problem(row: dict[str, Any]) -> Problem:
    """Return the problem of a row of LiveCodeBench (Jain et al. 2024), with its public and private tests.

    It is a program, or a method of a class that the starter code begins. No solution comes with it.
    """
    names = ("question_id", "question_content", "starter_code", "public_test_cases", "private_test_cases")
    number, content, starter, public, private = texts_of(row, *names)
    name = json.loads(row.get("metadata") or "{}").get("func_name") or ""
    tests = [*json.loads(public), *unpacked_tests(private)]
    kinds = {test["testtype"] for test in tests}
    if kinds != {"functional" if name else "stdin"}:
        raise ValueError(f"its tests are of types {sorted(kinds)}, and its function is {name!r}")
    if any(len(test["output"]) > MAX_OUTPUT_CHARACTERS for test in tests):
        raise ValueError(
            f"a test has more than {MAX_OUTPUT_CHARACTERS} characters of output; exclude the problem"
        )
    asked = (
        f"{content.strip()}\n\n{DEFINES}\n\n{starter.rstrip()}" if name else f"{content.strip()}\n\n{READS}"
    )
    prompt = 'r"""\n{}\n"""\n'.format(asked.replace('"""', "'''"))
    ast.parse(prompt)
    inputs: list[Any] = [[test["input"]] for test in tests]
    expected: list[Any] = [test["output"] for test in tests]
    if name:
        inputs = [[json.loads(line) for line in text.split("\n")] for (text,) in inputs]
        expected = [json.loads(text) for text in expected]
    return Problem(
        *(f"LiveCodeBench/{number}", prompt, f"Solution.{name}" if name else "program", "", ""),
        inputs=repr(inputs),
        expected=repr(expected),
        oracle="returned" if name else "output",
        kind="function" if name else "script",
    )


def unpacked_tests(text: str) -> list[dict[str, str]]:
    """Return tests that are JSON, or JSON's text in a pickle, compressed and in base64.

    Raises:
        ValueError: they are neither, or too large.
    """
    if text.lstrip().startswith("["):
        return list(json.loads(text))
    try:
        packed = zlib.decompressobj()
        data = packed.decompress(base64.b64decode(text, validate=True), MAX_TESTS_BYTES)
        if not packed.eof:
            raise ValueError(f"cut short, or more than {MAX_TESTS_BYTES} bytes")
        return list(json.loads(PlainUnpickler(io.BytesIO(data)).load()))
    except (pickle.UnpicklingError, zlib.error, ValueError, TypeError, EOFError, IndexError) as error:
        raise ValueError(f"its private tests are not readable: {error}") from None


class PlainUnpickler(pickle.Unpickler):
    """Reads text, numbers and containers; a pickle that names anything of a module is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"the pickle names {module}.{name}, and plain values only are read")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("the pickle names another object, and plain values only are read")
