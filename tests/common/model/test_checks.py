"""Which models train: those whose packs give what their documents give; every other ends in an error that says why."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from stages.common.core.errors import UserError
from stages.common.model import checks
from stages.common.model.attention.interface import ATTENTION_NAME, register_attention
from stages.common.model.checks import refuse_attention, try_model
from stages.common.model.load import load_frozen_model
from stages.common.model.packed_model import PackedModel
from stages.common.model.packs import IGNORED, flatten_packs
from stages.common.model.quantize import Quantization
from tests.helpers.lora_gradients import LENGTHS, pack, solo_packs
from tests.helpers.train_workplace import train_settings, workplace

FLOAT32 = Quantization("none", True, "float32")
SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BOTH = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
KNOWN = [  # model types, and what differs from SMALL
    ("llama", {}),
    ("qwen2", {}),
    ("qwen2", {"use_sliding_window": True, "max_window_layers": 0, **BOTH}),
    ("mistral", {"sliding_window": 8}),
    ("qwen3", {"head_dim": 16}),
    ("qwen3_moe", {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
    ("gemma", {"head_dim": 16}),
    ("gemma2", {"head_dim": 16, "final_logit_softcapping": None, "attn_logit_softcapping": None, **BOTH}),
    ("gemma3_text", {"head_dim": 16, **BOTH}),
    ("starcoder2", {}),
    ("phi3", {}),
    ("granite", {"embedding_multiplier": 3.0, "attention_multiplier": 0.1}),
    ("smollm3", {}),
]


def configuration(kind: str, changes: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(kind, **{**SMALL, **changes})


def model_of(config: Any) -> Any:
    """Random weights; what a model begins with as zeros or ones is moved, so that it counts."""
    from transformers import AutoModelForCausalLM

    register_attention()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION_NAME, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float(parameter.mean()), std=0.1)
    return model


@pytest.mark.parametrize(("kind", "changes"), KNOWN, ids=[f"{k}-{'-'.join(c)}" for k, c in KNOWN])
def test_a_pack_gives_what_transformers_gives_for_each_document(kind: str, changes: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    model = PackedModel(model_of(configuration(kind, changes)))
    model.eval()
    try_model(model, Path("models/base"))
    model.train()
    trained = [p for name, p in model.named_parameters() if "layers." in name]
    whole = pack(LENGTHS, vocabulary=96)
    loss = model(**flatten_packs([whole]))
    ours = torch.autograd.grad(loss, trained, allow_unused=True)

    model.causal.set_attn_implementation("eager")
    total = torch.zeros(())
    for part in solo_packs(whole):
        logits = model.causal(torch.tensor([part["input_ids"]]), use_cache=False).logits[0]
        labels = torch.tensor(part["labels"])[1:]
        total = total + cross_entropy(logits[:-1], labels, ignore_index=IGNORED, reduction="sum")
    torch.testing.assert_close(loss, total, rtol=1e-5, atol=0)
    theirs = torch.autograd.grad(total, trained, allow_unused=True)
    largest = max(float(t.abs().max()) for t in theirs if t is not None)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        assert a is None or b is None or (a - b).abs().max() <= 1e-5 * largest


REFUSED = [
    ("gemma2", {"head_dim": 16}, "sets final_logit_softcapping"),
    ("gemma2", {"head_dim": 16, "final_logit_softcapping": None}, "does not support softcap"),
    ("cohere", {}, "sets logit_scale"),
    ("granite", {"logits_scaling": 4.0}, "sets logits_scaling"),
    ("gpt_oss", {"head_dim": 8, "num_local_experts": 2}, "s_aux"),
    ("llama4_text", {"head_dim": 8, "num_local_experts": 2}, "sets attention_chunk_size"),
    ("mamba", {}, "layers of linear_attention"),
    ("phi", {}, "head of PhiForCausalLM: it has a bias"),
    ("rwkv", {"attention_hidden_size": 32}, "lets a token see other documents"),
    ("bloom", {}, "lets a token see other documents"),
    ("nemotron", {}, r"does not run on rows of documents \(.*lengths"),
    ("gptj", {"n_layer": 2, "rotary_dim": 4}, "does not load"),
]


@pytest.mark.parametrize(
    ("kind", "changes", "message"), REFUSED, ids=[f"{k}-{m[:20]}" for k, _, m in REFUSED]
)
def test_a_model_that_would_train_wrongly_is_refused(
    kind: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    config = configuration(kind, changes)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=message):
        load_frozen_model(tmp_path / "model", FLOAT32)


def test_a_head_that_does_more_than_a_product_is_refused(tiny_model: Path) -> None:
    model = PackedModel(load_frozen_model(tiny_model, FLOAT32))
    head = model.causal.get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, logits: 0.5 * logits)
    with pytest.raises(UserError, match="is more than a product"):
        try_model(model, tiny_model)


def test_attention_that_cannot_run_here_is_refused_before_the_model_is_loaded(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.train.__main__ import main

    monkeypatch.chdir(workplace(tmp_path / "place", tiny_model))
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *args, **options: 1 / 0)
    for name in ("flash", "flex"):
        with pytest.raises(UserError, match=rf"train\.attention={name} needs a CUDA GPU"):
            main(train_settings(attention=name))
    with pytest.raises(ZeroDivisionError):
        main(train_settings(attention="sdpa"))


def test_flash_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("models/base")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(checks, "flash_available_on", lambda device: True)
    config = configuration("llama", {})
    refuse_attention(folder, config, "flash", "bfloat16")
    with pytest.raises(UserError, match=r"dense runs on a CPU only"):
        refuse_attention(folder, config, "dense", "bfloat16")
    with pytest.raises(UserError, match=r"flash needs train\.dtype=bfloat16\."):
        refuse_attention(folder, config, "flash", "float32")
    with pytest.raises(UserError, match="multiple of 8 up to 256, not of 20"):
        refuse_attention(folder, configuration("llama", {"head_dim": 20}), "flash", "bfloat16")
    dropped = configuration("llama", {"attention_dropout": 0.1})
    with pytest.raises(UserError, match=r"flash on CUDA does not support dropout.*one that does: sdpa"):
        refuse_attention(folder, dropped, "flash", "bfloat16")
    refuse_attention(folder, dropped, "auto", "bfloat16")
    capped = configuration("gemma2", {"head_dim": 16})
    refuse_attention(folder, capped, "auto", "bfloat16")  # flex does it
    monkeypatch.setattr(checks, "flash_available_on", lambda device: False)
    with pytest.raises(UserError, match=r"compute capability 8\.0"):
        refuse_attention(folder, config, "flash", "bfloat16")
