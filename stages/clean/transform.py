"""Repair the text of rows before any rule sees it: line ends, byte order marks, redaction.

Nothing that a program computes with is changed: a control character may stand in a literal, and NFC would
change one. Python folds names itself, and the digests of duplicates do their own folding.
"""

from collections import Counter

from stages.clean.settings import CleanSettings
from stages.clean.texts import Record, change_texts

BOM = "\ufeff"


def transform_records(records: list[Record], settings: CleanSettings) -> tuple[list[Record], Counter[str]]:
    """Return records of `row_schema()` with repaired texts, and how many were changed, by kind; of redaction
    also the places, as `<kind>_places`.

    A pure function of each record: the others do not matter.
    """
    counts: Counter[str] = Counter()
    mended = []
    for record in records:
        record, kinds = change_texts(record, clean_line_ends)
        mended.append(record)
        counts.update(kinds.keys())
    if not (settings.redact.secrets or settings.redact.personal):
        return mended, counts
    from stages.clean.redact.redact import redact_records  # imports detect-secrets

    redacted = redact_records(mended, settings.redact, settings.layout)
    for _, places in redacted:
        counts.update(places.keys())
        counts.update({f"{kind}_places": number for kind, number in places.items()})
    return [record for record, _ in redacted], counts


def clean_line_ends(text: str) -> tuple[str, dict[str, int]]:
    """Return text with line feeds for line ends, as Python reads them, and without byte order marks first."""
    kinds = {}
    if "\r" in text:
        kinds["line_ends"] = text.count("\r")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.startswith(BOM):
        text = text.lstrip(BOM)
        kinds["encoding"] = 1
    return text, kinds
