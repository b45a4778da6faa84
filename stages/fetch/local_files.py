"""Resolve a path or glob below data/sources to files pinned by sha256, or by a .dvc file."""

import errno
import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import yaml

from stages.common.errors import UserError
from stages.fetch.settings import Source
from stages.fetch.source_file import PinnedFiles, SourceFile

SOURCES_ROOT = Path("data/sources")


def resolve_files(source: Source) -> PinnedFiles:
    """Return the file or files at the source's path, checked against their pin.

    Raises:
        UserError: there is no file, it is unreadable, or it does not match its pin.
    """
    what = f"source '{source.name}'"
    paths = find_files(source.path, what)
    for path in paths:
        require_file(path, what)
    sums = {path.as_posix(): hash_file(path, "sha256", what) for path in paths}
    listing = "".join(f"{sha256}  {name}\n" for name, sha256 in sums.items())
    glob = is_glob(source.path)
    sha256 = hashlib.sha256(listing.encode()).hexdigest() if glob else sums[source.path]
    resolved = {"sha256": sha256}
    if source.sha256:
        require_pinned(source, sha256, f"{what}: {source.path}")
    else:
        resolved["dvc"] = ", ".join(sorted({pinned_by_dvc(path, sha256, what) for path in paths}))
    return PinnedFiles([SourceFile(path.as_posix(), path) for path in paths], sums, resolved)


def is_glob(path: str) -> bool:
    return any(character in path for character in "*?[")


def find_files(path: str, what: str) -> list[Path]:
    """Return the path, or a glob's matches, sorted, without folders, hidden files and .dvc files.

    Raises:
        UserError: a glob matches no file.
    """
    if not is_glob(path):
        return [Path(path)]
    matched = sorted(SOURCES_ROOT.glob(path.removeprefix(f"{SOURCES_ROOT.as_posix()}/")))
    files = [
        p
        for p in matched
        if p.suffix != ".dvc"
        and not p.is_dir()
        and not any(part.startswith(".") for part in p.relative_to(SOURCES_ROOT).parts)
    ]
    if not files:
        raise UserError(f"{what}: no file matches {path}. Put one there, or change the source's path.")
    return files


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
        tracked = path.with_name(f"{path.name}.dvc").exists()
        remedy = "`dvc pull` fetches it" if tracked else "Put it there, or change the source's path"
        raise UserError(f"{what}: {path}: no such file. {remedy}.") from None
    except OSError as error:
        loop = error.errno == errno.ELOOP
        raise UserError(
            f"{what}: {path} is {'a loop of symbolic links' if loop else f'not readable ({error.strerror})'}"
        ) from None
    if stat.S_ISDIR(mode):
        raise UserError(
            f"{what}: {path} is a folder, expected a file. For the files in it set path: {path}/*"
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


def require_pinned(source: Source, sha256: str, what: str) -> None:
    """Compare the sha256 of the file, or of a glob's listing, with its pin.

    Raises:
        UserError: names the expected and the actual sha256.
    """
    if sha256 == source.sha256:
        return
    note = ""
    if is_glob(source.path):
        note = f"\nA glob's sha256 is that of its listing: LC_ALL=C sha256sum {source.path} | sha256sum"
    raise UserError(
        f"{what} does not match its pin.\n  expected sha256 {source.sha256}\n"
        f"  found    sha256 {sha256}{note}\nPin the new sha256 only if you know why it changed."
    )


def pinned_by_dvc(path: Path, sha256: str, what: str) -> str:
    """Return the .dvc file that tracks a path or a folder above it, if its md5 matches.

    Args:
        sha256: suggested as a pin if no .dvc file tracks the path.

    Raises:
        UserError: no .dvc file tracks the path, or its md5 differs.
    """
    for tracked in (path, *path.parents):
        dvc = tracked.with_name(f"{tracked.name}.dvc")
        if tracked == SOURCES_ROOT:
            break
        if dvc.is_file():
            require_md5(tracked, dvc, what)
            return dvc.as_posix()
    raise UserError(
        f"{what}: {path} is not pinned. Set sha256: {sha256}, or track it with DVC (`dvc add {path}`), whose "
        ".dvc file then pins it."
    )


def require_md5(tracked: Path, dvc: Path, what: str) -> None:
    """Compare a file or folder with the md5 in its .dvc file.

    Raises:
        UserError: the .dvc file has none, or another.
    """
    try:
        outs = yaml.safe_load(dvc.read_text("utf-8"))["outs"]
        (out,) = [out for out in outs if out["path"] == tracked.name]
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
