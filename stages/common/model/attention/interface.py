"""Attention within each document of a row, registered with transformers as the implementation `documents`.

The forward pass of a model takes `lengths`, the tokens of each document in the row, and `attention`, the way to compute
it (`train.attention`); no token sees another document. transformers' own isolation (position_ids that restart) makes
a mask over the whole row: the work grows with the square of the row, of which a row of short documents needs a small
part.

What a layer keeps for backward beside queries, keys and values: `dense` the probabilities, for each head and document
of n tokens about n * (n + BLOCK_TOKENS) / 2 numbers (n^2 for one of up to BLOCK_TOKENS; padding to the length of its
like adds at most PADDING); the others their output and a number a token and head. With gradient checkpointing all of it is made again, a layer at a time.
"""

from collections.abc import Sequence
from typing import Any

import torch

from stages.common.errors import UserError
from stages.common.model.attention.dense import dense
from stages.common.model.attention.kernels import AttentionSpec, flash, flash_supports, flex, sdpa

ATTENTION_NAME = "documents"
# a row with a longer document goes to PyTorch's kernel: the probabilities kept for backward would be too many
DENSE_TOKENS = 1024

IMPLEMENTATIONS = {"dense": dense, "sdpa": sdpa, "flex": flex, "flash": flash}
SUPPORTED_FEATURES = {  # of the fields of Documents that not every one does
    "dense": (),
    "sdpa": ("window", "dropout"),
    "flex": ("window", "softcap"),
    "flash": ("window",),
}
# what else models ask of their attention
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
    """Causal attention within documents.

    Args:
        query: (1, heads, tokens, size). `key` and `value` may have fewer heads, a divisor of the queries'.
        lengths: tokens of each document, in order; their sum is the row's tokens.
        attention: one of `IMPLEMENTATIONS`, or auto.

    Returns:
        (1, tokens, heads, size), and None in the place of the weights.

    Raises:
        ValueError: the call is not one of a row of documents.
        UserError: the model asks for something that this attention does not do; ignoring it would change the model.
    """
    if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise ValueError("attention `documents` takes one row and no cache: use_cache=False")
    if attention_mask is not None:
        raise ValueError("attention `documents` takes no mask: documents are told by `lengths`")
    if lengths is None or sum(lengths) != query.shape[2]:
        raise ValueError(f"attention `documents` needs the lengths of a row of {query.shape[2]} tokens")
    for option in UNSUPPORTED_OPTIONS:
        if options.get(option) is not None:
            raise UserError(f"models/base: its attention uses {option}, which training does not do")
    causal = options.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        raise UserError("models/base: its attention looks ahead, which training does not do")
    window = options.get("sliding_window")
    documents = AttentionSpec(
        lengths=tuple(lengths),
        scale=scaling if scaling is not None else query.shape[-1] ** -0.5,
        window=window if window is not None and max(lengths) > window else None,
        dropout=dropout,
        softcap=options.get("softcap"),
    )
    return IMPLEMENTATIONS[choose_attention(attention, query, documents)](query, key, value, documents), None


def choose_attention(attention: str, query: torch.Tensor, documents: AttentionSpec) -> str:
    """The implementation for these queries: the one that was asked for, or for auto the fastest that does what the
    layer needs.

    On a CPU: dense for short documents, sdpa for others. On CUDA: flash; sdpa where that does not go (float32, old
    GPUs, dropout); flex for capped scores.

    Raises:
        UserError: none does.
    """
    if attention != "auto":
        candidates = [attention]
    elif query.device.type == "cuda":
        candidates = [*(["flash"] if flash_supports(query) else []), "sdpa", "flex"]
    else:
        candidates = [*(["dense"] if max(documents.lengths) <= DENSE_TOKENS else []), "sdpa"]
    for candidate in candidates:
        if not missing_features(candidate, documents):
            return candidate
    needs = ", ".join(missing_features(candidates[-1], documents))
    raise UserError(
        f"train.attention={attention} on {query.device.type} does not do {needs}, which models/base needs for a row "
        f"whose longest document has {max(documents.lengths)} tokens. {suggest_attention(documents)}"
    )


def missing_features(attention: str, documents: AttentionSpec) -> list[str]:
    """What the layer needs and the implementation does not do."""
    needed = {
        "window": documents.window is not None,
        "dropout": documents.dropout > 0,
        "softcap": documents.softcap is not None,
    }
    return [name for name, needs in needed.items() if needs and name not in SUPPORTED_FEATURES[attention]]


def suggest_attention(documents: AttentionSpec) -> str:
    able = [name for name in IMPLEMENTATIONS if not missing_features(name, documents)]
    if able:
        return f"These do: {', '.join(able)} (flex and flash on CUDA alone)."
    return "None does: set attention_dropout to 0 in its config.json."
