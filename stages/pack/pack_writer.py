"""Write packs of documents as an Arrow IPC stream, which `datasets.Dataset.from_file` opens."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
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


def write_packs(path: Path, documents: StoredDocuments, packing: Packing, every_token: bool = False) -> None:
    """Write the packs of a split; without any, one empty batch, because `datasets` cannot read a bare stream.

    Args:
        every_token: label all tokens but the first of a document, not the answers alone.
    """
    schema = pack_schema()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
        for batch in pack_batches(documents, packing, every_token):
            stream.write_batch(batch)
        if not len(packing):
            stream.write_batch(pa.RecordBatch.from_pylist([], schema=schema))


def pack_batches(documents: StoredDocuments, packing: Packing, every_token: bool) -> Iterator[pa.RecordBatch]:
    """Yield packs as record batches; Arrow gathers documents as lists of bytes, with no object per token."""
    buffers = [None, pa.py_buffer(4 * documents.starts), pa.py_buffer(documents.tokens)]
    lists = pa.Array.from_buffers(pa.large_binary(), len(documents.starts) - 1, buffers)
    for first in range(0, len(packing), BATCH_PACKS):
        bounds = packing.starts[first : first + BATCH_PACKS + 1]
        order = pa.array(packing.order[bounds[0] : bounds[-1]])
        pack_starts = (bounds - bounds[0]).astype(np.int32)
        _, offsets, values = lists.take(order).buffers()
        starts = (np.frombuffer(offsets, np.int64, len(order) + 1) // 4).astype(np.int32)
        tokens = np.frombuffer(values, np.int32, starts[-1])
        ids, labels = np.where(tokens < 0, ~tokens, tokens), np.where(tokens < 0, np.int32(NO_LOSS), tokens)
        if every_token:
            labels = ids.copy()
            labels[starts[:-1]] = NO_LOSS  # nothing precedes it
        columns = [
            pa.ListArray.from_arrays(pa.array(starts[pack_starts]), pa.array(ids)),
            pa.ListArray.from_arrays(pa.array(starts[pack_starts]), pa.array(labels)),
            pa.ListArray.from_arrays(pa.array(pack_starts), pa.array(np.diff(starts))),
            pa.ListArray.from_arrays(pa.array(pack_starts), documents.row_ids.take(order)),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=pack_schema())
