"""The marks that models put around their thinking: one table for what is judged and for where generation stops."""

import ast
import re

NAME = r"(?:\w+[:_])?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|analysis|rationale)(?:_\w+)?"
CHANNEL = r"<\|channel\|>\s*(?:analysis|commentary)\b(?:[^<\n]|<\|(?!message)[^|>\n]*\|>)*<\|message\|>"
# Opener (a pattern) and closer, with the opener's first group for {}; compared ignoring case. Sources: the models'
# chat templates and vLLM's reasoning parsers (vllm/reasoning)
THINKING: tuple[tuple[str, str], ...] = (
    (rf"<({NAME})>", "</{}>"),  # <think> (most), <thinking>, <thought>, <reasoning>, <seed:think>, ...
    (rf"\[({NAME})\]", "[/{}]"),  # Magistral
    (rf"◁({NAME})▷", "◁/{}▷"),  # Kimi
    (rf"<\|begin_of_({NAME})\|>", "<|end_of_{}|>"),  # OpenThinker
    (rf"<\|start_({NAME})\|>", "<|end_{}|>"),  # Cohere
    (r"<\|inner_prefix\|>", "<|inner_suffix|>"),  # Apertus
    (CHANNEL, "<|channel|>final<|message|>"),  # harmony: gpt-oss
    (r"analysis(?=(?-i:[A-Z]))", "assistantfinal"),  # the same without its special tokens
    (r"<\|channel>\s*(?:thought|analysis)\b", "<channel|>"),  # Gemma
    (r"<unused94>(?:thought)?", "<unused95>"),  # MedGemma
    (r"Here(?:'s| is) my thought process:", "Here is my response:"),  # Granite
)
OPENERS = [(re.compile(opener, re.IGNORECASE), closer) for opener, closer in THINKING]
CLOSER = re.compile(
    "|".join(re.escape(closer).replace(r"\{\}", NAME) for _, closer in THINKING), re.IGNORECASE
)
# Tokens of the turn that a backend may leave before the answer
LEADING = re.compile(
    r"\s*(?:(?:<(?:s|bos|pad|BOS_TOKEN)>|<[|｜](?:im_start|start|begin)(?!_)[^|｜]*[|｜]>(?:assistant)?)\s*)*"
)
MAX_TAGS = 8  # tags of a text that are looked at
MAX_CODE = 64_000  # characters parsed to see whether a tag is in a string


def opened_by(prompt: str) -> tuple[str, str]:
    """Return the opener that a rendered prompt ends with, and its closer; empty without one."""
    end = prompt.rstrip()[-200:]
    found = [pair for pair in openers_in(end) if pair[0].end() == len(end)]
    return (found[0][0].group(), found[0][1]) if found else ("", "")


def openers_in(text: str) -> list[tuple[re.Match[str], str]]:
    """Return the openers of a text with their closers, by place; some of many."""
    found = [
        (match, closer.format(*match.groups()))
        for opener, closer in OPENERS
        for match, _ in zip(opener.finditer(text), range(MAX_TAGS), strict=False)
    ]
    return sorted(found, key=lambda pair: pair[0].start())


def answer_start(text: str, closer: str = "") -> int | None:
    """Return where the answer starts: after the thinking that `text` begins with; None while that goes on.

    `closer` ends thinking that the prompt opened. Marks after the answer's start are part of the answer.
    """
    start = 0
    while True:
        begin = start
        if not closer:
            leading = LEADING.match(text, start)
            begin = leading.end() if leading else start
            opened = ((m, c) for opener, c in OPENERS if (m := opener.match(text, begin)))
            match, closer = next(opened, (None, ""))
            if match is None:
                return start
            begin, closer = match.end(), closer.format(*match.groups())
        end = re.compile(re.escape(closer), re.IGNORECASE).search(text, begin)
        if end is None:
            return None
        start, closer = end.end(), ""


def without_thinking(text: str) -> str:
    """Return the answer of a text: "" where thinking does not end.

    A closer without an opener ends thinking that the chat template opened, unless it stands in a string or
    comment of the code, or nothing follows it. Later thoughts go up to their own end, or the text's.
    """
    start = answer_start(text)
    if start is None:
        return ""
    text = text[start:]
    closers = list(CLOSER.finditer(text))[-MAX_TAGS:]
    for closer in reversed(closers):
        if text[closer.end() :].strip() and not inside_code(text, closer):
            return without_thinking(text[closer.end() :])
    for opener, closer_text in openers_in(text):
        own_line = not text[: opener.start()].rpartition("\n")[2].strip()
        if own_line and not inside_code(text, opener):
            until = text.lower().find(closer_text.lower(), opener.end())
            return text[: opener.start()] + (text[until + len(closer_text) :] if until >= 0 else "")
    return text


def inside_code(text: str, tag: re.Match[str]) -> bool:
    """Return whether a tag is in a string or comment of Python code."""
    line = text.rfind("\n", 0, tag.start()) + 1
    before, after = text[line : tag.start()], text[tag.end() :].partition("\n")[0]
    if any(before.count(quote) % 2 and quote in after for quote in "\"'") or before.lstrip()[:1] == "#":
        return True
    opening = text.rfind("\n```", 0, tag.start()) + 1  # the fence around it, or the whole text
    start = text.find("\n", opening) + 1 if opening or text.startswith("```") else 0
    closing_fence = text.find("\n```", tag.end())
    block = text[start : closing_fence if closing_fence >= 0 else len(text)]
    return len(block) <= MAX_CODE and any(is_python(header + block) for header in ("", "def f():\n"))


def is_python(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True
