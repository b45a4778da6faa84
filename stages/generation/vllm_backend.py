"""The vLLM backend, for GPUs: an optional extra, `pip install '.[vllm]'`, imported only on demand."""

from collections.abc import Sequence
from pathlib import Path

from stages.common.core.errors import UserError
from stages.common.model.products import gpu_dtype
from stages.generation.completion import BatchRow, Detokenizer, OnCompletion, finish_row
from stages.generation.settings import GenerationSettings

ROWS_AT_ONCE = 4096  # given to the engine together; an interrupted run loses at most these


def complete_with_vllm(
    model_folder: Path,
    rows: Sequence[BatchRow],
    detokenizer: Detokenizer,
    stops: set[int],
    settings: GenerationSettings,
    on_completion: OnCompletion,
) -> None:
    """Complete rows with vLLM, whose engine does its own batching: `evaluate.batch_size` is not used.

    A sample's seed is the low part of its stream's key, which depends on seed, prompt and sample number only.

    Raises:
        UserError: vLLM is not installed.
    """
    try:
        from vllm import LLM, SamplingParams, TokensPrompt
    except ImportError as error:
        raise UserError(
            f"evaluate.backend=vllm, but vLLM cannot be imported ({error}). Run `pip install '.[vllm]'` on a machine "
            "with a GPU, or set evaluate.backend=transformers."
        ) from error

    dtype = gpu_dtype() if settings.dtype == "auto" else settings.dtype
    longest = max(row.need for row in rows)  # else vLLM reserves the model's whole context
    options = {"dtype": dtype, "seed": settings.seed, "enable_prefix_caching": True, "max_model_len": longest}
    engine = LLM(model=str(model_folder), **options)
    common = {"temperature": settings.temperature, "stop_token_ids": sorted(stops), "detokenize": False}
    for start in range(0, len(rows), ROWS_AT_ONCE):
        chunk = rows[start : start + ROWS_AT_ONCE]
        prompts = [TokensPrompt(prompt_token_ids=row.ids) for row in chunk]
        own = [SamplingParams(max_tokens=row.limit, seed=row.stream % 2**63, **common) for row in chunk]
        for row, output in zip(chunk, engine.generate(prompts, own, use_tqdm=False), strict=True):
            row.new = list(output.outputs[0].token_ids)
            ended = bool(row.new) and row.new[-1] in stops
            on_completion(row.index, finish_row(row, "eos" if ended else "length", detokenizer))
