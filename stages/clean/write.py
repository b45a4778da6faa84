"""Write the second pass: the rows of all parts, in order, to the Parquet files of data/clean."""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.clean.contamination.benchmark_proximity import ProximitySummary
from stages.clean.duplicates.deduplicate import Deduplication
from stages.clean.duplicates.signatures import Signatures
from stages.clean.row_table import RowTable, read_part
from stages.clean.validate import NOT_RUN, PASSED
from stages.common.rows.row_groups import row_groups
from stages.common.rows.schema import row_schema

VALIDATE_RULE = "validate"


@dataclass
class RowOutcomes:
    """What became of each row of a row table."""

    rules: list[str]  # every rule that may drop a row, in order
    dropped_by: np.ndarray  # int16 [n], index in `rules`, -1 for a kept row
    duplicates: Deduplication
    validated: np.ndarray | None = None  # int8 [n]; None: no tests were run
    rejections: dict[int, str] = field(default_factory=dict)  # evidence of the rows that `validate` drops


def write_rows(
    folder: Path, parts: Path, row_table: RowTable, outcomes: RowOutcomes, signatures: Signatures
) -> ProximitySummary:
    """Write rows.parquet and dropped.parquet below `folder`; return the problems that kept rows come near.

    Args:
        parts: folder of the part files.

    Raises:
        RuntimeError: a row was lost or written twice.
    """
    proximities = ProximitySummary()
    columns = [pa.field("component", pa.string())]
    if outcomes.validated is not None:
        columns.append(pa.field("validated", pa.bool_()))
    tables = kept_tables(parts, row_table, outcomes, proximities)
    written = write_groups(folder / "rows.parquet", columns, tables)
    columns = [pa.field(name, pa.string()) for name in ("rule", "evidence")]
    tables = dropped_tables(parts, row_table, outcomes, signatures)
    written += write_groups(folder / "dropped.parquet", columns, tables)
    if written != len(row_table.ids):
        raise RuntimeError(f"the funnel does not add up: {len(row_table.ids)} rows in, {written} written")
    return proximities


def write_groups(path: Path, added: list[pa.Field], tables: Iterator[list[pa.Array]]) -> int:
    """Write tables, given by their columns, in row groups that a reader can hold; return the rows written."""
    schema, rows = pa.schema([*row_schema(), *added]), 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in row_groups((pa.Table.from_arrays(table, schema=schema) for table in tables), schema):
            writer.write_table(group, row_group_size=group.num_rows)
            rows += group.num_rows
    return rows


def kept_tables(
    parts: Path, row_table: RowTable, outcomes: RowOutcomes, proximities: ProximitySummary
) -> Iterator[list[pa.Array]]:
    """Yield the columns of each part's kept rows; count in `proximities` what they come near."""
    for number, rows in row_table.parts:
        kept = np.flatnonzero(outcomes.dropped_by[rows] < 0)
        table = read_part(parts, number).take(kept)
        for row in table.select(["id", "source", "near"]).filter(pc.is_valid(table["near"])).to_pylist():
            proximities.add(row["id"], row["source"], pickle.loads(row["near"]))
        components = row_table.ids.take(outcomes.duplicates.component[rows][kept])
        columns = [*table.select(row_schema().names).columns, components.cast(pa.string())]
        if outcomes.validated is not None:
            validated = outcomes.validated[rows][kept]
            columns.append(pa.array(validated == PASSED, mask=validated == NOT_RUN))
        yield columns


def dropped_tables(
    parts: Path, row_table: RowTable, outcomes: RowOutcomes, signatures: Signatures
) -> Iterator[list[pa.Array]]:
    """Yield the columns of each part's dropped rows."""
    for number, rows in row_table.parts:
        dropped = np.flatnonzero(outcomes.dropped_by[rows] >= 0)
        table = read_part(parts, number).take(dropped)
        rules = [outcomes.rules[rule] for rule in outcomes.dropped_by[rows][dropped]]
        texts = table.column("evidence").to_pylist()
        evidence = drop_evidence(rows.start + dropped, rules, texts, row_table.ids, outcomes, signatures)
        added = [pa.array(texts, pa.string()) for texts in (rules, evidence)]
        yield [*table.select(row_schema().names).columns, *added]


def drop_evidence(
    rows: np.ndarray,
    rules: list[str],
    texts: list[str | None],
    ids: pa.LargeStringArray,
    outcomes: RowOutcomes,
    signatures: Signatures,
) -> list[str | None]:
    """Return why each of the dropped `rows` was dropped.

    Args:
        rules: the rule that dropped each.
        texts: evidence of the rules on single rows, null for rows that other rules dropped.
    """
    kept_for = outcomes.duplicates.representative[rows]
    near = np.array([rule == "near" for rule in rules], bool)
    similarity = iter(signatures.similarity(rows[near], kept_for[near]).tolist())
    evidence = []
    for row, rule, text, other in zip(
        rows.tolist(), rules, texts, ids.take(kept_for).to_pylist(), strict=True
    ):
        if rule == VALIDATE_RULE:
            text = outcomes.rejections[row]
        elif rule == "exact":
            text = f"same text as {other}"
        elif rule == "ast":
            text = f"same code but for names as {other}"
        elif rule == "near":
            text = f"Jaccard {next(similarity):.2f} with {other}"
        evidence.append(text)
    return evidence
