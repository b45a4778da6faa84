"""A registered version with how it was scored, read from MLflow."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.common.errors import UserError
from stages.common.files import read_jsonl
from stages.track.store import Store, translate_errors

SAMPLES = "evaluate/tuned/samples.jsonl"


@dataclass(frozen=True)
class Scored:
    """A version's judged samples, and what they were generated and judged with."""

    version: str
    params: dict[str, str]  # of its run: the whole configuration, flattened
    isolation: str  # level(s) of the sandbox
    weak: bool  # judged at level C, where code can cheat
    samples: list[dict[str, Any]]

    @property
    def benchmark(self) -> str:
        return self.params.get("evaluate.benchmark", "")


def read_scored(store: Store, name: str, version: str) -> Scored:
    """Read a version's run, which may be a deleted one as long as it is not purged.

    Raises:
        UserError: the run or its samples are gone.
    """
    run_id = store.client.get_model_version(name, version).run_id
    try:
        with translate_errors(store.uri), tempfile.TemporaryDirectory() as scratch:
            run = store.client.get_run(run_id)
            samples = read_jsonl(Path(store.client.download_artifacts(run_id, SAMPLES, scratch)))
    except (UserError, FileNotFoundError) as error:
        raise UserError(
            f"version {version} of '{name}' cannot be compared: {SAMPLES} of its run {run_id} is not there ({error}). "
            "`dvc repro -f -s track` in a tree of that model sends it."
        ) from error
    tags = run.data.tags
    return Scored(
        version=version,
        params=dict(run.data.params),
        isolation=tags.get("codetune.isolation_level", ""),
        weak=tags.get("codetune.weak_sandbox") == "true",
        samples=samples,
    )
