"""A tokenizer's vocabulary as GGUF has it."""

import json
from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError

# Token types of llama.cpp
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
# Pre-tokenizers that llama.cpp knows by name: the steps of tokenizer.json, all of them, and what one holds
PRE_TOKENIZERS = {
    "smollm": (["Digits", "ByteLevel"], '"individual_digits": true'),
    "qwen2": (["Split", "ByteLevel"], r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"),
    "llama-bpe": (
        ["Split", "ByteLevel"],
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|",
    ),
}


def add_vocabulary(writer: Any, model: Path, size: int) -> None:
    """Write the tokenizer of a model's folder.

    Args:
        size: rows of the embeddings; ids without a token get a name of their own.

    Raises:
        UserError: it is of a kind that llama.cpp does not read by name.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = parts["model"]["type"]
    if kind != "BPE" or parts["model"].get("byte_fallback"):
        raise UserError(
            f"{model}: no GGUF is written with a {kind} tokenizer of SentencePiece, only byte-level BPE"
        )
    pre = pre_tokenizer_name(parts["pre_tokenizer"] or {})
    if pre is None:
        shown = json.dumps(parts["pre_tokenizer"])[:200]
        raise UserError(f"{model}: llama.cpp has no name for this tokenizer's pre-tokenizer: {shown}")
    by_id = {i: token for token, i in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, types = [], []
    for i in range(size):
        tokens.append(by_id.get(i, f"[PAD{i}]"))
        special = added[i].special if i in added else None
        types.append({None: NORMAL, True: CONTROL, False: USER_DEFINED}[special] if i in by_id else UNUSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = parts["model"]["merges"]
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    for name in ("bos", "eos", "unk", "pad"):
        i = getattr(tokenizer, f"{name}_token_id")
        if i is not None:
            getattr(writer, f"add_{name}_token_id")(i)
    writer.add_add_bos_token(bool(tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]))
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def pre_tokenizer_name(parts: dict[str, Any]) -> str | None:
    """Return llama.cpp's name for what cuts a text into words, None where it has none."""
    if parts.get("type") == "ByteLevel" and parts.get("use_regex", True):
        return "gpt-2"
    text, steps = json.dumps(parts), [one.get("type") for one in parts.get("pretokenizers", [])]
    return next(
        (name for name, (known, mark) in PRE_TOKENIZERS.items() if steps == known and mark in text), None
    )
