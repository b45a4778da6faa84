"""Measure fetch's peak memory per file, each in a process of its own.

`python -m tests.helpers.peak_memory < jobs` prints one result per job. A job is {"path": ..., "to": "items" | "groups", "drop": bool}: read as items, or through batches and the spool to row groups.
A result is {"rows": ..., "reasons": ..., "error": ..., "mib": peak resident memory above what the imports take}.
Children are forked when all is imported and nothing was read: none inherits memory that another has freed.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def peaks(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results of the jobs."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.peak_memory"], input=json.dumps(jobs), cwd=REPOSITORY, capture_output=True, text=True, check=True
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def memory(field: str) -> int:
    """KiB of this process, of a field of /proc/self/status: VmRSS (now), VmHWM (peak)."""
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text("utf-8"))
    assert found
    return int(found[1])


def result(job: dict[str, Any]) -> dict[str, Any]:
    from stages.common.core.errors import UserError
    from stages.common.rows import row_groups
    from stages.fetch.row_errors import RejectedRow
    from stages.fetch.row_spool import RowSpool
    from stages.fetch.settings import Source
    from stages.fetch.source_file import SourceFile
    from stages.fetch.source_rows import Tally, row_batches
    from stages.fetch.tables import stream_rows

    before, rows, error = memory("VmRSS"), 0, ""
    file, reasons = SourceFile("x", Path(job["path"])), Counter[str]()
    if job["to"] == "items":
        for item in stream_rows(file):
            if isinstance(item, RejectedRow):
                reasons[item.reason] += 1
            else:
                rows += 1
    else:
        row_groups.ROW_GROUP_ROWS = 512  # so that small files have many row groups
        tally = Tally("mine", job.get("drop", True))
        with tempfile.TemporaryDirectory() as folder:
            spool = RowSpool(Path(folder))
            try:
                for batch in row_batches(Source(name="mine", licence="MIT"), [file], tally):
                    spool.add("mine", batch)
                rows = sum(group.num_rows for group in row_groups.row_groups(spool.take(spool.rows_of)))
            except UserError as refusal:
                error = str(refusal)
        reasons = tally.reasons
    return {"rows": rows, "reasons": reasons, "error": error, "mib": (memory("VmHWM") - before) / 1024}


def main() -> None:
    import pyarrow.compute
    import pyarrow.parquet  # noqa: F401

    import stages.fetch.__main__  # noqa: F401

    for job in json.load(sys.stdin):
        child = os.fork()
        if not child:
            print(json.dumps(result(job)), flush=True)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status:
            sys.exit(f"{job}: status {status}")


if __name__ == "__main__":
    main()
