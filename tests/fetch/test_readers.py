"""fetch: formats recognised by bytes and columns, bad rows counted or refused, mixing, in bounded memory."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.common.core.errors import UserError
from stages.common.core.files import ROW_GROUP_ROWS, write_parquet
from stages.common.rows import row_groups as row_groups_module
from stages.common.rows.row_groups import row_groups
from stages.common.rows.schema import row_schema
from stages.fetch import compression, csv_rows, json_rows, mixing, row_errors
from stages.fetch.row_errors import RejectedRow, RowError
from stages.fetch.row_spool import RowSpool, places_among_equal
from stages.fetch.settings import Source
from stages.fetch.source_file import SourceFile
from stages.fetch.source_rows import Tally, row_batches
from stages.fetch.tables import stream_rows, stream_strict_rows
from tests.helpers.fetch_reading import mixed, read_one, source_rows
from tests.helpers.loopback_hub import made_file

ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}
ROWS = [ALPACA, {**ALPACA, "output": 'three, "3"\nor 3 é'}, {**ALPACA, "input": ""}]


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
    "plain": bytes, "gz": lambda data: gzip.compress(data, 4), "bz2": bz2.compress, "xz": lambda data: lzma.compress(data, preset=0), "zst": zst,
    "gz in two parts": lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:]),
}  # fmt: skip


def items(data: bytes, name: str = "any.name") -> list[Any]:
    return list(stream_rows(made_file(name, data)))


def good(found: list[Any]) -> list[dict]:
    return [item[1] for item in found if not isinstance(item, RejectedRow)]


def wrong(found: list[Any]) -> list[tuple[int, str]]:
    return [(item.number, item.reason) for item in found if isinstance(item, RejectedRow)]


# Formats of files


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_format_is_recognised_by_the_bytes_of_the_file(writer: str, packer: str) -> None:
    for name in ("a.csv", "a.jsonl.gz", "none"):
        assert [
            row for _, row in stream_strict_rows(made_file(name, PACKERS[packer](WRITERS[writer](ROWS))))
        ] == ROWS


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
TABLES = st.lists(st.fixed_dictionaries({"prompt": TEXT, "x,\"y": TEXT}), min_size=1, max_size=8)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(TABLES, st.sampled_from(sorted(WRITERS)), st.sampled_from(sorted(PACKERS)))
def test_any_rows_survive_any_format(rows: list[dict], writer: str, packer: str) -> None:
    found = items(PACKERS[packer](WRITERS[writer](rows)))
    assert wrong(found) == []
    assert good(found) == rows


def test_a_byte_read_at_a_time_gives_the_same_array(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"a": 'x"\\]},{[é\u2028', "b": [1, -2.5e3, True, None, {"c": []}]}, {}, {"a": "\U0001f600"}]
    for writer in ("array", "pretty array", "pretty objects"):
        data = WRITERS[writer](rows)
        monkeypatch.setattr(json_rows, "PIECE", 1)
        assert good(list(json_rows.json_values(io.BytesIO(data)))) == rows


def test_nested_columns_of_parquet_and_arrow_become_lists_and_objects() -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}], "n": 1}, {"messages": None, "n": None}]
    for writer in ("parquet", "arrow file", "arrow stream"):
        assert good(items(WRITERS[writer](rows))) == rows


# Bad rows

BIG = 3 * 2**20
OVERSIZE = row_errors.OVERSIZE


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row over 2 MiB is too big, as 16 MiB are outside tests."""
    for module in (row_errors, compression, json_rows, csv_rows):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", 2 * 2**20)
    monkeypatch.setattr("stages.fetch.arrow_rows.MAX_ROW_BYTES", 2 * 2**20)


