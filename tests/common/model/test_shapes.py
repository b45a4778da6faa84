"""One count of a model's weights and of training's operations, from modules: for plan, share of the peak and adapter."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from stages.common.model.shapes import empty_model, model_shapes, training_flops


@pytest.mark.parametrize(
    ("kind", "changes", "linear"),
    [
        ("phi3", {"pad_token_id": 0}, {"self_attn.qkv_proj": (64, 128), "mlp.gate_up_proj": (64, 256)}),
        ("gpt_neox", {}, {"attention.query_key_value": (64, 192), "mlp.dense_h_to_4h": (64, 128)}),
        ("starcoder2", {}, {"self_attn.k_proj": (64, 32), "mlp.c_fc": (64, 128), "mlp.c_proj": (128, 64)}),
    ],
)
def test_shapes_are_those_of_the_modules(kind: str, changes: dict[str, int], linear: dict[str, Any]) -> None:
    """On the meta device and on a CPU alike; operations as PyTorch counts them."""
    config = AutoConfig.for_model(
        kind, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=640, **changes,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    shapes = model_shapes(model)
    assert shapes == model_shapes(empty_model(config))
    assert shapes.linear_weights + shapes.other == sum(p.numel() for p in model.parameters())
    assert linear.items() <= {n.partition("layers.0.")[2]: s for n, s in shapes.linear.items()}.items()
    assert len(shapes.linear) == 2 * (6 if kind == "starcoder2" else 4)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    states = torch.randn(1, 9, 64, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        model(inputs_embeds=states, use_cache=False).logits.sum().backward()
    attention = 3 * 2 * 2 * 2 * 64 * 9 * 9  # of 2 layers, whole instead of causal
    ours = training_flops(shapes, [9], 9) - 3 * 2 * 4 * 64 * 9 * 10 / 2
    assert counter.get_total_flops() == ours + attention
