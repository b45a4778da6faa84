"""Read a source's files into rows of data/raw with content ids; unusable rows are counted, or errors."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stages.common.errors import UserError
from stages.common.schema import row_schema
from stages.fetch.benchmark_formats import basic_skill_functions
from stages.fetch.columns import BelowMinimum, required_columns, row_reader
from stages.fetch.functions import functions_of
from stages.fetch.row_errors import MAX_ROW_BYTES, OVERSIZE, SURROGATE, RejectedRow, RowError
from stages.fetch.row_spool import ID_DIGITS
from stages.fetch.settings import Source
from stages.fetch.source_file import SourceFile
from stages.fetch.tables import stream_rows

if TYPE_CHECKING:
    import pyarrow as pa

RAW_BATCH_ROWS = 1024
RAW_BATCH_CHARACTERS = 8 * 2**20
MAX_LISTED = 100  # rejected rows listed per source and reason; all are counted
MAX_DETAIL = 300  # characters
RowContent = tuple[dict[str, Any], str]  # columns of a row, and its metadata as JSON


@dataclass
class Tally:
    """Counts a source's usable rows, and the rejected ones by reason."""

    source: str
    # Whether to count a rejected row, instead of raising.
    drop: bool
    reasons: Counter[str] = field(default_factory=Counter)
    # Number of files of each format.
    formats: dict[str, int] = field(default_factory=dict)
    # Rejected rows for bad_rows.jsonl, at most MAX_LISTED of a reason.
    listed: list[dict[str, Any]] = field(default_factory=list)
    # Usable rows.
    rows: int = 0

    def reject(self, name: str, rejected: RejectedRow) -> None:
        """Count and list a rejected row of a file.

        Raises:
            UserError: rejected rows are errors; names file and row.
        """
        if not self.drop:
            raise UserError(
                f"{rejected.message(name)}. Repair it, or set fetch.on_bad_row=drop to skip and count such "
                "rows."
            )
        reason = rejected.reason
        if sum(row["reason"] == reason for row in self.listed) < MAX_LISTED:
            place = {
                "source": self.source,
                "file": name,
                rejected.unit: rejected.number,
                "rows": rejected.rows,
            }
            self.listed.append({**place, "reason": reason, "detail": rejected.detail[:MAX_DETAIL]})
        self.reasons[reason] += rejected.rows


def row_batches(source: Source, files: Iterable[SourceFile], tally: Tally) -> Iterator["pa.RecordBatch"]:
    """Yield a source's rows in the schema of data/raw, in file order; `id` is a hash of source and content.

    Raises:
        UserError: a file or row cannot be read, or the source has no usable row.
    """
    readers = {"functions": read_function_rows, "basic_skills": read_basic_skills}
    reader = readers.get(source.format)
    contents = reader(files, tally) if reader else read_table_rows(source, files, tally)
    waiting: list[dict[str, Any]] = []
    characters = 0
    for row, size in with_content_ids(source, contents):
        waiting.append(row)
        characters += size
        if len(waiting) == RAW_BATCH_ROWS or characters > RAW_BATCH_CHARACTERS:
            yield to_batch(waiting, tally)
            waiting, characters = [], 0
    if waiting:
        yield to_batch(waiting, tally)
    if not tally.rows:
        raise UserError(
            f"source '{source.name}' has no usable row: "
            f"{', '.join(f'{count} {reason}' for reason, count in tally.reasons.items()) or 'its files are empty'}"
        )


def to_batch(rows: list[dict[str, Any]], tally: Tally) -> "pa.RecordBatch":
    import pyarrow as pa

    tally.rows += len(rows)
    return pa.RecordBatch.from_pylist(rows, schema=row_schema())


def read_table_rows(source: Source, files: Iterable[SourceFile], tally: Tally) -> Iterator[RowContent]:
    read_row, wanted = row_reader(source), required_columns(source)
    for file in files:
        metadata_start = json.dumps({"path": file.name}, ensure_ascii=False)[:-1]
        for item in read_or_reject(file, wanted, tally):
            if isinstance(item, RejectedRow):
                tally.reject(file.name, item)
                continue
            number, row = item
            try:
                columns = read_row(row)
                require_row_fits(columns)
                yield columns, f'{metadata_start}, "row": {number}}}'
            except RowError as error:
                tally.reject(file.name, RejectedRow(number, error.reason, str(error)))
            except BelowMinimum as error:
                tally.reasons[f"under the minimum of {error}"] += 1


def read_or_reject(
    file: SourceFile, wanted: Any, tally: Tally
) -> Iterator[tuple[int, dict[str, Any]] | RejectedRow]:
    """Yield the rows of a file; a file that cannot be opened is rejected whole."""
    try:
        yield from stream_rows(file, wanted, tally.formats)
    except UserError as error:
        if not tally.drop:
            raise
        yield RejectedRow(0, "a file that cannot be opened", str(error))


def require_row_fits(columns: dict[str, Any]) -> None:
    """Check that UTF-8 can encode a row's texts, and that they are not over MAX_ROW_BYTES.

    Raises:
        RowError: one of the two fails.
    """
    size = 0
    for text in row_texts(columns):
        size += len(text)
        if not text.isascii():
            try:
                size += len(text.encode()) - len(text)
            except UnicodeEncodeError:
                raise RowError(SURROGATE, "a lone \\ud800-\\udfff") from None
    if size > MAX_ROW_BYTES:
        raise RowError(OVERSIZE, f"{size} bytes")


def row_texts(columns: dict[str, Any]) -> list[str]:
    texts = [columns[name] for name in ("prompt", "completion", "tests") if columns[name] is not None]
    return texts + [turn["content"] for turn in columns["messages"] or ()]


def read_function_rows(files: Iterable[SourceFile], tally: Tally) -> Iterator[RowContent]:
    for file in files:
        tally.formats["Python"] = tally.formats.get("Python", 0) + 1
        for row in functions_of(file.name, file.read(), tally.reasons):
            place = {"path": file.name, "line": row.line, "name": row.name, "helpers": row.helpers}
            yield single_turn(row.prompt, row.completion), metadata_json(place)
    tally.reasons.pop("taken", None)  # write_outputs counts it, after mixing


def read_basic_skills(files: Iterable[SourceFile], tally: Tally) -> Iterator[RowContent]:
    for name, number, prompt, completion in basic_skill_functions(files, tally.formats):
        yield single_turn(prompt, completion), metadata_json({"path": name, "row": number})


def single_turn(prompt: str, completion: str) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, "messages": None, "tests": None}


def metadata_json(place: dict[str, Any]) -> str:
    return json.dumps(place, sort_keys=True, ensure_ascii=False)


def with_content_ids(source: Source, contents: Iterable[RowContent]) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield rows with their id and the length of their content; equal rows still have equal ids."""
    encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode
    constants = {"source": source.name, "licence": source.licence}
    for columns, metadata in contents:
        content = encode([source.name, columns])
        digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:ID_DIGITS]
        yield {"id": digest, **constants, **columns, "metadata": metadata}, len(content)
