"""Turn a row group of data/clean into token documents: render, tokenize, mask and check."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.common.errors import UserError
from stages.common.paths import CLEAN_ROWS
from stages.common.text.prompt import render_row
from stages.common.text.settings import PromptSettings
from stages.common.text.templates import Unrenderable
from stages.common.text.tokens import Tokens, load_tokenizer, tokenize
from stages.pack.clean_rows import read_rows
from stages.pack.overlong import OverlongCost, shorten
from stages.pack.settings import PackSettings
from stages.pack.split import component_hash


class RowGroupTask(NamedTuple):
    """What a worker needs to tokenize one row group."""

    # index of the row group in data/clean/rows.parquet
    group: int
    # folder of the tokenizer
    model: str
    # modification times of the model's files, so that a long-lived worker reloads a tokenizer that has
    # changed
    stamp: tuple[int, ...]
    # tokens the model knows; 0: unknown
    vocabulary: int
    pack: PackSettings
    prompt: PromptSettings
    # only one process works, so the tokenizer may use threads
    alone: bool


@dataclass
class TokenizedGroup:
    """The documents of one row group, in row order; arrays are flat or have one value per document."""

    ids: npt.NDArray[np.int32]
    # 1: the token is trained on
    loss: npt.NDArray[np.uint8]
    # tokens of each document
    lengths: npt.NDArray[np.int64]
    # row id of each document, concatenated, and the bytes of each
    names: bytes
    name_lengths: npt.NDArray[np.int64]
    # `component_hash` of each document's duplicate component
    components: npt.NDArray[np.uint64]
    # rendered characters of each document
    characters: npt.NDArray[np.int64]
    # trained tokens of each document
    labelled: npt.NDArray[np.int64]
    # 1: the document is the first of its row
    first: npt.NDArray[np.uint8]
    # dropped rows by reason
    dropped: Counter[str] = field(default_factory=Counter)
    cost: OverlongCost = field(default_factory=OverlongCost)


def tokenize_group(task: RowGroupTask) -> TokenizedGroup:
    """Return the documents of a row group.

    Raises:
        UserError: a row has more than `pack.max_length` tokens and `pack.overlong` is `fail`; a rendered row
            breaks the contract of `check_documents`; a token is outside the model's vocabulary.
    """
    if not task.alone:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = cached_tokenizer(task.model, task.stamp)
    dropped: Counter[str] = Counter()
    rows, texts = render_rows(read_rows(task.group), tokenizer, task.prompt, dropped)
    tokens = tokenize(texts, tokenizer)
    check_documents(tokens, rows, tokenizer.eos_token_id, task.vocabulary, task.model)
    if seams_inside_tokens := int((~tokens.whole).sum()):
        dropped["seam"] = seams_inside_tokens
    if task.pack.overlong == "fail":
        reject_overlong(tokens, rows, task.pack.max_length)
    shortened = shorten(tokens, task.pack.max_length, task.pack.overlong, tokenizer.bos_token_id)
    if shortened.cost.dropped:
        dropped["overlong"] = shortened.cost.dropped
    row_of = shortened.rows.tolist()
    lengths = np.diff(shortened.starts)
    row_lengths = np.diff(tokens.starts)[shortened.rows]
    names = [rows[i]["id"].encode() for i in row_of]
    hashes = [component_hash(rows[i]["component"], task.pack.seed) for i in row_of]
    characters = np.array([sum(map(len, texts[i])) for i in row_of], np.int64)
    loss = shortened.loss.astype(np.uint8)
    return TokenizedGroup(
        ids=shortened.ids,
        loss=loss,
        lengths=lengths,
        names=b"".join(names),
        name_lengths=np.array([len(name) for name in names], np.int64),
        components=np.array(hashes, np.uint64),
        # a document that is part of a row gets its share of the row's characters
        characters=characters * lengths // np.maximum(1, row_lengths),
        labelled=np.add.reduceat(loss, shortened.starts[:-1], dtype=np.int64) if len(lengths) else lengths,
        first=np.diff(shortened.rows, prepend=-1).astype(bool).astype(np.uint8),
        dropped=dropped,
        cost=shortened.cost,
    )


@lru_cache(maxsize=1)
def cached_tokenizer(model: str, stamp: tuple[int, ...]) -> Any:
    return load_tokenizer(model)


def render_rows(
    batch: Sequence[dict[str, Any]], tokenizer: Any, prompt: PromptSettings, dropped: Counter[str]
) -> tuple[list[dict[str, Any]], list[tuple[str, ...]]]:
    """Return the rows that the style can render, and their texts; count the others in `dropped`."""
    rows, texts = [], []
    for row in batch:
        try:
            texts.append(render_row(row, tokenizer, prompt))
            rows.append(row)
        except Unrenderable as error:
            dropped[error.reason] += 1
    return rows, texts


def check_documents(
    tokens: Tokens, rows: Sequence[dict[str, Any]], eos: int, vocabulary: int, model: str
) -> None:
    """Check what training relies on.

    Every document ends in a labelled EOS, a labelled EOS only ends an answer, and the model knows every
    token. `tokenize` already ensures that a document begins with its prompt's tokens.

    Raises:
        UserError: names the row; the tokenizer or its template is at fault.
    """
    starts, loss = tokens.starts[:-1][tokens.whole], tokens.loss
    ends = tokens.starts[1:][tokens.whole] - 1
    labelled_eos = loss & (tokens.ids == eos)
    # the first token of a document never has a label, so a label after an EOS is in the same document
    early_eos = labelled_eos[:-1] & loss[1:]
    wrong, fault = np.flatnonzero(early_eos), "an end-of-text token before its end"
    if not len(wrong):
        wrong, fault = ends[~labelled_eos[ends]], "nothing to train on"
    if len(wrong):
        row = np.flatnonzero(tokens.whole)[np.searchsorted(starts, wrong[0], "right") - 1]
        raise UserError(
            f"{CLEAN_ROWS}, row {rows[row]['id']}: {fault}. The tokenizer or its chat template does not "
            "render it consistently; choose another prompt.style."
        )
    unknown = np.flatnonzero(tokens.ids >= vocabulary) if vocabulary else ends[:0]
    if len(unknown):
        row = np.searchsorted(tokens.starts, unknown[0], "right") - 1
        raise UserError(
            f"{model}: token {tokens.ids[unknown[0]]} of row {rows[row]['id']} is outside the model's "
            f"vocabulary of {vocabulary} tokens. Tokenizer and model do not belong together: run "
            "`dvc repro -f -s base`."
        )


def reject_overlong(tokens: Tokens, rows: Sequence[dict[str, Any]], limit: int) -> None:
    """Raise UserError for the first row of more than `limit` tokens."""
    lengths = np.diff(tokens.starts)
    for row in np.flatnonzero(lengths > limit)[:1].tolist():
        raise UserError(
            f"{CLEAN_ROWS}, row {rows[row]['id']} ({rows[row]['source']}): {lengths[row]} tokens, but "
            f"pack.max_length is {limit}. Raise it, or set pack.overlong to drop, truncate or split."
        )
