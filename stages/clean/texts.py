"""Change every text of a row: its columns, its turns, and the strings in the JSON of tool calls and tools."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

TEXT_COLUMNS = ("prompt", "completion", "tests")  # and messages and tools
TextRecord = dict[str, Any]  # prompt, completion, tests, messages and tools of a row
Change = Callable[[str], tuple[str, Counter[str]]]  # returns the new text, and changed places by kind


def change_texts(record: TextRecord, change: Change) -> tuple[TextRecord, Counter[str]]:
    """Return the record with `change` applied to each of its texts, and changed places by kind."""
    places: Counter[str] = Counter()

    def changed(text: str | None) -> str | None:
        if text is None:
            return None
        text, kinds = change(text)
        places.update(kinds)
        return text

    new = {name: changed(record[name]) for name in TEXT_COLUMNS}
    return {**new, **change_conversation(record, changed)}, places


def change_conversation(record: TextRecord, change: Callable[[Any], Any]) -> TextRecord:
    """Return `messages` and `tools` with `change` applied to contents, tool calls, reasoning and tools."""
    messages = record["messages"] and [
        m and {**m, "content": change(m["content"]), "extra": change_json(m["extra"], change)}
        for m in record["messages"]
    ]
    return {"messages": messages, "tools": change_json(record["tools"], change)}


def change_json(text: str | None, change: Callable[[Any], Any]) -> str | None:
    """Return JSON text with `change` applied to each string value in it."""
    if text is None:
        return None
    value = json.loads(text)
    new = change_strings(value, change)
    return text if new == value else json.dumps(new, sort_keys=True, ensure_ascii=False)


def change_strings(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: change_strings(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [change_strings(inner, change) for inner in value]
    return change(value) if isinstance(value, str) else value
