"""Runs TRL's `pack_dataset` over documents.arrow of a folder: `folder output capacity batch`. Under TRL's interpreter."""

import json
import os
import resource
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

from benchmarks.tell import clock, memory_at_hand


def main() -> None:
    folder, output, capacity, batch = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    output.mkdir()
    import pyarrow.compute as pc
    from datasets import Dataset
    from trl import pack_dataset

    memory_at_hand()
    with clock() as taken:
        dataset = Dataset.from_file(str(folder / "documents.arrow"))
        options = {
            "batch_size": batch,
            "cache_file_name": str(output / "packs.arrow"),
            "writer_batch_size": 1000,
        }
        packed = pack_dataset(dataset, capacity, "bfd", options)
    taken.save(output)
    tokens = pc.sum(pc.list_value_length(packed.data["input_ids"])).as_py()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    cost = json.loads((output / "cost.json").read_text())
    (output / "cost.json").write_text(
        json.dumps({**cost, "packs": len(packed), "tokens": tokens, "peak": peak})
    )


if __name__ == "__main__":
    main()
