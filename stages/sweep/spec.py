"""What all points of a sweep share, how a point is named, and how its overrides are passed to DVC."""

import hashlib
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stages.common.errors import UserError
from stages.common.git import dvc_command, git, identity_options, snapshot_tree
from stages.sweep.point_slots import visible_gpus

SWEEP_SCRATCH = Path(".cache/sweep")
LISTED_CHANGES = 4
SWEEP_SECTIONS = ("hydra", "sweep")  # they steer the sweep and change no artifact


@dataclass(frozen=True)
class SweepSpec:
    """What is fixed before the first point starts: edits and commits during the sweep do not affect it."""

    # The repository, absolute
    root: str
    # The commit that is checked out; experiments stand on top of it
    commit: str
    # DVC's cache of the repository, absolute; all points share it
    cache: str
    # MLflow store, absolute
    tracking_uri: str
    # `-c` options that let a clone commit
    git_identity: tuple[str, ...]
    # Overrides that all points have; they stay out of the points' names
    fixed: tuple[str, ...]
    name: str
    # Metrics file, colon, dotted key
    objective: str
    # Git tree of the files that every point starts from: the commit's, or with the edits that were on disk
    tree: str
    # maximize | minimize
    direction: str = "maximize"
    # How many may run at the same time, if the launcher starts them so
    points: int = 1
    # The setting `sweep.at_once`
    at_once: int = 0
    # Of the machine where the sweep was started
    gpus: tuple[str, ...] = ()
    # Whether a sweeper chooses the points one after another; those of a grid are known from the start
    study: bool = False
    # MLflow's id of the sweep's run; empty if the store does not answer
    run_id: str = ""

    @property
    def folder(self) -> Path:
        """Logs and outcomes of the points; also a point's clone while it runs."""
        return Path(self.root) / SWEEP_SCRATCH / self.name


def pin_sweep(root: Path, overrides: Sequence[str], settings: Any, uri: str, points: int) -> SweepSpec:
    """Fix the commit, DVC cache, MLflow store and GPUs that all points use.

    Args:
        root: the repository's root.
        overrides: the sweep's own, as given on the command line.
        settings: the section `sweep`.
        uri: address of the MLflow store that all points log to.
        points: how many may run at the same time, if the launcher starts them so.

    Raises:
        UserError: it is not a git repository with a commit, or not one with DVC.
    """
    commit = git("rev-parse", "--verify", "HEAD", folder=root)
    tree, changed = snapshot_tree(root)
    if changed:
        print(format_changes(commit, changed), flush=True)
    done = subprocess.run(dvc_command("cache", "dir"), cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"`dvc cache dir` failed: {done.stderr.strip()}")
    own = [o for o in overrides if override_section(o) not in SWEEP_SECTIONS]
    study = chosen_sweeper(overrides) != "basic"
    study_identity = (settings.objective, settings.direction, "study") if study else ()
    return SweepSpec(
        root=str(root),
        commit=commit,
        cache=str((root / done.stdout.strip()).resolve()),
        tracking_uri=uri,
        git_identity=tuple(identity_options(root, commit)),
        fixed=tuple(normalise_override(o) for o in own if not is_swept(o)),
        name=settings.name or f"{commit[:7]}-{short_hash(*sorted([*own, *study_identity]), tree)}",
        objective=settings.objective,
        tree=tree,
        direction=settings.direction,
        points=points,
        at_once=settings.at_once,
        gpus=visible_gpus(),
        study=study,
    )


def format_changes(commit: str, changed: Sequence[str]) -> str:
    """Return the line that says in which files the sweep starts from something other than the commit."""
    listed = ", ".join(changed[:LISTED_CHANGES])
    more = f" and {len(changed) - LISTED_CHANGES} more" if len(changed) > LISTED_CHANGES else ""
    return f"sweep: starts from commit {commit[:7]} and what is on disk: {listed}{more}"


def override_section(override: str) -> str:
    """Return `train` for `++train.lora.rank=8`, `hydra` for `hydra/launcher=joblib`."""
    return re.split(r"[./=@]", override.lstrip("+~"), maxsplit=1)[0]


def chosen_sweeper(overrides: Sequence[str]) -> str:
    """Return the command line's choice of hydra/sweeper."""
    choices = [o.partition("=")[2] for o in overrides if o.lstrip("+~").startswith("hydra/sweeper=")]
    return choices[-1] if choices else "basic"


def is_swept(override: str) -> bool:
    return bool(parse_override(override).is_sweep_override())


def normalise_override(override: str) -> str:
    """Return an override as Hydra writes it for a job: `a=0.0001` for `a=1e-4`."""
    parsed = parse_override(override)
    return f"{parsed.get_key_element()}={parsed.get_value_element_as_str()}"


def parse_override(override: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(override)


def short_hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def point_overrides(overrides: Sequence[str]) -> list[str]:
    """Return a job's overrides that affect its artifacts, sorted."""
    return sorted(o for o in overrides if override_section(o) not in SWEEP_SECTIONS)


def point_name(spec: SweepSpec, overrides: Sequence[str]) -> str:
    """Name a point's DVC experiment: its swept values, and a hash of the files and all overrides.

    >>> point_name(spec, ["++train.lora.rank=8"])
    'rank-8-0f3a51c2'
    """
    named = [o for o in overrides if o not in spec.fixed] or list(overrides)
    pairs = [o.lstrip("+~").split("=", 1) for o in named]
    text = "-".join("-".join([pair[0].split(".")[-1], *pair[1:]]) for pair in pairs)
    text = re.sub(r"\.{2,}|-{2,}", "-", re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII)).strip("-.")[:60]
    return f"{text or 'point'}-{short_hash(spec.tree, *overrides)}"


def swept_values(spec: SweepSpec, overrides: Sequence[str]) -> dict[str, str]:
    """Return the keys and values that distinguish a point from the others: `{"train.lora.rank": "8"}`."""
    swept = [o for o in overrides if o not in spec.fixed] or overrides
    pairs = (o.lstrip("+~").partition("=") for o in swept)
    return {key: value for key, _, value in pairs}


def dvc_params(overrides: Sequence[str], params: Path) -> list[str]:
    """Return the `-S` options that write a point's overrides into params.yaml.

    DVC sets keys and does not know groups, so `base=other` becomes the key `defaults.0.base`.

    Raises:
        UserError: params.yaml does not list a group under `defaults`.
    """
    defaults = yaml.safe_load(params.read_text("utf-8"))["defaults"]
    groups = {key: i for i, item in enumerate(defaults) if isinstance(item, dict) for key in item}
    options = []
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if "." in key or override.startswith("~"):
            options += ["-S", override]
        elif key in groups:
            options += ["-S", f"++defaults.{groups[key]}.{key}={value}"]
        else:
            raise UserError(
                f"{params} has no group '{key}' under `defaults`: add `- {key}: null` there first"
            )
    return options
