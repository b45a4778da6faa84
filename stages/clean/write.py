"""The second pass: the rows of all parts, in their order, into the files of data/clean."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.clean.contamination.benchmark_proximity import Summary
from stages.clean.duplicates.deduplicate import Deduplicated
from stages.clean.funnel import Funnel
from stages.clean.parts import nears_of, read_part
from stages.clean.row_table import FAILED, PASSED, Survey
from stages.clean.settings import CleanSettings
from stages.common.files import ROW_GROUP_ROWS
from stages.common.schema import row_schema

VALIDATE = "validate"


@dataclass
class Fate:
    """What became of each row of a survey."""

    rules: list[str]  # all that may drop a row
    rule: np.ndarray  # int16 [n], place in `rules`, -1 for a kept row
    duplicates: Deduplicated
    validated: np.ndarray | None  # int8 [n]; None: nothing was run
    rejected: dict[int, str]  # evidence of `validate`


def fate_of(
    found: Survey,
    result: Deduplicated,
    validated: np.ndarray | None,
    rejected: dict[int, str],
    settings: CleanSettings,
) -> Fate:
    rules = [*settings.rules, *([VALIDATE] if settings.validate == "require" else []), *settings.duplicates]
    rule = np.where(result.rule >= 0, result.rule + (len(rules) - len(settings.duplicates)), found.rules)
    if rejected:
        rule[np.fromiter(rejected, np.int64, len(rejected))] = len(settings.rules)
    return Fate(rules, rule.astype(np.int16), result, validated, rejected)


def write_rows(found: Survey, fate: Fate, settings: CleanSettings, folder: Path, funnel: Funnel) -> Summary:
    """Write rows.parquet and dropped.parquet below `folder`; returns the problems that kept rows come near."""
    text = pa.field("component", pa.string())
    added = [text] if fate.validated is None else [text, pa.field("validated", pa.bool_())]
    schema = row_schema()
    near = Summary()
    with ExitStack() as stack:
        kept = stack.enter_context(grouped(folder / "rows.parquet", added))
        dropped = stack.enter_context(
            grouped(
                folder / "dropped.parquet", [pa.field(name, pa.string()) for name in ("rule", "evidence")]
            )
        )
        for number, rows in found.parts:
            table = read_part(found.scratch, number)
            rule = fate.rule[rows]
            sources = found.sources[number]
            funnel.add(sources.dictionary.to_pylist(), sources.indices.to_numpy(), rule)
            stays, goes = np.flatnonzero(rule < 0), np.flatnonzero(rule >= 0)
            columns = [found.ids.take(fate.duplicates.component[rows.start + stays]).cast(pa.string())]
            if fate.validated is not None:
                state = fate.validated[rows][stays]
                columns.append(pa.array(state == PASSED, mask=(state != PASSED) & (state != FAILED)))
            kept.write(table.select(schema.names).take(stays), columns)
            evidence = evidence_of(
                found, fate, settings, rows.start + goes, table.column("evidence").take(goes)
            )
            names = pa.array([fate.rules[place] for place in rule[goes]], pa.string())
            dropped.write(table.select(schema.names).take(goes), [names, evidence])
            funnel.write(len(stays) + len(goes))
            for value in table.column("near").take(stays).drop_null().to_pylist():
                near.add(nears_of(value))
    return near


def evidence_of(
    found: Survey, fate: Fate, settings: CleanSettings, rows: np.ndarray, evidence: pa.ChunkedArray
) -> pa.Array:
    """Why each of the dropped `rows` was dropped; `evidence` is what the rules on single rows said."""
    texts = evidence.to_pylist()
    ids = found.ids.take(fate.duplicates.stands_for[rows]).to_pylist()
    similarity = near_similarity(found, fate, settings, rows)
    for place, row in enumerate(rows.tolist()):
        rule = fate.rules[fate.rule[row]]
        if rule == VALIDATE:
            texts[place] = fate.rejected[row]
        elif rule == "exact":
            texts[place] = f"same text as {ids[place]}"
        elif rule == "ast":
            texts[place] = f"same code but for names as {ids[place]}"
        elif rule == "near":
            through = (
                "" if similarity[row] >= settings.near_duplicates.threshold else ", through rows between them"
            )
            texts[place] = f"Jaccard {similarity[row]:.2f} with {ids[place]}{through}"
    return pa.array(texts, pa.string())


def near_similarity(found: Survey, fate: Fate, settings: CleanSettings, rows: np.ndarray) -> dict[int, float]:
    """Jaccard similarity of each near duplicate with the row that is kept for it."""
    if "near" not in settings.duplicates or not len(rows):
        return {}
    copies = rows[fate.rule[rows] == fate.rules.index("near")]
    similarity = found.signatures.similarity(copies, fate.duplicates.stands_for[copies])
    return dict(zip(copies.tolist(), similarity.tolist(), strict=True))


class Grouped:
    """Writes tables as row groups of ROW_GROUP_ROWS: the bytes do not depend on how the rows come."""

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
def grouped(path: Path, added: Sequence[pa.Field]) -> Iterator[Grouped]:
    schema = pa.schema([*row_schema(), *added])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        rows = Grouped(writer)
        rows.write(schema.empty_table().select(row_schema().names), [pa.array([], f.type) for f in added])
        yield rows
        rows.flush(rows.rows)
