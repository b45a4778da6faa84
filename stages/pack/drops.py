"""Rows that pack drops: a file of them with reason and detail, and what is said of them."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.common.core.errors import UserError
from stages.common.core.paths import CLEAN_ROWS
from stages.common.rows.schema import row_schema

WARNED_SHARE = 0.1  # of rows dropped for another reason than their length
ADVICE = {  # what to choose if rows are dropped for this reason
    "conversation": "prompt=chat renders all turns of a conversation",
    "early_end": "choose another prompt.style, or repair the tokenizer's chat template",
    "name": "choose a model whose template reads names, or leave them out (`ignore` of the source)",
    "no_answer": "clean=instruct drops such rows earlier",
    "overlong": "raise pack.max_length, or set pack.overlong to truncate or split",
    "reasoning_content": "choose a model whose template reads it, or leave it out (`ignore` of the source)",
    "template": "choose another prompt.style, or a chat_template.jinja in the model's folder that takes such rows",
    "tool_calls": "choose prompt=chat and a model whose template renders tool calls",
    "tools": "choose prompt=chat and a model whose template renders tools",
}


@dataclass
class Drops:
    """Counts dropped rows by reason, keeps an example of each, and writes all to a Parquet file."""

    path: Path
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> "Drops":
        texts = [pa.field(name, pa.string()) for name in ("reason", "detail")]
        self.schema = pa.schema([*row_schema(), *texts])
        self.file = pq.ParquetWriter(self.path, self.schema, compression="zstd")
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def add(self, rows: pa.Table | None) -> None:
        if rows is None:
            return
        self.file.write_table(rows.cast(self.schema))
        for row in rows.select(["id", "source", "reason", "detail"]).to_pylist():
            self.counts[row["reason"]] += 1
            self.examples.setdefault(row["reason"], f"row {row['id']} ({row['source']}): {row['detail']}")

    def lost(self) -> int:
        """Return the rows that are dropped for another reason than their length."""
        return self.counts.total() - self.counts["overlong"]

    def lines(self) -> list[str]:
        """Return a line for each reason: its rows, and one of them."""
        return [f"  {count} {why}, e.g. {self.examples[why]}" for why, count in self.counts.most_common()]

    def check(self, rows: int, documents: int, max_share: float) -> None:
        """Raise UserError if no row is left, or if more than `max_share` are dropped for other reasons than length."""
        advice = [f"{reason}: {ADVICE[reason]}" for reason in self.counts if reason in ADVICE]
        said = "".join(f"\n{line}" for line in (*self.lines(), *advice))
        if not documents:
            why = f".{said}" if said else ": the file is empty. Loosen the rules of clean."
            raise UserError(f"{CLEAN_ROWS}: none of {rows} rows is left to pack{why}")
        if self.lost() > max_share * rows:
            raise UserError(
                f"{CLEAN_ROWS}: {self.lost()} of {rows} rows cannot be trained on, more than pack.max_dropped_share "
                f"({max_share:g}). Repair them, choose as advised, or raise it to go on without them.{said}"
            )

    def summary(self, rows: int) -> list[str]:
        """Return what to print: the dropped rows, with a warning if they are many."""
        if not self.counts:
            return []
        is_loud = self.lost() > WARNED_SHARE * rows
        loud = f"WARNING: {self.lost()} of {rows} rows cannot be trained on. " if is_loud else ""
        dropped = f"{loud}dropped {self.counts.total()} of {rows} rows (data/packed/{self.path.name}):"
        return [dropped, *self.lines()]
