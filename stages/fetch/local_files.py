"""Files below data/sources, one or all that a glob matches: pinned by sha256, or by the .dvc file that tracks them."""

import errno
import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import yaml

from stages.common.errors import UserError
from stages.fetch.origin import File, Origin
from stages.fetch.settings import Source

ROOT = Path("data/sources")


def bring(source: Source) -> Origin:
    """The file or files at the source's path, if they are the pinned ones.

    Raises:
        UserError: nothing there, no file, not readable, or not what is pinned.
    """
    what = f"source '{source.name}'"
    paths = found(source.path, what)
    for path in paths:
        require_file(path, what)
    sums = {path.as_posix(): digest(path, "sha256", what) for path in paths}
    listing = "".join(f"{sha256}  {name}\n" for name, sha256 in sums.items())
    one = not is_glob(source.path)
    came = sums[source.path] if one else hashlib.sha256(listing.encode()).hexdigest()
    origin = {"sha256": came}
    if source.sha256:
        require_pinned(source, came, f"{what}: {source.path}")
    else:
        origin["dvc"] = ", ".join(sorted({pinned_by_dvc(path, came, what) for path in paths}))
    return Origin([File(path.as_posix(), path) for path in paths], sums, origin)


def is_glob(path: str) -> bool:
    return any(character in path for character in "*?[")


def found(path: str, what: str) -> list[Path]:
    """The path, or what it matches, sorted: no folders, hidden files or .dvc files.

    Raises:
        UserError: a glob that matches nothing, or a folder.
    """
    if not is_glob(path):
        return [Path(path)]
    matched = sorted(ROOT.glob(path.removeprefix(f"{ROOT.as_posix()}/")))
    files = [
        p
        for p in matched
        if p.suffix != ".dvc"
        and not p.is_dir()
        and not any(part.startswith(".") for part in p.relative_to(ROOT).parts)
    ]
    if not files:
        raise UserError(f"{what}: {path}: no file matches. Put one there, or change its path.")
    return files


def require_file(path: Path, what: str) -> None:
    """Check that a path leads to a file.

    Raises:
        UserError: nothing there, a loop of links, a folder, or something else that is no file.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise UserError(
                f"{what}: {path}: a link to {path.readlink()}, which is not there. `dvc pull`?"
            ) from None
        tracked = path.with_name(f"{path.name}.dvc").exists()
        cure = "`dvc pull` brings it" if tracked else "Put it there, or change its path"
        raise UserError(f"{what}: {path}: no such file. {cure}.") from None
    except OSError as error:
        loop = error.errno == errno.ELOOP
        raise UserError(
            f"{what}: {path}: {'a loop of symbolic links' if loop else f'not readable ({error.strerror})'}"
        ) from None
    if stat.S_ISDIR(mode):
        raise UserError(f"{what}: {path}: a folder, where a file is due. For its files: path: {path}/*")
    if not stat.S_ISREG(mode):
        raise UserError(f"{what}: {path}: no ordinary file")


def digest(path: Path, algorithm: str, what: str) -> str:
    """Hex digest of a file's bytes.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise UserError(f"{what}: {path}: not readable ({error.strerror or error})") from None


def require_pinned(source: Source, came: str, what: str) -> None:
    """Compare the sha256 of the file, or of a glob's listing, with its pin.

    Raises:
        UserError: names what was expected and what came.
    """
    if came == source.sha256:
        return
    of = ""
    if is_glob(source.path):
        of = f"\nThe sum of a glob is that of its listing: LC_ALL=C sha256sum {source.path} | sha256sum"
    raise UserError(
        f"{what} is not the pinned one.\n  expected sha256 {source.sha256}\n  came     sha256 {came}{of}\n"
        "Pin the new sum only if you know why it changed."
    )


def pinned_by_dvc(path: Path, came: str, what: str) -> str:
    """Name of the .dvc file that tracks a path, alone or in a folder, if its md5 is that of what is there.

    Raises:
        UserError: no .dvc file tracks it, or it pins something else.
    """
    for tracked in (path, *path.parents):
        dvc = tracked.with_name(f"{tracked.name}.dvc")
        if tracked == ROOT:
            break
        if dvc.is_file():
            require_md5(tracked, dvc, what)
            return dvc.as_posix()
    raise UserError(
        f"{what}: {path} is not pinned: set sha256: {came}, or let DVC track it (`dvc add {path}`), so that the .dvc file "
        "beside it pins it"
    )


def require_md5(tracked: Path, dvc: Path, what: str) -> None:
    """Compare a file, or a folder, with the md5 that its .dvc file gives.

    Raises:
        UserError: the .dvc file gives none, or another.
    """
    try:
        outs = yaml.safe_load(dvc.read_text("utf-8"))["outs"]
        (out,) = [out for out in outs if out["path"] == tracked.name]
        expected = out["md5"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        raise UserError(f"{what}: {dvc}: gives no md5 of {tracked.name}; set sha256 instead") from None
    if out.get("hash", "") != "md5":  # DVC 2 hashed text with its line ends changed
        raise UserError(f"{what}: {dvc} was written by DVC 2: `dvc add {tracked}` again, or set sha256")
    came = f"{md5_of_folder(tracked, what)}.dir" if tracked.is_dir() else digest(tracked, "md5", what)
    if came != expected:
        raise UserError(
            f"{what}: {tracked} is not what {dvc} pins.\n  expected md5 {expected}\n  came     md5 {came}\n"
            f"`dvc checkout {dvc}` brings back the pinned one, `dvc commit {dvc}` pins this one."
        )


def md5_of_folder(folder: Path, what: str) -> str:
    """The md5 that DVC gives a folder: of the JSON list of its files' md5 and relative paths."""
    files = sorted((path.relative_to(folder).parts, path) for path in folder.rglob("*") if not path.is_dir())
    entries: list[dict[str, Any]] = []
    for parts, path in files:
        require_file(path, what)
        entries.append({"md5": digest(path, "md5", what), "relpath": "/".join(parts)})
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest()
