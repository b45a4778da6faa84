"""Which files of a hub repository a configuration and a split are, as `datasets` 5 resolves them.

Pure functions over file names and the YAML head of README.md; tests compare them with
`datasets.load_dataset`. First the card's `configs:`, then the usual names
(https://huggingface.co/docs/datasets/repository_structure): sharded files data/<split>-00000-of-00001*,
folders named for a split, files named for a split, and last all files as `train`.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import yaml

from stages.common.errors import one_line

KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SHARDED = "data/*-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9]*.*"
SHARD = re.compile(r"data/(\w+(?:\.\w+)*)-\d{5}-of-\d{5}[^/]*\.[^/]*$")
APART = "[-._ 0-9]"  # what separates a keyword from the rest of a name
FOLDER_GLOBS = ("**/{0}/**", "**/{0}{1}*/**", "**/*{1}{0}/**", "**/*{1}{0}{1}*/**")
NAME_GLOBS = ("**/{0}{1}*", "**/*{1}{0}{1}*")
NOT_DATA = ("README.md", "config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json")
READERS = {  # suffix: what reads it; files of one data set are read by one reader
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "json"),
    ".parquet": "parquet",
    ".arrow": "arrow",
}
PREFERRED = (".parquet", ".arrow", ".jsonl", ".json", ".csv")  # of equally many
# Parameters of a configuration that change how its files are read; this stage applies none of them.
PARAMETERS = {
    *("sep", "delimiter", "header", "names", "column_names", "index_col", "usecols", "skiprows", "nrows", "quotechar"),
    *("escapechar", "encoding", "field", "columns", "filters", "skipfooter", "quoting", "decimal", "thousands"),
}  # fmt: skip


def card_of(readme: str) -> dict[str, Any]:
    """The YAML head of a README.md; {} where it has none.

    Raises:
        ValueError: it is not YAML, or no mapping.
    """
    lines = readme.removeprefix("\ufeff").splitlines()
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        return {}
    try:
        card = yaml.safe_load("\n".join(lines[1 : lines.index("---", 1)]))
    except yaml.YAMLError as error:
        raise ValueError(f"the head of its README.md is not YAML ({one_line(error)})") from None
    if not isinstance(card or {}, dict):
        raise ValueError("the head of its README.md is not a mapping")
    return card or {}


def data_files(names: Sequence[str], card: Mapping[str, Any], configuration: str, split: str) -> list[str]:
    """Names of the files of a split of a configuration, sorted; "": the default configuration, the split train.

    Raises:
        ValueError: no such configuration or split (names those there are), or nothing that can be read.
    """
    configurations = {entry["config_name"]: entry for entry in card_configurations(card)}
    if configurations:
        entry = configurations[pick_configuration(configurations, configuration)]
        folder, given = entry.get("data_dir") or "", entry.get("data_files")
        patterns = by_split(given) if given is not None else usual_patterns(names, folder)
        where = f"the configuration {entry['config_name']}"
        changed = sorted(PARAMETERS & entry.keys())
        if changed:
            raise ValueError(f"{where} sets {', '.join(changed)}, which is not supported: list its files in data_files, and map its columns in columns")  # fmt: skip
    else:
        if configuration not in ("", "default"):
            raise ValueError(
                f"it has no configuration {configuration}, only one without a name: leave configuration empty"
            )
        folder, where, patterns = "", "it", usual_patterns(names)
    split = split or "train"
    if split not in patterns:
        raise ValueError(f"{where} has no split {split}. Its splits: {', '.join(patterns) or 'none'}")
    found = {name: None for pattern in patterns[split] for name in glob_names(names, pattern, folder)}
    taken = of_one_reader(list(found))
    if not taken:
        shown = f": {', '.join(list(found)[:3])}" if found else ""
        raise ValueError(f"{where} has no readable file in the split {split}{shown}. Readable: {', '.join(READERS)}")  # fmt: skip
    return sorted(taken)


def card_configurations(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of the card's `configs:`.

    Raises:
        ValueError: it is not a list of mappings with a config_name.
    """
    entries = card.get("configs") or []
    if not isinstance(entries, list) or not all(isinstance(e, dict) and "config_name" in e for e in entries):
        raise ValueError("`configs:` of its README.md is not a list of mappings with a config_name")
    return entries


