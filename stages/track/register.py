"""Register the merged model in MLflow: what evaluate scored, with its origin, loadable from the store alone.

Weights are identified by the digest of models/merged and uploaded once. A version belongs to a run: another
run with the same weights (another benchmark, or after its run was deleted) gets a new version that points to
the existing files. The alias `candidate` marks the newest version; `python -m stages.promote` moves
`champion`.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import yaml

from stages.common.core.paths import MERGED_MODEL
from stages.common.core.stage import COMPOSED_CONFIG
from stages.track.owner import OWNER_TAG, owner
from stages.track.run_contents import RunContents, data_digest, lock_digests
from stages.track.runs import SWEEP_VARIABLE
from stages.track.settings import TrackSettings
from stages.track.store import Store

CANDIDATE = "candidate"
DIGEST_TAG = f"dvc.{MERGED_MODEL}"
SERVED_CODE = Path(__file__).with_name("served.py")
EXAMPLE = ['def add(a, b):\n    """Return the sum of a and b."""\n']
REQUIREMENTS = ("mlflow", "torch", "transformers", "numpy", "jinja2")
SERVED_WITH = (  # what served.py imports, stored beside it
    "common/core",
    "common/model/coverage.py",
    "common/model/products.py",
    "common/rows",
    "common/text",
    "generation",
    "judge/extract",
)
SCORES = ("tuned/pass_at_1", "base/pass_at_1", "comparison/difference", "comparison/p", "merge/mean_kl")
# Prefixes of run tags that say where a model is from
LINEAGE = ("codetune.", "dvc.models/", "dvc.data/packed", "mlflow.source.git.commit")
# Slowest upload to a server to wait for, on top of the usual timeout
MEGABYTES_PER_SECOND = 10


def should_register(settings: TrackSettings) -> bool:
    """Whether to register the model: it has a name in the registry, and this is not a point of a sweep.

    Each point of a sweep would leave its weights in the store. To register one, `dvc exp apply` it and run
    `dvc repro -f -s track`.
    """
    return bool(settings.registered_model) and not os.environ.get(SWEEP_VARIABLE)


def register_model(store: Store, run: Any, contents: RunContents, name: str) -> None:
    """Bring the registry up to date with the files; what it already holds is not sent again.

    Args:
        name: of the registered model; created if missing.
    """
    digest = data_digest(str(MERGED_MODEL), lock_digests(Path("dvc.lock")))
    tags = {**version_tags(contents), DIGEST_TAG: digest}
    model = find_ready_model(store, digest) or upload_model(store, run, name, tags)
    link_model_to_run(store, run, model, contents)
    version, newest = find_own_version(store, run, name, model.model_id)
    if version is None:
        version = newest = create_version(store, run, name, model.model_id, tags, contents)
    for key, value in tags.items():
        if version.tags.get(key) != value:
            store.client.set_model_version_tag(name, version.version, key, value)
    # From the registered model: a search returns versions without their aliases
    candidate = store.client.get_registered_model(name).aliases.get(CANDIDATE)
    if version is newest and str(candidate) != str(version.version):
        store.client.set_registered_model_alias(name, CANDIDATE, version.version)


def version_tags(contents: RunContents) -> dict[str, str]:
    """Return the lineage and scores of a version."""
    scores = {
        f"codetune.{key}": f"{contents.final_metrics[key]:.6g}"
        for key in SCORES
        if key in contents.final_metrics
    }
    lineage = {key: value for key, value in contents.tags.items() if key.startswith(LINEAGE)}
    identity = {
        "codetune.training_key": contents.identity.training_key,
        "codetune.config_hash": contents.identity.config_hash,
    }
    return {**lineage, **contents.origin, **identity, **scores}


def models_of(store: Store, digest: str) -> list[Any]:
    """Return MLflow's models with these weights from all experiments of the store, newest first."""
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    return list(store.client.search_logged_models(experiments, f"tags.`{DIGEST_TAG}` = '{digest}'"))


def find_ready_model(store: Store, digest: str) -> Any:
    return next((model for model in models_of(store, digest) if model.status == "READY"), None)


