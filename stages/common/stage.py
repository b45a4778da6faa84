"""Runs one stage: composes its settings with Hydra, lets it see only what dvc.yaml declares, writes its metrics."""

import difflib
import errno
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from stages.common.errors import UserError
from stages.common.files import write_json
from stages.common.settings import SECTIONS, section_class, unknown_keys

CONFIG = Path("reports/config.yaml")
MULTIRUN = ("-m", "--multirun")
QUIET_HYDRA = (
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)


class Settings:
    """The sections that dvc.yaml declares for a stage, as dataclasses: `settings.train.lora.rank`.

    A section that is read but not declared would be a stale cache without an error, so reading it raises.
    """

    def __init__(self, stage: str, sections: dict[str, Any]) -> None:
        self._stage = stage
        self._sections = sections

    def __getattr__(self, section: str) -> Any:
        if section.startswith("_"):
            raise AttributeError(section)
        if section not in self._sections:
            raise UserError(
                f"stage {self._stage} reads the section '{section}', which dvc.yaml does not declare for it: add it "
                f"under stages.{self._stage}.params there, or a change of it would not rerun the stage"
            )
        return self._sections[section]


def run(
    stage: str,
    main: Callable[[Settings], dict[str, Any] | None],
    *,
    observes: Sequence[str] = (),
    metrics_name: Callable[[Settings], str] | None = None,
) -> None:
    """Entry point of `python -m stages.<stage> [key=value ...]`.

    Args:
        stage: the stage's name in dvc.yaml.
        main: the stage's story. What it returns becomes reports/<stage>.json, with `seconds` (wall) and
            `peak_memory_mib` added; None writes no metrics.
        observes: sections the stage may read although dvc.yaml does not declare them, because they touch no
            artifact (where a live curve is sent, say).
        metrics_name: replaces `<stage>` in the metrics file's name.
    """
    multirun_is_a_sweep()
    os.environ.setdefault("DO_NOT_TRACK", "true")
    # when first imported (by peft, say) on a processor with AVX512-BF16 it misses an optional package of a kernel hub
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    started = time.perf_counter()

    def task(config: Any) -> None:
        settings = Settings(stage, typed_sections(config, (*declared_sections(stage), *observes)))
        metrics = main(settings)
        if metrics is not None:
            name = metrics_name(settings) if metrics_name else stage
            write_json(f"reports/{name}.json", {**metrics, **cost(started)})

    if not CONFIG.exists():
        die(UserError(f"{CONFIG}: no such file. Run `dvc repro config` in the repository's root first."))
    hydra_main(stage, task, CONFIG.parent, CONFIG.stem)


def multirun_is_a_sweep() -> None:
    """`python -m stages.<stage> -m ...`, what Hydra users type first, becomes `python -m stages.sweep -m ...`."""
    if set(MULTIRUN) & set(sys.argv[1:]):
        os.execv(sys.executable, [sys.executable, "-m", "stages.sweep", *sys.argv[1:]])


def hydra_main(stage: str, task: Callable[[Any], Any], folder: Path, name: str) -> None:
    """Run `task` under `hydra.main` with a quiet Hydra; every error ends in one message and status 1."""
    import hydra

    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = (
        "1"  # Hydra's own handler would print a traceback; ours does the printing
    )

    def guarded(config: Any) -> Any:  # inside, because Hydra prints a line of its own for what leaves the job
        with one_message(stage, full):
            return task(config)

    with one_message(stage, full):
        sys.argv[1:] = [*QUIET_HYDRA, f"hydra.job.name={stage}", *checked_overrides(sys.argv[1:])]
        hydra.main(version_base="1.3", config_path=str(folder.resolve()), config_name=name)(guarded)()


@contextmanager
def one_message(stage: str, full: bool = False) -> Iterator[None]:
    """Turn an error into one message on stderr and exit status 1; `full` adds the traceback."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        die(error, stage, full)
    except Exception as error:
        if not disk_is_full(error):
            die(error, stage, full, unexpected=True)
        name = getattr(error, "filename", None)
        place = f" while writing {name}" if name else ""
        told = UserError(f"the disk is full{place}. Free space and run it again; nothing was replaced.")
        die(told, stage, full)


def disk_is_full(error: Exception) -> bool:
    """Whether an error means that; safetensors and others raise it as an error of their own."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return os.strerror(errno.ENOSPC) in str(error)


