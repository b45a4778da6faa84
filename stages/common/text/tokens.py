"""Text to tokens, the same way for training and evaluation.

A control token (end of turn, of text, file separator, ...) is a token only where a template or BOS writes it.
`guard` marks the same characters in a row's own text, which are encoded as plain text.
"""

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.common.core.errors import UserError
from stages.common.text.fill_tokens import FILL_NAMES

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
# Stands inside a control token that is text. A noncharacter of Unicode, which no text may hold.
GUARD = "\ufdd0"


class Tokens(NamedTuple):
    """Tokens of documents, concatenated: document i is `starts[i] : starts[i + 1]` of `ids` and `loss`."""

    ids: npt.NDArray[np.int32]
    # whether the token is trained on
    loss: npt.NDArray[np.bool_]
    # shape (documents + 1,)
    starts: npt.NDArray[np.int64]


def load_tokenizer(folder: str | Path) -> Any:
    """Load the tokenizer of a model folder.

    Raises:
        UserError: the folder or its tokenizer files are missing or unreadable, or it has no end-of-text
            token, or it is not one of the `tokenizers` library.
    """
    from transformers import AutoTokenizer

    folder = Path(folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"{folder}: no tokenizer in this folder (looked for {', '.join(TOKENIZER_FILES)}). Copy the "
            "tokenizer's files into it, or run `dvc repro base`."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers, tokenizers and json each raise their own types
        raise UserError(
            f"{folder}: cannot read the tokenizer's files ({error}). Run `dvc repro base`."
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{folder}: the tokenizer has no end-of-text token, without which a model cannot learn to "
            f"stop. Set eos_token in its tokenizer_config.json."
        )
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"{folder}: {type(tokenizer).__name__} is written in Python and cannot tell control tokens from "
            "text that spells them. Convert it to a tokenizer.json (transformers, `convert_slow_tokenizer`)."
        )
    return tokenizer


@lru_cache(maxsize=4)
def special_tokens(tokenizer: Any) -> dict[int, str]:
    """Return the text of every special token by its id, in order of ids."""
    added = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    return dict(sorted({**added, **{i: str(token) for i, token in named}}.items()))


@lru_cache(maxsize=4)
def control_tokens(tokenizer: Any) -> dict[str, int]:
    """Return the id of every control token: the special ones, and those of users' turns and of filling in.

    Some tokenizers do not declare the latter two special. Other added tokens (runs of spaces, `<think>`) are
    ordinary vocabulary.
    """
    found = {text: i for i, text in special_tokens(tokenizer).items()}
    try:
        turn = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    except Exception:  # no template, or one that refuses this turn
        turn = ""
    added = {str(token): i for i, token in tokenizer.added_tokens_decoder.items()}
    return {
        **found,
        **{text: i for text, i in added.items() if text.strip() and (text in turn or text in FILL_NAMES)},
    }


def guard(text: str, tokenizer: Any, allowed: Sequence[str] = ()) -> str:
    """Return text in which every control token but those `allowed` is marked as text."""
    pattern = control_pattern(tokenizer, tuple(allowed))
    return pattern.sub(lambda found: found[0] + GUARD, text)


