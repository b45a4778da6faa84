"""Axolotl's configuration as codetune's. What each key means there: src/axolotl/utils/schemas of its 0.17."""

import re

from stages.migrate.axolotl_rows import carry_datasets
from stages.migrate.migration import Migration, Rules
from stages.migrate.places import carry_base
from stages.migrate.trainer_keys import (
    LOADING,
    LOST_IN_BOTH,
    NEEDLESS_IN_BOTH,
    OTHER_METHOD,
    SPEED,
    carry_dtype,
    carry_held_out,
    carry_optimizer,
    carry_processes,
    carry_schedule,
    carry_steps,
)

ADAPTER_ONLY = (
    "codetune trains LoRA adapters: set `adapter: qlora` with load_in_4bit there, and migrate again"
)
PREFERENCES = "codetune trains on answers, not on preferences or rewards; train with TRL or Axolotl itself"
REFUSED: Rules = (
    (r"rl|rl_.*|reward_model|process_reward_model|trl|ebft|vllm|dpo_.*|kto_.*|orpo_.*|simpo_.*|cpo_.*|center_rewards.*|num_labels", PREFERENCES),
    (r"relora.*|lisa_.*|qat|diffusion|unfrozen_parameters|llmcompressor|full_finetune", OTHER_METHOD),
    (r"processor_.*|image_.*|freeze_mm_modules", "codetune trains on text alone, not on images or sound"),
    (r"use_(eaft|pose)|use_onebitllms|model_quantization_config.*|fp8.*|gptq", OTHER_METHOD),
    (r"base_model_config|tokenizer_config", "config and tokenizer come from one folder: put them together, and set base_model to that folder"),
)  # fmt: skip
ADDED = "tokens cannot be added; give a base whose tokenizer has them (kind: local)"
LOST: Rules = (
    *LOST_IN_BOTH,
    (r"lora_modules_to_save|peft_trainable_token_indices", "embeddings and head stay frozen here; if new tokens need them, train with Axolotl itself"),
    (r"lora_target_parameters|lora_(rank|alpha)_pattern|peft_layer.*|quantize_moe_experts", "every adapted layer has one rank; train.lora.target_modules takes names or a pattern of layers"),
    (r"peft_init_lora_weights", "train.lora.init is default or loftq"),
    (r"lora_model_dir", "a training starts from a new adapter: merge the old one into its base, and set base to that folder"),
    (r"tokens|added_tokens_overrides|resize_token_embeddings_to_32x|fix_untrained_tokens|reinit_weights|shrink_embeddings", ADDED),
    (r"eot_tokens", "ends of turns are those of the chat template, which are trained on"),
    (r"trust_remote_code", "code of a repository is never run: base says if transformers' own classes cannot load the model"),
    (r"test_datasets", "validation rows are held out of the training rows: pack.validation_share"),
    (r"loss_watchdog_.*", "a loss that is not finite ends the training; train.early_stopping_patience watches the validation loss"),
    (r"min_sample_len", "clean.length counts characters, not tokens"),
    (r"cosine_constant_lr_ratio|jagged_.*|eta_min|lr_div_factor", "no such schedule here: train.schedule, train.min_learning_rate"),
    (r"chat_template_(jinja|kwargs)", "put the template into chat_template.jinja of a local copy of the model (base: local), or write it as prompt.template"),
    (r"overrides_of_model_(config|kwargs)|model_config|rope_scaling", "edit config.json in a local copy of the model (base: local)"),
    (r"(context_parallel|tensor_parallel|sequence_parallel|expert_parallel|dp_shard|dp_replicate).*", "one model a process, or FSDP: docs/train.md"),
    (r"skip_prepare_dataset|streaming.*|pretrain_multipack_.*|dataset_shard_.*", "data sets are read whole; fetch.sources[].max_rows takes a part"),
    (r"activation_offloading|layer_offloading|selective_checkpointing", "train.gradient_checkpointing is all there is; `python -m stages.plan` says what fits"),
)  # fmt: skip
NEEDLESS: Rules = (
    *NEEDLESS_IN_BOTH,
    (r"model_type|tokenizer_(type|use_fast|legacy|use_mistral_common|save.*)|cls_model_config|is_.*_derived_model", "read from the model's own config.json and tokenizer"),
    (r"flash_attn_.*|flash_optimum|.*_kernel|.*cross_entropy.*|tiled_mlp.*|unsloth_.*|pad_to_.*|fused_.*|use_scattermoe|use_sonicmoe|batch_flattening|gc_(steps|collect_steps)|torch_empty_cache_steps|flex_attn_compile_kwargs|sdpa_varlen|experts_implementation|embeddings_skip_upcast|fp32_norms", SPEED),
    (r"dataset_(prepared_path|processes|num_proc|keep_in_memory|exact_deduplication)|sample_packing_.*|eval_(sample_packing|table_size|sequence_len|max_new_tokens)|do_(causal_lm|bench)_eval|total_num_tokens|multipack_real_batches|preprocess.*", LOADING),
    (r"strict|debug|torch_dtype|lora_fan_in_fan_out|lora_on_cpu|merge_.*|gptq_.*|qlora_sharded_model_loading|experimental_.*|torchdistx_path|fsdp_.*|base_model_ignore_patterns|peft_(autocast_adapter_dtype|ensure_weight_tying)|axolotl_config_path", "has no effect on what is trained here"),
)  # fmt: skip
SPEED_PLUGINS = r".*(liger|cut_cross_entropy|spectrum_none|kernels).*"
ATTENTION = {
    **dict.fromkeys(("flash_attention_2", "flash_attention_3"), "flash"),
    **{"sdpa": "sdpa", "flex_attention": "flex", "eager": "dense"},
}
LEGACY_ATTENTION = {
    **{"flash_attention": "flash_attention_2", "sdp_attention": "sdpa", "flex_attention": "flex_attention"},
    **{"eager_attention": "eager", "xformers_attention": "xformers", "sage_attention": "sage"},
}


