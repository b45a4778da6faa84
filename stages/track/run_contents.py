"""Read what a run in MLflow holds from the files: curve, final metrics, datasets, tags, artifacts."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stages.common.core.errors import UserError
from stages.common.core.files import read_metrics, sha256_file, sha256_folder
from stages.common.core.stage import COMPOSED_CONFIG
from stages.common.curve import CURVE_FILE, CurveCells, read_curve
from stages.common.git import git
from stages.track.runs import RunIdentity, sweep_tags
from stages.track.store import MetricPoint, row_points

TRACKED_REPORTS = (
    "base",
    "fetch",
    "clean",
    "pack",
    "train",
    "merge",
    "evaluate/base",
    "evaluate/tuned",
    "report",
)
# Prefix of a metrics file's metrics in MLflow, where it is not the file's own name
METRIC_GROUPS = {
    "train": "trained",
    "evaluate/base": "base",
    "evaluate/tuned": "tuned",
    "base": "model",
    "report": "comparison",
}
# Nested numbers that become metrics: key and key within it
NESTED_METRICS = (
    ("train", "rows"),
    ("train", "tokens"),
    ("train", "packs"),
    ("train", "utilisation"),
    ("validation", "rows"),
    ("generation", "tokens_per_second"),
)
DATASETS = {"data/packed": "training", "data/benchmarks": "evaluation"}
ARTIFACTS = (
    "reports/index.html",
    "reports/config.yaml",
    "reports/train.csv",
    "reports/evaluate/base/samples.jsonl",
    "reports/evaluate/tuned/samples.jsonl",
)
# The UI shows the commit beside these
SOURCE_TAGS = {"mlflow.source.name": "dvc repro", "mlflow.source.type": "LOCAL"}
PIPELINE_OUTPUTS = re.compile(
    r"reports/|models/|data/(?!sources)|dvc\.lock|.*\.gitignore"
)  # what the pipeline writes


@dataclass(frozen=True)
class RunContents:
    """Everything that a complete run holds, except its parameters."""

    identity: RunIdentity
    curve: list[MetricPoint]
    final_metrics: dict[str, float]
    # Path, digest, context (training, evaluation)
    datasets: list[tuple[str, str, str]]
    tags: dict[str, str]
    artifacts: list[Path]
    # Tags of the registered model: what it was made from, and under which licences
    origin: dict[str, str]


def read_run_contents() -> RunContents:
    """Read the contents from the working folder.

    Raises:
        UserError: a file of reports/ is missing or damaged.
    """
    metrics = {name: read_metrics(f"reports/{name}.json") for name in TRACKED_REPORTS}
    if "training_key" not in metrics["train"]:
        raise UserError(
            "reports/train.json: 'training_key' is missing. Run `dvc repro -f -s train` to make the file "
            "again."
        )
    digests = lock_digests(Path("dvc.lock"))
    return RunContents(
        identity=RunIdentity.of(str(metrics["train"]["training_key"])),
        curve=curve_points(read_curve(CURVE_FILE), metrics["train"].get("curve", ())),
        final_metrics=collect_final_metrics(metrics),
        datasets=[(path, data_digest(path, digests), context) for path, context in DATASETS.items()],
        tags={
            **SOURCE_TAGS,
            **git_tags(),
            **experiment_tag(),
            **sweep_tags(),
            **description_tag(metrics),
            **sandbox_tags(metrics),
            **merge_tags(metrics["merge"]),
            **{f"dvc.{path}": digest for path, digest in digests.items()},
        },
        artifacts=[require_path(path) for path in ARTIFACTS],
        origin=model_origin(metrics["base"], yaml.safe_load(COMPOSED_CONFIG.read_text("utf-8"))),
    )


def curve_points(rows: Sequence[CurveCells], measured: Sequence[CurveCells]) -> list[MetricPoint]:
    """Return the points of a curve: a metric per column over steps, losses over tokens too; none for an empty cell.

    Args:
        rows: of reports/train.csv.
        measured: rows with what was measured, by `step`; empty if the training did not run here.
    """
    by_step = {row["step"]: row for row in measured}
    points: list[MetricPoint] = []
    for row in rows:
        cells = {**row, **by_step.get(row["step"], {})}
        values = {k: v for k, v in cells.items() if k != "step" and v is not None and math.isfinite(v)}
        points += row_points(values, int(row["step"] or 0))
    return points


def collect_final_metrics(metrics: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the numbers of each reports/*.json: `tuned/pass_at_1`, `seconds/train`, ...

    Of nested numbers only those in NESTED_METRICS and the pass@1 of each benchmark, since MLflow's UI draws a
    chart for each metric.
    """
    finals: dict[str, float] = {}
    for stage, values in metrics.items():
        nested = {f"{outer}.{inner}": values.get(outer, {}).get(inner) for outer, inner in NESTED_METRICS}
        for name, part in values.get("benchmarks", {}).items():
            nested[f"{name}.pass_at_1"] = part.get("pass_at_1") if isinstance(part, dict) else None
        for key, value in {**values, **nested}.items():
            if is_number(value):
                finals[metric_name(stage, key)] = float(value)
    finals["seconds/total"] = round(sum(v for k, v in finals.items() if k.startswith("seconds/")), 2)
    return finals


