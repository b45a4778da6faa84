"""What the stage reads and writes: rows of data/clean, the model's limits, Arrow streams of packs."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.pack.packing import Packing

if TYPE_CHECKING:
    from stages.pack.token_store import Documents

IGNORED = -100  # label of a token without loss
BATCH_PACKS = 256  # packs a record batch: fixed, so that the same packs are the same bytes


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


class PackWriter:
    """Writes packs of documents as an Arrow IPC stream; at least one batch, if an empty one, because `datasets` reads no
    stream without."""

    def __init__(self, path: Path) -> None:
        self.sink = pa.OSFile(str(path), "wb")
        self.stream = pa.ipc.new_stream(self.sink, pack_schema())
        self.batches = 0

    def __enter__(self) -> "PackWriter":
        return self

    def __exit__(self, *error: object) -> None:
        if not self.batches:
            self.stream.write_batch(pa.RecordBatch.from_pylist([], schema=pack_schema()))
        self.stream.close()
        self.sink.close()

    def write(self, documents: "Documents", packing: Packing) -> None:
        """Packs of indices into `documents`; a batch is gathered while the one before is written."""
        with ThreadPoolExecutor(1) as writer:
            written: Future[None] = writer.submit(lambda: None)
            for batch in pack_batches(documents, packing):
                written.result()
                written = writer.submit(self.stream.write_batch, batch)
                self.batches += 1
            written.result()


def pack_batches(documents: "Documents", packing: Packing) -> Iterator[pa.RecordBatch]:
    """Packs as record batches: documents are gathered by Arrow, no Python value a document or a token."""
    ids = lists_of(4 * documents.starts, documents.ids)
    loss = lists_of(documents.starts, documents.loss)
    names = lists_of(documents.name_starts, documents.names, pa.large_string())
    for first in range(0, len(packing), BATCH_PACKS):
        ends = packing.starts[first : first + BATCH_PACKS + 1]
        order, of_pack = pa.array(packing.order[ends[0] : ends[-1]]), (ends - ends[0]).astype(np.int32)
        (chosen, bounds), (marks, _) = gathered(ids, order), gathered(loss, order)
        tokens, starts = chosen.view(np.int32), (bounds // 4).astype(np.int32)
        labels = np.where(marks.view(np.bool_), tokens, np.int32(IGNORED))
        columns = [
            pa.ListArray.from_arrays(pa.array(starts[of_pack]), pa.array(tokens)),
            pa.ListArray.from_arrays(pa.array(starts[of_pack]), pa.array(labels)),
            pa.ListArray.from_arrays(pa.array(of_pack), pa.array(np.diff(starts))),
            pa.ListArray.from_arrays(pa.array(of_pack), names.take(order).cast(pa.string())),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=pack_schema())


def lists_of(
    starts: npt.NDArray[np.int64], values: npt.NDArray[Any], kind: pa.DataType | None = None
) -> pa.Array:
    """Lists of bytes that begin at `starts` among those of `values`; nothing is copied."""
    buffers = [None, pa.py_buffer(starts), pa.py_buffer(values)]
    return pa.Array.from_buffers(kind or pa.large_binary(), len(starts) - 1, buffers)


def gathered(lists: pa.Array, order: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The bytes of the lists `order`, one list after another, and where each begins then."""
    _, bounds, values = lists.take(order).buffers()
    starts = np.frombuffer(bounds, np.int64, len(order) + 1)
    return np.frombuffer(values, np.uint8, starts[-1]), starts
