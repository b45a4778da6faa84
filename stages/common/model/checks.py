"""Check that a model can be trained on packs: by its config.json before loading, on six tokens after."""

import math
from pathlib import Path
from typing import Any

import torch

from stages.common.core.errors import UserError, one_line
from stages.common.model.attention.interface import missing_features, suggest_attention
from stages.common.model.attention.kernels import FLASH_LARGEST_HEAD, AttentionSpec, flash_available_on
from stages.common.model.packed_model import PackedModel, reads_alone

# Share of the change that tokens see in their own document, or of the largest logit. In float32 rounding is at most
# 4e-7, and the smallest leak of 80 architectures 5e-4 [measured]; in 16 bits mixtures of experts, which batch the
# tokens of a row, round differently
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.05}


TWO_DOCUMENTS: dict[str, Any] = {"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]]), "lengths": (3, 3)}


def refuse_attention(folder: Path, config: Any, attention: str, dtype: str) -> None:
    """Refuse, before a model is loaded, an attention that cannot train it on this machine; `auto` always can.

    Args:
        config: of the model, as transformers reads it.
        attention: `train.attention`.
        dtype: of computation, by name.

    Raises:
        UserError: there is no GPU, it is too old, or the model needs what the implementation does not support.
    """
    if attention == "auto":
        return
    cuda = torch.cuda.is_available()
    if attention in ("flex", "flash") and not cuda:
        raise UserError(
            f"train.attention={attention} needs a CUDA GPU, and PyTorch sees none. Set train.attention=auto."
        )
    if attention == "dense" and cuda:
        raise UserError("train.attention=dense runs on a CPU only. Set train.attention=auto.")
    spec = AttentionSpec(
        lengths=(1,),
        scale=1.0,
        dropout=getattr(config, "attention_dropout", None) or 0.0,
        softcap=getattr(config, "attn_logit_softcapping", None),
    )
    missing = " and ".join(missing_features(attention, spec))
    if missing:
        raise UserError(
            f"train.attention={attention} does not support {missing}, which {folder} needs. {suggest_attention(spec)}"
        )
    if attention == "flash":
        refuse_flash(config, dtype)


def refuse_dtype(dtype: str) -> None:
    """Refuse to train in a dtype that this machine only emulates.

    Raises:
        UserError: float16 without a GPU.
    """
    if dtype == "float16" and not torch.cuda.is_available():
        raise UserError(
            "train.dtype=float16 trains on CUDA GPUs only, and PyTorch sees none. Set train.dtype=bfloat16, which has "
            "the range of float32 and needs no scaled loss."
        )


def refuse_flash(config: Any, dtype: str) -> None:
    """Raise UserError if FlashAttention-2 cannot run on this GPU, in this dtype, with heads of this size."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    requirements = {
        "a GPU of compute capability 8.0 or more": flash_available_on(torch.device("cuda", 0)),
        "train.dtype=bfloat16": dtype != "float32",
        f"heads of a multiple of 8 up to {FLASH_LARGEST_HEAD}, not of {size}": size % 8 == 0
        and size <= FLASH_LARGEST_HEAD,
    }
    missing = [requirement for requirement, is_met in requirements.items() if not is_met]
    if missing:
        raise UserError(f"train.attention=flash needs {' and '.join(missing)}. Set train.attention=auto.")


def try_model(model: PackedModel, folder: Path | str) -> None:
    """Run the model on two documents of three tokens, as training will run it.

    An architecture whose layers do not pass `lengths` on to their attention, or that mixes tokens by other means
    (convolutions, recurrences), would silently train on documents that leak into each other.

    Raises:
        UserError: a token sees another document or a later token, the head is more than a product, or the model does
            not run.
    """
    name = type(model.causal).__name__
    if model.causal.get_output_embeddings() is None:
        raise UserError(f"{folder}: {name} has no head that the loss could use. Choose another base.")
    try:
        leak, error = measure_leak_and_head_error(model)
    except UserError:
        raise
    except Exception as problem:
        raise UserError(
            f"{folder}: {name} does not run on rows of documents ({one_line(problem, 200)}). Choose another base."
        ) from problem
    if not math.isfinite(leak + error):
        raise UserError(
            f"{folder}: {name} gives values that are not finite: its weights hold NaN or infinity, or overflow in this "
            "dtype. Choose another base, or a wider dtype."
        )
    tolerance = TOLERANCE[model.causal.dtype]
    if leak > tolerance:
        raise UserError(
            f"{folder}: {name} lets a token see other documents or later tokens. Choose another base."
        )
    if error > tolerance:
        raise UserError(
            f"{folder}: the loss does not support the head of {name}: it is more than a product with its weight, the "
            "bias, scale and cap of its config.json. Choose another base."
        )


@torch.no_grad()
def measure_leak_and_head_error(model: PackedModel) -> tuple[float, float]:
    """Measure how much tokens leak to where they must not be seen, and how far the head is from the model's own.

    Changes the first and the last token of the row's first document, and the last of its second. The leak is the change
    in the tokens that see none of them, as a share of the change in the token that sees the first; the error is the
    difference between the head's logits and the model's own, as a share of the largest logit.
    """
    row = torch.arange(1, 7)[None].to(model.device)
    changed = row.clone()
    changed[0, [0, 2, 5]] += 6
    states, changed_states = probe(model, row), probe(model, changed)
    change = (states - changed_states).abs().amax(-1)
    ours = model.head().logits(states)
    options: dict[str, Any] = {"attention": model.attention, **TWO_DOCUMENTS}
    if reads_alone(model.causal):
        row, ours, options = row[:, :3], ours[:3], {}
    else:
        options["position_ids"] = options["position_ids"].to(model.device)
    logits = model.causal(input_ids=row, use_cache=False, **options).logits[0]
    leak, error = change[3:5].max() / change[1], (ours - logits).abs().max() / logits.abs().max()
    return float(leak), float(error)


def refuse_changed_base(model: PackedModel, before: torch.Tensor, folder: Path) -> None:
    """Raise UserError if the base computes something else since it has the adapter, which is switched off for this.

    A layer that has a forward pass of its own, such as a router, loses it to the adapter's.

    Args:
        before: `probe` of the base without the adapter.
    """
    peft_model: Any = model.model
    with peft_model.disable_adapter():
        change = (probe(model) - before).abs().max() / before.abs().max()
    if not change <= TOLERANCE[model.causal.dtype]:
        raise UserError(
            f"{folder}: a layer that train.lora.target_modules names has a forward pass of its own, which the adapter "
            "would replace. Name plain linear layers, or set all-linear."
        )


@torch.no_grad()
def probe(model: PackedModel, row: torch.Tensor | None = None) -> torch.Tensor:
    """Return the states (6, size) of two documents of three tokens, `row` (1, 6)."""
    row = torch.arange(1, 7)[None] if row is None else row
    return model.hidden(input_ids=row, **TWO_DOCUMENTS)[0]
