"""Rows of data/raw as the rules see them."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stages.clean.code.syntax import FENCE, Code, read_fences, read_module

WORD = re.compile(r"\w+")


@dataclass
class Row:
    """One row; what is derived from its text is worked out once, when a rule asks for it."""

    id: str
    source: str
    prompt: str  # all that is not trained on; for a conversation the turns of the others
    answer: str  # completion, or the assistant's turns
    text: str  # the whole of it
    layout: str  # where its code is: whole | fenced
    has_tests: bool = False
    # Checks of decontamination that can find something in the row (`decontaminate.mark`); None: any of them may.
    suspected: frozenset[str] | None = None
    licence: str = ""  # SPDX id or expression
    tests: str = ""  # Python source that checks the row's code

    @cached_property
    def code(self) -> Code:
        return read_module(self.text) if self.layout == "whole" else read_fences(self.answer)

    @cached_property
    def functions(self) -> list[tuple[str, str]]:
        """Functions, methods too, and their canonical texts, wherever in the row they are: decontamination does not trust `layout`."""
        if self.code.functions or "def" not in self.text:
            return self.code.functions
        elsewhere = read_fences(self.answer) if self.layout == "whole" else read_module(self.text)
        return elsewhere.functions or read_module(self.answer).functions

    @cached_property
    def judged(self) -> str:
        """What rules about text look at: the module, or the answer alone, for nobody learns a user's turn."""
        return self.text if self.layout == "whole" else self.answer

    @cached_property
    def lines(self) -> list[str]:
        """Lines of the answer that are not blank, stripped."""
        return [line for line in map(str.strip, self.answer.splitlines()) if line]

    @cached_property
    def fences(self) -> list[tuple[str, str]]:
        """Language in lower case ("" for none) and text of each fenced block of the answer; none for a module."""
        if self.layout == "whole" or not ("```" in self.answer or "~~~" in self.answer):
            return []
        return [(language.lower(), block) for _, language, block in FENCE.findall(self.answer)]

    @cached_property
    def prose(self) -> str:
        """The answer without its fenced blocks; for a module the whole answer."""
        return FENCE.sub("", self.answer) if self.fences else self.answer

    @cached_property
    def words(self) -> list[str]:
        """Lower-cased words of the whole row, punctuation dropped."""
        return WORD.findall(self.text.lower())


def make_row(record: dict[str, Any], layout: str) -> Row:
    """Row of one record of `row_schema()`. A conversation's code is always in fences."""
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
    return Row(
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
