"""SPDX licence expressions: which licences one names, and whether a list of licences allows it.

The grammar of SPDX 2.3, annex D (https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions): ids, `+`
behind one (that version or a later one), WITH an exception, AND, OR, parentheses. AND binds closer than OR;
case does not count.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from stages.common.settings import require

SPDX_TOKEN = re.compile(r"[()]|[\w.:+-]+", re.ASCII)  # no id has an underscore, but names of the hub do
SPDX_OPERATORS = ("AND", "OR", "WITH")
MAX_TOKENS = 256  # of an expression; headers of code are read too, whatever stands there


class Term(NamedTuple):
    """One licence of an expression. Equal terms mean the same licence, however they are written."""

    licence: str  # lower case, without what says `only` or `or later`
    later: bool = False  # or any later version
    exception: str = ""  # what it is WITH, in lower case


@dataclass(frozen=True)
class Sides:
    """Expressions between AND (all hold) or OR (one is chosen)."""

    operator: str
    sides: tuple["str | Sides", ...]


Expression = str | Sides  # text: one licence as it is written, with its exception


@lru_cache(maxsize=1024)
def parse_expression(expression: str) -> Expression:
    """An expression as a tree.

    Raises:
        ValueError: it is not an SPDX expression; says why.
    """
    tokens = SPDX_TOKEN.findall(expression)
    if "".join(tokens) != "".join(expression.split()):
        raise ValueError("it holds more than ids, AND, OR, WITH and brackets")
    if len(tokens) > MAX_TOKENS:
        raise ValueError(f"it has more than {MAX_TOKENS} words")
    tokens.reverse()  # the next one is the last
    tree = sides(tokens, "OR")
    if tokens:
        raise ValueError(f"expected AND, OR or WITH, found {tokens[-1]!r}")
    return tree


def sides(tokens: list[str], operator: str) -> Expression:
    """What stands between OR, or between AND, taken off the tokens."""
    found: list[Expression] = []
    while not found or (tokens and tokens[-1].upper() == operator and tokens.pop()):
        found.append(sides(tokens, "AND") if operator == "OR" else single(tokens))
    return found[0] if len(found) == 1 else Sides(operator, tuple(found))


def single(tokens: list[str]) -> Expression:
    """A licence, or an expression in brackets, taken off the tokens."""
    if tokens and tokens[-1] == "(":
        tokens.pop()
        inner = sides(tokens, "OR")
        if not tokens or tokens.pop() != ")":
            raise ValueError("a bracket is not closed")
        return inner
    name = identifier(tokens, "a licence")
    if not tokens or tokens[-1].upper() != "WITH":
        return name
    tokens.pop()
    return f"{name} WITH {identifier(tokens, 'an exception after WITH')}"


def identifier(tokens: list[str], due: str) -> str:
    token = tokens.pop() if tokens else ""
    if token in ("", "(", ")") or token.upper() in SPDX_OPERATORS:
        raise ValueError(f"expected {due}, found {token or 'its end'!r}")
    return token


def names(expression: str) -> list[str]:
    """The licences of an expression as they are written, in its order.

    Raises:
        ValueError: it is not an SPDX expression.
    """
    waiting, found = [parse_expression(expression)], []
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            found.append(node)
        else:
            waiting += reversed(node.sides)
    return found


def term(name: str) -> Term:
    """One licence as a term: `-only` says no more than the bare id, `-or-later` the same as `+`."""
    licence, _, exception = name.casefold().partition(" with ")
    base = licence.removesuffix("+").removesuffix("-or-later")
    return Term(base.removesuffix("-only"), base != licence, exception)


def listing(key: str, licences: Iterable[str]) -> frozenset[Term]:
    """A list of licences, each one id (WITH an exception), to hold expressions to.

    Args:
        key: of the configuration, for the message.

    Raises:
        ValueError: an entry is not one licence; names it.
    """
    found = set()
    for licence in licences:
        require(
            is_expression(licence) and len(names(licence)) == 1, key, licence, "one SPDX id in each entry"
        )
        found.add(term(names(licence)[0]))
    return frozenset(found)


def is_expression(text: str) -> bool:
    try:
        parse_expression(text)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=1024)
def allows(listed: frozenset[Term], expression: str) -> bool:
    """Whether a list allows one side of each OR and all sides of each AND; False if it is not an SPDX expression."""
    return is_expression(expression) and holds(
        parse_expression(expression), lambda name: is_listed(name, listed)
    )


def holds(node: Expression, fits: Callable[[str], bool]) -> bool:
    """Whether licences that fit are enough: one side of each OR, all sides of each AND."""
    if isinstance(node, str):
        return fits(node)
    return (any if node.operator == "OR" else all)(holds(side, fits) for side in node.sides)


def is_listed(name: str, listed: frozenset[Term]) -> bool:
    """Whether a licence is listed, or the version it names, or it without its exception, which only permits more."""
    licence, later, exception = term(name)
    return any(Term(licence, v, e) in listed for v in {later, False} for e in {exception, ""})
