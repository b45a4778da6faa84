"""Git and DVC commands, and where DVC keeps its experiments."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from stages.common.core.errors import UserError

LARGEST_NEW_FILE = 100 << 20  # bytes


def git(*arguments: str, folder: Path, index: Path | None = None) -> str:
    """Run a git command in `folder` and return its output without trailing whitespace.

    Args:
        index: another index than the repository's.

    Raises:
        UserError: git fails; has its message.
    """
    environment = {**os.environ, "GIT_INDEX_FILE": str(index)} if index else None
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        raise UserError(f"`git {' '.join(arguments)}` failed in {folder}: {done.stderr.strip()}")
    return done.stdout.rstrip()


def read_blob(ref: str, path: str, folder: Path) -> bytes | None:
    """Return the exact bytes of a file in a commit; None if the commit does not have it."""
    done = subprocess.run(["git", "show", f"{ref}:{path}"], cwd=folder, capture_output=True, check=False)
    return None if done.returncode else done.stdout


def dvc_command(*arguments: str) -> list[str]:
    """Return the command line of DVC under this interpreter."""
    return [sys.executable, "-m", "dvc", *arguments]


def snapshot_tree(root: Path) -> tuple[str, list[str]]:
    """Write a git tree of the files on disk, edits and new files included, without touching index or branch.

    Returns:
        the tree's id, and the paths that differ from the commit that is checked out.

    Raises:
        UserError: a file that git does not know yet is too large to be copied into git's objects.
    """
    changed = [
        line[3:].strip('"') for line in git("status", "--porcelain", "-uall", folder=root).splitlines()
    ]
    if not changed:
        return git("rev-parse", "HEAD^{tree}", folder=root), []
    for name in git("ls-files", "-z", "--others", "--exclude-standard", folder=root).split("\0"):
        if name and (root / name).lstat().st_size > LARGEST_NEW_FILE:
            raise UserError(
                f"{name}: {(root / name).lstat().st_size >> 20} MiB that neither git nor DVC tracks, so a sweep would "
                f"copy it into git. Track it with `dvc add {name}`, or list it in .gitignore."
            )
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder, "index")
        git("read-tree", "HEAD", folder=root, index=index)
        git("add", "--all", folder=root, index=index)
        return git("write-tree", folder=root, index=index), changed


def identity_options(root: Path, commit: str) -> list[str]:
    """Return the `-c` options that let a clone commit: the user's name and address, else those of `commit`."""
    options = []
    for key, field in (("user.name", "%an"), ("user.email", "%ae")):
        done = subprocess.run(["git", "config", key], cwd=root, capture_output=True, text=True, check=False)
        value = done.stdout.strip() or git("log", "-1", f"--format={field}", commit, folder=root)
        options += ["-c", f"{key}={value}"]
    return options


def experiment_ref(commit: str, name: str) -> str:
    """Return the git ref under which DVC keeps the experiment `name` on top of `commit`."""
    return f"refs/exps/{commit[:2]}/{commit[2:]}/{name}"


def ref_exists(root: Path, ref: str) -> bool:
    done = subprocess.run(["git", "show-ref", "--verify", "--quiet", ref], cwd=root, check=False)
    return done.returncode == 0
