"""Run our packing over the token store of a folder: `folder output capacity batch`."""

import json
import resource
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.tell import clock, memory_at_hand
from stages.pack.__main__ import write_splits
from stages.pack.settings import PackSettings
from stages.pack.token_store import open_documents


def main() -> None:
    folder, output, capacity = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    output.mkdir()
    settings = PackSettings(max_length=capacity, validation_share=0.0)
    memory_at_hand()
    with clock() as taken:
        write_splits(open_documents(folder / "tokens"), output, settings)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    with pa.memory_map(str(output / "train.arrow")) as source, pa.ipc.open_stream(source) as stream:
        written = stream.read_all()
    tokens = pc.sum(pc.list_value_length(written["input_ids"])).as_py()
    cost = {"wall": taken.wall, "cpu": taken.cpu, "packs": len(written), "tokens": tokens, "peak": peak}
    (output / "cost.json").write_text(json.dumps(cost))


if __name__ == "__main__":
    main()
