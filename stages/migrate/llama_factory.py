"""LLaMA-Factory's configuration as codetune's. What each key means there: src/llamafactory/hparams of its 0.9."""

from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError
from stages.common.core.files import read_json
from stages.migrate.migration import CARRIED, Migration, Rules
from stages.migrate.places import carry_base, carry_source
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

REFUSED: Rules = (
    (r"use_(galore|apollo|badam|llama_pro|adam_mini|dft_loss|asft_loss|eaft_loss|mca|megatron_bridge|hyper_parallel|kt)|mixture_of_depths|train_from_scratch|shift_attn|fp8", OTHER_METHOD),
    (r"predict_with_generate|do_predict", "this predicts instead of training: dvc repro evaluate@tuned scores the model"),
    (r"export_dir", "this merges instead of training: dvc repro merge writes models/merged"),
)  # fmt: skip
LOST: Rules = (
    *LOST_IN_BOTH,
    (r"additional_target", "embeddings and head stay frozen here"),
    (r"adapter_name_or_path|create_new_adapter", "a training starts from a new adapter: merge the old one into its base, and set base to that folder"),
    (r"pissa_.*", "train.lora.init is default or loftq"),
    (r"trust_remote_code", "code of a repository is never run: base says if transformers' own classes cannot load the model"),
    (r"resize_vocab|add_tokens|add_special_tokens|new_special_tokens_config|rope_scaling|model_max_length", "edit the tokenizer and config.json in a local copy of the model (base: local)"),
    (r"eval_dataset", "validation rows are held out of the training rows: pack.validation_share"),
    (r"interleave_probs|mix_strategy", "set fetch.rows and a weight for each source"),
    (r"streaming|tokenized_path", "data sets are read whole; fetch.sources[].max_rows takes a part"),
    (r"use_muon", "set train.optimizer: muon"),
    (r"default_system|tool_format|enable_thinking|preserve_thinking", "the tokenizer's own chat template decides; prompt.system is a system message for rows without one"),
    (r"upcast_layernorm|upcast_lmhead_output|split_special_tokens|moe_aux_loss_coef", "no such setting here"),
)  # fmt: skip
NEEDLESS: Rules = (
    *NEEDLESS_IN_BOTH,
    (r"use_unsloth.*|use_reentrant_gc|use_cache|use_v1_kernels|flash_attn_.*|double_quantization|quantization_device_map|gradient_checkpointing_kwargs", SPEED),
    (r"preprocessing_.*|overwrite_cache|buffer_size|data_shared_file_system|dataset_dir|media_dir|cache_dir|ignore_pad_token_for_loss|eval_on_each_dataset", LOADING),
    (r"do_(train|eval)|use_fast_tokenizer|infer_.*|print_param_status|compute_accuracy|fsdp_.*|freeze_.*|galore_.*|apollo_.*|badam_.*|(image|video|audio)_.*|do_sample|temperature|top_.|max_new_tokens", "has no effect on what is trained here"),
)  # fmt: skip
ATTENTION = {"auto": "auto", "disabled": "dense", "sdpa": "sdpa", "fa2": "flash"}
TURN_TAGS = {"role_tag": ("from", "role"), "content_tag": ("value", "content")}
# LLaMA-Factory's names of columns, and what a source of fetch says for them
COLUMN_NAMES = {
    "prompt": "prompt",
    "response": "completion",
    "messages": "messages",
    "system": "system",
    "tools": "tools",
}