def migrate_axolotl(m: Migration, ask: bool = False) -> None:
    """Fill a migration from Axolotl's keys."""
    adapter = m.get("adapter")
    if adapter not in ("lora", "qlora"):
        m.refusals.append(f"adapter: {adapter}: {ADAPTER_ONLY}")
    for key in ("base_model_config", "tokenizer_config"):
        if m.get(key) == m.get("base_model"):
            m.needless(key, "is the base model itself")
    carry_base(m, "base_model", "revision_of_model", ask)
    carry_quantization(m)
    carry_lora(m)
    carry_length(m)
    carry_optimizer(m, "optimizer", "adamw_torch_fused")
    carry_schedule(m, "lr_scheduler", "lr_scheduler_kwargs", "cosine", 0.03)
    ratio = m.get("cosine_min_lr_ratio")
    if ratio and m.settings["train.schedule"] == "cosine":
        m.carry("cosine_min_lr_ratio", "train.min_learning_rate", float(ratio))
    carry_steps(m, "micro_batch_size", "num_epochs", 1, 1.0)
    carry_dtype(
        m,
        ("bf16", "bfloat16"),
        ("fp16", "float16"),
        "float32" if m.get("bf16", "auto") is False else "bfloat16",
    )
    carry_attention(m)
    checkpointing = m.get("gradient_checkpointing", False)
    note = f"not {checkpointing}" if isinstance(checkpointing, str) else ""
    m.carry("gradient_checkpointing", "train.gradient_checkpointing", bool(checkpointing), note)
    carry_held_out(m, "val_set_size")
    deepspeed = "deepspeed" if m.get("deepspeed") else ""
    sharded = next((key for key in ("fsdp", "fsdp_config") if m.get(key)), "")
    carry_processes(m, sharded or (deepspeed if "zero3" in str(m.get("deepspeed")) else ""), deepspeed)
    carry_datasets(m, ask)
    carry_tokens_and_plugins(m)
    m.tell_rest(REFUSED, LOST, NEEDLESS)


