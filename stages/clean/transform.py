"""Repair the text of rows before any rule sees it: encoding, line ends, redaction.

Nothing that a program computes with is changed: a control character may stand in a literal, and NFC would
change one. Python folds names itself, and the digests of duplicates do their own folding.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.clean.settings import CleanSettings
from stages.clean.texts import TEXT_COLUMNS, TextRecord, change_texts

UNCLEAN = r"\r|^\x{FEFF}"  # for RE2: carriage returns, and the byte order mark that some editors put first
BOM = "\ufeff"


def transform_batch(batch: pa.RecordBatch, settings: CleanSettings) -> tuple[pa.RecordBatch, dict[str, int]]:
    """Return a batch of `row_schema()` with repaired texts, and how many rows were changed, by kind.

    A pure function of each row: the other rows and the batch size do not matter.
    """
    counts: Counter[str] = Counter()
    batch = repair_utf8(batch, counts)
    batch = change_rows(batch, [UNCLEAN], mend_records, counts)
    if settings.redact.secrets or settings.redact.personal:
        from stages.clean.redact import redact  # imports detect-secrets

        change = partial(redact.redact_records, settings=settings.redact, layout=settings.layout)
        batch = change_rows(batch, redact.redaction_patterns(settings.redact), change, counts, "places")
    return batch, dict(sorted(counts.items()))


def mend_records(records: list[TextRecord]) -> list[tuple[TextRecord, Counter[str]]]:
    return [change_texts(record, clean_line_ends) for record in records]


def clean_line_ends(text: str) -> tuple[str, Counter[str]]:
    """Return text with line feeds for line ends, as Python reads them, and without byte order marks first."""
    kinds: Counter[str] = Counter()
    if "\r" in text:
        kinds["line_ends"] = text.count("\r")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.startswith(BOM):
        text = text.lstrip(BOM)
        kinds["encoding"] = 1
    return text, kinds


def change_rows(
    batch: pa.RecordBatch,
    patterns: list[str],
    change: Callable[[list[TextRecord]], list[tuple[TextRecord, Counter[str]]]],
    counts: Counter[str],
    unit: str = "",
) -> pa.RecordBatch:
    """Change rows with a text that an RE2 pattern matches; the others never become Python objects.

    Args:
        counts: gets the changed rows by kind and, with `unit`, the changed places as `<kind>_<unit>`.
    """
    rows = rows_matching(batch, patterns)
    replaced: dict[str, dict[int, Any]] = {name: {} for name in (*TEXT_COLUMNS, "messages", "tools")}
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
            column = replace_values(batch.column(name), values)
            batch = batch.set_column(batch.schema.get_field_index(name), batch.schema.field(name), column)
    return batch


def rows_matching(batch: pa.RecordBatch, patterns: list[str]) -> list[int]:
    """Return the indexes of rows with a text that one of the patterns matches, ascending.

    Rows with tools, tool calls or reasoning always count: JSON writes their texts with escapes.
    """
    rows: set[int] = set()
    for name in TEXT_COLUMNS:
        rows.update(matching_places(batch.column(name), patterns))
    rows.update(pc.indices_nonzero(pc.is_valid(batch.column("tools"))).to_pylist())
    messages = batch.column("messages")
    if messages.null_count < len(messages):
        parents = pc.list_parent_indices(messages)
        extra = pc.struct_field(pc.list_flatten(messages), "extra")
        rows.update(parents.filter(pc.is_valid(extra)).to_pylist())
        rows.update(parents[place].as_py() for place in matching_places(message_contents(messages), patterns))
    return sorted(rows)


def matching_places(texts: pa.Array, patterns: list[str]) -> list[int]:
    if texts.null_count == len(texts):
        return []
    masks = [pc.fill_null(pc.match_substring_regex(texts, pattern), False) for pattern in patterns]
    return [place for mask in masks for place in pc.indices_nonzero(mask).to_pylist()]


def message_contents(messages: pa.Array) -> pa.Array:
    """Return the contents of all messages of a column, null where a content is null."""
    return pc.struct_field(pc.list_flatten(messages), "content")


def replace_values(column: pa.Array, values: dict[int, Any]) -> pa.Array:
    """Return a column with new values at some rows."""
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


def repair_utf8(batch: pa.RecordBatch, counts: Counter[str]) -> pa.RecordBatch:
    """Replace bytes that are not UTF-8, lone surrogates included, by U+FFFD: nothing else could read them."""
    for name in (*TEXT_COLUMNS, "messages"):
        column = batch.column(name)
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            column, rows = decode_messages(column) if name == "messages" else decode_texts(column)
            counts["encoding"] += len(rows)
            batch = batch.set_column(batch.schema.get_field_index(name), batch.schema.field(name), column)
    return batch


def decode_texts(texts: pa.Array) -> tuple[pa.Array, list[int]]:
    """Decode texts again with replacement characters; return them and the indexes of changed ones."""
    raw = [None if value is None else bytes(value) for value in texts.cast(pa.binary()).to_pylist()]
    new = [value if value is None else value.decode("utf-8", "replace") for value in raw]
    changed = [i for i, text in enumerate(new) if text is not None and text.encode() != raw[i]]
    return pa.array(new, pa.string()), changed


def decode_messages(messages: pa.Array) -> tuple[pa.Array, list[int]]:
    texts, changed = decode_texts(message_contents(messages))
    others = [pc.struct_field(pc.list_flatten(messages), name).to_pylist() for name in ("role", "extra")]
    turns = iter(zip(others[0], texts.to_pylist(), others[1], strict=True))
    names = ("role", "content", "extra")
    lengths = pc.list_value_length(messages).to_pylist()
    whole = [
        None if n is None else [dict(zip(names, next(turns), strict=True)) for _ in range(n)] for n in lengths
    ]
    parents = pc.list_parent_indices(messages)
    return pa.array(whole, messages.type), sorted({parents[place].as_py() for place in changed})
