"""Resolve a hub data set at a pinned commit to the files of a configuration and split, each verified.

Which files they are says `datasets`; a loading script is never run. What was resolved is cached in
.cache/fetch/hub with the files, so that fetching it again needs no network.
"""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from stages.common.core.errors import UserError, one_line
from stages.common.core.files import read_json, write_json
from stages.common.sources.hub import hub_errors, retry_hub
from stages.common.sources.pins import match_names
from stages.fetch.licences import require_card_licence
from stages.fetch.settings import Source
from stages.fetch.source_file import PinnedFiles, SourceFile

HUB_CACHE = Path(".cache/fetch/hub")
READERS = ("json", "csv", "parquet", "arrow")  # builders of `datasets` whose files are read here
# What a builder's configuration says about names and places; anything else changes how its files are read.
PLACES = ("name", "version", "description", "data_dir", "data_files", "features")


def resolve_hub(source: Source) -> PinnedFiles:
    """Return the files of a data set at a commit.

    Raises:
        UserError: no network or access; no such data set, commit, configuration, split or file; a licence
            that differs from the card's; only a loading script; or bytes that are not the commit's.
    """
    silence_hub()
    what = f"source '{source.name}': the data set {source.repo}"
    resolved = resolved_before(source) or {"files": commit_files(source, what), "names": {}}
    listing = resolved["files"]
    question = "|".join((source.configuration, source.split, *source.data_files))
    try:
        licence = require_card_licence(source.repo, source.licence, read_card(source, listing, what))
        names = resolved["names"].get(question) or select_files(source, sorted(listing), what)
    except ValueError as error:
        raise UserError(f"{what} at {source.revision}: {error}") from None
    if licence is None:
        print(f"fetch: {source.name}: the card of {source.repo} names no licence; assuming {source.licence}")
    files, sums = [], {}
    for name in names:
        file, sums[name] = checked(source, name, listing[name], what)
        files.append(file)
    resolved["names"][question] = names
    write_json(kept_resolution(source), resolved)
    return PinnedFiles(
        files, sums, {"commit": source.revision, **({"card_licence": licence} if licence else {})}
    )


def kept_resolution(source: Source) -> Path:
    """Return the path of what was resolved at the commit, written once its files are downloaded."""
    return HUB_CACHE / "resolved" / f"{source.repo.replace('/', '--')}@{source.revision}.json"


def resolved_before(source: Source) -> dict[str, Any]:
    kept = kept_resolution(source)
    return read_json(kept) if kept.exists() else {}


def commit_files(source: Source, what: str) -> dict[str, dict[str, Any]]:
    """Return the commit's files by name, each with `bytes`, and `sha256` (LFS) or `git` (its blob id).

    Raises:
        UserError: the hub cannot list them.
    """
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


def read_card(source: Source, listing: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return the head of README.md, {} without one.

    Raises:
        ValueError: it is not YAML, or no mapping.
    """
    from huggingface_hub import DatasetCard

    if "README.md" not in listing:
        return {}
    try:
        text = fetched(source, "README.md", what).read_text("utf-8", errors="replace")
        return DatasetCard(text.removeprefix("\ufeff")).data.to_dict()
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ValueError(f"the head of its README.md cannot be read ({one_line(error, 200)})") from None


def select_files(source: Source, names: list[str], what: str) -> list[str]:
    """Return the names of the files to read, as `datasets` resolves a configuration and a split.

    Raises:
        UserError: a pattern of `data_files` matches nothing.
        ValueError: no such configuration or split, only a loading script, or no readable file.
    """
    if source.data_files:
        return match_names(names, source.data_files, what)
    script = f"{source.repo.rpartition('/')[2]}.py"
    if script in names:
        raise ValueError(
            f"it has a loading script ({script}), which is never run. The hub converts most such data sets "
            "to Parquet in refs/convert/parquet: set revision to the commit of `git ls-remote "
            f"https://huggingface.co/datasets/{source.repo} refs/convert/parquet`, or list plain files in "
            "data_files"
        )
    builder = dataset_builder(source, what)
    splits = builder.config.data_files or {}
    split = source.split or "train"
    if split not in splits:
        raise ValueError(f"it has no split {split}. Its splits: {', '.join(map(str, splits)) or 'none'}")
    kind = type(builder).__module__.rpartition(".")[2]
    if kind not in READERS:
        raise ValueError(f"its files are read by {kind}, which is not supported, only {', '.join(READERS)}. List readable files in data_files")  # fmt: skip
    untouched = type(builder.config)()
    changed = [f.name for f in fields(untouched) if f.name not in PLACES and getattr(untouched, f.name) != getattr(builder.config, f.name)]  # fmt: skip
    if changed:
        raise ValueError(f"its card sets {', '.join(changed)}, which is not supported: list its files in data_files, and map its columns in columns")  # fmt: skip
    place = f"hf://datasets/{source.repo}@{source.revision}/"
    outside = [str(file) for file in splits[split] if not str(file).startswith(place)]
    if outside:
        raise ValueError(f"its card names files outside the repository ({outside[0]}): `dvc import-url` brings them to data/sources, for kind file")  # fmt: skip
    return sorted(str(file).removeprefix(place) for file in splits[split])


def dataset_builder(source: Source, what: str) -> Any:
    """Return what `datasets` makes of a repository at its commit; no file of it is read but its card.

    Raises:
        UserError: the hub cannot be reached, or refuses.
        ValueError: `datasets` finds no such configuration, or nothing that it can read; says why.
    """
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    with hub_errors(what, source.revision):
        try:
            return retry_hub(
                lambda: load_dataset_builder(
                    f"hf://datasets/{source.repo}",
                    source.configuration or None,
                    revision=source.revision,
                    cache_dir=str(HUB_CACHE / "datasets"),
                )
            )
        except HfHubHTTPError:
            raise
        except (DatasetsError, ValueError, FileNotFoundError) as error:
            raise ValueError(f"`datasets` cannot resolve it: {one_line(error, 400)}") from None


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
