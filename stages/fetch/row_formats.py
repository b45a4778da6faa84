"""Recognise a row's format by its columns, and convert it to the columns of data/raw."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from stages.fetch.functions import split_function
from stages.fetch.python_module import Unfit
from stages.fetch.row_errors import FORMAT, NOT_TEXT, RowError

CHAT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
KNOWN_FORMATS = (
    "messages (OpenAI), conversations (ShareGPT), instruction and output or response (Alpaca, "
    "evol-instruct), problem and solution (Magicoder), input and output (OpenCodeInstruct), prompt and "
    "completion, text or prompt, code and test_list (MBPP), func_code_string or whole_func_string "
    "(CodeSearchNet), or text, content or code alone"
)
SourceRow = Mapping[str, Any]


def recognise_row(row: SourceRow) -> dict[str, Any]:
    """Return `prompt`, `completion`, `messages` and `tests` of a row in any known format.

    A format matches if none of its columns is missing or null, so a table may have empty columns of another
    format.

    Raises:
        RowError: the row fits no format, or a value has the wrong type; the message names no file or row.
    """
    for required, convert in FORMATS:
        if all(row.get(name) is not None for name in required):
            columns = convert(row)
            if columns["tests"] is None:
                columns["tests"] = read_tests(row.get("tests"))
            return columns
    names = ", ".join(f"{name} (null)" if row[name] is None else str(name) for name in row) or "none"
    raise RowError(
        FORMAT, f"its columns: {names}. Expected: {KNOWN_FORMATS}, or a mapping under columns or template"
    )


def from_messages(row: SourceRow) -> dict[str, Any]:
    return raw_columns(messages=read_turns(row["messages"], "messages", "role", "content"))


def from_conversations(row: SourceRow) -> dict[str, Any]:
    return raw_columns(messages=read_turns(row["conversations"], "conversations", "from", "value"))


def from_instruction(row: SourceRow) -> dict[str, Any]:
    answer = "output" if row.get("output") is not None else "response"
    instruction = require_text(row, "instruction")
    given = require_text(row, "input") if row.get("input") is not None else ""
    prompt = f"{instruction}\n\n{given}" if given.strip() else instruction
    return raw_columns(prompt=prompt, completion=require_text(row, answer))


def from_problem(row: SourceRow) -> dict[str, Any]:
    return raw_columns(prompt=require_text(row, "problem"), completion=require_text(row, "solution"))


def from_input(row: SourceRow) -> dict[str, Any]:
    """OpenCodeInstruct, whose unit tests are a JSON list of asserts in a string."""
    if "instruction" in row:
        raise RowError(FORMAT, f"'instruction' is null beside input and output. Expected: {KNOWN_FORMATS}")
    tests = read_tests(row.get("unit_tests"))
    return raw_columns(prompt=require_text(row, "input"), completion=require_text(row, "output"), tests=tests)


def from_prompt(row: SourceRow) -> dict[str, Any]:
    if isinstance(row["prompt"], list) and isinstance(row["completion"], list):
        turns = read_turns(row["prompt"] + row["completion"], "prompt and completion", "role", "content")
        return raw_columns(messages=turns)
    return raw_columns(prompt=require_text(row, "prompt"), completion=require_text(row, "completion"))


def from_mbpp(row: SourceRow) -> dict[str, Any]:
    """MBPP: task and asserts are the prompt, a docstring as in the benchmark; the asserts are also the tests."""
    task = require_text(row, "text" if row.get("text") is not None else "prompt")
    asserts = join_lines(row["test_list"])
    if asserts is None:
        raise RowError(NOT_TEXT, "'test_list' is not a list of text")
    imports = join_lines(row.get("test_imports"))
    setup = row.get("test_setup_code") if isinstance(row.get("test_setup_code"), str) else imports
    lines = [part.replace("\r\n", "\n").strip() for part in (setup or "", asserts)]
    tests = "".join(f"{part}\n" for part in lines if part)
    prompt = f'"""\n{task.strip()}\n{lines[1]}\n"""\n'
    code = require_text(row, "code").replace("\r\n", "\n").strip("\n")
    return raw_columns(prompt=prompt, completion=f"{code}\n", tests=tests)


def from_code_search_net(row: SourceRow) -> dict[str, Any]:
    """CodeSearchNet, whose Python is split after the docstring, as in `functions`.

    For other languages, and Python that cannot be split, the documentation or nothing is the prompt.
    """
    code = require_text(
        row, "func_code_string" if row.get("func_code_string") is not None else "whole_func_string"
    )
    try:
        prompt, completion = split_function(code)
    except (SyntaxError, ValueError, RecursionError, IndexError, AssertionError, Unfit):
        documentation = row.get("func_documentation_string")
        is_python = row.get("language") in (None, "python")
        prompt = "" if is_python or not isinstance(documentation, str) else documentation
        completion = code
    return raw_columns(prompt=prompt, completion=completion)


def from_text(column: str) -> Callable[[SourceRow], dict[str, Any]]:
    return lambda row: raw_columns(prompt="", completion=require_text(row, column))


FORMATS: tuple[tuple[tuple[str, ...], Callable[[SourceRow], dict[str, Any]]], ...] = (
    (("messages",), from_messages),
    (("conversations",), from_conversations),
    (("instruction", "output"), from_instruction),
    (("instruction", "response"), from_instruction),
    (("problem", "solution"), from_problem),
    (("input", "output"), from_input),
    (("prompt", "completion"), from_prompt),
    (("text", "code", "test_list"), from_mbpp),
    (("prompt", "code", "test_list"), from_mbpp),
    (("func_code_string",), from_code_search_net),
    (("whole_func_string",), from_code_search_net),
    (("text",), from_text("text")),
    (("content",), from_text("content")),
    (("code",), from_text("code")),
)
OPTIONAL_COLUMNS = (  # read by a format, but not needed to recognise it
    *("tests", "unit_tests", "test_setup_code", "test_imports", "func_documentation_string", "language"),
)
FORMAT_COLUMNS = frozenset(name for required, _ in FORMATS for name in required) | frozenset(OPTIONAL_COLUMNS)


def read_turns(turns: Any, column: str, role_key: str, content_key: str) -> list[dict[str, str]]:
    """Return a conversation's turns as role and content, from the keys and role names of ShareGPT or OpenAI.

    Raises:
        RowError: something in the list is not a turn; names its number.
    """
    if not isinstance(turns, list) or not turns:
        raise RowError(NOT_TEXT, f"'{column}' is not a list of turns")
    result = []
    for number, turn in enumerate(turns, 1):
        place = f"turn {number} of '{column}'"
        if not isinstance(turn, Mapping):
            raise RowError(NOT_TEXT, f"{place} is not an object with {role_key} and {content_key}")
        role = next((turn[key] for key in (role_key, "role", "from") if turn.get(key) is not None), None)
        content = next(
            (turn[key] for key in (content_key, "content", "value") if turn.get(key) is not None), None
        )
        if str(role).lower() not in CHAT_ROLES:
            raise RowError(FORMAT, f"{place}: its role is {role!r}, expected one of {', '.join(CHAT_ROLES)}")
        if isinstance(content, list):
            content = "".join(part_text(part, place) for part in content)
        if not isinstance(content, str):
            raise RowError(NOT_TEXT, f"{place}: its content is {type(content).__name__}, expected text")
        result.append({"role": CHAT_ROLES[str(role).lower()], "content": content})
    return result


def part_text(part: Any, place: str) -> str:
    """Return the text of one part of a message's content (OpenAI: `{"type": "text", "text": ...}`)."""
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return part["text"]
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise RowError(NOT_TEXT, f"{place}: a part of its content is {kind}, expected text")


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


def require_text(row: SourceRow, column: str) -> str:
    if not isinstance(row[column], str):
        raise RowError(NOT_TEXT, f"'{column}' is {type(row[column]).__name__}, expected text")
    return row[column]


def raw_columns(**values: Any) -> dict[str, Any]:
    return {"prompt": None, "completion": None, "messages": None, "tests": None, **values}
