"""The transformers backend: greedy decoding or sampling, with rows that join and leave the batch.

It is fast on a CPU by doing less: finished rows leave the batch and others take their place (`slots`), the
samples of a prompt share its prefill, only the last position is scored, weights are stored in the layout of
the matrix kernels (`packed_linear`), and each core has a batch of its own, so that no core waits for another
two hundred times a token.
"""

import math
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch

from stages.common.core.errors import UserError, one_line
from stages.common.model.coverage import LOADING_INFO, refuse_uncovered
from stages.common.model.products import gpu_dtype
from stages.generation.completion import BatchRow, Completion, Detokenizer, OnCompletion, finish_row
from stages.generation.packed_linear import pack_linears
from stages.generation.settings import GenerationSettings
from stages.generation.slots import SLACK_COLUMNS, make_slots
from stages.generation.stopping import in_loop
from stages.generation.token_budget import MAX_READ_TOKENS, token_budget

# Rows per worker, at least: with fewer, a step mostly reads the weights
MIN_WORKER_ROWS = 32
# A step's logits from the cache against those of the whole text, as a share of the largest: rounding of 16 bits at most
STEP_TOLERANCE = 0.05


def complete_with_transformers(
    model_folder: Path,
    rows: Sequence[BatchRow],
    detokenizer: Detokenizer,
    stops: set[int],
    settings: GenerationSettings,
    on_completion: OnCompletion,
    adapter: Path | None = None,
    bare: bool = False,
) -> None:
    """Complete rows with transformers; `adapter` and `bare` as `load_for_generation` says."""
    sampler = Sampler(detokenizer, stops, settings.temperature)
    model = load_for_generation(model_folder, settings.dtype, adapter, bare)
    tokens = token_budget(model, rows, settings)
    decode_in_parallel(model, rows, sampler, settings.batch_size, tokens, on_completion)


class Sampler:
    """Choose each row's next token, append it, and decide when the row is done."""

    def __init__(self, detokenizer: Detokenizer, stops: set[int], temperature: float = 0.0) -> None:
        self.detokenizer, self.stops, self.temperature = detokenizer, stops, temperature
        self.token_text = cache(lambda token: detokenizer([token]))

    def next_tokens(self, logits: torch.Tensor, rows: list[BatchRow]) -> list[int]:
        """Return a token for each row of logits, [rows, vocabulary]: the likeliest, or that at its next uniform."""
        if self.temperature == 0:
            return logits.argmax(-1).tolist()
        cumulative = torch.softmax(logits.float() / self.temperature, -1).double().cumsum(-1)
        draws = torch.tensor([[row.uniforms[len(row.new)]] for row in rows])
        tokens = torch.searchsorted(cumulative, draws.to(cumulative.device) * cumulative[:, -1:], right=True)
        return tokens[:, 0].clamp(max=logits.shape[-1] - 1).tolist()

    def append(self, row: BatchRow, token: int) -> str | None:
        """Append a token to a row; return why the row ends with it, None if it does not."""
        row.new.append(token)
        if token in self.stops:
            return "eos"
        piece, line = self.token_text(token), len(row.text) - row.text.rfind("\n") - 1
        row.text += piece
        # 3: a fence is three characters
        if ("\n" in piece or line < 3) and row.ending.find(row.text) is not None:
            return "function_end"
        left = row.limit - len(row.new)
        return "length" if left <= 0 else "loop" if in_loop(row.new, left) else None


