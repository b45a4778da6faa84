"""dvc.yaml: what a stage imports, reads and writes is what it declares."""

import ast
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.common.core.settings import SECTIONS
from tests.helpers.tiny_project import REPOSITORY, STAGES

PIPELINE: dict[str, Any] = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text("utf-8"))["stages"]
OBSERVERS = {
    Path("stages/common/tracking.py")
}  # sends curves away: touches no artifact, so a change retrains nothing
# Folders that count by a value of the configuration, where they are used at all: clean.validation.judge and
# sample.code are their hashes
BY_VALUE = {
    "clean": [Path("stages/judge")],
    "sample": [Path("stages", name) for name in ("clean", "common", "generation", "judge")],
}
NAMES = [name for name in PIPELINE if name != "config"]


def entry(name: str) -> dict[str, Any]:
    return PIPELINE[name].get("do", PIPELINE[name])


def module_file(module: str) -> Path | None:
    """File of a module of ours, relative to the repository; None for another's, or where there is none."""
    if module.split(".")[0] != "stages":
        return None
    path = Path(*module.split("."))
    return next(
        (p for p in (path.with_suffix(".py"), path / "__init__.py") if (REPOSITORY / p).is_file()), None
    )


@cache
def imports(file: Path) -> frozenset[Path]:
    """Our files that a file imports anywhere, in functions too; not for type checking only."""
    found: set[Path] = set()
    tree = ast.parse((REPOSITORY / file).read_text("utf-8"))
    for node in [n for n in ast.walk(tree) if not inside_type_checking(n, tree)]:
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.List):  # a process of ours: [sys.executable, "-m", "stages.track.live"]
            modules = [e.value for e in node.elts if isinstance(e, ast.Constant) and isinstance(e.value, str)]
        else:
            continue
        found |= {path for module in modules if (path := module_file(module))}
    return frozenset(found)


@cache
def type_checking_nodes(tree: ast.Module) -> frozenset[ast.AST]:
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)]
    return frozenset(inner for block in blocks for statement in block.body for inner in ast.walk(statement))


def inside_type_checking(node: ast.AST, tree: ast.Module) -> bool:
    return node in type_checking_nodes(tree)


def code_of(stage: str) -> set[Path]:
    """Every file of ours that decides what a stage does: its imports, and the schemas of its sections."""
    main = Path("stages", stage, "__main__.py")
    sections = [s for item in entry(stage).get("params", []) for s in item["reports/config.yaml"]]
    schemas = [module_file(SECTIONS[section].split(":")[0]) for section in sections]
    waiting = [main, *(path for path in schemas if path)]
    seen: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file not in seen | OBSERVERS:
            seen.add(file)
            waiting += imports(file)
    return {f for f in seen if (REPOSITORY / f).stat().st_size}  # an empty __init__.py decides nothing


@pytest.mark.slow
@pytest.mark.parametrize("stage", NAMES)
def test_every_file_that_a_stage_imports_is_a_dep(stage: str) -> None:
    deps = [Path(dep) for dep in entry(stage)["deps"]]
    deps += BY_VALUE.get(stage, [])
    missing = [str(f) for f in sorted(code_of(stage)) if not any(f.is_relative_to(dep) for dep in deps)]
    assert missing == [], (
        f"add to stages.{stage}.deps in dvc.yaml, or a change of it would not rerun the stage"
    )


def test_generation_reruns_no_stage_but_evaluate() -> None:
    readers = [
        name
        for name in PIPELINE
        if any(str(dep).startswith("stages/evaluate") for dep in entry(name)["deps"])
    ]
    assert readers == ["evaluate"]


@pytest.mark.parametrize("stage", PIPELINE)
def test_deps_are_there_and_used(stage: str) -> None:
    outs = {path for name in PIPELINE for path in out_paths(name)}
    deps = [Path(dep) for dep in entry(stage)["deps"] if "$" not in dep]
    own = [dep for dep in deps if not any(dep.is_relative_to(out) or out.is_relative_to(dep) for out in outs)]
    assert [str(dep) for dep in own if not (REPOSITORY / dep).exists()] == []
    assert len(set(deps)) == len(deps), "DVC would hash it twice"
    if stage != "config":  # config takes all of stages/common: it is quick, and never wrong then
        ours = [dep for dep in own if dep.parts[0] == "stages"]
        unused = [str(dep) for dep in ours if not any(file.is_relative_to(dep) for file in code_of(stage))]
        assert unused == [], "a dep that is not imported reruns the stage for nothing"


def out_paths(stage: str) -> list[Path]:
    """Outs, metrics and plots of a stage, of every item of a foreach."""
    node = PIPELINE[stage]
    listed = [o for kind in ("outs", "metrics", "plots") for o in entry(stage).get(kind, [])]
    names = [name for out in listed for name in (out if isinstance(out, dict) else [out])]
    keys = node.get("foreach", [""])
    return [Path(n.replace("${key}", k).replace("${item.name}", k)) for n in names for k in keys]


@pytest.mark.parametrize("stage", NAMES)
def test_declared_sections_exist(stage: str) -> None:
    sections = [s for item in entry(stage).get("params", []) for s in item["reports/config.yaml"]]
    assert set(sections) <= set(SECTIONS)
    assert len(sections) == len(set(sections))


@pytest.mark.parametrize("stage", PIPELINE)
def test_nothing_is_persisted_or_always_changed(stage: str) -> None:
    text = yaml.safe_dump(PIPELINE[stage])
    assert "persist" not in text
    assert "always_changed" not in text


def test_the_stages_are_the_folders() -> None:
    folders = {p.parent.name for p in (REPOSITORY / "stages").glob("*/__main__.py")}
    assert folders - {
        "judge",
        "sweep",
        "plan",
        "promote",
        "export",
        "publish",
        "benchmark",
        "migrate",
        "playground",
    } == set(PIPELINE)
    assert [name.split("@")[0] for name in STAGES if name != "evaluate@tuned"] == list(PIPELINE)


def test_reading_order_of_imports() -> None:
    """The check itself: it follows imports in functions, and leaves out those for types only."""
    assert Path("stages/common/core/stage.py") in code_of("train")
    assert Path("stages/common/core/settings.py") in code_of("train")
    assert Path("stages/train/settings.py") in code_of("train")
