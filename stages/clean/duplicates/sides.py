"""What of a row is compared with other rows: its question and its answer, without what rows share by construction."""

import ast
import re
from typing import Any

from stages.clean.duplicates.deduplicate import normalize_text, text_digest
from stages.clean.row import trained_text

# A comment at the head of a text, or of a fenced block, that speaks of a licence
HEADER = re.compile(
    r"(\A|^(?:```|~~~)[\w+#-]*\n)(?:#![^\n]*\n)?\s*"
    r"((?:[ \t]*(?:#|//|--|;)[^\n]*\n|[ \t]*\n)+|/\*.*?\*/|<!--.*?-->|(\"\"\"|\'\'\').*?\3)",
    re.M | re.S,
)
LICENCE = re.compile(r"licen[cs]e|copyright|©", re.I)


def question_and_answer(record: dict[str, Any]) -> tuple[str, str]:
    """Return the two texts of a record of `row_schema()` that are compared.

    The answer is the last turn of the assistant, with its tool calls and its reasoning; the tools and all turns before it
    but the system's are the question. A header with a licence is left out of both.
    """
    if record["messages"] is None:
        question, answer = record["prompt"] or "", record["completion"] or ""
    else:
        turns = [turn for turn in record["messages"] if turn and turn["role"] not in ("system", "developer")]
        last = max((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), default=len(turns))
        texts = [trained_text(turn)[1].strip("\n") for turn in turns]
        question = "\n".join([*([record["tools"]] if record["tools"] else []), *texts[:last]])
        answer = "\n".join(texts[last : last + 1])
    return without_licence(question), without_licence(answer)


def without_licence(text: str) -> str:
    return HEADER.sub(lambda match: match[1] if LICENCE.search(match[2]) else match[0], text)


def question_digest(question: str, is_module: bool) -> int:
    """Return 64 bits of the normalized question; 0 for a row that asks nothing.

    Args:
        is_module: question and answer are one Python module. Then the question is code, which belongs to what
            is learnt, unless it is a comment or a string alone.
    """
    text = normalize_text(question).strip()
    if not text or (is_module and not is_prose(text)):
        return 0
    return text_digest(text)


def is_prose(text: str) -> bool:
    """Return whether Python code is comments and strings alone."""
    if text[0] not in "#\"'rR":
        return False
    try:
        return all(
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            for node in ast.parse(text).body
        )
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
