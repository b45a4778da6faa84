"""A sample on its way from a request to a completion: what both backends take and give."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stages.common.text.tokens import plain_ids
from stages.evaluate.settings import EvaluateSettings
from stages.evaluate.stopping import Ending


@dataclass(frozen=True)
class SampleRequest:
    """One sample that is wanted."""

    prompt: str  # the benchmark's, as it stands; it is rendered here
    sample: int = 0  # its number among those of its prompt


@dataclass(frozen=True)
class Completion:
    text: str  # what follows the rendered prompt, up to where the answer ends
    new_tokens: int  # tokens generated, the one that ended the sample included
    stop: str  # eos | function_end | length


@dataclass
class BatchRow:
    """One sample on its way."""

    index: int  # of the request in the caller's list
    ids: list[int]  # the rendered prompt
    ending: Ending
    limit: int  # tokens it may take
    stream: int = 0  # key of its random numbers, 128 bits
    new: list[int] = field(default_factory=list)
    text: str = ""  # of `new`, token by token: right where it matters to `ending`, at line starts

    @cached_property
    def uniforms(self) -> np.ndarray:
        """One number in [0, 1) a token."""
        return np.random.Generator(np.random.Philox(key=self.stream)).random(self.limit)


OnCompletion = Callable[[int, Completion], object]  # index of the request, and what came of it


class Detokenizer:
    """Text of token ids behind other text: tokenizers of SentencePiece's kind swallow a leading space else."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.anchor = plain_ids(["a"], tokenizer)[0]

    def __call__(self, ids: list[int]) -> str:
        how = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        before = self.tokenizer.decode(self.anchor, **how)
        return self.tokenizer.decode([*self.anchor, *ids], **how)[len(before) :]


class Backend(Protocol):
    """Completes rows of a model folder, in whatever order, and says so for each as it is finished.

    Args:
        rows: what to complete.
        spelling: ids to text.
        stops: tokens that end a sample.
    """

    def __call__(
        self,
        model_folder: Path,
        rows: Sequence[BatchRow],
        spelling: Detokenizer,
        stops: set[int],
        settings: EvaluateSettings,
        finished: OnCompletion,
    ) -> None: ...


def finish_row(row: BatchRow, stop: str, spelling: Detokenizer) -> Completion:
    """A finished row, with what is behind its answer cut off; `stop`: eos | function_end | length."""
    text = spelling(row.new[:-1] if stop == "eos" else row.new)
    end = row.ending.find(text, finished=True)
    if end is not None:
        text, stop = text[:end], "function_end"
    return Completion(text, len(row.new), stop)
