"""What training on packs relies on of a model: told by its config.json before it is loaded, tried on six tokens after."""

from pathlib import Path
from typing import Any

import torch

from stages.common.errors import UserError
from stages.common.model.attention.interface import IMPLEMENTATIONS, missing_features, suggest_attention
from stages.common.model.attention.kernels import FLASH_LARGEST_HEAD, AttentionSpec, flash_available_on
from stages.common.model.packed_model import PackedModel

KNOWN_LAYER_TYPES = {"full_attention", "sliding_attention"}
CUDA_ATTENTIONS = ("sdpa", "flex", "flash")
CPU_ATTENTIONS = ("dense", "sdpa")  # PyTorch's FlexAttention has no backward pass on a CPU
# of the change that tokens see in their own document, or of the largest logit; experts, which take the tokens of a
# row together, round a little differently, and nothing else does
TOLERANCE = 0.05


def refuse_attention(folder: Path, config: Any, attention: str, dtype: str) -> None:
    """Say before a model is loaded that it cannot be trained with this attention on this machine.

    Args:
        config: of the model, as transformers reads it.
        attention: `train.attention`.
        dtype: of computation, by name.

    Raises:
        UserError: no GPU, one too old, or a model that needs what the implementation does not do.
    """
    if getattr(config, "attention_chunk_size", None) is not None:
        raise UserError(f"{folder}: config.json sets attention_chunk_size, which training does not do")
    others = set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYER_TYPES
    if others:
        raise UserError(
            f"{folder}: config.json has layers of {', '.join(sorted(others))}, in which documents of a pack see each "
            f"other. Training knows {' and '.join(sorted(KNOWN_LAYER_TYPES))}."
        )
    cuda = torch.cuda.is_available()
    if attention in ("flex", "flash") and not cuda:
        raise UserError(
            f"train.attention={attention} needs a CUDA GPU, and PyTorch sees none. Set train.attention=auto."
        )
    if attention == "dense" and cuda:
        raise UserError("train.attention=dense computes on a CPU alone. Set train.attention=auto.")
    needed = AttentionSpec(
        lengths=(1,),
        scale=1.0,
        dropout=getattr(config, "attention_dropout", None) or 0.0,
        softcap=getattr(config, "attn_logit_softcapping", None),
    )
    able = [name for name in IMPLEMENTATIONS if not missing_features(name, needed)]
    candidates = [attention] if attention != "auto" else list(CUDA_ATTENTIONS if cuda else CPU_ATTENTIONS)
    if not set(able) & set(candidates):
        needs = " and ".join(missing_features(candidates[-1], needed))
        raise UserError(
            f"train.attention={attention} on {'CUDA' if cuda else 'a CPU'} does not do {needs}, which {folder} needs. "
            f"{suggest_attention(needed)}"
        )
    if attention == "flash":
        refuse_flash(config, dtype)


def refuse_flash(config: Any, dtype: str) -> None:
    """Raises UserError where FlashAttention-2 does not run on this GPU, in this precision, with heads of this size."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    reasons = {
        "a GPU of compute capability 8.0 or more": flash_available_on(torch.device("cuda", 0)),
        "train.dtype=bfloat16": dtype != "float32",
        f"heads of a multiple of 8 up to {FLASH_LARGEST_HEAD}, not of {size}": size % 8 == 0
        and size <= FLASH_LARGEST_HEAD,
    }
    missing = [reason for reason, given in reasons.items() if not given]
    if missing:
        raise UserError(f"train.attention=flash needs {' and '.join(missing)}. Set train.attention=auto.")


def try_model(model: PackedModel, folder: Path) -> None:
    """Run the model on two documents of three tokens, as it will be run in training.

    An architecture whose layers do not hand `lengths` on to their attention, or that mixes tokens by other means
    (convolutions, recurrences), would train on documents that run into each other without a word.

    Raises:
        UserError: a document sees the one before it, a token the one after it, the head does more than a product, or
            the model does not run.
    """
    name = type(model.causal).__name__
    head = model.causal.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise UserError(
            f"{folder}: the loss does not know the head of {name}: it has a bias, or there is none"
        )
    try:
        leak, error = measure_leak_and_head_error(model)
    except UserError:
        raise
    except Exception as problem:
        raise UserError(f"{folder}: {name} does not run on rows of documents: {problem}") from problem
    if leak > TOLERANCE:
        raise UserError(
            f"{folder}: {name} lets a token see other documents of its pack, or what comes after it. Its layers must "
            f"hand keyword arguments on to transformers' AttentionInterface, and mix tokens in no other way."
        )
    if error > TOLERANCE:
        raise UserError(f"{folder}: the loss does not know the head of {name}: it does more than a product")


@torch.no_grad()
def measure_leak_and_head_error(model: PackedModel) -> tuple[float, float]:
    """How far the row's first and last tokens reach tokens that must not see them, as a share of how far the first
    reaches those that do; how far logits of states and head are from the model's own, as a share of the largest.
    """
    row = torch.arange(1, 7, device=model.device)[None]
    changed = row.clone()
    changed[0, [0, 5]] += 6
    documents: dict[str, Any] = {
        "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]], device=model.device),
        "lengths": (3, 3),
    }
    states, others = (model.hidden(input_ids=ids, **documents)[0] for ids in (row, changed))
    moved = (states - others).abs().amax(-1)
    ours = states @ model.causal.get_output_embeddings().weight.t()
    logits = model.causal(input_ids=row, use_cache=False, attention=model.attention, **documents).logits[0]
    leak, error = moved[3:5].max() / moved[1:3].max(), (ours - logits).abs().max() / logits.abs().max()
    return float(leak), float(error)
