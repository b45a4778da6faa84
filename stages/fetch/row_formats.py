"""Formats of rows: the columns each needs and may have, and what a row becomes in data/raw."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from stages.fetch.function_split import Unfit, split_function
from stages.fetch.row_errors import FORMAT, NOT_TEXT, RowError
from stages.fetch.turns import make_turn, read_tools, read_turns

SourceRow = Mapping[str, Any]
RawColumns = dict[str, Any]  # columns of data/raw; those that are missing are null

SYSTEM_COLUMNS = ("system", "system_prompt", "system_message")
CHAT_COLUMNS = ("messages", "conversations", "conversation")
REASONING_COLUMNS = ("reasoning_content", "reasoning", "thinking")
CONTEXT_COLUMNS = ("input", "context")  # follows an instruction, after a blank line
JSON_COLUMNS = (*CHAT_COLUMNS, "tools", "functions", "history")  # may be JSON text, as in CSV
QUESTIONS: tuple[str, ...] = ("instruction", "prompt", "question", "query", "problem", "input")
ANSWERS: tuple[str, ...] = ("output", "completion", "response", "solution", "answer")
KNOWN_FORMATS = (
    f"{', '.join(CHAT_COLUMNS)} (turns of OpenAI or ShareGPT); a question ({', '.join(QUESTIONS)}) and an "
    f"answer ({', '.join(ANSWERS)}); query, tools and answers (xLAM); code and test_list (MBPP); "
    "func_code_string or whole_func_string (CodeSearchNet); or text, content or code alone"
)


@dataclass(frozen=True)
class RowFormat:
    """A format that a source has if `required` are among its columns; `optional` are read as well."""

    required: tuple[str, ...]
    convert: Callable[[SourceRow], RawColumns]
    optional: tuple[str, ...] = ()
    # Texts that its data sets have beside, and that repeat or extend what is read.
    known: tuple[str, ...] = ()


def from_chat(column: str, row: SourceRow) -> RawColumns:
    return chat_columns(row, read_turns(row[column], column))


def from_pair(question: str, answer: str, row: SourceRow) -> RawColumns:
    """A question and its answer; a conversation if the row has a system prompt, earlier turns or tools too."""
    if isinstance(row[question], list) and isinstance(row[answer], list):  # TRL's conversational form
        return chat_columns(row, read_turns(row[question] + row[answer], f"{question} and {answer}"))
    prompt = require_text(row, question)
    # an answer may be a number, or the number of a class
    completion = str(row[answer]) if type(row[answer]) in (int, float) else require_text(row, answer)
    if question == "instruction":
        for name in CONTEXT_COLUMNS:
            if name != answer and (given := optional_text(row, name)).strip():
                prompt = f"{prompt}\n\n{given}" if prompt.strip() else given
    if row.keys().isdisjoint(BESIDE_PAIR):
        return {"prompt": prompt, "completion": completion}
    earlier = []
    for exchange in row.get("history") or ():
        if not isinstance(exchange, list) or len(exchange) != 2:
            raise RowError(FORMAT, "'history' is not a list of questions with answers")
        earlier += read_turns([str(text) for text in exchange], "history")
    reasoning = next((text for name in REASONING_COLUMNS if (text := optional_text(row, name)).strip()), "")
    if earlier or reasoning or row.get("tools") or row.get("functions") or system_text(row):
        extra = {"reasoning_content": reasoning} if reasoning else {}
        return chat_columns(
            row, [*earlier, make_turn("user", prompt), make_turn("assistant", completion, extra)]
        )
    return {"prompt": prompt, "completion": completion}


def from_calls(row: SourceRow) -> RawColumns:
    """xLAM: a query, the tools, and the calls that answer it."""
    answer = {"role": "assistant", "function_call": None, "tool_calls": row["answers"]}
    if isinstance(row["answers"], str):
        answer = {"role": "tool_call", "content": row["answers"]}
    return chat_columns(row, read_turns([{"role": "user", "content": row["query"]}, answer], "answers"))


def chat_columns(row: SourceRow, turns: list[dict[str, Any]]) -> RawColumns:
    """Return the columns of a conversation, which a system column of the row opens."""
    if system := system_text(row):
        if turns[0]["role"] != "system":
            turns = [make_turn("system", system), *turns]
        elif turns[0]["content"].strip() != system.strip():
            raise RowError(FORMAT, "it has a system turn, and another text in its system column")
    tools = read_tools(row.get("tools") or row.get("functions"))
    return {"messages": turns, **({"tools": tools} if tools else {})}


def system_text(row: SourceRow) -> str:
    return next((text for name in SYSTEM_COLUMNS if (text := optional_text(row, name)).strip()), "")


def from_mbpp(task: str, row: SourceRow) -> RawColumns:
    """MBPP: task and asserts are the prompt, a docstring as in the benchmark; the asserts are also the tests."""
    asserts = join_lines(row["test_list"])
    if asserts is None:
        raise RowError(NOT_TEXT, "'test_list' is not a list of text")
    imports = join_lines(row.get("test_imports"))
    setup = row.get("test_setup_code") if isinstance(row.get("test_setup_code"), str) else imports
    lines = [part.replace("\r\n", "\n").strip() for part in (setup or "", asserts)]
    tests = "".join(f"{part}\n" for part in lines if part)
    prompt = f'"""\n{require_text(row, task).strip()}\n{lines[1]}\n"""\n'
    code = require_text(row, "code").replace("\r\n", "\n").strip("\n")
    return {"prompt": prompt, "completion": f"{code}\n", "tests": tests}


def from_code_search_net(column: str, row: SourceRow) -> RawColumns:
    """CodeSearchNet, whose Python is split after the docstring, as in `functions`.

    For other languages, and Python that cannot be split, the documentation or nothing is the prompt.
    """
    code = require_text(row, column)
    try:
        prompt, completion = split_function(code)
    except (SyntaxError, ValueError, RecursionError, Unfit):
        is_python = row.get("language") in (None, "python")
        prompt = "" if is_python else optional_text(row, "func_documentation_string")
        completion = code
    return {"prompt": prompt, "completion": completion}


def from_text(column: str, row: SourceRow) -> RawColumns:
    return {"prompt": "", "completion": require_text(row, column)}


PLAIN_TEXT = (("text",), ("content",), ("code",))
CHAT_OPTIONAL = (*SYSTEM_COLUMNS, "tools", "functions", "tests")
BESIDE_PAIR = (*SYSTEM_COLUMNS, *REASONING_COLUMNS, "history", "tools", "functions")
PAIR_OPTIONAL = (*BESIDE_PAIR, "tests", "unit_tests")
FORMATS = (  # the first whose columns a source has is taken
    *(RowFormat((name,), partial(from_chat, name), CHAT_OPTIONAL) for name in CHAT_COLUMNS),
    RowFormat(("query", "tools", "answers"), from_calls, CHAT_OPTIONAL),
    *(
        RowFormat((question, answer), partial(from_pair, question, answer), PAIR_OPTIONAL + CONTEXT_COLUMNS * (question == "instruction"))
        for question in QUESTIONS for answer in ANSWERS
    ),
    *(
        RowFormat((task, "code", "test_list"), partial(from_mbpp, task), ("test_setup_code", "test_imports"), ("challenge_test_list",))
        for task in ("text", "prompt")
    ),
    *(
        RowFormat((name,), partial(from_code_search_net, name), ("func_documentation_string", "language"), ("whole_func_string",))
        for name in ("func_code_string", "whole_func_string")
    ),
    *(RowFormat(names, partial(from_text, *names), ("tests",)) for names in PLAIN_TEXT),
)  # fmt: skip


def read_tests(value: Any) -> str | None:
    """Return tests as Python source, from text or a list of statements (also as JSON); None without tests.

    A list in a string must be unpacked: as Python it is a literal, which passes whatever the code does.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    return (value if isinstance(value, str) else join_lines(value)) or None


def join_lines(values: Any) -> str | None:
    """Join a list of text into lines; None if the value is anything else."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        return None
    return "\n".join(value.strip() for value in values)


def optional_text(row: SourceRow, column: str) -> str:
    return require_text(row, column) if row.get(column) is not None else ""


def require_text(row: SourceRow, column: str) -> str:
    if not isinstance(row[column], str):
        raise RowError(NOT_TEXT, f"'{column}' is {type(row[column]).__name__}, expected text")
    return row[column]