@lru_cache(maxsize=8)
def control_pattern(tokenizer: Any, allowed: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern of the first character of each control token, which may overlap.

    Raises:
        UserError: a token that is `allowed` is none of the tokenizer's, or its end-of-text token.
    """
    for token in allowed:
        if token not in control_tokens(tokenizer) or token == tokenizer.eos_token:
            raise UserError(
                f"prompt.control_tokens: {token!r} is "
                + (
                    "the end-of-text token, which ends a row. Remove it."
                    if token == tokenizer.eos_token
                    else f"no control token of this tokenizer, which has {' '.join(control_tokens(tokenizer))}."
                )
            )
    controls = [text for text in control_tokens(tokenizer) if text and text not in allowed]
    return re.compile(rf"(?s)(?={'|'.join(map(re.escape, controls)) or '(?!)'}).")


class Encoder:
    """Encode texts that templates and `guard` have made."""

    def __init__(self, tokenizer: Any) -> None:
        self.raw, self.ids = guarded_tokenizer(tokenizer)
        self.bos: str | None = tokenizer.bos_token
        (plain,), full = self.encode(["a"]), tokenizer("a")["input_ids"]
        start = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), 0)
        # special tokens that the tokenizer puts before a text by default; some may follow it too
        self.lead: list[int] = full[:start]
        line, inner = self.encode(["\n", "\na"])
        # whether the beginning of a text is encoded like its inside (not so: SentencePiece's first space)
        self.begins_plainly = inner == [*line, *plain]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without special tokens before or after it."""
        ids = [one.ids for one in self.raw.encode_batch_fast(list(texts), add_special_tokens=False)]
        return ids if self.ids is None else [[self.ids[i] for i in one] for one in ids]

    def begin(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, after BOS if the tokenizer adds it and the text lacks it."""
        return [
            ids if self.bos and text.startswith(self.bos) else [*self.lead, *ids]
            for text, ids in zip(texts, self.encode(texts), strict=True)
        ]

    def go_on(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text as inside a longer one: without the space that SentencePiece prepends."""
        if self.begins_plainly:
            return self.encode(texts)
        (line,), after = self.encode(["\n"]), self.encode(["\n" + text for text in texts])
        return [
            ids[len(line) :] if ids[: len(line)] == line else alone
            for ids, alone in zip(after, self.encode(texts), strict=True)
        ]


def guarded_tokenizer(tokenizer: Any) -> tuple[Any, list[int] | None]:
    """Return a copy of a tokenizer that takes what `guard` marked as text, and the original's id of each id.

    The mark hides a control token from the search for added tokens; then a normalizer removes it. Where the
    vocabulary itself would find the control token (by merges; as a word), the merges go, and the word gets a
    name that no text has. None: ids are the original's.
    """
    from tokenizers import Tokenizer

    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    model, controls = parts["model"], control_tokens(tokenizer)
    parts["padding"] = parts["truncation"] = None
    normalizers = [{"type": "Replace", "pattern": {"String": GUARD}, "content": ""}, parts["normalizer"]]
    parts["normalizer"] = {"type": "Sequence", "normalizers": [one for one in normalizers if one]}
    for token in parts["added_tokens"]:
        token["normalized"] &= token["content"] not in controls

    def hidden(word: str) -> str:
        return GUARD + word if word in controls else word

    if model["type"] == "BPE":
        model["merges"] = [two for two in model["merges"] if not {*two, "".join(two)} & controls.keys()]
    elif isinstance(model["vocab"], dict):
        model["vocab"] = {hidden(word): i for word, i in model["vocab"].items()}
        model["unk_token"] = hidden(model["unk_token"])
    else:
        model["vocab"] = [[hidden(word), score] for word, score in model["vocab"]]
    if model.get("ignore_merges"):  # a word of the vocabulary is taken whole
        model["vocab"] = {hidden(word): i for word, i in model["vocab"].items()}
    copy = Tokenizer.from_str(json.dumps(parts))
    ids = list(range(copy.get_vocab_size()))
    for token in parts["added_tokens"]:
        moved = int(copy.token_to_id(token["content"]) or 0)
        ids += range(len(ids), moved + 1)
        ids[moved] = token["id"]
    return copy, None if ids == list(range(len(ids))) else ids


@lru_cache(maxsize=4)
def encoder_of(tokenizer: Any) -> Encoder:
    return Encoder(tokenizer)


def plain_ids(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Return the ids of each text, without special tokens before or after it."""
    return encoder_of(tokenizer).encode(texts)


def encode_prompts(prompts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Return the ids of each rendered prompt, after BOS if the tokenizer adds it and the text lacks it."""
    return encoder_of(tokenizer).begin(prompts)


def encode_parts(texts: Sequence[str], tokenizer: Any) -> list[int]:
    """Return the ids of a prompt whose texts are encoded one by one, as `tokenize` does."""
    encoder = encoder_of(tokenizer)
    return [*chain.from_iterable([*encoder.begin(texts[:1]), *encoder.go_on(texts[1:])])]


def tokenize(documents: Sequence[Sequence[str]], tokenizer: Any) -> Tokens:
    """Tokenize documents, each given as alternating texts: context, trained on, context, trained on, ...

    Each text is encoded by itself, so that a prompt has the ids that evaluation gives it, and the seam lies
    between tokens. A document begins with the tokenizer's own leading tokens (BOS) if it adds any, and ends in
    the end-of-text token, which is trained on; its first token never is.
    """
    encoder, end = encoder_of(tokenizer), [tokenizer.eos_token_id]
    first = encoder.begin([texts[0] for texts in documents])
    # after an empty prompt comes the beginning of a text
    bare = [not texts[0] for texts in documents]
    rest = iter(
        encoder.go_on([*chain.from_iterable(t[1 + b :] for t, b in zip(documents, bare, strict=True))])
    )
    begun = iter(encoder.encode([texts[1] for texts, b in zip(documents, bare, strict=True) if b]))
    runs: list[list[int]] = []
    trained: list[bool] = []
    starts = np.zeros(len(documents) + 1, np.int64)
    for number, texts in enumerate(documents):
        of_document = [first[number]]
        of_document += [next(begun if bare[number] and at == 1 else rest) for at in range(1, len(texts))]
        runs += [*of_document, end]
        trained += [*(at % 2 == 1 for at in range(len(texts))), True]
        starts[number + 1] = starts[number] + sum(map(len, of_document)) + 1
    ids = np.fromiter(chain.from_iterable(runs), np.int32, int(starts[-1]))
    loss = np.repeat(np.array(trained, bool), np.fromiter(map(len, runs), np.int64, len(runs)))
    loss[starts[:-1]] = False
    return Tokens(ids, loss, starts)


def control_counter(tokenizer: Any) -> Callable[[str], int]:
    """Return a function that counts the control tokens that a text has beside those marked as text."""
    longest_first = sorted(filter(None, control_tokens(tokenizer)), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
    return lambda text: len(pattern.findall(text))