@pytest.mark.slow
@pytest.mark.parametrize("packer", ["plain", "gz", "zst"])
@pytest.mark.parametrize("writer", [name for name in WRITERS if name != "lines without a last end"])
def test_a_row_that_is_too_big_is_one_bad_row_and_ends_csv_and_json_that_is_not_lines(
    small_limit: None, writer: str, packer: str
) -> None:
    rows = [ALPACA, {**ALPACA, "output": 'a"{[\\\n' * (BIG // 6)}, {**ALPACA, "output": "last"}]
    found = items(PACKERS[packer](WRITERS[writer](rows)))
    assert good(found) == ([rows[0]] if writer.startswith(("csv", "pretty", "array")) else [rows[0], rows[2]])
    assert wrong(found) == [(2, OVERSIZE)]


@pytest.mark.parametrize(
    ("data", "kept", "expected"),
    [
        (lines(ALPACA) + b'{"text": "x', 1, (2, row_errors.CUT)),
        (lines(ALPACA) + b'{"text": x}\n' + lines(ALPACA), 2, (2, row_errors.NOT_JSON)),
        (b"garbage\n" + lines(ALPACA, ALPACA), 2, (1, row_errors.NOT_JSON)),
        (b'{"text": "\xff"}\n' + lines(ALPACA), 1, (1, row_errors.NOT_UTF8)),
        (lines(ALPACA) + b"[1]\n3\n", 1, (2, row_errors.NOT_OBJECT)),
        (lines(ALPACA) + b'{"a": 1, "b": {"c": 1, "c": 2}}\n', 1, (2, row_errors.DUPLICATE)),
        (lines(ALPACA) + b'{"a": 1, "\\u0061": 2}\n' + lines(ALPACA), 2, (2, row_errors.DUPLICATE)),
        (lines(ALPACA) + b"[" * 100_000 + b"\n" + lines(ALPACA), 2, (2, row_errors.NOT_JSON)),
        (b'[{"text": "x"}, {"te', 1, (2, row_errors.CUT)),
        (b'[{"text": "x"}', 1, (2, row_errors.CUT)),
        (b'[{"text": "x"}, {"text": "\xff"}, {"text": "y"}]', 2, (2, row_errors.NOT_UTF8)),
        (b'[{"text": "x"}, {"a": 1, "a": [}]}, {"text": "y"}]', 1, (2, row_errors.NOT_JSON)),
        (b'[{"text": "x"}, {"a": 1, "a": 2}, {"text": "y"}]', 2, (2, row_errors.DUPLICATE)),
        (b'[{"text": "x"}, 3, {"text": "y"}]', 2, (2, row_errors.NOT_OBJECT)),
        (b'[{"text": "x"}, {nope, "]"}, {"text": "y"}]', 1, (2, row_errors.NOT_JSON)),
        (b'[{"text": "x"}}, {"text": "y"}]', 1, (2, row_errors.NOT_JSON)),
        (b'[{"text": "x"},, {"text": "y"}]', 1, (2, row_errors.NOT_JSON)),
        (b'[{"text": "x"}]\n[{"text": "y"}]', 1, (2, row_errors.NOT_JSON)),
        (b"text,tests\nx\ny,z\n", 1, (1, row_errors.FIELD_COUNT)),
        (b'text,tests\ny,z\n"x', 1, (2, row_errors.CUT)),
        (b'text,tests\ny,z\n"x"x,y\na,b\n', 2, (2, row_errors.NOT_CSV)),
        (b"text,tests\ny,\xff\na,b\n", 1, (1, row_errors.NOT_UTF8)),
        (b"text,text\ny,z\n", 0, (0, row_errors.DUPLICATE)),
        (b"text,tests\n", 0, (0, row_errors.EMPTY)),
        (b"", 0, (0, row_errors.EMPTY)),
        (b"\n", 0, (0, row_errors.EMPTY)),
        (b"[]", 0, (0, row_errors.EMPTY)),
        (gzip.compress(b"", mtime=0), 0, (0, row_errors.EMPTY)),
        ("text\nx".encode("utf-16"), 0, (0, row_errors.UNREADABLE)),
        (b"\x7fELF\0\0", 0, (0, row_errors.UNREADABLE)),
        (parquet(ROWS)[:-20], 0, (0, row_errors.CUT)),
        (arrow(pa.ipc.new_stream, ROWS)[:-8], 3, (4, row_errors.CUT)),
        (arrow(pa.ipc.new_file, ROWS * 2)[:900], 0, (0, row_errors.CUT)),
        (b"\x1f\x8b" + b"no gzip", 0, (0, row_errors.CUT)),
    ],
)  # fmt: skip
def test_a_bad_row_is_reported_with_its_place_and_others_are_kept(
    data: bytes, kept: int, expected: tuple[int, str]
) -> None:
    found = items(data)
    assert len(good(found)) == kept
    assert wrong(found)[0] == expected
    with pytest.raises(UserError) as error:
        list(stream_strict_rows(made_file("x.any", data)))
    assert str(error.value).startswith("x.any")
    assert expected[1] in str(error.value)
    assert not expected[0] or f" {expected[0]}: " in str(error.value)


def test_what_follows_a_cut_or_damage_is_one_bad_row() -> None:
    data = PACKERS["gz"](WRITERS["lines"](ROWS * 4000))
    found = items(data[: len(data) * 2 // 3])
    assert good(found) == (ROWS * 4000)[: len(good(found))]
    assert wrong(found) == [(len(good(found)) + 1, row_errors.CUT)]
    damaged = bytearray(parquet([{"text": f"row {i} " * 20} for i in range(6)]))
    chunk = pq.ParquetFile(pa.BufferReader(bytes(damaged))).metadata.row_group(1).column(0)
    place = chunk.dictionary_page_offset or chunk.data_page_offset
    damaged[place : place + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    found = items(bytes(damaged))
    assert [row["text"][:5] for row in good(found)] == ["row 0", "row 1"]
    assert wrong(found) == [(3, row_errors.CUT)]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"title\treply, or none\nA, b; c\t1, 2\n", "a.csv"),
        (b'title;reply\n"A, b; c";1, 2\n', "a.csv"),
        (b'"title, and; more";reply\nA, b\t;1\n', "a"),
        (b"title\nA, b; c\n", "a.tsv"),
        (b"title\nA, b; c\n", "a.TSV.gz"),
    ],
)
def test_a_table_is_split_where_its_header_is(data: bytes, name: str) -> None:
    (row,) = good(items(data, name))
    assert [one.startswith("A, b") for one in row.values()] == [True, False][: len(row)]
    assert len(row) == 1 + (b"title\nA" not in data)


def test_invalid_utf8_and_a_column_twice_in_arrow_are_bad_rows() -> None:
    texts = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"\xff", b"c"]).buffers())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": texts}), sink)
    found = items(sink.getvalue().to_pybytes())
    assert (good(found), wrong(found)) == ([{"text": "a"}, {"text": "c"}], [(2, row_errors.NOT_UTF8)])
    table, sink = (
        pa.Table.from_arrays([pa.array(["a", "b"])] * 2, names=["text", "text"]),
        pa.BufferOutputStream(),
    )
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert wrong(items(sink.getvalue().to_pybytes())) == [(0, row_errors.DUPLICATE)]


