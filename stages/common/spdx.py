"""SPDX licence expressions: the licences one names, and whether a list of licences allows it.

`packaging.licenses` knows the ids and the grammar. Ids are exact: GPL-3.0 is not GPL-3.0-or-later.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from packaging.licenses import canonicalize_license_expression

from stages.common.core.settings import require

MAX_CHARACTERS = 2000  # of an expression; headers of code are read too, whatever stands there
# One licence with its exception, or what joins licences, of a canonical expression
SPDX_PART = re.compile(r"\(|\)|\b(?:AND|OR)\b|[^\s()]+(?: WITH [^\s()]+)?")
JOINS = ("(", ")", "AND", "OR")


@lru_cache(maxsize=1024)
def spdx_parts(expression: str) -> tuple[str, ...]:
    """Return the licences of an expression (each WITH its exception, as SPDX spells them), AND, OR, and brackets.

    Raises:
        ValueError: it is not an SPDX expression, or names a licence that has no id; says why.
    """
    if len(expression) > MAX_CHARACTERS:
        raise ValueError(f"it has more than {MAX_CHARACTERS} characters")
    return tuple(SPDX_PART.findall(canonicalize_license_expression(expression)))


def licence_ids(expression: str) -> list[str]:
    """Return the licences of an expression in its order.

    Raises:
        ValueError: it is not an SPDX expression.
    """
    return [part for part in spdx_parts(expression) if part not in JOINS]


def is_expression(text: str) -> bool:
    try:
        spdx_parts(text)
    except ValueError:
        return False
    return True


def fits(expression: str, test: Callable[[str], bool]) -> bool:
    """Whether licences that pass the test are enough: one side of each OR, all sides of each AND.

    Raises:
        ValueError: it is not an SPDX expression.
    """
    words = (part.lower() if part in JOINS else str(test(part)) for part in spdx_parts(expression))
    return bool(eval(" ".join(words)))  # nothing but True, False, and, or, and brackets


def allowed_ids(key: str, licences: Iterable[str]) -> frozenset[str]:
    """Return a list of licences as SPDX spells them.

    Args:
        key: of the configuration, for the message.

    Raises:
        ValueError: an entry is not one licence; names it.
    """
    found = set()
    for licence in licences:
        one = is_expression(licence) and len(licence_ids(licence)) == 1
        require(one, key, licence, "one SPDX id in each entry, or LicenseRef-<name>")
        found.update(licence_ids(licence))
    return frozenset(found)


@lru_cache(maxsize=1024)
def allows(ids: frozenset[str], expression: str) -> bool:
    """Whether a list allows an expression; an exception (WITH) only permits more. False if it is not SPDX."""
    return is_expression(expression) and fits(
        expression, lambda licence: licence in ids or licence.partition(" WITH ")[0] in ids
    )
