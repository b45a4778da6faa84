"""The licences of what was trained on, and whether they let others have the model and the rows."""

from collections import Counter
from collections.abc import Collection

from stages.common.core.errors import UserError
from stages.common.core.files import open_parquet
from stages.common.core.paths import CLEAN_ROWS
from stages.common.spdx import fits, is_expression, licence_ids

# Parts of an SPDX id, and what such a licence forbids
FORBIDDING = {
    "-NC": "commercial use",
    "-ND": "changed versions",
    "LicenseRef-": "what only its owner knows",
    "NOASSERTION": "nobody knows what",
}


def count_licences() -> Counter[tuple[str, str]]:
    """Return how many rows of data/clean each source has under each licence.

    Raises:
        UserError: the rows are not there.
    """
    table = open_parquet(CLEAN_ROWS).read(columns=["source", "licence"])
    return Counter(zip(table["source"].to_pylist(), table["licence"].to_pylist(), strict=True))


def forbidden(licence: str) -> str:
    """Return what a licence forbids that publishing does, empty if nothing; of an OR, what all sides forbid."""
    if not is_expression(licence):
        return f"unknown: {licence!r} is not an SPDX id"
    if fits(licence, lambda one: not any(part in one for part in FORBIDDING)):
        return ""
    parts = [part for one in licence_ids(licence) for part in FORBIDDING if part in one]
    return " and ".join(dict.fromkeys(FORBIDDING[part] for part in parts))


def require_publishable(rows: Counter[tuple[str, str]], allowed: Collection[str]) -> None:
    """Raise UserError if a licence forbids publishing, unless it is allowed by name; lists every one."""
    lines = [
        f"  {source}: {count} rows under {licence}, which forbids {why}"
        for (source, licence), count in sorted(rows.items())
        if (why := forbidden(licence)) and licence not in allowed
    ]
    if lines:
        ids = " ".join(sorted({f"--allow {licence}" for (_, licence) in rows if forbidden(licence)}))
        raise UserError(
            "nothing was published, since licences of the training rows forbid it:\n"
            + "\n".join(lines)
            + f"\nLeave these sources out and train again; or, if you have the right, say so: {ids}"
        )
