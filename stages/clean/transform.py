"""What changes the text of rows before any rule sees it: encoding, line ends, control characters, redaction.

Unicode is not normalized: in a string literal NFC would change what the program computes, Python itself folds names,
and the digests of duplicates fold what they want to.
"""

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.clean.settings import CleanSettings

TEXTS = ("prompt", "completion", "tests")  # and the content of messages
# Control characters but tab, line feed and form feed (old sources part pages by it, and Python allows it), then
# carriage returns, and the mark that some editors put before all text
UNCLEAN = r"[\x00-\x08\x0B\x0D-\x1F\x7F\x{80}-\x{9F}]|^\x{FEFF}"  # for RE2
CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")
BOM = "\ufeff"

Record = dict[str, Any]  # TEXTS and messages of a row
Change = Callable[[str], tuple[str, Counter[str]]]  # new text, and places changed by kind


def transformed(batch: pa.RecordBatch, settings: CleanSettings) -> tuple[pa.RecordBatch, dict[str, int]]:
    """A batch of `row_schema()` with its texts mended, and how many rows were changed by kind.

    A pure function of each row: neither the other rows nor the size of the batch matter.
    """
    counts: Counter[str] = Counter()
    batch = valid_utf8(batch, counts)
    batch = change_rows(batch, [UNCLEAN], cleaned, counts)
    if settings.redact.secrets or settings.redact.personal:
        from stages.clean.redact import redact  # detect-secrets comes with it

        change = partial(redact.redacted, settings=settings.redact, layout=settings.layout)
        batch = change_rows(batch, redact.wide_patterns(settings.redact), change, counts, "places")
    return batch, dict(sorted(counts.items()))


def cleaned(records: list[Record]) -> list[tuple[Record, Counter[str]]]:
    return [each_text(record, clean_characters) for record in records]


def clean_characters(text: str) -> tuple[str, Counter[str]]:
    """Text with line feeds for line ends, without a byte order mark and control characters.

    Tab and form feed stay: Python allows both in code.
    """
    kinds: Counter[str] = Counter()
    if "\r" in text:
        kinds["line_ends"] = text.count("\r")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text, removed = CONTROL.subn("", text)
    if removed:
        kinds["control_characters"] = removed
    if text.startswith(BOM):
        text = text.lstrip(BOM)
        kinds["encoding"] = 1
    return text, kinds


def each_text(record: Record, change: Change) -> tuple[Record, Counter[str]]:
    """A record whose texts are changed one by one."""
    places: Counter[str] = Counter()

    def changed(text: str | None) -> str | None:
        if text is None:
            return None
        text, kinds = change(text)
        places.update(kinds)
        return text

    new = {name: changed(record[name]) for name in TEXTS}
    messages = record["messages"]
    if messages is not None:
        messages = [m and {**m, "content": changed(m["content"])} for m in messages]
    return {**new, "messages": messages}, places


def change_rows(
    batch: pa.RecordBatch,
    patterns: list[str],
    change: Callable[[list[Record]], list[tuple[Record, Counter[str]]]],
    counts: Counter[str],
    unit: str = "",
) -> pa.RecordBatch:
    """Change the rows in a text of which a pattern (RE2's) matches; others are never made into Python objects.

    Args:
        counts: rows by kind of change are added here, and with `unit` the places as `<kind>_<unit>`.
    """
    rows = suspected(batch, patterns)
    replaced: dict[str, dict[int, Any]] = {name: {} for name in (*TEXTS, "messages")}
    records = [{name: batch.column(name)[row].as_py() for name in replaced} for row in rows]
    for row, record, (new, places) in zip(rows, records, change(records), strict=True):
        for name, values in replaced.items():
            if new[name] != record[name]:
                values[row] = new[name]
        for kind, number in places.items():
            counts[kind] += 1
            if unit:
                counts[f"{kind}_{unit}"] += number
    for name, values in replaced.items():
        if values:
            column = with_values(batch.column(name), values)
            batch = batch.set_column(batch.schema.get_field_index(name), batch.schema.field(name), column)
    return batch


def suspected(batch: pa.RecordBatch, patterns: list[str]) -> list[int]:
    """Numbers of the rows in a text of which one of the patterns matches, ascending."""
    rows: set[int] = set()
    for name in TEXTS:
        rows.update(places_of(batch.column(name), patterns))
    messages = batch.column("messages")
    if messages.null_count < len(messages):
        parents = pc.list_parent_indices(messages)
        rows.update(parents[place].as_py() for place in places_of(contents(messages), patterns))
    return sorted(rows)


def places_of(texts: pa.Array, patterns: list[str]) -> list[int]:
    if texts.null_count == len(texts):
        return []
    masks = [pc.fill_null(pc.match_substring_regex(texts, pattern), False) for pattern in patterns]
    return [place for mask in masks for place in pc.indices_nonzero(mask).to_pylist()]


def contents(messages: pa.Array) -> pa.Array:
    """Contents of all messages of a column, null where one is null."""
    return pc.struct_field(pc.list_flatten(messages), "content")


def with_values(column: pa.Array, values: dict[int, Any]) -> pa.Array:
    """A column with other values at some rows."""
    if not pa.types.is_string(column.type):
        whole = column.to_pylist()
        for row, value in values.items():
            whole[row] = value
        return pa.array(whole, column.type)
    mask = [False] * len(column)
    for row in values:
        mask[row] = True
    return pc.replace_with_mask(
        column, pa.array(mask), pa.array([values[row] for row in sorted(values)], column.type)
    )


def valid_utf8(batch: pa.RecordBatch, counts: Counter[str]) -> pa.RecordBatch:
    """A batch in which bytes that are no UTF-8, lone surrogates among them, are U+FFFD: nothing else reads them."""
    for name in (*TEXTS, "messages"):
        column = batch.column(name)
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            column, rows = decoded_messages(column) if name == "messages" else decoded(column)
            counts["encoding"] += len(rows)
            batch = batch.set_column(batch.schema.get_field_index(name), batch.schema.field(name), column)
    return batch


def decoded(texts: pa.Array) -> tuple[pa.Array, list[int]]:
    """Texts decoded anew, and the places where that changed one."""
    raw = [None if value is None else bytes(value) for value in texts.cast(pa.binary()).to_pylist()]
    new = [value if value is None else value.decode("utf-8", "replace") for value in raw]
    changed = [i for i, text in enumerate(new) if text is not None and text.encode() != raw[i]]
    return pa.array(new, pa.string()), changed


def decoded_messages(messages: pa.Array) -> tuple[pa.Array, list[int]]:
    texts, changed = decoded(contents(messages))
    roles = iter(pc.struct_field(pc.list_flatten(messages), "role").to_pylist())
    content = iter(texts.to_pylist())
    lengths = pc.list_value_length(messages).to_pylist()
    whole = [
        None if n is None else [{"role": next(roles), "content": next(content)} for _ in range(n)]
        for n in lengths
    ]
    parents = pc.list_parent_indices(messages)
    return pa.array(whole, messages.type), sorted({parents[place].as_py() for place in changed})
