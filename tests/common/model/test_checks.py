"""Which models train: those whose packs give what their documents give; every other ends in an error that says why."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from stages.common.core.errors import UserError
from stages.common.model import checks
from stages.common.model.attention.interface import ATTENTION_NAME
from stages.common.model.checks import refuse_attention, try_model
from stages.common.model.load import load_frozen_model
from stages.common.model.packed_model import PackedModel
from stages.common.model.packs import IGNORED, flatten_packs
from stages.common.model.quantize import Quantization
from stages.common.model.trial import few_layers, must_read_alone
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
LINEAR = {  # of Qwen's hybrids
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
    **{f"linear_num_{name}_heads": 2 for name in ("key", "value")},
    **{f"linear_{name}_head_dim": 8 for name in ("key", "value")},
}
MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
LATENT = {  # DeepSeek's attention: values are narrower than keys
    "num_key_value_heads": 4,
    **{"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12},
}
LONG = {  # the pack's longest document has 100 tokens
    "original_max_position_embeddings": 64,
    "rope_parameters": {
        **{"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64},
        **{"long_factor": [4.0] * 4, "short_factor": [1.0] * 4},
    },
}
KNOWN = [  # model types, and what differs from SMALL
    ("llama", {}),
    ("qwen2", {}),
    ("qwen2", {"use_sliding_window": True, "max_window_layers": 0, **BOTH}),
    ("mistral", {"sliding_window": 8}),
    ("qwen3", {"head_dim": 16}),
    ("qwen3_moe", {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
    ("gemma", {"head_dim": 16}),
    ("gemma2", {"head_dim": 16, "attn_logit_softcapping": None, "final_logit_softcapping": 1.0, **BOTH}),
    ("gemma3_text", {"head_dim": 16, **BOTH}),
    ("starcoder2", {}),
    ("phi", {}),
    ("phi3", {}),
    ("phi3", LONG),
    ("granite", {"embedding_multiplier": 3.0, "attention_multiplier": 0.1, "logits_scaling": 4.0}),
    ("cohere", {}),
    ("cohere2", {"head_dim": 8, **BOTH}),
    ("minicpm3", LATENT),
    ("smollm3", {}),
]
ALONE = [  # the same of those that read one document at a time
    ("gemma2", {"head_dim": 16, "attn_logit_softcapping": 1.0, **BOTH}),
    ("bloom", {}),
    ("falcon", {"alibi": True, "attention_dropout": 0.0, "hidden_dropout": 0.0}),
    ("gptj", {"n_layer": 2, "rotary_dim": 4, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}),
    ("nemotron", {}),
    ("gpt_oss", {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, **BOTH}),
    ("lfm2", {"layer_types": ["conv", "full_attention"]}),
    ("mamba", {"state_size": 8}),
    ("qwen3_next", {"mlp_only_layers": [0, 1], **LINEAR}),
    ("qwen3_5_text", LINEAR),
    ("falcon_h1", {"mamba_d_ssm": 64, "lm_head_multiplier": 0.5, **MAMBA}),
    ("granitemoehybrid", {"layer_types": ["mamba", "attention"], "num_local_experts": 0, **MAMBA}),
]


def configuration(kind: str, changes: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(kind, **{**SMALL, **changes})


def model_of(config: Any, alone: bool) -> Any:
    """Random weights; what a model begins with as zeros or ones is moved, so that it counts."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    options = {} if alone else {"attn_implementation": ATTENTION_NAME}
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **options)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float(parameter.mean()), std=0.1)
    model.reads_alone = alone
    return model


CASES = [(*one, alone) for alone, kinds in ((False, KNOWN), (True, ALONE)) for one in kinds]


@pytest.mark.parametrize(
    ("kind", "changes", "alone"), CASES, ids=[f"{k}-{'-'.join(c)}"[:40] for k, c, _ in CASES]
)
def test_a_pack_gives_what_transformers_gives_for_each_document(
    kind: str, changes: dict[str, Any], alone: bool, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    config = configuration(kind, changes)
    config.save_pretrained(tmp_path)
    assert must_read_alone(tmp_path) == alone
    model = PackedModel(model_of(config, alone)).train()
    ends = {
        id(layer.weight)
        for layer in (model.causal.get_input_embeddings(), model.causal.get_output_embeddings())
    }
    trained = [p for p in model.parameters() if id(p) not in ends and p.is_floating_point()]
    whole = pack(LENGTHS, vocabulary=96)
    loss = model(**flatten_packs([whole]))
    ours = torch.autograd.grad(loss, trained, allow_unused=True)

    if not alone:
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
        assert a is None or b is None or (a - b).abs().max() <= 1e-5 * largest


REFUSED = [
    (
        "llama4_text",
        {"head_dim": 8, "num_local_experts": 2},
        "Llama4ForCausalLM does not run on rows of documents",
    ),
    ("modernbert-decoder", {}, "the head of ModernBertDecoderForCausalLM: it is more than a product"),
    (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "dynamic",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
        "asks for rope_type dynamic",
    ),
]


@pytest.mark.parametrize(("kind", "changes", "message"), REFUSED, ids=[k for k, _, _ in REFUSED])
def test_an_architecture_that_would_train_wrongly_is_refused_by_its_configuration(
    kind: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    configuration(kind, changes).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        must_read_alone(tmp_path)


def test_a_trial_has_a_layer_of_each_kind_and_cut_lists() -> None:
    types = [
        "linear_attention",
        "linear_attention",
        "full_attention",
        "linear_attention",
        "full_attention",
        "full_attention",
    ]
    config = configuration("qwen3_5_text", {**LINEAR, "num_hidden_layers": 6, "layer_types": types})
    small = few_layers(config, alone=True).config
    assert (small.num_hidden_layers, small.layer_types) == (3, types[:3])
    assert (
        few_layers(configuration("llama", {"num_hidden_layers": 9}), alone=False).config.num_hidden_layers
        == 1
    )


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
    with pytest.raises(UserError, match=r"flash does not support dropout.*one that does: sdpa"):
        refuse_attention(folder, dropped, "flash", "bfloat16")
    refuse_attention(folder, dropped, "auto", "bfloat16")
    capped = configuration("gemma2", {"head_dim": 16})
    refuse_attention(folder, capped, "auto", "bfloat16")  # flex does it
    monkeypatch.setattr(checks, "flash_available_on", lambda device: False)
    with pytest.raises(UserError, match=r"compute capability 8\.0"):
        refuse_attention(folder, config, "flash", "bfloat16")
