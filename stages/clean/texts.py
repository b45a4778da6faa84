"""Change every text of a row: its columns, its turns, and the strings in the JSON of tool calls and tools."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

TEXT_COLUMNS = ("prompt", "completion", "tests")  # and messages and tools
Record = dict[str, Any]  # of `row_schema()`
Change = Callable[[str], tuple[str, Mapping[str, int]]]  # returns the new text, and changed places by kind


def change_texts(record: Record, change: Change) -> tuple[Record, Counter[str]]:
    """Return the record with `change` applied to each of its texts, and changed places by kind."""
    places: Counter[str] = Counter()

    def changed(text: str | None) -> str | None:
        if text is None:
            return None
        text, kinds = change(text)
        places.update(kinds)
        return text

    new = {name: changed(record[name]) for name in TEXT_COLUMNS}
    return {**record, **new, **change_conversation(record, changed)}, places


def record_texts(record: Record) -> list[str]:
    """Return each text of a record."""
    texts: list[str] = []
    change_texts(record, lambda text: (text, texts.append(text) or {}))  # type: ignore[func-returns-value]
    return texts


def change_conversation(record: Record, change: Callable[[Any], Any]) -> Record:
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