# Formats of rows

SUM = "0" * 64


def file_source(**other: Any) -> Source:
    given: dict[str, Any] = {"name": "mine", "kind": "file", "path": "data/sources/x.jsonl", "sha256": SUM, "licence": "MIT"}  # fmt: skip
    return Source(**{**given, **other})


ASKED, SAID = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}


@pytest.mark.parametrize(
    ("row", "prompt", "completion", "messages"),
    [
        (ALPACA, "Add.\n\n1 2", "3", None),
        ({"instruction": "Add.", "input": "", "output": "3"}, "Add.", "3", None),
        ({"instruction": "Add.", "input": None, "output": "3"}, "Add.", "3", None),
        ({"prompt": "a", "completion": "b", "messages": None}, "a", "b", None),
        ({"text": "x = 1\n"}, "", "x = 1\n", None),
        (
            {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]},
            None,
            None,
            [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}],
        ),
        (
            {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
            None,
            None,
            [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}],
        ),
        (
            {
                "prompt": [{"role": "user", "content": "hi"}],
                "completion": [{"role": "assistant", "content": "ho"}],
            },
            None,
            None,
            [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}],
        ),
    ],
)
def test_a_format_is_recognised_by_its_columns(
    row: dict, prompt: Any, completion: Any, messages: Any
) -> None:
    assert read_one(row) == {
        "prompt": prompt,
        "completion": completion,
        "messages": messages,
        "tests": None,
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a", "n": 3}, "fits no known format (its text is missing)"),
        ({"text": None}, "fits no known format (its text is null)"),
        ({"text": 3}, "'text' is int, expected text"),
        ({"messages": []}, "'messages' is not a list of turns"),
        ({"messages": "no list"}, "'messages' is not JSON: 'no list'"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "turn 1 of 'messages': its role is 'robot'"),
        ({"messages": [{"role": "user", "content": None}]}, "turn 1 of 'messages': its content is NoneType"),
        ({"messages": [ASKED, {**SAID, "weight": 0.5}]}, "turn 2 of 'messages': its weight is 0.5"),
        ({"messages": [{**ASKED, "train": True}, SAID]}, "only answers are trained on, not a user"),
        ({"messages": [ASKED, {**SAID, "tool_calls": ["f"]}]}, "a tool call is not an object with a name"),
        ({"messages": [ASKED, SAID], "tools": "f"}, "'tools' is not JSON"),
        ({"messages": [{"role": "system", "content": "a"}, ASKED], "system": "b"}, "it has a system turn, and another"),
    ],
)  # fmt: skip
def test_a_row_that_does_not_fit_the_format_of_its_source_names_file_and_row(row: dict, message: str) -> None:
    good = {"messages": [ASKED, SAID]} if "messages" in row else {"text": "x"}
    with pytest.raises(UserError) as error:
        source_rows(file_source(), [made_file("x.jsonl", lines(good, row))])
    assert str(error.value).startswith("x.jsonl, row 2: ")
    assert message in str(error.value)


