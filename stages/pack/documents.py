"""A row group of data/clean as token documents, rendered, tokenized, masked and checked: the stage's unit of work."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.common.errors import UserError
from stages.common.text.prompt import render_row
from stages.common.text.settings import PromptSettings
from stages.common.text.templates import Unrenderable
from stages.common.text.tokens import Tokens, load_tokenizer, tokenize
from stages.pack.clean_rows import ROWS, read_rows
from stages.pack.overlong import Cost, shorten
from stages.pack.settings import PackSettings
from stages.pack.split import hash_of


class Task(NamedTuple):
    group: int  # of data/clean/rows.parquet
    model: str  # folder of the tokenizer
    stamp: tuple[int, ...]  # of its files: a process that lives on does not keep an old tokenizer
    vocabulary: int  # tokens that the model knows; 0: it does not say
    pack: PackSettings
    prompt: PromptSettings
    alone: bool  # one process works: the tokenizer may use threads


@dataclass
class Part:
    """The documents of one row group, in the order of its rows; arrays are flat."""

    ids: npt.NDArray[np.int32]
    loss: npt.NDArray[np.uint8]  # 1: the token is trained on
    lengths: npt.NDArray[np.int64]  # tokens of each document
    names: bytes  # row id of each document, one after another
    name_lengths: npt.NDArray[np.int64]  # bytes of each
    components: npt.NDArray[np.uint64]  # `hash_of` the component of each document
    characters: npt.NDArray[np.int64]  # of each document as rendered
    labelled: npt.NDArray[np.int64]  # tokens of each document that are trained on
    first: npt.NDArray[np.uint8]  # 1: the document is the first of its row
    dropped: Counter[str] = field(default_factory=Counter)  # rows by reason
    cost: Cost = field(default_factory=Cost)


def documents_of(task: Task) -> Part:
    """The documents of a row group.

    Raises:
        UserError: a row of more than `pack.max_length` tokens where `pack.overlong` is `fail`; a rendering that breaks the
            contract of `check`; a token that the model does not know.
    """
    if not task.alone:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = tokenizer_of(task.model, task.stamp)
    dropped: Counter[str] = Counter()
    rows, texts = rendered(read_rows(task.group), tokenizer, task.prompt, dropped)
    tokens = tokenize(texts, tokenizer)
    check(tokens, rows, tokenizer.eos_token_id, task.vocabulary, task.model)
    if dropped_apart := int((~tokens.whole).sum()):
        dropped["seam"] = dropped_apart
    if task.pack.overlong == "fail":
        refuse_long(tokens, rows, task.pack.max_length)
    made = shorten(tokens, task.pack.max_length, task.pack.overlong, tokenizer.bos_token_id)
    if made.cost.dropped:
        dropped["overlong"] = made.cost.dropped
    lengths = np.diff(made.starts)
    before = np.diff(tokens.starts)[made.rows]
    names = [rows[i]["id"].encode() for i in made.rows.tolist()]
    hashes = [hash_of(rows[i]["component"], task.pack.seed) for i in made.rows.tolist()]
    characters = np.array([sum(map(len, texts[i])) for i in made.rows.tolist()], np.int64)
    loss = made.loss.astype(np.uint8)
    return Part(
        ids=made.ids,
        loss=loss,
        lengths=lengths,
        names=b"".join(names),
        name_lengths=np.array([len(name) for name in names], np.int64),
        components=np.array(hashes, np.uint64),
        characters=characters * lengths // np.maximum(1, before),  # of a shorter document, its share
        labelled=np.add.reduceat(loss, made.starts[:-1], dtype=np.int64) if len(lengths) else lengths,
        first=np.diff(made.rows, prepend=-1).astype(bool).astype(np.uint8),
        dropped=dropped,
        cost=made.cost,
    )


@lru_cache(maxsize=1)
def tokenizer_of(model: str, stamp: tuple[int, ...]) -> Any:
    return load_tokenizer(model)


def rendered(
    batch: Sequence[dict[str, Any]], tokenizer: Any, prompt: PromptSettings, dropped: Counter[str]
) -> tuple[list[dict[str, Any]], list[tuple[str, ...]]]:
    """The rows that the style can show, and their texts; counts the others by reason."""
    rows, texts = [], []
    for row in batch:
        try:
            texts.append(render_row(row, tokenizer, prompt))
            rows.append(row)
        except Unrenderable as error:
            dropped[error.reason] += 1
    return rows, texts


def check(tokens: Tokens, rows: Sequence[dict[str, Any]], eos: int, vocabulary: int, model: str) -> None:
    """What training relies on: a document's last token is EOS and has a label; an EOS with a label ends an answer; the
    model knows every token. That the tokens of a prompt begin its document, `tokenize` has seen to.

    Raises:
        UserError: names the row; the tokenizer or its template is at fault.
    """
    starts, loss = tokens.starts[:-1][tokens.whole], tokens.loss
    ends = tokens.starts[1:][tokens.whole] - 1
    ended = loss & (tokens.ids == eos)
    inside = ended[:-1] & loss[1:]  # loss goes on behind it; the first token of a document has none
    wrong, fault = np.flatnonzero(inside), "an end-of-text token before its end"
    if not len(wrong):
        wrong, fault = ends[~ended[ends]], "nothing to train on"
    if len(wrong):
        row = np.flatnonzero(tokens.whole)[np.searchsorted(starts, wrong[0], "right") - 1]
        raise UserError(
            f"{ROWS}, row {rows[row]['id']}: {fault}. The tokenizer or its chat template does not render it "
            f"consistently; choose another prompt.style."
        )
    unknown = np.flatnonzero(tokens.ids >= vocabulary) if vocabulary else ends[:0]
    if len(unknown):
        row = np.searchsorted(tokens.starts, unknown[0], "right") - 1
        raise UserError(
            f"{model}: token {tokens.ids[unknown[0]]} of row {rows[row]['id']}, but the model knows {vocabulary} tokens. "
            f"Tokenizer and model do not belong together."
        )


def refuse_long(tokens: Tokens, rows: Sequence[dict[str, Any]], limit: int) -> None:
    lengths = np.diff(tokens.starts)
    for row in np.flatnonzero(lengths > limit)[:1].tolist():
        raise UserError(
            f"{ROWS}, row {rows[row]['id']} ({rows[row]['source']}): {lengths[row]} tokens, and pack.max_length is "
            f"{limit}. Raise it, or set pack.overlong to drop, truncate or split."
        )
