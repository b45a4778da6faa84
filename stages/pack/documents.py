"""Turn rows of data/clean into token documents: render, tokenize, mask, check, and drop what cannot be trained on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.common.core.errors import UserError
from stages.common.core.paths import CLEAN_ROWS
from stages.common.rows.headers import is_function_header
from stages.common.rows.schema import row_schema
from stages.common.text.fill_tokens import OTHER_STYLE, fill_tokens
from stages.common.text.prompt import render_row
from stages.common.text.settings import PromptSettings
from stages.common.text.templates import Unrenderable
from stages.common.text.tokens import (
    GUARD,
    control_counter,
    control_tokens,
    encoder_of,
    load_tokenizer,
    tokenize,
)
from stages.pack.clean_rows import VALIDATED, read_rows
from stages.pack.overlong import Document, OverlongCost, shorten_chat, shorten_fill, shorten_text
from stages.pack.settings import PackSettings
from stages.pack.split import component_hash
from stages.pack.text_pieces import split_at_lines

Row = dict[str, Any]


class RowGroupTask(NamedTuple):
    """What a worker needs to tokenize one row group."""

    # index of the row group in data/clean/rows.parquet
    group: int
    # folder of the tokenizer
    model: str
    # tokens the model knows; 0: unknown
    vocabulary: int
    pack: PackSettings
    prompt: PromptSettings
    # only one process works, so the tokenizer may use threads
    alone: bool


class Outcome(NamedTuple):
    """What became of a row: its documents, or why it has none."""

    documents: Sequence[Document] = ()
    # rendered characters
    characters: int = 0
    reason: str = ""
    detail: str = ""


@dataclass
class TokenizedGroup:
    """The documents of one row group, in row order; arrays are flat or have one value per document."""

    # ids of trained tokens, and ~id (negative) of tokens without loss
    tokens: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int64]
    row_ids: list[str]
    # `component_hash` of each document's duplicate component
    components: npt.NDArray[np.uint64]
    # rendered characters of each document
    characters: npt.NDArray[np.int64]
    # the document is the first of its row
    first: npt.NDArray[np.bool_]
    # the tests or doctests of the document's row passed
    validated: npt.NDArray[np.bool_]
    # dropped rows: the columns of data/clean, `reason` and `detail`
    dropped: pa.Table | None = None
    # rows whose prompt and completion meet without white space
    glued: list[str] = field(default_factory=list)
    cost: OverlongCost = field(default_factory=OverlongCost)


def tokenize_group(task: RowGroupTask) -> TokenizedGroup:
    """Return the documents of a row group.

    Raises:
        UserError: a row has more than `pack.max_length` tokens and `pack.overlong` is `fail`; a token is
            outside the model's vocabulary.
    """
    if not task.alone:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    table = read_rows(task.group)
    rows, cost = table.to_pylist(), OverlongCost()
    outcomes = tokenize_rows(rows, task, cost)
    kept = [(row, one) for row, one in zip(rows, outcomes, strict=True) if one.documents]
    lengths = [np.array([len(part.ids) for part in one.documents], np.int64) for _, one in kept]
    counts = [len(one.documents) for _, one in kept]
    tokens = [np.where(part.loss, part.ids, ~part.ids) for _, one in kept for part in one.documents]
    hashes = [component_hash(row["component"], task.pack.seed) for row, _ in kept]
    # a document that is part of a row gets its share of the row's characters
    characters = [
        one.characters * sizes // sizes.sum() for (_, one), sizes in zip(kept, lengths, strict=True)
    ]
    left_out = [i for i, one in enumerate(outcomes) if not one.documents]
    dropped = table.take(left_out).select(row_schema().names) if left_out else None
    if dropped:
        for name in ("reason", "detail"):
            dropped = dropped.append_column(name, pa.array([getattr(outcomes[i], name) for i in left_out]))
    return TokenizedGroup(
        tokens=np.concatenate([np.zeros(0, np.int32), *tokens]),
        lengths=np.concatenate([np.zeros(0, np.int64), *lengths]),
        row_ids=[row["id"] for (row, _), count in zip(kept, counts, strict=True) for _ in range(count)],
        components=np.repeat(np.array(hashes, np.uint64), counts),
        characters=np.concatenate([np.zeros(0, np.int64), *characters]),
        first=np.concatenate([np.zeros(0, bool), *(np.arange(count) == 0 for count in counts)]),
        validated=np.repeat(np.array([row.get(VALIDATED) is True for row, _ in kept], bool), counts),
        dropped=dropped,
        glued=[row["id"] for row, _ in kept if is_glued(row, task.prompt.beside_fim)],
        cost=cost,
    )


@lru_cache(maxsize=1)
def cached_tokenizer(model: str) -> Any:
    return load_tokenizer(model)


def tokenize_rows(rows: Sequence[Row], task: RowGroupTask, cost: OverlongCost) -> list[Outcome]:
    """Return what becomes of each row; `cost` counts what the length limit takes."""
    tokenizer = cached_tokenizer(task.model)
    encode = partial(encode_rows, tokenizer=tokenizer, prompt=task.prompt)
    outcomes = encode(rows)
    for number, (row, one) in enumerate(zip(rows, outcomes, strict=True)):
        if not one.documents:
            continue
        (whole,) = one.documents
        check_vocabulary(whole, row, task)
        if len(whole.ids) > task.pack.max_length:
            parts = shorten_row(row, whole, encode, task, len(encoder_of(tokenizer).lead), cost)
            detail = f"{len(whole.ids)} tokens; pack.max_length is {task.pack.max_length}"
            outcomes[number] = one._replace(
                documents=parts, reason="" if parts else "overlong", detail=detail
            )
    return outcomes


def encode_rows(rows: Sequence[Row], tokenizer: Any, prompt: PromptSettings) -> list[Outcome]:
    """Render and tokenize rows, each to one document of any length, or to the reason why not."""
    outcomes, rendered = [Outcome() for _ in rows], []
    for number, row in enumerate(rows):
        try:
            rendered.append((number, render_row(row, tokenizer, prompt)))
        except Unrenderable as error:
            outcomes[number] = Outcome(reason=error.reason, detail=error.detail)
    tokens = tokenize([texts for _, texts in rendered], tokenizer)
    for (number, texts), start, end in zip(rendered, tokens.starts[:-1], tokens.starts[1:], strict=True):
        document = Document(tokens.ids[start:end], tokens.loss[start:end])
        reason, detail = find_fault(document, texts, tokenizer)
        characters = sum(map(len, texts))
        outcomes[number] = Outcome([] if reason else [document], characters, reason, detail)
    return outcomes


def find_fault(document: Document, texts: Sequence[str], tokenizer: Any) -> tuple[str, str]:
    """Return the reason not to train on a document and its detail, empty if there is none.

    The document must end in a labelled EOS, which nothing with a label follows directly, and have another
    label. No control token may come of text that spells one.
    """
    ids, loss = document
    trained_end = loss & (ids == tokenizer.eos_token_id)
    if loss.sum() < 2:
        return "no_label", "no token of the answer can be trained on"
    if (trained_end[:-1] & loss[1:]).any():
        return "early_end", "an end-of-text token before the end of an answer: the template writes it"
    if any(GUARD in text for text in texts):
        count = control_counter(tokenizer)
        expected = sum(map(count, texts)) + 1
        controls = set(control_tokens(tokenizer).values()) - {tokenizer.unk_token_id}
        lead = (
            0
            if tokenizer.bos_token and texts[0].startswith(tokenizer.bos_token)
            else len(encoder_of(tokenizer).lead)
        )
        if int(np.isin(ids, list(controls)).sum()) != expected + lead:
            return "special_token", "the tokenizer cannot encode a control token that the text spells as text"
    return "", ""


def shorten_row(
    row: Row, whole: Document, encode: Any, task: RowGroupTask, lead: int, cost: OverlongCost
) -> list[Document]:
    """Return the documents that replace one that is too long; none if it is dropped.

    Raises:
        UserError: `pack.overlong` is `fail`.
    """
    limit, mode = task.pack.max_length, task.pack.overlong
    if mode == "fail":
        raise UserError(
            f"{CLEAN_ROWS}, row {row['id']} ({row['source']}): {len(whole.ids)} tokens, but "
            f"pack.max_length is {limit}. Raise it, or set pack.overlong to drop, truncate or split."
        )
    parts: list[Document] = []
    kept = 0
    if (marks := fill_marks(whole, task)) and mode != "drop":
        parts = shorten_filled(row, whole, encode, task, marks)
        kept = min(sum(len(part.ids) for part in parts), len(whole.ids))
    elif mode != "drop" and is_running_text(row, task.prompt.beside_fim):
        parts = shorten_text(whole, limit, mode, lead)
        kept = sum(len(part.ids) for part in parts) - lead * max(0, len(parts) - 1)
    elif mode != "drop" and row["messages"]:
        every_answer = mode == "split" and task.prompt.loss == "all"
        parts, left = shorten_chat(row, lambda one: encode([one])[0].documents, limit, every_answer)
        kept = min(left, len(whole.ids))
    cost.add(
        OverlongCost(
            rows=1,
            dropped=int(not parts),
            tokens_lost=len(whole.ids) - kept,
            # pieces that are filled in may have more labels than the whole
            labelled_tokens_lost=max(0, int(whole.loss.sum()) - sum(int(part.loss.sum()) for part in parts)),
        )
    )
    return parts


def fill_marks(document: Document, task: RowGroupTask) -> list[int]:
    """Return the ids before prefix, suffix and middle of a document that is filled in, [] of another."""
    if task.prompt.style != "fim":
        return []
    tokenizer = cached_tokenizer(task.model)
    marks: list[int] = tokenizer.convert_tokens_to_ids([*fill_tokens(tokenizer, OTHER_STYLE)[:3]])
    return marks if (document.ids == marks[2]).any() else []


def shorten_filled(
    row: Row, whole: Document, encode: Any, task: RowGroupTask, marks: Sequence[int]
) -> list[Document]:
    """Return documents within the limit: truncate shortens the context, split fills in each piece of the text."""
    limit, documents = task.pack.max_length, [whole]
    if task.pack.overlong == "split":
        text = (row["prompt"] or "") + (row["completion"] or "")
        pieces = split_at_lines(
            text, -(-len(whole.ids) // (limit * 7 // 8))
        )  # cut, a text has a few tokens more
        rows = [
            {**row, "prompt": "", "completion": piece, "id": f"{row['id']}/{number}"}
            for number, piece in enumerate(pieces)
        ]
        outcomes = encode(rows, prompt=replace(task.prompt, fim_share=1.0))
        documents = [document for one in outcomes for document in one.documents]
    return [part for document in documents for part in shorten_fill(document, limit, marks)]


def is_running_text(row: Row, prompt: PromptSettings) -> bool:
    """Whether a row is running text, which may be cut anywhere; a question and its answer may not."""
    return row["messages"] is None and (prompt.style == "completion" or not (row["prompt"] or "").strip())


def is_glued(row: Row, prompt: PromptSettings) -> bool:
    """Whether style completion joins a prompt that is no code to its completion without white space."""
    before, after = row["prompt"] or "", row["completion"] or ""
    if prompt.style != "completion" or not before.strip() or not after:
        return False
    return not (before[-1].isspace() or after[0].isspace() or is_function_header(before))


def check_vocabulary(document: Document, row: Row, task: RowGroupTask) -> None:
    """Raise UserError unless the model knows every token."""
    if task.vocabulary and document.ids.max() >= task.vocabulary:
        raise UserError(
            f"{task.model}: token {document.ids.max()} of row {row['id']} is outside the model's "
            f"vocabulary of {task.vocabulary} tokens. Tokenizer and model do not belong together: run "
            "`dvc repro -f -s base`."
        )
