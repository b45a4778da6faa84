"""Which format a row is in, told by its columns; all of them become the columns of data/raw."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from stages.fetch.functions import split
from stages.fetch.python_module import Unfit
from stages.fetch.row_errors import FORMAT, NOT_TEXT, BadRow

ROLES = {
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
KNOWN = (
    "messages (OpenAI), conversations (ShareGPT), instruction and output or response (Alpaca, evol-instruct), problem and "
    "solution (Magicoder), input and output (OpenCodeInstruct), prompt and completion, text or prompt, code and test_list "
    "(MBPP), func_code_string or whole_func_string (CodeSearchNet), or text, content or code alone"
)
Row = Mapping[str, Any]


def recognised(row: Row) -> dict[str, Any]:
    """`prompt`, `completion`, `messages` and `tests` of a row in any of the known formats.

    A format counts when its columns are there and not null, so that a table may carry empty columns of another.

    Raises:
        BadRow: the row fits no format, or a value has the wrong type; the message has no file or row number.
    """
    for needed, make in FORMATS:
        if all(row.get(name) is not None for name in needed):
            made = make(row)
            if made["tests"] is None:
                made["tests"] = tests_of(row.get("tests"))
            return made
    columns = ", ".join(f"{name} (null)" if row[name] is None else str(name) for name in row) or "none"
    raise BadRow(FORMAT, f"its columns: {columns}. Expected: {KNOWN}, or a mapping under columns or template")


def from_messages(row: Row) -> dict[str, Any]:
    return filled(messages=chat(row["messages"], "messages", "role", "content"))


def from_conversations(row: Row) -> dict[str, Any]:
    return filled(messages=chat(row["conversations"], "conversations", "from", "value"))


def from_instruction(row: Row) -> dict[str, Any]:
    answer = "output" if row.get("output") is not None else "response"
    instruction = text(row, "instruction")
    given = text(row, "input") if row.get("input") is not None else ""
    prompt = f"{instruction}\n\n{given}" if given.strip() else instruction
    return filled(prompt=prompt, completion=text(row, answer))


def from_problem(row: Row) -> dict[str, Any]:
    return filled(prompt=text(row, "problem"), completion=text(row, "solution"))


def from_input(row: Row) -> dict[str, Any]:
    """OpenCodeInstruct; its unit tests are a JSON list of asserts in a string."""
    if "instruction" in row:
        raise BadRow(FORMAT, f"'instruction' is null beside input and output. Expected: {KNOWN}")
    tests = tests_of(row.get("unit_tests"))
    return filled(prompt=text(row, "input"), completion=text(row, "output"), tests=tests)


def from_prompt(row: Row) -> dict[str, Any]:
    if isinstance(row["prompt"], list) and isinstance(row["completion"], list):
        turns = chat(row["prompt"] + row["completion"], "prompt and completion", "role", "content")
        return filled(messages=turns)
    return filled(prompt=text(row, "prompt"), completion=text(row, "completion"))


def from_mbpp(row: Row) -> dict[str, Any]:
    """The task and its asserts in a docstring, as the benchmark asks it; the asserts are the row's tests."""
    task = text(row, "text" if row.get("text") is not None else "prompt")
    asserts = joined(row["test_list"])
    if asserts is None:
        raise BadRow(NOT_TEXT, "'test_list' is not a list of text")
    imports = joined(row.get("test_imports"))
    setup = row.get("test_setup_code") if isinstance(row.get("test_setup_code"), str) else imports
    lines = [part.replace("\r\n", "\n").strip() for part in (setup or "", asserts)]
    tests = "".join(f"{part}\n" for part in lines if part)
    prompt = f'"""\n{task.strip()}\n{lines[1]}\n"""\n'
    code = text(row, "code").replace("\r\n", "\n").strip("\n")
    return filled(prompt=prompt, completion=f"{code}\n", tests=tests)


def from_code_search_net(row: Row) -> dict[str, Any]:
    """A Python function is parted behind its docstring, as all our functions are; of another language, words ask for code."""
    code = text(row, "func_code_string" if row.get("func_code_string") is not None else "whole_func_string")
    try:
        prompt, completion = split(code)
    except (SyntaxError, ValueError, RecursionError, IndexError, AssertionError, Unfit):
        words = row.get("func_documentation_string")
        python = row.get("language") in (None, "python")
        prompt, completion = ("" if python or not isinstance(words, str) else words), code
    return filled(prompt=prompt, completion=completion)


def from_text(column: str) -> Callable[[Row], dict[str, Any]]:
    return lambda row: filled(prompt="", completion=text(row, column))


FORMATS: tuple[tuple[tuple[str, ...], Callable[[Row], dict[str, Any]]], ...] = (
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
BESIDE = (  # columns that a format reads beside those that tell it
    *("tests", "unit_tests", "test_setup_code", "test_imports", "func_documentation_string", "language"),
)
COLUMNS = frozenset(name for needed, _ in FORMATS for name in needed) | frozenset(BESIDE)


def chat(turns: Any, column: str, role_key: str, content_key: str) -> list[dict[str, str]]:
    """Turns as role and content; ShareGPT's and OpenAI's keys and role names are both understood.

    Raises:
        BadRow: a turn is none; names its number.
    """
    if not isinstance(turns, list) or not turns:
        raise BadRow(NOT_TEXT, f"'{column}' is not a list of turns")
    result = []
    for number, turn in enumerate(turns, 1):
        place = f"turn {number} of '{column}'"
        if not isinstance(turn, Mapping):
            raise BadRow(NOT_TEXT, f"{place} is not an object with {role_key} and {content_key}")
        role = next((turn[key] for key in (role_key, "role", "from") if turn.get(key) is not None), None)
        content = next(
            (turn[key] for key in (content_key, "content", "value") if turn.get(key) is not None), None
        )
        if str(role).lower() not in ROLES:
            raise BadRow(FORMAT, f"{place}: its role is {role!r}, expected one of {', '.join(ROLES)}")
        if isinstance(content, list):
            content = "".join(part_text(part, place) for part in content)
        if not isinstance(content, str):
            raise BadRow(NOT_TEXT, f"{place}: its content is {type(content).__name__}, expected text")
        result.append({"role": ROLES[str(role).lower()], "content": content})
    return result


def part_text(part: Any, place: str) -> str:
    """The text of one part of a message's content (OpenAI: `{"type": "text", "text": ...}`)."""
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return part["text"]
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise BadRow(NOT_TEXT, f"{place}: a part of its content is {kind}, expected text")


def tests_of(value: Any) -> str | None:
    """Source of tests, given as text or as a list of statements, which may be JSON in a string; None where there is none.

    A list in a string would itself run as Python, and pass whatever the code does.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    return (value if isinstance(value, str) else joined(value)) or None


def joined(values: Any) -> str | None:
    """Lines of text, or None where it is no list of text."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        return None
    return "\n".join(value.strip() for value in values)


def text(row: Row, column: str) -> str:
    if not isinstance(row[column], str):
        raise BadRow(NOT_TEXT, f"'{column}' is {type(row[column]).__name__}, expected text")
    return row[column]


def filled(**values: Any) -> dict[str, Any]:
    return {"prompt": None, "completion": None, "messages": None, "tests": None, **values}
