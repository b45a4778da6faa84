"""The MLflow store: where it is, its errors, and how points of curves are logged to it."""

import logging
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from stages.common.core.errors import UserError
from stages.common.core.files import file_lock
from stages.track.owner import main_root
from stages.track.server_errors import NO_DRIVER, PERMANENT_DATABASE_ERROR, REFUSED, http_status, with_driver
from stages.track.settings import TrackSettings

# Metrics of the curve; MLflow's UI groups charts by the part before the slash
CURVE_PREFIX = "train/"
# Metrics of the curve whose step is the number of tokens trained on
BY_TOKENS_PREFIX = "by_tokens/"
# Drawn over tokens too, so that runs with different batch sizes can be compared
METRICS_BY_TOKENS = ("loss", "validation_loss")
METRICS_PER_CALL = 1000  # MLflow's limit


class MetricPoint(NamedTuple):
    """A value of a metric; `time` is in milliseconds since 1970, None means now."""

    name: str
    value: float
    step: int
    time: int | None = None


class StoreUnavailable(Exception):
    """The store does not answer. Its settings may be right: try again later."""


@dataclass(frozen=True)
class Store:
    """An open store: its client (an mlflow.tracking.MlflowClient), the experiment and the address."""

    client: Any
    experiment_id: str
    uri: str


def store_uri(settings: TrackSettings) -> str:
    """Return the store's address: MLFLOW_TRACKING_URI, or else `track.uri`.

    The path of a sqlite file is made absolute; a relative one starts at the main repository (`main_root`).
    """
    uri = with_driver(os.environ.get("MLFLOW_TRACKING_URI") or settings.uri)
    prefix = "sqlite:///"
    if not uri.startswith(prefix) or uri.startswith(prefix + "/"):
        return uri
    return f"{prefix}{main_root() / uri.removeprefix(prefix)}"


def open_store(settings: TrackSettings) -> Store:
    """Open the store, creating it and the experiment if missing. Several processes may do so at once.

    Raises:
        UserError: the store cannot be used as configured (an unknown scheme, a file that is not a database,
            a deleted experiment, a server that refuses).
        Away: the store does not answer.
    """
    configure_mlflow(settings.timeout)
    uri = store_uri(settings)
    file = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that create the tables of a sqlite file at the same time would fail
    with file_lock(Path(f"{file}.lock")) if file else nullcontext(), translate_errors(uri):
        client = connect(uri)
        experiment = client.get_experiment_by_name(settings.experiment)
        if experiment is None:
            create_experiment(client, settings, uri)
            experiment = client.get_experiment_by_name(settings.experiment)
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"track.experiment: '{settings.experiment}' was deleted from the store. Restore it (`mlflow "
            f"experiments restore --experiment-id {experiment.experiment_id}`) or choose another name."
        )
    return Store(client, experiment.experiment_id, uri)


def create_experiment(client: Any, settings: TrackSettings, uri: str) -> None:
    """Create the experiment, unless another process just did: a server offers no lock."""
    from mlflow.exceptions import MlflowException

    folder = Path(uri.removeprefix("sqlite:///")).parent if uri.startswith("sqlite:///") else main_root()
    place = settings.artifacts or (None if uri.startswith("http") else str(folder / "mlartifacts"))
    if place and ":" not in place:
        place = str(main_root() / place)
    kind = {"mlflow.experimentKind": "custom_model_development"}  # the type that the UI lists it under
    try:
        client.create_experiment(settings.experiment, place, kind)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def connect(uri: str) -> Any:
    """Return an MlflowClient that gives up on a database in seconds, not after MLflow's two minutes."""
    if not uri.startswith("http"):
        import mlflow.store.db.utils

        mlflow.store.db.utils.MAX_RETRY_COUNT = 2
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


@contextmanager
def translate_errors(uri: str) -> Iterator[None]:
    """Turn MLflow's errors into StoreUnavailable (try again later) or UserError (fix store or settings)."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"MLflow store {shown_uri(uri)}: {NO_DRIVER.format(error)}") from error
    except (MlflowException, SQLAlchemyError, OSError) as error:
        if isinstance(error, OSError) and not uri.startswith("http"):
            raise  # from a local file: a full disk, for example
        message = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
        status = http_status(error)
        if uri.startswith("http") and status in REFUSED:
            raise UserError(f"MLflow store {shown_uri(uri)}: {REFUSED[status]}") from error
        if is_temporary(uri, message, status):
            raise StoreUnavailable(f"{shown_uri(uri)} does not answer") from error
        raise UserError(
            f"MLflow store {shown_uri(uri)}: {message.rstrip('.')}. Check track.uri and MLFLOW_TRACKING_URI."
        ) from error


def is_temporary(uri: str, message: str, status: int) -> bool:
    """Whether an error may pass by itself: a failing server, an unreachable or busy database."""
    if uri.startswith("sqlite"):
        return "database is locked" in message
    if uri.startswith("http"):
        return status >= 500 or status == 429
    return status == 503 and not PERMANENT_DATABASE_ERROR.search(message)


def shown_uri(uri: str) -> str:
    """Return the address without user name and password."""
    return re.sub(r"//[^/@]*@", "//", uri)


def configure_mlflow(timeout: float) -> None:
    """Make MLflow quiet, without telemetry, and quick to give up; call before MLflow is imported."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(max(1, round(timeout))))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("alembic", "urllib3", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)


def row_points(values: Mapping[str, float], step: int, at: int | None = None) -> list[MetricPoint]:
    """Return the points of one row of the curve: each value over steps, the losses over tokens too.

    MLflow draws over steps only: to draw over tokens, a second series uses the tokens as its step.
    """
    points = [MetricPoint(CURVE_PREFIX + name, float(value), step, at) for name, value in values.items()]
    if "tokens" in values:
        tokens = int(values["tokens"])
        points += [
            MetricPoint(BY_TOKENS_PREFIX + n, float(values[n]), tokens, at)
            for n in METRICS_BY_TOKENS
            if n in values
        ]
    return points


def curve_history(store: Store, run: Any) -> dict[str, dict[int, list[float]]]:
    """Return the values of each curve metric of a run by step (for metrics by tokens, that is tokens)."""
    points: dict[str, dict[int, list[float]]] = {}
    for key in run.data.metrics:
        if key.startswith((CURVE_PREFIX, BY_TOKENS_PREFIX)):
            steps = points.setdefault(key, {})
            for metric in store.client.get_metric_history(run.info.run_id, key):
                steps.setdefault(metric.step, []).append(metric.value)
    return points


def log_points(store: Store, run_id: str, points: Sequence[MetricPoint]) -> None:
    """Log points whose values are finite. MLflow stores a point logged twice with the same time once."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [Metric(p.name, p.value, p.time or now, p.step) for p in points if math.isfinite(p.value)]
    for start in range(0, len(metrics), METRICS_PER_CALL):
        store.client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_CALL])
