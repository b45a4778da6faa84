"""fetch, from files to rows: formats told by bytes and by columns, bad rows counted or refused, in bounded memory."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.common.errors import UserError
from stages.fetch import bad, csv_rows, json_rows, streams
from stages.fetch.bad import Bad
from stages.fetch.tables import read, rows_of
from tests.loopback import made_file

ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}
ROWS = [ALPACA, {**ALPACA, "output": 'three, "3"\nor 3 é'}, {**ALPACA, "input": ""}]
REPOSITORY = Path(__file__).resolve().parents[1]


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def arrow(new: Callable[..., Any], rows: list[dict], chunk: int = 2) -> bytes:
    table, sink = pa.Table.from_pylist(rows), pa.BufferOutputStream()
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=chunk)
    return sink.getvalue().to_pybytes()


def parquet(rows: list[dict], group: int = 2) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=group)
    return sink.getvalue().to_pybytes()


def comma_separated(rows: list[dict]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def zst(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


WRITERS: dict[str, Callable[[list[dict]], bytes]] = {
    "lines": lambda rows: lines(*rows),
    "lines without a last end": lambda rows: lines(*rows)[:-1],
    "array": lambda rows: json.dumps(rows).encode(),
    "pretty array": lambda rows: json.dumps(rows, indent=2, ensure_ascii=False).encode(),
    "pretty objects": lambda rows: "\n".join(json.dumps(row, indent=1) for row in rows).encode(),
    "csv": comma_separated,
    "csv with a mark": lambda rows: b"\xef\xbb\xbf" + comma_separated(rows),
    "parquet": parquet,
    "arrow stream": lambda rows: arrow(pa.ipc.new_stream, rows),
    "arrow file": lambda rows: arrow(pa.ipc.new_file, rows),
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zst,
    "gz in two parts": lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:]),
}  # fmt: skip


def items(data: bytes, name: str = "any.name") -> list[Any]:
    return list(read(made_file(name, data)))


def good(found: list[Any]) -> list[dict]:
    return [item[1] for item in found if not isinstance(item, Bad)]


def wrong(found: list[Any]) -> list[tuple[int, str, int]]:
    return [(item.number, item.reason, item.rows) for item in found if isinstance(item, Bad)]


# Formats of files


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_is_what_its_bytes_say(writer: str, packer: str) -> None:
    for name in ("a.csv", "a.jsonl.gz", "none"):
        assert [row for _, row in rows_of(made_file(name, PACKERS[packer](WRITERS[writer](ROWS))))] == ROWS


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
TABLES = st.lists(st.fixed_dictionaries({"prompt": TEXT, "x,\"y": TEXT}), min_size=1, max_size=8)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(TABLES, st.sampled_from(sorted(WRITERS)), st.sampled_from(sorted(PACKERS)))
def test_any_rows_come_back_from_any_format(rows: list[dict], writer: str, packer: str) -> None:
    found = items(PACKERS[packer](WRITERS[writer](rows)))
    assert wrong(found) == []
    assert good(found) == rows


def test_a_byte_read_at_a_time_gives_the_same_array(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"a": 'x"\\]},{[é\u2028', "b": [1, -2.5e3, True, None, {"c": []}]}, {}, {"a": "\U0001f600"}]
    for writer in ("array", "pretty array", "pretty objects"):
        data = WRITERS[writer](rows)
        monkeypatch.setattr(json_rows, "PIECE", 1)
        assert good(list(json_rows.json_values(io.BytesIO(data)))) == rows


def test_nested_columns_of_parquet_and_arrow_come_as_lists_and_objects() -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}], "n": 1}, {"messages": None, "n": None}]
    for writer in ("parquet", "arrow file", "arrow stream"):
        assert good(items(WRITERS[writer](rows))) == rows
    assert list(read(made_file("x", parquet(rows)), {"n"})) == [(1, {"n": 1}), (2, {"n": None})]


# Bad rows

BIG = 3 * 2**20
OVERSIZE = bad.OVERSIZE


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row over 2 MiB is too big, as 16 MiB are outside tests."""
    for module in (bad, streams, json_rows, csv_rows):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", 2 * 2**20)
    monkeypatch.setattr("stages.fetch.arrow_rows.MAX_ROW_BYTES", 2 * 2**20)


