"""Text as tokens: one tokenization for training and evaluation."""

from array import array
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.common.errors import UserError
from stages.common.text.pieces import (
    Found,
    cuts_of,
    int32,
    leading_ids,
    pieces_of,
    plain_ids,
    plan,
    put_apart,
    put_together,
    rest_of,
)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


class Tokens(NamedTuple):
    """Documents as tokens, one after another: document i is `starts[i] : starts[i + 1]` of both arrays."""

    ids: npt.NDArray[np.int32]
    loss: npt.NDArray[np.bool_]  # whether the token is trained on
    starts: npt.NDArray[np.int64]  # of shape (documents + 1,)
    whole: npt.NDArray[np.bool_]  # False: a seam lies inside a token; of that document there are no tokens


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a model folder.

    Raises:
        UserError: the folder or its tokenizer files are missing or unreadable, or it has no end-of-text token.
    """
    from transformers import AutoTokenizer

    folder = Path(folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"{folder}: no tokenizer there (looked for {', '.join(TOKENIZER_FILES)}). Copy the tokenizer's files "
            f"into it, or run `dvc repro base`."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers, tokenizers and json each raise their own
        raise UserError(
            f"{folder}: the tokenizer's files are not readable ({error}). Run `dvc repro base`."
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{folder}: the tokenizer has no end-of-text token, without which a model cannot learn to "
            f"stop. Set eos_token in its tokenizer_config.json."
        )
    return tokenizer


@lru_cache(maxsize=4)
def special_tokens(tokenizer: Any) -> dict[int, str]:
    """Id and text of every special token, by id."""
    added = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    return dict(sorted({**added, **{i: str(token) for i, token in named}}.items()))


def tokenize(documents: Sequence[Sequence[str]], tokenizer: Any) -> Tokens:
    """Tokens of documents, each given as texts in turn: context, trained on, context, trained on, ...

    The context's ids are those of that text alone, as evaluation has them, with the tokenizer's own leading tokens
    (BOS) if it adds any. A document ends in the end-of-text token, which is trained on. Where the one seam of a prompt
    and a completion lies inside a token, they are tokenized apart; a document with several seams is not `whole` then.
    The first token of a document is never trained on.

    Texts are cut where tokens never meet, and each distinct piece is tokenized once, so that common words cost a look-up.
    What is between a cut and a seam is a piece too: its ids tell whether the seam lies between tokens.
    """
    return joined(found_in(documents, tokenizer))


def found_in(documents: Sequence[Sequence[str]], tokenizer: Any) -> list[Found | None]:
    """Ids and seams of each document; None where one of several seams lies inside a token."""
    if cuts_of(tokenizer) is None and all(len(document) == 2 for document in documents):
        return [pair_of(*both) for both in tokenize_twice(documents, tokenizer)]
    ids = pieces_of(tokenizer)
    plans = [plan(document, ids) for document in documents]
    known = [one for one in plans if one is not None]
    ids.add(chain.from_iterable((*one.pieces, *(tail for _, tail in one.tails)) for one in known))
    found = [
        one and put_together(document, *one, ids) for document, one in zip(documents, plans, strict=True)
    ]
    apart = [i for i, one in enumerate(found) if one is None and len(documents[i]) == 2]
    rests = {i: rest_of(*one) for i in apart if ids.cut and (one := plans[i])}
    ids.add(["\n", *("\n" + rest for rest in rests.values()), *rests.values()])
    for i, rest in rests.items():
        if one := plans[i]:
            found[i] = put_apart(*one, rest, ids)
    twice = [i for i in apart if i not in rests]
    for i, both in zip(twice, tokenize_twice([documents[i] for i in twice], tokenizer), strict=True):
        found[i] = pair_of(*both)
    ids.forget()
    return found


def pair_of(asked: list[int], answer: list[int]) -> Found:
    return int32(asked + answer), [len(asked)]


def joined(documents: Sequence[Found | None]) -> Tokens:
    """One array of ids; tokens between odd and even seams are trained on."""
    starts = np.zeros(len(documents) + 1, np.int64)
    np.cumsum([len(d[0]) // 4 if d else 0 for d in documents], out=starts[1:])
    ids = np.frombuffer(b"".join(d[0] for d in documents if d), np.int32)
    on, off = [], []
    for start, end, document in zip(starts[:-1].tolist(), starts[1:].tolist(), documents, strict=True):
        if document:
            seams = [start + seam for seam in document[1]]
            on += seams[::2]
            off += [*seams, end][1::2]
    turns = np.bincount(on, minlength=len(ids) + 1) - np.bincount(off, minlength=len(ids) + 1)
    loss = np.cumsum(turns[:-1]) > 0
    whole = np.array([d is not None for d in documents], bool)
    loss[starts[:-1][whole]] = False
    return Tokens(ids, loss, starts, whole)


def encode(prompt_text: str, completion_text: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids of one document; see `encode_rows`."""
    return encode_rows([(prompt_text, completion_text)], tokenizer)[0]


def encode_rows(documents: Sequence[tuple[str, str]], tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """Prompt ids and completion ids of each (prompt text, completion text), as `tokenize` has them."""
    rows = []
    for document in found_in(documents, tokenizer):
        assert document is not None  # of one seam
        ids, (seam,) = array("i", document[0]).tolist(), document[1]
        rows.append((ids[:seam], ids[seam:]))
    return rows


def tokenize_twice(documents: Sequence[Sequence[str]], tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """Prompt ids and completion ids, end-of-text token included, of each (prompt text, completion text).

    Of tokenizers that say nothing about where texts may be cut: the prompt alone, prompt and completion together, and
    where that gives other ids at the seam, the completion apart.
    """
    prompts = encode_prompts([prompt for prompt, _ in documents], tokenizer)
    wholes = encode_prompts([prompt + completion for prompt, completion in documents], tokenizer)
    apart = [i for i, whole in enumerate(wholes) if whole[: len(prompts[i])] != prompts[i]]
    pieces = dict(zip(apart, inner_ids([documents[i][1] for i in apart], tokenizer), strict=True))
    encoded = []
    for i, (prompt, whole) in enumerate(zip(prompts, wholes, strict=True)):
        completion = pieces[i] if i in pieces else whole[len(prompt) :]
        encoded.append((prompt, [*completion, tokenizer.eos_token_id]))
    return encoded


def encode_prompts(prompts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Ids of each rendered prompt, with BOS where the tokenizer adds one and the template has not written it."""
    first = leading_ids(tokenizer)
    bos = tokenizer.bos_token
    return [
        ids if bos and text.startswith(bos) else [*first, *ids]
        for text, ids in zip(prompts, plain_ids(prompts, tokenizer), strict=True)
    ]


def inner_ids(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Ids of each text as within a longer one: without the space that SentencePiece's kind puts before a first word."""
    (line,) = plain_ids(["\n"], tokenizer)
    behind = plain_ids(["\n" + text for text in texts], tokenizer)
    return [
        ids[len(line) :] if ids[: len(line)] == line else alone
        for ids, alone in zip(behind, plain_ids(texts, tokenizer), strict=True)
    ]
