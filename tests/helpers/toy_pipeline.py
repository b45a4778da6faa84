"""A toy pipeline for sweeps: config, and a quick stage that can be made to wait, and fails at rank 13."""

import re
import shutil
from pathlib import Path

from stages.common.git import experiment_ref
from tests.helpers.tiny_project import Done, Project

PIPELINE = """\
stages:
  config:
    cmd: python -m stages.config
    deps: [params.yaml, conf, stages/config, stages/common]
    outs:
      - reports/config.yaml: {cache: false}
  score:
    cmd: python score.py
    deps: [score.py]
    params: [{reports/config.yaml: [train, base]}]
    metrics:
      - reports/evaluate/tuned.json: {cache: false}
      - reports/report.json: {cache: false}
"""
SCORE = """\
import json, os, sys, time, yaml
from pathlib import Path
config = yaml.safe_load(open("reports/config.yaml"))
rank = config["train"]["lora"]["rank"]
if rank == 13:
    sys.exit("rank 13 fails")
begun = Path(".cache/score/begun")
begun.parent.mkdir(parents=True, exist_ok=True)
with begun.open("a") as file:
    file.write(f"{rank}\\n")
print(f"begun {len(begun.read_text().split())} times", flush=True)
while Path(os.environ.get("TOY_WAIT", "/nowhere"), str(rank)).exists():
    time.sleep(0.05)
made = {"pass_at_1": rank / 100, "base": config["base"]["name"], "store": os.environ.get("MLFLOW_TRACKING_URI")}
made |= {"threads": len(os.sched_getaffinity(0)), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}
Path("reports/evaluate").mkdir(parents=True, exist_ok=True)
Path("reports/evaluate/tuned.json").write_text(json.dumps(made))
compared = {"p": 0.2 / rank, "difference": 0.03, "weak_sandbox": False}
Path("reports/report.json").write_text(json.dumps(compared))
"""
# Messages of git, DVC and sqlite when two processes want the same lock
LOCK_ERROR = re.compile(r"acquire lock|is locked|rwlock|LockError|\.lock'?: File exists", re.IGNORECASE)
WAIT_VARIABLE = "TOY_WAIT"  # a folder: a point waits while a file there is named after its rank
SWEEP_OUTPUTS = (
    "reports/sweeps/",
    "mlartifacts/",
)  # what a sweep leaves in the working tree, never committed


def make_toy(fresh: Project, root: Path, store: Path) -> Project:
    """Copy the project and commit a pipeline of two quick stages, without running it; `store` is MLflow's, empty."""
    project = fresh.copy(root)
    shutil.copy(store, project.root / "mlflow.db")
    (project.root / "dvc.yaml").write_text(PIPELINE, "utf-8")
    (project.root / "score.py").write_text(SCORE, "utf-8")
    shutil.copy(project.root / "conf/base/tiny.yaml", project.root / "conf/base/other.yaml")
    project.edit("conf/base/other.yaml", "name: tiny", "name: other")
    project.commit("a toy pipeline")
    return project


def run_sweep(project: Project, *arguments: str, env: dict[str, str] | None = None) -> Done:
    return project.run("python", "-m", "stages.sweep", *arguments, env=env)


def experiment_names(project: Project) -> list[str]:
    """Return the names of the experiments on top of the checked-out commit."""
    refs = project.git("for-each-ref", "--format=%(refname)", "refs/exps").splitlines()
    head = project.git("rev-parse", "HEAD")
    return sorted(ref.split("/")[-1] for ref in refs if ref.split("/")[2] + ref.split("/")[3] == head)


def read_experiment(project: Project, name: str, path: str = "reports/evaluate/tuned.json") -> str:
    """Return a file of an experiment."""
    head = project.git("rev-parse", "HEAD")
    return project.git("show", f"{experiment_ref(head, name)}:{path}")


def summary_rows(done: Done) -> dict[str, list[str]]:
    """Return the cells of the table that ends a sweep, by the point's name."""
    table = done.out.rsplit("\nsweep ", 1)[1].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in re.split(r"  +", line) if cell.strip()] for line in table]
    return {row[0]: row[1:] for row in cells}


def user_files(project: Project) -> dict[str, str]:
    """Return the sha256 of the user's files: all except what a sweep leaves for the user."""
    return {name: digest for name, digest in project.files().items() if not name.startswith(SWEEP_OUTPUTS)}
