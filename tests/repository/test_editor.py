"""The files of VS Code: they parse, are in git, and name what opens this repository's files."""

import json
import subprocess
from fnmatch import fnmatch

import pytest
import yaml

from tests.helpers.tiny_project import REPOSITORY


@pytest.mark.parametrize("name", ["extensions.json", "settings.json"])
def test_the_editors_files_are_in_git(name: str) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", f".vscode/{name}"], cwd=REPOSITORY, capture_output=True, text=True
    ).stdout
    assert listed.split() == [f".vscode/{name}"]


def test_the_editor_is_told_of_dvc_and_reads_its_files_as_yaml() -> None:
    told = json.loads((REPOSITORY / ".vscode/extensions.json").read_text("utf-8"))["recommendations"]
    assert {"iterative.dvc", "redhat.vscode-yaml"} <= set(told)
    settings = json.loads((REPOSITORY / ".vscode/settings.json").read_text("utf-8"))
    for file in ("dvc.lock", "rows.jsonl.dvc"):
        assert [t for p, t in settings["files.associations"].items() if fnmatch(file, p)] == ["yaml"]
    assert isinstance(yaml.safe_load((REPOSITORY / "dvc.lock").read_text("utf-8")), dict)
    python = settings["python.defaultInterpreterPath"].removeprefix("${workspaceFolder}/")
    assert python == settings["dvc.pythonPath"] == ".venv/bin/python"  # where `make setup` puts it
