"""`evaluate.weights: adapter`: what generates is the trained model, the adapter on its quantized base."""

from pathlib import Path

import pytest
import torch

from stages.common.core.errors import UserError
from stages.common.model.load import load_frozen_model
from stages.common.model.packed_model import PackedModel
from stages.common.model.quantize import Quantization
from stages.common.model.trained import load_trained
from stages.common.text.settings import PromptSettings
from stages.evaluate.settings import EvaluateSettings
from stages.generation.completion import SampleRequest
from stages.generation.generate import generate
from stages.generation.settings import GenerationSettings
from stages.generation.transformers_backend import load_for_generation
from stages.train.lora_adapter import add_adapter, save_adapter
from stages.train.settings import Lora

DTYPE = "float32"


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an adapter that changes what its base says."""
    folder, quantization = tmp_path_factory.mktemp("adapter"), Quantization("nf4", True, DTYPE)
    adapted = add_adapter(load_frozen_model(tiny_model, quantization), Lora(rank=4, alpha=8), seed=0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    save_adapter(adapted, folder)
    quantization.save(folder)
    return folder


@torch.no_grad()
def test_logits_are_those_of_the_trained_model(tiny_model: Path, adapter: Path) -> None:
    ids = torch.tensor([[5, 9, 31, 7]])
    ours = load_for_generation(tiny_model, "auto", adapter)(input_ids=ids, use_cache=True).logits
    trained = PackedModel(load_trained(tiny_model, adapter)).eval()
    wanted = trained.head().logits(trained.hidden(ids, torch.arange(4)[None], (4,))[0])
    torch.testing.assert_close(ours[0], wanted, rtol=1e-4, atol=1e-4)
    base = load_for_generation(tiny_model, DTYPE)(input_ids=ids).logits
    assert (base - ours).abs().max() > 0.1


@torch.no_grad()
def test_without_its_adapter_it_is_the_base_as_training_quantized_it(tiny_model: Path, adapter: Path) -> None:
    ids = torch.tensor([[5, 9, 31, 7]])
    ours = load_for_generation(tiny_model, "auto", adapter, bare=True)(input_ids=ids, use_cache=True).logits
    quantized = PackedModel(load_frozen_model(tiny_model, Quantization.load(adapter))).eval()
    wanted = quantized.head().logits(quantized.hidden(ids, torch.arange(4)[None], (4,))[0])
    torch.testing.assert_close(ours[0], wanted, rtol=1e-4, atol=1e-4)
    assert (ours - load_for_generation(tiny_model, "auto", adapter)(input_ids=ids).logits).abs().max() > 0.1
    assert (ours - load_for_generation(tiny_model, DTYPE)(input_ids=ids).logits).abs().max() > 1e-4


def test_rows_of_several_threads_do_not_meet(tiny_model: Path, adapter: Path) -> None:
    requests = [SampleRequest(f"def f{number}(x):\n", 0, f"T/{number}") for number in range(6)]
    made = [
        generate(
            requests,
            tiny_model,
            PromptSettings(),
            GenerationSettings(max_new_tokens=8, batch_size=size),
            adapter=adapter,
        )
        for size in (1, 6)
    ]
    assert made[0] == made[1]


def test_another_dtype_and_vllm_are_refused(tiny_model: Path, adapter: Path) -> None:
    with pytest.raises(UserError, match=r"was trained in float32.* Set evaluate\.dtype=auto"):
        load_for_generation(tiny_model, "bfloat16", adapter)
    with pytest.raises(ValueError, match=r"transformers with evaluate\.weights: adapter"):
        EvaluateSettings(weights="adapter", backend="vllm")
    with pytest.raises(ValueError, match=r"transformers with evaluate\.quantized_base"):
        EvaluateSettings(quantized_base=True, backend="vllm")
