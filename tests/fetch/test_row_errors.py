"""fetch: each reason to reject a row, in each format: the row is counted and dropped, or an error names file and row."""

import gzip
import io
import json
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.common.core.errors import UserError
from stages.common.core.files import read_json, read_jsonl, sha256_file
from stages.fetch import row_errors
from tests.fetch.test_readers import WRITERS, file_source, small_limit  # noqa: F401
from tests.helpers.fetch_reading import source_rows
from tests.helpers.loopback_hub import made_file, run_stage, stage_folder

GOOD = {"text": "good", "code": None}
FORMATS = ("lines", "array", "pretty objects", "csv", "parquet", "arrow file", "arrow stream")
TEXTUAL, BINARY = FORMATS[:4], FORMATS[4:]
JSON = FORMATS[:3]


def table_bytes(table: pa.Table, kind: str) -> bytes:
    sink = io.BytesIO()
    if kind == "parquet":
        pq.write_table(table, sink)
    else:
        with (pa.ipc.new_file if kind == "arrow file" else pa.ipc.new_stream)(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=1)
    return sink.getvalue()


def three(value: object, kind: str) -> bytes:
    """A good row, one whose text is another value, a good row."""
    return WRITERS[kind]([{"text": "good"}, {"text": value}, {"text": "good"}])


def not_utf8(kind: str) -> bytes:
    if kind in BINARY:
        texts = pa.Array.from_buffers(pa.string(), 3, pa.array([b"good", b"\xff\xfe", b"good"]).buffers())
        return table_bytes(pa.table({"text": texts}), kind)
    return WRITERS[kind]([{"text": "good"}, {"text": "BAD"}, {"text": "good"}]).replace(b"BAD", b"\xff\xfe")


def twice(kind: str) -> bytes:
    """A column twice: of the second row in JSON, of all three in a table."""
    if kind in JSON:
        return WRITERS[kind]([{"text": "good"}, {"text": "BAD", "texT": "x"}, {"text": "good"}]).replace(b"texT", b"text")  # fmt: skip
    if kind == "csv":
        return b"text,text\na,b\na,b\na,b\n"
    return table_bytes(pa.Table.from_arrays([pa.array(["a", "b", "c"])] * 2, names=["text", "text"]), kind)


def big(kind: str) -> bytes:
    return WRITERS[kind]([{"text": "good"}, {"text": "x" * (3 * 2**20)}, {"text": "good"}])


def cut(kind: str) -> bytes:
    """Two good rows and the beginning of a third; of Parquet and Arrow files nothing can be read without their end."""
    rows = [{"text": "good"}, {"text": "good"}, {"text": "y" * 2000}]
    data = table_bytes(pa.Table.from_pylist(rows), kind) if kind in BINARY else WRITERS[kind](rows)
    if kind == "csv":
        return data.replace(b"y" * 2000, b'"' + b"y" * 1000)[:-2]
    return data[: data.index(b"y" * 500) + 500] if kind != "parquet" else data[:-30]


def empty(kind: str) -> bytes:
    return {"lines": b"", "array": b" ", "csv": b"\n"}[kind]


def header_only(kind: str) -> bytes:
    if kind in BINARY:
        return table_bytes(pa.table({"text": pa.array([], pa.string())}), kind)
    return b"[]" if kind == "array" else b"text\n"


MADE = {
    # kind of badness: formats, the file, rows that are good, reason, rows that are bad, the first bad row (0: the file)
    "null": (("lines", "array", "pretty objects", "parquet", "arrow file", "arrow stream"), lambda k: three(None, k), 2, row_errors.FORMAT, 1, 2),
    "nested": (JSON, lambda k: three({"a": ["b"]}, k), 2, row_errors.NOT_TEXT, 1, 2),
    "mixed types": (JSON, lambda k: three(3, k), 2, row_errors.NOT_TEXT, 1, 2),
    "not UTF-8": (FORMATS, not_utf8, 2, row_errors.NOT_UTF8, 1, 2),
    "too big": (("lines", *BINARY), big, 2, row_errors.OVERSIZE, 1, 2),
    "too big, with what follows": (("array", "pretty objects", "csv"), big, 1, row_errors.OVERSIZE, 1, 2),
    "a column twice": (JSON, twice, 2, row_errors.DUPLICATE, 1, 2),
    "a column of all rows twice": (("csv", "parquet", "arrow file", "arrow stream"), twice, 0, row_errors.DUPLICATE, 1, 0),
    "cut": (("lines", "array", "pretty objects", "csv", "arrow stream"), cut, 2, row_errors.CUT, 1, 3),
    "cut before its footer": (("parquet", "arrow file"), cut, 0, row_errors.CUT, 1, 0),
    "an empty file": (("lines", "array", "csv"), empty, 0, row_errors.EMPTY, 1, 0),
    "a header only": (("array", "csv", *BINARY), header_only, 0, row_errors.EMPTY, 1, 0),
}  # fmt: skip
CASES = [(name, kind) for name, (kinds, *_) in MADE.items() for kind in kinds]


