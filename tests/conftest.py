"""Fixtures for all tests. The tiny model is made once, the tiny pipeline run once; tests work on copies."""

import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.helpers.fork_server import Forks
from tests.helpers.tiny_project import SITE, WARM, Project, make_project, write_model
from tests.helpers.toy_pipeline import make_toy
from tests.helpers.warm_python import WarmPython

# The same examples on every machine, however long one takes there
settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")
# A shell lets what it starts in the background ignore Ctrl-C, and tests send that to their children
signal.signal(signal.SIGINT, signal.default_int_handler)
# As stages.common.core.stage.run does, for tests that call a stage's parts
os.environ.setdefault("DO_NOT_TRACK", "true")
# One thread a process, whatever the machine: bytes are compared between runs, tiny tensors gain nothing from a second
# one, and the other core has a worker of its own. Set before anything imports torch, for children too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Beside a worker that keeps its core busy, the process that sends a live curve would come too late with its own
os.environ.setdefault("CODETUNE_LIVE_NICE", "0")
# A server of MLflow beside other tests is slow, not gone; a test of one that never answers sets its own
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "200")


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow files first: one that is begun last would leave the other workers idle. Without tests for a GPU."""
    if config.option.markexpr != "gpu":  # `make test-gpu`
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("gpu")])
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]
    for item in items:
        if "warm_python" in getattr(item, "fixturenames", ()):  # it runs the tiny project
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: not is_slow(item.getparent(pytest.Module)))


def is_slow(module: pytest.Module | None) -> bool:
    return module is not None and any(mark.name == "slow" for mark in module.own_markers)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` of this test run, in which `make` is called once: of several workers, the others wait for it."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # which all workers share
    folder, whole = base / name, base / f"{name}.whole"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
            folder.mkdir()
            make(folder)
            whole.touch()
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer Llama and its tokenizer. Copy it, do not write to it."""
    return made_once(tmp_path_factory, "model", lambda folder: write_model(folder / "tiny")) / "tiny"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sqlite store of MLflow with its tables, which take seconds to make. Copy it, do not write to it."""

    def make(folder: Path) -> None:
        from mlflow.tracking import MlflowClient

        MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db").search_experiments()

    return made_once(tmp_path_factory, "store", make) / "mlflow.db"


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`python` of the tiny projects has imported the libraries already."""
    warm = WarmPython(tmp_path_factory.mktemp("warm"))
    os.environ[WARM] = str(warm.bin)
    yield
    del os.environ[WARM]
    warm.close()


@pytest.fixture(scope="session")
def fresh(warm_python: None, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project, committed, nothing run. Copy it, do not write to it."""
    os.environ.setdefault(SITE, str(tmp_path_factory.mktemp("dvc-site")))
    folder = made_once(tmp_path_factory, "fresh", lambda folder: make_project(folder / "project", tiny_model))
    return Project(folder / "project")


@pytest.fixture(scope="session")
def toy(fresh: Project, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The repository with a pipeline of two quick stages, for sweeps. Copy it, do not write to it."""

    def make(folder: Path) -> None:
        make_toy(fresh, folder / "project", empty_store)

    return Project(made_once(tmp_path_factory, "toy", make) / "project")


@pytest.fixture(scope="session")
def finished(fresh: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project after `dvc repro`, results committed. Copy it, do not write to it."""

    def make(folder: Path) -> None:
        project = fresh.copy(folder / "project")
        project.repro()
        project.commit("results")

    return Project(made_once(tmp_path_factory, "finished", make) / "project")


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project to change."""
    return finished.copy(tmp_path / "project")


@pytest.fixture
def place(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a tiny model and packs, nothing trained."""
    from tests.helpers.train_workplace import workplace

    root = workplace(tmp_path / "place", tiny_model)
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Trainings by processes of their own that need not import anything."""
    process = Forks()
    yield process
    process.close()
