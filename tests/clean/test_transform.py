"""What is mended in the text of rows: encoding, line ends; and that nothing else changes."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.clean.settings import CleanSettings
from stages.clean.transform import clean_line_ends, transform_batch
from stages.common.rows.schema import row_schema
from tests.helpers.clean_rows import record


def batch(*records: dict[str, Any]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(records), schema=row_schema())


@pytest.mark.parametrize(
    ("text", "expected", "kinds"),
    [
        ("a\r\nb\rc\n", "a\nb\nc\n", {"line_ends": 2}),
        ("\ufeffx = 1", "x = 1", {"encoding": 1}),
        ("\ufeff\ufeffx", "x", {"encoding": 1}),
        ("x = '\ufeff'", "x = '\ufeff'", {}),
        ("x = '\x1f' + '\x1b[0m'", "x = '\x1f' + '\x1b[0m'", {}),  # what the program computes with
        ("\tif a:\n\f\n", "\tif a:\n\f\n", {}),
        ("e\u0301 = 'ﬁ'\u2028", "e\u0301 = 'ﬁ'\u2028", {}),  # not composed: a literal would change
    ],
)
def test_characters(text: str, expected: str, kinds: dict[str, int]) -> None:
    assert clean_line_ends(text) == (expected, kinds)
    new, counts = transform_batch(batch(record("r", None, text)), CleanSettings())
    assert new.column("completion").to_pylist() == [expected]
    assert counts == dict.fromkeys(kinds, 1)


@pytest.mark.slow
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_rows_are_changed_as_each_alone_would_be_and_only_once(texts: list[str]) -> None:
    rows = batch(*(record(str(n), text, text) for n, text in enumerate(texts)))
    new, counts = transform_batch(rows, CleanSettings())
    for name in ("prompt", "completion"):
        assert new.column(name).to_pylist() == [clean_line_ends(text)[0] for text in texts]
    assert not any("\r" in text for text in new.column("prompt").to_pylist())
    changed = sum(clean_line_ends(text)[0] != text for text in texts)
    assert max(counts.values(), default=0) <= changed <= sum(counts.values())
    assert transform_batch(new, CleanSettings()) == (new, {})


def test_every_text_column_and_nothing_else() -> None:
    extra = '{"name": "a\\r"}'
    messages = [
        {"role": "user", "content": "hi\r\n", "extra": extra},
        {"role": "assistant", "content": None, "extra": None},
        None,
        {"role": "tool\r", "content": "x", "extra": None},
    ]
    rows = batch(
        record("a", "p\r\n", "c\r\n", tests="t\r\n", metadata='{"a": "\r"}'),
        record("b", None, None, messages=messages),
        record("c", None, None, messages=[]),
        record("d", "p", None),
    )
    new, counts = transform_batch(rows, CleanSettings())
    first, second, *others = new.to_pylist()
    assert [first[name] for name in ("prompt", "completion", "tests")] == ["p\n", "c\n", "t\n"]
    assert first["metadata"] == '{"a": "\r"}'
    mended = {"role": "user", "content": "hi\n", "extra": '{"name": "a\\n"}'}
    assert second["messages"] == [mended, *messages[1:]]
    assert others == rows.slice(2).to_pylist()
    assert counts == {"line_ends": 2}
    assert new.schema.equals(rows.schema)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_slice_of_a_batch_is_read_from_where_it_begins(size: int) -> None:
    rows = batch(
        *(
            record(str(n), None, None, messages=[{"role": "user", "content": "x" + "\r" * (n % 2)}])
            for n in range(6)
        )
    )
    parts = [transform_batch(rows.slice(start, size), CleanSettings()) for start in range(0, 6, size)]
    assert [row for part, _ in parts for row in part.to_pylist()] == transform_batch(rows, CleanSettings())[
        0
    ].to_pylist()
    assert sum(counts.get("line_ends", 0) for _, counts in parts) == 3


def test_a_batch_without_anything_to_repair_is_returned_unchanged() -> None:
    rows = batch(record("a", "p", "c"), record("b", "p", "c"))
    new, counts = transform_batch(rows, CleanSettings())
    assert counts == {}
    assert all(
        mine is theirs or mine.equals(theirs) for mine, theirs in zip(new.columns, rows.columns, strict=True)
    )
    assert transform_batch(rows.slice(0, 0), CleanSettings())[0].num_rows == 0


def invalid(values: list[bytes | None]) -> pa.Array:
    """Bytes that pass for strings, as a careless writer of Parquet leaves them."""
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values, pa.binary()).buffers())


def test_bytes_that_are_not_utf8_and_lone_surrogates_are_replaced_characters() -> None:
    rows = batch(record("a", "p", "c"), record("b", "p", "c"), record("d", "p", None))
    broken = invalid([b"caf\xe9\r\n", b"\xed\xa0\x80", None])
    rows = rows.set_column(4, rows.schema.field("completion"), broken)
    new, counts = transform_batch(rows, CleanSettings())
    assert new.column("completion").to_pylist() == ["caf\ufffd\n", "\ufffd" * 3, None]
    assert counts == {"encoding": 2, "line_ends": 1}


def test_bytes_that_are_not_utf8_in_messages() -> None:
    schema = row_schema()
    rows = batch(
        *(record(name, None, None, messages=[{"role": "user", "content": "x"}] * 2) for name in "ab")
    )
    content = invalid([b"ok", b"\xff", b"fine", None])
    struct = pa.StructArray.from_arrays(
        [pa.array(["user"] * 4), content, pa.nulls(4, pa.string())], ["role", "content", "extra"]
    )
    messages = pa.ListArray.from_arrays(pa.array([0, 2, 4], pa.int32()), struct).cast(
        schema.field("messages").type
    )
    rows = rows.set_column(5, schema.field("messages"), messages)
    new, counts = transform_batch(rows, CleanSettings())
    assert [[m["content"] for m in row["messages"]] for row in new.to_pylist()] == [
        ["ok", "\ufffd"],
        ["fine", None],
    ]
    assert counts == {"encoding": 1}
