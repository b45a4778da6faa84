"""Git and DVC commands, and where DVC keeps its experiments."""

import subprocess
import sys
from pathlib import Path

from stages.common.errors import UserError

MAX_LISTED_FILES = 12


def git(*arguments: str, folder: Path) -> str:
    """Run a git command in `folder` and return its output without trailing whitespace.

    Raises:
        UserError: git fails; has its message.
    """
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
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


def clean_commit(root: Path) -> str:
    """Return the checked-out commit of a working tree without changes.

    Raises:
        UserError: there is no commit yet, or the tree has changes; lists them.
    """
    changes = git("status", "--porcelain", folder=root).splitlines()
    if changes:
        listed = "\n".join(f"  {change.strip()}" for change in changes[:MAX_LISTED_FILES])
        more = len(changes) - MAX_LISTED_FILES
        rest = f"\n  and {more} more" if more > 0 else ""
        raise UserError(
            "a sweep starts from a commit, but the working tree has uncommitted changes:\n"
            f"{listed}{rest}\n"
            "Commit them first (reports and dvc.lock of the last run too): git add -A && git commit"
        )
    return git("rev-parse", "--verify", "HEAD", folder=root)


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
