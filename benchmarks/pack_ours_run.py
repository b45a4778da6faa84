"""Runs our packing over documents.arrow of a folder: `folder output capacity batch`."""

import json
import resource
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.tell import clock
from stages.pack.files import PackWriter
from stages.pack.packing import pack
from stages.pack.spool import Documents


def main() -> None:
    folder, output, capacity = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    output.mkdir()
    with clock() as taken:
        with pa.memory_map(str(folder / "documents.arrow")) as source, pa.ipc.open_stream(source) as stream:
            documents = documents_of(stream.read_all())
        packing = pack(np.diff(documents.starts), capacity)
        with PackWriter(output / "packs.arrow") as writer:
            writer.write(documents, packing)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    with pa.memory_map(str(output / "packs.arrow")) as source, pa.ipc.open_stream(source) as stream:
        written = stream.read_all()
    tokens = pc.sum(pc.list_value_length(written["input_ids"])).as_py()
    cost = {"wall": taken.wall, "cpu": taken.cpu, "packs": len(written), "tokens": tokens, "peak": peak}
    (output / "cost.json").write_text(json.dumps(cost))


def documents_of(table: pa.Table) -> Documents:
    """Input ids as documents whose tokens but the first are all trained on; as long as the stage's own."""
    column = table["input_ids"]
    count = len(column)
    starts, name_starts = np.zeros(count + 1, np.int64), np.arange(0, 16 * count + 1, 16)
    np.cumsum(pc.list_value_length(column).to_numpy(), out=starts[1:])
    ids = np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks])
    loss = np.ones(len(ids), np.uint8)
    loss[starts[:-1]] = 0
    names = np.frombuffer(np.arange(count, dtype=">u8").tobytes().hex().encode(), np.uint8)
    zeros = np.zeros(count, np.int64)
    return Documents(
        ids, loss, starts, names, name_starts, zeros.astype(np.uint64), zeros, zeros, zeros.astype(np.uint8)
    )


if __name__ == "__main__":
    main()
