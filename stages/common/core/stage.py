"""Run one stage: compose its settings with Hydra, show it only what dvc.yaml declares, write its metrics."""

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

from stages.common.core.config_sections import check_overrides, load_sections
from stages.common.core.errors import UserError
from stages.common.core.files import write_metrics
from stages.common.core.settings import OTHER_GROUPS, SECTIONS

COMPOSED_CONFIG = Path("reports/config.yaml")
MULTIRUN = ("-m", "--multirun")
QUIET_HYDRA = (
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)


class Settings:
    """The sections that dvc.yaml declares for a stage, as dataclasses: `settings.train.lora.rank`.

    Reading a section that is not declared raises: DVC would otherwise silently reuse stale results.
    """

    def __init__(self, stage: str, sections: dict[str, Any]) -> None:
        self._stage = stage
        self._sections = sections

    def __getattr__(self, section: str) -> Any:
        if section.startswith("_"):
            raise AttributeError(section)
        if section not in self._sections:
            raise UserError(
                f"stage {self._stage} reads the section '{section}', which dvc.yaml does not declare for it. "
                f"Add it under stages.{self._stage}.params, or a change to it will not rerun the stage."
            )
        return self._sections[section]


def run(
    stage: str,
    main: Callable[[Settings], dict[str, Any] | None],
    *,
    observes: Sequence[str] = (),
    metrics_name: Callable[[Settings], str] | None = None,
) -> None:
    """Run a stage as `python -m stages.<stage> [key=value ...]`.

    Args:
        stage: the stage's name in dvc.yaml.
        main: the stage itself. Its result is written to reports/<stage>.json; None writes no metrics. What it
            holds under `times` goes to reports/<stage>-times.json, with `seconds` (wall) and `peak_memory_mib`:
            the metrics are the same from run to run.
        observes: sections the stage may read although dvc.yaml does not declare them, because they affect no
            artifact (for example, where the live curve is sent).
        metrics_name: replaces `<stage>` in the metrics file's name.
    """
    redirect_multirun()
    os.environ.setdefault("DO_NOT_TRACK", "true")
    # In a log a bar is a hundred lines. Set before tqdm and huggingface_hub are first imported: they read it then
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")
    # Rows of changing lengths would otherwise leave gaps in a GPU's memory. Read when PyTorch first uses it
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    # On a CPU with AVX512-BF16, bitsandbytes warns on import about an optional kernel package.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    started = time.perf_counter()

    def task(config: Any) -> None:
        settings = Settings(stage, load_sections(config, (*declared_sections(stage), *observes)))
        metrics = main(settings)
        if metrics is not None:
            name = metrics_name(settings) if metrics_name else stage
            times = {**metrics.pop("times", {}), **resources_used(started)}
            write_metrics(f"reports/{name}.json", metrics, times)

    if not COMPOSED_CONFIG.exists():
        exit_with_error(
            UserError(
                f"{COMPOSED_CONFIG}: no such file. First run `dvc repro config` in the repository's root."
            )
        )
    given = [argument.lstrip("+~") for argument in sys.argv[1:]]
    groups = [one for one in given if one.partition("=")[0] in (*SECTIONS, *OTHER_GROUPS)]
    if groups:
        exit_with_error(
            UserError(
                f"{' '.join(groups)}: groups are chosen when {COMPOSED_CONFIG} is written. First `python -m "
                f"stages.config {' '.join(groups)}` (or set them in params.yaml), then `python -m stages.{stage}`."
            ),
            stage,
        )
    run_with_hydra(stage, task, COMPOSED_CONFIG.parent, COMPOSED_CONFIG.stem)


def redirect_multirun() -> None:
    """Turn `python -m stages.<stage> -m ...`, as Hydra users sweep, into `python -m stages.sweep -m ...`."""
    if set(MULTIRUN) & set(sys.argv[1:]):
        os.execv(sys.executable, [sys.executable, "-m", "stages.sweep", *sys.argv[1:]])


def run_with_hydra(stage: str, task: Callable[[Any], Any], config_folder: Path, config_name: str) -> None:
    """Run `task` under a quiet `hydra.main`; any error prints one message and exits with status 1."""
    import hydra

    show_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Hydra then re-raises, instead of printing a traceback of its own.
    os.environ["HYDRA_FULL_ERROR"] = "1"

    # Guarded inside the job too: Hydra prints a line of its own for an error that leaves it.
    def guarded_task(config: Any) -> Any:
        with errors_as_message(stage, show_traceback):
            return task(config)

    with errors_as_message(stage, show_traceback):
        sys.argv[1:] = [*QUIET_HYDRA, f"hydra.job.name={stage}", *check_overrides(sys.argv[1:])]
        hydra.main(version_base="1.3", config_path=str(config_folder.resolve()), config_name=config_name)(
            guarded_task
        )()


@contextmanager
def errors_as_message(stage: str, show_traceback: bool = False) -> Iterator[None]:
    """Turn an error into one message on stderr and exit status 1."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        exit_with_error(error, stage, show_traceback)
    except Exception as error:
        if not is_disk_full(error):
            exit_with_error(error, stage, show_traceback, unexpected=True)
        name = getattr(error, "filename", None)
        place = f" while writing {name}" if name else ""
        message = UserError(f"the disk is full{place}. Free space and rerun; nothing was replaced.")
        exit_with_error(message, stage, show_traceback)


def is_disk_full(error: Exception) -> bool:
    """Whether an error means a full disk; safetensors and others wrap it in an error of their own."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return os.strerror(errno.ENOSPC) in str(error)


def exit_with_error(
    error: BaseException, stage: str = "", show_traceback: bool = False, unexpected: bool = False
) -> None:
    """Print the error and exit with status 1; `unexpected` adds its class and where it was raised."""
    if show_traceback:
        traceback.print_exception(error)
    text = str(error)
    if unexpected:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = (
            f"unexpected {type(error).__name__}: {text}\n"
            f"  at {frame.filename}:{frame.lineno}; HYDRA_FULL_ERROR=1 shows the traceback"
        )
    sys.stdout.flush()
    print(f"error{f' in stage {stage}' if stage else ''}: {text}", file=sys.stderr)
    sys.exit(1)


def declared_sections(stage: str) -> list[str]:
    """Return the sections that dvc.yaml lists under a stage's `params`."""
    with open("dvc.yaml", encoding="utf-8") as file:
        entry = yaml.safe_load(file)["stages"][stage]
    listed = entry.get("do", entry).get("params", [])
    return [name for item in listed for name in item[str(COMPOSED_CONFIG)]]


def resources_used(started: float) -> dict[str, float]:
    """Return the wall seconds since `started` and this process's peak resident memory in MiB."""
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "peak_memory_mib": round(peak_memory_kib() / 1024),
    }


def peak_memory_kib() -> int:
    """Return the peak resident memory of this process in KiB.

    VmHWM is its own, while Linux's `ru_maxrss` starts from that of the parent process (getrusage(2)).
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
