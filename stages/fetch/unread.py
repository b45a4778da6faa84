"""What a column that nothing reads holds: a text that may be meant, or where its row is from; and what to do."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from stages.fetch.column_paths import SHOWN
from stages.fetch.row_formats import ANSWERS, SYSTEM_COLUMNS
from stages.fetch.turns import TURN_KEYS

# Last words, plural or not, of names of columns whose text says where a row is from, or counts and judges it
PLACE_WORD = re.compile(
    r"(id|uid|uuid|guid|idx|index|hash|hexsha|sha|checksum|commit|url|uri|link|href|source|origin|provenance|dataset"
    r"|corpus|dump|subset|split|config|configuration|version|revision|language|lang|locale|licen[cs]e|date|time"
    r"|datetime|timestamp|created|updated|at|author|owner|username|repo|repository|path|file|filename|filepath"
    r"|directory|ext|extension|mimetype|name|model|generator|engine|annotator|domain|score|rank|confidence"
    r"|probability|judge?ment|status|count|length|size|token|meta|metadata)s?"
)
# and those that describe a question: beside plain text they may be the label that somebody means to train on
KIND_WORD = re.compile(
    r"((sub)?category|(sub)?categorie|(sub)?topic|genre|tag|keyword|type|kind|format|level|difficulty|rating|reward"
    r"|quality|algorithm)s?"
)
# Names of columns, and of fields of turns, that say what to train on, whatever their values are
TARGET_NAME = re.compile(
    r"(.*_)?(label|target|class|weight|mask|loss|kto_tag)s?|train(_(on|detail).*)?", re.IGNORECASE
)
LICENCE_NAME = re.compile("licen[cs]e", re.IGNORECASE)
RENDERINGS = ("text", "prompt")  # names of columns that hold a whole row once more, rendered
LIKELY_ANSWERS = (  # of columns that no format reads, the likeliest first
    *("chosen", *ANSWERS, "answers", "target", "targets", "label", "summary", "highlights", "new_contents"),
    *("code", "content", "text"),
)
NOT_A_TEXT = re.compile(
    r"\s*(|\[\]|\{\}|null|none|nan|true|false|https?://\S+|[0-9a-f-]{16,}|[-+]?[\d.,]+(e[-+]?\d+)?)\s*", re.I
)


def is_metadata(name: str, is_plain_text: bool) -> bool:
    """Return whether a column's name says that its text is no part of a row's question and answer."""
    last = re.search("[a-z]*(?=[^a-z]*$)", re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower())
    word = last[0] if last else ""
    is_kind = not is_plain_text and KIND_WORD.fullmatch(word)
    return bool(is_kind or PLACE_WORD.fullmatch(word) or LICENCE_NAME.search(name))


def target_texts(name: str, value: Any) -> list[str]:
    """Return what a value says of what to train on, as text; nothing if it says to train on the row."""
    says_all = "mask" not in name and (value is True or ("weight" in name and value in (1, "1", "1.0")))
    return [str(value)] if TARGET_NAME.fullmatch(name) and not says_all else []


def unread_message(unread: Mapping[str, str], row: Mapping[str, Any]) -> str:
    """Return the end of an error: texts that nothing would read, and lines of YAML to choose from.

    Args:
        unread: a text of each column.
        row: the columns of a question and answer, and those unread; none for turns, which no template writes.
    """
    shown = ", ".join(f"{name} ({' '.join(text.split())[:SHOWN]!r})" for name, text in unread.items())
    false = [name for name, text in unread.items() if text in ("False", "0", "0.0")]
    choices = []
    if any(text_path(name, row.get(name)) for name in unread) and (maps := proposal(row)):
        choices.append(f"Say in the source what its rows are:{maps}")
    elif len(false) == len(unread) and not any("." in name for name in false):
        take = yaml_line("minimum", dict.fromkeys(false, 1))
        choices.append(f"Take only the rows where it is true, or at least 1:\n    {take}")
    choices.append(f"To leave it out, set:\n    {yaml_line('ignore', list(unread))}")
    return f"nothing would read {shown}. " + "\n".join(choices)


def proposal(row: Mapping[str, Any]) -> str:
    """Return lines for a source that make the likeliest column of a row the answer, and the others the question."""
    same = {
        "system": next((name for name in SYSTEM_COLUMNS if row.get(name)), ""),
        "tests": "tests",
        "tools": "tools",
    }
    columns = {ours: theirs for ours, theirs in same.items() if row.get(theirs)}
    others = [name for name in row if name not in (*columns.values(), "rejected")]
    paths = {name: path for name in others if (path := text_path(name, row[name]))}
    if not paths:
        return ""
    answer = next((name for name in LIKELY_ANSWERS for own in paths if own.lower() == name), "")
    answer = next((own for own in paths if own.lower() == answer), [*paths][-1])
    if is_turns(row[answer]):
        return f"\n    {yaml_line('columns', {'messages': answer})}"
    asked = [path for name, path in paths.items() if name != answer]
    columns = {**({"prompt": asked[0]} if len(asked) == 1 else {}), "completion": paths[answer], **columns}
    lines = f"\n    {yaml_line('columns', columns)}"
    if len(asked) > 1:
        parts = [
            f"{{{{ {path if path.isascii() and ' ' not in path else f'row[{path!r}]'} }}}}" for path in asked
        ]
        prompt = json.dumps("\n\n".join(parts), ensure_ascii=False)
        lines += f"\n    template: {{prompt: {prompt}}}"
    return lines


def is_numeric(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_turns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping) and not value[0].keys().isdisjoint(TURN_KEYS)  # fmt: skip


def text_path(path: str, value: Any) -> str:
    """Return the dotted path of the first text or number in a value, or of a list of turns; "" without any.

    Of a list of several things none stands for all.
    """
    if is_numeric(value) or isinstance(value, str) or is_turns(value):
        return path if value != "" else ""
    items: Any = value.items() if isinstance(value, Mapping) else ()
    if isinstance(value, list) and len(value) == 1:
        items = enumerate(value)
    return next((found for key, one in items if (found := text_path(f"{path}.{key}", one))), "")


def yaml_line(key: str, value: Any) -> str:
    """Return `key: value` as YAML on one line."""
    flow = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    return f"{key}: {flow.strip()}"


def texts_in(value: Any) -> Iterator[str]:
    """Yield the texts in a value, also nested ones, but for numbers, addresses, hashes and the like; bytes count."""
    if isinstance(value, str):
        if not NOT_A_TEXT.fullmatch(value[:400]):
            yield value
    elif isinstance(value, bytes):
        yield "bytes"
    else:
        for one in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
            yield from texts_in(one)
