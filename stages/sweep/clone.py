"""A point's clone: made from the pinned commit, thrown away at the end; what a killed point left off at is kept."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from configobj import ConfigObj

from stages.common.files import remove
from stages.common.git import git
from stages.sweep.spec import Plan

POINT = "CODETUNE_SWEEP_POINT"  # variable that all processes of a point have: its clone
CACHE = ".cache"  # of a repository: checkpoints, judged samples, downloads
GRACE_SECONDS = 5.0


class Pruned(Exception):
    """A point that is ended because others are ahead of it; says at which step. There is nothing to go on with."""


@contextmanager
def clone_of(plan: Plan, name: str) -> Iterator[Path]:
    """The clone of a point. What its stages left off at outlives it, until the block ends without an error."""
    clone, kept = plan.folder / name, plan.folder / f"{name}.kept"
    end_processes(clone)  # of a sweep that was killed
    set_aside(clone, kept)
    try:
        make_clone(plan, clone)
        if kept.exists():
            os.replace(kept, clone / CACHE)
        yield clone
    except Pruned:
        raise
    except BaseException:
        set_aside(clone, kept)
        raise
    finally:
        shutil.rmtree(clone, ignore_errors=True)


def set_aside(clone: Path, kept: Path) -> None:
    """Take from a clone what its stages can go on from, and remove the clone."""
    if (clone / CACHE).is_dir():
        remove(kept)
        os.replace(clone / CACHE, kept)
    remove(clone)


def make_clone(plan: Plan, clone: Path) -> None:
    """A clone that shares git objects, DVC's cache and local DVC settings with the repository."""
    quiet = ("clone", "--quiet", "--shared", "--no-checkout")
    git(*quiet, *plan.identity, plan.root, str(clone), folder=clone.parent)
    git("checkout", "--quiet", "--detach", plan.commit, folder=clone)
    local = clone / ".dvc/config.local"
    if (given := Path(plan.root) / ".dvc/config.local").exists():
        shutil.copy(given, local)  # remotes and their credentials
    config = ConfigObj(str(local))
    config.setdefault("cache", {})["dir"] = plan.cache
    config.write()


def end_processes(clone: Path) -> None:
    """End what a point left behind: a sweep that is killed leaves DVC and its stage at work in the clone."""
    import psutil

    left = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(POINT) == str(clone):
                process.terminate()
                left.append(process)
    for process in psutil.wait_procs(left, timeout=GRACE_SECONDS)[1]:
        with suppress(psutil.Error):
            process.kill()
