"""Wheels as archives of data: downloaded at a pinned version, checked against a pinned sha256, read as zip files.

Nothing of a wheel is ever installed, imported or executed.
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

from stages.common.errors import UserError
from stages.common.files import sha256_file

WHEELS = Path(".cache/wheels")
PIP = (
    "download",
    "--no-deps",
    "--only-binary=:all:",
    "--disable-pip-version-check",
    "--no-input",
    "--retries=2",
)


def pinned_wheel(package: str, version: str, sha256: str, cache: Path = WHEELS) -> Path:
    """Path of the wheel of `package==version` whose bytes have this sha256, from the cache or through pip.

    A cached file is verified at each use; one that does not match is fetched again.

    Raises:
        UserError: pip cannot bring it (no network, no such version), or what came has another sha256.
    """
    for cached in sorted(cache.glob(f"*-{version}-*.whl")):
        if plain_name(cached.name.split("-")[0]) == plain_name(package):
            if sha256_file(cached) == sha256:
                return cached
            cached.unlink()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        came = download(f"{package}=={version}", Path(folder))
        require_sha256(came, sha256, f"the wheel {package}=={version}")
        return Path(shutil.move(came, cache / came.name))


def plain_name(package: str) -> str:
    """A package's name as the index compares it (PEP 503): `More_Itertools` is `more-itertools`."""
    return re.sub(r"[-_.]+", "-", package).lower()


def download(requirement: str, folder: Path) -> Path:
    """Let pip download one wheel into an empty folder.

    Raises:
        UserError: pip failed; gives the last lines of what it said.
    """
    command = [sys.executable, "-m", "pip", *PIP, "-d", str(folder), requirement]
    print(f"downloading {requirement}", flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-3:]
        raise UserError(
            f"pip could not download {requirement}: no network, or no such version? It said:\n  "
            + "\n  ".join(line[:300] for line in said)
        )
    return wheels[0]


def require_sha256(path: Path, expected: str, what: str) -> None:
    """Compare a file with its pin.

    Raises:
        UserError: names what was expected and what came.
    """
    came = sha256_file(path)
    if came != expected:
        raise UserError(
            f"{what} is not the pinned one.\n  expected sha256 {expected}\n  came     sha256 {came}\n"
            "Pin the new sum only if you know why it changed."
        )


def matching(names: Sequence[str], patterns: Sequence[str], where: str) -> list[str]:
    """Names that any of the patterns matches (`*` also matches `/`), sorted; a pattern beginning with `!` excludes.

    Raises:
        UserError: a pattern matches nothing; names the nearest name that is there.
    """
    found: set[str] = set()
    for pattern in patterns:
        exclude = pattern.startswith("!")
        hits = [name for name in names if fnmatchcase(name, pattern.removeprefix("!"))]
        if not hits:
            close = difflib.get_close_matches(pattern.removeprefix("!"), names, n=1, cutoff=0.3)
            raise UserError(
                f"{where} has no member '{pattern}'." + (f" The nearest is '{close[0]}'." if close else "")
            )
        found = found.difference(hits) if exclude else found.union(hits)
    return sorted(found)


def members_of(wheel: Path, patterns: Sequence[str]) -> list[str]:
    """Names of the members of a wheel that the patterns take, sorted.

    Raises:
        UserError: the file is no zip archive, or a pattern matches nothing.
    """
    with opened(wheel) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        return matching(names, patterns, wheel.name)


def extract(wheel: Path, member: str, target: Path) -> Path:
    """Write one member of a wheel to `target`, without holding it in memory.

    Raises:
        UserError: the file is no zip archive, or has no such member.
    """
    with opened(wheel) as archive:
        matching(archive.namelist(), [member], wheel.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out)
    return target


def opened(wheel: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(wheel)
    except zipfile.BadZipFile as error:
        raise UserError(f"{wheel}: not a zip archive ({error})") from None
