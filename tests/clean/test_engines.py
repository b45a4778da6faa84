"""Clean as a whole: the same bytes on every engine, and rows whose own tests are run."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.clean.__main__ import main
from stages.clean.settings import CleanSettings, Validation
from stages.common.core.files import sha256_folder
from stages.common.engine import EngineSettings
from stages.common.rows.schema import row_schema
from tests.common.test_engine import check_ray_elsewhere, two_nodes
from tests.helpers.clean_rows import CLAMP, RUNS, record, write_inputs
from tests.helpers.tiny_project import REPOSITORY, generated_functions

DOCUMENTED = (
    "def {name}(values):\n",
    '    """Add up the squares of all values that are given to it.\n\n'
    "    >>> {name}([1, 2])\n    {result}\n"
    '    """\n    total = 0\n    for value in values:\n        total += value * value\n    return total\n',
)


def corpus() -> list[dict[str, Any]]:
    """Distinct functions, copies of three kinds, a row for a rule, and secrets to redact."""
    rows = [
        record(f"made-{number:03}", row["prompt"], row["completion"])
        for number, row in enumerate(generated_functions(70))
    ]
    first = rows[0]
    body = "".join(f"    total_{n} = amounts[{n}] * rates[{n}] + fees[{n}]\n" for n in range(6))
    return [
        *rows,
        record("copy-exact", first["prompt"], first["completion"] + "\n"),
        record("near-one", "def bill(amounts, rates, fees):\n", body + "    return total_0 + total_5\n"),
        record("near-two", "def bill(amounts, rates, fees):\n", body + "    return total_0 - total_5\n"),
        record("broken", "def f(:\n", "    return 1\n"),
        record("solution", RUNS["prompt"], RUNS["canonical_solution"]),
        record("mail", "def owner():\n", "    return 'jane.roe@corp.io', 1, 2, 3, 'x', 'y', 'z'\n"),
    ]


def prepared(folder: Path) -> Path:
    """A project with that corpus in row groups of 16."""
    write_inputs(folder, corpus(), [RUNS, CLAMP])
    rows = folder / "data/raw/rows.parquet"
    pq.write_table(pq.read_table(rows), rows, row_group_size=16)
    (folder / "reports").mkdir()
    (folder / "reports/config.yaml").write_text("engine: {}\nclean: {}\n")
    shutil.copy(REPOSITORY / "dvc.yaml", folder)
    (folder / "stages").symlink_to(REPOSITORY / "stages")
    return folder


def cleaned_by(folder: Path, *overrides: str) -> tuple[str, dict[str, Any]]:
    """Hash of data/clean and the metrics of a command of its own."""
    shutil.rmtree(folder / "data/clean", ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-m", "stages.clean", *overrides],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = json.loads((folder / "reports/clean.json").read_text())
    return sha256_folder(folder / "data/clean"), metrics


def cleaned_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, Any]]:
    """The same of one worker, in this process."""
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        metrics = main(SimpleNamespace(clean=CleanSettings(), engine=EngineSettings(workers=1)))  # type: ignore[arg-type]
    return sha256_folder(folder / "data/clean"), json.loads(json.dumps(metrics))


@pytest.mark.slow
def test_clean_writes_the_same_bytes_on_every_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = cleaned_here(prepared(tmp_path / "one"), monkeypatch)
    with ThreadPoolExecutor() as pool:  # while Ray starts
        two = pool.submit(cleaned_by, prepared(tmp_path / "two"), "engine.workers=2")
        with two_nodes() as address:
            cluster = ("engine.kind=ray", f"engine.address={address}")
            assert cleaned_by(prepared(tmp_path / "ray"), *cluster) == one
            check_ray_elsewhere(address)
        assert two.result() == one
    _, metrics = one
    assert metrics["changed"]["email"] == 1
    assert {rule: n for rule, n in metrics["dropped"].items() if n}.keys() >= {"parse", "exact", "near"}
    assert list(tmp_path.glob("*/.cache/*")) == []


@pytest.fixture
def documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows with a doctest that passes, the same code with one that fails, and a row without any; tests run at level B."""
    right, wrong = (DOCUMENTED[1].format(name="squares", result=result) for result in (5, 6))
    head = DOCUMENTED[0].format(name="squares")
    others = [record(f"z-{n}", r["prompt"], r["completion"]) for n, r in enumerate(generated_functions(5))]
    write_inputs(tmp_path, [record("a-wrong", head, wrong), record("b-right", head, right), *others], [CLAMP])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def validated(how: str, unchecked: str = "keep") -> tuple[dict[str, Any], pa.Table, pa.Table]:
    """Metrics, kept rows and dropped rows."""
    validation = Validation(isolation="B", cpu_seconds=1.0, unchecked=unchecked)
    settings = CleanSettings(validate=how, validation=validation)
    metrics = main(SimpleNamespace(clean=settings, engine=EngineSettings(workers=1)))  # type: ignore[arg-type]
    return metrics, *(pq.read_table(f"data/clean/{name}.parquet") for name in ("rows", "dropped"))


def test_a_row_whose_tests_pass_is_kept_before_its_copies(documented: Path) -> None:
    metrics, rows, dropped = validated("tag")
    states = dict(zip(rows["id"].to_pylist(), rows["validated"].to_pylist(), strict=True))
    assert states.pop("b-right") is True, "its copy a-wrong has the lower id"
    assert set(states.values()) == {None}
    assert dropped["id"].to_pylist() == ["a-wrong"]
    assert (metrics["validated"]["passed"], metrics["validated"]["failed"]) == (1, 1)
    assert metrics["validated"]["not_run"] == len(states)


def test_require_drops_failing_rows_and_optionally_rows_without_tests(documented: Path) -> None:
    metrics, rows, dropped = validated("require")
    assert metrics["dropped"]["validate"] == 1
    assert dropped["rule"].to_pylist() == ["validate"]
    assert "expected 6" in dropped["evidence"][0].as_py()
    assert rows.num_rows == 6
    metrics, rows, dropped = validated("require", unchecked="drop")
    assert rows["id"].to_pylist() == ["b-right"]
    assert metrics["dropped"]["validate"] == 6
    assert metrics["rows_in"] == metrics["rows_kept"] + sum(metrics["dropped"].values())


def test_without_validation_there_is_no_such_column(documented: Path) -> None:
    metrics, rows, _ = validated("none")
    assert rows.column_names == [*row_schema().names, "component"]
    assert "validated" not in metrics
