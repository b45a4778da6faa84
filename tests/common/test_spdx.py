"""Licence expressions: what a list of licences allows, and what is not an expression."""

import pytest

from stages.common.spdx import (
    MAX_CHARACTERS,
    allowed_ids,
    allows,
    fits,
    is_expression,
    licence_ids,
    spdx_parts,
)

LISTED = allowed_ids("fetch.licences", ["mit", "ISC", "GPL-2.0-or-later", "LicenseRef-Mine", "Apache-2.0 WITH LLVM-exception"])  # fmt: skip


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", True),
        ("mit", True),
        ("MIT OR AGPL-3.0-only", True),
        ("mit or AGPL-3.0-only", True),
        ("MIT AND AGPL-3.0-only", False),
        ("MIT OR ISC AND AGPL-3.0-only", True),  # AND binds closer
        ("(MIT OR ISC) AND AGPL-3.0-only", False),
        ("AGPL-3.0-only AND (MIT OR ISC)", False),
        ("GPL-2.0-or-later WITH Classpath-exception-2.0", True),  # an exception permits more
        ("Apache-2.0 WITH LLVM-exception", True),
        ("Apache-2.0", False),  # listed with its exception only
        ("GPL-2.0-only", False),
        ("GPL-2.0", False),  # ids are exact
        ("LicenseRef-mine", False),
        ("LicenseRef-Mine", True),
    ],
)
def test_a_list_allows_one_side_of_or_and_both_of_and(expression: str, expected: bool) -> None:
    assert is_expression(expression)
    assert allows(LISTED, expression) is expected


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "MIT AND", "OR MIT", "MIT OR OR MIT", "MIT Apache-2.0", "MIT, Apache-2.0", "MIT/Apache-2.0"),
        *("(MIT", "MIT)", "()", "MIT WITH", "MIT WITH (MIT)", "(MIT OR ISC) WITH LLVM-exception"),
        *("Proprietary", "apache 2.0", "BSD", "see LICENSE", "__import__('os')", "(" * 500),
        "MIT OR " * MAX_CHARACTERS + "MIT",
    ],
)  # fmt: skip
def test_an_invalid_expression_is_not_allowed_and_says_why(text: str) -> None:
    assert not is_expression(text)
    assert not allows(LISTED, text)
    with pytest.raises(ValueError, match=r".+"):
        spdx_parts(text)


def test_licences_are_named_as_spdx_spells_them() -> None:
    text = "(mit AND gpl-2.0+ with classpath-exception-2.0) or (ISC AND (x11 OR LicenseRef-Own))"
    assert licence_ids(text) == ["MIT", "GPL-2.0+ WITH Classpath-exception-2.0", "ISC", "X11", "LicenseRef-Own"]  # fmt: skip
    assert fits(text, lambda licence: licence in ("X11", "ISC"))
    assert not fits(text, lambda licence: licence in ("X11", "MIT"))


@pytest.mark.parametrize("entry", ["MIT OR ISC", "Apache 2.0", ""])
def test_an_entry_of_a_list_is_one_licence(entry: str) -> None:
    with pytest.raises(ValueError, match=r"fetch\.licences is '.*': expected one SPDX id in each entry"):
        allowed_ids("fetch.licences", ["MIT", entry])
