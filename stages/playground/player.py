"""One model that answers: loaded when it is first asked, prompted and ended as in evaluate."""

import gc
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError
from stages.common.model.coverage import silence_transformers
from stages.common.text.prompt import guard_value
from stages.common.text.settings import PromptSettings
from stages.common.text.templates import Chat, ChatTurn, Unrenderable, answer_lead, render_opening
from stages.common.text.tokens import encode_prompts, load_tokenizer
from stages.generation.completion import BatchRow, Completion, Detokenizer, SampleRequest
from stages.generation.generate import context_length, random_stream_key, rows_to_generate, stop_ids
from stages.generation.settings import GenerationSettings
from stages.generation.stopping import Ending
from stages.generation.transformers_backend import Sampler, decode_rows, load_for_generation

OnText = Callable[[str], object]  # called with all of an answer so far


class StreamingSampler(Sampler):
    """A sampler that shows a row's text as it grows."""

    on_text: OnText

    def append(self, row: BatchRow, token: int) -> str | None:
        stop = super().append(row, token)
        self.on_text(row.text)
        return stop


class Player:
    """A model of a folder, with an adapter on it if there is one."""

    def __init__(
        self,
        title: str,
        folder: Path,
        adapter: Path | None,
        prompt: PromptSettings,
        settings: GenerationSettings,
    ) -> None:
        self.title, self.folder, self.adapter = title, folder, adapter
        self.prompt, self.settings = prompt, settings
        self.model: Any = None
        self.tokenizer = load_tokenizer(folder)
        self.context = context_length(folder)

    def answer(self, text: str, suffix: str | None = None, on_text: OnText = lambda text: None) -> Completion:
        """Return the completion of a prompt, or of what stands between a prompt and a suffix, as evaluate has it."""
        request = SampleRequest(text, suffix=suffix)
        (row,) = rows_to_generate(
            [request], self.tokenizer, self.context, self.folder, self.prompt, self.settings
        )
        return self.complete(row, on_text)

    def reply(self, turns: Sequence[ChatTurn], on_text: OnText = lambda text: None) -> Completion:
        """Return the answer to the last turn of a conversation.

        Raises:
            UserError: the template refuses the conversation, or it fills the context.
        """
        chat = Chat(guard_value([*turns], self.tokenizer, self.prompt.control_tokens))
        try:
            text = render_opening(chat, self.tokenizer, self.prompt)
        except Unrenderable as error:
            raise UserError(
                f"{self.title}: the template refuses the conversation ({error.detail})"
            ) from error
        text += answer_lead(self.tokenizer, self.prompt)
        (ids,) = encode_prompts([text], self.tokenizer)
        limit = min(self.settings.max_new_tokens, (self.context or math.inf) - len(ids))
        if limit < 1:
            raise UserError(
                f"{self.title}: the conversation has {len(ids)} tokens, and the context is {self.context}. Begin a new one"
            )
        stream = random_stream_key(self.settings.seed, SampleRequest(text))
        return self.complete(BatchRow(0, ids, Ending("none", False), int(limit), stream), on_text)

    def complete(self, row: BatchRow, on_text: OnText) -> Completion:
        if self.model is None:
            self.model = self.load()
        detokenizer = Detokenizer(self.tokenizer)
        stops = stop_ids(self.folder, self.tokenizer)
        sampler = StreamingSampler(detokenizer, stops, self.settings.temperature)
        sampler.on_text = on_text
        done: list[Completion] = []
        decode_rows(self.model, [row], sampler, 1, math.inf, lambda index, one: done.append(one))
        return done[0]

    def load(self) -> Any:
        silence_transformers()
        return load_for_generation(self.folder, self.settings.dtype, self.adapter)

    def unload(self) -> None:
        self.model = None
        gc.collect()
