"""Rows that cannot be used: what is wrong with them, in words that are counted."""

from dataclasses import dataclass

MAX_ROW_BYTES = 16 * 2**20  # a row over it is bad: no reader holds much more than that of one row

CUT = "cut or damaged"
DUPLICATE = "a column comes twice"
EMPTY = "no rows"
FIELDS = "another number of fields than the header"
FORMAT = "fits no known format"
NOT_CSV = "not CSV"
NOT_JSON = "not JSON"
NOT_OBJECT = "not an object"
NOT_TEXT = "not text where text is due"
NOT_UTF8 = "not UTF-8"
OVERSIZE = f"over {MAX_ROW_BYTES // 2**20} MiB"
SCORE = "no number where a score is due"
SURROGATE = "holds half of a surrogate pair"
TEMPLATE = "the template fails"
UNREADABLE = "not a file that can be read as rows"


@dataclass(frozen=True)
class Bad:
    """A row, or what is left of a file, that cannot be read."""

    number: int  # of the row, or of the line, from 1; 0: the file as a whole
    reason: str  # one of the above: what is counted
    detail: str = ""
    unit: str = "row"
    rows: int = 1  # how many rows are lost, where the file says so

    def place(self, name: str) -> str:
        return f"{name}, {self.unit} {self.number}" if self.number else name

    def message(self, name: str) -> str:
        """What an error says: file, row, reason, detail."""
        return f"{self.place(name)}: {self.reason}{f' ({self.detail})' if self.detail else ''}"


class BadRow(ValueError):
    """A row that was read and fits nothing: its reason, and what is wrong in detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
