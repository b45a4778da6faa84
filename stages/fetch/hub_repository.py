"""A data set on the hub at a pinned commit: its files of a configuration and a split, each checked as it came.

A loading script is never run. The listing of a commit is kept in .cache/fetch/hub: a commit does not change, and what
was fetched once is read again without a network.
"""

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.common.errors import UserError
from stages.common.files import read_json, write_json
from stages.common.sources.hub import hub_errors, patiently
from stages.common.sources.pins import matching
from stages.fetch.hub_splits import card_of, data_files
from stages.fetch.licences import require_card_licence
from stages.fetch.origin import File, Origin
from stages.fetch.settings import Source

CACHE = Path(".cache/fetch/hub")


def bring(source: Source) -> Origin:
    """Files of a data set at a commit.

    Raises:
        UserError: no network, no such data set, commit, configuration, split or file, no access, a licence that is not
            the card's, only a loading script, or bytes that are not those of the commit.
    """
    quiet()
    what = f"source '{source.name}': the data set {source.repo}"
    listing = listing_of(source, what)
    try:
        card = card_of(readme(source, listing, what))
        licence = require_card_licence(source.repo, source.licence, card)
        names = wanted(source, sorted(listing), card, what)
    except ValueError as error:
        raise UserError(f"{what} at {source.revision}: {error}") from None
    if licence is None:
        print(f"fetch: {source.name}: the card of {source.repo} names no licence; taken as {source.licence}")
    files, sums = [], {}
    for name in names:
        file, sums[name] = checked(source, name, listing[name], what)
        files.append(file)
    write_json(kept_listing(source), listing)
    return Origin(files, sums, {"commit": source.revision, **({"card_licence": licence} if licence else {})})


def listing_of(source: Source, what: str) -> dict[str, dict[str, Any]]:
    """Files of the commit by name, each with `sha256` (LFS) or `git` (its blob's id), and `bytes`.

    Raises:
        UserError: it cannot be listed.
    """
    kept = kept_listing(source)
    if kept.exists():
        return read_json(kept)
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with hub_errors(what, source.revision):
        # dataset_info first: without a network list_repo_tree tries again for half a minute
        came = patiently(lambda: HfApi().dataset_info(source.repo, revision=source.revision)).sha
        if came != source.revision:
            raise UserError(f"{what} is not the pinned one: expected commit {source.revision}, came {came}")
        tree = patiently(
            lambda: list(
                HfApi().list_repo_tree(
                    source.repo, recursive=True, revision=source.revision, repo_type="dataset"
                )
            )
        )
    listing = {}
    for entry in tree:
        if isinstance(entry, RepoFile):
            pin = {"sha256": entry.lfs.sha256} if entry.lfs else {"git": entry.blob_id}
            listing[entry.path] = {"bytes": entry.size, **pin}
    return listing


def kept_listing(source: Source) -> Path:
    """Where the listing of the commit is kept once its files are here."""
    return CACHE / "listings" / f"{source.repo.replace('/', '--')}@{source.revision}.json"


def fetched(source: Source, name: str, what: str) -> Path:
    """Path of one file of the commit, from the cache or the hub; an interrupted download goes on where it broke.

    Raises:
        UserError: it cannot be had.
    """
    from huggingface_hub import hf_hub_download

    with hub_errors(what, source.revision):
        return Path(
            patiently(
                lambda: hf_hub_download(
                    source.repo, name, repo_type="dataset", revision=source.revision, cache_dir=CACHE
                )
            )
        )


def readme(source: Source, listing: Mapping[str, Any], what: str) -> str:
    if "README.md" not in listing:
        return ""
    return fetched(source, "README.md", what).read_text("utf-8", errors="replace")


def wanted(source: Source, names: list[str], card: Mapping[str, Any], what: str) -> list[str]:
    """Names of the files to take.

    Raises:
        UserError: a pattern of the source matches nothing.
        ValueError: no such configuration or split, only a loading script, or nothing that can be read.
    """
    if source.data_files:
        return matching(names, source.data_files, what)
    script = f"{source.repo.rpartition('/')[2]}.py"
    if script in names and not card.get("configs"):
        raise ValueError(
            f"it is made by a loading script ({script}), which is never run. The hub keeps most such data sets as Parquet in "
            "refs/convert/parquet: set revision to the commit of `git ls-remote "
            f"https://huggingface.co/datasets/{source.repo} refs/convert/parquet`, or name plain files in data_files"
        )
    return data_files(names, card, source.configuration, source.split)


def checked(source: Source, name: str, pin: Mapping[str, Any], what: str) -> tuple[File, str]:
    """A file of the commit and its sha256; a cached one that was changed is fetched again.

    Raises:
        UserError: what comes are not the bytes that the hub lists.
    """
    for again in (False, True):
        file = File(name, fetched(source, name, what))
        came = digests(file)
        wrong = [kind for kind in came if kind in pin and pin[kind] != came[kind]]
        if not wrong:
            return file, came["sha256"]
        file.path.resolve().unlink()
        file.path.unlink(missing_ok=True)
        if again:
            raise UserError(
                f"{what}: {name} is not the file of the commit.\n  expected {wrong[0]} {pin[wrong[0]]}\n"
                f"  came     {wrong[0]} {came[wrong[0]]}\nThe hub, or the mirror in HF_ENDPOINT, gives something else."
            )
    raise AssertionError("unreachable")


def digests(file: File) -> dict[str, str]:
    """`sha256` of a file, and `git`: the id of its blob, sha1 over a header and the bytes."""
    sha256, git = hashlib.sha256(), hashlib.sha1(f"blob {file.size}\0".encode())
    with file.open() as stream:
        while block := stream.read(1 << 20):
            sha256.update(block)
            git.update(block)
    return {"sha256": sha256.hexdigest(), "git": git.hexdigest()}


def quiet() -> None:
    """Errors become messages of our own; progress bars are for terminals."""
    from huggingface_hub.utils import disable_progress_bars, logging

    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        disable_progress_bars()
