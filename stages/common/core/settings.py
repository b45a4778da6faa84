"""The sections of the configuration, and the dataclass that is the schema of each."""

import difflib
import importlib
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

SECTIONS = {
    "base": "stages.base.settings:BaseSettings",
    "fetch": "stages.fetch.settings:FetchSettings",
    "sample": "stages.sample.settings:SampleSettings",
    "clean": "stages.clean.settings:CleanSettings",
    "engine": "stages.common.engine:EngineSettings",
    "prompt": "stages.common.text.settings:PromptSettings",
    "pack": "stages.pack.settings:PackSettings",
    "train": "stages.train.settings:TrainSettings",
    "merge": "stages.merge.settings:MergeSettings",
    "evaluate": "stages.evaluate.settings:EvaluateSettings",
    "report": "stages.report.settings:ReportSettings",
    "track": "stages.track.settings:TrackSettings",
    "sweep": "stages.sweep.settings:SweepSettings",
}
# Groups of conf/ whose options set keys of several sections
OTHER_GROUPS = ("benchmark", "experiment")


def section_class(name: str) -> type:
    """Return the dataclass of a section; imports only that section's settings module."""
    module, attribute = SECTIONS[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def nested_class(cls: Any, key: str) -> Any:
    """Return the dataclass of `cls`'s field `key`, or of its list or dict elements; None for plain values."""
    if not is_dataclass(cls):
        return None
    hint: Any = get_type_hints(cls).get(key)
    candidates = [hint, *get_args(hint)]
    return next((c for c in candidates if isinstance(c, type) and is_dataclass(c)), None)


def unknown_keys(value: Any, cls: Any, prefix: str) -> list[tuple[str, str | None]]:
    """Return the dotted keys of `value` without a field in `cls`, each with the nearest valid key or None."""
    if isinstance(value, list):
        return [found for i, item in enumerate(value) for found in unknown_keys(item, cls, f"{prefix}[{i}]")]
    if not isinstance(value, dict) or cls is None:
        return []
    names = [f.name for f in fields(cls)]
    found: list[tuple[str, str | None]] = []
    for key, item in value.items():
        if key not in names:
            close = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
            found.append((f"{prefix}.{key}", f"{prefix}.{close[0]}" if close else None))
        else:
            entries = {"": item}
            # A dict's own keys are names that the user chooses.
            if isinstance(item, dict) and get_origin(get_type_hints(cls)[key]) is dict:
                entries = {f".{name}": entry for name, entry in item.items()}
            for place, entry in entries.items():
                found += unknown_keys(entry, nested_class(cls, key), f"{prefix}.{key}{place}")
    return found


def require(condition: bool, key: str, value: object, expected: str) -> None:
    """Check a value in `__post_init__` of a section.

    Raises:
        ValueError: names the key, the value and what was expected.
    """
    if not condition:
        raise ValueError(f"{key} is {value!r}: expected {expected}")
