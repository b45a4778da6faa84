"""Complete a benchmark's prompts with the model of a folder: greedily, or with a random stream per sample.

This module renders and tokenizes the prompts and sets limits. A backend turns the rows into completions:
`transformers_backend` or `vllm_backend`. Both get the same tokens and cut answers by the same rule.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError
from stages.common.text.infill import render_infill
from stages.common.text.prompt import render_prompt
from stages.common.text.settings import PromptSettings
from stages.common.text.tokens import encode_parts, encode_prompts, load_tokenizer, special_tokens
from stages.generation.completion import (
    BatchRow,
    Completion,
    Detokenizer,
    OnCompletion,
    SampleRequest,
    marks_thinking,
)
from stages.generation.settings import GenerationSettings
from stages.generation.stopping import Ending, ending_for


def generate(
    requests: Sequence[SampleRequest],
    model_folder: Path,
    prompt: PromptSettings,
    settings: GenerationSettings,
    on_completion: OnCompletion = lambda index, completion: None,
    adapter: Path | None = None,
    bare: bool = False,
) -> list[Completion]:
    """Return the completion of each request, in order; call `on_completion` with each as it is done.

    Args:
        adapter: of training, which the model then is: the adapter on the model folder's quantized weights.
        bare: leave the adapter off: the model folder's weights, quantized as for the adapter.

    Raises:
        UserError: no model in `model_folder`, a prompt that fills the context, chat without a template, or a backend
            that is not installed.
    """
    complete: Callable[..., None]
    if settings.backend == "vllm":  # an optional extra
        from stages.generation.vllm_backend import complete_with_vllm as complete
    else:
        from stages.generation.transformers_backend import complete_with_transformers

        complete = partial(complete_with_transformers, adapter=adapter, bare=bare)
    context, tokenizer = context_length(model_folder), load_tokenizer(model_folder)
    rows = rows_to_generate(requests, tokenizer, context, model_folder, prompt, settings)
    done: dict[int, Completion] = {}

    def collect(index: int, completion: Completion) -> None:
        done[index] = completion
        on_completion(index, completion)

    if rows:
        stops = stop_ids(model_folder, tokenizer)
        complete(model_folder, rows, Detokenizer(tokenizer), stops, settings, collect)
    return [done[index] for index in range(len(requests))]


def rows_to_generate(
    requests: Sequence[SampleRequest],
    tokenizer: Any,
    context: int | None,
    model_folder: Path,
    prompt: PromptSettings,
    settings: GenerationSettings,
) -> list[BatchRow]:
    """Return the requests rendered and tokenized, each with its token limit and random stream."""
    raw = list(dict.fromkeys(request.text for request in requests))
    rendered = {key: render_prompt(key[0], tokenizer, prompt) for key in raw if key[1] is None}
    ids = dict(zip(rendered, encode_prompts(list(rendered.values()), tokenizer), strict=True))
    for text, suffix in raw:
        if suffix is not None:
            parts = render_infill(text, suffix, tokenizer, prompt.control_tokens)
            ids[text, suffix] = encode_parts(parts, tokenizer)
    endings = {
        key: ending_for(key[0], rendered[key], prompt, settings.ending)
        if key[1] is None
        else Ending("none", False)
        for key in raw
    }
    rows = []
    for index, request in enumerate(requests):
        own, limit = ids[request.text], settings.max_new_tokens
        limit = min(limit, context - len(own)) if context else limit
        if limit < 1 or not own:
            raise UserError(
                f"{request.name} has {len(own)} tokens, and the context of {model_folder} is {context}. Use a model "
                "with a longer context, or exclude the problem from the benchmark."
            )
        stream = random_stream_key(settings.seed, request)
        rows.append(BatchRow(index, own, endings[request.text], limit, stream, request.name))
    return rows


def random_stream_key(seed: int, request: SampleRequest) -> int:
    """Return the key of a sample's random numbers, which depends on seed, prompt and sample number only."""
    text = f"{seed}:{request.sample}:{request.prompt}{request.suffix or ''}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16], "big")


def context_length(folder: Path) -> int | None:
    """Return the context length of a folder's model in tokens, None where it has no limit.

    Raises:
        UserError: the folder holds no model.
    """
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model (no config.json). Run `dvc repro` to make it.")
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def stop_ids(folder: Path, tokenizer: Any) -> set[int]:
    """Return tokens that end a sample: the model's own, and every special token (end of turn, of document).

    Where special tokens mark thinking, they are part of the answer, and only the model's own end it.
    """
    from transformers import GenerationConfig

    declared = None
    if (folder / "generation_config.json").is_file():
        declared = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    ids = declared if isinstance(declared, list) else [declared]
    others = [] if marks_thinking(tokenizer) else special_tokens(tokenizer)
    return {i for i in (*ids, tokenizer.eos_token_id, *others) if i is not None}
