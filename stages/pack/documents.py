"""Rows as token documents with labels, each checked."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from stages.common.errors import UserError
from stages.common.prompt import Unrenderable, render_row
from stages.common.prompt_settings import PromptSettings
from stages.common.tokens import encode_rows

IGNORED = -100  # label of a token without loss
BATCH_ROWS = 1024


@dataclass(frozen=True)
class Document:
    """One row as tokens: `prompt_tokens` of `ids` are context, the others, EOS last, are trained on."""

    row_id: str
    component: str
    ids: list[int]
    prompt_tokens: int
    characters: int  # of prompt and completion, as rendered

    def labels(self) -> list[int]:
        """Labels of `ids`; the first is ignored always, for nothing in the document comes before it."""
        masked = max(1, self.prompt_tokens)
        return [IGNORED] * masked + self.ids[masked:]


@dataclass
class Documents:
    kept: list[Document] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)  # rows by reason


def make_documents(
    rows: Iterator[list[dict[str, Any]]],
    tokenizer: Any,
    prompt: PromptSettings,
    max_length: int,
    overlong: str = "drop",
) -> Documents:
    """Render, tokenize and check batches of rows.

    Raises:
        UserError: a row of more than `max_length` tokens where `overlong` is `fail`; a rendering that breaks the
            contract of `check`.
    """
    made = Documents()
    for batch in rows:
        texts, renderable = render_batch(batch, tokenizer, prompt, made.dropped)
        encoded = encode_rows(texts, tokenizer)
        for row, text, (asked, answer) in zip(renderable, texts, encoded, strict=True):
            document = Document(row["id"], row["component"], asked + answer, len(asked), sum(map(len, text)))
            check(document, tokenizer.eos_token_id)
            if len(document.ids) <= max_length:
                made.kept.append(document)
            elif overlong == "drop":
                made.dropped["overlong"] += 1
            else:
                raise UserError(
                    f"data/clean/rows.parquet, row {row['id']} ({row['source']}): {len(document.ids)} tokens, and "
                    f"pack.max_length is {max_length}. Raise it, or set pack.overlong to drop."
                )
    return made


def render_batch(
    batch: Sequence[dict[str, Any]], tokenizer: Any, prompt: PromptSettings, dropped: Counter[str]
) -> tuple[list[tuple[str, str]], list[dict[str, Any]]]:
    """Texts of the rows that the style can show, and those rows; counts the others by reason."""
    texts, renderable = [], []
    for row in batch:
        try:
            texts.append(render_row(row, tokenizer, prompt))
            renderable.append(row)
        except Unrenderable as error:
            dropped[error.reason] += 1
    return texts, renderable


def check(document: Document, eos: int) -> None:
    """What training relies on: the last label is EOS, and no other label is.

    Raises:
        UserError: names the row; the tokenizer or its template is at fault.
    """
    labels = document.labels()
    if labels[-1] != eos or eos in labels[:-1]:
        fault = "an end-of-text token before its end" if eos in labels[:-1] else "nothing to train on"
        raise UserError(
            f"data/clean/rows.parquet, row {document.row_id}: {fault}. The tokenizer or its chat template does not "
            f"render it consistently; choose another prompt.style."
        )
