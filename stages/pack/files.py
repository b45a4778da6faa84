"""What the stage reads and writes: rows of data/clean, the model's limits, Arrow streams of packs."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.common.errors import UserError
from stages.common.files import read_json
from stages.common.schema import row_schema
from stages.pack.documents import BATCH_ROWS, Document

BATCH_PACKS = 256  # packs a record batch: fixed, so that the same packs are the same bytes
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")


def pack_schema() -> pa.Schema:
    """Columns of data/packed/*.arrow: one row a pack, documents one after another, no padding."""
    return pa.schema(
        [
            pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
            pa.field("labels", pa.list_(pa.int32()), nullable=False),  # -100: no loss
            pa.field("lengths", pa.list_(pa.int32()), nullable=False),  # tokens of each document, in order
            pa.field("row_ids", pa.list_(pa.string()), nullable=False),  # of each document, in order
        ]
    )


def write_packs(path: Path, documents: Sequence[Document], packs: Sequence[Sequence[int]]) -> None:
    """Write packs (lists of indices into `documents`) as an Arrow IPC stream; at least one batch, if an empty one,
    because `datasets` reads no stream without."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, pack_schema()) as writer:
        for start in range(0, max(1, len(packs)), BATCH_PACKS):
            chosen = [[documents[i] for i in pack] for pack in packs[start : start + BATCH_PACKS]]
            columns = {
                "input_ids": [[token for d in pack for token in d.ids] for pack in chosen],
                "labels": [[label for d in pack for label in d.labels()] for pack in chosen],
                "lengths": [[len(d.ids) for d in pack] for pack in chosen],
                "row_ids": [[d.row_id for d in pack] for pack in chosen],
            }
            writer.write_batch(pa.RecordBatch.from_pydict(columns, schema=pack_schema()))


def row_batches(table: pa.Table) -> Iterator[list[dict[str, Any]]]:
    """Rows as dictionaries, a batch at a time; columns that rendering does not need are left out."""
    needed = table.select(["id", "source", "prompt", "completion", "messages", "component"])
    for batch in needed.to_batches(max_chunksize=BATCH_ROWS):
        yield batch.to_pylist()


def check_columns(table: pa.Table, path: Path) -> None:
    """Refuse a table that is not what clean writes.

    Raises:
        UserError: names the columns that are missing.
    """
    missing = [name for name in [*row_schema().names, "component"] if name not in table.column_names]
    if missing:
        raise UserError(f"{path}: no column {', '.join(missing)}. `dvc repro clean` writes it.")


def check_context(model: Path, max_length: int) -> int | None:
    """The model's context in tokens, None where its configuration does not say.

    Raises:
        UserError: config.json is missing, or `max_length` is beyond the context.
    """
    config = read_json(model / "config.json")
    sections = [config, config.get("text_config") or {}]
    known = [section[key] for section in sections for key in CONTEXT_KEYS if section.get(key)]
    context = known[0] if known else None
    if context is not None and max_length > context:
        raise UserError(
            f"pack.max_length is {max_length}, but the context of {model} is {context} tokens (config.json). "
            f"Set pack.max_length to {context} or less."
        )
    return context


def check_vocabulary(model: Path, documents: Sequence[Document]) -> None:
    """Refuse tokens the model has no embedding for.

    Raises:
        UserError: the tokenizer does not belong to the model.
    """
    config = json.loads((model / "config.json").read_text("utf-8"))
    size = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    if not size:
        return
    for document in documents:
        if max(document.ids) >= size:
            raise UserError(
                f"{model}: token {max(document.ids)} of row {document.row_id}, but the model knows {size} tokens. "
                f"Tokenizer and model do not belong together."
            )
