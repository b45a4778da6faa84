"""Find the highest isolation level that this machine supports, by running a program at it."""

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from stages.common.errors import UserError
from stages.judge.sandbox import kernel, values
from stages.judge.sandbox.host import Isolation, LevelUnavailable, Limits, Sandbox, SandboxFailed

ISOLATION_LEVELS = ("A", "B", "C")
UNUSED_USER = 64_990


def detect(wanted: str = "auto", bwrap: str | None = None) -> Isolation:
    """Return the highest level that runs a small program on this machine, or `wanted` if it does.

    Args:
        wanted: auto, A, B or C.
        bwrap: path of bubblewrap; None: search PATH.

    Raises:
        UserError: the level is not available; says why.
    """
    if sys.platform != "linux":
        raise UserError(
            "the judge isolates candidates with Linux features. On another system, run it in a Linux container"
        )
    reasons: list[str] = []
    for level in ISOLATION_LEVELS if wanted == "auto" else (wanted,):
        try:
            isolation = prepare_level(level, bwrap)
            with Sandbox(isolation) as sandbox:
                run_trial(sandbox)
            return replace(isolation, why="; ".join(reasons))
        except (LevelUnavailable, SandboxFailed) as error:
            reasons.append(f"level {level} is not available: {error}")
    raise UserError(f"evaluate.isolation is {wanted!r}, but {'; '.join(reasons)}")


def prepare_level(level: str, bwrap: str | None = None) -> Isolation:
    """Return what starting a level needs.

    Raises:
        LevelUnavailable: something is missing that can be checked without starting it.
    """
    python, libraries = interpreter_files()
    version = kernel.landlock_version()
    if level == "A":
        path = shutil.which(bwrap or "bwrap")
        if path is None:
            raise LevelUnavailable(f"{bwrap or 'bwrap'} is not installed (Debian: the package bubblewrap)")
        hidden = [packages for folder in libraries for packages in package_folders(folder)]
        return Isolation(
            "A", bwrap=path, python=python, libraries=libraries, hidden=hidden, landlock=version > 0
        )
    if level == "B":
        if version < 1:
            raise LevelUnavailable("the kernel has no Landlock")
        user = UNUSED_USER if os.getuid() == 0 and readable_by_others(python) else 0
        listed = [folder for folder in libraries if package_folders(folder)]
        entries = [str(path) for folder in listed for path in Path(folder).iterdir()]
        kept = {*libraries, *entries} - {
            *listed,
            *(found for folder in listed for found in package_folders(folder)),
        }
        return Isolation("B", python=python, libraries=sorted(kept), listed=listed, landlock=True, user=user)
    return Isolation("C", python=python, libraries=libraries)


@cache
def interpreter_files() -> tuple[str, list[str]]:
    """Return the base interpreter's executable, and the folders and shared libraries it needs."""
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    folders = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    modules = [str(p) for folder in folders for p in Path(folder, "lib-dynload").glob("*.so")]
    found = {"/etc/ld.so.cache", python, *folders}
    try:
        out = subprocess.run(["ldd", python, *modules], capture_output=True, text=True, check=False).stdout
    except OSError:
        out = ""
    words = [word for line in out.splitlines() if line.startswith(("\t", " ")) for word in line.split()]
    shared = {word for word in words if word.startswith("/") and os.path.exists(word)}
    found |= shared or {"/lib", "/lib64", "/usr/lib", "/usr/lib64"}
    return python, sorted(path for path in found if os.path.exists(path))


def package_folders(folder: str) -> list[str]:
    """Return folders of installed packages in the library, which may hold a benchmark's answers."""
    found = (os.path.join(folder, name) for name in ("site-packages", "dist-packages"))
    return [path for path in found if os.path.isdir(path)]


def readable_by_others(path: str) -> bool:
    return all(parent.stat().st_mode & 0o005 == 0o005 for parent in [Path(path), *Path(path).parents])


def run_trial(sandbox: Sandbox) -> None:
    """Run a program that adds one and one, so that a level counts only if the kernel accepts its filters.

    Raises:
        LevelUnavailable: the answer is not 2.
    """
    with sandbox.run(Limits(cpu_seconds=5.0)) as candidate:
        program = "def add(a, b):\n    return a + b\n"
        answer: Any = None
        with contextlib.suppress(EOFError):
            candidate.send({"program": program, "entry_point": "add", "seed": 0})
            candidate.receive()
            candidate.send(
                {"id": 1, "arguments": values.encode_value((1, 1)), "keywords": values.encode_value({})}
            )
            answer = candidate.receive().get("value")
    if answer != 2:
        raise LevelUnavailable(candidate.end["trouble"] or "a program that adds one and one did not run")
