"""Generation on a CPU: our decoding against transformers' `generate` and `generate_batch`, same greedy texts, float32.

`generate` runs in static batches, sorted by length to reduce padding, at the batch size that is fastest on some of
the prompts; `generate_batch` is transformers' continuous batching. Both run to each row's end-of-text token or the
token limit. `generate` also runs with our rule for the end of an answer as a stopping criterion, which saves it
tokens that nobody needs. Samples of a prompt are copies, since only greedy texts can be the same for all. Loading
the model is not counted for anyone.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stages.common.text.settings import PromptSettings
from stages.common.text.tokens import load_tokenizer
from stages.evaluate import transformers_backend
from stages.evaluate.settings import EvaluateSettings
from stages.generation.completion import BatchRow, Completion, Detokenizer, SampleRequest, finish_row
from stages.generation.generate import context_length, rows_to_generate, stop_ids
from stages.judge.benchmark import load_benchmark

Made = dict[int, Completion]  # by the row's index


@dataclass(frozen=True)
class Bench:
    """What all sides share."""

    model: Path
    tokenizer: Any
    requests: list[SampleRequest]
    settings: EvaluateSettings
    stops: set[int]

    def rows(self, every: int = 1) -> list[BatchRow]:
        """Return the rows of all requests, or of each `every`-th, the longest first."""
        made = rows_to_generate(
            self.requests,
            self.tokenizer,
            context_length(self.model),
            self.model,
            PromptSettings(),
            self.settings,
        )
        return sorted(made[::every], key=lambda row: -len(row.ids))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, default=Path("models/base"))
    parser.add_argument("--benchmark", default="humaneval")
    parser.add_argument("--problems", type=int, default=164, help="of the benchmark's, evenly spread")
    parser.add_argument("--samples", type=int, default=5, help="copies of each prompt")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32, 64])


def run(given: argparse.Namespace) -> None:
    tokenizer = load_tokenizer(given.model)
    settings = EvaluateSettings(max_new_tokens=given.max_new_tokens, dtype="float32")
    problems = load_benchmark(given.benchmark)
    problems = problems[:: max(1, len(problems) // given.problems)][: given.problems]
    requests = [SampleRequest(problem.prompt, i) for problem in problems for i in range(given.samples)]
    bench = Bench(given.model, tokenizer, requests, settings, stop_ids(given.model, tokenizer))
    print(
        f"{len(problems)} prompts, {given.samples} times each, float32, {torch.get_num_threads()} threads, at most "
        f"{given.max_new_tokens} tokens"
    )
    seconds, texts = measure_ours(bench)
    print(f"ours: {seconds:.1f} s, {sum(made.new_tokens for made in texts.values())} tokens", flush=True)
    model = load_plain(given.model)
    best = best_size(bench, model, given.batch_sizes)
    sides = {
        f"generate, batch {best}": measure_generate(bench, model, bench.rows(), best, False),
        f"generate, batch {best}, stopped by our rule": measure_generate(
            bench, model, bench.rows(), best, True
        ),
        "generate_batch": measure_generate_batch(bench, model),
    }
    for name, (other, made) in sides.items():
        same = sum(made[index].text == texts[index].text for index in texts)
        print(f"{name}: {other:.1f} s, {other / seconds:.2f} x ours; same text {same} of {len(texts)}")


def best_size(bench: Bench, model: Any, sizes: Sequence[int]) -> int:
    """Return the batch size at which plain `generate` is fastest, on as many rows as the largest size."""
    some = bench.rows(max(1, len(bench.requests) // max(sizes)))[: max(sizes)]
    tries = {size: measure_generate(bench, model, some, size, False)[0] for size in sizes}
    times = ", ".join(f"{size}: {seconds:.1f} s" for size, seconds in tries.items())
    best = min(tries, key=tries.__getitem__)
    print(f"best batch size of `generate` on {len(some)} rows: {best} ({times})", flush=True)
    return best


def measure_ours(bench: Bench) -> tuple[float, Made]:
    """Return seconds, and completions by index."""
    model = transformers_backend.load_for_generation(bench.model, "float32")
    sampler = transformers_backend.Sampler(Detokenizer(bench.tokenizer), bench.stops)
    made: Made = {}
    started = time.perf_counter()
    transformers_backend.decode_in_parallel(
        model, bench.rows(), sampler, bench.settings.batch_size, math.inf, made.__setitem__
    )
    return time.perf_counter() - started, made


def load_plain(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


@torch.inference_mode()
def measure_generate(
    bench: Bench, model: Any, rows: Sequence[BatchRow], size: int, stopping: bool
) -> tuple[float, Made]:
    """Return the same for transformers' `generate` in static batches of `size`."""
    from transformers import StoppingCriteria, StoppingCriteriaList

    detokenizer = Detokenizer(bench.tokenizer)
    pad = bench.tokenizer.eos_token_id

    class AnswerEnded(StoppingCriteria):
        def __init__(self, rows: Sequence[BatchRow], width: int) -> None:
            self.rows, self.width = rows, width

        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            ends = []
            for row, ids in zip(self.rows, input_ids[:, self.width :].tolist(), strict=True):
                piece = detokenizer(ids[-1:])
                ends.append("\n" in piece and row.ending.find(detokenizer(ids)) is not None)
            return torch.tensor(ends)

    started = time.perf_counter()
    made: Made = {}
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
            made[row.index] = cut_row(row, new, bench)
    return time.perf_counter() - started, made


@torch.inference_mode()
def measure_generate_batch(bench: Bench, model: Any) -> tuple[float, Made]:
    """Return the same for transformers' `generate_batch`."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=bench.settings.max_new_tokens,
        eos_token_id=sorted(bench.stops),
        pad_token_id=bench.tokenizer.eos_token_id,
    )
    rows = bench.rows()
    started = time.perf_counter()
    outputs = model.generate_batch([row.ids for row in rows], generation_config=config)
    ordered = [outputs[key] for key in sorted(outputs, key=lambda key: int(key.rsplit("_", 1)[-1]))]
    made = {
        row.index: cut_row(row, output.generated_tokens, bench)
        for row, output in zip(rows, ordered, strict=True)
    }
    return time.perf_counter() - started, made


def cut_row(row: BatchRow, new: list[int], bench: Bench) -> Completion:
    """Return what another generator wrote, cut where we cut."""
    sampler = transformers_backend.Sampler(Detokenizer(bench.tokenizer), bench.stops)
    row.new, row.text = [], ""
    stop = next((stop for token in new if (stop := sampler.append(row, token))), "length")
    return finish_row(row, stop, sampler.detokenizer)
