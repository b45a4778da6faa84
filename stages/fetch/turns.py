"""Read a conversation's turns from the keys and roles of OpenAI, ShareGPT and their kin; nothing is lost."""

import ast
import json
from collections.abc import Iterator, Mapping
from typing import Any

from stages.fetch.row_errors import FORMAT, NOT_TEXT, RowError

CHAT_ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "chatgpt", "bot", "ai"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "tool_call"),  # an answer that is one call, as JSON
}
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
# Whether an answer is a target: OpenAI and mistral-finetune, Axolotl, AgentInstruct and ms-swift, verl
TARGET_KEYS = ("weight", "train", "training", "loss", "loss_mask", "trainable")
TURN_KEYS = {
    *("role", "from", "content", "value", "tool_calls", "function_call", "tool_call_id", "name"),
    *TARGET_KEYS,
    *REASONING_KEYS,
}
EMPTY: tuple[Any, ...] = (None, "", [], {})  # says nothing
Turn = dict[str, Any]  # role, content and, where there is more, extra (see row_schema)


def read_turns(turns: Any, column: str) -> list[Turn]:
    """Return a conversation's turns as role, content and extra; a list of texts alternates user and assistant.

    Raises:
        RowError: something in the list is not a turn, or asks for what cannot be done; names its number.
    """
    if not isinstance(turns, list) or not turns:
        raise RowError(NOT_TEXT, f"'{column}' is not a list of turns")
    if all(isinstance(turn, str) for turn in turns):
        return [make_turn("assistant" if place % 2 else "user", text) for place, text in enumerate(turns)]
    return [read_turn(turn, f"turn {number} of '{column}'") for number, turn in enumerate(turns, 1)]


def read_turn(turn: Any, place: str) -> Turn:
    if not isinstance(turn, Mapping):
        raise RowError(NOT_TEXT, f"{place} is not an object with a role and content")
    given = first_value(turn, "role", "from")
    role = CHAT_ROLES.get(str(given).lower())
    if role is None:
        raise RowError(FORMAT, f"{place}: its role is {given!r}, expected one of {', '.join(CHAT_ROLES)}")
    content = first_value(turn, "content", "value")
    extra: dict[str, Any] = {name: turn[name] for name in ("tool_call_id", "name") if turn.get(name)}
    calls = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else [])
    if role == "tool_call":
        role, content, calls = "assistant", "", json_in(content, f"{place}: a call")
    if calls:
        extra["tool_calls"] = read_calls(calls, place)
        content = content or ""
    if reasoning := first_value(turn, *REASONING_KEYS):
        if not isinstance(reasoning, str):
            raise RowError(NOT_TEXT, f"{place}: its reasoning is {type(reasoning).__name__}, expected text")
        extra["reasoning_content"] = reasoning
    if not is_trained(turn, role, place):
        extra["train"] = False
    if isinstance(content, list):
        content = "".join(part_text(part, place) for part in content)
    if not isinstance(content, str):
        raise RowError(NOT_TEXT, f"{place}: its content is {type(content).__name__}, expected text")
    return make_turn(role, content, extra)


def make_turn(role: str, content: str, extra: Mapping[str, Any] | None = None) -> Turn:
    turn = {"role": role, "content": content}
    return {**turn, "extra": json.dumps(extra, sort_keys=True, ensure_ascii=False)} if extra else turn


def first_value(turn: Mapping[str, Any], *keys: str) -> Any:
    for key in keys:
        if (value := turn.get(key)) is not None:
            return value
    return None


def is_trained(turn: Mapping[str, Any], role: str, place: str) -> bool:
    """Return whether an answer is a target; without any of TARGET_KEYS it is.

    Raises:
        RowError: a weight between 0 and 1, or a turn of another role that is to be trained on.
    """
    given = {key: turn[key] for key in TARGET_KEYS if turn.get(key) is not None}
    for key, value in given.items():
        if value not in (0, 1):
            raise RowError(FORMAT, f"{place}: its {key} is {value!r}, expected 0 or 1")
        if value and key != "weight" and role != "assistant":
            raise RowError(FORMAT, f"{place}: it has {key}: {json.dumps(value)}, but only answers are trained on, not a {role}")  # fmt: skip
    return role != "assistant" or all(given.values())


def read_calls(calls: Any, place: str) -> list[dict[str, Any]]:
    """Return tool calls in OpenAI's form, `{"type": "function", "function": {"name", "arguments"}}`.

    Arguments that are JSON text become objects, which templates expect.
    """
    found = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = (call.get("function") or call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RowError(FORMAT, f"{place}: a tool call is not an object with a name and arguments")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            arguments = json_in(arguments or "{}", f"{place}: arguments of {function['name']}")
        named = {"name": function["name"], "arguments": {} if arguments is None else arguments}
        more = {key: call[key] for key in ("id",) if call.get(key) is not None}
        found.append({**more, "type": "function", "function": named})
    return found


def read_tools(value: Any) -> str | None:
    """Return the tools that a conversation may call, in OpenAI's form, as JSON; None without any."""
    tools = json_in(value, "'tools'") if isinstance(value, str) and value.strip() else value
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise RowError(FORMAT, "'tools' is not a list of objects")
    whole = [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]
    return json.dumps(whole, sort_keys=True, ensure_ascii=False)


def json_in(value: Any, what: str) -> Any:
    """Return what a text of JSON holds, or of Python, as pandas writes lists into CSV.

    Raises:
        RowError: it holds neither.
    """
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    raise RowError(FORMAT, f"{what} is not JSON: {str(value)[:60]!r}")


def part_text(part: Any, place: str) -> str:
    """Return the text of one part of a message's content (OpenAI: `{"type": "text", "text": ...}`)."""
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return part["text"]
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise RowError(NOT_TEXT, f"{place}: a part of its content is {kind}, expected text")


def turn_fields(turns: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields of turns that nothing reads and that hold something; turns may be JSON text."""
    if isinstance(turns, str):
        try:
            turns = json_in(turns, "")
        except RowError:
            return
    for turn in turns if isinstance(turns, list) else ():
        if isinstance(turn, Mapping) and not turn.keys() <= TURN_KEYS:
            yield from (
                (key, value) for key, value in turn.items() if key not in TURN_KEYS and value not in EMPTY
            )


def without_nulls(value: Any) -> Any:
    """Return objects without the keys that are null: a table gives each object the keys of all."""
    if isinstance(value, list):
        return [without_nulls(one) for one in value]
    if isinstance(value, Mapping):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    return value
