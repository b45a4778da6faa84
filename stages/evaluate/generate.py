"""Completions of a benchmark's prompts by a model folder: greedy, or sampled with a random stream a sample.

Fast on a CPU by what it leaves out: rows leave the batch when they are done and others take their place
(`slots`), a sample ends when its function is complete (`stopping`), one prompt's samples share its reading, only
the token of the last position is scored, and on several cores each works on a batch of its own: no core waits for
another two hundred times a token.
"""

import hashlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.common.errors import UserError
from stages.common.prompt import render_prompt
from stages.common.prompt_settings import PromptSettings
from stages.common.tokens import encode_prompts, load_tokenizer, plain_ids, special_tokens
from stages.evaluate.settings import EvaluateSettings
from stages.evaluate.slots import Slots, make_slots
from stages.evaluate.stopping import Ending, ending_of

READ_TOKENS = 4096  # prompt tokens a forward: more is no faster, and takes memory
BATCH_ROWS = 32  # rows a worker at least: with fewer, a step is mostly reading the weights

Progress = Callable[[int, int], None]  # samples done, samples in all


@dataclass(frozen=True)
class Completion:
    text: str  # what follows the rendered prompt, up to where the answer ends
    new_tokens: int  # tokens generated, the one that ended the sample included
    stop: str  # eos | function_end | length


@dataclass
class Row:
    """One sample on its way."""

    index: int  # of the prompt in the caller's list
    ids: list[int]  # the rendered prompt
    ending: Ending
    limit: int  # tokens it may take
    uniforms: np.ndarray | None  # one number in [0, 1) a token; None: greedy
    new: list[int] = field(default_factory=list)
    text: str = ""  # of `new`, token by token: right where it matters to `ending`, at line starts


def generate(
    prompts: list[str],
    model_folder: Path,
    prompt: PromptSettings,
    settings: EvaluateSettings,
    progress: Progress | None = None,
    samples: Sequence[int] | None = None,
) -> list[Completion]:
    """Complete each of the benchmark's raw prompts; they are rendered here. Same order as `prompts`.

    Args:
        samples: number of each sample among those of its prompt, on which (with the seed and the prompt) its random
            stream depends; by default, how often the prompt came before.

    Raises:
        UserError: no model in `model_folder`, a prompt that fills the context, chat without a template.
    """
    model, tokenizer = load_model(model_folder, settings.dtype), load_tokenizer(model_folder)
    rendered = [render_prompt(text, tokenizer, prompt) for text in prompts]
    endings = [ending_of(raw, text, prompt) for raw, text in zip(prompts, rendered, strict=True)]
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    rows = []
    for i, ids in enumerate(encode_prompts(rendered, tokenizer)):
        limit = min(settings.max_new_tokens, (context or len(ids) + settings.max_new_tokens) - len(ids))
        if limit < 1 or not ids:
            raise UserError(
                f"prompt {i + 1} of the benchmark has {len(ids)} tokens, and the context of {model_folder} is "
                f"{context}. Take a model with a longer context, or remove the problem."
            )
        rows.append(Row(i, ids, endings[i], limit, None))
    if settings.temperature > 0:
        for row, sample in zip(rows, samples or occurrences(prompts), strict=True):
            row.uniforms = uniforms(settings.seed, prompts[row.index], sample, row.limit)
    voice = Voice(tokenizer, stop_ids(model, tokenizer), settings.temperature)
    return decode_in_parallel(model, rows, voice, settings.batch_size, progress)


class Voice:
    """How tokens are chosen and spelled, and when a row is done."""

    def __init__(self, tokenizer: Any, stops: set[int], temperature: float = 0.0) -> None:
        self.tokenizer, self.stops, self.temperature = tokenizer, stops, temperature
        self.anchor = plain_ids(["a"], tokenizer)[0]
        self.spelled = cache(lambda token: self.spell([token]))

    def spell(self, ids: list[int]) -> str:
        """Text of `ids` behind other text: tokenizers of SentencePiece's kind swallow a leading space else."""
        how = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        before = self.tokenizer.decode(self.anchor, **how)
        return self.tokenizer.decode([*self.anchor, *ids], **how)[len(before) :]

    def choose(self, logits: torch.Tensor, rows: list[Row]) -> list[int]:
        """A token for each row, [rows, vocabulary]: the likeliest, or the one at the row's next uniform number."""
        if self.temperature == 0:
            return logits.argmax(-1).tolist()
        shares = torch.softmax(logits.float() / self.temperature, -1).double().cumsum(-1)
        draws = torch.tensor([[row.uniforms[len(row.new)]] for row in rows if row.uniforms is not None])
        places = torch.searchsorted(shares, draws.to(shares.device) * shares[:, -1:], right=True)
        return places[:, 0].clamp(max=logits.shape[-1] - 1).tolist()

    def done(self, row: Row, token: int) -> str | None:
        """Take a token into a row; why the row ends with it, None where it goes on."""
        row.new.append(token)
        if token in self.stops:
            return "eos"
        piece, line = self.spelled(token), len(row.text) - row.text.rfind("\n") - 1
        row.text += piece
        if ("\n" in piece or line < 3) and row.ending.find(row.text) is not None:  # 3: a fence is three marks
            return "function_end"
        return "length" if len(row.new) >= row.limit else None

    def completion(self, row: Row, stop: str) -> Completion:
        """The finished row, with what is behind its answer cut off."""
        text = self.spell(row.new[:-1] if stop == "eos" else row.new)
        end = row.ending.find(text, finished=True)
        if end is not None:
            text, stop = text[:end], "function_end"
        return Completion(text, len(row.new), stop)


