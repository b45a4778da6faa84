"""Download wheels at a pinned version, check them against a pinned sha256, and read them as zip files.

Nothing from a wheel is ever installed, imported or executed.
"""

import difflib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from stages.common.core.errors import UserError
from stages.common.core.files import sha256_file

# What a pin looks like.
SHA256_PATTERN = "[0-9a-f]{64}"
COMMIT_PATTERN = "[0-9a-f]{40}"
VERSION_PATTERN = r"[0-9][0-9A-Za-z.!+]*"
WHEELS = Path(".cache/wheels")
PIP_DOWNLOAD = (
    "download",
    "--no-deps",
    "--only-binary=:all:",
    "--disable-pip-version-check",
    "--no-input",
    "--retries=2",
)


def pinned_wheel(package: str, version: str, sha256: str, cache: Path = WHEELS) -> Path:
    """Return the path of the wheel `package==version` with this sha256, from the cache or through pip.

    A cached file is verified at each use, and downloaded again if it does not match.

    Raises:
        UserError: pip cannot download it (no network, no such version), or its sha256 differs.
    """
    for cached in sorted(cache.glob(f"*-{version}-*.whl")):
        if normalise_package(cached.name.split("-")[0]) == normalise_package(package):
            if sha256_file(cached) == sha256:
                return cached
            cached.unlink()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        wheel = download_wheel(f"{package}=={version}", Path(folder))
        require_sha256(wheel, sha256, f"the wheel {package}=={version}")
        return Path(shutil.move(wheel, cache / wheel.name))


def normalise_package(package: str) -> str:
    """Return a package name as indexes compare it (PEP 503): `More_Itertools` becomes `more-itertools`."""
    return re.sub(r"[-_.]+", "-", package).lower()


def download_wheel(requirement: str, folder: Path) -> Path:
    """Download one wheel with pip into an empty folder.

    Raises:
        UserError: pip failed; quotes the last lines of its output.
    """
    command = [sys.executable, "-m", "pip", *PIP_DOWNLOAD, "-d", str(folder), requirement]
    print(f"downloading {requirement}", flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        output = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-3:]
        raise UserError(
            f"pip could not download {requirement}. Is there a network, and does the version exist? It says:\n  "
            + "\n  ".join(line[:300] for line in output)
        )
    return wheels[0]


def require_sha256(path: Path, expected: str, what: str) -> None:
    """Compare a file with its pin.

    Raises:
        UserError: names the expected and the actual sha256.
    """
    actual = sha256_file(path)
    if actual != expected:
        raise UserError(
            f"{what} does not match its pin.\n  expected sha256 {expected}\n  found    sha256 {actual}\n"
            "Pin the new sha256 only if you know why it changed."
        )


def match_names(names: Sequence[str], patterns: Sequence[str], where: str) -> list[str]:
    """Return the names that any pattern matches, sorted; `*` also matches `/`, and `!pattern` excludes.

    Raises:
        UserError: a pattern matches nothing; suggests the nearest name.
    """
    found: set[str] = set()
    for pattern in patterns:
        exclude = pattern.startswith("!")
        hits = [name for name in names if fnmatchcase(name, pattern.removeprefix("!"))]
        if not hits:
            close = difflib.get_close_matches(pattern.removeprefix("!"), names, n=1, cutoff=0.3)
            raise UserError(
                f"{where} has no file that matches '{pattern}'."
                + (f" The nearest is '{close[0]}'." if close else "")
            )
        found = found.difference(hits) if exclude else found.union(hits)
    return sorted(found)


def select_members(wheel: Path, patterns: Sequence[str]) -> list[str]:
    """Return the names of the wheel's members that the patterns match, sorted.

    Raises:
        UserError: the file is not a zip archive, or a pattern matches nothing.
    """
    with open_wheel(wheel) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        return match_names(names, patterns, wheel.name)


def extract_member(wheel: Path, member: str, target: Path) -> Path:
    """Write one member of a wheel to `target` in blocks.

    Raises:
        UserError: the file is not a zip archive, or has no such member.
    """
    with open_wheel(wheel) as archive:
        match_names(archive.namelist(), [member], wheel.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out)
    return target


def open_wheel(wheel: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(wheel)
    except zipfile.BadZipFile as error:
        raise UserError(f"{wheel}: not a zip archive ({error}). Delete it and rerun.") from None
