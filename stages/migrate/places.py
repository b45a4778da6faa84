"""Where another program finds its model and rows, as base and as a source of fetch."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from stages.migrate.hub_pins import known_pins, pin
from stages.migrate.migration import CARRIED, MISSING, Migration

TABLES = r"\.(jsonl?|csv|tsv|parquet|arrow|txt)(\.(gz|bz2|xz|zst))?$"


def carry_base(m: Migration, key: str, revision_key: str, ask: bool) -> None:
    """Carry the base model: a repository of the hub or a folder."""
    name = str(m.get(key))
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        folder = f"models/{PurePosixPath(name).name}"
        m.settings |= {"base": "local", "base.name": PurePosixPath(name).name, "base.licence": MISSING}
        m.carry(key, "base.path", folder, "kind: local")
        m.todo.append(f"cp -r {name} {folder}    # the folder that base reads, inside the repository")
        m.todo.append("base.licence: the SPDX id of the model's licence")
        return
    commit, licence = pin(m, "base", name, m.get(revision_key), "model", ask)
    known = known_pins().get(name, {})
    if "option" in known and known["revision"] == commit:
        m.carry(key, "base", known["option"], f"conf/base/{known['option']}.yaml")
    else:
        m.settings |= {"base": "hub", "base.revision": commit, "base.licence": licence}
        m.carry(key, "base.name", name, "kind: hub")
    if m.get(revision_key):
        if commit == m.get(revision_key):
            m.carry(revision_key, "base.revision", commit)
        else:
            m.lose(revision_key, "a branch or tag can move: base.revision is a commit")


def carry_source(m: Migration, key: str, path: str, revision: str | None, ask: bool) -> dict[str, Any]:
    """Append a source with its place and pin, and return it.

    Args:
        path: a repository of the hub, a file, a folder or an address.
        revision: of the hub, as the other file names it.
    """
    stem = re.sub(TABLES, "", PurePosixPath(path).name) or "rows"
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._").lower() or "rows"
    taken = {source["name"] for source in m.sources}
    name = next(one for one in (name, *(f"{name}-{n}" for n in range(2, 99))) if one not in taken)
    source: dict[str, Any] = {"name": name}
    place = f"fetch.sources.{len(m.sources)}"
    m.sources.append(source)
    is_address = "://" in path
    if is_address or re.search(TABLES, path) or path.startswith((".", "/", "~")) or Path(path).exists():
        file = f"data/sources/{PurePosixPath(path.rstrip('/')).name}"
        is_folder = not re.search(TABLES, path)
        source |= {"kind": "file", "path": f"{file}/**" if is_folder else file, "licence": MISSING}
        bring = f"dvc import-url {path} {file}" if is_address else f"cp -r {path} {file} && dvc add {file}"
        m.todo += [
            f"{bring}    # the rows of {key}",
            f"{place}.licence: the SPDX id of the licence of these rows",
        ]
        m.tell(f"{key}.path", CARRIED, f"fetch.sources: {name}, kind: file, {file}")
    else:
        commit, licence = pin(m, place, path, revision, "dataset", ask)
        source |= {"kind": "hub", "repo": path, "revision": commit, "licence": licence}
        m.tell(f"{key}.path", CARRIED, f"fetch.sources: {name}, kind: hub, {path}")
    return source


def carry_styles(m: Migration, styles: dict[str, str]) -> str:
    """Choose the one prompt style that codetune has from those of the data sets, by their keys; return it."""
    style = next(iter(styles.values()), "completion")
    m.settings["prompt"] = style
    for key, other in styles.items():
        if other != style:
            m.lose(
                key, f"all rows have one style here, that of the first data set: prompt: {style}, not {other}"
            )
    return style
