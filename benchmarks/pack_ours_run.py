"""Run our packing over the tokenized groups of a folder: `folder output capacity batch`."""

import json
import pickle
import resource
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.tell import clock, memory_at_hand
from stages.pack.__main__ import split_and_pack
from stages.pack.pack_writer import write_packs
from stages.pack.packing_statistics import packing_figures, packing_histograms
from stages.pack.settings import PackSettings
from stages.pack.token_store import TokenStore


def main() -> None:
    folder, output, capacity = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    output.mkdir()
    settings = PackSettings(max_length=capacity, validation_share=0.0)
    groups = pickle.loads((folder / "groups.pickle").read_bytes())
    memory_at_hand()
    with clock() as taken:
        store = TokenStore(output / "tokens")
        for group in groups:
            store.append(group)
        documents = store.read()
        for name, packing in split_and_pack(documents, settings).items():
            write_packs(output / f"{name}.arrow", documents, packing)
            packing_figures(documents, packing, capacity, 0)
            packing_histograms(documents, packing, capacity)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    with pa.memory_map(str(output / "train.arrow")) as source, pa.ipc.open_stream(source) as stream:
        written = stream.read_all()
    tokens = pc.sum(pc.list_value_length(written["input_ids"])).as_py()
    cost = {"wall": taken.wall, "cpu": taken.cpu, "packs": len(written), "tokens": tokens, "peak": peak}
    (output / "cost.json").write_text(json.dumps(cost))


if __name__ == "__main__":
    main()