def pick_configuration(configurations: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """The configuration's name, the default one's for "".

    Raises:
        ValueError: there is none of that name, or no default one.
    """
    if name in configurations:
        return name
    choice = f"set configuration to one of {', '.join(configurations)}"
    if name:
        raise ValueError(f"it has no configuration {name}: {choice}")
    defaults = [c for c, e in configurations.items() if c == "default" or e.get("default")]
    if len(configurations) == 1:
        defaults = list(configurations)
    if len(defaults) != 1:
        raise ValueError(f"it has {len(configurations)} configurations and no default: {choice}")
    return defaults[0]


def by_split(given: Any) -> dict[str, list[str]]:
    """`data_files` of a configuration as patterns by split: text, a list of texts, or a list of split and path.

    Raises:
        ValueError: it is nothing of that, or names files outside the repository.
    """
    entries = given if isinstance(given, list) else [given]
    patterns: dict[str, list[str]] = {}
    for entry in entries:
        split, path = (entry.get("split"), entry.get("path")) if isinstance(entry, dict) else ("train", entry)
        paths = [str(one) for one in (path if isinstance(path, list) else [path]) if isinstance(one, str)]
        if not split or not paths:
            raise ValueError(
                "data_files of its README.md are neither paths nor a list of split and path: list its files "
                "in data_files"
            )
        if any("://" in one for one in paths):
            raise ValueError(
                f"data_files of its README.md name files outside the repository ({paths[0]}): use kind url "
                "for them"
            )
        patterns.setdefault(str(split), []).extend(paths)
    return patterns


def usual_patterns(names: Sequence[str], folder: str = "") -> dict[str, list[str]]:
    """Patterns by split of a repository, or a folder of one, that has no `data_files:`."""
    prefix = f"{folder.strip('/')}/" if folder else ""
    shards = [SHARD.fullmatch(name.removeprefix(prefix)) for name in glob_names(names, SHARDED, folder)]
    splits = {shard[1] for shard in shards if shard}
    if splits:
        order = [split for split in KEYWORDS if split in splits] + sorted(splits - KEYWORDS.keys())
        return {split: [SHARDED.replace("*", split, 1)] for split in order}
    for shapes in (FOLDER_GLOBS, NAME_GLOBS):
        patterns = {
            split: [shape.format(keyword, APART) for keyword in keywords for shape in shapes]
            for split, keywords in KEYWORDS.items()
        }
        there = {
            split: tried
            for split, tried in patterns.items()
            if any(glob_names(names, p, folder) for p in tried)
        }
        if there:
            return there
    return {"train": ["**"]}


def glob_names(names: Sequence[str], pattern: str, folder: str = "") -> list[str]:
    """Names below `folder` that a pattern matches: `*` within a folder, `**` any folders, as fsspec globs.

    Hidden files, and folders that begin with two underscores, count only where the pattern names them.

    Raises:
        ValueError: `**` is a part of a name.
    """
    from fsspec.utils import glob_translate

    pattern = f"{folder.strip('/')}/{pattern}" if folder else pattern
    pattern = pattern.removeprefix("./").lstrip("/")
    expression = re.compile(glob_translate(pattern))
    ignored = {*NOT_DATA} - {PurePosixPath(pattern).name}
    return [
        name
        for name in names
        if expression.match(name)
        and PurePosixPath(name).name not in ignored
        and special(PurePosixPath(name).parent.parts, "__") == special(PurePosixPath(pattern).parent.parts, "__")
        and special(PurePosixPath(name).parts, ".") == special(PurePosixPath(pattern).parts, ".")
    ]  # fmt: skip


def special(parts: Sequence[str], start: str) -> int:
    return sum(part.startswith(start) for part in parts)


def of_one_reader(names: Sequence[str]) -> list[str]:
    """The names that the reader of most of them reads; a.jsonl.gz counts as .jsonl."""
    counts = Counter(suffix for name in names for suffix in file_suffixes(name) if suffix in READERS)
    if not counts:
        return []
    best = max(counts, key=lambda s: (counts[s], -PREFERRED.index(s) if s in PREFERRED else -9, s))
    return [name for name in names if any(READERS.get(s) == READERS[best] for s in file_suffixes(name))]


def file_suffixes(name: str) -> list[str]:
    return [f".{part.lower()}" for part in PurePosixPath(name).name.split(".")[1:]]
