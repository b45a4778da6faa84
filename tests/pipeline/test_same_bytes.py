"""Two runs give the same bytes: the second in another folder and process, its training killed and resumed."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.helpers.tiny_project import REPOSITORY, WARM, Project, environment
from tests.helpers.warm_python import WarmPython

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ARTIFACTS = ("data/clean", "data/packed", "models/adapter", "models/merged")
KILLED_TRAINING = REPOSITORY / "tests/helpers/killed_training.py"
PYTHON = """\
#!/bin/sh
[ "$*" = "-m stages.train" ] && exec {python} {killed}
exec {warm}/python "$@"
"""


def path_with_killed_training(folder: Path, project: Project) -> str:
    """Return a PATH whose `python -m stages.train` is killed by SIGKILL when it has written a checkpoint."""
    folder.mkdir()
    script = PYTHON.format(python=sys.executable, killed=KILLED_TRAINING, warm=os.environ[WARM])
    (folder / "python").write_text(script, "utf-8")
    (folder / "python").chmod(0o755)
    return os.pathsep.join([str(folder), environment(project.root)["PATH"]])


def verdicts(project: Project) -> list[dict[str, object]]:
    """Return all samples."""
    files = [project.root / f"reports/evaluate/{target}/samples.jsonl" for target in ("base", "tuned")]
    return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]


def test_a_second_run_killed_in_its_training_gives_the_same_bytes(
    fresh: Project, finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = fresh.copy(tmp_path / "another-name")
    assert not (second.root / ".dvc/cache").exists()
    second.params(track__live=False)  # it changes no artifact
    warm = WarmPython(tmp_path / "warm")  # sets and dictionaries of its forks have another order
    monkeypatch.setenv(WARM, str(warm.bin))
    try:
        path = path_with_killed_training(tmp_path / "bin", second)
        killed = second.run(sys.executable, "-m", "dvc", "repro", "evaluate@tuned", env={"PATH": path})
        assert killed.status != 0
        assert killed.ran == ["config", "base", "fetch", "sample", "clean", "pack", "train"]
        left = [p.name for p in (second.root / "models").iterdir() if p.name != ".gitignore"]
        assert left == ["base"], "nothing of the adapter is there before it is whole"
        assert list((second.root / ".cache/train").glob("*/checkpoint-*")), (
            "there is something to resume from"
        )

        resumed = second.repro("evaluate@base", "evaluate@tuned")
    finally:
        warm.close()
    assert resumed.ran == ["train", "merge", "evaluate@base", "evaluate@tuned"]
    assert "train: resuming after step" in resumed.text
    assert second.files(*ARTIFACTS) == finished.files(*ARTIFACTS)
    assert set(ARTIFACTS) == {"/".join(Path(name).parts[:2]) for name in second.files(*ARTIFACTS)}
    assert verdicts(second) == verdicts(finished)
    assert len(verdicts(second)) == 8
