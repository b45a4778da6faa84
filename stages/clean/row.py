"""A row of data/raw as the rules see it."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stages.clean.code.syntax import FENCED_BLOCK, Code, read_fenced_code, read_module_code

WORD_PATTERN = re.compile(r"\w+")
TextRecord = dict[str, Any]  # prompt, completion, tests and messages of a row


@dataclass
class RowView:
    """One row. What derives from its text is computed on first use and cached."""

    id: str
    source: str
    prompt: str  # what is not trained on; of a conversation, every turn but the assistant's
    answer: str  # the completion, or the assistant's turns
    text: str  # the whole row
    layout: str  # where its code is: whole | fenced
    has_tests: bool = False
    licence: str = ""  # SPDX id or expression
    tests: str = ""  # Python source that tests the row's code

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
    messages = record["messages"]
    if messages is None:
        prompt, answer = record["prompt"] or "", record["completion"] or ""
        text = prompt + answer
    else:
        turns = [((m or {}).get("role"), (m or {}).get("content") or "") for m in messages]
        prompt = "\n".join(content for role, content in turns if role != "assistant")
        answer = "\n".join(content for role, content in turns if role == "assistant")
        text = "\n".join(content for _, content in turns)
        layout = "fenced"
    return RowView(
        record["id"],
        record["source"],
        prompt,
        answer,
        text,
        layout,
        bool(record["tests"]),
        licence=record["licence"],
        tests=record["tests"] or "",
    )
