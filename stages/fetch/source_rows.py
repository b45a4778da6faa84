"""Rows of data/raw out of a source's files: read, recognised, identified; what cannot be used is counted or an error."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stages.common.errors import UserError
from stages.common.schema import row_schema
from stages.fetch.benchmark_formats import basic_skills
from stages.fetch.columns import BelowMinimum, columns_of, reader_of
from stages.fetch.external_sort import ID_DIGITS
from stages.fetch.functions import functions_of
from stages.fetch.origin import File
from stages.fetch.row_errors import MAX_ROW_BYTES, OVERSIZE, SURROGATE, Bad, BadRow
from stages.fetch.settings import Source
from stages.fetch.tables import read

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1024
BATCH_CHARACTERS = 8 * 2**20
LISTED = 100  # bad rows of a source and reason that are listed; all are counted
DETAIL = 300  # characters
Content = tuple[dict[str, Any], str]  # columns; metadata as JSON


@dataclass
class Tally:
    """How the candidates of a source fared."""

    source: str
    drop: bool  # whether a bad row is counted, rather than an error
    reasons: Counter[str] = field(default_factory=Counter)
    formats: dict[str, int] = field(default_factory=dict)  # files of each
    listed: list[dict[str, Any]] = field(default_factory=list)  # bad rows, at most LISTED of a reason
    rows: int = 0  # read and good

    def bad(self, name: str, bad: Bad) -> None:
        """Count a bad row of a file.

        Raises:
            UserError: bad rows are errors; names file and row.
        """
        if not self.drop:
            raise UserError(
                f"{bad.message(name)}. Repair it, or set fetch.on_bad_row=drop, which leaves it out and counts it"
            )
        if sum(row["reason"] == bad.reason for row in self.listed) < LISTED:
            place = {"source": self.source, "file": name, bad.unit: bad.number, "rows": bad.rows}
            self.listed.append({**place, "reason": bad.reason, "detail": bad.detail[:DETAIL]})
        self.reasons[bad.reason] += bad.rows


def batches(source: Source, files: Iterable[File], tally: Tally) -> Iterator["pa.RecordBatch"]:
    """Rows of a source in the schema of data/raw, in the order of its files; `id` is the sum over source and content.

    Raises:
        UserError: a file or row cannot be read, or the source has no row at all.
    """
    made = {"functions": from_functions, "basic_skills": from_basic_skills}.get(source.format)
    contents = made(files, tally) if made else from_columns(source, files, tally)
    waiting: list[dict[str, Any]] = []
    characters = 0
    for row, size in identified(source, contents):
        waiting.append(row)
        characters += size
        if len(waiting) == BATCH_ROWS or characters > BATCH_CHARACTERS:
            yield batch_of(waiting, tally)
            waiting, characters = [], 0
    if waiting:
        yield batch_of(waiting, tally)
    if not tally.rows:
        raise UserError(
            f"source '{source.name}': no row came of it. {dict(tally.reasons) or 'Its files are empty.'}"
        )


def batch_of(rows: list[dict[str, Any]], tally: Tally) -> "pa.RecordBatch":
    import pyarrow as pa

    tally.rows += len(rows)
    return pa.RecordBatch.from_pylist(rows, schema=row_schema())


def from_columns(source: Source, files: Iterable[File], tally: Tally) -> Iterator[Content]:
    make, wanted = reader_of(source), columns_of(source)
    for file in files:
        before = json.dumps({"path": file.name}, ensure_ascii=False)[:-1]
        for item in read_file(file, wanted, tally):
            if isinstance(item, Bad):
                tally.bad(file.name, item)
                continue
            try:
                columns = make(item[1])
                require_fit(columns)
                yield columns, f'{before}, "row": {item[0]}}}'
            except BadRow as error:
                tally.bad(file.name, Bad(item[0], error.reason, str(error)))
            except BelowMinimum as error:
                tally.reasons[f"under the minimum of {error}"] += 1


def read_file(file: File, wanted: Any, tally: Tally) -> Iterator[tuple[int, dict[str, Any]] | Bad]:
    """Rows of a file; one that cannot be opened is bad as a whole."""
    try:
        yield from read(file, wanted, tally.formats)
    except UserError as error:
        if not tally.drop:
            raise
        yield Bad(0, "a file that cannot be opened", str(error))


def require_fit(columns: dict[str, Any]) -> None:
    """Raises BadRow for a row that is too long, or that UTF-8 cannot hold."""
    size = 0
    for text in texts(columns):
        size += len(text)
        if not text.isascii():
            try:
                size += len(text.encode()) - len(text)
            except UnicodeEncodeError:
                raise BadRow(SURROGATE, "a \\ud800-\\udfff alone") from None
    if size > MAX_ROW_BYTES:
        raise BadRow(OVERSIZE, f"{size} bytes")


def texts(columns: dict[str, Any]) -> list[str]:
    found = [columns[name] for name in ("prompt", "completion", "tests") if columns[name] is not None]
    return found + [turn["content"] for turn in columns["messages"] or ()]


def from_functions(files: Iterable[File], tally: Tally) -> Iterator[Content]:
    for file in files:
        tally.formats["Python"] = tally.formats.get("Python", 0) + 1
        for row in functions_of(file.name, file.read(), tally.reasons):
            place = {"path": file.name, "line": row.line, "name": row.name, "helpers": row.helpers}
            yield single(row.prompt, row.completion), metadata(place)
    tally.reasons.pop("taken", None)  # counted again when all sources are mixed


def from_basic_skills(files: Iterable[File], tally: Tally) -> Iterator[Content]:
    for name, number, prompt, completion in basic_skills(files, tally.formats):
        yield single(prompt, completion), metadata({"path": name, "row": number})


def single(prompt: str, completion: str) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, "messages": None, "tests": None}


def metadata(place: dict[str, Any]) -> str:
    return json.dumps(place, sort_keys=True, ensure_ascii=False)


def identified(source: Source, contents: Iterable[Content]) -> Iterator[tuple[dict[str, Any], int]]:
    """Rows with their id, and the length of their content; equal rows have equal ids here."""
    encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode
    given = {"source": source.name, "licence": source.licence}
    for columns, place in contents:
        content = encode([source.name, columns])
        digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:ID_DIGITS]
        yield {"id": digest, **given, **columns, "metadata": place}, len(content)
