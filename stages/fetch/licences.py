"""Which licences training data may have: an allow-list of SPDX ids."""

import re
from collections.abc import Sequence

# Permissive: use, change and redistribution for any purpose, with attribution at most.
PERMISSIVE = (
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0"),
    *("CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "ISC", "MIT", "MIT-0", "NCSA", "ODC-By-1.0", "PDDL-1.0"),
    *("PSF-2.0", "Python-2.0", "UPL-1.0", "Unlicense", "Zlib"),
)


def allowed(expression: str, licences: Sequence[str]) -> bool:
    """Whether an SPDX expression is covered: one side of each OR, both sides of each AND. Case does not count."""
    known = {licence.casefold() for licence in licences}
    choices = re.split(r"\s+OR\s+", expression.replace("(", " ").replace(")", " ").strip())
    return any(
        all(part.strip().casefold() in known for part in re.split(r"\s+AND\s+", choice)) for choice in choices
    )


def require_allowed(name: str, licence: str, licences: Sequence[str]) -> None:
    """Refuse a training source by its licence.

    Raises:
        ValueError: the licence is not on the list.
    """
    if not allowed(licence, licences):
        raise ValueError(
            f"fetch source '{name}': its licence {licence} is not in fetch.licences, so nothing of it is downloaded. "
            f"Take another source, or add {licence} to fetch.licences if what you will do with the model allows it"
        )
