"""Settings of MLflow tracking."""

from dataclasses import dataclass


@dataclass
class TrackSettings:
    experiment: str = "codetune"  # MLflow experiment
    uri: str = "sqlite:///mlflow.db"  # store; the environment's MLFLOW_TRACKING_URI goes before it
