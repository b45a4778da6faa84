"""Whose runs are whose: on a shared server, a clone changes and deletes nothing but its own."""

import getpass
import os
import platform
import re
import uuid
from pathlib import Path

from stages.common.core.errors import UserError
from stages.common.core.files import file_lock
from stages.common.git import git

OWNER_TAG = "codetune.owner"


def main_root() -> Path:
    """Return the repository's root, also from a temporary copy (`dvc exp run --temp`, a sweep's point)."""
    return Path(re.split(r"/\.dvc/tmp/exps/|/\.cache/sweep/", str(Path.cwd()))[0])


def owner() -> str:
    """Return the name of this clone, such as `ada@lab-1:codetune-3f2a9c`; made once, and kept in its git folder."""
    root = main_root()
    try:
        folder = root / git("rev-parse", "--git-common-dir", folder=root)
    except UserError:  # not a git repository
        folder = root / ".cache"
        folder.mkdir(exist_ok=True)
    path = folder / "codetune-owner"
    with file_lock(path.with_suffix(".lock")):
        if not path.exists():
            name = f"{user_name()}@{platform.node()}:{root.name}-{uuid.uuid4().hex[:6]}"
            path.write_text("".join(c if c.isprintable() and c != "'" else "-" for c in name), "utf-8")
        return path.read_text("utf-8")


def user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())
