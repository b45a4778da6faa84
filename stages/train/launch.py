"""Several processes for one training: started through `accelerate launch`, ended together, heard as one.

The command that users and DVC run starts one process a GPU (without GPUs: as many as asked for, which talk through
gloo), waits, and ends with their status. Of these processes, the ranks, the first alone prints and writes; where ranks
fail, the message of the one that failed first is printed, once.
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

from stages.common.errors import UserError
from stages.common.stage import one_message
from stages.train.checkpoints import resume_message
from stages.train.ranks import is_rank, threads_per_rank

if TYPE_CHECKING:
    from stages.train.settings import TrainSettings

ACCELERATE_CONFIGS = Path("conf/train/accelerate")  # configurations of `accelerate launch`
MESSAGES_VARIABLE = (
    "CODETUNE_WORD"  # environment: folder in which ranks leave word for the process that started them
)
# files in that folder: the message of the first rank that failed, and where the checkpoints are
FAILURE_FILE, CHECKPOINTS_FILE = "failure", "scratch"


@dataclass
class RankFailure:
    """How ranks ended that did not end well."""

    status: int  # exit status for the whole
    message: str = ""  # what can be said from outside; empty where a rank can say it better
    stopped: bool = False  # by a signal to the process that started them


def launch(train: "TrainSettings", command: Sequence[str], traceback: bool) -> None:
    """Run `python -m <command>` as ranks, until all have ended well.

    Args:
        traceback: whether a rank that fails shows its traceback.

    Raises:
        UserError: the settings cannot be started.
        KeyboardInterrupt: stopped by a signal; says where the next run goes on.
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
    with tempfile.TemporaryDirectory() as word:
        environment = {
            MESSAGES_VARIABLE: word,
            "HYDRA_FULL_ERROR": str(int(traceback)),
            "TORCH_CPP_LOG_LEVEL": "ERROR",
        }
        with patch_environment(**environment):
            ended = accelerate_launch(options)
        if ended is None:
            return
        if ended.stopped:
            told = Path(word, CHECKPOINTS_FILE)
            raise KeyboardInterrupt(resume_message(Path(told.read_text("utf-8"))) if told.exists() else "")
        failure = Path(word, FAILURE_FILE)
        if not ended.message and failure.exists():
            ended.message = failure.read_text("utf-8")
    sys.stdout.flush()
    print(ended.message.rstrip() or "error in stage train: a process ended without a word", file=sys.stderr)
    sys.exit(ended.status)


def count_ranks(train: "TrainSettings") -> int:
    """Processes to start.

    Raises:
        UserError: none, or more than a step has micro batches for.
    """
    import torch

    ranks = train.processes or torch.cuda.device_count()
    if not ranks:
        raise UserError(
            "train.launcher is accelerate and there is no GPU: set train.processes, or launcher: python"
        )
    if train.accumulation < ranks:
        raise UserError(
            f"train.accumulation is {train.accumulation}, and {ranks} processes need as many micro batches in a step: "
            f"set train.accumulation={ranks} and divide train.micro_batch by as much for the same step."
        )
    return ranks


def accelerate_launch(options: Sequence[str]) -> RankFailure | None:
    """`accelerate launch` within this process, quietly; None where all ranks ended well."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for name in ("accelerate", "torch"):  # they tell in tables and tracebacks what is told here in a line
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
    """Of exit statuses by rank (negative: the signal that ended it)."""
    # the launcher itself ends the others with SIGTERM
    failed = {rank: status for rank, status in statuses.items() if status != -signal.SIGTERM} or statuses
    rank, status = min(failed.items(), key=lambda item: item[1])
    if status > 0:
        return RankFailure(status)
    name = signal.Signals(-status).name
    memory = " Linux does so where memory runs out: see train.micro_batch." if name == "SIGKILL" else ""
    return RankFailure(128 - status, f"error in stage train: process {rank} was ended by {name}.{memory}")


@contextlib.contextmanager
def forward_errors(traceback: bool) -> Iterator[None]:
    """In a rank: an error's message goes to the process that started it, if no rank's is there; the rank ends at once.

    Other ranks then wait for this one in vain and fail with errors that say nothing: only the first is to be read.
    """
    word = os.environ.get(MESSAGES_VARIABLE)
    try:
        yield
    except Exception as error:
        if not is_rank() or word is None:
            raise
        told = io.StringIO()
        with (
            contextlib.redirect_stderr(told),
            contextlib.suppress(SystemExit),
            one_message("train", traceback),
        ):
            raise error
        leave_message(FAILURE_FILE, told.getvalue())
        sys.stdout.flush()
        os._exit(1)  # libraries that talk to other ranks would wait for them


def leave_message(name: str, text: str) -> None:
    """Write a file for the process that started this rank, unless another rank did."""
    word = os.environ.get(MESSAGES_VARIABLE)
    if word is not None:
        with contextlib.suppress(FileExistsError), Path(word, name).open("x", encoding="utf-8") as file:
            file.write(text)


@contextlib.contextmanager
def handle_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the process with one line, which says where the next run goes on, and 128 + the signal."""
    received: list[int] = []

    def stop(number: int, frame: Any) -> None:
        received.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    if not is_rank():  # a rank that waits for others could not answer, and is to end at once
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as stopped:
        if not is_rank():
            print(f"train: stopped. {stopped}".rstrip(), file=sys.stderr)
        sys.stdout.flush()
        sys.exit(128 + (received or [signal.SIGINT])[0])