@pytest.mark.parametrize("packer", ["plain", "gz", "zst"])
@pytest.mark.parametrize("writer", [name for name in WRITERS if name != "lines without a last end"])
def test_a_row_that_is_too_big_is_one_bad_row_between_good_ones(
    small_limit: None, writer: str, packer: str
) -> None:
    rows = [ALPACA, {**ALPACA, "output": 'a"{[\\\n' * (BIG // 6)}, {**ALPACA, "output": "last"}]
    found = items(PACKERS[packer](WRITERS[writer](rows)))
    assert good(found) == [rows[0], rows[2]]
    assert wrong(found) == [(2, OVERSIZE, 1)]


@pytest.mark.parametrize(
    ("data", "kept", "expected"),
    [
        (lines(ALPACA) + b'{"text": "x', 1, (2, bad.CUT, 1)),
        (lines(ALPACA) + b'{"text": x}\n' + lines(ALPACA), 2, (2, bad.NOT_JSON, 1)),
        (b"garbage\n" + lines(ALPACA, ALPACA), 2, (1, bad.NOT_JSON, 1)),
        (b'{"text": "\xff"}\n' + lines(ALPACA), 1, (1, bad.NOT_UTF8, 1)),
        (lines(ALPACA) + b"[1]\n3\n", 1, (2, bad.NOT_OBJECT, 1)),
        (lines(ALPACA) + b'{"a": 1, "b": {"c": 1, "c": 2}}\n', 1, (2, bad.DUPLICATE, 1)),
        (lines(ALPACA) + b'{"a": 1, "\\u0061": 2}\n' + lines(ALPACA), 2, (2, bad.DUPLICATE, 1)),
        (lines(ALPACA) + b"[" * 100_000 + b"\n" + lines(ALPACA), 2, (2, bad.NOT_JSON, 1)),
        (b'[{"text": "x"}, {"te', 1, (2, bad.CUT, 1)),
        (b'[{"text": "x"}', 1, (2, bad.CUT, 1)),
        (b'[{"text": "x"}, {"text": "\xff"}, {"text": "y"}]', 2, (2, bad.NOT_UTF8, 1)),
        (b'[{"text": "x"}, {"a": 1, "a": [}]}, {"text": "y"}]', 2, (2, bad.NOT_JSON, 1)),
        (b'[{"text": "x"}, {"a": 1, "a": 2}, {"text": "y"}]', 2, (2, bad.DUPLICATE, 1)),
        (b'[{"text": "x"}, 3, {"text": "y"}]', 2, (2, bad.NOT_OBJECT, 1)),
        (b'[{"text": "x"}, {nope, "]"}, {"text": "y"}]', 2, (2, bad.NOT_JSON, 1)),
        (b'[{"text": "x"}}, {"text": "y"}]', 2, (2, bad.NOT_JSON, 1)),
        (b'[{"text": "x"},, {"text": "y"}]', 2, (2, bad.NOT_JSON, 1)),
        (b'[{"text": "x"}]\n[{"text": "y"}]', 1, (2, bad.NOT_JSON, 1)),
        (b"text,tests\nx\ny,z\n", 1, (1, bad.FIELDS, 1)),
        (b'text,tests\ny,z\n"x', 1, (2, bad.CUT, 1)),
        (b'text,tests\ny,z\n"x"x,y\na,b\n', 2, (2, bad.NOT_CSV, 1)),
        (b"text,tests\ny,\xff\na,b\n", 1, (1, bad.NOT_UTF8, 1)),
        (b"text,text\ny,z\n", 0, (1, bad.DUPLICATE, 1)),
        (b"text,tests\n", 0, (0, bad.EMPTY, 1)),
        (b"", 0, (0, bad.EMPTY, 1)),
        (b"\n", 0, (0, bad.EMPTY, 1)),
        (b"[]", 0, (0, bad.EMPTY, 1)),
        (gzip.compress(b""), 0, (0, bad.EMPTY, 1)),
        ("text\nx".encode("utf-16"), 0, (0, bad.UNREADABLE, 1)),
        (b"\x7fELF\0\0", 0, (0, bad.UNREADABLE, 1)),
        (parquet(ROWS)[:-20], 0, (0, bad.CUT, 1)),
        (arrow(pa.ipc.new_stream, ROWS)[:-8], 3, (4, bad.CUT, 1)),
        (arrow(pa.ipc.new_file, ROWS * 2)[:900], 2, (3, bad.CUT, 1)),
        (b"\x1f\x8b" + b"no gzip", 0, (0, bad.CUT, 1)),
    ],
)  # fmt: skip
def test_a_bad_row_is_told_with_its_place_and_others_are_kept(
    data: bytes, kept: int, expected: tuple[int, str, int]
) -> None:
    found = items(data)
    assert len(good(found)) == kept
    assert wrong(found)[0] == expected
    with pytest.raises(UserError) as error:
        list(rows_of(made_file("x.any", data)))
    assert str(error.value).startswith("x.any")
    assert expected[1] in str(error.value)
    assert not expected[0] or f" {expected[0]}: " in str(error.value)


@pytest.mark.parametrize("packer", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("writer", ["lines", "array", "csv", "arrow stream"])
def test_rows_before_the_cut_of_a_packed_file_are_kept(writer: str, packer: str) -> None:
    import random

    noise = random.Random(0)
    rows = [{"text": "".join(chr(noise.randrange(97, 123)) for _ in range(500))} for _ in range(6000)]
    data = PACKERS[packer](WRITERS[writer](rows) if writer != "arrow stream" else arrow(pa.ipc.new_stream, rows, 50))  # fmt: skip
    found = items(data[: len(data) * 2 // 3])
    kept = good(found)
    assert kept == rows[: len(kept)]
    assert len(kept) > 1500
    assert wrong(found) == [(len(kept) + 1, bad.CUT, 1)]


def test_a_damaged_row_group_is_counted_and_the_others_are_read() -> None:
    data = bytearray(parquet([{"text": f"row {i} " * 20} for i in range(6)]))
    chunk = pq.ParquetFile(pa.BufferReader(bytes(data))).metadata.row_group(1).column(0)
    place = chunk.dictionary_page_offset or chunk.data_page_offset
    data[place : place + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    found = items(bytes(data))
    assert len(good(found)) + sum(rows for _, _, rows in wrong(found)) == 6
    assert [row["text"][:5] for row in good(found)] == ["row 0", "row 1", "row 4", "row 5"]
    assert {reason for _, reason, _ in wrong(found)} == {bad.CUT}


def test_invalid_utf8_and_a_column_twice_in_arrow_are_bad_rows() -> None:
    texts = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"\xff", b"c"]).buffers())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": texts}), sink)
    found = items(sink.getvalue().to_pybytes())
    assert (good(found), wrong(found)) == ([{"text": "a"}, {"text": "c"}], [(2, bad.NOT_UTF8, 1)])
    table, sink = (
        pa.Table.from_arrays([pa.array(["a", "b"])] * 2, names=["text", "text"]),
        pa.BufferOutputStream(),
    )
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert wrong(items(sink.getvalue().to_pybytes())) == [(1, bad.DUPLICATE, 2)]


def test_an_xz_file_that_asks_for_too_much_memory_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**29, "preset": 0}]
    try:
        data = lzma.compress(lines(ALPACA), filters=filters)
    except MemoryError:
        pytest.skip("not enough memory to make it")
    with pytest.raises(UserError, match="unpacking takes more than 256 MiB"):
        items(data)
