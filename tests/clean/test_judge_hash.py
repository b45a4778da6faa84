"""`clean.validation.judge`: the configuration records the judge's code exactly where clean runs the tests of rows."""

import shutil
from pathlib import Path

import pytest

from stages.common.core.config_sections import check_overrides
from stages.common.core.files import sha256_code
from stages.config.compose import compose_config
from tests.helpers.tiny_project import REPOSITORY


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the configuration is composed from, and of the folders it could depend on."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    shutil.copytree(REPOSITORY / "conf", tmp_path / "conf")
    for stage in ("judge", "evaluate"):
        shutil.copytree(
            REPOSITORY / "stages" / stage,
            tmp_path / "stages" / stage,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def judge_hash(validate: str) -> str:
    digest: str = compose_config(*check_overrides([f"clean.validate={validate}"]))["clean"].validation.judge
    return digest


@pytest.mark.parametrize(("validate", "runs_rows"), [("none", False), ("tag", True), ("require", True)])
def test_the_hash_of_the_judge_is_set_exactly_where_rows_are_run(
    checkout: Path, validate: str, runs_rows: bool
) -> None:
    assert judge_hash(validate) == (sha256_code(REPOSITORY / "stages/judge") if runs_rows else "")


def test_an_edit_of_the_judge_changes_the_hash_and_one_of_evaluate_does_not(checkout: Path) -> None:
    before = judge_hash("tag")
    for file in (checkout / "stages/evaluate").glob("*.py"):
        file.write_text(file.read_text("utf-8") + "# an edit\n", "utf-8")
    assert judge_hash("tag") == before
    for name in ("pool.py", "sandbox/supervisor.py", "extract/program.py"):
        with (checkout / "stages/judge" / name).open("a") as source:
            source.write("# an edit\n")
        now = judge_hash("tag")
        assert now != before, f"clean would keep results of a judge without the edit of {name}"
        before = now
