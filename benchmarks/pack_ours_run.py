"""Runs our packing over documents.arrow of a folder: `folder output capacity batch`."""

import json
import resource
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.tell import clock
from stages.pack.documents import Document
from stages.pack.files import write_packs
from stages.pack.packing import best_fit_decreasing


def main() -> None:
    folder, output, capacity = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    output.mkdir()
    with clock() as taken:
        with pa.memory_map(str(folder / "documents.arrow")) as source, pa.ipc.open_stream(source) as stream:
            table = stream.read_all()
        columns = (table["input_ids"].to_pylist(), range(len(table)))
        documents = [Document(str(row), "", ids, 1, 0) for ids, row in zip(*columns, strict=True)]
        packs = best_fit_decreasing([len(document.ids) for document in documents], capacity)
        write_packs(output / "packs.arrow", documents, packs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    with pa.memory_map(str(output / "packs.arrow")) as source, pa.ipc.open_stream(source) as stream:
        written = stream.read_all()
    tokens = pc.sum(pc.list_value_length(written["input_ids"])).as_py()
    cost = {"wall": taken.wall, "cpu": taken.cpu, "packs": len(written), "tokens": tokens, "peak": peak}
    (output / "cost.json").write_text(json.dumps(cost))


if __name__ == "__main__":
    main()
