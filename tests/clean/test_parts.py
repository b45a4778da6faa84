"""The map of clean: what a row costs in memory while others are screened."""

import ast
import gc
from pathlib import Path
from typing import Any

import pytest

from stages.clean import parts
from stages.clean.parts import CleanTask, make_part
from stages.clean.row_table import RowTable
from stages.clean.settings import CleanSettings
from stages.common.core.errors import UserError
from tests.helpers.clean_rows import CLAMP, record, write_inputs
from tests.helpers.tiny_project import generated_functions

FILE = "data/raw/rows.parquet"


def part_of(records: list[dict[str, Any]], folder: Path) -> RowTable:
    write_inputs(folder, records, [CLAMP])
    (folder / "scratch").mkdir()
    paths = (folder / "data/benchmarks", folder / "scratch")
    return make_part(CleanTask(str(folder / FILE), 0, 0, *map(str, paths), CleanSettings()))


@pytest.mark.slow
def test_a_row_takes_its_syntax_tree_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [record(f"{n:02}", r["prompt"], r["completion"]) for n, r in enumerate(generated_functions(20))]
    trees, digest = [], parts.text_digest
    gc.collect()
    before = sum(isinstance(o, ast.Module) for o in gc.get_objects())

    def counted(text: str) -> int:
        trees.append(sum(isinstance(o, ast.Module) for o in gc.get_objects()) - before)
        assert not gc.isenabled()
        return digest(text)

    monkeypatch.setattr(parts, "text_digest", counted)
    part_of(made, tmp_path)
    assert set(trees) == {1}
    assert len(trees) == 20
    assert gc.isenabled()


def test_the_collector_runs_again_after_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def failing(text: str) -> None:
        raise UserError("a digest fails")

    monkeypatch.setattr(parts, "text_digest", failing)
    with pytest.raises(UserError, match="a digest fails"):
        part_of([record("a", "def f():\n", "    return 1\n")], tmp_path)
    assert gc.isenabled()
