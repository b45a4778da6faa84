"""Licence expressions: which are allowed by a list, which are none, what they name."""

import pytest

from stages.common.spdx import MAX_TOKENS, allows, is_expression, listing, names, parse_expression

LISTED = listing("fetch.licences", ["MIT", "Apache-2.0", "GPL-2.0-or-later", "LGPL-2.1-only", "GPL-3.0-only WITH GCC-exception-3.1"])  # fmt: skip


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", True),
        ("mit", True),
        (" Mit\t", True),
        ("ISC", False),  # known, not listed
        ("Nobody-Knows-1.0", False),
        ("MIT OR ISC", True),
        ("ISC OR MIT", True),
        ("ISC or mit", True),
        ("ISC OR GPL-3.0-only", False),
        ("MIT AND Apache-2.0", True),
        ("MIT AND ISC", False),
        ("ISC AND ISC OR MIT", True),  # AND binds closer than OR
        ("MIT OR ISC AND ISC", True),
        ("ISC AND (ISC OR MIT)", False),
        ("MIT AND (ISC OR Apache-2.0)", True),
        ("(MIT OR ISC) AND Apache-2.0", True),
        ("(MIT AND ISC) OR (Apache-2.0 AND MIT)", True),
        ("((MIT))", True),
        ("(MIT)OR(ISC)", True),
        ("MIT WITH Some-exception", True),  # an exception only permits more
        ("ISC WITH Some-exception", False),
        ("GPL-3.0-only", False),  # listed with its exception alone
        ("gpl-3.0 with gcc-exception-3.1", True),
        ("GPL-3.0-only WITH Classpath-exception-2.0", False),
        ("ISC OR MIT WITH Some-exception AND Apache-2.0", True),
        ("Apache-2.0+", True),  # 2.0 or later: 2.0 can be chosen
        ("ISC+", False),
        ("GPL-2.0+", True),  # another name of GPL-2.0-or-later
        ("GPL-2.0-only", False),  # it is not "or later", which the list asks for
        ("LGPL-2.1", True),  # the old name of LGPL-2.1-only
        ("LGPL-2.1-or-later", True),
        ("LicenseRef-mine", False),
    ],
)
def test_a_list_allows_one_side_of_or_and_both_of_and(expression: str, expected: bool) -> None:
    assert is_expression(expression)
    assert allows(LISTED, expression) is expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expected a licence, found 'its end'"),
        ("MIT AND", "expected a licence, found 'its end'"),
        ("OR MIT", "expected a licence, found 'OR'"),
        ("MIT OR OR MIT", "expected a licence, found 'OR'"),
        ("MIT Apache-2.0", "expected AND, OR or WITH, found 'Apache-2.0'"),
        ("MIT, Apache-2.0", "more than ids"),
        ("MIT/Apache-2.0", "more than ids"),
        ("(MIT", "a bracket is not closed"),
        ("MIT)", "expected AND, OR or WITH, found ')'"),
        ("()", "expected a licence, found ')'"),
        ("MIT WITH", "expected an exception after WITH"),
        ("MIT WITH (MIT)", "expected an exception after WITH"),
        ("(MIT OR ISC) WITH X", "expected AND, OR or WITH, found 'WITH'"),
        ("MIT OR " * MAX_TOKENS + "MIT", "more than 256 words"),
        ("(" * 100_000, "more than 256 words"),
    ],
)
def test_an_invalid_expression_is_not_allowed_and_says_why(text: str, why: str) -> None:
    assert not is_expression(text)
    assert not allows(LISTED, text)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        parse_expression(text)
    assert why in str(error.value)


def test_the_deepest_nesting_within_the_limit_is_read() -> None:
    depth = (MAX_TOKENS - 1) // 2
    assert allows(LISTED, "(" * depth + "MIT" + ")" * depth)


def test_names_are_the_licences_as_they_are_written() -> None:
    text = "(mit AND GPL-2.0+ WITH Classpath-exception-2.0) or (ISC AND (X OR Y))"
    assert names(text) == ["mit", "GPL-2.0+ WITH Classpath-exception-2.0", "ISC", "X", "Y"]


@pytest.mark.parametrize("entry", ["MIT OR ISC", "Apache 2.0", ""])
def test_an_entry_of_a_list_is_one_licence(entry: str) -> None:
    with pytest.raises(ValueError, match=r"fetch\.licences is '.*': expected one SPDX id in each entry"):
        listing("fetch.licences", ["MIT", entry])
