"""Answers to a problem's inputs, compared in the judge with the benchmark's tolerance: HumanEval+ and MBPP+.

What counts as equal is what evalplus 0.3.1 says (evalplus/eval/__init__.py and _special_oracle.py there), with two
differences: NaN equals NaN, and the tolerance of an input does not depend on the inputs before it.
"""

import math
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from stages.judge.sandbox import values

RTOL = 1e-7
FLOAT_ATOL = 1e-6  # where floats are expected and the benchmark names no tolerance


@lru_cache(maxsize=16)
def literal(text: str) -> Any:
    """The value of a literal of a benchmark; it has no limit on the digits of an integer."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return eval(text, {"__builtins__": {}, "inf": math.inf, "nan": math.nan, "set": set})
    finally:
        sys.set_int_max_str_digits(before)


@lru_cache(maxsize=16)
def calls(text: str) -> list[Any]:
    """Each argument list of a problem's `inputs` in the form that goes to the sandbox."""
    return [values.encode(tuple(arguments), strict=True) for arguments in literal(text)]


def check(answers: Iterable[Any], inputs: str, expected: list[Any], oracle: str, atol: float) -> None:
    """Compare answers as they come.

    Raises:
        AssertionError: at the first that is not as expected.
    """
    same = ORACLES[oracle]
    for answer, given, wanted in zip(answers, literal(inputs), expected, strict=True):
        try:
            right = bool(same(answer, wanted, given, atol))
        except (TypeError, ValueError, ArithmeticError, AttributeError):  # an answer of another kind
            right = False
        if not right:
            raise AssertionError


def noted(found: list[Any], oracle: str) -> list[Any]:
    """Answers of the canonical solution as what is expected: of some only whether there is one."""
    return [answer is not None for answer in found] if oracle == "not_none" else found


def equal(answer: Any, wanted: Any, given: Any, atol: float) -> bool:
    """Equal, or numbers of one shape that are close: |answer - wanted| <= atol + 1e-7 |wanted|."""
    if answer == wanted:
        return True
    if atol == 0 and is_floats(wanted):
        atol = FLOAT_ATOL
    return atol != 0 and type(answer) is type(wanted) and close(answer, wanted, atol)


def is_floats(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def close(answer: Any, wanted: Any, atol: float) -> bool:
    """What numpy.allclose(answer, wanted, rtol=1e-7, atol=atol, equal_nan=True) says, without broadcasting."""
    if isinstance(wanted, list | tuple):
        alike = isinstance(answer, list | tuple) and len(answer) == len(wanted)
        return alike and all(close(a, w, atol) for a, w in zip(answer, wanted, strict=True))
    if not isinstance(answer, int | float | complex) or not isinstance(wanted, int | float | complex):
        return False
    if answer == wanted or (answer != answer and wanted != wanted):
        return True
    bound = atol + RTOL * abs(wanted)
    return math.isfinite(bound) and abs(answer - wanted) <= bound


def same_set(answer: Any, wanted: Any, given: Any, atol: float) -> bool:
    return set(answer) == set(wanted)


def not_none(answer: Any, wanted: Any, given: Any, atol: float) -> bool:
    """Only whether there is an answer counts; `wanted` says whether there should be one."""
    return wanted == (answer if isinstance(answer, bool) else answer is not None)


def anything(answer: Any, wanted: Any, given: Any, atol: float) -> bool:
    return True


def equal_or_zero(answer: Any, wanted: Any, given: Any, atol: float) -> bool:
    return equal(answer, wanted, given, atol) or answer == 0


def root(answer: Any, wanted: Any, given: Any, atol: float) -> bool:
    """HumanEval/32: the answer is a root of the polynomial whose coefficients were given."""
    total = sum(coefficient * math.pow(answer, power) for power, coefficient in enumerate(given[0]))
    return abs(total) <= atol


def surface_area(answer: Any, wanted: Any, given: Any, atol: float) -> bool:
    """MBPP/581: the height may be taken for that of the pyramid instead of its face's."""
    edge, height = given
    other = round(edge**2 + 2 * edge * math.sqrt((edge / 2) ** 2 + height**2))
    return equal(answer, wanted, given, atol) or abs(answer - other) <= atol


def digit_distance(answer: Any, wanted: Any, given: Any, atol: float) -> bool:
    """MBPP/558: numbers of unequal length may be padded with zeros."""
    width = max(len(str(number)) for number in given)
    first, second = (str(number).zfill(width) for number in given)
    other = sum(abs(int(a) - int(b)) for a, b in zip(first, second, strict=True))
    return equal(answer, wanted, given, atol) or answer == other


ORACLES: dict[str, Callable[[Any, Any, Any, float], bool]] = {
    "equal": equal,
    "set": same_set,
    "not_none": not_none,
    "anything": anything,
    "equal_or_zero": equal_or_zero,
    "root": root,
    "surface_area": surface_area,
    "digit_distance": digit_distance,
}
