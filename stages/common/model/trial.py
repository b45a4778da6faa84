"""Try an architecture on a few of its layers with random weights: whether it trains, and how it reads documents.

Together: the row's documents pass through the model at once, kept apart by our attention. Alone: one document after
another, with transformers' own attention, for layers that mix tokens by other means (recurrences, convolutions, ALiBi)
or that do not call AttentionInterface with what they are given.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.common.core.errors import UserError
from stages.common.model.attention.interface import ATTENTION_NAME, register_attention
from stages.common.model.checks import try_model
from stages.common.model.packed_model import PackedModel

TRIAL_VOCABULARY = 64
FEW_LAYERS = 4  # models of so few are tried whole
TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")


def must_read_alone(folder: Path, attention: str = "auto", device: str = "cpu", where: str = "") -> bool:
    """Return whether the model of a folder must read one document at a time; needs its config.json alone.

    Args:
        attention: `train.attention`.
        device: to run on.
        where: what messages call the folder.

    Raises:
        UserError: it cannot be trained either way; says why.
    """
    from transformers import AutoConfig

    register_attention()
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    where = where or str(folder)
    refuse_dynamic_rope(where, config)
    failure = UserError(f"{where}: transformers cannot build the model. Choose another base.")
    for alone in (False, True):
        model = few_layers(config, alone)
        if model is None:
            continue
        try:
            try_model(PackedModel(model.to(device).eval(), attention), where)
        except UserError as error:
            failure = error
        else:
            return alone
    raise failure


def refuse_dynamic_rope(where: str, config: Any) -> None:
    """Raise UserError if the rope of a document depends on the documents read before it."""
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    longest = getattr(text, "max_position_embeddings", None) or 0
    original = rope.get("original_max_position_embeddings") or longest
    if rope.get("rope_type") == "dynamic" and longest > original:
        raise UserError(
            f"{where}: config.json asks for rope_type dynamic, with which a text of more than {original} tokens changes "
            f"how the next is read. Remove it from config.json, and set max_position_embeddings to {original}."
        )


def few_layers(config: Any, alone: bool) -> Any:
    """Return a model in float32 of the first layers, as many as have one of each kind, and of few tokens.

    None: transformers cannot build it, as this architecture does not know our attention.
    """
    from transformers import AutoModelForCausalLM

    shortened = shorten(config, layers_with_each_kind(config))
    options = {} if alone else {"attn_implementation": ATTENTION_NAME}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model = AutoModelForCausalLM.from_config(shortened, dtype=torch.float32, **options)
        except (KeyError, ValueError):  # an old table of attention classes
            return None
    model.reads_alone = alone
    return model


def shorten(config: Any, layers: int) -> Any:
    """Return the configuration of the first `layers` layers: lists with an entry for each layer are cut."""
    changed = config.to_dict()
    text = config.get_text_config()
    part = (
        changed
        if text is config
        else next(
            v for v in changed.values() if isinstance(v, dict) and v.get("model_type") == text.model_type
        )
    )
    count = text.num_hidden_layers
    part |= {
        key: value[:layers] for key, value in part.items() if isinstance(value, list) and len(value) == count
    }
    names = type(text).attribute_map
    part |= {
        names.get("num_hidden_layers", "num_hidden_layers"): layers,
        names.get("vocab_size", "vocab_size"): TRIAL_VOCABULARY,
    }
    part |= {name: 0 for name in TOKEN_IDS if part.get(name) is not None}
    return type(config).from_dict(changed)


def layers_with_each_kind(config: Any) -> int:
    """Return how many of the first layers there must be to have one of each kind."""
    from transformers import AutoModelForCausalLM

    text = config.get_text_config()
    count = text.num_hidden_layers
    if count <= FEW_LAYERS:
        return count
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    layers = next((m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count), ())
    types = getattr(text, "layer_types", None) or [None] * count
    kinds = [
        (types[i], *((name, type(part)) for name, part in layer.named_modules()))
        for i, layer in enumerate(layers)
    ]
    return max((kinds.index(kind) for kind in kinds), default=count - 1) + 1
