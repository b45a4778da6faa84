"""Thresholds of the rules on single rows. Where a figure is the field's own, its source is named beside it.

BigCode: bigcode-project/bigcode-dataset, preprocessing/README.md, after Codex (arXiv 2107.03374). StarCoder2: arXiv
2402.19173. Gopher: arXiv 2112.11446, table A1. C4: arXiv 1910.10683. CodeXGLUE: its code-to-text set, after
CodeSearchNet. Self-align: bigcode-project/starcoder2-self-align, seed_gathering/filter_dataset.py.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from stages.clean.rules.phrases import (
    BOILERPLATE,
    LICENCE_HEADERS,
    MARKERS,
    NEUTRAL,
    PLACEHOLDERS,
    REFUSALS,
    SCRIPTS,
    SYSTEM_CALLS,
    SYSTEM_MODULES,
)
from stages.common.settings import require
from stages.common.spdx import Term, listing


@dataclass
class Length:
    min_characters: int = 1  # of the completion, surrounding white space aside, at least 0
    max_characters: int = 8000  # of the completion
    min_lines: int = 1  # lines of the completion that are not blank, at least 0
    max_lines: int = 200  # lines of the completion that are not blank
    # Tokens of no model: runs of letters, digits and underscores, and runs of punctuation; pack measures the model's
    # own. At least 0
    min_tokens: int = 0
    max_tokens: int = 4000

    def __post_init__(self) -> None:
        for unit in ("characters", "lines", "tokens"):
            least, most = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            require(
                0 <= least <= most,
                f"clean.length.min_{unit}",
                least,
                f"a number from 0 to max_{unit} ({most})",
            )


@dataclass
class LongLines:
    max_characters: int = 240  # longest line of the module or the answer, from 1; BigCode: 1000
    max_mean: float = 100  # mean length of its lines, blank ones too, in characters, above 0; BigCode: 100

    def __post_init__(self) -> None:
        require(self.max_characters >= 1, "clean.long_lines.max_characters", self.max_characters, "1 or more")
        require(self.max_mean > 0, "clean.long_lines.max_mean", self.max_mean, "more than 0")


@dataclass
class Encoding:
    max_controls: int = (
        0  # control characters (not tab, line ends, form feed), and those that reverse the order of text
    )
    max_replacements: int = 0  # U+FFFD, which stands where bytes could not be read, from 0
    max_mojibake: int = (
        0  # UTF-8 that was read as Latin-1 or Windows-1252, like Ã© (sequences after ftfy), from 0
    )
    max_unprintable_share: float = 0.01  # unprintable characters other than white space, share of all, 0 to 1

    def __post_init__(self) -> None:
        for name in ("max_controls", "max_replacements", "max_mojibake"):
            require(getattr(self, name) >= 0, f"clean.encoding.{name}", getattr(self, name), "0 or more")
        require_share("encoding", self, "max_unprintable_share")


@dataclass
class Alphanumeric:
    min_share: float = (
        0.25  # letters and digits, share of all characters but white space, 0 to 1; BigCode: 0.25 of all
    )
    min_characters: int = (
        60  # text with fewer characters is not judged: `return -(a - b)` is mostly signs, from 0
    )

    def __post_init__(self) -> None:
        require_share("alphanumeric", self, "min_share")


@dataclass
class Blobs:
    max_characters: int = (
        1024  # longest run of base64, hex or \\u escapes that is let pass, from 64; StarCoder2: 1024
    )
    max_share: float = 0.5  # all such runs, as a share of the text, 0 to 1; StarCoder2: 0.5

    def __post_init__(self) -> None:
        require(self.max_characters >= 64, "clean.blobs.max_characters", self.max_characters, "64 or more")
        require_share("blobs", self, "max_share")


@dataclass
class Language:
    python: bool = False  # the row must hold Python that does more than name values
    max_other_code_share: float = (
        0.5  # fenced code marked as another language, share of all marked code, 0 to 1
    )
    neutral: list[str] = field(
        default_factory=lambda: list(NEUTRAL)
    )  # marks that count as neither, lower case
    # Lower-case phrases of other languages: two of them in an answer that holds no Python tell that it is in another.
    markers: list[str] = field(default_factory=lambda: list(MARKERS))
    scripts: list[str] = field(default_factory=lambda: ["latin", "greek"])  # wanted; names in SCRIPTS above
    max_other_script_share: float = 0.2  # letters of other scripts, as a share of all letters, 0 to 1
    # Of prose in at least `prose_words` words (0: not looked at), how many of the, be, to, of, and, that, have, with, a,
    # is, in, for must stand in it; Gopher: 2 of the first eight.
    prose_words: int = 0
    min_stop_words: int = 2

    def __post_init__(self) -> None:
        require_share("language", self, "max_other_code_share", "max_other_script_share")
        for name in self.scripts:
            require(name in SCRIPTS, "clean.language.scripts", name, "one of " + ", ".join(SCRIPTS))

    @cached_property
    def other_letters(self) -> re.Pattern[str]:
        """Runs of letters of no wanted script."""
        return re.compile(rf"[^\W\d_{''.join(SCRIPTS[name] for name in self.scripts)}]+")


@dataclass
class Comments:
    min_share: float = 0.0  # lines of code that are comments, share of the lines that are not blank, 0 to 1
    max_share: float = (
        0.8  # BigCode: 0.01 to 0.8 of the characters of whole files; a short body needs no comment
    )
    min_lines: int = 4  # code with fewer lines is not judged, from 0

    def __post_init__(self) -> None:
        require_share("comments", self, "min_share", "max_share")


@dataclass
class Docstring:
    required: bool = False  # drop a module whose last top-level function has no docstring; Self-align
    min_words: int = 0  # words of the docstring, from 0; CodeXGLUE: 3
    max_words: int = 1000  # CodeXGLUE: 256
    min_ascii_share: float = 0.0  # ASCII characters of the docstring, 0 to 1
    repeats_name: bool = False  # drop a docstring that says nothing but the words of the function's name

    def __post_init__(self) -> None:
        most = self.max_words
        require(
            0 <= self.min_words <= most,
            "clean.docstring.min_words",
            self.min_words,
            f"a number from 0 to max_words ({most})",
        )
        require_share("docstring", self, "min_ascii_share")


@dataclass
class Repetition:
    min_lines: int = 20  # a completion with fewer lines is not judged by its lines
    # Lines that repeat an earlier line, share of the lines that are not blank, 0 to 1. Gopher: 0.3 in prose; code
    # says `else:` and `return None` again and again.
    max_line_share: float = 0.7
    max_line_character_share: float = (
        0.7  # characters in such lines, share of all, 0 to 1; Gopher: 0.2 in prose
    )
    min_words: int = 60  # a completion with fewer words is not judged by its n-grams
    ngram_words: int = 8  # words an n-gram, from 1
    # n-grams that repeat an earlier one, share of all n-grams, 0 to 1. Gopher: 0.12 of the characters in prose, for 8 words
    max_ngram_share: float = 0.5

    def __post_init__(self) -> None:
        require_share("repetition", self, "max_line_share", "max_line_character_share", "max_ngram_share")
        require(self.ngram_words >= 1, "clean.repetition.ngram_words", self.ngram_words, "1 or more")


@dataclass
class Placeholder:
    stubs: bool = (
        True  # drop functions whose body is only pass, `...`, raise NotImplementedError or a docstring
    )
    # Regular expressions in lower case, looked for in the completion in lower case: a third of the cost of ignoring case.
    # Self-align drops every todo, fixme and bug.
    patterns: list[str] = field(default_factory=lambda: list(PLACEHOLDERS))

    def __post_init__(self) -> None:
        for pattern in self.patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                require(False, "clean.placeholder.patterns", pattern, f"a regular expression ({error})")
            letters = re.sub(r"\\.", "", pattern)  # \S and \W are no capitals
            require(letters == letters.lower(), "clean.placeholder.patterns", pattern, "lower case")

    @cached_property
    def compiled(self) -> list[re.Pattern[str]]:
        return [re.compile(pattern) for pattern in self.patterns]


@dataclass
class Refusal:
    # Phrases, case ignored, looked for in the prose of the answer. After the lists with which ShareGPT and WizardLM were
    # unfiltered (optional_clean.py, wizardlm_clean.py); of those, what speaks of the model and not of the world.
    phrases: list[str] = field(default_factory=lambda: list(REFUSALS))

    def __post_init__(self) -> None:
        require_lower("refusal", "phrases", self.phrases)


@dataclass
class Boilerplate:
    phrases: list[str] = field(
        default_factory=lambda: list(BOILERPLATE)
    )  # looked for in each line of the answer
    # Lines with such a phrase, share of the lines that are not blank, 0 to 1: "Sure! Here is the code:" above twenty
    # lines of code passes, the same words above one line do not. 0: any such line drops the row.
    max_line_share: float = 0.34

    def __post_init__(self) -> None:
        require_lower("boilerplate", "phrases", self.phrases)
        require_share("boilerplate", self, "max_line_share")


@dataclass
class System:
    modules: list[str] = field(
        default_factory=lambda: list(SYSTEM_MODULES)
    )  # no import of these, or of what is in them
    calls: list[str] = field(
        default_factory=lambda: list(SYSTEM_CALLS)
    )  # dotted names of functions, or of builtins

    @cached_property
    def clues(self) -> list[str]:
        """Text without any of these uses nothing of either list."""
        return sorted({name.rpartition(".")[2] for name in self.forbidden})

    @cached_property
    def parts(self) -> list[frozenset[str]]:
        """For each name of either list the words that must stand in text that uses it."""
        return [frozenset(name.split(".")) for name in sorted(self.forbidden)]

    @cached_property
    def forbidden(self) -> frozenset[str]:
        return frozenset((*self.modules, *self.calls))


@dataclass
class Licence:
    allowed: list[str] = field(
        default_factory=list
    )  # SPDX ids, case ignored; empty: any (conf/fetch has a list too)
    # Lower-case phrases that a header names another licence with, looked for in code.
    headers: list[str] = field(default_factory=lambda: list(LICENCE_HEADERS))

    def __post_init__(self) -> None:
        require_lower("licence", "headers", self.headers)
        listing("clean.licence.allowed", self.allowed)

    @cached_property
    def ids(self) -> frozenset[Term]:
        return listing("clean.licence.allowed", self.allowed)


def require_share(section: str, settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        require(0 <= value <= 1, f"clean.{section}.{name}", value, "a number from 0 to 1")


def require_lower(section: str, key: str, phrases: Sequence[str]) -> None:
    for phrase in phrases:
        require(bool(phrase) and phrase == phrase.lower(), f"clean.{section}.{key}", phrase, "lower case")