def die(error: BaseException, stage: str = "", full: bool = False, unexpected: bool = False) -> None:
    """Print the error (a traceback only with HYDRA_FULL_ERROR=1) and exit with status 1."""
    if full:
        traceback.print_exception(error)
    text = str(error)
    if unexpected:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = f"unexpected {type(error).__name__}: {text}\n  at {frame.filename}:{frame.lineno}; HYDRA_FULL_ERROR=1 shows the traceback"
    sys.stdout.flush()
    print(f"error{f' in stage {stage}' if stage else ''}: {text}", file=sys.stderr)
    sys.exit(1)


def declared_sections(stage: str) -> list[str]:
    """Sections that dvc.yaml lists under `params` of a stage."""
    with open("dvc.yaml", encoding="utf-8") as file:
        entry = yaml.safe_load(file)["stages"][stage]
    listed = entry.get("do", entry).get("params", [])
    return [name for item in listed for name in item[str(CONFIG)]]


def typed_sections(config: Any, names: Sequence[str]) -> dict[str, Any]:
    """Validate the named sections of a composed configuration against their dataclasses.

    Raises:
        UserError: an unknown key, a wrong type or a value out of range; names key, file and nearest valid key.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    typed = {}
    for name in names:
        if name not in config:
            raise UserError(
                f"the section '{name}' is missing: {', '.join(places(name)) or 'no file sets it'}"
            )
        cls = section_class(name)
        for key, close in unknown_keys(OmegaConf.to_container(config[name], resolve=True), cls, name):
            raise UserError(unknown_key_message(key, close))
        try:
            typed[name] = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), config[name]))
        except OmegaConfBaseException as error:
            key = f"{name}.{error.full_key}" if error.full_key else name
            raise UserError(f"{key}: {str(error).splitlines()[0]}{where(key)}") from error
        except ValueError as error:
            raise UserError(f"{error}{where(str(error).split(' ')[0])}") from error
    return typed


def checked_overrides(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments with every `section.key=value` checked against the schema.

    A key of the schema that no YAML file sets gets Hydra's `++`, so that users need not know which is which.

    Raises:
        UserError: the key is unknown; names the nearest valid key.
    """
    checked = []
    for argument in arguments:
        key, separator, _ = argument.lstrip("+~").partition("=")
        section, _, rest = key.partition(".")
        if separator and not rest and key.isidentifier() and key not in (*SECTIONS, "experiment", "hydra"):
            raise UserError(
                f"unknown group '{key}' on the command line. Groups: {', '.join(SECTIONS)}, experiment."
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
        for bad, close_key in unknown_keys(value, section_class(section), section):
            raise UserError(unknown_key_message(bad, close_key, "the command line"))
        checked.append(argument if argument[0] in "+~" else f"++{argument}")
    return checked


def unknown_key_message(key: str, close: str | None, place: str | None = None) -> str:
    hint = (
        f" Did you mean '{close}'?"
        if close
        else f" `python -m stages.config --cfg job -p {key.split('.')[0]}` lists the keys."
    )
    return f"unknown key '{key}'{f' on {place}' if place else where(key)}.{hint}"


def where(key: str) -> str:
    if any(argument.lstrip("+~").partition("=")[0] == key for argument in sys.argv[1:]):
        return " (on the command line)"
    found = places(key)
    return f" (in {', '.join(found)})" if found else ""


def places(key: str) -> list[str]:
    """`file:line` of each file of the configuration that sets a dotted key."""
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
    """Zero-based line of a nested key below a YAML node, None where it is not set."""
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


def cost(started: float) -> dict[str, float]:
    """Wall seconds since `started` and this process's peak resident memory in MiB."""
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "peak_memory_mib": round(peak_memory() / 1024),
    }


def peak_memory() -> int:
    """Peak resident memory of this process in KiB.

    Linux's `ru_maxrss` starts from that of the process that started this one (getrusage(2)); VmHWM is its own.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