def is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)


def metric_name(stage: str, key: str) -> str:
    """Return a name that MLflow accepts; its UI groups charts by the part before the slash."""
    if key in ("seconds", "peak_memory_mib"):
        return f"{key}/{stage.replace('/', '_')}"
    return re.sub(r"[^\w\-. :/]", "_", f"{METRIC_GROUPS.get(stage, stage)}/{key}")


def lock_digests(path: Path) -> dict[str, str]:
    """Return the hash of each data and model folder from dvc.lock; empty without that file."""
    if not path.exists():
        return {}
    stages = (yaml.load(path.read_text("utf-8"), yaml.CSafeLoader) or {}).get("stages", {})
    entries = [entry for stage in stages.values() for entry in stage.get("outs", [])]
    return {
        entry["path"]: entry["md5"].removesuffix(".dir")
        for entry in entries
        if entry["path"].startswith(("data/", "models/")) and "md5" in entry
    }


def data_digest(path: str, digests: dict[str, str]) -> str:
    """Return DVC's hash of a folder or file, or else 32 digits of its sha256 (MLflow accepts up to 36)."""
    if path in digests:
        return digests[path]
    return (sha256_folder if require_path(path).is_dir() else sha256_file)(path)[:32]


def require_path(path: str) -> Path:
    """Return the path.

    Raises:
        UserError: nothing is there.
    """
    if not Path(path).exists():
        raise UserError(f"{path}: no such file or folder. Run `dvc repro` to make it.")
    return Path(path)


def git_tags() -> dict[str, str]:
    """Return the commit, and which files other than outputs differ from it; empty outside git."""
    try:
        commit = git("rev-parse", "HEAD", folder=Path())
        changed = [line[3:].strip() for line in git("status", "--porcelain", folder=Path()).splitlines()]
    except (OSError, UserError):
        return {}
    changed = [path for path in changed if not PIPELINE_OUTPUTS.match(path)]
    tags = {"mlflow.source.git.commit": commit, "codetune.git_dirty": str(bool(changed)).lower()}
    return {**tags, "codetune.git_changed": ", ".join(sorted(changed))[:500] or "nothing"}


def experiment_tag() -> dict[str, str]:
    """Return the name of the DVC experiment; empty outside `dvc exp run`."""
    name = os.environ.get("DVC_EXP_NAME", "")
    return {"codetune.dvc_experiment": name} if name else {}


def sandbox_tags(metrics: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return the isolation levels of the judge, and whether one of them is the weak one."""
    levels = {metrics[f"evaluate/{target}"]["isolation"]["level"] for target in ("base", "tuned")}
    return {
        "codetune.isolation_level": ", ".join(sorted(levels)),
        "codetune.weak_sandbox": str("C" in levels).lower(),
    }


def merge_tags(merge: dict[str, Any]) -> dict[str, str]:
    """Return what the adapter was merged into, and whether the result was compared with the trained model.

    The results are metrics (`merge/mean_kl`), the limits parameters (`merge.max_mean_kl`).
    """
    return {"codetune.merge_base": merge["base"], "codetune.merge_gate": merge["gate"]}


def model_origin(base: dict[str, Any], config: dict[str, Any]) -> dict[str, str]:
    """Return the base model with pin and licence, licences of the training data, and the prompt style."""
    pin = {key: config["base"].get(key) for key in ("kind", "version", "revision", "path", "sha256")}
    licences = {source["licence"] for source in config["fetch"]["sources"]}
    return {
        "codetune.licence": base["licence"],
        "codetune.base": base["name"],
        "codetune.base_pin": ", ".join(f"{key} {value}" for key, value in pin.items() if value),
        "codetune.base_weights": base.get("weights_sha256", ""),
        "codetune.data_licences": ", ".join(sorted(licences)),
        "codetune.prompt_style": config.get("prompt", {}).get("style", "completion"),
    }


def description_tag(metrics: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return the tag that MLflow's UI shows as the run's description."""
    base, tuned = metrics["evaluate/base"], metrics["evaluate/tuned"]
    noise = "more" if metrics["report"]["more_than_noise"] else "not more"
    warnings = " Judged in a weak sandbox." if metrics["report"]["weak_sandbox"] else ""
    if metrics["merge"]["gate"] == "off":
        warnings += " The merged model was not compared with the trained one."
    return {
        "mlflow.note.content": f"{tuned['benchmark']} pass@1: base {format_passed(base)}, "
        f"tuned {format_passed(tuned)}; the difference is {noise} than noise (p "
        f"{metrics['report']['p']:.2g}).{warnings} Report: artifact index.html"
    }


def format_passed(metrics: dict[str, Any]) -> str:
    """Return passed samples of all: `8 of 164 (4.9%)`."""
    return f"{metrics['passed']} of {sum(metrics['verdicts'].values())} ({100 * metrics['pass_at_1']:.1f}%)"
