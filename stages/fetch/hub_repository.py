"""Resolve a hub data set at a pinned commit to the files of a configuration and split, each verified.

A loading script is never run. A commit's listing is cached in .cache/fetch/hub with its files, so that
fetching it again needs no network.
"""

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.common.errors import UserError
from stages.common.files import read_json, write_json
from stages.common.sources.hub import hub_errors, retry_hub
from stages.common.sources.pins import match_names
from stages.fetch.hub_splits import card_of, data_files
from stages.fetch.licences import require_card_licence
from stages.fetch.settings import Source
from stages.fetch.source_file import PinnedFiles, SourceFile

HUB_CACHE = Path(".cache/fetch/hub")


def resolve_hub(source: Source) -> PinnedFiles:
    """Return the files of a data set at a commit.

    Raises:
        UserError: no network or access; no such data set, commit, configuration, split or file; a licence
            that differs from the card's; only a loading script; or bytes that are not the commit's.
    """
    silence_hub()
    what = f"source '{source.name}': the data set {source.repo}"
    listing = listing_of(source, what)
    try:
        card = card_of(readme(source, listing, what))
        licence = require_card_licence(source.repo, source.licence, card)
        names = select_files(source, sorted(listing), card, what)
    except ValueError as error:
        raise UserError(f"{what} at {source.revision}: {error}") from None
    if licence is None:
        print(f"fetch: {source.name}: the card of {source.repo} names no licence; assuming {source.licence}")
    files, sums = [], {}
    for name in names:
        file, sums[name] = checked(source, name, listing[name], what)
        files.append(file)
    write_json(kept_listing(source), listing)
    return PinnedFiles(
        files, sums, {"commit": source.revision, **({"card_licence": licence} if licence else {})}
    )


def listing_of(source: Source, what: str) -> dict[str, dict[str, Any]]:
    """Return the commit's files by name, each with `bytes`, and `sha256` (LFS) or `git` (its blob id).

    Raises:
        UserError: the hub cannot list them.
    """
    kept = kept_listing(source)
    if kept.exists():
        return read_json(kept)
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with hub_errors(what, source.revision):
        # dataset_info first: list_repo_tree retries for half a minute without a network.
        commit = retry_hub(lambda: HfApi().dataset_info(source.repo, revision=source.revision)).sha
        if commit != source.revision:
            raise UserError(
                f"{what} does not match its pin: expected commit {source.revision}, found {commit}. Pin the "
                "full commit."
            )
        tree = retry_hub(
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
    """Return the path of the commit's cached listing, written once its files are downloaded."""
    return HUB_CACHE / "listings" / f"{source.repo.replace('/', '--')}@{source.revision}.json"


def fetched(source: Source, name: str, what: str) -> Path:
    """Return the path of a file of the commit, from the cache or the hub; resumes an interrupted download.

    Raises:
        UserError: it cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download

    with hub_errors(what, source.revision):
        return Path(
            retry_hub(
                lambda: hf_hub_download(
                    source.repo, name, repo_type="dataset", revision=source.revision, cache_dir=HUB_CACHE
                )
            )
        )


def readme(source: Source, listing: Mapping[str, Any], what: str) -> str:
    if "README.md" not in listing:
        return ""
    return fetched(source, "README.md", what).read_text("utf-8", errors="replace")


def select_files(source: Source, names: list[str], card: Mapping[str, Any], what: str) -> list[str]:
    """Return the names of the files to read.

    Raises:
        UserError: a pattern of `data_files` matches nothing.
        ValueError: no such configuration or split, only a loading script, or no readable file.
    """
    if source.data_files:
        return match_names(names, source.data_files, what)
    script = f"{source.repo.rpartition('/')[2]}.py"
    if script in names and not card.get("configs"):
        raise ValueError(
            f"it needs a loading script ({script}), which is never run. The hub converts most such data sets "
            "to Parquet in refs/convert/parquet: set revision to the commit of `git ls-remote "
            f"https://huggingface.co/datasets/{source.repo} refs/convert/parquet`, or list plain files in "
            "data_files"
        )
    return data_files(names, card, source.configuration, source.split)


def checked(source: Source, name: str, pin: Mapping[str, Any], what: str) -> tuple[SourceFile, str]:
    """Return a file of the commit and its sha256; a cached file that was changed is downloaded again.

    Raises:
        UserError: the bytes are not those that the hub lists.
    """
    for retried in (False, True):
        file = SourceFile(name, fetched(source, name, what))
        actual = digests(file)
        wrong = [kind for kind in actual if kind in pin and pin[kind] != actual[kind]]
        if not wrong:
            return file, actual["sha256"]
        file.path.resolve().unlink()
        file.path.unlink(missing_ok=True)
        if retried:
            raise UserError(
                f"{what}: {name} is not the commit's file.\n  expected {wrong[0]} {pin[wrong[0]]}\n"
                f"  found    {wrong[0]} {actual[wrong[0]]}\nThe hub, or the mirror in HF_ENDPOINT, serves "
                "something else."
            )
    raise AssertionError("unreachable")


def digests(file: SourceFile) -> dict[str, str]:
    """Return a file's `sha256`, and as `git` its blob id: the sha1 over a header and the bytes."""
    sha256, git = hashlib.sha256(), hashlib.sha1(f"blob {file.size}\0".encode())
    with file.open() as stream:
        while block := stream.read(1 << 20):
            sha256.update(block)
            git.update(block)
    return {"sha256": sha256.hexdigest(), "git": git.hexdigest()}


def silence_hub() -> None:
    """Turn off the hub client's log, whose errors become our messages, and its progress bars in logs."""
    from huggingface_hub.utils import disable_progress_bars, logging

    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        disable_progress_bars()
