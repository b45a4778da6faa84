"""What a change reruns, as README's table says.

Which stages a change touches is asked of DVC itself, without running them: `config` runs, DVC's status names the
stages whose code, data or parameters have changed, and its graph those after them. That a stage stops the rerun
where it gives the same bytes takes a real `dvc repro`.
"""

import contextlib
from collections.abc import Callable

import networkx as nx
import pytest
import yaml
from dvc.repo import Repo

from tests.helpers.tiny_project import STAGES, Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

EVALUATE = ["evaluate@base", "evaluate@tuned"]
AFTER_TRAINING = ["merge", "evaluate@tuned", "report", "track"]


def stages_to_rerun(project: Project) -> list[str]:
    """Return the stages that a change reruns where each of them gives other bytes; `config` has run."""
    config = {"config"} & set(changed_stages(project)[0])
    if config:
        done = project.stage("config")
        assert done.status == 0, done.text
    changed, graph = changed_stages(project)
    changed -= {"config"}  # its output is compared by each reader's parameters
    after = {other for stage in changed for other in nx.ancestors(graph, stage)}
    return sorted(config | changed | after, key=STAGES.index)


def changed_stages(project: Project) -> tuple[set[str], "nx.DiGraph[str]"]:
    """Return the stages that DVC's status names, and its graph, from a stage to those that it reads."""
    with contextlib.chdir(project.root), Repo() as repo:
        return set(repo.status()), nx.relabel_nodes(repo.index.graph, lambda stage: stage.addressing)


def append(path: str, line: str) -> Callable[[Project], None]:
    """Return an edit: one more line in a file."""

    def edit(project: Project) -> None:
        with (project.root / path).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    return edit


def code(path: str) -> Callable[[Project], None]:
    return append(path, "# one line more")


CHANGES: dict[str, tuple[Callable[[Project], None], list[str]]] = {
    "nothing": (lambda project: None, []),
    "comment": (append("conf/train/qlora.yaml", "# a thought"), ["config"]),
    "unselected option": (append("conf/clean/off.yaml", "layout: body"), ["config"]),
    "rank": (lambda project: project.params(train__lora__rank=8), ["config", "train", *AFTER_TRAINING]),
    "clean threshold": (
        lambda project: project.params(clean__near_duplicates__threshold=0.5),
        ["config", "clean", "pack", "train", *AFTER_TRAINING],
    ),
    "temperature": (
        lambda project: project.params(evaluate__temperature=0.7),
        ["config", *EVALUATE, "report", "track"],
    ),
    "page": (lambda project: project.params(report__title="another"), ["config", "report", "track"]),
    "code of merge": (code("stages/merge/__main__.py"), AFTER_TRAINING),
    "code of evaluate": (code("stages/evaluate/__main__.py"), [*EVALUATE, "report", "track"]),
    "code of the judge": (code("stages/judge/pool.py"), ["config", *EVALUATE, "report", "track"]),
    "code of prompts": (
        code("stages/common/text/prompt.py"),
        ["config", "pack", "train", "merge", *EVALUATE, "report", "track"],
    ),
    "code of statistics": (
        code("stages/common/statistics.py"),
        ["config", *EVALUATE, "report", "track"],
    ),
    "code of the live curve": (code("stages/track/live.py"), ["track"]),
    "libraries": (append("requirements.lock", "# one more"), STAGES[1:]),
}


@pytest.fixture(scope="module")
def edited(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the finished project; each test takes its edit back."""
    return finished.copy(tmp_path_factory.mktemp("edited") / "project")


@pytest.mark.parametrize("change", CHANGES)
def test_what_reruns_after(change: str, edited: Project) -> None:
    edit, expected = CHANGES[change]
    assert edited.composed("clean", "validate") == "none", (
        "no row's code is run, so clean does not read the judge"
    )
    edit(edited)
    try:
        assert stages_to_rerun(edited) == expected
    finally:
        edited.git("checkout", "--quiet", ".")


def test_the_second_run_runs_nothing_and_equal_outputs_rerun_nothing(project: Project) -> None:
    lock = yaml.safe_load((project.root / "dvc.lock").read_text("utf-8"))
    assert sorted(lock["stages"]) == sorted(STAGES)
    assert project.repro().ran == []
    assert project.git("status", "--porcelain") == ""

    before = project.files("models", "reports/evaluate/base", "reports/evaluate/tuned")
    code("stages/merge/__main__.py")(project)
    code("stages/judge/pool.py")(project)
    ran = project.repro().ran
    assert ran == ["config", "merge", *EVALUATE], "the model, its figures and the verdicts are the same"
    assert project.files("models", "reports/evaluate/base", "reports/evaluate/tuned") == before
