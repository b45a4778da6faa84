"""The few git and DVC calls of a sweep."""

import subprocess
import sys
from pathlib import Path

from stages.common.errors import UserError

SHOWN_FILES = 12


def git(*arguments: str, folder: Path) -> str:
    """Output of a git command.

    Raises:
        UserError: git fails; gives its message.
    """
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"`git {' '.join(arguments)}` failed in {folder}: {done.stderr.strip()}")
    return done.stdout.strip()


def blob(ref: str, path: str, folder: Path) -> bytes | None:
    """A file of a commit, to the byte; None where the commit has none."""
    done = subprocess.run(["git", "show", f"{ref}:{path}"], cwd=folder, capture_output=True, check=False)
    return None if done.returncode else done.stdout


def dvc(*arguments: str) -> list[str]:
    """Command line of DVC under this interpreter."""
    return [sys.executable, "-m", "dvc", *arguments]


def clean_commit(root: Path) -> str:
    """The commit that is checked out, given that the tree is exactly that commit.

    Raises:
        UserError: no commit yet, or files differ from it; lists them.
    """
    changed = git("status", "--porcelain", folder=root).splitlines()
    if changed:
        shown = "\n".join(f"  {line.strip()}" for line in changed[:SHOWN_FILES])
        more = f"\n  and {len(changed) - SHOWN_FILES} more" if len(changed) > SHOWN_FILES else ""
        raise UserError(
            "a sweep starts from a commit, and these files differ from it:\n"
            f"{shown}{more}\n"
            "Commit them first (reports and dvc.lock of the last run too): git add -A && git commit"
        )
    return git("rev-parse", "--verify", "HEAD", folder=root)


def identity(root: Path, commit: str) -> list[str]:
    """`-c` options for a clone that must commit: the user's name and address, else those of `commit`."""
    options = []
    for key, field in (("user.name", "%an"), ("user.email", "%ae")):
        found = subprocess.run(["git", "config", key], cwd=root, capture_output=True, text=True, check=False)
        value = found.stdout.strip() or git("log", "-1", f"--format={field}", commit, folder=root)
        options += ["-c", f"{key}={value}"]
    return options


def experiment_ref(commit: str, name: str) -> str:
    """Where DVC keeps the experiment `name` made on top of `commit`."""
    return f"refs/exps/{commit[:2]}/{commit[2:]}/{name}"


def ref_exists(root: Path, ref: str) -> bool:
    done = subprocess.run(["git", "show-ref", "--verify", "--quiet", ref], cwd=root, check=False)
    return done.returncode == 0