def upload_model(store: Store, run: Any, name: str, tags: dict[str, str]) -> Any:
    """Upload the files; complete an upload that was cut off."""
    own = {"experiment_id": store.experiment_id, OWNER_TAG: owner()}
    unfinished = [
        model
        for model in models_of(store, tags[DIGEST_TAG])
        if {"experiment_id": model.experiment_id, OWNER_TAG: model.tags.get(OWNER_TAG)} == own
    ]
    model = (
        unfinished[0]
        if unfinished
        else store.client.create_logged_model(
            store.experiment_id,
            name,
            source_run_id=run.info.run_id,
            tags={**tags, OWNER_TAG: owner()},
            model_type="causal-lm",
        )
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_mlflow_model(Path(scratch), model, run.info.run_id, tags)
        largest = max(path.stat().st_size for path in MERGED_MODEL.iterdir())
        with environment_variable("MLFLOW_HTTP_REQUEST_TIMEOUT", upload_timeout(largest)):
            store.client.log_model_artifacts(model.model_id, str(folder))
    return store.client.finalize_logged_model(model.model_id, "READY")


def save_mlflow_model(scratch: Path, model: Any, run_id: str, tags: dict[str, str]) -> Path:
    """Save the model in MLflow's format below `scratch`, with links to the weights, and return its folder."""
    import mlflow.pyfunc
    from mlflow.models import Model

    folder, without_weights = scratch / "model", scratch / MERGED_MODEL.name
    weights = sorted(MERGED_MODEL.glob("*.safetensors"))
    shutil.copytree(MERGED_MODEL, without_weights, ignore=shutil.ignore_patterns("*.safetensors"))
    description = Model(
        artifact_path=model.artifact_location,
        run_id=run_id,
        model_uuid=model.model_id,
        model_id=model.model_id,
        metadata={key: value for key, value in tags.items() if value},
    )
    mlflow.pyfunc.save_model(
        folder,
        python_model=SERVED_CODE,
        artifacts={MERGED_MODEL.name: str(without_weights)},
        code_paths=[str(copy_served_code(scratch))],
        model_config=scored_settings(),
        signature=model_signature(),
        input_example=EXAMPLE,
        pip_requirements=[
            f"{package}=={installed_version(package).split('+')[0]}" for package in REQUIREMENTS
        ],
        mlflow_model=description,
    )
    for path in weights:
        (folder / "artifacts" / MERGED_MODEL.name / path.name).symlink_to(path.resolve())
    flavor = description.flavors["python_function"]  # do not publish paths of this machine
    flavor["model_code_path"], flavor["artifacts"][MERGED_MODEL.name]["uri"] = (
        SERVED_CODE.name,
        str(MERGED_MODEL),
    )
    description.model_size_bytes += sum(path.stat().st_size for path in weights)
    description.save(folder / "MLmodel")
    return folder


def copy_served_code(scratch: Path) -> Path:
    """Copy the modules that served.py imports, as the package that they are in; return its folder."""
    package, root = scratch / "stages", SERVED_CODE.parents[1]
    for name in SERVED_WITH:
        for file in (root / name).rglob("*.py") if (root / name).is_dir() else (root / name,):
            target = package / file.relative_to(root)
            for folder in target.parents:
                if folder.is_relative_to(package):
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / "__init__.py").touch()
            shutil.copyfile(file, target)
    return package


def scored_settings() -> dict[str, Any]:
    """Return the settings under which the model was scored, which is how it is to be asked."""
    config = yaml.safe_load(COMPOSED_CONFIG.read_text("utf-8"))
    return {section: config.get(section, {}) for section in ("prompt", "evaluate")}


def model_signature() -> Any:
    """Return the signature: prompts in, completions out, with the optional parameter `max_new_tokens`."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    texts = Schema([ColSpec("string")])
    return ModelSignature(texts, texts, ParamSchema([ParamSpec("max_new_tokens", "integer", 256)]))


def upload_timeout(size: int) -> str:
    """Return the timeout in seconds for uploading a file of `size` bytes through a server."""
    return str(round(int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) + size / 1e6 / MEGABYTES_PER_SECOND))


@contextmanager
def environment_variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable that MLflow reads, and restore it afterwards."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def link_model_to_run(store: Store, run: Any, model: Any, contents: RunContents) -> None:
    """List the model as an output of the run and log its scores: MLflow's UI then links them."""
    from mlflow.entities import LoggedModelOutput, Metric

    run_id = run.info.run_id
    outputs = run.outputs.model_outputs if run.outputs else []
    if model.model_id not in [output.model_id for output in outputs]:
        store.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    logged = {metric.key: metric.value for metric in model.metrics or [] if metric.run_id == run_id}
    for key in SCORES:
        if key in contents.final_metrics and logged.get(key) != contents.final_metrics[key]:
            points = store.client.get_metric_history(run_id, key)
            last = max(
                points, key=lambda point: point.timestamp
            )  # with its own time it stays a single point of the run
            point = Metric(key, last.value, last.timestamp, last.step, model_id=model.model_id)
            store.client.log_batch(run_id, metrics=[point])


def find_own_version(store: Store, run: Any, name: str, model_id: str) -> tuple[Any, Any]:
    """Return the run's version of this model (None if there is none), and the newest version of all."""
    versions = sorted(
        store.client.search_model_versions(f"name = '{name}'"), key=lambda version: int(version.version)
    )
    own = [v for v in versions if v.run_id == run.info.run_id and v.source == f"models:/{model_id}"]
    return (own or [None])[-1], (versions or [None])[-1]


def create_version(
    store: Store, run: Any, name: str, model_id: str, tags: dict[str, str], contents: RunContents
) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        store.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    with environment_variable(
        "MLFLOW_TRACKING_URI", store.uri
    ):  # a database's client looks for the model there, not in its own
        return store.client.create_model_version(
            name,
            f"models:/{model_id}",
            run.info.run_id,
            tags=tags,
            description=contents.tags["mlflow.note.content"].removesuffix(" Report: artifact index.html"),
            model_id=model_id,
        )
