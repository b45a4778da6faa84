"""A sample from request to completion: the types that both backends take and return."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from stages.common.rows.schema import Problem
from stages.common.text.tokens import plain_ids, special_tokens
from stages.generation.stopping import Ending
from stages.judge.extract.thinking import OPENERS


@dataclass(frozen=True)
class SampleRequest:
    """A sample to generate."""

    # The benchmark's prompt, not yet rendered
    prompt: str
    # Its number among the samples of its prompt
    sample: int = 0
    # Of the problem, for messages
    name: str = "the prompt"
    # What follows the text to generate, where the model fills in the middle
    suffix: str | None = None

    @property
    def text(self) -> tuple[str, str | None]:
        return self.prompt, self.suffix

    @property
    def key(self) -> tuple[str, int]:
        return self.name, self.sample


def request_for(problem: Problem, number: int) -> SampleRequest:
    """Return the request for a sample of a problem; `number` counts the problem's samples."""
    suffix = problem.suffix if problem.kind == "infill" else None
    return SampleRequest(problem.question or problem.prompt, number, problem.task_id, suffix)


@dataclass(frozen=True)
class Completion:
    # What follows the rendered prompt, up to the end of the answer; thinking that the prompt opened has its
    # opener in front, so that a reader of the text alone knows it for thinking
    text: str
    # Tokens generated, including the one that ended the sample
    new_tokens: int
    # eos | function_end | loop | length
    stop: str


@dataclass
class BatchRow:
    """A sample while it is generated."""

    # Of the request in the caller's list
    index: int
    # The rendered prompt
    ids: list[int]
    ending: Ending
    # Tokens it may generate
    limit: int
    # Key of its random numbers, 128 bits
    stream: int = 0
    # Of the problem, for messages
    name: str = "the prompt"
    new: list[int] = field(default_factory=list)
    # `new` decoded token by token: exact where `ending` needs it, at line starts
    text: str = ""

    @property
    def need(self) -> int:
        """Return its length in tokens when it is longest."""
        return len(self.ids) + self.limit

    @cached_property
    def uniforms(self) -> np.ndarray:
        """Return a number in [0, 1) for each token."""
        return np.random.Generator(np.random.Philox(key=self.stream)).random(self.limit)


OnCompletion = Callable[[int, Completion], object]  # index of the request, and its completion


class Detokenizer:
    """Decode ids that follow other text: SentencePiece tokenizers would otherwise drop a leading space.

    Special tokens are left out, unless some of them mark the model's thinking.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.anchor = plain_ids(["a"], tokenizer)[0]
        self.skips = not marks_thinking(tokenizer)

    def __call__(self, ids: list[int]) -> str:
        options = {"skip_special_tokens": self.skips, "clean_up_tokenization_spaces": False}
        prefix = self.tokenizer.decode(self.anchor, **options)
        return self.tokenizer.decode([*self.anchor, *ids], **options)[len(prefix) :]


def marks_thinking(tokenizer: Any) -> bool:
    """Return whether special tokens open the model's thinking, as Mistral's [THINK] and gpt-oss's <|channel|>."""
    # Channels open with several tokens, of which these words are the rest
    beginnings = [f"{token}analysis<|message|>" for token in special_tokens(tokenizer).values() if token]
    return any(opener.match(beginning) for beginning in beginnings for opener, _ in OPENERS)


def finish_row(row: BatchRow, stop: str, detokenizer: Detokenizer) -> Completion:
    """Return a row's completion, cut at the end of its answer; `stop` as in Completion."""
    text = detokenizer(row.new[:-1] if stop == "eos" else row.new)
    end = row.ending.find(text, finished=True)
    if end is not None:
        text, stop = text[:end], "function_end"
    return Completion(row.ending.thinking[0] + text, len(row.new), stop)
