"""Write the second pass: the rows of all parts, in order, to the Parquet files of data/clean."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.clean.contamination.benchmark_proximity import ProximitySummary
from stages.clean.duplicates.deduplicate import Deduplication
from stages.clean.duplicates.signatures import Signatures
from stages.clean.funnel import Funnel
from stages.clean.parts import read_part, unpickle_proximities
from stages.clean.row_table import FAILED, PASSED, RowTable
from stages.clean.settings import CleanSettings
from stages.common.rows.row_groups import group_rows
from stages.common.rows.schema import row_schema

VALIDATE_RULE = "validate"


@dataclass
class RowOutcomes:
    """What became of each row of a row table."""

    rules: list[str]  # every rule that may drop a row, in order
    dropped_by: np.ndarray  # int16 [n], index in `rules`, -1 for a kept row
    duplicates: Deduplication
    validated: np.ndarray | None  # int8 [n]; None: no tests were run
    rejections: dict[int, str]  # evidence of the rows that `validate` drops


def resolve_outcomes(
    row_table: RowTable,
    duplicates: Deduplication,
    validated: np.ndarray | None,
    rejections: dict[int, str],
    settings: CleanSettings,
) -> RowOutcomes:
    """Merge row rules, validation and duplicate rules into one drop per row."""
    rules = [
        *settings.rules,
        *([VALIDATE_RULE] if settings.validate == "require" else []),
        *settings.duplicates,
    ]
    first_duplicate_rule = len(rules) - len(settings.duplicates)
    dropped_by = np.where(
        duplicates.dropped_by >= 0, duplicates.dropped_by + first_duplicate_rule, row_table.dropped_by
    )
    if rejections:
        dropped_by[np.fromiter(rejections, np.int64, len(rejections))] = len(settings.rules)
    return RowOutcomes(rules, dropped_by.astype(np.int16), duplicates, validated, rejections)


def write_rows(
    row_table: RowTable, outcomes: RowOutcomes, signatures: Signatures, folder: Path, funnel: Funnel
) -> ProximitySummary:
    """Write rows.parquet and dropped.parquet below `folder`; return the problems that kept rows come near."""
    component = pa.field("component", pa.string())
    kept_fields = (
        [component] if outcomes.validated is None else [component, pa.field("validated", pa.bool_())]
    )
    dropped_fields = [pa.field(name, pa.string()) for name in ("rule", "evidence")]
    names = row_schema().names
    proximities = ProximitySummary()
    with ExitStack() as stack:
        kept_rows = stack.enter_context(open_row_groups(folder / "rows.parquet", kept_fields))
        dropped_rows = stack.enter_context(open_row_groups(folder / "dropped.parquet", dropped_fields))
        for number, rows in row_table.parts:
            table = read_part(row_table.folder, number)
            dropped_by = outcomes.dropped_by[rows]
            sources = row_table.sources[number]
            funnel.add(sources.dictionary.to_pylist(), sources.indices.to_numpy(), dropped_by)
            kept, dropped = np.flatnonzero(dropped_by < 0), np.flatnonzero(dropped_by >= 0)
            components = outcomes.duplicates.component[rows.start + kept]
            columns = [row_table.ids.take(components).cast(pa.string())]
            if outcomes.validated is not None:
                validated = outcomes.validated[rows][kept]
                mask = (validated != PASSED) & (validated != FAILED)
                columns.append(pa.array(validated == PASSED, mask=mask))
            kept_rows.write(table.select(names).take(kept), columns)
            rules = pa.array([outcomes.rules[rule] for rule in dropped_by[dropped]], pa.string())
            evidence = drop_evidence(
                row_table, outcomes, signatures, rows.start + dropped, table.column("evidence").take(dropped)
            )
            dropped_rows.write(table.select(names).take(dropped), [rules, evidence])
            funnel.write(len(kept) + len(dropped))
            for pickled in table.column("near").take(kept).drop_null().to_pylist():
                proximities.add(unpickle_proximities(pickled))
    return proximities


def drop_evidence(
    row_table: RowTable,
    outcomes: RowOutcomes,
    signatures: Signatures,
    rows: np.ndarray,
    row_rule_evidence: pa.ChunkedArray,
) -> pa.Array:
    """Return why each of the dropped `rows` was dropped.

    Args:
        row_rule_evidence: evidence of the rules on single rows, null for rows that other rules dropped.
    """
    texts = row_rule_evidence.to_pylist()
    kept_for = outcomes.duplicates.representative
    kept_ids = row_table.ids.take(kept_for[rows]).to_pylist()
    rules = [outcomes.rules[place] for place in outcomes.dropped_by[rows]]
    near = rows[[rule == "near" for rule in rules]]
    similarity = dict(zip(near.tolist(), signatures.similarity(near, kept_for[near]).tolist(), strict=True))
    for place, (row, rule) in enumerate(zip(rows.tolist(), rules, strict=True)):
        if rule == VALIDATE_RULE:
            texts[place] = outcomes.rejections[row]
        elif rule == "exact":
            texts[place] = f"same text as {kept_ids[place]}"
        elif rule == "ast":
            texts[place] = f"same code but for names as {kept_ids[place]}"
        elif rule == "near":
            texts[place] = f"Jaccard {similarity[row]:.2f} with {kept_ids[place]}"
    return pa.array(texts, pa.string())


class RowGroupWriter:
    """Writes row groups that a reader can hold; they depend on the rows alone, and so do the file's bytes."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self.writer = writer
        self.waiting = writer.schema.empty_table()

    def write(self, table: pa.Table, added: Sequence[pa.Array]) -> None:
        table = pa.Table.from_arrays([*table.columns, *added], schema=self.writer.schema)
        self.waiting = pa.concat_tables([self.waiting, table]).combine_chunks()
        while rows := group_rows(self.waiting):
            self.flush(rows)

    def flush(self, rows: int) -> None:
        group = self.waiting.slice(0, rows).combine_chunks()
        self.writer.write_table(group, row_group_size=max(1, rows))
        self.waiting = self.waiting.slice(rows)


@contextmanager
def open_row_groups(path: Path, added: Sequence[pa.Field]) -> Iterator[RowGroupWriter]:
    with pq.ParquetWriter(path, pa.schema([*row_schema(), *added]), compression="zstd") as parquet:
        writer = RowGroupWriter(parquet)
        yield writer
        if writer.waiting.num_rows:
            writer.flush(writer.waiting.num_rows)
