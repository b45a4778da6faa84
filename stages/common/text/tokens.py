"""Tokenize text, the same way for training and evaluation."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.common.errors import UserError
from stages.common.text.pieces import (
    EncodedDocument,
    cut_document,
    cuts_of,
    encode_separately,
    int32,
    join_pieces,
    leading_ids,
    pieces_of,
    plain_ids,
    rest_of,
)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


class Tokens(NamedTuple):
    """Tokens of documents, concatenated: document i is `starts[i] : starts[i + 1]` of `ids` and `loss`."""

    ids: npt.NDArray[np.int32]
    # whether the token is trained on
    loss: npt.NDArray[np.bool_]
    # shape (documents + 1,)
    starts: npt.NDArray[np.int64]
    # False: a seam lies inside a token, and the document has no tokens here
    whole: npt.NDArray[np.bool_]


def load_tokenizer(folder: str | Path) -> Any:
    """Load the tokenizer of a model folder.

    Raises:
        UserError: the folder or its tokenizer files are missing or unreadable, or it has no end-of-text
            token.
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
    return tokenizer


@lru_cache(maxsize=4)
def special_tokens(tokenizer: Any) -> dict[int, str]:
    """Return the text of every special token by its id, in order of ids."""
    added = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    return dict(sorted({**added, **{i: str(token) for i, token in named}}.items()))


def tokenize(documents: Sequence[Sequence[str]], tokenizer: Any) -> Tokens:
    """Tokenize documents, each given as alternating texts: context, trained on, context, trained on, ...

    The ids of a context are those of the text alone, as in evaluation, after the tokenizer's own leading
    tokens (BOS) if it adds any. A document ends in the end-of-text token, which is trained on; its first
    token never is. If the only seam, of a prompt and a completion, lies inside a token, both are tokenized
    separately; a document of several seams is not `whole` then.

    Texts are cut at places that no token crosses, and each distinct piece is tokenized once, so common words
    cost a look-up. The text between a cut and a seam is a piece too: its ids show whether the seam lies
    between tokens.
    """
    return join_documents(encode_documents(documents, tokenizer))


def encode_documents(documents: Sequence[Sequence[str]], tokenizer: Any) -> list[EncodedDocument | None]:
    """Return ids and seams of each document, None if one of several seams lies inside a token."""
    if cuts_of(tokenizer) is None and all(len(document) == 2 for document in documents):
        return [encoded_pair(*both) for both in tokenize_twice(documents, tokenizer)]
    ids = pieces_of(tokenizer)
    plans = [cut_document(document, ids) for document in documents]
    known = [one for one in plans if one is not None]
    ids.add(chain.from_iterable((*one.pieces, *(tail for _, tail in one.tails)) for one in known))
    found = [one and join_pieces(document, *one, ids) for document, one in zip(documents, plans, strict=True)]
    apart = [i for i, one in enumerate(found) if one is None and len(documents[i]) == 2]
    rests = {i: rest_of(*one) for i in apart if ids.cut and (one := plans[i])}
    ids.add(["\n", *("\n" + rest for rest in rests.values()), *rests.values()])
    for i, rest in rests.items():
        if one := plans[i]:
            found[i] = encode_separately(*one, rest, ids)
    twice = [i for i in apart if i not in rests]
    for i, both in zip(twice, tokenize_twice([documents[i] for i in twice], tokenizer), strict=True):
        found[i] = encoded_pair(*both)
    ids.forget()
    return found


def encoded_pair(asked: list[int], answer: list[int]) -> EncodedDocument:
    return int32(asked + answer), [len(asked)]


def join_documents(documents: Sequence[EncodedDocument | None]) -> Tokens:
    """Concatenate encoded documents; tokens from an odd seam to the next one or the end are trained on."""
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


def tokenize_twice(documents: Sequence[Sequence[str]], tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """Return prompt ids and completion ids (with end-of-text token) of each pair of texts.

    For tokenizers whose texts cannot be cut safely: tokenize the prompt alone and prompt and completion
    together, and where the prompt's ids differ, the completion separately.
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
    """Return the ids of each rendered prompt, after BOS if the tokenizer adds it and the text lacks it."""
    first = leading_ids(tokenizer)
    bos = tokenizer.bos_token
    return [
        ids if bos and text.startswith(bos) else [*first, *ids]
        for text, ids in zip(prompts, plain_ids(prompts, tokenizer), strict=True)
    ]


def inner_ids(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Return the ids of each text as inside a longer one: without the space that SentencePiece prepends."""
    (line,) = plain_ids(["\n"], tokenizer)
    behind = plain_ids(["\n" + text for text in texts], tokenizer)
    return [
        ids[len(line) :] if ids[: len(line)] == line else alone
        for ids, alone in zip(behind, plain_ids(texts, tokenizer), strict=True)
    ]
