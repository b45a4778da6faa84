"""Rewrite Python patterns for RE2, so that a whole column is searched for all of them at once.

`re` tries thirty patterns one after another; RE2 runs their union as one automaton, in time linear in the
text. What RE2 lacks is let go, which only widens a pattern: lookarounds, back references, high counts.
"""

import re
from collections.abc import Iterable

LOOKAROUND = re.compile(r"\(\?<?[=!](?:\[[^\]]*\]|\\.|[^()\[\]\\])*\)")
BACK_REFERENCE = re.compile(r"\(\\\d\)")
COUNT = re.compile(r"\{(\d+)(,?)(\d*)\}")
# An escape other than \s, a negated class, a class, \s
SPACE_PLACES = re.compile(r"\\[^s]|\[\^(?:\\.|[^\\\]])+\]|(\[(?:\\.|[^\\\]])+\])|(\\s)", re.DOTALL)
SPACES = r"\s\v\x1c-\x1f\x{85}\x{a0}"  # what Python takes for white space; RE2 knows fewer
MOST_REPEATS = 32  # counting further makes automata that outgrow RE2's memory: 16 times slower


def pattern_unions(patterns: Iterable[re.Pattern[str]], parts: int = 1) -> tuple[str, ...]:
    """Return patterns for RE2, one of which matches in every line in which one of `patterns` matches.

    RE2's \\w and \\d are ASCII; no secret is written in other letters.
    """
    wide = list(dict.fromkeys(widened(pattern) for pattern in patterns))
    return tuple("|".join(wide[part::parts]) for part in range(parts) if wide[part::parts])


def widened(pattern: re.Pattern[str]) -> str:
    """Return a pattern for RE2 that matches in every line in which `pattern` does."""
    text = LOOKAROUND.sub("", pattern.pattern)
    text = COUNT.sub(widened_count, BACK_REFERENCE.sub(".*", text))
    text = SPACE_PLACES.sub(widened_spaces, text)
    return f"(?i:{text})" if pattern.flags & re.IGNORECASE else f"(?:{text})"


def widened_spaces(place: re.Match[str]) -> str:
    if place[1]:
        return place[1].replace(r"\s", SPACES)
    return f"[{SPACES}]" if place[2] else place[0]


def widened_count(count: re.Match[str]) -> str:
    least, most = int(count[1]), int(count[3] or (MOST_REPEATS + 1 if count[2] else count[1]))
    return f"{{{min(least, MOST_REPEATS)},{most if most <= MOST_REPEATS else ''}}}"