# Identity


def test_ids_are_unique_and_follow_content_and_rows_the_order_of_the_source() -> None:
    contents = [{"text": text} for text in "cabaa"]
    rows, reasons = source_rows(file_source(), [made_file("x.jsonl", lines(*contents))])
    again, _ = source_rows(file_source(), [made_file("x.jsonl", lines(*reversed(contents)))])
    other, _ = source_rows(file_source(name="other"), [made_file("x.jsonl", lines(*contents))])
    assert [row["completion"] for row in rows] == list("cabaa")
    assert [row["completion"] for row in again] == list("aabac")
    ids = [row["id"] for row in rows]
    assert ids[1:] == [ids[1], ids[2], f"{ids[1]}-2", f"{ids[1]}-3"]
    assert {row["id"] for row in again} == {*ids}
    assert {*ids}.isdisjoint(row["id"] for row in other)
    assert len({*ids}) == 5
    assert reasons == {"taken": 5}


def row_of(row: dict, **given: Any) -> dict:
    return {k: v for k, v in read_one(row, **given).items() if v is not None}


PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
FUNCTION = 'def f(a):\n    """Return the number a."""\n    return a\n'
MBPP = {"text": "Add.", "code": "def f(a):\r\n    return a", "test_list": ["assert f(1) == 1", "assert f(2) == 2"], "test_setup_code": ""}  # fmt: skip
OPEN_CODE = {"id": "x", "input": "Ask.", "output": "Code.", "unit_tests": '["\\nassert f(1) == 1\\n", "assert f(2) == 2"]', "average_test_score": "0.9", "llm_judgement": '{"logical_correctness": {"score": 4}}'}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "a", "response": "b"}, {"prompt": "a", "completion": "b"}),
        ({"lang": "python", "problem": "a", "solution": "b"}, {"prompt": "a", "completion": "b"}),
        (OPEN_CODE, {"prompt": "Ask.", "completion": "Code.", "tests": "assert f(1) == 1\nassert f(2) == 2"}),
        (
            {"messages": [{"role": "user", "content": PARTS}]},
            {"messages": [{"role": "user", "content": "ab"}]},
        ),
        (
            {"func_code_string": FUNCTION, "func_documentation_string": "Return", "language": "python"},
            {"prompt": 'def f(a):\n    """Return the number a."""\n', "completion": "    return a\n"},
        ),
        (
            {"func_code_string": "func f() {}", "func_documentation_string": "Does it.", "language": "go"},
            {"prompt": "Does it.", "completion": "func f() {}"},
        ),
        ({"whole_func_string": "x = ("}, {"prompt": "", "completion": "x = ("}),
        (
            MBPP,
            {
                "prompt": '"""\nAdd.\nassert f(1) == 1\nassert f(2) == 2\n"""\n',
                "completion": "def f(a):\n    return a\n",
                "tests": "assert f(1) == 1\nassert f(2) == 2\n",
            },
        ),
        ({"content": "x"}, {"prompt": "", "completion": "x"}),
        ({"code": "x"}, {"prompt": "", "completion": "x"}),
    ],
)
def test_formats_of_well_known_data_sets(row: dict, expected: dict) -> None:
    assert row_of(row) == expected