def carry_quantization(m: Migration) -> None:
    """Carry how the frozen base is stored: load_in_4bit is nf4 with double quantization, unless kwargs say else."""
    four, eight = m.get("load_in_4bit", False), m.get("load_in_8bit", False)
    kwargs = dict(m.get("bnb_config_kwargs", {}))
    kind = str(kwargs.pop("bnb_4bit_quant_type", "nf4")) if four else "int8" if eight else "none"
    double = bool(kwargs.pop("bnb_4bit_use_double_quant", True))
    m.carry("load_in_4bit" if four or not eight else "load_in_8bit", "train.quantization", kind)
    m.settings["train.double_quantization"] = double
    if kwargs:
        m.lose(
            "bnb_config_kwargs",
            f"train.quantization and double_quantization are all there is; left: {kwargs}",
        )
    elif m.get("bnb_config_kwargs"):
        m.carry("bnb_config_kwargs", "train.double_quantization", double)
    if four and eight:
        m.refuse("load_in_8bit", "load_in_4bit is on as well: choose one")
    for key in ("load_in_4bit", "load_in_8bit"):
        if key in m.given and key not in m.told() and not m.get(key):
            m.needless(key, f"train.quantization is {kind}")
    if m.get("adapter"):
        m.carry("adapter", "train.quantization", kind, "a LoRA adapter on the base in this form")


def carry_lora(m: Migration) -> None:
    m.carry("lora_r", "train.lora.rank", int(m.number("lora_r", 8)))
    m.carry("lora_alpha", "train.lora.alpha", int(m.number("lora_alpha", 8)))
    m.carry("lora_dropout", "train.lora.dropout", m.number("lora_dropout", 0.0))
    names = m.get("lora_target_modules", [])
    if m.get("lora_target_linear"):
        m.carry("lora_target_linear", "train.lora.target_modules", "all-linear")
        if names:
            m.needless("lora_target_modules", "lora_target_linear has them all")
    elif names == "all-linear" or names:
        m.carry("lora_target_modules", "train.lora.target_modules", names)
    elif m.get("adapter"):
        m.refuse("lora_target_modules", "neither these nor lora_target_linear say what is adapted")
    m.carry("peft_use_rslora", "train.lora.rslora", bool(m.get("peft_use_rslora", False)))
    m.carry("peft_use_dora", "train.lora.dora", bool(m.get("peft_use_dora", False)))
    m.carry("loraplus_lr_ratio", "train.lora.loraplus_lr_ratio", m.number("loraplus_lr_ratio", 1.0))
    if bits := (m.get("peft", {}).get("loftq_config") or {}).get("loftq_bits"):
        kind = {4: "nf4", 8: "int8"}.get(bits, "nf4")
        m.settings["train.quantization"] = kind  # what A and B make up for
        m.carry("peft", "train.lora.init", "loftq", f"train.quantization: {kind}")


def carry_length(m: Migration) -> None:
    m.carry("sequence_len", "pack.max_length", int(m.number("sequence_len", 512)))
    strategy = str(m.get("excess_length_strategy", "drop"))
    ours = {"drop": "drop", "truncate": "truncate", "raise": "fail"}.get(strategy, "drop")
    note = "an answer stays whole: a row with a longer one is dropped" if ours == "truncate" else ""
    m.carry("excess_length_strategy", "pack.overlong", ours, note)
    packed = bool(m.get("sample_packing", False))
    m.carry("sample_packing", "pack.max_documents", 0 if packed else 1, "" if packed else "one row a pack; 0 fills packs, which trains faster")  # fmt: skip


def carry_attention(m: Migration) -> None:
    legacy = next((key for key in LEGACY_ATTENTION if m.get(key)), None)
    key = "attn_implementation" if m.get("attn_implementation") or not legacy else legacy
    named = str(m.get("attn_implementation") or LEGACY_ATTENTION.get(legacy or "", "auto"))
    if named in (*ATTENTION, "auto"):
        m.carry(key, "train.attention", ATTENTION.get(named, "auto"))
    else:
        m.settings["train.attention"] = "auto"
        m.lose(key, "no such attention here: train.attention is auto, the fastest one of the machine")


def carry_tokens_and_plugins(m: Migration) -> None:
    tokens = dict(m.get("special_tokens", {}))
    if tokens.pop("pad_token", None) and not tokens:
        m.needless("special_tokens", "nothing is padded with a token that is trained on")
    elif named := {name: text for name, text in tokens.items() if text}:
        m.lose("special_tokens", f"the tokenizer's own are used. If {', '.join(map(str, named.values()))} are those, nothing is lost; else edit tokenizer_config.json in a local copy (base: local)")  # fmt: skip
    if plugins := m.get("plugins"):
        others = [one for one in plugins if not re.fullmatch(SPEED_PLUGINS, str(one).lower())]
        if others:
            m.lose("plugins", f"no such plugin here: {', '.join(map(str, others))}")
        else:
            m.needless("plugins", SPEED)
