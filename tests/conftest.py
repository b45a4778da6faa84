"""Fixtures for all tests. The tiny model is made once, the tiny pipeline run once; tests work on copies."""

import os
from pathlib import Path

import pytest

from tests.tiny import SITE, Project, make_project, write_model

os.environ.setdefault(
    "DO_NOT_TRACK", "true"
)  # as stages.common.stage.run does, for tests that call a stage's parts


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer Llama and its tokenizer. Copy it, do not write to it."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    write_model(folder)
    return folder


@pytest.fixture(scope="session")
def fresh(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project, committed, nothing run. Copy it, do not write to it."""
    folder = tmp_path_factory.mktemp("fresh")
    os.environ.setdefault(SITE, str(tmp_path_factory.mktemp("dvc-site")))
    return make_project(folder / "project", tiny_model)


@pytest.fixture(scope="session")
def finished(fresh: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project after `dvc repro`, results committed. Copy it, do not write to it."""
    project = fresh.copy(tmp_path_factory.mktemp("finished") / "project")
    project.repro()
    project.commit("results")
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project to change."""
    return finished.copy(tmp_path / "project")
