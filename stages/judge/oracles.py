"""Check answers to a problem's inputs in the judge, with the benchmark's tolerance: HumanEval+ and MBPP+.

Answers are compared as evalplus 0.3.1 does (evalplus/eval/__init__.py and _special_oracle.py there), with two
differences: NaN equals NaN, and the tolerance of an input does not depend on the inputs before it. A
problem's `oracle` names one of ANSWER_CHECKS.
"""

import math
import sys
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

from stages.judge.sandbox import values

RTOL = 1e-7
FLOAT_ATOL = 1e-6  # where floats are expected and the benchmark states no tolerance


@lru_cache(maxsize=16)
def evaluate_literal(text: str) -> Any:
    """Return the value of a benchmark's literal, whose integers may have any number of digits."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return eval(text, {"__builtins__": {}, "inf": math.inf, "nan": math.nan, "set": set})
    finally:
        sys.set_int_max_str_digits(before)


@lru_cache(maxsize=16)
def encode_calls(text: str) -> list[Any]:
    """Return each argument list of a problem's `inputs`, encoded for the sandbox."""
    return [values.encode_value(tuple(arguments), strict=True) for arguments in evaluate_literal(text)]


def check_answers(answers: Iterable[Any], inputs: str, expected: list[Any], oracle: str, atol: float) -> None:
    """Check answers as they arrive.

    Raises:
        AssertionError: at the first wrong answer.
    """
    is_right = ANSWER_CHECKS[oracle]
    for answer, given, wanted in zip(answers, evaluate_literal(inputs), expected, strict=True):
        try:
            right = bool(is_right(answer, wanted, given, atol))
        except (TypeError, ValueError, ArithmeticError, AttributeError):  # an answer of another type
            right = False
        if not right:
            raise AssertionError


def expected_answers(answers: list[Any], oracle: str) -> list[Any]:
    """Return the canonical solution's answers as expected values; for `not_none` whether there is one."""
    return [answer is not None for answer in answers] if oracle == "not_none" else answers


def is_equal(answer: Any, wanted: Any, given: Any, atol: float) -> bool:
    """Return whether values are equal, or numbers with |answer - wanted| <= atol + 1e-7 |wanted|."""
    if answer == wanted:
        return True
    if atol == 0 and is_floats(wanted):
        atol = FLOAT_ATOL
    return atol != 0 and type(answer) is type(wanted) and is_close(answer, wanted, atol)


def is_floats(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def is_close(answer: Any, wanted: Any, atol: float) -> bool:
    """Return numpy.allclose(answer, wanted, rtol=1e-7, atol=atol, equal_nan=True), without broadcasting."""
    if isinstance(wanted, list | tuple):
        same_length = isinstance(answer, list | tuple) and len(answer) == len(wanted)
        return same_length and all(is_close(a, w, atol) for a, w in zip(answer, wanted, strict=True))
    if not isinstance(answer, int | float | complex) or not isinstance(wanted, int | float | complex):
        return False
    if answer == wanted or (answer != answer and wanted != wanted):
        return True
    bound = atol + RTOL * abs(wanted)
    return math.isfinite(bound) and abs(answer - wanted) <= bound


def not_none(answer: Any, wanted: Any, given: Any, atol: float) -> bool:
    """Return whether there is an answer where `wanted` is true, and none where it is false."""
    return wanted == (answer if isinstance(answer, bool) else answer is not None)


def is_root(answer: Any, wanted: Any, given: Any, atol: float) -> bool:
    """Return whether the answer is a root of the polynomial with the given coefficients (HumanEval/32)."""
    total = sum(coefficient * math.pow(answer, power) for power, coefficient in enumerate(given[0]))
    return abs(total) <= atol


def surface_area(answer: Any, wanted: Any, given: Any, atol: float) -> bool:
    """Accept the height as the pyramid's or as its face's (MBPP/581)."""
    edge, height = given
    other = round(edge**2 + 2 * edge * math.sqrt((edge / 2) ** 2 + height**2))
    return is_equal(answer, wanted, given, atol) or abs(answer - other) <= atol


def digit_distance(answer: Any, wanted: Any, given: Any, atol: float) -> bool:
    """Accept numbers of unequal length padded with zeros or not (MBPP/558)."""
    width = max(len(str(number)) for number in given)
    first, second = (str(number).zfill(width) for number in given)
    other = sum(abs(int(a) - int(b)) for a, b in zip(first, second, strict=True))
    return is_equal(answer, wanted, given, atol) or answer == other


def is_returned(answer: Any, wanted: Any, given: Any, atol: float) -> bool:
    """Return whether values are equal, or a tuple has the wanted list's items, as in LiveCodeBench."""
    return bool((list(answer) if isinstance(answer, tuple) else answer) == wanted)


def is_same_output(answer: str, wanted: str, given: Any, atol: float) -> bool:
    """Return whether outputs have equal lines, or lines of equal numbers, as LiveCodeBench compares them.

    White space around lines and around the whole does not count; blank lines between others do.
    """
    lines = [[line.strip() for line in text.strip().split("\n")] for text in (answer, wanted)]
    return len(lines[0]) == len(lines[1]) and all(
        a == w or same_numbers(a, w) for a, w in zip(*lines, strict=True)
    )


def same_numbers(line: str, wanted: str) -> bool:
    try:
        first, second = ([Decimal(word) for word in text.split()] for text in (line, wanted))
        return first == second
    except InvalidOperation:
        return False


ANSWER_CHECKS: dict[str, Callable[[Any, Any, Any, float], bool]] = {
    "equal": is_equal,
    "set": lambda answer, wanted, given, atol: set(answer) == set(wanted),
    "not_none": not_none,
    "anything": lambda answer, wanted, given, atol: True,
    "equal_or_zero": lambda answer, wanted, given, atol: is_equal(answer, wanted, given, atol) or answer == 0,
    "root": is_root,
    "surface_area": surface_area,
    "digit_distance": digit_distance,
    "returned": is_returned,
    "output": is_same_output,
}
