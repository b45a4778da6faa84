"""Attention within each document of a row, registered with transformers as the implementation `documents`.

The forward pass of a model takes `lengths`, the tokens of each document in the row, and `attention`, the way to compute
it (`train.attention`); no token sees another document. transformers' own isolation (position_ids that restart) makes
a mask over the whole row: its work grows with the square of the row's length, of which short documents need little.

What a layer keeps for backward besides queries, keys and values: with `dense`, the probabilities, about
n * (n + BLOCK_TOKENS) / 2 numbers for each head and document of n tokens (n^2 up to BLOCK_TOKENS; padding adds at most
MAX_PADDING); with the others, their output and one number per token and head. Gradient checkpointing recomputes all of
it, a layer at a time.
"""

from collections.abc import Sequence
from typing import Any

import torch

from stages.common.core.errors import UserError
from stages.common.model.attention.dense import dense
from stages.common.model.attention.kernels import AttentionSpec, flash, flash_supports, flex, sdpa

ATTENTION_NAME = "documents"
# Rows with a longer document go to PyTorch's kernel: dense would keep too many probabilities for backward
DENSE_TOKENS = 1024

IMPLEMENTATIONS = {"dense": dense, "sdpa": sdpa, "flex": flex, "flash": flash}
SUPPORTED_FEATURES = {  # the fields of AttentionSpec that not every implementation supports
    "dense": (),
    "sdpa": ("window", "dropout", "values of another size"),
    "flex": ("window", "softcap", "values of another size"),
    "flash": ("window",),
}
# Options that some models pass to their attention and no implementation here supports
UNSUPPORTED_OPTIONS = ("position_bias", "s_aux", "attention_chunk_size")


def register_attention() -> None:
    """Make `attn_implementation="documents"` known to transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, document_attention)


def document_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    lengths: Sequence[int] | None = None,
    attention: str = "auto",
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Compute causal attention within documents.

    Args:
        query: (1, heads, tokens, size). `key` and `value` may have fewer heads, a divisor of the queries'.
        lengths: tokens of each document, in order; their sum is the row's tokens.
        attention: one of `IMPLEMENTATIONS`, or auto.

    Returns:
        (1, tokens, heads, size), and None in place of the attention weights.

    Raises:
        ValueError: the inputs are not one row of documents.
        UserError: the model needs a feature that is not supported; ignoring it would change the model.
    """
    if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise ValueError("attention `documents` takes one row and no cache: set use_cache=False")
    if attention_mask is not None:
        raise ValueError("attention `documents` takes no mask: pass the documents' `lengths`")
    if lengths is None or sum(lengths) != query.shape[2]:
        raise ValueError(
            f"attention `documents` needs `lengths` that sum to the row's {query.shape[2]} tokens"
        )
    for option in UNSUPPORTED_OPTIONS:
        if options.get(option) is not None:
            raise UserError(
                f"models/base: its attention uses {option}, which training does not support. Choose another base."
            )
    causal = options.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        raise UserError(
            "models/base: its attention is not causal, which training does not support. Choose another base."
        )
    window = options.get("sliding_window")
    spec = AttentionSpec(
        lengths=tuple(lengths),
        scale=scaling if scaling is not None else query.shape[-1] ** -0.5,
        window=window if window is not None and max(lengths) > window else None,
        dropout=dropout,
        softcap=options.get("softcap"),
        value_size=value.shape[-1] if value.shape[-1] != query.shape[-1] else None,
    )
    return IMPLEMENTATIONS[choose_attention(attention, query, spec)](query, key, value, spec), None


def choose_attention(attention: str, query: torch.Tensor, spec: AttentionSpec) -> str:
    """Return the configured implementation, or for auto the fastest that supports what the layer needs.

    On a CPU: dense for short documents, sdpa for others. On CUDA: flash; sdpa where flash cannot run (float32, old
    GPUs, dropout); flex for capped scores.

    Raises:
        UserError: none supports it.
    """
    if attention != "auto":
        candidates = [attention]
    elif query.device.type == "cuda":
        candidates = [*(["flash"] if flash_supports(query) else []), "sdpa", "flex"]
    else:
        candidates = [*(["dense"] if max(spec.lengths) <= DENSE_TOKENS else []), "sdpa"]
    for candidate in candidates:
        if not missing_features(candidate, spec):
            return candidate
    missing = ", ".join(missing_features(candidates[-1], spec))
    raise UserError(
        f"train.attention={attention} on {query.device.type} does not support {missing}, which models/base needs for "
        f"a row whose longest document has {max(spec.lengths)} tokens. {suggest_attention(spec)}"
    )


def missing_features(attention: str, spec: AttentionSpec) -> list[str]:
    """Return the features that the layer needs and the implementation lacks."""
    needed = {
        "window": spec.window is not None,
        "dropout": spec.dropout > 0,
        "softcap": spec.softcap is not None,
        "values of another size": spec.value_size is not None,
    }
    return [name for name, needs in needed.items() if needs and name not in SUPPORTED_FEATURES[attention]]


def suggest_attention(spec: AttentionSpec) -> str:
    """Say in one sentence which values of `train.attention` support what the layer needs."""
    able = [name for name in IMPLEMENTATIONS if not missing_features(name, spec)]
    if able:
        return (
            f"Set train.attention to one that does: {', '.join(able)} (flex and flash need CUDA), or to auto."
        )
    return "None does; train.attention=auto then reads one document at a time."
