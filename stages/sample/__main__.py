"""Draw further answers to training rows that carry tests, and keep those that pass (rejection sampling).

    python -m stages.sample sample.samples=8    # off by default: conf/sample/none.yaml

A model completes the prompts of rows of data/raw whose tests or doctests pass on their own answer, and never of
one near a benchmark problem. Each completion runs with the row's tests in the sandbox. Those that pass, and
differ from the row's answer and from each other, become rows of a source `sampled` in data/sampled/rows.parquet,
which clean reads after data/raw. An interrupted run goes on where it ended.
"""

from typing import Any

from stages.common.core.errors import UserError
from stages.common.core.files import atomic_folder, open_parquet
from stages.common.core.paths import RAW_ROWS, SAMPLED
from stages.common.core.stage import Settings, run
from stages.common.rows.schema import row_schema
from stages.sample.settings import SampleSettings


def main(settings: Settings) -> dict[str, Any]:
    """Write data/sampled; return how many rows were drawn for, and what became of the completions."""
    sample: SampleSettings = settings.sample
    if not sample.samples:
        write_sampled([])
        print("sample: off (sample.samples is 0)")
        return {"samples": 0, "kept": 0}
    from stages.sample.drawing import JOURNAL, Seed, draw, keep_passes, seeds_among

    raw = open_parquet(RAW_ROWS)
    seeds: list[Seed] = []
    passed_over: dict[str, int] = {}
    for group in range(raw.num_row_groups):
        records = raw.read_row_group(group, columns=row_schema().names).to_pylist()
        found, reasons = seeds_among(records, sample)
        seeds += found
        passed_over |= {reason: passed_over.get(reason, 0) + n for reason, n in reasons.items()}
    left_out = ", ".join(f"{n} {reason}" for reason, n in sorted(passed_over.items()))
    print(f"sample: {len(seeds)} rows to draw for; not for {left_out or 'no other'}", flush=True)
    if not seeds:
        raise UserError(
            f"no row of {RAW_ROWS} can be drawn for ({left_out}). A row needs one question, and tests or doctests "
            "that its answer passes; or set `- sample: none` in params.yaml"
        )
    records, counts = keep_passes(seeds, draw(seeds, settings.prompt, sample), sample)
    write_sampled(records)
    JOURNAL.unlink(missing_ok=True)
    print("sample: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
    return {
        "samples": sample.samples,
        "model": sample.model,
        "rows": len(seeds),
        "passed_over": dict(sorted(passed_over.items())),
        "rows_with_a_kept_sample": len({record["metadata"] for record in records}),
        "completions": dict(sorted(counts.items())),
        "kept": len(records),
    }


def write_sampled(records: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from stages.common.rows.row_groups import row_groups

    table = pa.Table.from_pylist(records, schema=row_schema())
    with atomic_folder(SAMPLED) as folder, pq.ParquetWriter(folder / "rows.parquet", row_schema()) as writer:
        for group in row_groups([table] if records else []):
            writer.write_table(group)


if __name__ == "__main__":
    run("sample", main)
