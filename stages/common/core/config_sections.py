"""Load the sections of a composed configuration, and say in which file and line a wrong key is set."""

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from stages.common.core.errors import UserError
from stages.common.core.settings import OTHER_GROUPS, SECTIONS, section_class, unknown_keys


def load_sections(config: Any, names: Sequence[str]) -> dict[str, Any]:
    """Load the named sections of a composed configuration into their dataclasses.

    Raises:
        UserError: an unknown key, a wrong type or a value out of range; names the key, its file and line, and
            for an unknown key the nearest valid one.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    typed = {}
    for name in names:
        if name not in config:
            found = config_locations(name)
            place = f"set in {', '.join(found)}" if found else "no file sets it"
            raise UserError(
                f"the composed configuration lacks the section '{name}' ({place}): add its group to the "
                "defaults of params.yaml and run `dvc repro config`"
            )
        cls = section_class(name)
        for key, close in unknown_keys(OmegaConf.to_container(config[name], resolve=True), cls, name):
            raise UserError(unknown_key_message(key, close))
        try:
            typed[name] = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), config[name]))
        except OmegaConfBaseException as error:
            key = f"{name}.{error.full_key}" if error.full_key else name
            raise UserError(f"{key}: {str(error).splitlines()[0]}{location_note(key)}") from error
        except ValueError as error:
            raise UserError(f"{error}{location_note(str(error).split(' ')[0])}") from error
    return typed


def check_overrides(arguments: Sequence[str]) -> list[str]:
    """Check every `section.key=value` of the command line against the schema; return Hydra's arguments.

    Each gets Hydra's `++`, so that users need not know which keys a YAML file sets and which it leaves to the
    schema.

    Raises:
        UserError: an unknown key; names the nearest valid one.
    """
    checked = []
    for argument in arguments:
        key, separator, _ = argument.lstrip("+~").partition("=")
        section, _, rest = key.partition(".")
        if separator and not rest and key.isidentifier() and key not in (*SECTIONS, *OTHER_GROUPS, "hydra"):
            raise UserError(
                f"unknown group '{key}' on the command line: expected one of "
                f"{', '.join((*SECTIONS, *OTHER_GROUPS))}."
            )
        if not separator or not rest or argument.startswith("-") or section == "hydra" or "/" in key:
            checked.append(argument)
            continue
        if section not in SECTIONS:
            close = difflib.get_close_matches(section, SECTIONS, n=1)
            raise UserError(
                unknown_key_message(key, f"{close[0]}.{rest}" if close else None, "the command line")
            )
        value: Any = None
        for part in reversed(rest.split(".")):
            value = {part: value}
        for unknown, close_key in unknown_keys(value, section_class(section), section):
            raise UserError(unknown_key_message(unknown, close_key, "the command line"))
        checked.append(argument if argument[0] in "+~" else f"++{argument}")
    return checked


def unknown_key_message(key: str, close: str | None, place: str | None = None) -> str:
    """Say which key is unknown and where it is set, with `close`, the nearest valid key, as a hint."""
    hint = (
        f" Did you mean '{close}'?"
        if close
        else f" `python -m stages.config --cfg job -p {key.split('.')[0]}` lists the keys."
    )
    return f"unknown key '{key}'{f' on {place}' if place else location_note(key)}.{hint}"


def location_note(key: str) -> str:
    """Return ` (on the command line)` or ` (in file:line)`, wherever a key is set; "" if nowhere."""
    if any(argument.lstrip("+~").partition("=")[0] == key for argument in sys.argv[1:]):
        return " (on the command line)"
    found = config_locations(key)
    return f" (in {', '.join(found)})" if found else ""


def config_locations(key: str) -> list[str]:
    """Return `file:line` of each configuration file that sets a dotted key."""
    found = []
    for path in [Path("params.yaml"), *sorted(Path("conf").rglob("*.yaml"))]:
        try:
            text = path.read_text("utf-8")
            node = yaml.compose(text, Loader=yaml.CSafeLoader)
        except (OSError, yaml.YAMLError):
            continue
        group = path.parts[1] if path.parts[0] == "conf" and "@package _global_" not in text else None
        parts = key.replace("[", ".[").split(".")
        if group is not None:
            if parts[0] != group:
                continue
            parts = parts[1:]
        line = key_line(node, parts)
        if line is not None:
            found.append(f"{path}:{line + 1}")
    return found


def key_line(node: Any, parts: list[str]) -> int | None:
    """Return the zero-based line of a nested key below a YAML node, None where it is not set."""
    if not parts or node is None:
        return None
    if isinstance(node, yaml.SequenceNode) and parts[0].startswith("["):
        index = int(parts[0].strip("[]"))
        if index >= len(node.value):
            return None
        item = node.value[index]
        return key_line(item, parts[1:]) if len(parts) > 1 else item.start_mark.line
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == parts[0]:
                return name.start_mark.line if len(parts) == 1 else key_line(value, parts[1:])
    return None
