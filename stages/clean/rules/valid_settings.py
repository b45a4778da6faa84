"""What settings of clean must be: shares, lower-case phrases, known names."""

from collections.abc import Collection, Sequence

from stages.common.core.settings import require


def require_share(section: str, settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        require(0 <= value <= 1, f"clean.{section}.{name}", value, "a number from 0 to 1")


def require_lower_case(section: str, key: str, phrases: Sequence[str]) -> None:
    for phrase in phrases:
        require(bool(phrase) and phrase == phrase.lower(), f"clean.{section}.{key}", phrase, "lower case")


def require_names(key: str, names: Sequence[str], known: Collection[str]) -> None:
    for name in names:
        require(name in known, f"clean.{key}", name, f"one of {', '.join(known)}")
