"""A row of data/raw as the rules see it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stages.clean.code.syntax import FENCED_BLOCK, Code, read_fenced_code, read_module_code

WORD_PATTERN = re.compile(r"\w+")


@dataclass
class RowView:
    """One row. What derives from its text is computed on first use and cached."""

    id: str
    source: str
    prompt: str  # what is not trained on; of a conversation, the other turns
    answer: str  # the completion, or the assistant's turns that are trained on, with reasoning and tool calls
    text: str  # the whole row
    layout: str  # where its code is: whole | fenced
    licence: str = ""  # SPDX id or expression
    tests: str = ""  # Python source that tests the row's code
    parent: str = ""  # what rows are renderings or versions of, in their metadata

    @cached_property
    def code(self) -> Code:
        return read_module_code(self.text) if self.layout == "whole" else read_fenced_code(self.answer)

    @cached_property
    def functions(self) -> list[tuple[str, str]]:
        """Names and canonical texts of functions anywhere in the row: decontamination ignores `layout`."""
        if self.code.functions or "def" not in self.text:
            return self.code.functions
        elsewhere = read_fenced_code(self.answer) if self.layout == "whole" else read_module_code(self.text)
        return elsewhere.functions or read_module_code(self.answer).functions

    @cached_property
    def checked_text(self) -> str:
        """What text rules check: the module, or the answer alone, since a user's turn is not trained on."""
        return self.text if self.layout == "whole" else self.answer

    @cached_property
    def lines(self) -> list[str]:
        """Non-blank lines of the answer, stripped."""
        return [line for line in map(str.strip, self.answer.splitlines()) if line]

    @cached_property
    def fences(self) -> list[tuple[str, str]]:
        """Lower-case language ("" if unmarked) and text of each fenced block of the answer."""
        if self.layout == "whole" or not ("```" in self.answer or "~~~" in self.answer):
            return []
        return [(language.lower(), block) for _, language, block in FENCED_BLOCK.findall(self.answer)]

    @cached_property
    def prose(self) -> str:
        """The answer without its fenced blocks; the whole answer for a module."""
        return FENCED_BLOCK.sub("", self.answer) if self.fences else self.answer

    @cached_property
    def words(self) -> list[str]:
        """Lower-case words of the whole row, without punctuation."""
        return WORD_PATTERN.findall(self.text.lower())


def make_row(record: dict[str, Any], layout: str) -> RowView:
    """Return the view of a record of `row_schema()`. A conversation is always read as fenced."""
    if record["messages"] is None:
        prompt, answer = record["prompt"] or "", record["completion"] or ""
        text = prompt + answer
    else:
        turns = [trained_text(m) for m in record["messages"] if m]
        prompt = "\n".join(text for is_answer, text in turns if not is_answer)
        answer = "\n".join(text for is_answer, text in turns if is_answer)
        text = "\n".join(text for _, text in turns)
        layout = "fenced"
    return RowView(
        record["id"],
        record["source"],
        prompt,
        answer,
        text,
        layout,
        record["licence"],
        record["tests"] or "",
        str(json.loads(record["metadata"])["parent"]) if '"parent":' in record["metadata"] else "",
    )


def trained_text(message: dict[str, Any]) -> tuple[bool, str]:
    """Return whether a turn is trained on, and its text: reasoning, content and tool calls."""
    content = message["content"] or ""
    if not message.get("extra"):
        return message["role"] == "assistant", content
    extra = json.loads(message["extra"])
    calls = [line for call in extra.get("tool_calls", ()) for line in value_lines(call.get("function", call))]
    texts = [extra.get("reasoning_content") or "", content, *calls]
    is_answer = message["role"] == "assistant" and extra.get("train") is not False
    return is_answer, "\n".join(filter(None, texts))


def value_lines(value: Any, key: str = "") -> Iterator[str]:
    """Yield the values of a tool call, each behind its key; a text of many lines starts a line of its own."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from value_lines(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from value_lines(inner, key)
    else:
        text = value if isinstance(value, str) else json.dumps(value)
        yield f"{key}:\n{text}" if "\n" in text else f"{key}: {text}"
