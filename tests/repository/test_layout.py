"""The order of the house: who may import whom, and that no two files import each other in a circle.

Every import counts: those inside functions and those under TYPE_CHECKING too.
"""

import ast
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.helpers.tiny_project import REPOSITORY

# From the ground up. A file imports its own floor and those below it.
PIPELINE = (
    "config",
    "base",
    "fetch",
    "sample",
    "clean",
    "pack",
    "train",
    "merge",
    "evaluate",
    "report",
    "track",
)
# sample runs before clean, and uses its checks
FLOORS = ("common", "judge", "generation", *PIPELINE[:3], "clean", "sample", *PIPELINE[5:], "commands")
COMMANDS = (
    "benchmark",
    "playground",
    "migrate",
    "try.py",
    "plan",
    "promote",
    "export",
    "publish",
    "sweep",
    "judge/cli.py",
    "judge/__main__.py",
)  # nobody below them imports these
# What runs inside the sandbox
STANDARD_LIBRARY_ONLY = ("supervisor", "candidate", "script", "kernel", "seccomp", "values")


def floor_of(file: Path) -> str:
    inside = file.relative_to("stages").as_posix() if file.parts[0] == "stages" else "plan"  # hydra_plugins
    return "commands" if inside.startswith(COMMANDS) else inside.split("/")[0]


@cache
def files() -> tuple[Path, ...]:
    found = [*(REPOSITORY / "stages").rglob("*.py"), *(REPOSITORY / "hydra_plugins/codetune").rglob("*.py")]
    return tuple(sorted(path.relative_to(REPOSITORY) for path in found))


def module_file(module: str) -> Path | None:
    path = Path(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p in files()), None)


@cache
def imports(file: Path) -> frozenset[Path]:
    """Files of ours that a file imports, wherever it does so; its package's empty __init__.py left out."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse((REPOSITORY / file).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{file}:{node.lineno}: imports are absolute"
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    found = {path for module in modules if (path := module_file(module))}
    return frozenset(path for path in found if path.name != "__init__.py")


def circle() -> list[Path]:
    """Files that import each other in a circle, in its order; none where there is none."""
    done: set[Path] = set()

    def search(file: Path, trail: list[Path]) -> list[Path]:
        if file in trail:
            return [*trail[trail.index(file) :], file]
        if file in done:
            return []
        for other in sorted(imports(file)):
            if found := search(other, [*trail, file]):
                return found
        done.add(file)
        return []

    return next((found for file in files() if (found := search(file, []))), [])


def test_no_circle() -> None:
    assert circle() == [], (
        "these files import each other in a circle: carry what they share into a file of its own"
    )


@pytest.mark.parametrize("floor", FLOORS)
def test_no_import_runs_upward(floor: str) -> None:
    above = FLOORS[FLOORS.index(floor) + 1 :]
    wrong = [
        f"{file} imports {other}"
        for file in files()
        if floor_of(file) == floor
        for other in sorted(imports(file))
        if floor_of(other) in above
    ]
    assert wrong == [], f"{floor} lies below; carry what is shared down, or the call up"


def test_every_folder_has_its_floor() -> None:
    folders = {path.name for path in (REPOSITORY / "stages").iterdir() if (path / "__init__.py").exists()}
    assert folders == {
        *FLOORS[:-1],
        "plan",
        "promote",
        "sweep",
        "benchmark",
        "migrate",
        "playground",
        "export",
        "publish",
    }


def test_the_order_of_the_floors_is_that_of_the_pipeline() -> None:
    """dvc.yaml lists the stages in an order in which each reads only what earlier ones wrote."""
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text("utf-8"))["stages"]
    assert list(stages) == list(PIPELINE)


def test_sweep_and_promote_import_nothing_of_report() -> None:
    wrong = [
        f"{file} imports {other}"
        for file in files()
        if file.parts[1] in ("sweep", "promote")
        for other in imports(file)
        if other.parts[1] == "report"
    ]
    assert wrong == [], "what the report and these commands share is in stages/common"


@pytest.mark.parametrize("name", STANDARD_LIBRARY_ONLY)
def test_what_runs_inside_the_sandbox_imports_nothing_else_of_ours(name: str) -> None:
    file = Path("stages/judge/sandbox", f"{name}.py")
    assert {other.stem for other in imports(file)} <= set(STANDARD_LIBRARY_ONLY)


def test_one_name_for_one_thing() -> None:
    """No function or class of stages/ has the name of another, and no file but those that every folder has."""
    where: dict[str, list[str]] = {}
    for file in files():
        if file.name not in ("__init__.py", "__main__.py", "settings.py"):
            where.setdefault(file.name, []).append(str(file))
        for node in ast.parse((REPOSITORY / file).read_text("utf-8")).body:
            if (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                and node.name != "main"
            ):
                where.setdefault(node.name, []).append(str(file))
    assert {name: found for name, found in where.items() if len(found) > 1} == {}


def test_the_check_sees_imports_in_functions() -> None:
    assert Path("stages/generation/transformers_backend.py") in imports(Path("stages/generation/generate.py"))


def test_tests_mirror_the_stages() -> None:
    """tests/<folder> for each folder of stages/, and a few that belong to none of them."""
    own = {"helpers", "hostile", "pipeline", "repository", "benchmarks", "gpu"}
    folders = {
        path.name for path in (REPOSITORY / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"
    }
    stages = {path.name for path in (REPOSITORY / "stages").iterdir() if (path / "__init__.py").exists()}
    assert folders - own <= stages
    assert stages - folders == set(), "a folder of stages/ without tests"
    assert not list((REPOSITORY / "tests").glob("test_*.py")), (
        "a test file belongs into the folder of what it tests"
    )
