"""Settings of MLflow tracking."""

import re
from dataclasses import dataclass

from stages.common.settings import require


@dataclass
class TrackSettings:
    experiment: str = "codetune"  # MLflow experiment; made where it is missing
    uri: str = "sqlite:///mlflow.db"  # store; the environment's MLFLOW_TRACKING_URI goes before it
    artifacts: str = ""  # where a new experiment keeps files; empty: a server's own place, for a database mlartifacts beside it (sqlite) or here
    # name under which the merged model is registered in the store; letters, digits, . _ -; empty: it is not
    registered_model: str = "codetune"
    live: bool = True  # send the curve while training; track sends it afterwards in any case
    timeout: float = 10.0  # seconds that a server has for an answer, above 0
    system_seconds: float = (
        10.0  # between two looks at processor, memory, disk and GPU while training; 0: none
    )
    peak_seconds: float = (
        1.0  # spent before training on the rate that share_of_peak is a share of; 0: no share
    )

    def __post_init__(self) -> None:
        require(bool(self.experiment.strip()), "track.experiment", self.experiment, "a name")
        require(
            re.fullmatch(r"[\w.-]*", self.registered_model) is not None,
            "track.registered_model",
            self.registered_model,
            "letters, digits, '.', '_' and '-', or nothing",
        )
        require(self.timeout > 0, "track.timeout", self.timeout, "seconds above 0")
        for key in ("system_seconds", "peak_seconds"):
            require(getattr(self, key) >= 0, f"track.{key}", getattr(self, key), "seconds, 0 or more")
        require(
            "://" in self.uri and not self.uri.startswith("file:"),
            "track.uri",
            self.uri,
            "sqlite:///FILE, postgresql://... or http(s)://... (MLflow no longer takes folders)",
        )
