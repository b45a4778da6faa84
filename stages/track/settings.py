"""Settings of MLflow tracking."""

import re
from dataclasses import dataclass

from stages.common.core.settings import require


@dataclass
class TrackSettings:
    # MLflow experiment; created if missing
    experiment: str = "codetune"
    # Address of the store; the environment variable MLFLOW_TRACKING_URI takes precedence
    uri: str = "sqlite:///mlflow.db"
    # Where a new experiment keeps its files. Empty: a server decides; sqlite: mlartifacts/ beside the
    # database file; other databases: mlartifacts/ here
    artifacts: str = ""
    # Name of the merged model in MLflow's registry: letters, digits, . _ -; empty: do not register it
    registered_model: str = "codetune"
    # Send the curve while training; the track stage sends it afterwards in any case
    live: bool = True
    # Seconds to wait for an answer of the server, above 0
    timeout: float = 10.0
    # Seconds between two readings of processor, memory, disk and GPU while training; 0: none
    system_seconds: float = 10.0
    # Seconds spent before training to measure the peak rate that share_of_peak refers to; 0: do not measure
    peak_seconds: float = 1.0

    def __post_init__(self) -> None:
        require(bool(self.experiment.strip()), "track.experiment", self.experiment, "a name")
        require(
            re.fullmatch(r"[\w.-]*", self.registered_model) is not None,
            "track.registered_model",
            self.registered_model,
            "letters, digits, '.', '_' and '-', or empty",
        )
        require(self.timeout > 0, "track.timeout", self.timeout, "a number of seconds above 0")
        for key in ("system_seconds", "peak_seconds"):
            require(
                getattr(self, key) >= 0, f"track.{key}", getattr(self, key), "a number of seconds, 0 or more"
            )
        require(
            "://" in self.uri and not self.uri.startswith("file:"),
            "track.uri",
            self.uri,
            "sqlite:///FILE, postgresql://... or http(s)://... (MLflow no longer takes folders)",
        )
