"""Rows that cannot be used, and the reasons by which they are counted."""

from dataclasses import dataclass
from typing import Any

MAX_ROW_BYTES = 16 * 2**20  # a larger row is rejected, so no reader holds much more than this of a row

# Reasons: keys of reports/fetch.json and values in data/raw/bad_rows.jsonl.
CUT = "cut or damaged"
DUPLICATE = "a column comes twice"
EMPTY = "no rows"
EMPTY_FILE = "an empty file"
FIELD_COUNT = "another number of fields than the header"
FORMAT = "fits no known format"
LICENCE = "a licence of its own that is not in fetch.licences"
NOT_CSV = "not CSV"
NOT_JSON = "not JSON"
NOT_NOTEBOOK = "not a notebook"
NOT_OBJECT = "not an object"
NOT_PYTHON = "not Python that parses"
NOT_TEXT = "not text"
NOT_UTF8 = "not UTF-8"
OVERSIZE = f"over {MAX_ROW_BYTES // 2**20} MiB"
SCORE = "the score is not a number"
SURROGATE = "holds half of a surrogate pair"
TEMPLATE = "the template fails"
UNREADABLE = "not a file that can be read as rows"


@dataclass(frozen=True)
class RejectedRow:
    """A row, or the rest of a file, that cannot be used."""

    # Number of the row or line, from 1; 0: the whole file.
    number: int
    # One of the reasons above.
    reason: str
    detail: str = ""
    # What `number` counts: row or line.
    unit: str = "row"

    def message(self, name: str) -> str:
        """Return file, row, reason and detail as an error message."""
        place = f"{name}, {self.unit} {self.number}" if self.number else name
        return f"{place}: {self.reason}{f' ({self.detail})' if self.detail else ''}"


ReadRow = (
    tuple[int, dict[str, Any]] | RejectedRow
)  # number (from 1) and columns of a row, or why it is rejected


class RowError(ValueError):
    """A row was read but cannot be used: the reason, and as text the detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class LeftOut(Exception):
    """A row that the source's settings leave out: the reason by which it is counted, and a detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail
