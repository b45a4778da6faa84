"""Build RE2 patterns that match wherever any of many Python patterns does, to search a whole column at once.

`re` tries thirty patterns one after another; RE2 runs their union as one automaton, in time linear in the
text. RE2 has no lookarounds and back references, and its classes are ASCII, so each pattern is widened until
RE2 can express it. A widened pattern misses nothing, because each step only widens: assertions are dropped,
classes grow.
"""

import re
from collections.abc import Iterable
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

OTHERS = r"\x{80}-\x{10FFFF}"  # all that is not ASCII
ANY = r"[^\n]"  # patterns run on single lines
SPACES = r"\t\n\x0B\x0C\r "
# Every character that a class of Python's holds, and some that it does not
WIDE = {
    sre.CATEGORY_DIGIT: f"0-9{OTHERS}",
    sre.CATEGORY_WORD: f"0-9A-Za-z_{OTHERS}",
    sre.CATEGORY_SPACE: rf"{SPACES}\x1C-\x1F{OTHERS}",
}
# Some characters that a class of Python's holds, and no other: for classes that exclude them
NARROW = {sre.CATEGORY_DIGIT: "0-9", sre.CATEGORY_WORD: "0-9A-Za-z_", sre.CATEGORY_SPACE: SPACES}
# What `re.IGNORECASE` takes for an ASCII letter beside its other case; the test asks all of Unicode
FOLDED_LETTERS = {"i": "\u0130\u0131", "s": "\u017f", "k": "\u212a"}
MOST_REPEATS = 32  # counting further makes automata that outgrow RE2's memory: 16 times slower


def pattern_unions(patterns: Iterable[re.Pattern[str]], parts: int = 1) -> tuple[str, ...]:
    """Patterns for RE2, one of which matches in every text in a line of which one of `patterns` matches."""
    wide = list(dict.fromkeys(widened(pattern) for pattern in patterns))
    return tuple("|".join(wide[part::parts]) for part in range(parts) if wide[part::parts])


def widened(pattern: re.Pattern[str]) -> str:
    """A pattern for RE2 that matches in every line in which `pattern` does.

    Raises:
        NotImplementedError: the pattern holds something that is not known here.
    """
    parsed = _parser.parse(pattern.pattern, pattern.flags)
    return sequence(parsed, bool(pattern.flags & re.IGNORECASE))


def sequence(items: Iterable[tuple[Any, Any]], folds: bool) -> str:
    return "".join(item(kind, value, folds) for kind, value in items)


def item(kind: Any, value: Any, folds: bool) -> str:
    if kind in (sre.AT, sre.ASSERT, sre.ASSERT_NOT):
        return ""
    if kind is sre.LITERAL:
        return f"[{literal_class(value, folds)}]"
    if kind in (sre.ANY, sre.NOT_LITERAL):
        return ANY
    if kind is sre.GROUPREF:
        return f"{ANY}*"
    if kind is sre.IN:
        return char_class(value, folds)
    if kind is sre.BRANCH:
        return "(?:" + "|".join(sequence(branch, folds) for branch in value[1]) + ")"
    if kind is sre.SUBPATTERN:
        _, added, removed, inner = value
        return f"(?:{sequence(inner, (folds or bool(added & re.I)) and not removed & re.I)})"
    if kind in (sre.MAX_REPEAT, sre.MIN_REPEAT):
        least, most, inner = value
        text = sequence(inner, folds)
        upper = "" if most is sre.MAXREPEAT or most > MOST_REPEATS else most
        return f"(?:{text}){{{min(least, MOST_REPEATS)},{upper}}}" if text else ""
    raise NotImplementedError(f"{kind} in a pattern of a detector")


def literal_class(code: int, folds: bool) -> str:
    """One character, with those that it stands for where case is ignored, for the inside of a class."""
    if not folds:
        return rf"\x{{{code:X}}}"
    if code > 127:
        return OTHERS
    low = chr(code).lower()
    return "".join(rf"\x{{{ord(c):X}}}" for c in {chr(code), low, low.upper(), *FOLDED_LETTERS.get(low, "")})


def char_class(members: list[tuple[Any, Any]], folds: bool) -> str:
    excludes = members[0][0] is sre.NEGATE
    parts = []
    for kind, value in members[excludes:]:
        if kind is sre.LITERAL:
            parts.append(literal_class(value, folds and not excludes))
        elif kind is sre.RANGE:
            first, last = value
            parts.append(rf"\x{{{first:X}}}-\x{{{last:X}}}")
            if folds and not excludes:
                parts += [literal_class(code, True) for code in range(first, min(last, 127) + 1)]
                parts += [OTHERS] if last > 127 else []
        elif kind is sre.CATEGORY and value in WIDE:
            parts.append((NARROW if excludes else WIDE)[value])
        elif not excludes:  # the rest of Unicode without something: all of it
            return ANY
    if not excludes:
        return "[" + "".join(parts) + "]"
    return r"[^\n" + "".join(parts) + "]"
