"""A registered model version and how it was scored, read from MLflow."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError
from stages.common.core.files import read_jsonl
from stages.track.store import Store, translate_errors

SAMPLES_ARTIFACT = "evaluate/tuned/samples.jsonl"


@dataclass(frozen=True)
class Scored:
    """A version's judged samples, and the settings that they were generated and judged with."""

    version: str
    # Of its run: the whole configuration, flattened
    params: dict[str, str]
    # Level or levels of the sandbox
    isolation: str
    # Judged at level C, where code can cheat
    weak: bool
    samples: list[dict[str, Any]]

    @property
    def benchmark(self) -> str:
        """The names of its benchmarks."""
        return " and ".join(dict.fromkeys(sample.get("benchmark", "") for sample in self.samples))

    def setting(self, key: str) -> str:
        """Return a parameter, or all below a section's key, as text."""
        below = {name: value for name, value in sorted(self.params.items()) if name.startswith(f"{key}.")}
        told = ", ".join(f"{name.removeprefix(f'{key}.')}={value}" for name, value in below.items())
        return self.params.get(key) or told or "unset"


def read_scored(store: Store, name: str, version: str) -> Scored:
    """Read a version's run, even if the run is deleted but not yet purged.

    Raises:
        UserError: the run or its samples are gone.
    """
    run_id = store.client.get_model_version(name, version).run_id
    try:
        with translate_errors(store.uri), tempfile.TemporaryDirectory() as scratch:
            run = store.client.get_run(run_id)
            samples = read_jsonl(Path(store.client.download_artifacts(run_id, SAMPLES_ARTIFACT, scratch)))
    except (UserError, FileNotFoundError) as error:
        raise UserError(
            f"version {version} of '{name}' cannot be compared: {SAMPLES_ARTIFACT} of its run {run_id} is missing "
            f"({error}). "
            "To send it, run `dvc repro -f -s track` in a working tree of that model."
        ) from error
    tags = run.data.tags
    return Scored(
        version=version,
        params=dict(run.data.params),
        isolation=tags.get("codetune.isolation_level", ""),
        weak=tags.get("codetune.weak_sandbox") == "true",
        samples=samples,
    )
