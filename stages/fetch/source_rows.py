"""Read a source's files into rows of data/raw with content ids; unusable rows are counted, or errors."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from stages.common.core.errors import UserError
from stages.common.rows.schema import row_schema
from stages.fetch.columns import RowReader
from stages.fetch.licences import PERMISSIVE
from stages.fetch.problem_rows import problem_rows
from stages.fetch.row_errors import (
    EMPTY_FILE,
    MAX_ROW_BYTES,
    OVERSIZE,
    SURROGATE,
    LeftOut,
    ReadRow,
    RejectedRow,
    RowError,
)
from stages.fetch.row_spool import ID_DIGITS
from stages.fetch.settings import BENCHMARK_FORMATS, Source
from stages.fetch.source_file import SourceFile
from stages.fetch.tables import stream_rows
from stages.fetch.text_files import functions_in, place_of, text_of

if TYPE_CHECKING:
    import pyarrow as pa

RAW_BATCH_ROWS = 1024
RAW_BATCH_CHARACTERS = 8 * 2**20
HEAD_ROWS, HEAD_CHARACTERS = 200, 2**20  # of the first rows, whose columns decide the format
MAX_LISTED = 100  # rejected rows listed per source and reason; all are counted
MAX_DETAIL = 300  # characters
TABLE_SUFFIXES = {"", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow"}
PADDED = ("Parquet", "Arrow")  # give all objects of a column the same keys
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
    # For sources.lock.json: the columns that are the row, those that are not used, what else is left out.
    reading: dict[str, Any] = field(default_factory=dict)

    def reject(self, name: str, rejected: RejectedRow, is_error: bool = True) -> None:
        """Count and list a row of a file that cannot be used, or that the source's settings leave out.

        Raises:
            UserError: it cannot be used, and such rows are errors; names file and row.
        """
        if is_error and not self.drop:
            remedy = "Repair it, or set fetch.on_bad_row=drop to skip and count such rows"
            raise UserError(f"{rejected.message(name)}. {remedy}.")
        self.reasons[rejected.reason] += 1
        if self.reasons[rejected.reason] <= MAX_LISTED:
            place = {"source": self.source, "file": name, rejected.unit: rejected.number}
            detail = rejected.detail[:MAX_DETAIL]
            self.listed.append({**place, "reason": rejected.reason, "detail": detail})


def row_batches(
    source: Source, files: Iterable[SourceFile], tally: Tally, licences: Sequence[str] = PERMISSIVE
) -> Iterator["pa.RecordBatch"]:
    """Yield a source's rows in the schema of data/raw, in file order; `id` is a hash of source and content.

    Args:
        licences: those that a row may have where `columns.licence` names a column.

    Raises:
        UserError: a file or row cannot be read, a text would be left out, or there is no usable row.
    """
    files = list(files)
    if source.format == "rows":
        contents = read_table_rows(RowReader(source, licences), files, tally)
    elif source.format in BENCHMARK_FORMATS:
        contents = problem_rows(source, files)
        tally.reading = {"read_as": [f"problems ({source.format})"]}
    else:
        contents = read_whole_files(source, files, tally)
    encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode
    empty = dict.fromkeys(("prompt", "completion", "messages", "tests"))
    waiting: list[dict[str, Any]] = []
    characters = 0
    for columns, metadata in contents:
        licence = columns.pop("licence", source.licence)
        content = encode([source.name, {**empty, **columns}])
        digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:ID_DIGITS]
        place = {"id": digest, "source": source.name, "licence": licence, "metadata": metadata}
        waiting.append({**columns, **place})
        characters += len(content)
        if len(waiting) == RAW_BATCH_ROWS or characters > RAW_BATCH_CHARACTERS:
            yield to_batch(waiting, tally)
            waiting, characters = [], 0
    if waiting:
        yield to_batch(waiting, tally)
    if not tally.rows:
        empty_of = {
            "functions": "no top-level function in its files",
            "documented": "no function in its files",
        }
        nothing = empty_of.get(source.format, "its files are empty")
        reasons = ", ".join(f"{count} {reason}" for reason, count in tally.reasons.items()) or nothing
        hint = hint_on(files, tally) if source.format == "rows" else ""
        raise UserError(f"source '{source.name}' has no usable row: {reasons}{hint}")


def to_batch(rows: list[dict[str, Any]], tally: Tally) -> "pa.RecordBatch":
    import pyarrow as pa

    tally.rows += len(rows)
    return pa.RecordBatch.from_pylist(rows, schema=row_schema())


def read_table_rows(reader: RowReader, files: list[SourceFile], tally: Tally) -> Iterator[RowContent]:
    """Yield the rows of tables; the first ones decide the format, and all are checked for texts left out.

    Raises:
        UserError: see `row_batches`; says so where the file's name is not that of a table.
    """
    items = chain.from_iterable(read_or_reject(file, tally) for file in files)
    head: list[tuple[SourceFile, str, ReadRow]] = []
    size = 0
    for one in items:
        head.append(one)
        size += 0 if isinstance(one[2], RejectedRow) else len(repr(one[2]))
        if len(head) == HEAD_ROWS or size > HEAD_CHARACTERS:
            break
    try:
        if rows := [item[1] for _, _, item in head if not isinstance(item, RejectedRow)]:
            reader.decide(rows, f"source '{reader.source.name}', {head[0][0].name}")
        for file, kind, item in chain(head, items):
            yield from read_row(reader, file, kind, item, tally)
    except UserError as error:
        hint = hint_on(files, tally)
        raise UserError(f"{str(error).partition(' Known: ')[0] if hint else error}{hint}") from None
    if rows:
        tally.reading = reader.summary()


def read_row(
    reader: RowReader, file: SourceFile, kind: str, item: ReadRow, tally: Tally
) -> Iterator[RowContent]:
    """Yield the row, unless it is rejected or left out."""
    if isinstance(item, RejectedRow):
        tally.reject(file.name, item)
        return
    number, row = item
    try:
        columns = reader.read(row, f"{file.name}, row {number}", kind.startswith(PADDED))
        require_row_fits(columns)
    except RowError as error:
        tally.reject(file.name, RejectedRow(number, error.reason, str(error)))
    except LeftOut as error:
        tally.reject(file.name, RejectedRow(number, error.reason, error.detail), is_error=False)
    else:
        yield columns, f'{{"path": {json_text(file.name)}, "row": {number}}}'


@lru_cache(maxsize=1)
def json_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def read_or_reject(file: SourceFile, tally: Tally) -> Iterator[tuple[SourceFile, str, ReadRow]]:
    """Yield the rows of a file with its format; a file that cannot be opened is rejected whole."""
    formats: dict[str, int] = {}
    kind = ""
    try:
        for item in stream_rows(file, formats):
            if not kind:
                kind = min(formats, default="unknown")
                tally.formats[kind] = tally.formats.get(kind, 0) + 1
            yield file, kind, item
    except UserError as error:
        if not tally.drop:
            raise
        yield file, "", RejectedRow(0, "a file that cannot be opened", str(error))


def hint_on(files: Sequence[SourceFile], tally: Tally) -> str:
    """Return what to do about a file that was read as a table, but whose name is not that of one."""
    hints = {".py": ", or `format: functions` for its functions", ".ipynb": ", a notebook by its cells"}
    for file in files:
        suffix = PurePosixPath(re.sub(r"\.(gz|bz2|xz|zst)$", "", file.name)).suffix
        if suffix not in TABLE_SUFFIXES:
            kinds = ", ".join(sorted(tally.formats))
            return (
                f"\n{file.name} was read as a table ({kinds}), since its source has `format: rows`. Set `format: "
                f"text` to take each file as a row of plain text{hints.get(suffix, '')}."
            )
    return ""


def require_row_fits(columns: dict[str, Any]) -> None:
    """Check that UTF-8 can encode a row's texts, and that they are not over MAX_ROW_BYTES.

    Raises:
        RowError: one of the two fails.
    """
    texts = [columns.get(name) for name in ("prompt", "completion", "tools", "tests")]
    texts += [turn.get(name) for turn in columns.get("messages") or () for name in ("content", "extra")]
    try:
        size = sum(len(text) if text.isascii() else len(text.encode()) for text in texts if text)
    except UnicodeEncodeError:
        raise RowError(SURROGATE, "a lone \\ud800-\\udfff") from None
    if size > MAX_ROW_BYTES:
        raise RowError(OVERSIZE, f"{size} bytes")


def read_whole_files(source: Source, files: Iterable[SourceFile], tally: Tally) -> Iterator[RowContent]:
    """Yield a row of plain text a file, or the rows of its functions."""
    left_out: Counter[str] = Counter()
    kind = "text" if source.format == "text" else "Python"
    # where a repository's rows come from; the wheel or data set of others is in sources.lock.json
    commit: dict[str, Any] = {"commit": source.revision} if source.kind == "repository" else {}
    for file in files:
        tally.formats[kind] = tally.formats.get(kind, 0) + 1
        try:
            if kind == "Python":
                for row in functions_in(file, tally.reasons, source.format == "documented"):
                    more = {"helpers": row.helpers} if source.format == "functions" else {}
                    place = place_of(file, line=row.line, name=row.name, **more, **commit)
                    yield {"prompt": row.prompt, "completion": row.completion}, place
            elif (text := text_of(file, left_out)).strip():
                yield (
                    {"prompt": "", "completion": text},
                    place_of(file, **commit, **({"line": 1} if commit else {})),
                )
            else:
                tally.reasons[EMPTY_FILE] += 1
        except RowError as error:
            tally.reject(file.name, RejectedRow(0, error.reason, str(error)))
    tally.reasons.pop("taken", None)  # write_outputs counts it, after mixing
    if left_out:
        tally.reading = {"left_out": dict(left_out)}
