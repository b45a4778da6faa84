"""What all stages stand on: files that are replaced whole, and what a stage says it cost."""

import subprocess
import sys
from pathlib import Path

import pytest

from stages.common.core.files import atomic_folder
from stages.common.core.stage import run


def test_a_failing_writer_leaves_the_old_folder(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "data"):
        pass
    with pytest.raises(NotADirectoryError):
        write_below_a_file(tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def write_below_a_file(path: Path) -> None:
    with atomic_folder(path) as folder:
        (folder / "a").write_text("rows")
        (folder / "a" / "b").write_text("rows")


def test_peak_memory_is_not_that_of_the_parent_process() -> None:
    """The kernel's `ru_maxrss` of a child starts from its parent's."""
    ballast = b"1" * (400 << 20)
    code = "from stages.common.core.stage import peak_memory_kib; print(peak_memory_kib())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(ballast) > int(done.stdout) * 1024 > 10 << 20


@pytest.mark.parametrize("given", [["fetch=mine"], ["+experiment=x", "pack.max_length=64"]])
def test_a_group_on_the_command_line_of_a_stage_is_refused_in_words(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/config.yaml").write_text("fetch: {}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["fetch", *given])
    with pytest.raises(SystemExit) as stopped:
        run("fetch", lambda settings: None)
    assert stopped.value.code == 1
    first = given[0].lstrip("+")
    assert f"error in stage fetch: {first}: groups are chosen" in (text := capsys.readouterr().err)
    assert f"First `python -m stages.config {first}`" in text