def migrate_llama_factory(m: Migration, ask: bool = False, dataset_info: Path | None = None) -> None:
    """Fill a migration from LLaMA-Factory's keys.

    Args:
        dataset_info: its dataset_info.json; None: the one in dataset_dir, if it is there.
    """
    stage, method = str(m.get("stage", "sft")), str(m.get("finetuning_type", "lora"))
    if stage not in ("sft", "pt"):
        m.refuse("stage", "codetune trains on answers, not on preferences or rewards")
    if method != "lora":
        m.refuse(
            "finetuning_type",
            "codetune trains LoRA adapters: set `finetuning_type: lora` there, and migrate again",
        )
    for key, text in (
        ("stage", f"{stage} is what codetune does"),
        ("finetuning_type", "so is a LoRA adapter"),
    ):
        if key in m.given:
            m.needless(key, text)
    carry_base(m, "model_name_or_path", "model_revision", ask)
    carry_bits(m)
    carry_lora_keys(m)
    carry_cutoff(m, is_running_text=stage == "pt")
    carry_optimizer(m, "optim", "adamw_torch_fused")
    carry_schedule(m, "lr_scheduler_type", "lr_scheduler_kwargs", "linear", 0.0)
    carry_steps(m, "per_device_train_batch_size", "num_train_epochs", 8, 3.0)
    carry_dtype(m, ("bf16", "pure_bf16"), ("fp16",), "bfloat16")
    if m.get("pure_bf16"):
        m.lose("pure_bf16", "the adapter stays in float32, and train.dtype is bfloat16")
    named = str(m.get("flash_attn", "auto"))
    m.settings["train.attention"] = "auto"
    if named in ATTENTION:
        m.carry("flash_attn", "train.attention", ATTENTION[named])
    else:
        m.lose("flash_attn", "no such attention here: train.attention is auto")
    off = bool(m.get("disable_gradient_checkpointing", False)) or m.get("gradient_checkpointing") is False
    key = (
        "gradient_checkpointing" if "gradient_checkpointing" in m.given else "disable_gradient_checkpointing"
    )
    m.carry(key, "train.gradient_checkpointing", not off)
    carry_held_out(m, "val_size")
    deepspeed = "deepspeed" if m.get("deepspeed") else ""
    is_stage3 = any(mark in str(m.get("deepspeed")) for mark in ("z3", "zero3", "stage3"))
    carry_processes(m, "fsdp" if m.get("fsdp") else deepspeed if is_stage3 else "", deepspeed)
    carry_named_datasets(m, ask, dataset_info)
    carry_template(m, stage)
    m.tell_rest(REFUSED, LOST, NEEDLESS)


def carry_bits(m: Migration) -> None:
    bits, method = m.get("quantization_bit"), str(m.get("quantization_method", "bnb"))
    kind = {None: "none", 4: str(m.get("quantization_type", "nf4")), 8: "int8"}.get(bits, "nf4")
    if bits not in (None, 4, 8) or (bits and method not in ("bnb", "bitsandbytes")):
        m.settings["train.quantization"] = kind
        key = "quantization_method" if method != "bnb" else "quantization_bit"
        m.lose(key, f"bitsandbytes in 4 or 8 bits is what there is: train.quantization is {kind}")
    for key in ("quantization_bit", "quantization_type"):
        if key not in m.told() and (key == "quantization_bit" or m.get(key)):
            m.carry(key, "train.quantization", kind)
    if method in ("bnb", "bitsandbytes") and "quantization_method" in m.given:
        m.needless("quantization_method", "bitsandbytes is what there is")
    m.carry("double_quantization", "train.double_quantization", bool(m.get("double_quantization", True)))


def carry_lora_keys(m: Migration) -> None:
    rank = int(m.number("lora_rank", 8))
    m.carry("lora_rank", "train.lora.rank", rank)
    m.carry("lora_alpha", "train.lora.alpha", int(m.number("lora_alpha", 0)) or 2 * rank)
    m.carry("lora_dropout", "train.lora.dropout", m.number("lora_dropout", 0.0))
    names = split_names(m.get("lora_target", "all"))
    m.carry("lora_target", "train.lora.target_modules", "all-linear" if "all" in names else names)
    m.carry("use_rslora", "train.lora.rslora", bool(m.get("use_rslora", False)))
    m.carry("use_dora", "train.lora.dora", bool(m.get("use_dora", False)))
    m.carry("loraplus_lr_ratio", "train.lora.loraplus_lr_ratio", m.number("loraplus_lr_ratio", 1.0))


def carry_cutoff(m: Migration, is_running_text: bool) -> None:
    overlong = "split" if is_running_text else "truncate"
    note = "" if is_running_text else "an answer stays whole: a row with a longer one is dropped, not cut"
    m.carry(
        "cutoff_len",
        "pack.max_length",
        int(m.number("cutoff_len", 2048)),
        f"pack.overlong: {overlong}{f'; {note}' if note else ''}",
    )
    m.settings["pack.overlong"] = overlong
    packed = bool(m.get("packing", is_running_text)) or bool(m.get("neat_packing"))
    key = "neat_packing" if m.get("neat_packing") else "packing"
    note = (
        "rows of a pack never see each other"
        if packed
        else "one row a pack; 0 fills packs, which trains faster"
    )
    m.carry(key, "pack.max_documents", 0 if packed else 1, note)
    if key == "neat_packing" and "packing" in m.given:
        m.needless("packing", "neat_packing decides")