def decode_in_parallel(
    model: Any,
    rows: Sequence[BatchRow],
    sampler: Sampler,
    batch_size: int,
    tokens: float,
    on_completion: OnCompletion,
) -> None:
    """Run `decode_rows` in as many workers as there are cores and rows for; rows are assigned beforehand.

    All workers together hold `tokens` at most. `on_completion` is called by one worker at a time.
    """
    cores = torch.get_num_threads() if model.device.type == "cpu" else 1
    longest = max((row.need for row in rows), default=0) + SLACK_COLUMNS
    at_once = int(min(batch_size, len(rows), tokens / longest))  # while the longest rows are in the batch
    workers = max(1, min(cores, at_once // MIN_WORKER_ROWS))
    lock = threading.Lock()

    def report(index: int, completion: Completion) -> None:
        with lock:
            on_completion(index, completion)

    def work(share: list[BatchRow]) -> None:
        torch.set_num_threads(cores // workers)  # affects this thread only
        decode_rows(model, share, sampler, batch_size // workers, tokens / workers, report)

    try:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, split_rows(rows, workers)))
    finally:
        torch.set_num_threads(cores)


def split_rows(rows: Sequence[BatchRow], workers: int) -> list[list[BatchRow]]:
    """Return rows for each worker: similar lengths for all, the samples of a prompt together."""
    prompts = sorted({tuple(row.ids) for row in rows}, key=lambda ids: (len(ids), ids))
    worker = {ids: number % workers for number, ids in enumerate(prompts)}
    return [[row for row in rows if worker[tuple(row.ids)] == number] for number in range(workers)]


@torch.inference_mode()
def decode_rows(
    model: Any,
    rows: Sequence[BatchRow],
    sampler: Sampler,
    batch_size: int,
    tokens_at_once: float,
    on_completion: OnCompletion,
) -> None:
    """Complete rows, the longest first, at most `batch_size` and `tokens_at_once` at once."""
    queue = deque(sorted(rows, key=lambda row: (-len(row.ids), row.ids, row.index)))
    slots = make_slots(model, min(batch_size, len(rows)), tokens_at_once)
    active: list[BatchRow] = []
    tokens: list[int] = []

    def append_tokens(logits: torch.Tensor, first: int) -> None:
        """Append a token to each row from number `first` on; remove finished rows."""
        new_tokens = sampler.next_tokens(logits, active[first:])
        tokens[first:] = new_tokens
        stops = {i: sampler.append(active[i], token) for i, token in enumerate(new_tokens, first)}
        ended = [i for i, stop in stops.items() if stop]
        if ended:
            for i in ended:
                completion = finish_row(active[i], stops[i] or "", sampler.detokenizer)
                on_completion(active[i].index, completion)
            order = slots.drop(ended)
            active[:], tokens[:] = [active[i] for i in order], [tokens[i] for i in order]

    while queue or active:
        while queue:
            room = slots.make_room(max(row.need for row in (*active, queue[0])))
            if len(active) > room * 3 // 4:
                break
            chunk, first = next_chunk(queue, room - len(active)), len(active)
            active += chunk
            append_tokens(slots.admit([row.ids for row in chunk]), first)
        if active:
            append_tokens(slots.step(torch.tensor(tokens)), 0)


def next_chunk(queue: deque[BatchRow], room: int) -> list[BatchRow]:
    """Return the next rows to prefill together: as many as there is room for and MAX_READ_TOKENS allow."""
    chunk: list[BatchRow] = []
    read = 0
    while queue and len(chunk) < room:
        read += len(queue[0].ids) if not chunk or chunk[-1].ids != queue[0].ids else 0
        if chunk and read > MAX_READ_TOKENS:
            break
        chunk.append(queue.popleft())
    return chunk


def load_for_generation(folder: Path, dtype: str, adapter: Path | None = None, bare: bool = False) -> Any:
    """Return the model of a folder, on the GPU if there is one, ready to generate.

    Args:
        adapter: of training, to be put on the folder's model, quantized as training had it.
        bare: quantize as for the adapter, and leave it off.

    Raises:
        UserError: there is none, or its files do not match.
    """
    from transformers import AutoModelForCausalLM

    if adapter is not None:
        from stages.generation.trained_model import load_trained_for_generation  # peft and bitsandbytes

        model = load_trained_for_generation(folder, adapter, dtype, bare)
        try_step(model, folder)
        return model
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else gpu_dtype()
    if dtype == "float16" and device == "cpu":
        raise UserError("evaluate.dtype=float16 needs a GPU, and PyTorch sees none. Set evaluate.dtype=auto.")
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True, **LOADING_INFO
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{folder}: cannot load a causal model ({error}). Run `dvc repro` to rebuild it."
        ) from error
    refuse_uncovered(str(folder), info)
    model = pack_linears(model.to(device).eval())
    try_step(model, folder)
    return model


@torch.inference_mode()
def try_step(model: Any, folder: Path) -> None:
    """Read two tokens and take a step, as `decode_rows` does.

    Raises:
        UserError: the model does not run so, or the step gives other logits than the whole text.
    """
    name, advice = type(model).__name__, "Choose evaluate.backend=vllm or another base."
    slots = make_slots(model, 1, math.inf)
    # Of the middle of the vocabulary: the first ids are control tokens, whose activations are so large that
    # rounding to 16 bits alone moved logits by 7% of the largest
    size = model.config.get_text_config().vocab_size
    ids = [size // 4, size // 3, size // 2]
    try:
        slots.make_room(4)
        slots.admit([ids[:2]])
        step = slots.step(torch.tensor(ids[2:]))[0]
        whole = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]
    except (ValueError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        raise UserError(
            f"{folder}: {name} does not generate token by token ({one_line(error, 200)}). {advice}"
        ) from error
    if not (step - whole).abs().max() <= STEP_TOLERANCE * whole.abs().max():
        raise UserError(f"{folder}: {name} keeps its state where generation does not find it. {advice}")