def decode_in_parallel(
    model: Any, rows: Sequence[Row], voice: Voice, batch_size: int, progress: Progress | None = None
) -> list[Completion]:
    """`decode` by as many workers as there are cores and rows for; which worker has a row is fixed beforehand."""
    cores = torch.get_num_threads() if model.device.type == "cpu" else 1
    workers = max(1, min(cores, min(batch_size, len(rows)) // BATCH_ROWS))
    finished = [0] * workers
    lock = threading.Lock()

    def work(number: int) -> list[Completion]:
        def tell(done: int, _: int) -> None:
            with lock:
                finished[number] = done
                if progress:
                    progress(sum(finished), len(rows))

        torch.set_num_threads(cores // workers)  # of this thread alone
        return decode(model, shares[number], voice, batch_size // workers, tell)

    shares = deal(rows, workers)
    try:
        with ThreadPoolExecutor(workers) as pool:
            results = list(pool.map(work, range(workers)))
    finally:
        torch.set_num_threads(cores)
    places = {
        row.index: done
        for share, made in zip(shares, results, strict=True)
        for row, done in zip(share, made, strict=True)
    }
    return [places[row.index] for row in rows]


def deal(rows: Sequence[Row], workers: int) -> list[list[Row]]:
    """Rows for each worker: the same lengths for all, a prompt's samples together."""
    prompts = sorted({tuple(row.ids) for row in rows}, key=lambda ids: (len(ids), ids))
    worker = {ids: number % workers for number, ids in enumerate(prompts)}
    return [[row for row in rows if worker[tuple(row.ids)] == number] for number in range(workers)]


@torch.inference_mode()
def decode(
    model: Any, rows: Sequence[Row], voice: Voice, batch_size: int, progress: Progress | None = None
) -> list[Completion]:
    """Run rows to their ends, at most `batch_size` at once; completions in the order of `Row.index`."""
    queue = deque(sorted(rows, key=lambda row: (-len(row.ids), row.ids, row.index)))
    slots = make_slots(
        model, min(batch_size, len(rows)), max((len(r.ids) + r.limit for r in rows), default=0)
    )
    active: list[Row] = []
    tokens: list[int] = []
    completions: dict[int, Completion] = {}

    def take(logits: torch.Tensor, place: int) -> None:
        """Append a token to each row from `place` on; finished rows go."""
        chosen = voice.choose(logits, active[place:])
        tokens[place:] = chosen
        stops = {i: voice.done(active[i], token) for i, token in enumerate(chosen, place)}
        finished = [i for i, stop in stops.items() if stop]
        for i in finished:
            completions[active[i].index] = voice.completion(active[i], stops[i] or "")
        if finished:
            order = slots.drop(finished)
            active[:], tokens[:] = [active[i] for i in order], [tokens[i] for i in order]
            if progress:
                progress(len(completions), len(rows))

    while queue or active:
        while queue and len(active) <= slots.slots * 3 // 4:
            chunk = next_chunk(queue, slots)
            place = len(active)
            active += chunk
            take(slots.admit([row.ids for row in chunk]), place)
        if active:
            take(slots.step(torch.tensor(tokens)), 0)
    return [completions[row.index] for row in sorted(rows, key=lambda row: row.index)]


def next_chunk(queue: deque[Row], slots: Slots) -> list[Row]:
    """The next rows to read together: as many as have a slot, and at most `READ_TOKENS` tokens of distinct prompts."""
    chunk: list[Row] = []
    read = 0
    while queue and len(chunk) < slots.slots - slots.rows:
        read += len(queue[0].ids) if not chunk or chunk[-1].ids != queue[0].ids else 0
        if chunk and read > READ_TOKENS:
            break
        chunk.append(queue.popleft())
    return chunk


def load_model(folder: Path, dtype: str) -> Any:
    """The model of a folder, on the GPU if there is one, ready to generate.

    Raises:
        UserError: there is none, or its files do not fit together.
    """
    from transformers import AutoModelForCausalLM

    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no model there (no config.json). `dvc repro` makes it.")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: not loadable as a causal model ({error}). Run `dvc repro`.") from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def stop_ids(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end a sample: those the model declares, and every special token (a turn's end, a document's end)."""
    declared = model.generation_config.eos_token_id if model.generation_config else None
    ids = declared if isinstance(declared, list) else [declared]
    return {i for i in ids if i is not None} | {tokenizer.eos_token_id} | set(special_tokens(tokenizer))


def occurrences(prompts: Sequence[str]) -> list[int]:
    """How often each prompt came before in the list."""
    seen: Counter[str] = Counter()
    numbers = []
    for text in prompts:
        numbers.append(seen[text])
        seen[text] += 1
    return numbers


def uniforms(seed: int, prompt: str, sample: int, count: int) -> np.ndarray:
    """A sample's random numbers in [0, 1): a function of seed, problem and sample number, of nothing else."""
    key = hashlib.sha256(f"{seed}:{sample}:{prompt}".encode("utf-8", "surrogatepass")).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "big"))).random(count)
