"""The transformers backend: greedy decoding or sampling with rows that come and go.

Fast on a CPU by what it leaves out: rows leave the batch when they are done and others take their place
(`slots`), one prompt's samples share its reading, only the token of the last position is scored, weights lie as the
matrix kernels want them (`packed`), and on several cores each works on a batch of its own: no core waits for another two
hundred times a token.
"""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch

from stages.common.errors import UserError
from stages.evaluate.completion import BatchRow, Completion, Detokenizer, OnCompletion, finish_row
from stages.evaluate.packed_linear import pack_linears
from stages.evaluate.settings import EvaluateSettings
from stages.evaluate.slots import Slots, make_slots

MAX_READ_TOKENS = 1024  # prompt tokens a forward: with more, what it works on leaves the processor's cache
MIN_WORKER_ROWS = 32  # rows a worker at least: with fewer, a step is mostly reading the weights


def complete_with_transformers(
    model_folder: Path,
    rows: Sequence[BatchRow],
    spelling: Detokenizer,
    stops: set[int],
    settings: EvaluateSettings,
    finished: OnCompletion,
) -> None:
    """The `Backend` of transformers."""
    voice = Sampler(spelling, stops, settings.temperature)
    model = load_for_generation(model_folder, settings.dtype)
    decode_in_parallel(model, rows, voice, settings.batch_size, finished)


class Sampler:
    """How tokens are chosen and spelled, and when a row is done."""

    def __init__(self, spelling: Detokenizer, stops: set[int], temperature: float = 0.0) -> None:
        self.spelling, self.stops, self.temperature = spelling, stops, temperature
        self.spelled = cache(lambda token: spelling([token]))

    def choose(self, logits: torch.Tensor, rows: list[BatchRow]) -> list[int]:
        """A token for each row, [rows, vocabulary]: the likeliest, or the one at the row's next uniform number."""
        if self.temperature == 0:
            return logits.argmax(-1).tolist()
        shares = torch.softmax(logits.float() / self.temperature, -1).double().cumsum(-1)
        draws = torch.tensor([[row.uniforms[len(row.new)]] for row in rows])
        places = torch.searchsorted(shares, draws.to(shares.device) * shares[:, -1:], right=True)
        return places[:, 0].clamp(max=logits.shape[-1] - 1).tolist()

    def done(self, row: BatchRow, token: int) -> str | None:
        """Take a token into a row; why the row ends with it, None where it goes on."""
        row.new.append(token)
        if token in self.stops:
            return "eos"
        piece, line = self.spelled(token), len(row.text) - row.text.rfind("\n") - 1
        row.text += piece
        if ("\n" in piece or line < 3) and row.ending.find(row.text) is not None:  # 3: a fence is three marks
            return "function_end"
        return "length" if len(row.new) >= row.limit else None


def decode_in_parallel(
    model: Any, rows: Sequence[BatchRow], voice: Sampler, batch_size: int, finished: OnCompletion
) -> None:
    """`decode` by as many workers as there are cores and rows for; which worker has a row is fixed beforehand.

    `finished` is called by one worker at a time.
    """
    cores = torch.get_num_threads() if model.device.type == "cpu" else 1
    workers = max(1, min(cores, min(batch_size, len(rows)) // MIN_WORKER_ROWS))
    lock = threading.Lock()

    def tell(index: int, completion: Completion) -> None:
        with lock:
            finished(index, completion)

    def work(share: list[BatchRow]) -> None:
        torch.set_num_threads(cores // workers)  # of this thread alone
        decode_rows(model, share, voice, batch_size // workers, tell)

    try:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, split_rows(rows, workers)))
    finally:
        torch.set_num_threads(cores)


def split_rows(rows: Sequence[BatchRow], workers: int) -> list[list[BatchRow]]:
    """Rows for each worker: the same lengths for all, a prompt's samples together."""
    prompts = sorted({tuple(row.ids) for row in rows}, key=lambda ids: (len(ids), ids))
    worker = {ids: number % workers for number, ids in enumerate(prompts)}
    return [[row for row in rows if worker[tuple(row.ids)] == number] for number in range(workers)]


@torch.inference_mode()
def decode_rows(
    model: Any, rows: Sequence[BatchRow], voice: Sampler, batch_size: int, finished: OnCompletion
) -> None:
    """Run rows to their ends, at most `batch_size` at once."""
    queue = deque(sorted(rows, key=lambda row: (-len(row.ids), row.ids, row.index)))
    slots = make_slots(
        model, min(batch_size, len(rows)), max((len(r.ids) + r.limit for r in rows), default=0)
    )
    active: list[BatchRow] = []
    tokens: list[int] = []

    def take(logits: torch.Tensor, place: int) -> None:
        """Append a token to each row from `place` on; finished rows go."""
        chosen = voice.choose(logits, active[place:])
        tokens[place:] = chosen
        stops = {i: voice.done(active[i], token) for i, token in enumerate(chosen, place)}
        ended = [i for i, stop in stops.items() if stop]
        if ended:
            for i in ended:
                finished(active[i].index, finish_row(active[i], stops[i] or "", voice.spelling))
            order = slots.drop(ended)
            active[:], tokens[:] = [active[i] for i in order], [tokens[i] for i in order]

    while queue or active:
        while queue and len(active) <= slots.slots * 3 // 4:
            chunk = next_chunk(queue, slots)
            place = len(active)
            active += chunk
            take(slots.admit([row.ids for row in chunk]), place)
        if active:
            take(slots.step(torch.tensor(tokens)), 0)


def next_chunk(queue: deque[BatchRow], slots: Slots) -> list[BatchRow]:
    """The next rows to read together: as many as have a slot, and at most `READ_TOKENS` tokens of distinct prompts."""
    chunk: list[BatchRow] = []
    read = 0
    while queue and len(chunk) < slots.slots - slots.rows:
        read += len(queue[0].ids) if not chunk or chunk[-1].ids != queue[0].ids else 0
        if chunk and read > MAX_READ_TOKENS:
            break
        chunk.append(queue.popleft())
    return chunk


def load_for_generation(folder: Path, dtype: str) -> Any:
    """The model of a folder, on the GPU if there is one, ready to generate.

    Raises:
        UserError: there is none, or its files do not fit together.
    """
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: not loadable as a causal model ({error}). Run `dvc repro`.") from error
    return pack_linears(model.to(device).eval())
