"""Find the highest isolation level that this machine supports, by running a program at it."""

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError
from stages.judge.sandbox import kernel, values
from stages.judge.sandbox.host import Isolation, LevelUnavailable, Limits, Sandbox, SandboxFailed

ISOLATION_LEVELS = ("A", "B", "C")
UNUSED_USER = 64_990
# What a wheel may take from the system (PEP 600), besides the interpreter's own
WHEELS_NEED = "libgcc_s.so.1 libstdc++.so.6 libz.so.1 libm.so.6 libdl.so.2 librt.so.1 libpthread.so.0"
# Print the libraries of a process that has loaded the modules; `ldd` would start a process for each
LOADED = """
import ctypes, sys
for module in sys.argv[1:]:
    try:
        ctypes.CDLL(module)
    except OSError:
        pass
kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_void_p * 2), ctypes.c_size_t, ctypes.c_void_p)
show = kind(lambda info, size, data: print((ctypes.string_at(info[0][1] or b'')).decode()) or 0)
ctypes.CDLL(None).dl_iterate_phdr(show, None)
"""
TRIAL = """
import os
def add(a, b):
    try:
        if open({0!r}).read() != 'kept':
            return 0
        os.close(os.open({0!r}, os.O_RDONLY | os.O_TRUNC))
    except OSError:
        pass
    return a + b
"""


def detect(wanted: str = "auto", bwrap: str | None = None, packages: Sequence[str] = ()) -> Isolation:
    """Return the highest level that runs a small program on this machine, or `wanted` if it does.

    Args:
        wanted: auto, A, B or C.
        bwrap: path of bubblewrap; None: search PATH.
        packages: installed packages that a candidate may import, with what they require.

    Raises:
        UserError: the level is not available, or a package is not installed; says why.
    """
    if sys.platform != "linux":
        raise UserError(
            "the judge isolates candidates with Linux features. On another system, run it in a Linux container"
        )
    reasons: list[str] = []
    for level in ISOLATION_LEVELS if wanted == "auto" else (wanted,):
        try:
            isolation = with_packages(prepare_level(level, bwrap), packages)
            run_trial(isolation)
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
        found = Isolation("A", bwrap=path, python=python, landlock=version > 0)
        return replace(found, libraries=libraries, hidden=hidden)
    if level == "B":
        if version < 3:
            raise LevelUnavailable(
                f"the kernel's Landlock has version {version}; from 3 on (Linux 6.2) it keeps files from being emptied"
            )
        user = UNUSED_USER if os.getuid() == 0 and readable_by_others(python) else 0
        listed = [folder for folder in libraries if package_folders(folder)]
        entries = {str(path) for folder in listed for path in Path(folder).iterdir()}
        kept = {*libraries, *entries}.difference(listed, *map(package_folders, listed))
        return Isolation("B", python=python, libraries=sorted(kept), listed=listed, landlock=True, user=user)
    return Isolation("C", python=python, libraries=libraries)


@cache
def interpreter_files() -> tuple[str, list[str]]:
    """Return the base interpreter's executable, and the folders and shared libraries it needs."""
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    folders = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    modules = [str(p) for folder in folders for p in Path(folder, "lib-dynload").glob("*.so")]
    zones = (sysconfig.get_config_var("TZPATH") or "").split(":")
    found = {"/etc/ld.so.cache", python, *folders, *zones}
    found |= shared_libraries(python, modules) or {"/lib", "/lib64", "/usr/lib", "/usr/lib64"}
    return python, sorted(path for path in found if os.path.exists(path))


def shared_libraries(python: str, modules: Sequence[str]) -> set[str]:
    """Return the shared libraries of an interpreter and its modules, by the names that the loader opens."""
    done = subprocess.run([python, "-S", "-c", LOADED, *modules], capture_output=True, text=True, check=False)
    return {word for word in done.stdout.split("\n") if word.startswith("/") and os.path.exists(word)}


def package_folders(folder: str) -> list[str]:
    """Return folders of installed packages in the library, which may hold a benchmark's answers."""
    found = (os.path.join(folder, name) for name in ("site-packages", "dist-packages"))
    return [path for path in found if os.path.isdir(path)]


def readable_by_others(path: str) -> bool:
    return all(parent.stat().st_mode & 0o005 == 0o005 for parent in [Path(path), *Path(path).parents])


def with_packages(isolation: Isolation, names: Sequence[str]) -> Isolation:
    """Return an isolation in which installed packages and what they require can be imported."""
    if not names:
        return isolation
    entries, shared = package_files(tuple(names))
    folders = sorted({os.path.dirname(path) for path in entries})
    return replace(
        isolation,
        libraries=sorted({*isolation.libraries, *shared}),
        extra=entries,
        packages=folders,
        modules=sorted({os.path.basename(path).split(".")[0] for path in entries}),
        listed=[*isolation.listed, *folders],
        user=isolation.user if all(map(readable_by_others, entries)) else 0,
    )


@cache
def package_files(names: tuple[str, ...]) -> tuple[list[str], set[str]]:
    """Return the files and folders of packages, and the shared libraries they need.

    Raises:
        UserError: a package is not installed.
    """
    from importlib import metadata

    from packaging.requirements import Requirement

    waiting, entries = list(names), dict[str, set[str]]()
    while waiting:
        name = waiting.pop()
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise UserError(f"evaluate.packages: {name} is not installed. Install it, or remove it") from None
        if name not in entries:
            tops = {file.parts[0] for file in found.files or [] if file.parts} - {"..", "__pycache__"}
            entries[name] = {path for top in tops if os.path.exists(path := str(found.locate_file(top)))}
            wanted = [Requirement(text) for text in found.requires or []]
            waiting += [one.name for one in wanted if not one.marker or one.marker.evaluate({"extra": ""})]
    beside = {os.path.dirname(path) for path in interpreter_files()[1] if ".so" in path}
    shared = {
        path
        for folder in beside
        for name in WHEELS_NEED.split()
        if os.path.exists(path := f"{folder}/{name}")
    }
    return sorted(set().union(*entries.values())), shared


def run_trial(isolation: Isolation) -> None:
    """Run a program that adds one and one, so that a level counts only if the kernel accepts its filters.

    It also tries to empty a file that it can read.

    Raises:
        LevelUnavailable: the answer is not 2, or the file is empty.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"kept")
        file.flush()
        os.chmod(file.name, 0o644)
        trial = replace(isolation, extra=[*isolation.extra, file.name])
        answer: Any = None
        with (
            contextlib.closing(Sandbox(trial)) as sandbox,
            sandbox.run(Limits(cpu_seconds=5.0)) as candidate,
            contextlib.suppress(EOFError),
        ):
            candidate.send({"program": TRIAL.format(file.name), "entry_point": "add", "seed": 0})
            candidate.receive()
            call = [values.encode_value((1, 1)), values.encode_value({})]
            candidate.send({"id": 1, "calls": [call], "watched": False})
            answer = candidate.receive().get("value")
        if answer != 2:
            raise LevelUnavailable(candidate.end["trouble"] or "a program that adds one and one did not run")
        if isolation.level != "C" and os.stat(file.name).st_size != 4:
            raise LevelUnavailable("a program can empty the files that it reads")