def test_columns_may_be_nested_and_templates_write_what_no_column_holds() -> None:
    row = {"q": {"title": "T", "parts": ["a", "b"]}, "a": "A", "json": '{"x": ["y"]}', "checks": ["c", "d"]}
    columns = {"prompt": "q.parts.1", "completion": "json.x.0", "tests": "checks"}
    assert row_of(row, columns=columns) == {"prompt": "b", "completion": "y", "tests": "c\nd"}
    template = {"prompt": "{{ q.title }}: {{ q.parts | join(', ') }}\n"}
    assert row_of(row, columns={"completion": "a"}, template=template) == {
        "prompt": "T: a, b\n",
        "completion": "A",
    }
    assert row_of(row, columns={"completion": "a"}) == {"prompt": "", "completion": "A"}
    for wrongly, message in (
        ({"columns": {"completion": "b"}}, "no column 'b'"),
        ({"columns": {"completion": "q"}}, "'completion' is dict, expected text"),
        ({"template": {"completion": "{{ lost }}"}}, "'lost' is undefined"),
        ({"template": {"completion": "{{ a.__class__.__mro__ }}"}}, "unsafe"),
    ):
        with pytest.raises(RowError, match=message):
            row_of(row, **wrongly)
    with pytest.raises(UserError, match="fetch source 'mine': template"):
        row_of(row, template={"completion": "{{ a"})


JUDGED = {"requirement_conformance": {"justification": "It \"does\".", "score": 5}, "logical_correctness": {"justification": "x", "score": "4"}}  # fmt: skip


def test_a_minimum_score_leaves_rows_out_by_name_and_reads_scores_that_are_text() -> None:
    judged = [
        json.dumps(JUDGED),
        json.dumps({**JUDGED, "logical_correctness": {"score": 3}}),
        "no JSON",
        None,
    ]
    rows = [
        *({**OPEN_CODE, "average_test_score": score} for score in ("0.9", "1.0", " 1 ", "none", "nan", "", None)),
        *({**OPEN_CODE, "average_test_score": "1.0", "llm_judgement": text} for text in judged),
    ]  # fmt: skip
    source = file_source(minimum={"average_test_score": 0.95, "llm_judgement.logical_correctness.score": 4})
    for writer in ("lines", "parquet", "csv"):
        files = [made_file("x", WRITERS[writer](rows))]
        assert source_rows(source, files, drop=True)[1] == {
            "taken": 3,
            "under the minimum of average_test_score": 1,
            "under the minimum of llm_judgement.logical_correctness.score": 1,
            row_errors.SCORE: 6,
        }
        with pytest.raises(UserError, match="x, row 4: the score is not a number"):
            source_rows(source, files)


def test_dropped_rows_are_counted_and_listed_and_the_rest_is_kept() -> None:
    rows = [
        {"text": "a"},
        {"text": None},
        {"text": {"nested": 1}},
        {"text": 3},
        {"text": "\ud800"},
        {"text": "b"},
    ]
    files = [
        made_file("x", lines(*rows)),
        made_file("empty", b""),
        SourceFile("loop", Path("/proc/self/nothing")),
    ]
    found, tallies = mixed([(file_source(), files)], drop=True)
    assert {row["completion"] for row in found} == {"a", "b"}
    assert tallies["mine"].reasons == {
        "taken": 2, row_errors.FORMAT: 1, row_errors.NOT_TEXT: 2, row_errors.SURROGATE: 1, row_errors.EMPTY: 1, "a file that cannot be opened": 1,
    }  # fmt: skip
    listed = [(row["file"], row["row"], row["reason"]) for row in tallies["mine"].listed]
    assert listed[:2] == [("x", 2, row_errors.FORMAT), ("x", 3, row_errors.NOT_TEXT)]
    many = [made_file("x", lines({"text": "a"}, *[{"text": 1}] * 250))]
    _, tallies = mixed([(file_source(), many)], drop=True)
    assert tallies["mine"].reasons[row_errors.NOT_TEXT] == 250
    assert len(tallies["mine"].listed) == 100


