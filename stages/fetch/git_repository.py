"""Resolve a git repository at a pinned commit to its files, without vendored and generated ones.

Nothing is checked out, and no hook or filter of the repository runs: objects are fetched into a bare
repository in .cache/fetch/git, and the chosen files are written beside it by their git ids, against which they
are checked each time. A commit that is there needs no network.
"""

import hashlib
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from stages.common.core.errors import UserError
from stages.common.sources.pins import match_names
from stages.fetch.hub_repository import digests
from stages.fetch.repository_licence import LICENCE_FILE, found_licences, licence_of
from stages.fetch.settings import Source
from stages.fetch.source_file import PinnedFiles, SourceFile

GIT_CACHE = Path(".cache/fetch/git")
FULL = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
VENDORED = re.compile(
    r"(^|/)(_?vendor(ed|s)?|third[_-]?party|externals?|extern|node_modules|site-packages|bower_components)/"
)
GENERATED_NAME = re.compile(r"(_pb2(_grpc)?\.pyi?|\.min\.(js|css)|(^|/)(_version|versioneer)\.py)$")
# Said by generators in a file's first lines (protoc, ANTLR, sqlc, OpenAPI, setuptools_scm, ...)
GENERATED_TEXT = re.compile(
    rb"@generated|do not edit|\b(auto-?\s?|machine[ -])generated\b"
    rb"|\bgenerated (automatically |from .{1,60} )?by\b",
    re.IGNORECASE,
)
HEAD_BYTES = 600
LFS = b"version https://git-lfs.github.com/spec/"
# A caller's own repository (a git hook) must not become ours
GIT_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR")


class Blob(NamedTuple):
    """A file of a commit: its id, and what .gitattributes call it, generated or vendored."""

    id: str
    mark: str


def resolve_repository(source: Source) -> PinnedFiles:
    """Return the files of a repository at a commit, and the licence that it names.

    Raises:
        UserError: git cannot fetch the commit, a pattern matches nothing, no file is left, or the licence is
            not the repository's.
    """
    what = f"source '{source.name}': the repository {source.url}"
    repository = GIT_CACHE / f"{hashlib.sha256(source.url.encode()).hexdigest()[:16]}.git"
    fetch_commit(source.url, source.revision, repository, what)
    blobs, left_out = list_blobs(repository, source.revision)
    names = [name for name in blobs if LICENCE_FILE.fullmatch(name)]
    licence_files = write_blobs(repository, {name: blobs[name].id for name in names})
    found = found_licences({name: file.read() for name, file in licence_files.items()})
    licence = licence_of(source.licence, found, what)
    patterns = source.members or ["*.py"]
    chosen = match_names(list(blobs), patterns, f"{what} at {source.revision}")
    kept = {
        name: blobs[name].id for name in chosen if not left_out_by_name(name, blobs[name], patterns, left_out)
    }
    files, sums = [], {}
    for name, file in write_blobs(repository, kept).items():
        if not left_out_by_text(file, left_out):
            files.append(file)
            sums[name] = digests(file)["sha256"]
    said = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
    if said:
        print(f"fetch: {source.name}: files left out: {said}", flush=True)
    if not files:
        raise UserError(
            f"{what} at {source.revision}: none of its {len(chosen)} files is left: {said}. Set members."
        )
    resolved = {
        "commit": source.revision,
        "licences": found,
        "files_left_out": dict(sorted(left_out.items())),
    }
    return PinnedFiles(files, sums, resolved, licence)


