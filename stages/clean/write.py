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
from stages.clean.funnel import Funnel
from stages.clean.parts import read_part, unpickle_proximities
from stages.clean.row_table import FAILED, PASSED, RowTable
from stages.clean.settings import CleanSettings
from stages.common.files import ROW_GROUP_ROWS
from stages.common.schema import row_schema

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
    row_table: RowTable, outcomes: RowOutcomes, settings: CleanSettings, folder: Path, funnel: Funnel
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
                row_table, outcomes, settings, rows.start + dropped, table.column("evidence").take(dropped)
            )
            dropped_rows.write(table.select(names).take(dropped), [rules, evidence])
            funnel.write(len(kept) + len(dropped))
            for pickled in table.column("near").take(kept).drop_null().to_pylist():
                proximities.add(unpickle_proximities(pickled))
    return proximities


def drop_evidence(
    row_table: RowTable,
    outcomes: RowOutcomes,
    settings: CleanSettings,
    rows: np.ndarray,
    row_rule_evidence: pa.ChunkedArray,
) -> pa.Array:
    """Return why each of the dropped `rows` was dropped.

    Args:
        row_rule_evidence: evidence of the rules on single rows, null for rows that other rules dropped.
    """
    texts = row_rule_evidence.to_pylist()
    kept_ids = row_table.ids.take(outcomes.duplicates.representative[rows]).to_pylist()
    similarity = near_similarity(row_table, outcomes, settings, rows)
    for place, row in enumerate(rows.tolist()):
        rule = outcomes.rules[outcomes.dropped_by[row]]
        if rule == VALIDATE_RULE:
            texts[place] = outcomes.rejections[row]
        elif rule == "exact":
            texts[place] = f"same text as {kept_ids[place]}"
        elif rule == "ast":
            texts[place] = f"same code but for names as {kept_ids[place]}"
        elif rule == "near":
            is_direct = similarity[row] >= settings.near_duplicates.threshold
            chain = "" if is_direct else ", through rows between them"
            texts[place] = f"Jaccard {similarity[row]:.2f} with {kept_ids[place]}{chain}"
    return pa.array(texts, pa.string())


def near_similarity(
    row_table: RowTable, outcomes: RowOutcomes, settings: CleanSettings, rows: np.ndarray
) -> dict[int, float]:
    """Return the Jaccard similarity of each near duplicate among `rows` with the row kept for it."""
    if "near" not in settings.duplicates or not len(rows):
        return {}
    copies = rows[outcomes.dropped_by[rows] == outcomes.rules.index("near")]
    similarity = row_table.signatures.similarity(copies, outcomes.duplicates.representative[copies])
    return dict(zip(copies.tolist(), similarity.tolist(), strict=True))


class RowGroupWriter:
    """Writes row groups of ROW_GROUP_ROWS, so that the bytes do not depend on how rows were batched."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self.writer = writer
        self.waiting: list[pa.Table] = []
        self.rows = 0

    def write(self, table: pa.Table, added: Sequence[pa.Array]) -> None:
        columns = [*table.columns, *added]
        self.waiting.append(pa.Table.from_arrays(columns, schema=self.writer.schema))
        self.rows += table.num_rows
        if self.rows >= ROW_GROUP_ROWS:
            self.flush(self.rows - self.rows % ROW_GROUP_ROWS)

    def flush(self, rows: int) -> None:
        table = pa.concat_tables(self.waiting)
        for start in range(0, rows, ROW_GROUP_ROWS):
            group = table.slice(start, min(ROW_GROUP_ROWS, rows - start)).combine_chunks()
            self.writer.write_table(group, row_group_size=ROW_GROUP_ROWS)
        self.waiting = [table.slice(rows)]
        self.rows = table.num_rows - rows


@contextmanager
def open_row_groups(path: Path, added: Sequence[pa.Field]) -> Iterator[RowGroupWriter]:
    schema = pa.schema([*row_schema(), *added])
    with pq.ParquetWriter(path, schema, compression="zstd") as parquet:
        writer = RowGroupWriter(parquet)
        writer.write(schema.empty_table().select(row_schema().names), [pa.array([], f.type) for f in added])
        yield writer
        writer.flush(writer.rows)