def test_a_symlink_loop_is_a_bad_file(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    files = [SourceFile("loop", loop), made_file("x", lines({"text": "a"}))]
    assert source_rows(file_source(), files, drop=True)[1] == {"taken": 1, "a file that cannot be opened": 1}
    with pytest.raises(UserError, match=r"loop: cannot be opened \(.*[Ss]ymbolic"):
        source_rows(file_source(), files)


# Order and mixing


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=60))
def test_places_among_equal_count_from_one_in_order(kinds: list[int]) -> None:
    places = places_among_equal(np.array(kinds, np.uint64))
    assert places.tolist() == [kinds[: place + 1].count(kind) for place, kind in enumerate(kinds)]


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcde"), st.tuples(st.integers(0, 50), st.floats(0.01, 10)), min_size=1),
    st.integers(1, 120),
)
def test_a_mix_adds_up_and_others_make_up_for_a_short_source(given: dict, total: int) -> None:
    available = {name: count for name, (count, _) in given.items()}
    weights = {name: weight for name, (_, weight) in given.items()}
    taken = mixing.allot_rows(available, weights, total)
    assert sum(taken.values()) == min(total, sum(available.values()))
    assert all(0 <= taken[name] <= available[name] for name in available)
    assert taken == mixing.allot_rows(dict(reversed(available.items())), weights, total)
    for a in available:
        for b in available:  # a source that has rows left got its part beside every other
            if taken[a] < available[a]:
                assert taken[a] / weights[a] >= (taken[b] - 1) / weights[b] - 1 / weights[a] - 1e-9


def test_caps_and_a_total_are_counted_and_do_not_follow_the_order_of_sources() -> None:
    def given(name: str, count: int, **other: Any) -> tuple[Source, list[SourceFile]]:
        return file_source(name=name, **other), [
            made_file("x", lines(*({"text": f"{i}"} for i in range(count))))
        ]

    sources = [given("a", 100, weight=3), given("b", 100), given("c", 5), given("d", 50, max_rows=2)]
    found, tallies = mixed(sources, rows=47)
    assert {name: tally.reasons["taken"] for name, tally in tallies.items()} == {
        "a": 30,
        "b": 10,
        "c": 5,
        "d": 2,
    }
    assert tallies["d"].reasons == {"taken": 2, mixing.BY_MAX_ROWS: 48}
    assert tallies["a"].reasons == {"taken": 30, mixing.BY_ROWS: 70}
    other_way = mixed(sources[::-1], rows=47)[0]
    assert sorted(other_way, key=lambda row: row["id"]) == sorted(found, key=lambda row: row["id"])
    fewer = {row["id"] for row in mixed(sources, rows=20)[0]}
    assert fewer < {row["id"] for row in found}


def test_the_file_is_the_one_that_write_parquet_makes(tmp_path: Path) -> None:
    sources = [(file_source(), [made_file("x", lines(*({"text": f"row {i}"} for i in range(10_000))))])]
    rows, _ = mixed(sources)
    write_parquet(tmp_path / "whole", pa.Table.from_pylist(rows, schema=row_schema()))
    spool, tally = RowSpool(tmp_path / "scratch"), Tally("mine", False)
    for batch in row_batches(*sources[0], tally):
        spool.add("mine", batch)
    with pq.ParquetWriter(tmp_path / "parts", row_schema(), compression="zstd") as writer:
        for group in row_groups(spool.take(spool.rows_of)):
            writer.write_table(group, row_group_size=ROW_GROUP_ROWS)
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_row_groups_are_cut_by_text_bytes_however_the_rows_arrive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(row_groups_module, "ROW_GROUP_BYTES", 4000)
    monkeypatch.setattr(row_groups_module, "ROW_GROUP_ROWS", 20)
    turns = [{"role": "user", "content": "é" * 300}, {"role": "assistant", "content": "x" * 400}]
    rows = [{"text": "short"}] * 30 + [{"text": "x" * 900}] * 9 + [{"text": "y" * 9000}]
    talks = file_source(name="talks"), [made_file("x", lines(*[{"messages": turns}] * 9))]
    table = pa.Table.from_pylist(
        mixed([(file_source(), [made_file("x", lines(*rows))]), talks])[0], schema=row_schema()
    )
    sizes = row_groups_module.text_bytes(table)
    assert (
        sizes.tolist()
        == [
            sum(len(row[name].encode()) for name in ("id", "source", "licence", "prompt", "completion", "metadata") if row[name])
            + sum(len(turn["content"].encode()) for turn in row["messages"] or ())
            for row in table.to_pylist()
        ]
    )  # fmt: skip
    first = list(row_groups([table]))
    assert pa.concat_tables(first).equals(table)
    for group in first:
        assert group.num_rows <= 20
        assert group.num_rows == 1 or row_groups_module.text_bytes(group).sum() <= 4000
    assert len(first) < 20
    for step in (1, 7, 33):
        pieces = [table.slice(start, step) for start in range(0, table.num_rows, step)]
        assert list(map(pa.Table.to_pylist, row_groups(pieces))) == list(map(pa.Table.to_pylist, first))
