"""Resolve a path or glob below data/sources to files pinned by sha256, or by a .dvc file."""

import errno
import hashlib
import json
import re
import stat
from pathlib import Path
from typing import Any

import yaml

from stages.common.core.errors import UserError
from stages.fetch.settings import Source
from stages.fetch.source_file import PinnedFiles, SourceFile

SOURCES_ROOT = Path("data/sources")
# A password or a token in a URL, as `dvc import-url` writes the URL into a .dvc file, which goes into git
CREDENTIAL = re.compile(
    r"https?://[^/@\s]*@|//[^/@:\s]*:[^/@\s]*@|[?&](?:[\w.-]*[._-])?"
    r"(?:token|sig|signature|secret|passw(?:or)?d|credential|auth|jwt|key|apikey|awsaccesskeyid)=",
    re.IGNORECASE,
)


def resolve_files(source: Source) -> PinnedFiles:
    """Return the file or files at the source's path, checked against their pin.

    Raises:
        UserError: there is no file, it is unreadable, or it does not match its pin.
    """
    what = f"source '{source.name}'"
    paths, is_glob = find_files(source.path, what)
    for path in paths:
        require_file(path, what)
    sums = {path.as_posix(): hash_file(path, "sha256", what) for path in paths}
    listing = "".join(f"{sha256}  {name}\n" for name, sha256 in sums.items())
    sha256 = hashlib.sha256(listing.encode()).hexdigest() if is_glob else sums[source.path]
    resolved = {"sha256": sha256}
    tracked = {path: tracked_by_dvc(path, what) for path in paths}
    if not source.sha256:
        for path, dvc in tracked.items():
            require_dvc_pin(path, dvc, sha256, what)
        resolved["dvc"] = ", ".join(sorted({dvc.as_posix() for dvc in tracked.values() if dvc}))
    elif sha256 != source.sha256:
        note = f"\nA glob's sha256 is that of its listing: LC_ALL=C sha256sum {source.path} | sha256sum" if is_glob else ""  # fmt: skip
        raise UserError(
            f"{what}: {source.path} does not match its pin.\n  expected sha256 {source.sha256}\n"
            f"  found    sha256 {sha256}{note}\nPin the new sha256 only if you know why it changed."
        )
    return PinnedFiles([SourceFile(path.as_posix(), path) for path in paths], sums, resolved)


def find_files(path: str, what: str) -> tuple[list[Path], bool]:
    """Return the file of this name, or a glob's matches, sorted; and whether it is a glob.

    A glob skips folders, hidden files and .dvc files. A file whose name looks like a glob is found by its name.

    Raises:
        UserError: a glob matches no file.
    """
    marks = [mark for mark in "*?[" if mark in path]
    if not marks or Path(path).exists():
        return [Path(path)], False
    matched = sorted(SOURCES_ROOT.glob(path.removeprefix(f"{SOURCES_ROOT.as_posix()}/")))
    files = [
        p
        for p in matched
        if p.suffix != ".dvc"
        and not p.is_dir()
        and not any(part.startswith(".") for part in p.relative_to(SOURCES_ROOT).parts)
    ]
    if not files:
        raise UserError(
            f"{what}: no file matches {path}, a glob by its {' and '.join(marks)}, and none has that very name. "
            "Put one there, or change the source's path."
        )
    return files, True


def require_file(path: Path, what: str) -> None:
    """Check that a path is a regular file.

    Raises:
        UserError: it does not exist, or is a loop of links, a folder or another special file.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise UserError(
                f"{what}: {path} is a link to {path.readlink()}, which does not exist. Does `dvc pull` fetch "
                "it?"
            ) from None
        dvc = path.with_name(f"{path.name}.dvc")
        remedy = (
            f"`dvc pull` fetches it, or `dvc update {dvc}` from its URL"
            if dvc.exists()
            else "Put it there, or change the source's path"
        )
        raise UserError(f"{what}: {path}: no such file. {remedy}.") from None
    except OSError as error:
        loop = error.errno == errno.ELOOP
        raise UserError(
            f"{what}: {path} is {'a loop of symbolic links' if loop else f'not readable ({error.strerror})'}"
        ) from None
    if stat.S_ISDIR(mode):
        raise UserError(
            f"{what}: {path} is a folder, expected a file. For all files below it set path: {path}/**/*, and "
            "format: text where they are no tables but source code, prose or notebooks"
        )
    if not stat.S_ISREG(mode):
        raise UserError(f"{what}: {path} is not a regular file")


def hash_file(path: Path, algorithm: str, what: str) -> str:
    """Return the hex digest of a file's bytes.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise UserError(f"{what}: {path} is not readable ({error.strerror or error})") from None


def tracked_by_dvc(path: Path, what: str) -> Path | None:
    """Return the .dvc file that tracks a path or a folder above it, if there is one.

    Raises:
        UserError: it holds a URL with a password, a token or a signature.
    """
    for tracked in (path, *path.parents):
        dvc = tracked.with_name(f"{tracked.name}.dvc")
        if tracked == SOURCES_ROOT:
            break
        if dvc.is_file():
            found = CREDENTIAL.search(dvc.read_text("utf-8", errors="replace"))
            if found:
                raise UserError(
                    f"{what}: {dvc} holds a URL with a password, token or signature, and goes into git. Delete it, "
                    "keep the login with `dvc remote modify --local`, and import remote://NAME/PATH (docs/data.md)."
                )
            return dvc
    return None


def require_dvc_pin(path: Path, dvc: Path | None, sha256: str, what: str) -> None:
    """Compare a file, or the folder that DVC tracks as one, with the md5 in its .dvc file.

    Args:
        sha256: suggested as a pin if no .dvc file tracks the path.

    Raises:
        UserError: there is no .dvc file, it has no md5 or that of DVC 2, or the md5 differs.
    """
    if dvc is None:
        raise UserError(
            f"{what}: {path} is not pinned. Set sha256: {sha256}, or track it with DVC (`dvc add {path}`), whose "
            ".dvc file then pins it."
        )
    tracked = dvc.with_suffix("")
    try:
        (out,) = [
            out for out in yaml.safe_load(dvc.read_text("utf-8"))["outs"] if out["path"] == tracked.name
        ]
        expected = out["md5"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        raise UserError(f"{what}: {dvc} has no md5 of {tracked.name}; set sha256 instead") from None
    if out.get("hash", "") != "md5":  # DVC 2 hashed text with its line endings converted
        raise UserError(f"{what}: {dvc} was written by DVC 2. Run `dvc add {tracked}` again, or set sha256.")
    md5 = f"{md5_of_folder(tracked, what)}.dir" if tracked.is_dir() else hash_file(tracked, "md5", what)
    if md5 != expected:
        raise UserError(
            f"{what}: {tracked} does not match {dvc}.\n  expected md5 {expected}\n  found    md5 {md5}\n"
            f"`dvc checkout {dvc}` restores the pinned version, `dvc commit {dvc}` pins this one."
        )


def md5_of_folder(folder: Path, what: str) -> str:
    """Return the md5 that DVC gives a folder: over the JSON list of its files' md5 and relative paths."""
    files = sorted((path.relative_to(folder).parts, path) for path in folder.rglob("*") if not path.is_dir())
    entries: list[dict[str, Any]] = []
    for parts, path in files:
        require_file(path, what)
        entries.append({"md5": hash_file(path, "md5", what), "relpath": "/".join(parts)})
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest()
