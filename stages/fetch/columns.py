"""Which format a row is in, told by its columns; all of them become the columns of data/raw."""

from collections.abc import Mapping
from typing import Any

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
KNOWN = "instruction and output (Alpaca), messages (OpenAI), conversations (ShareGPT), prompt and completion, or text"


def recognised(row: Mapping[str, Any]) -> dict[str, Any]:
    """`prompt`, `completion`, `messages` and `tests` of a row in any of the known formats.

    A format counts when its columns are there and not null, so that a table may carry empty columns of another.

    Raises:
        ValueError: the row fits no format, or a value has the wrong type; the message has no file or row number.
    """
    has = {name for name, value in row.items() if value is not None}
    tests = row.get("tests") if isinstance(row.get("tests"), str) else None
    if "messages" in has:
        return filled(messages=chat(row["messages"], "messages", "role", "content"), tests=tests)
    if "conversations" in has:
        return filled(messages=chat(row["conversations"], "conversations", "from", "value"), tests=tests)
    if {"instruction", "output"} <= has:
        instruction, given = text(row, "instruction"), text(row, "input") if "input" in has else ""
        prompt = f"{instruction}\n\n{given}" if given.strip() else instruction
        return filled(prompt=prompt, completion=text(row, "output"), tests=tests)
    if {"prompt", "completion"} <= has:
        if isinstance(row["prompt"], list) and isinstance(row["completion"], list):
            turns = chat(row["prompt"] + row["completion"], "prompt and completion", "role", "content")
            return filled(messages=turns, tests=tests)
        return filled(prompt=text(row, "prompt"), completion=text(row, "completion"), tests=tests)
    if "text" in has:
        return filled(prompt="", completion=text(row, "text"), tests=tests)
    columns = ", ".join(f"{name} (null)" if row[name] is None else str(name) for name in row) or "none"
    raise ValueError(f"fits no known format. Its columns: {columns}. Expected: {KNOWN}")


def chat(turns: Any, column: str, role_key: str, content_key: str) -> list[dict[str, str]]:
    """Turns as role and content; ShareGPT's and OpenAI's keys and role names are both understood."""
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"'{column}' is not a list of turns")
    result = []
    for number, turn in enumerate(turns, 1):
        place = f"turn {number} of '{column}'"
        if not isinstance(turn, Mapping):
            raise ValueError(f"{place} is not an object with {role_key} and {content_key}")
        role = next((turn[key] for key in (role_key, "role", "from") if turn.get(key) is not None), None)
        content = next(
            (turn[key] for key in (content_key, "content", "value") if turn.get(key) is not None), None
        )
        if str(role).lower() not in ROLES:
            raise ValueError(f"{place}: its role is {role!r}, expected one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise ValueError(f"{place}: its content is {type(content).__name__}, expected text")
        result.append({"role": ROLES[str(role).lower()], "content": content})
    return result


def text(row: Mapping[str, Any], column: str) -> str:
    if not isinstance(row[column], str):
        raise ValueError(f"'{column}' is {type(row[column]).__name__}, expected text")
    return row[column]


def filled(**values: Any) -> dict[str, Any]:
    return {"prompt": None, "completion": None, "messages": None, "tests": None, **values}
