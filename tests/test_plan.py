"""The plan: what a configuration will take and what is odd about it, before anything is spent."""

import pytest

from stages.common.errors import UserError
from stages.common.flops import linear_shapes, training_flops

TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 640,
}


def test_operations_are_those_of_the_products_counted_by_pytorch() -> None:
    """One document of one layer's shapes: PyTorch's own counter over the same products, forward and backward."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    tokens, rank = 12, 4
    with FlopCounterMode(display=False) as counter:
        for inputs, outputs in linear_shapes(TINY).values():
            x = torch.randn(tokens, inputs, requires_grad=True)
            a = torch.randn(rank, inputs, requires_grad=True)
            b = torch.randn(outputs, rank, requires_grad=True)
            (x @ torch.randn(outputs, inputs).T + (x @ a.T) @ b.T).sum().backward()
    counted = TINY["num_hidden_layers"] * counter.get_total_flops()
    attention = 2 * 3 * 4 * 64 * tokens * (tokens + 1) / 2
    assert training_flops(TINY, [tokens], 0, rank) == counted + attention


def test_operations_of_the_head_are_of_labelled_tokens_and_of_attention_of_documents() -> None:
    whole, apart = training_flops(TINY, [100], 0, 0), training_flops(TINY, [50, 50], 0, 0)
    assert whole - apart == 2 * 3 * 4 * 64 * (100 * 101 - 2 * 50 * 51) / 2
    assert training_flops(TINY, [100], 10, 0) - whole == 4 * 10 * 64 * 640
    some = training_flops(TINY, [100], 0, 8, ["q_proj"])
    assert some - whole == 2 * 6 * 100 * 8 * (64 + 64)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"hidden_size": 64}, "lacks num_hidden_layers"),
        ({**TINY, "num_local_experts": 8}, "num_local_experts"),
    ],
)
def test_shapes_that_are_not_known_are_told(config: dict[str, int], told: str) -> None:
    with pytest.raises(UserError, match=told):
        training_flops(config, [10], 1, 4)
