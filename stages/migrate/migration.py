"""A migration while it goes on: settings found so far, and what became of each key of the other program's file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stages.common.core.errors import UserError

CARRIED = "carried over"
NEEDLESS = "needs nothing here"
LOST = "NOT carried over"
MISSING = "???"  # OmegaConf's mark of a value that is still to be given
Rules = Sequence[tuple[str, str]]  # a pattern of whole keys, and what to say of them


@dataclass(frozen=True)
class Fate:
    """What became of a key: `text` says where it went, or why it went nowhere and what to do about it."""

    key: str
    value: Any
    kind: str
    text: str


@dataclass
class Migration:
    # name of the other program, for messages
    peer: str
    # path of its file, and what the file sets
    path: str
    given: dict[str, Any]
    # processes that the other program was run with: its batch is per process, ours is of all
    gpus: int = 1
    # our dotted keys with their values; `base`, `prompt` and the like without a dot choose an option of conf/
    settings: dict[str, Any] = field(default_factory=dict)
    sources: list[dict[str, Any]] = field(default_factory=list)
    fates: list[Fate] = field(default_factory=list)
    # why nothing can be written, each with what to do
    refusals: list[str] = field(default_factory=list)
    # what the user must still give or run
    todo: list[str] = field(default_factory=list)

    def get(self, key: str, default: Any = None) -> Any:
        """Return what the file sets; `default`, the other program's own, where it sets nothing or null."""
        value = self.given.get(key)
        return default if value is None else value

    def number(self, key: str, default: float) -> float:
        """Return a number; YAML 1.1 reads `2e-5` as text.

        Raises:
            UserError: the value is no number.
        """
        value = self.get(key, default)
        try:
            found = float(value)
        except (TypeError, ValueError):
            raise UserError(f"{self.path}: {key} is {value!r}, expected a number") from None
        return int(found) if found.is_integer() and not isinstance(default, float) else found

    def carry(self, key: str, target: str, value: Any, note: str = "") -> None:
        self.settings[target] = value
        shown = f"{str(value).lower() if isinstance(value, bool) else value}"
        self.tell(key, CARRIED, f"{target}: {shown}{f' ({note})' if note else ''}")

    def needless(self, key: str, why: str) -> None:
        self.tell(key, NEEDLESS, why)

    def lose(self, key: str, why: str) -> None:
        self.tell(key, LOST, why)

    def refuse(self, key: str, why: str) -> None:
        self.refusals.append(f"{key}: {quoted(self.given.get(key))}: {why}")

    def tell(self, key: str, kind: str, text: str) -> None:
        """Note what became of a key that the file sets, or of the other program's default."""
        head, *rest = re.split(r"[.\[]", key)
        if head not in self.given or (self.given[head] is None and not rest and kind == CARRIED):
            if kind == NEEDLESS:
                return
            text = f"{text} ({self.peer}'s default)"
        value = "" if rest else self.given.get(head)
        self.fates.append(Fate(key, value, kind, text))

    def told(self) -> set[str]:
        return {re.split(r"[.\[]", fate.key)[0] for fate in self.fates}

    def tell_rest(self, refused: Rules, lost: Rules, needless: Rules) -> None:
        """Give every key that no rule has looked at its fate by the first pattern that it matches."""
        for key, value in self.given.items():
            off = value in (None, False, 0, "", [], {}, "none", "no", "off")
            if key in self.told() or any(text.startswith(f"{key}:") for text in self.refusals):
                continue
            if off:
                self.needless(key, "is empty or off")
            elif why := matched(key, refused):
                self.refuse(key, why)
            elif why := matched(key, lost):
                self.lose(key, why)
            elif why := matched(key, needless):
                self.needless(key, why)
            else:
                self.lose(key, f"unknown here: look up in {self.peer} whether it changes what is trained")


def matched(key: str, rules: Rules) -> str:
    return next((why for pattern, why in rules if re.fullmatch(pattern, key)), "")


def quoted(value: Any, limit: int = 60) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def fates_as_text(migration: Migration) -> str:
    """Return every key with its fate, grouped by kind; what was lost and what is left to do come last."""
    lines = []
    for kind in (CARRIED, NEEDLESS, LOST):
        fates = [fate for fate in migration.fates if fate.kind == kind]
        lines += [f"{kind}: {len(fates)}"] if fates else []
        by_text: dict[str, list[str]] = {}
        for fate in fates:
            shown = fate.key if fate.value in ("", None) else f"{fate.key}: {quoted(fate.value)}"
            by_text.setdefault(fate.text, []).append(shown)
        for text, shown_keys in by_text.items():
            lines += (
                [f"  {shown}" for shown in shown_keys] if kind != NEEDLESS else [f"  {', '.join(shown_keys)}"]
            )
            lines.append(f"      {text}")
    if migration.todo:
        lines.append("to do before `dvc repro`:")
        lines += [f"  {entry}" for entry in migration.todo]
    return "\n".join(lines)
