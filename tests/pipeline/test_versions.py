"""docs/versions.md, executed: its blocks in their order, from a fresh clone, with the tiny model.

The pipeline ends with `train`: what comes after costs a minute and says nothing more about versions.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.helpers.document_commands import command_blocks
from tests.helpers.tiny_project import REPOSITORY, ROWS, Done, Project, generated_functions, write_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

KEPT = ["config", "base", "fetch", "sample", "clean", "pack", "train"]
AFTER_ROWS = KEPT[2:]
MORE = 24
ROWS_FILE = "data/sources/rows.jsonl"


@dataclass
class Step:
    """A block of the document, run: its section, commands, the lines it must print, what it did, files after it."""

    section: str
    commands: str
    promised: list[str]
    done: Done
    files: dict[str, str]


def short_pipeline(project: Project) -> None:
    """End the pipeline with `train`, and give `fetch: file` the tiny benchmark; the rows go, they come from home."""
    path = project.root / "dvc.yaml"
    stages = yaml.safe_load(path.read_text("utf-8"))["stages"]
    path.write_text(yaml.safe_dump({"stages": {name: stages[name] for name in KEPT}}), "utf-8")
    project.params(track__live=False)
    shutil.copy(project.root / "conf/fetch/tiny.yaml", project.root / "conf/fetch/file.yaml")
    (project.root / ROWS_FILE).unlink()
    project.commit("up to train")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's home, with rows."""
    home = tmp_path_factory.mktemp("home")
    write_jsonl(home / "rows.jsonl", generated_functions(ROWS))
    write_jsonl(home / "more.jsonl", generated_functions(MORE, seed=1))
    return home


@pytest.fixture(scope="module")
def walk(fresh: Project, home: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    """The document's blocks, run one after the other in a clone; all must succeed."""
    origin = fresh.copy(tmp_path_factory.mktemp("origin") / "project")
    short_pipeline(origin)
    clone = Project(home / "clone")
    subprocess.run(["git", "clone", "-q", str(origin.root), str(clone.root)], check=True)
    author = {f"GIT_{who}_{what}": "me@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}  # fmt: skip
    steps = []
    for block in command_blocks((REPOSITORY / "docs/versions.md").read_text("utf-8")):
        shell = ("bash", "-euo", "pipefail", "-c", block.commands)
        done = clone.run(*shell, check=True, env={"HOME": str(home), **author})
        files = clone.files("data", "models")
        steps.append(Step(block.section, block.commands, block.promised_lines, done, files))
    return steps


def of(walk: list[Step], section: str) -> list[Step]:
    found = [step for step in walk if step.section == section]
    assert found, f"docs/versions.md has no section {section!r}"
    return found


def versions(walk: list[Step]) -> tuple[Step, Step]:
    return of(walk, "A first version")[-1], of(walk, "A second version")[-1]


def test_what_the_document_promises_is_printed(walk: list[Step]) -> None:
    assert sum(len(step.promised) for step in walk) >= 9
    for step in walk:
        printed = iter(line.strip() for line in step.done.out.splitlines())
        lost = [line for line in step.promised if line.strip() not in printed]  # in this order
        assert lost == [], f"{step.commands}printed\n{step.done.text}"


def test_each_version_is_trained_on_and_the_second_runs_what_reads_the_rows(walk: list[Step]) -> None:
    first, second = versions(walk)
    assert first.done.ran == KEPT
    assert second.done.ran == AFTER_ROWS
    for path in (ROWS_FILE, "data/raw/rows.parquet", "models/adapter/adapter_model.safetensors"):
        assert first.files[path] != second.files[path]


def test_the_first_version_comes_back_to_the_byte_and_nothing_runs(walk: list[Step]) -> None:
    first, second = versions(walk)
    back, forth = of(walk, "Back to the first, and forth")
    assert (back.done.ran, forth.done.ran) == ([], [])
    assert back.files == first.files
    assert forth.files == second.files


def test_the_differences_are_those_of_the_data(walk: list[Step]) -> None:
    files, figures = of(walk, "What changed")
    assert "models/base" not in files.done.out
    table = [line.split() for line in figures.done.out.splitlines()]
    rows = {tuple(cells[:2]): cells[2:] for cells in table if len(cells) == 5}
    assert rows["reports/fetch.json", "rows"] == [str(ROWS), str(ROWS + MORE), str(MORE)]
    assert any(path == "reports/train.json" for path, _ in rows)


def test_a_clone_elsewhere_has_everything_and_runs_nothing(walk: list[Step], home: Path) -> None:
    pushed, pulled = of(walk, "A clone elsewhere")
    assert re.search(r"[1-9]\d* files? pushed", pushed.done.out)
    assert pulled.done.ran == []
    elsewhere = Project(home / "elsewhere")
    assert elsewhere.files("data", "models") == versions(walk)[0].files
    assert list((elsewhere.root / ".dvc/cache/runs").rglob("*")), "the run cache came too"


def test_imported_data_stays_until_it_is_updated(walk: list[Step]) -> None:
    _, imported, moved, updated = of(walk, "Data of another repository")
    path = "data/sources/corpus.jsonl"
    assert imported.files[path] == moved.files[path] == versions(walk)[0].files[ROWS_FILE]
    assert updated.files[path] == versions(walk)[1].files[ROWS_FILE]
