"""A toy pipeline for sweeps: config, and a stage that scores a rank in no time, waits where it is told to, and fails at 13."""

import re
import shutil
import sys
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
    sys.exit("thirteen is no rank")
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
# What git, DVC and sqlite say where two get in each other's way
LOCKED = re.compile(r"acquire lock|is locked|rwlock|LockError|\.lock'?: File exists", re.IGNORECASE)
WAIT = "TOY_WAIT"  # a folder: a point waits while it holds a file of its rank's name
WRITTEN = ("reports/sweeps/", "mlartifacts/")  # by a sweep, and in no commit


def make_toy(fresh: Project, root: Path) -> Project:
    """The repository with a pipeline of two quick stages, committed, nothing run."""
    project = fresh.copy(root)
    (project.root / "dvc.yaml").write_text(PIPELINE, "utf-8")
    (project.root / "score.py").write_text(SCORE, "utf-8")
    shutil.copy(project.root / "conf/base/tiny.yaml", project.root / "conf/base/other.yaml")
    project.edit("conf/base/other.yaml", "name: tiny", "name: other")
    project.commit("a toy pipeline")
    return project


def sweep(project: Project, *arguments: str, env: dict[str, str] | None = None) -> Done:
    return project.run(sys.executable, "-m", "stages.sweep", *arguments, env=env)


def experiments(project: Project) -> list[str]:
    """Names of the experiments on top of the commit that is checked out."""
    refs = project.git("for-each-ref", "--format=%(refname)", "refs/exps").splitlines()
    head = project.git("rev-parse", "HEAD")
    return sorted(ref.split("/")[-1] for ref in refs if ref.split("/")[2] + ref.split("/")[3] == head)


def short(names: list[str]) -> list[str]:
    """Without their hashes."""
    return [name.rsplit("-", 1)[0] for name in names]


def made(project: Project, name: str, path: str = "reports/evaluate/tuned.json") -> str:
    """A file of the experiment whose name begins so."""
    head = project.git("rev-parse", "HEAD")
    [whole] = [found for found in experiments(project) if found.startswith(f"{name}-")]
    return project.git("show", f"{experiment_ref(head, whole)}:{path}")


def rows(done: Done) -> dict[str, list[str]]:
    """The table at the end: cells by the point's name without its hash."""
    table = done.out.rsplit("\nsweep ", 1)[1].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in re.split(r"  +", line) if cell.strip()] for line in table]
    return {row[0].rsplit("-", 1)[0]: row[1:] for row in cells}


def tree(project: Project) -> dict[str, str]:
    """sha256 of the user's files: everything but what a sweep leaves for the user, and in no commit."""
    return {name: digest for name, digest in project.files().items() if not name.startswith(WRITTEN)}
