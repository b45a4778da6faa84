"""Write packs of documents as Arrow IPC streams."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.pack.packing import Packing
from stages.pack.token_store import StoredDocuments

NO_LOSS = -100  # label of a token that is not trained on
BATCH_PACKS = 256  # packs per record batch; fixed, so that the same packs give the same bytes


def pack_schema() -> pa.Schema:
    """Return the columns of data/packed/*.arrow: one row per pack, documents concatenated without padding."""
    return pa.schema(
        [
            pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
            pa.field("labels", pa.list_(pa.int32()), nullable=False),  # -100: no loss
            pa.field("lengths", pa.list_(pa.int32()), nullable=False),  # tokens of each document, in order
            pa.field("row_ids", pa.list_(pa.string()), nullable=False),  # of each document, in order
        ]
    )


class PackWriter:
    """Write packs to one Arrow IPC stream.

    Without packs it writes one empty batch, because `datasets` cannot read a stream that has none.
    """

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

    def write(self, documents: StoredDocuments, packing: Packing) -> None:
        """Write packs of indices into `documents`; the next batch is gathered while one is written."""
        with ThreadPoolExecutor(1) as writer:
            written: Future[None] = writer.submit(lambda: None)
            for batch in pack_batches(documents, packing):
                written.result()
                written = writer.submit(self.stream.write_batch, batch)
                self.batches += 1
            written.result()


def pack_batches(documents: StoredDocuments, packing: Packing) -> Iterator[pa.RecordBatch]:
    """Yield packs as record batches; Arrow gathers them, without a Python object per document or token."""
    ids = list_array(4 * documents.starts, documents.ids)
    loss = list_array(documents.starts, documents.loss)
    names = list_array(documents.name_starts, documents.names, pa.large_string())
    for first in range(0, len(packing), BATCH_PACKS):
        bounds = packing.starts[first : first + BATCH_PACKS + 1]
        order, pack_starts = (
            pa.array(packing.order[bounds[0] : bounds[-1]]),
            (bounds - bounds[0]).astype(np.int32),
        )
        (id_bytes, byte_starts), (loss_bytes, _) = take_lists(ids, order), take_lists(loss, order)
        tokens, starts = id_bytes.view(np.int32), (byte_starts // 4).astype(np.int32)
        labels = np.where(loss_bytes.view(np.bool_), tokens, np.int32(NO_LOSS))
        columns = [
            pa.ListArray.from_arrays(pa.array(starts[pack_starts]), pa.array(tokens)),
            pa.ListArray.from_arrays(pa.array(starts[pack_starts]), pa.array(labels)),
            pa.ListArray.from_arrays(pa.array(pack_starts), pa.array(np.diff(starts))),
            pa.ListArray.from_arrays(pa.array(pack_starts), names.take(order).cast(pa.string())),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=pack_schema())


def list_array(
    starts: npt.NDArray[np.int64], values: npt.NDArray[Any], kind: pa.DataType | None = None
) -> pa.Array:
    """Return an Arrow array of byte lists that begin at `starts` in `values`, without copying."""
    buffers = [None, pa.py_buffer(starts), pa.py_buffer(values)]
    return pa.Array.from_buffers(kind or pa.large_binary(), len(starts) - 1, buffers)


def take_lists(lists: pa.Array, order: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the concatenated bytes of the lists at the indices `order`, and where each list begins."""
    _, offsets, values = lists.take(order).buffers()
    starts = np.frombuffer(offsets, np.int64, len(order) + 1)
    return np.frombuffer(values, np.uint8, starts[-1]), starts
