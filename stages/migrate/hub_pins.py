"""Pins of models and data sets: those that conf/ has, and those that the hub answers."""

import re
from pathlib import Path
from typing import Any

import yaml

from stages.common.sources.hub import hub_errors, retry_hub
from stages.common.sources.pins import COMMIT_PATTERN
from stages.fetch.licences import KNOWN, hub_licence
from stages.migrate.migration import MISSING, Migration


def known_pins(conf: Path = Path("conf")) -> dict[str, dict[str, str]]:
    """Return by repository what conf/ says of it: option (of conf/base), revision, licence."""
    found = {}
    for file in sorted((conf / "base").glob("*.yaml")):
        base = yaml.safe_load(file.read_text("utf-8"))
        if base["kind"] == "hub":
            found[base["name"]] = {
                "option": file.stem,
                "revision": base["revision"],
                "licence": base["licence"],
            }
    for file in sorted((conf / "fetch").glob("*.yaml")):
        for source in yaml.safe_load(file.read_text("utf-8")).get("sources", []):
            if source["kind"] == "hub":
                found[source["repo"]] = {"revision": source["revision"], "licence": source["licence"]}
    return found


def pin(
    m: Migration, where: str, repository: str, revision: str | None, kind: str, ask: bool
) -> tuple[str, str]:
    """Return commit and licence of a repository of the hub; `MISSING` for what is not known, with a line in `todo`.

    Args:
        where: our key of the two, for messages.
        revision: what the other file names: a commit is kept, a branch is looked up.
        kind: model or dataset.
        ask: whether to ask the hub.

    Raises:
        UserError: the hub has no such repository, or does not answer.
    """
    known = known_pins().get(repository, {})
    commit = str(revision) if re.fullmatch(COMMIT_PATTERN, str(revision or "")) else ""
    commit = commit or ("" if revision else known.get("revision", ""))
    licence = known.get("licence", "") or (KNOWN[repository].licence if repository in KNOWN else "")
    if ask and not (commit and licence):
        answer = ask_hub(repository, commit or str(revision or "main"), kind)
        commit, licence = commit or answer[0], licence or answer[1]
    page = f"{'datasets/' if kind == 'dataset' else ''}{repository}"
    if not commit:
        m.todo.append(
            f"{where}.revision: the 40-digit commit of {page} on the hub (or migrate again with --pin)"
        )
    if not licence:
        m.todo.append(f"{where}.licence: the SPDX id that the card of {page} names")
    return commit or MISSING, licence or MISSING


def ask_hub(repository: str, revision: str, kind: str) -> tuple[str, str]:
    """Return the commit that a branch has now, and the licence of the card, "" where it names none."""
    from huggingface_hub import HfApi

    with hub_errors(f"the {kind} {repository}", revision):
        info: Any = retry_hub(lambda: HfApi().repo_info(repository, repo_type=kind, revision=revision))
    card = info.card_data.to_dict() if info.card_data else {}
    named = card.get("license")
    return str(info.sha), hub_licence(str(named), card) if isinstance(named, str) else ""
