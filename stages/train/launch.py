"""Run one training in several processes: start them with `accelerate launch`, end them together, report one error.

The command that users and DVC run starts one process per GPU (without GPUs: as many as configured, which communicate
through gloo), waits, and exits with their status. Of these processes, the ranks, only the first prints and writes;
where ranks fail, the message of the one that failed first is printed, once.
"""

import contextlib
import io
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common.core.errors import UserError
from stages.common.core.stage import errors_as_message
from stages.train.checkpoints import resume_message
from stages.train.ranks import is_rank, threads_per_rank

if TYPE_CHECKING:
    from stages.train.settings import TrainSettings

ACCELERATE_CONFIGS = Path("conf/train/accelerate")  # configurations of `accelerate launch`
# Environment variable: the folder in which ranks leave messages for the process that started them
MESSAGES_VARIABLE = "CODETUNE_WORD"
# Files in that folder: the message of the first rank that failed, and where the checkpoints are
FAILURE_FILE, CHECKPOINTS_FILE = "failure", "scratch"


@dataclass
class RankFailure:
    """How the ranks ended, at least one of which failed or was stopped."""

    # exit status of the whole training
    status: int
    # empty where a rank's own message says more
    message: str = ""
    # whether a signal to the launching process ended them
    stopped: bool = False


def launch(train: "TrainSettings", command: Sequence[str], traceback: bool) -> None:
    """Run `python -m <command>` as ranks and wait until all have finished.

    Args:
        traceback: whether a rank that fails shows its traceback.

    Raises:
        UserError: ranks cannot be started with these settings.
        KeyboardInterrupt: stopped by a signal; says where the next run resumes.
        SystemExit: a rank failed, with its exit status; its message has been printed.
    """
    from accelerate.utils import patch_environment

    ranks = count_ranks(train)
    threads = train.threads or threads_per_rank(ranks)
    options = [
        "--config_file",
        str(ACCELERATE_CONFIGS / f"{train.accelerate}.yaml"),
        "--num_processes",
        str(ranks),
    ]
    options += ["--num_cpu_threads_per_process", str(threads), "--module", *command]
    with tempfile.TemporaryDirectory() as messages:
        environment = {
            MESSAGES_VARIABLE: messages,
            "HYDRA_FULL_ERROR": str(int(traceback)),
            "TORCH_CPP_LOG_LEVEL": "ERROR",
        }
        with patch_environment(**environment):
            failure = accelerate_launch(options)
        if failure is None:
            return
        if failure.stopped:
            file = Path(messages, CHECKPOINTS_FILE)
            raise KeyboardInterrupt(resume_message(Path(file.read_text("utf-8"))) if file.exists() else "")
        file = Path(messages, FAILURE_FILE)
        if not failure.message and file.exists():
            failure.message = file.read_text("utf-8")
    sys.stdout.flush()
    message = failure.message.rstrip() or "error in stage train: a process failed without a message"
    print(message, file=sys.stderr)
    sys.exit(failure.status)


def count_ranks(train: "TrainSettings") -> int:
    """Return the number of processes to start.

    Raises:
        UserError: it is zero, or more than a step has micro batches for.
    """
    import torch

    ranks = train.processes or torch.cuda.device_count()
    if not ranks:
        raise UserError(
            "train.launcher is accelerate, train.processes is 0 and there is no GPU: "
            "set train.processes, or train.launcher=python."
        )
    if train.accumulation < ranks:
        raise UserError(
            f"train.accumulation is {train.accumulation}, and each of the {ranks} processes needs a micro batch in "
            f"every step: set train.accumulation={ranks} and divide train.micro_batch by {ranks} for a step of the "
            "same size."
        )
    return ranks


def accelerate_launch(options: Sequence[str]) -> RankFailure | None:
    """Run `accelerate launch` in this process, quietly; return None where all ranks succeeded."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for name in ("accelerate", "torch"):  # they print tables and tracebacks for what one line says here
        logging.getLogger(name).setLevel(logging.CRITICAL)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        launch_command(launch_command_parser().parse_args(options))
    except ChildFailedError as error:
        return explain_failure({rank: failure.exitcode for rank, failure in error.failures.items()})
    except SignalException as error:
        return RankFailure(128 + error.sigval, stopped=True)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return None


def explain_failure(statuses: dict[int, int]) -> RankFailure:
    """Explain exit statuses by rank (negative: the signal that ended it)."""
    # The launcher itself ends the other ranks with SIGTERM
    failed = {rank: status for rank, status in statuses.items() if status != -signal.SIGTERM} or statuses
    rank, status = min(failed.items(), key=lambda item: item[1])
    if status > 0:
        return RankFailure(status)
    name = signal.Signals(-status).name
    advice = ""
    if name == "SIGKILL":
        advice = " Linux sends it when memory runs out: lower train.micro_batch."
    return RankFailure(128 - status, f"error in stage train: process {rank} was ended by {name}.{advice}")


@contextlib.contextmanager
def forward_errors(traceback: bool) -> Iterator[None]:
    """In a rank: leave an error's message to the launching process, unless another rank did, and exit at once.

    Other ranks then wait for this one in vain and fail with meaningless errors: only the first message counts.
    """
    messages = os.environ.get(MESSAGES_VARIABLE)
    try:
        yield
    except Exception as error:
        if not is_rank() or messages is None:
            raise
        printed = io.StringIO()
        with (
            contextlib.redirect_stderr(printed),
            contextlib.suppress(SystemExit),
            errors_as_message("train", traceback),
        ):
            raise error
        leave_message(FAILURE_FILE, printed.getvalue())
        sys.stdout.flush()
        os._exit(1)  # a normal exit would wait for the other ranks


def leave_message(name: str, text: str) -> None:
    """Write a file for the process that started this rank, unless another rank did."""
    messages = os.environ.get(MESSAGES_VARIABLE)
    if messages is not None:
        with contextlib.suppress(FileExistsError), Path(messages, name).open("x", encoding="utf-8") as file:
            file.write(text)


@contextlib.contextmanager
def handle_signals() -> Iterator[None]:
    """On Ctrl-C or SIGTERM, print one line that says where the next run resumes, and exit with 128 + the signal."""
    received: list[int] = []

    def stop(number: int, frame: Any) -> None:
        received.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    if not is_rank():  # a rank waiting for others could not react: SIGTERM ends it at once
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as stopped:
        if not is_rank():
            print(f"train: stopped. {stopped}".rstrip(), file=sys.stderr)
        sys.stdout.flush()
        sys.exit(128 + (received or [signal.SIGINT])[0])
