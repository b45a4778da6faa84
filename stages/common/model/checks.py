"""Check that a model can be trained on packs: by its config.json before loading, on six tokens after."""

from pathlib import Path
from typing import Any

import torch

from stages.common.core.errors import UserError
from stages.common.model.attention.interface import IMPLEMENTATIONS, missing_features, suggest_attention
from stages.common.model.attention.kernels import FLASH_LARGEST_HEAD, AttentionSpec, flash_available_on
from stages.common.model.packed_model import PackedModel

KNOWN_LAYER_TYPES = {"full_attention", "sliding_attention"}
CUDA_ATTENTIONS = ("sdpa", "flex", "flash")
CPU_ATTENTIONS = ("dense", "sdpa")  # PyTorch's FlexAttention has no backward pass on a CPU
# Share of the change that tokens see in their own document, or of the largest logit. Only mixtures of experts, which
# batch the tokens of a row, round a little differently
TOLERANCE = 0.05


def refuse_attention(folder: Path, config: Any, attention: str, dtype: str) -> None:
    """Refuse, before a model is loaded, an attention that cannot train it on this machine.

    Args:
        config: of the model, as transformers reads it.
        attention: `train.attention`.
        dtype: of computation, by name.

    Raises:
        UserError: there is no GPU, it is too old, or the model needs what the implementation does not support.
    """
    if getattr(config, "attention_chunk_size", None) is not None:
        raise UserError(
            f"{folder}: config.json sets attention_chunk_size, which training does not support. Choose another base."
        )
    others = set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYER_TYPES
    if others:
        raise UserError(
            f"{folder}: config.json has layers of {', '.join(sorted(others))}, in which documents of a pack see each "
            f"other. Choose a base with layers of {' and '.join(sorted(KNOWN_LAYER_TYPES))} only."
        )
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
    able = [name for name in IMPLEMENTATIONS if not missing_features(name, spec)]
    candidates = [attention] if attention != "auto" else list(CUDA_ATTENTIONS if cuda else CPU_ATTENTIONS)
    if not set(able) & set(candidates):
        missing = " and ".join(missing_features(candidates[-1], spec))
        raise UserError(
            f"train.attention={attention} on {'CUDA' if cuda else 'a CPU'} does not support {missing}, which {folder} "
            f"needs. {suggest_attention(spec)}"
        )
    if attention == "flash":
        refuse_flash(config, dtype)


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


def try_model(model: PackedModel, folder: Path) -> None:
    """Run the model on two documents of three tokens, as training will run it.

    An architecture whose layers do not pass `lengths` on to their attention, or that mixes tokens by other means
    (convolutions, recurrences), would silently train on documents that leak into each other.

    Raises:
        UserError: a token sees another document or a later token, the head is more than a product, or the model does
            not run.
    """
    name = type(model.causal).__name__
    head = model.causal.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise UserError(
            f"{folder}: the loss does not support the head of {name}: it has a bias, or there is no head. "
            "Choose another base."
        )
    try:
        leak, error = measure_leak_and_head_error(model)
    except UserError:
        raise
    except Exception as problem:
        raise UserError(
            f"{folder}: {name} does not run on rows of documents ({problem}). Choose another base."
        ) from problem
    if leak > TOLERANCE:
        raise UserError(
            f"{folder}: {name} lets a token see other documents of its pack, or later tokens. Choose a base whose "
            f"layers pass keyword arguments on to transformers' AttentionInterface and mix tokens in no other way."
        )
    if error > TOLERANCE:
        raise UserError(
            f"{folder}: the loss does not support the head of {name}: it is more than a product. Choose another base."
        )


@torch.no_grad()
def measure_leak_and_head_error(model: PackedModel) -> tuple[float, float]:
    """Measure how much tokens leak to where they must not be seen, and how far the head is from a plain product.

    Changes the first and the last token of a row. The leak is the change in the tokens that must not see them, as a
    share of the change in those that do; the error is the difference between states times head and the model's own
    logits, as a share of the largest logit.
    """
    row = torch.arange(1, 7, device=model.device)[None]
    changed = row.clone()
    changed[0, [0, 5]] += 6
    documents: dict[str, Any] = {
        "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]], device=model.device),
        "lengths": (3, 3),
    }
    states, changed_states = (model.hidden(input_ids=ids, **documents)[0] for ids in (row, changed))
    change = (states - changed_states).abs().amax(-1)
    ours = states @ model.causal.get_output_embeddings().weight.t()
    logits = model.causal(input_ids=row, use_cache=False, attention=model.attention, **documents).logits[0]
    leak, error = change[3:5].max() / change[1:3].max(), (ours - logits).abs().max() / logits.abs().max()
    return float(leak), float(error)
