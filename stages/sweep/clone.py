"""The clone that a point runs in, removed at the end. The caches of an interrupted point are kept to resume it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from configobj import ConfigObj

from stages.common.core.files import remove
from stages.common.git import git
from stages.sweep.spec import SweepSpec

# Environment variable of all processes of a point; holds the path of its clone
POINT_VARIABLE = "CODETUNE_SWEEP_POINT"
# Folder of a repository with checkpoints, judged samples and downloads
CACHE_FOLDER = ".cache"
GRACE_SECONDS = 5.0


class Pruned(Exception):
    """The point was ended because others are better; the message says at which step. It is not resumed."""


@contextmanager
def point_clone(spec: SweepSpec, name: str) -> Iterator[Path]:
    """Yield the clone of a point. Its cache folder outlives a failure: the next run resumes from it."""
    clone, kept = spec.folder / name, spec.folder / f"{name}.kept"
    end_point_processes(clone)  # left by a killed sweep
    keep_cache(clone, kept)
    try:
        make_clone(spec, clone)
        if kept.exists():
            os.replace(kept, clone / CACHE_FOLDER)
        yield clone
    except Pruned:
        raise
    except BaseException:
        keep_cache(clone, kept)
        raise
    finally:
        shutil.rmtree(clone, ignore_errors=True)


def keep_cache(clone: Path, kept: Path) -> None:
    """Move a clone's cache folder to `kept`, and remove the clone."""
    if (clone / CACHE_FOLDER).is_dir():
        remove(kept)
        os.replace(clone / CACHE_FOLDER, kept)
    remove(clone)


def make_clone(spec: SweepSpec, clone: Path) -> None:
    """Clone the sweep's commit and check out its tree; git objects, DVC's cache and settings are the repository's.

    `dvc exp run` takes what differs from the commit into the experiment, as it does in a tree with edits.
    """
    quiet = ("clone", "--quiet", "--shared", "--no-checkout")
    git(*quiet, *spec.git_identity, spec.root, str(clone), folder=clone.parent)
    git("checkout", "--quiet", "--detach", spec.commit, folder=clone)
    git("read-tree", "--reset", "-u", spec.tree, folder=clone)
    local = clone / ".dvc/config.local"
    if (original := Path(spec.root) / ".dvc/config.local").exists():
        shutil.copy(original, local)  # remotes and their credentials
    config = ConfigObj(str(local))
    config.setdefault("cache", {})["dir"] = spec.cache
    config.write()


def end_point_processes(clone: Path) -> None:
    """End the processes of a clone's point: DVC and its stage keep running when a sweep is killed."""
    import psutil

    running = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(POINT_VARIABLE) == str(clone):
                process.terminate()
                running.append(process)
    for process in psutil.wait_procs(running, timeout=GRACE_SECONDS)[1]:
        with suppress(psutil.Error):
            process.kill()
