"""What all points of a sweep share, and how a point is named and handed to DVC."""

import hashlib
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stages.common.errors import UserError
from stages.common.git import clean_commit, dvc, identity
from stages.sweep.places import visible_gpus

SCRATCH = Path(".cache/sweep")
NOT_OF_THE_POINT = ("hydra", "sweep")  # they steer the sweep and touch no artifact


@dataclass(frozen=True)
class Plan:
    """Pinned once before the fan-out: what is edited or committed during the sweep changes nothing."""

    root: str  # the repository, absolute
    commit: str  # what every point starts from
    cache: str  # DVC's cache of the repository, absolute; all points share it
    tracking_uri: str  # MLflow store, absolute
    identity: tuple[str, ...]  # git's -c options
    fixed: tuple[str, ...]  # overrides that all points have; they stay out of the points' names
    name: str
    objective: str  # metrics file, colon, dotted key
    direction: str = "maximize"  # or minimize
    points: int = 1  # that may run at the same time, if the launcher starts them so
    at_once: int = 0  # the setting
    gpus: tuple[str, ...] = ()  # of the machine where the sweep was started
    study: bool = False  # points are thought up by a sweeper, not known before
    run: str = ""  # MLflow's id of the sweep's run; empty where the store does not answer

    @property
    def folder(self) -> Path:
        """Logs and results of the points; while a point runs, its clone."""
        return Path(self.root) / SCRATCH / self.name


def pin(root: Path, overrides: Sequence[str], settings: Any, uri: str, points: int) -> Plan:
    """Pin the commit and the places that all points share.

    Args:
        root: the repository's root.
        overrides: the sweep's own, as given on the command line.
        settings: the section `sweep`.
        uri: address of the MLflow store that all points log to.
        points: how many may run at the same time, if the launcher starts them so.

    Raises:
        UserError: the tree is dirty or no git repository with DVC.
    """
    commit = clean_commit(root)
    found = subprocess.run(dvc("cache", "dir"), cwd=root, capture_output=True, text=True, check=False)
    if found.returncode:
        raise UserError(f"`dvc cache dir` failed: {found.stderr.strip()}")
    own = [o for o in overrides if section(o) not in NOT_OF_THE_POINT]
    study = sweeper(overrides) != "basic"
    of_study = (settings.objective, settings.direction, "study") if study else ()
    return Plan(
        root=str(root),
        commit=commit,
        cache=str((root / found.stdout.strip()).resolve()),
        tracking_uri=uri,
        identity=tuple(identity(root, commit)),
        fixed=tuple(as_hydra_says(o) for o in own if not is_swept(o)),
        name=settings.name or f"{commit[:7]}-{short_hash(*sorted([*own, *of_study]))}",
        objective=settings.objective,
        direction=settings.direction,
        points=points,
        at_once=settings.at_once,
        gpus=visible_gpus(),
        study=study,
    )


def section(override: str) -> str:
    """`train` of `++train.lora.rank=8`; `hydra` of `hydra/launcher=joblib`."""
    return re.split(r"[./=@]", override.lstrip("+~"), maxsplit=1)[0]


def sweeper(overrides: Sequence[str]) -> str:
    """Which of hydra/sweeper the command line asks for."""
    chosen = [o.partition("=")[2] for o in overrides if o.lstrip("+~").startswith("hydra/sweeper=")]
    return chosen[-1] if chosen else "basic"


def is_swept(override: str) -> bool:
    return bool(parsed(override).is_sweep_override())


def as_hydra_says(override: str) -> str:
    """An override as a job has it: `a=0.0001` for `a=1e-4`."""
    found = parsed(override)
    return f"{found.get_key_element()}={found.get_value_element_as_str()}"


def parsed(override: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(override)


def short_hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def point_overrides(overrides: Sequence[str]) -> list[str]:
    """Of one job's overrides those that make its artifacts, in one order."""
    return sorted(o for o in overrides if section(o) not in NOT_OF_THE_POINT)


def point_name(plan: Plan, overrides: Sequence[str]) -> str:
    """Name of a point's DVC experiment: what is swept, and a hash of commit and overrides.

    >>> point_name(plan, ["++train.lora.rank=8"])
    'rank-8-0f3a51c2'
    """
    told = [o for o in overrides if o not in plan.fixed] or list(overrides)
    words = [o.lstrip("+~").split("=", 1) for o in told]
    text = "-".join("-".join([pair[0].split(".")[-1], *pair[1:]]) for pair in words)
    text = re.sub(r"\.{2,}|-{2,}", "-", re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII)).strip("-.")[:60]
    return f"{text or 'point'}-{short_hash(plan.commit, *overrides)}"


def swept(plan: Plan, overrides: Sequence[str]) -> dict[str, str]:
    """Key and value of what tells a point from the others: `{"train.lora.rank": "8"}`."""
    told = [o for o in overrides if o not in plan.fixed] or overrides
    parted = (o.lstrip("+~").partition("=") for o in told)
    return {key: value for key, _, value in parted}


def dvc_params(overrides: Sequence[str], params: Path) -> list[str]:
    """`-S` options that write a point's overrides into params.yaml.

    DVC sets keys and knows no groups, so that `base=other` becomes the key `defaults.0.base`.

    Raises:
        UserError: a group that params.yaml does not list under `defaults`.
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