@pytest.mark.parametrize("packer", ["plain", "gz"])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_bad_row_is_a_counted_drop_or_an_error_that_names_file_and_row(
    small_limit: None,  # noqa: F811
    name: str,
    kind: str,
    packer: str,
) -> None:
    _, make, good, reason, lost, first = MADE[name]
    data = make(kind)
    files = [
        made_file("sub/bad.x", gzip.compress(data) if packer == "gz" else data),
        made_file("whole", WRITERS["lines"]([GOOD])),
    ]
    rows, reasons = source_rows(file_source(), files, drop=True)
    assert [row["completion"] for row in rows] == ["good"] * (good + 1)
    assert reasons == {"taken": good + 1, reason: lost}
    with pytest.raises(UserError) as error:
        source_rows(file_source(), files)
    message = str(error.value)
    units = ("row", "line") if kind == "lines" else ("row",)
    places = [f"sub/bad.x, {unit} {first}: {reason}" for unit in units] if first else [f"sub/bad.x: {reason}"]
    assert message.startswith(tuple(places)), message
    assert "set fetch.on_bad_row=drop" in message


@pytest.mark.slow
def test_the_stage_lists_what_it_drops_and_writes_nothing_where_bad_rows_are_errors(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": None}, {"text": "b"}, {"text": [1]}, {"text": "a"}]
    path = tmp_path / "data/sources/x.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(
        b"\n".join([*(json.dumps(row).encode() for row in rows), b'{"text": "\xff"}', b'{"text"'])
    )
    one = {"name": "mine", "kind": "file", "path": "data/sources/x.jsonl", "sha256": sha256_file(path), "licence": "MIT", "max_rows": 9}  # fmt: skip
    for on_bad_row in ("fail", "drop"):
        place = stage_folder(tmp_path, {"fetch": {"sources": [one], "benchmarks": {}, "on_bad_row": on_bad_row}})  # fmt: skip
        done = run_stage(place, "fetch")
        if on_bad_row == "fail":
            assert done.returncode == 1
            assert done.stderr.startswith("error in stage fetch: data/sources/x.jsonl, row 2: fits no known format")  # fmt: skip
            assert not (place / "data/raw").exists()
            assert not (place / "data/.fetch.tmp").exists()
    assert done.returncode == 0, done.stderr
    report = read_json(place / "reports/fetch.json")["sources"]["mine"]
    assert report["reasons"] == {
        "taken": 3,
        row_errors.FORMAT: 1,
        row_errors.NOT_TEXT: 1,
        row_errors.NOT_UTF8: 1,
        row_errors.CUT: 1,
    }
    assert report["candidates"] == 7
    assert [(row["reason"], row.get("row", row.get("line"))) for row in read_jsonl(place / "data/raw/bad_rows.jsonl")] == [
        (row_errors.FORMAT, 2), (row_errors.NOT_TEXT, 4), (row_errors.NOT_UTF8, 6), (row_errors.CUT, 7),
    ]  # fmt: skip


@pytest.mark.parametrize("on_bad_row", ["fail", "drop"])
def test_a_loop_of_links_cannot_match_a_pin(on_bad_row: str, tmp_path: Path) -> None:
    path = tmp_path / "data/sources/loop"
    path.parent.mkdir(parents=True)
    path.symlink_to("loop")
    one = {"name": "mine", "kind": "file", "path": "data/sources/loop", "sha256": "0" * 64, "licence": "MIT"}
    place = stage_folder(tmp_path, {"fetch": {"sources": [one], "benchmarks": {}, "on_bad_row": on_bad_row}})
    done = run_stage(place, "fetch")
    assert done.returncode == 1
    assert "source 'mine': data/sources/loop is a loop of symbolic links" in done.stderr


@pytest.mark.parametrize("kind", ["parquet", "arrow file"])
def test_a_full_disk_is_not_reported_as_a_bad_file(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    full = partial(open, "/dev/full", "wb")
    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    file = made_file("x", gzip.compress(WRITERS[kind]([GOOD, GOOD])))
    with pytest.raises(OSError, match="No space left"):
        source_rows(file_source(), [file], drop=True)
