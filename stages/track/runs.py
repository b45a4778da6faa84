"""The runs of an MLflow store: which one belongs to a trained model of this clone, its name, its parameters."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from stages.common.core.stage import COMPOSED_CONFIG
from stages.track.owner import OWNER_TAG, owner
from stages.track.store import Store

KEY_TAG = "codetune.training_key"
HASH_TAG = "codetune.config_hash"
# Environment variables that tell a point its sweep, and the run that is the parent of its own
SWEEP_VARIABLE, SWEEP_RUN_VARIABLE = "CODETUNE_SWEEP", "CODETUNE_SWEEP_RUN"
SWEEP_TAG, PARENT_TAG = "codetune.sweep", "mlflow.parentRunId"
# Characters above which a parameter becomes a digest (MLflow truncates at 6,000, older servers at 500)
LONGEST_VALUE = 500
# Settings that neither a model nor its score depends on: how fast, where, and how it is shown
NOT_OF_A_MODEL = (
    "engine.",
    "report.",
    "track.",
    "sweep.",
    "clean.validation.judge",  # the hash of the judge's code
    "evaluate.target",
    "evaluate.workers",
    "evaluate.memory_gib",
    "evaluate.isolation",  # the level that was reached is a tag
    "evaluate.allow_weak_sandbox",
)
NAMED_CHANGES = 3  # settings that a run's name lists
PARAMS_PER_CALL = 100  # MLflow's limit


@dataclass(frozen=True)
class RunIdentity:
    """What ties a run to a trained model: how it was trained, and the settings that model or score depend on."""

    training_key: str
    config_hash: str

    @classmethod
    def of(cls, training_key: str, config: str | None = None) -> "RunIdentity":
        """Return the identity under a composed configuration's text; None: that of reports/config.yaml."""
        counted = json.dumps(run_params(config), sort_keys=True)
        return cls(training_key, hashlib.sha256(counted.encode()).hexdigest())


def search_runs(store: Store, tags: Mapping[str, str], order: str = "ASC") -> list[Any]:
    """Return the runs with these tags that are not deleted, oldest first (DESC: newest first)."""
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    ordered = [f"attributes.start_time {order}"]
    return list(store.client.search_runs([store.experiment_id], query, order_by=ordered))


def find_runs(store: Store, identity: RunIdentity) -> list[Any]:
    """Return this clone's runs of an identity that are not deleted, oldest first; others' runs are theirs."""
    return search_runs(store, identity_tags(identity))


def identity_tags(identity: RunIdentity) -> dict[str, str]:
    return {KEY_TAG: identity.training_key, HASH_TAG: identity.config_hash, OWNER_TAG: owner()}


def create_run(store: Store, identity: RunIdentity) -> Any:
    """Create the run of an identity with its parameters."""
    tags = {**identity_tags(identity), **sweep_tags()}
    run = store.client.create_run(store.experiment_id, tags=tags, run_name=run_name(store))
    return complete_params(store, run)


def run_name(store: Store) -> str:
    """Return the DVC experiment's name, else what differs from this clone's run before: `rank-8-epochs-1`.

    The first run is named after its base model, and so is one of equal settings (other data, other code).
    """
    if name := os.environ.get("DVC_EXP_NAME"):
        return name
    own, earlier = run_params(), search_runs(store, {OWNER_TAG: owner()}, "DESC")
    before = next((run.data.params for run in earlier if KEY_TAG in run.data.tags), own)
    changed = {key: value for key, value in own.items() if before.get(key) != value}
    words = [f"{key.split('.')[-1]}-{value.rpartition('/')[2][:24]}" for key, value in changed.items()]
    more = [f"and-{len(words) - NAMED_CHANGES}-more"] if len(words) > NAMED_CHANGES else []
    return "-".join([*words[:NAMED_CHANGES], *more]) or own.get("base.name", "model")


def sweep_tags() -> dict[str, str]:
    """Return the tags of a sweep's point: its sweep, and the parent of its run; empty outside a sweep."""
    tags = {SWEEP_TAG: os.environ.get(SWEEP_VARIABLE, ""), PARENT_TAG: os.environ.get(SWEEP_RUN_VARIABLE, "")}
    return {name: value for name, value in tags.items() if value}


def complete_params(store: Store, run: Any) -> Any:
    """Log the parameters that the run lacks (they are write-once) and return the updated run."""
    from mlflow.entities import Param

    missing = [Param(k, v) for k, v in run_params().items() if k not in run.data.params]
    for start in range(0, len(missing), PARAMS_PER_CALL):
        store.client.log_batch(run.info.run_id, params=missing[start : start + PARAMS_PER_CALL])
    return store.client.get_run(run.info.run_id)


def run_params(config: str | None = None) -> dict[str, str]:
    """Return the parameters of a run: the configuration, flattened, without what no model or score depends on.

    Parameters are write-once: one that changes without a new run would be wrong ever after. The artifact
    config.yaml holds every setting.

    Args:
        config: a composed configuration's text; None: that of reports/config.yaml.
    """
    text = COMPOSED_CONFIG.read_text("utf-8") if config is None else config
    flat = flatten_config(yaml.load(text, yaml.CSafeLoader))
    return {key: value for key, value in flat.items() if not key.startswith(NOT_OF_A_MODEL)}


def flatten_config(value: Any, prefix: str = "") -> dict[str, str]:
    """Return text values by dotted key. A list is one value; a long value becomes its length and sha256."""
    if isinstance(value, Mapping) and value:
        flat: dict[str, str] = {}
        for key, item in value.items():
            flat |= flatten_config(item, f"{prefix}.{key}" if prefix else str(key))
        return flat
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    if len(text) > LONGEST_VALUE:
        size = f"{len(value)} entries" if isinstance(value, list) else f"{len(text)} characters"
        text = f"{size}, sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return {prefix: text}
