"""What all points of a sweep share, how a point is named, and how its overrides are passed to DVC."""

import hashlib
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from stages.common.core.errors import UserError
from stages.common.core.settings import SECTIONS, nested_class, section_class
from stages.common.git import dvc_command, git, identity_options, snapshot_tree
from stages.sweep.point_slots import visible_gpus

SWEEP_SCRATCH = Path(".cache/sweep")
LISTED_CHANGES = 4
WRITTEN_BY_DVC = re.compile(r"dvc\.lock|reports/.*|(.*/)?\.gitignore")
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
    # Whether the tree has edits: something else than the commit's files and what the pipeline writes
    edited: bool = False
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
    def state(self) -> str:
        """What identifies the files that points start from."""
        return self.tree if self.edited else self.commit

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
    edited = not all(WRITTEN_BY_DVC.fullmatch(path) for path in changed)
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
        name=settings.name or default_name([*own, *study_identity], tree if edited else commit),
        objective=settings.objective,
        tree=tree,
        edited=edited,
        direction=settings.direction,
        points=points,
        at_once=settings.at_once,
        gpus=visible_gpus(),
        study=study,
    )


def default_name(identity: Sequence[str], state: str) -> str:
    """Return a sweep's name: what it sweeps over, and a hash of its overrides and files."""
    swept = [short_key(o.lstrip("+~").partition("=")[0]) for o in identity if "=" in o and is_swept(o)]
    return "-".join([*swept, short_hash(*sorted(identity), state)])


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
    """Name a point's DVC experiment after its overrides, swept ones first; equal names mean equal points.

    A hash follows where the words alone do not say all: edits on disk, odd characters, a long text, of which
    only the swept settings stay.

    >>> point_name(spec, ["++train.epochs=1", "++train.lora.rank=8"])
    'rank-8-epochs-1'
    """
    swept = [override for override in overrides if override not in spec.fixed]
    fixed = [override for override in overrides if override in spec.fixed]
    pairs = [override.lstrip("+").partition("=") for override in (*swept, *fixed)]
    plain = all(re.fullmatch(r"[\w./]+", key) and is_plain_value(value) for key, _, value in pairs)
    words = [f"{short_key(key)}-{value}" for key, _, value in pairs]
    whole = len("-".join(words)) <= 60
    text = "-".join(words if whole else words[: len(swept)])
    name = re.sub(r"\.{2,}|-{2,}", "-", re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII)).strip("-.")[:60]
    if plain and whole and not spec.edited:
        return name or "point"
    return f"{name or 'point'}-{short_hash(spec.state, *overrides)}"


def is_plain_value(value: str) -> bool:
    """Whether a value can stand in a name as it is: words joined by dashes, none of which could be a key."""
    words = value.split("-")
    return all(re.fullmatch(r"[\w.]+", word, re.ASCII) and not setting_names()[word] for word in words)


def short_key(key: str) -> str:
    """Return the end of a key that no other setting has: `rank` for train.lora.rank, but `train.seed`."""
    parts = re.split(r"[./]", key)
    return next(
        (".".join(parts[-n:]) for n in range(1, len(parts)) if setting_names()[".".join(parts[-n:])] < 2),
        key.replace("/", "."),
    )


@lru_cache(maxsize=1)
def setting_names() -> Counter[str]:
    """Return how many settings of the configuration end in each dotted name."""
    counts: Counter[str] = Counter()

    def count(cls: Any, path: list[str]) -> None:
        for item in fields(cls):
            parts = [*path, item.name]
            counts.update(".".join(parts[-n:]) for n in range(1, len(parts) + 1))
            if nested := nested_class(cls, item.name):
                count(nested, parts)

    for section in SECTIONS:
        count(section_class(section), [section])
    return counts


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
