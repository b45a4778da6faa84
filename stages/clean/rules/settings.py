"""Thresholds of the rules on single rows. A figure taken from the literature has its source beside it.

BigCode: bigcode-project/bigcode-dataset, preprocessing/README.md, after Codex (arXiv 2107.03374). StarCoder2:
arXiv 2402.19173. Gopher: arXiv 2112.11446, table A1. C4: arXiv 1910.10683. CodeXGLUE: its code-to-text set,
after CodeSearchNet. Self-align: bigcode-project/starcoder2-self-align, seed_gathering/filter_dataset.py.
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
    PLACEHOLDER_PATTERNS,
    REFUSALS,
    SCRIPTS,
    SYSTEM_CALLS,
    SYSTEM_MODULES,
)
from stages.common.settings import require


@dataclass
class Length:
    min_characters: int = 1  # of the completion without surrounding white space, from 0
    max_characters: int = 8000  # of the completion
    min_lines: int = 1  # non-blank lines of the completion, from 0
    max_lines: int = 200  # non-blank lines of the completion
    # Tokens of no model, from 0: runs of letters, digits and underscores, and runs of punctuation. The stage
    # pack counts the model's own tokens.
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
    max_mean: float = 100  # mean characters of its lines, blank ones included, above 0; BigCode: 100

    def __post_init__(self) -> None:
        require(self.max_characters >= 1, "clean.long_lines.max_characters", self.max_characters, "1 or more")
        require(self.max_mean > 0, "clean.long_lines.max_mean", self.max_mean, "more than 0")


@dataclass
class Encoding:
    # Control characters (except tab, line ends, form feed) and those that reverse the order of text, from 0
    max_controls: int = 0
    max_replacements: int = 0  # U+FFFD, which marks bytes that could not be decoded, from 0
    # Sequences of UTF-8 read as Latin-1 or Windows-1252, like Ã© (after ftfy), from 0
    max_mojibake: int = 0
    max_unprintable_share: float = 0.01  # unprintable characters except white space, share of all, 0 to 1

    def __post_init__(self) -> None:
        for name in ("max_controls", "max_replacements", "max_mojibake"):
            require(getattr(self, name) >= 0, f"clean.encoding.{name}", getattr(self, name), "0 or more")
        require_share("encoding", self, "max_unprintable_share")


@dataclass
class Alphanumeric:
    # Letters and digits, share of all characters except white space, 0 to 1; BigCode: 0.25 of all
    min_share: float = 0.25
    # Shorter text is not checked, from 0: `return -(a - b)` is mostly signs
    min_characters: int = 60

    def __post_init__(self) -> None:
        require_share("alphanumeric", self, "min_share")


@dataclass
class Blobs:
    # Longest run of base64, hex or \\u escapes that passes, from 64; StarCoder2: 1024
    max_characters: int = 1024
    max_share: float = 0.5  # all such runs, share of the text, 0 to 1; StarCoder2: 0.5

    def __post_init__(self) -> None:
        require(self.max_characters >= 64, "clean.blobs.max_characters", self.max_characters, "64 or more")
        require_share("blobs", self, "max_share")


@dataclass
class Language:
    python: bool = False  # the row must hold Python that does more than name values
    # Fenced code marked as another language, share of all marked code, 0 to 1
    max_other_code_share: float = 0.5
    # Lower-case marks that count as neither
    neutral: list[str] = field(default_factory=lambda: list(NEUTRAL))
    # Lower-case phrases of other languages: two of them in an answer without Python mean another language
    markers: list[str] = field(default_factory=lambda: list(MARKERS))
    # Allowed scripts, names in phrases.SCRIPTS
    scripts: list[str] = field(default_factory=lambda: ["latin", "greek"])
    max_other_script_share: float = 0.2  # letters of other scripts, share of all letters, 0 to 1
    # Prose of at least `prose_words` words (0: not checked) must hold `min_stop_words` of the, be, to, of,
    # and, that, have, with, a, is, in, for; Gopher: 2 of the first eight
    prose_words: int = 0
    min_stop_words: int = 2

    def __post_init__(self) -> None:
        require_share("language", self, "max_other_code_share", "max_other_script_share")
        for name in self.scripts:
            require(name in SCRIPTS, "clean.language.scripts", name, "one of " + ", ".join(SCRIPTS))

    @cached_property
    def other_letters(self) -> re.Pattern[str]:
        """Matches runs of letters of other scripts."""
        return re.compile(rf"[^\W\d_{''.join(SCRIPTS[name] for name in self.scripts)}]+")


@dataclass
class Comments:
    # Comment lines, share of the non-blank lines of code, 0 to 1. BigCode: 0.01 to 0.8 of the characters of
    # whole files; a short body needs no comment
    min_share: float = 0.0
    max_share: float = 0.8
    min_lines: int = 4  # code with fewer lines is not checked, from 0

    def __post_init__(self) -> None:
        require_share("comments", self, "min_share", "max_share")


@dataclass
class Docstring:
    required: bool = False  # drop a module whose last top-level function has no docstring; Self-align
    min_words: int = 0  # words of the docstring, from 0; CodeXGLUE: 3
    max_words: int = 1000  # CodeXGLUE: 256
    min_ascii_share: float = 0.0  # ASCII characters of the docstring, 0 to 1
    repeats_name: bool = False  # drop a docstring that only repeats the words of the function's name

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
    min_lines: int = 20  # the lines of a completion with fewer are not checked
    # Lines that repeat an earlier line, share of the non-blank lines, 0 to 1. Gopher: 0.3 in prose; code
    # repeats `else:` and `return None` all the time.
    max_line_share: float = 0.7
    # Characters in such lines, share of all, 0 to 1; Gopher: 0.2 in prose
    max_line_character_share: float = 0.7
    min_words: int = 60  # the n-grams of a completion with fewer words are not checked
    ngram_words: int = 8  # words per n-gram, from 1
    # n-grams that repeat an earlier one, share of all n-grams, 0 to 1. Gopher: 0.12 of the characters in
    # prose, for 8 words
    max_ngram_share: float = 0.5

    def __post_init__(self) -> None:
        require_share("repetition", self, "max_line_share", "max_line_character_share", "max_ngram_share")
        require(self.ngram_words >= 1, "clean.repetition.ngram_words", self.ngram_words, "1 or more")


@dataclass
class Placeholder:
    # Drop functions whose body is only pass, `...`, raise NotImplementedError or a docstring
    stubs: bool = True
    # Lower-case regular expressions, searched in the lower-cased completion, at a third of the cost of
    # ignoring case. Self-align drops every todo, fixme and bug.
    patterns: list[str] = field(default_factory=lambda: list(PLACEHOLDER_PATTERNS))

    def __post_init__(self) -> None:
        for pattern in self.patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                require(False, "clean.placeholder.patterns", pattern, f"a regular expression ({error})")
            letters = re.sub(r"\\.", "", pattern)  # \S and \W are not capitals
            require(letters == letters.lower(), "clean.placeholder.patterns", pattern, "lower case")

    @cached_property
    def compiled(self) -> list[re.Pattern[str]]:
        return [re.compile(pattern) for pattern in self.patterns]


@dataclass
class Refusal:
    # Lower-case phrases, searched in the prose of the answer, case ignored. From the lists that unfiltered
    # ShareGPT and WizardLM (optional_clean.py, wizardlm_clean.py), the phrases about the model, not those
    # about the world.
    phrases: list[str] = field(default_factory=lambda: list(REFUSALS))

    def __post_init__(self) -> None:
        require_lower_case("refusal", "phrases", self.phrases)


@dataclass
class Boilerplate:
    # Lower-case phrases, searched in each line of the answer
    phrases: list[str] = field(default_factory=lambda: list(BOILERPLATE))
    # Lines with such a phrase, share of the non-blank lines, 0 to 1: "Sure! Here is the code:" above twenty
    # lines of code passes, above one line it does not. 0: any such line drops the row.
    max_line_share: float = 0.34

    def __post_init__(self) -> None:
        require_lower_case("boilerplate", "phrases", self.phrases)
        require_share("boilerplate", self, "max_line_share")


@dataclass
class System:
    # Modules that code must not import, nor anything in them
    modules: list[str] = field(default_factory=lambda: list(SYSTEM_MODULES))
    # Functions (dotted names) and builtins that code must not use
    calls: list[str] = field(default_factory=lambda: list(SYSTEM_CALLS))

    @cached_property
    def clues(self) -> list[str]:
        """Words, one of which must be in text that uses a forbidden name."""
        return sorted({name.rpartition(".")[2] for name in self.forbidden})

    @cached_property
    def parts(self) -> list[frozenset[str]]:
        """For each forbidden name, the words that must all be in text that uses it."""
        return [frozenset(name.split(".")) for name in sorted(self.forbidden)]

    @cached_property
    def forbidden(self) -> frozenset[str]:
        return frozenset((*self.modules, *self.calls))


@dataclass
class Licence:
    # Lower-case phrases of headers that name another licence, searched in code
    headers: list[str] = field(default_factory=lambda: list(LICENCE_HEADERS))
    # SPDX ids of fetch.licences, as sources.lock.json has them: no setting here. Empty: any licence
    ids = frozenset[str]()

    def __post_init__(self) -> None:
        require_lower_case("licence", "headers", self.headers)


def require_share(section: str, settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        require(0 <= value <= 1, f"clean.{section}.{name}", value, "a number from 0 to 1")


def require_lower_case(section: str, key: str, phrases: Sequence[str]) -> None:
    for phrase in phrases:
        require(bool(phrase) and phrase == phrase.lower(), f"clean.{section}.{key}", phrase, "lower case")
