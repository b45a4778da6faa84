"""Generation on a CPU: our decoding against transformers' `generate`, same prompts and greedy texts, float32.

`generate` runs twice: unchanged, until each row's end-of-text token or the token limit, and with our rule for
the end of an answer as a stopping criterion, which saves it tokens that nobody needs. Its prompts are sorted
by length to reduce padding. Loading the model is not counted for either.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stages.common.text.settings import PromptSettings
from stages.common.text.tokens import load_tokenizer
from stages.evaluate import transformers_backend
from stages.evaluate.completion import BatchRow, Completion, Detokenizer, SampleRequest, finish_row
from stages.evaluate.generate import context_length, rows_to_generate, stop_ids
from stages.evaluate.settings import EvaluateSettings
from stages.judge.benchmark import load_benchmark


@dataclass(frozen=True)
class Bench:
    """What both sides share."""

    model: Path
    tokenizer: Any
    prompts: list[str]
    settings: EvaluateSettings
    stops: set[int]

    def rows(self, prompts: Sequence[str]) -> list[BatchRow]:
        requests = [SampleRequest(prompt) for prompt in prompts]
        context = context_length(self.model)
        return rows_to_generate(
            requests, self.tokenizer, context, self.model, PromptSettings(), self.settings
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, default=Path("models/base"))
    parser.add_argument("--benchmark", default="humaneval")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--parts", nargs="+", choices=("best", "one"), default=["best", "one"])
    parser.add_argument(
        "--one",
        type=int,
        default=41,
        help="prompts for `generate` at batch size 1, with its time scaled to all; 0: all (45 minutes)",
    )


def run(given: argparse.Namespace) -> None:
    tokenizer = load_tokenizer(given.model)
    settings = EvaluateSettings(max_new_tokens=given.max_new_tokens, dtype="float32")
    prompts = [problem.prompt for problem in load_benchmark(given.benchmark)]
    bench = Bench(given.model, tokenizer, prompts, settings, stop_ids(given.model, tokenizer))
    print(
        f"{len(prompts)} prompts, float32, {torch.get_num_threads()} threads, at most {given.max_new_tokens} tokens"
    )

    ours, texts = measure_ours(bench)
    print_comparison("ours", ours, texts, ours, texts)
    model = load_plain(given.model)
    sides: list[tuple[int, list[str]]] = []
    if "best" in given.parts:
        sides.append((best_size(bench, model, given.batch_sizes), prompts))
    if "one" in given.parts:
        sides.append((1, prompts[:: max(1, len(prompts) // (given.one or len(prompts)))]))
    for size, subset in sides:
        note = "" if len(subset) == len(prompts) else f", {len(subset)} of the prompts, time scaled"
        for stopping in (False, True):
            seconds, made = measure_generate(bench, model, subset, size, stopping)
            name = f"generate, batch {size}{', stopped by our rule' if stopping else ''}{note}"
            print_comparison(name, seconds * len(prompts) / len(subset), made, ours, texts)


def best_size(bench: Bench, model: Any, sizes: Sequence[int]) -> int:
    """Return the batch size at which plain `generate` is fastest, on as many prompts as the largest size."""
    every = max(1, len(bench.prompts) // max(sizes))
    some = bench.prompts[::every][: max(sizes)]
    tries = {size: measure_generate(bench, model, some, size, False)[0] for size in sizes}
    times = ", ".join(f"{size}: {seconds:.1f} s" for size, seconds in tries.items())
    best = min(tries, key=tries.__getitem__)
    print(f"best batch size of `generate` on {len(some)} prompts: {best} ({times})", flush=True)
    return best


def print_comparison(
    name: str, seconds: float, made: dict[str, Completion], ours: float, texts: dict[str, Completion]
) -> None:
    same = sum(completion.text == texts[prompt].text for prompt, completion in made.items())
    print(
        f"{name}: {seconds:.1f} s, {seconds / ours:.2f} x ours; same text {same} of {len(made)}", flush=True
    )


def measure_ours(bench: Bench) -> tuple[float, dict[str, Completion]]:
    """Return seconds, and completions by prompt."""
    model = transformers_backend.load_for_generation(bench.model, "float32")
    sampler = transformers_backend.Sampler(Detokenizer(bench.tokenizer), bench.stops)
    made: dict[int, Completion] = {}
    started = time.perf_counter()
    rows = bench.rows(bench.prompts)
    transformers_backend.decode_in_parallel(model, rows, sampler, bench.settings.batch_size, made.__setitem__)
    seconds = time.perf_counter() - started
    return seconds, {bench.prompts[index]: completion for index, completion in made.items()}


def load_plain(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


@torch.inference_mode()
def measure_generate(
    bench: Bench, model: Any, prompts: Sequence[str], size: int, stopping: bool
) -> tuple[float, dict[str, Completion]]:
    """Return the same for transformers' `generate` in static batches of `size`."""
    from transformers import StoppingCriteria, StoppingCriteriaList

    detokenizer = Detokenizer(bench.tokenizer)
    pad = bench.tokenizer.eos_token_id

    class AnswerEnded(StoppingCriteria):
        def __init__(self, rows: list[BatchRow], width: int) -> None:
            self.rows, self.width = rows, width

        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            ends = []
            for row, ids in zip(self.rows, input_ids[:, self.width :].tolist(), strict=True):
                piece = detokenizer(ids[-1:])
                ends.append("\n" in piece and row.ending.find(detokenizer(ids)) is not None)
            return torch.tensor(ends)

    started = time.perf_counter()
    rows = sorted(bench.rows(prompts), key=lambda row: -len(row.ids))
    made: dict[str, Completion] = {}
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        width = max(len(row.ids) for row in batch)
        ids = torch.tensor([[pad] * (width - len(row.ids)) + row.ids for row in batch])
        mask = torch.tensor([[0] * (width - len(row.ids)) + [1] * len(row.ids) for row in batch])
        output = model.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=bench.settings.max_new_tokens,
            eos_token_id=sorted(bench.stops),
            pad_token_id=pad,
            stopping_criteria=StoppingCriteriaList([AnswerEnded(batch, width)]) if stopping else None,
        )
        for row, new in zip(batch, output[:, width:].tolist(), strict=True):
            made[prompts[row.index]] = cut_row(row, new, bench.stops, detokenizer)
    return time.perf_counter() - started, made


def cut_row(row: BatchRow, new: list[int], stops: set[int], detokenizer: Detokenizer) -> Completion:
    """Return what `generate` wrote, cut where we cut."""
    end = next((i for i, token in enumerate(new) if token in stops), None)
    row.new = new if end is None else new[: end + 1]
    return finish_row(row, "length" if end is None else "eos", detokenizer)