def carry_template(m: Migration, stage: str) -> None:
    """Carry template, and what of a conversation is trained on."""
    name = str(m.get("template") or "")
    style = "completion" if stage == "pt" or name == "empty" else "alpaca" if name == "alpaca" else "chat"
    m.settings["prompt"] = style
    if style == "chat" and name:
        m.carry("template", "prompt", "chat", f"the tokenizer's own chat template, not LLaMA-Factory's {name}: compare `python -m stages.pack.show`; a base without one needs prompt: alpaca")  # fmt: skip
    elif name:
        m.carry("template", "prompt", style)
    loss = "last" if m.get("mask_history") else "all"
    if m.get("train_on_prompt"):
        m.carry("train_on_prompt", "prompt.loss", "text")
    elif style == "chat":
        m.carry("mask_history", "prompt.loss", loss)


def carry_named_datasets(m: Migration, ask: bool, info_path: Path | None) -> None:
    """Carry `dataset`: names that dataset_info.json explains."""
    names = split_names(m.get("dataset", []))
    path = info_path or Path(m.path).parent / str(m.get("dataset_dir", "data")) / "dataset_info.json"
    info: dict[str, Any] = {}
    if path.exists():
        info = read_json(path)
    elif info_path:
        raise UserError(f"{path}: no such file; --dataset-info takes LLaMA-Factory's data/dataset_info.json")
    elif names:
        m.todo.append(
            f"{path} is not here, so files of the data sets' names are assumed: --dataset-info FILE names it"
        )
    most = m.get("max_samples")
    for number, name in enumerate(names):
        if info and name not in info:
            m.refuse("dataset", f"{path} has no data set '{name}'")
            continue
        entry = dict(info.get(name, {}))
        key = f"dataset[{number}]"
        repo = entry.pop("hf_hub_url", None)
        place = repo or entry.pop("file_name", None) or f"{name}.json"
        if not repo and "://" not in place:
            place = str(path.parent / place) if info else f"./{place}"
        if entry.get("ranking") or (not repo and any(one in entry for one in ("ms_hub_url", "script_url"))):
            m.refuse("dataset", f"'{name}' holds preferences, or lies neither on the hub nor in a file")
        carry_entry(m, key, carry_source(m, key, place, entry.pop("revision", None), ask), entry)
        if most:
            m.sources[-1]["max_rows"] = int(most)
    if not names:
        m.refuse("dataset", "no data set is named")
    if most:
        m.tell(
            "max_samples",
            CARRIED,
            f"max_rows: {most} of each source, chosen by row id instead of the first",
        )


def carry_entry(m: Migration, key: str, source: dict[str, Any], entry: dict[str, Any]) -> None:
    """Carry what dataset_info.json says of a data set's columns, turns and parts."""
    for ours, theirs in (("configuration", "subset"), ("split", "split"), ("max_rows", "num_samples")):
        value = entry.pop(theirs, None)
        if value and source["kind"] == "hub" and (ours, value) != ("split", "train"):
            source[ours] = value
    columns, tags = dict(entry.pop("columns", {})), dict(entry.pop("tags", {}))
    mapped = {COLUMN_NAMES[name]: column for name, column in columns.items() if name in COLUMN_NAMES}
    if "prompt" in mapped and "response" not in columns:  # running text
        mapped["completion"] = mapped.pop("prompt")
    query = columns.get("query")
    if query and "prompt" in mapped:
        question = mapped.pop("prompt")
        source["template"] = {
            "prompt": f"{{{{ {question} }}}}{{% if {query} %}}\n{{{{ {query} }}}}{{% endif %}}"
        }
    if mapped:
        source["columns"] = mapped
    if left := sorted(columns.keys() - COLUMN_NAMES.keys() - {"query"}):
        m.lose(
            f"{key}.columns",
            f"no place for {', '.join(left)}: conversations hold a row's history, and text is all",
        )
    odd = {tag: name for tag, name in tags.items() if tag in TURN_TAGS and name not in TURN_TAGS[tag]}
    if odd:
        m.lose(f"{key}.tags", f"rename these fields of turns in the data: {odd}")
    for name in entry.keys() - {"ms_hub_url", "om_hub_url", "formatting", "ranking"}:
        m.lose(f"{key}.{name}", "no such setting of a source")


def split_names(value: Any) -> list[str]:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value)