def run_git(folder: Path, *arguments: str, given: bytes | None = None, index: str = "") -> bytes:
    """Run git in a folder and return its output.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    environment = {key: value for key, value in os.environ.items() if key not in GIT_PLACES}
    environment |= {"GIT_TERMINAL_PROMPT": "0", **({"GIT_INDEX_FILE": index} if index else {})}
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, input=given, capture_output=True, check=True, env=environment).stdout


def fetch_commit(url: str, commit: str, repository: Path, what: str) -> None:
    """Bring a commit into a bare repository: it alone, or all branches where the server refuses that.

    Raises:
        UserError: there is no such repository or commit, or no access; quotes git.
    """
    place = str(Path(url).resolve()) if Path(url).is_dir() else url
    try:
        if not repository.is_dir():
            repository.mkdir(parents=True)
            run_git(repository, "init", "--quiet", "--bare")
        if has_commit(repository, commit):
            return
        print(f"fetching {commit[:12]} of {url}", flush=True)
        try:
            run_git(repository, "fetch", "--quiet", "--no-tags", "--depth=1", place, commit)
        except subprocess.CalledProcessError:
            run_git(repository, "fetch", "--quiet", "--no-tags", place, *FULL)
    except FileNotFoundError:
        raise UserError(f"{what}: git is not installed") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").split("\n")
        said = [line for line in lines if re.match("(fatal|error|remote|ssh): ", line)] or lines
        raise UserError(
            f"{what}: git cannot fetch it. Is there a network, does it exist, may you read it? It says:\n  "
            + "\n  ".join(line[:300] for line in said[:3])
        ) from None
    if not has_commit(repository, commit):
        raise UserError(
            f"{what} has no commit {commit} on a branch or tag. `git log` in it shows its commits."
        )


def has_commit(repository: Path, commit: str) -> bool:
    try:
        run_git(repository, "rev-list", "--objects", "--quiet", "--no-walk", commit)
    except subprocess.CalledProcessError:
        return False
    return True


def list_blobs(repository: Path, commit: str) -> tuple[dict[str, Blob], Counter[str]]:
    """Return the files of a commit by path, sorted, and the numbers of its symbolic links and submodules."""
    listing = run_git(repository, "ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0")
    ids: dict[bytes, str] = {}
    left_out: Counter[str] = Counter()
    for line in filter(None, listing):
        head, _, path = line.partition(b"\t")
        mode, _, blob = head.decode().split(" ")
        if mode.startswith("100"):
            ids[path] = blob
        else:
            left_out["submodules" if mode == "160000" else "symbolic links"] += 1
    with tempfile.TemporaryDirectory() as folder:  # attributes are read from an index
        index = str(Path(folder, "index"))
        run_git(repository, "read-tree", commit, index=index)
        asked = ("check-attr", "--cached", "--stdin", "-z", "linguist-generated", "linguist-vendored")
        answers = run_git(repository, *asked, given=b"\0".join([*ids, b""]), index=index).split(b"\0")
    marks: dict[bytes, str] = {}
    for path, attribute, value in zip(answers[::3], answers[1::3], answers[2::3], strict=False):
        if value in (b"set", b"true"):
            marks.setdefault(path, attribute.decode().removeprefix("linguist-"))
    named = {path.decode("utf-8", "replace"): Blob(blob, marks.get(path, "")) for path, blob in ids.items()}
    return dict(sorted(named.items())), left_out


def left_out_by_name(name: str, blob: Blob, patterns: Sequence[str], left_out: Counter[str]) -> bool:
    """Return whether a file's path or mark says that it is vendored or generated, and count it.

    A folder that a pattern names is meant.
    """
    vendored = VENDORED.search(name)
    reason = blob.mark
    if vendored and not any(vendored[0].strip("/") in PurePosixPath(one).parts for one in patterns):
        reason = "vendored"
    elif GENERATED_NAME.search(name):
        reason = "generated"
    left_out.update([reason] if reason else [])
    return bool(reason)


def left_out_by_text(file: SourceFile, left_out: Counter[str]) -> bool:
    """Return whether a file's first lines say that it is generated, or stored elsewhere, and count it."""
    with file.open() as stream:
        head = stream.read(HEAD_BYTES)
    is_pointer = head.startswith(LFS)
    reason = "pointers of Git LFS" if is_pointer else "generated" if GENERATED_TEXT.search(head) else ""
    left_out.update([reason] if reason else [])
    return bool(reason)


def write_blobs(repository: Path, ids: Mapping[str, str]) -> dict[str, SourceFile]:
    """Write files of a repository into the cache, unless they are there unchanged; return them by path."""
    files = {name: SourceFile(name, GIT_CACHE / "blobs" / blob) for name, blob in ids.items()}
    wanted = {
        blob
        for name, blob in ids.items()
        if not files[name].path.is_file() or digests(files[name])["git"] != blob
    }
    if wanted:
        (GIT_CACHE / "blobs").mkdir(exist_ok=True)
        asked = sorted(wanted)
        answer = run_git(repository, "cat-file", "--batch", given="\n".join([*asked, ""]).encode())
        at = 0
        for blob in asked:
            end = answer.index(b"\n", at)
            size = int(answer[at:end].split(b" ")[2])
            target = GIT_CACHE / "blobs" / blob
            scratch = target.with_suffix(f".{os.getpid()}")
            scratch.write_bytes(answer[end + 1 : end + 1 + size])
            scratch.replace(target)
            at = end + 1 + size + 1
    return files
