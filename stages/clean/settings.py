"""Settings of the clean stage: rules and their order. Thresholds of the row rules are beside each rule, in rules/."""

from dataclasses import dataclass, field

from stages.clean.rules.code import Comments, Docstring, Licence, Placeholder
from stages.clean.rules.language import Language
from stages.clean.rules.prose import Boilerplate, Refusal
from stages.clean.rules.system import System
from stages.clean.rules.text import Alphanumeric, Blobs, Encoding, Length, LongLines, Repetition
from stages.common.core.settings import require

ROW_RULES = (
    "empty",
    "length",
    "long_lines",
    "licence",
    "encoding",
    "alphanumeric",
    "blobs",
    "parse",
    "language",
    "comments",
    "placeholder",
    "docstring",
    "system",
    "refusal",
    "boilerplate",
    "repetition",
    "contaminated_docstring",
    "contaminated_solution",
    "contaminated_ngrams",
    "contaminated_ast",
)
DUPLICATE_RULES = ("exact", "ast", "near")
CODE_LAYOUTS = ("whole", "fenced")
PERSONAL_KINDS = ("email", "ip", "phone", "iban", "card")
VALIDATE_MODES = ("none", "tag", "require")
SANDBOX_LEVELS = ("auto", "A", "B", "C")
DOCTEST_FLAGS = ("ELLIPSIS", "NORMALIZE_WHITESPACE", "IGNORE_EXCEPTION_DETAIL")
# Plugins of detect-secrets that redact. Left out: the keyword and the two entropy plugins, which are noise on
# code, and IPPublicDetector, which `personal: [ip]` replaces (docs/decisions.md).
SECRET_PLUGINS = (
    "ArtifactoryDetector",
    "AWSKeyDetector",
    "AzureStorageKeyDetector",
    "BasicAuthDetector",
    "CloudantDetector",
    "DiscordBotTokenDetector",
    "GitHubTokenDetector",
    "GitLabTokenDetector",
    "IbmCloudIamDetector",
    "IbmCosHmacDetector",
    "JwtTokenDetector",
    "MailchimpDetector",
    "NpmDetector",
    "OpenAIDetector",
    "PrivateKeyDetector",
    "PypiTokenDetector",
    "SendGridDetector",
    "SlackDetector",
    "SoftlayerDetector",
    "SquareOAuthDetector",
    "StripeDetector",
    "TelegramBotTokenDetector",
    "TwilioKeyDetector",
)
GUESSING_PLUGINS = ("KeywordDetector", "Base64HighEntropyString", "HexHighEntropyString")


@dataclass
class Contamination:
    docstring_words: int = 8  # a benchmark docstring with fewer words is too common to prove anything, from 1
    # Least characters shared with a solution, white space collapsed, from 2
    solution_characters: int = 60
    ngram_words: int = 10  # words per n-gram, from 1
    ngram_coverage: float = (
        0.5  # a row with more than this share of a problem's n-grams is dropped, in (0, 1]
    )
    # A solution of fewer words (syntax nodes, names and constants of its canonical text; `return a + b` has
    # 11, Euclid's algorithm 20) is an idiom: rows that equal it are kept and listed as near. From 1, which
    # exempts none.
    ast_words: int = 19
    # A kept row comes near a problem, and the problem leaves the report's clean subset, above this share of
    # the problem's n-grams, from 0 to `ngram_coverage`; ...
    near_ngram_coverage: float = 0.02
    # ... or from this Jaccard similarity of a function's code to the solution, names numbered, in (0, 1]; or
    # with a function named like the problem's entry point.
    near_code_similarity: float = 0.5

    def __post_init__(self) -> None:
        for name, least in (
            ("docstring_words", 1),
            ("solution_characters", 2),
            ("ngram_words", 1),
            ("ast_words", 1),
        ):
            value = getattr(self, name)
            require(value >= least, f"clean.contamination.{name}", value, f"{least} or more")
        require(
            0 < self.ngram_coverage <= 1,
            "clean.contamination.ngram_coverage",
            self.ngram_coverage,
            "a number in (0, 1]",
        )
        require(
            0 <= self.near_ngram_coverage <= self.ngram_coverage,
            "clean.contamination.near_ngram_coverage",
            self.near_ngram_coverage,
            f"a number from 0 to ngram_coverage ({self.ngram_coverage})",
        )
        require(
            0 < self.near_code_similarity <= 1,
            "clean.contamination.near_code_similarity",
            self.near_code_similarity,
            "a number in (0, 1]",
        )


@dataclass
class NearDuplicates:
    # Jaccard similarity of rows, and of their answers, from which all but one are dropped, in (0, 1]
    threshold: float = 0.7
    # Jaccard similarity from which kept rows share a `component`, and from which two questions count as one,
    # in (0, 1]; of rows capped at `threshold`
    related: float = 0.5

    def __post_init__(self) -> None:
        for name in ("threshold", "related"):
            value = getattr(self, name)
            require(0 < value <= 1, f"clean.near_duplicates.{name}", value, "a number in (0, 1]")


@dataclass
class Redaction:
    secrets: bool = True  # replace what detect-secrets finds by <KEY>, passwords in URLs by <PASSWORD>
    # Kinds of personal data (email, ip, phone, iban, card) to replace by <EMAIL>, <IP_ADDRESS>,
    # <PHONE_NUMBER>, <IBAN>, <CREDIT_CARD>. Names of people are not searched for.
    personal: list[str] = field(default_factory=lambda: list(PERSONAL_KINDS))
    # Class names of detect-secrets plugins
    plugins: list[str] = field(default_factory=lambda: list(SECRET_PLUGINS))

    def __post_init__(self) -> None:
        for kind in self.personal:
            require(
                kind in PERSONAL_KINDS, "clean.redact.personal", kind, "one of " + ", ".join(PERSONAL_KINDS)
            )
        for name in self.plugins:
            known = (*SECRET_PLUGINS, *GUESSING_PLUGINS)
            require(name in known, "clean.redact.plugins", name, "one of " + ", ".join(known))


@dataclass
class Validation:
    """How the tests and doctests of rows run; `clean.validate` says whether they do."""

    # What `require` does with a row that has nothing to run, or nothing that runs without packages, files or
    # network: keep | drop
    unchecked: str = "keep"
    # Doctest flags set for every example, besides its own directives
    doctest_flags: list[str] = field(default_factory=lambda: ["ELLIPSIS", "NORMALIZE_WHITESPACE"])
    # CPU seconds for all of a row's checks, the deciding limit; the wall time limit is ten times that
    cpu_seconds: float = 3.0
    memory_mib: int = 1024  # address space of a row's checks, MiB
    isolation: str = "auto"  # auto: the highest level this machine offers | A | B | C (docs/evaluate.md)
    allow_weak_sandbox: bool = False  # run the code of rows even at level C, if nothing better is available
    # Set by the config stage, not by users: sha256 of stages/judge if rows are run ("" if not), so that an
    # edit of the judge runs them again
    judge: str = ""

    def __post_init__(self) -> None:
        key = "clean.validation"
        require(self.unchecked in ("keep", "drop"), f"{key}.unchecked", self.unchecked, "keep or drop")
        for flag in self.doctest_flags:
            require(flag in DOCTEST_FLAGS, f"{key}.doctest_flags", flag, "one of " + ", ".join(DOCTEST_FLAGS))
        require(self.cpu_seconds > 0, f"{key}.cpu_seconds", self.cpu_seconds, "seconds above 0")
        require(self.memory_mib >= 128, f"{key}.memory_mib", self.memory_mib, "at least 128 MiB")
        require(
            self.isolation in SANDBOX_LEVELS,
            f"{key}.isolation",
            self.isolation,
            "one of " + ", ".join(SANDBOX_LEVELS),
        )


@dataclass
class CleanSettings:
    # Where a row's code is. whole: prompt + completion | fenced: ``` blocks of the answer
    layout: str = "whole"
    # Rules on single rows, in this order; the first that a row fails drops it.
    rules: list[str] = field(default_factory=lambda: list(ROW_RULES))
    # Rules over all remaining rows, in this order: exact, ast, near.
    duplicates: list[str] = field(default_factory=lambda: list(DUPLICATE_RULES))
    length: Length = field(default_factory=Length)
    long_lines: LongLines = field(default_factory=LongLines)
    licence: Licence = field(default_factory=Licence)
    encoding: Encoding = field(default_factory=Encoding)
    alphanumeric: Alphanumeric = field(default_factory=Alphanumeric)
    blobs: Blobs = field(default_factory=Blobs)
    language: Language = field(default_factory=Language)
    comments: Comments = field(default_factory=Comments)
    placeholder: Placeholder = field(default_factory=Placeholder)
    docstring: Docstring = field(default_factory=Docstring)
    system: System = field(default_factory=System)
    refusal: Refusal = field(default_factory=Refusal)
    boilerplate: Boilerplate = field(default_factory=Boilerplate)
    repetition: Repetition = field(default_factory=Repetition)
    contamination: Contamination = field(default_factory=Contamination)
    near_duplicates: NearDuplicates = field(default_factory=NearDuplicates)
    redact: Redaction = field(default_factory=Redaction)
    # none: no row is run | tag: the column `validated` says whether a row's tests and doctests pass, and a
    # passing row is kept before its duplicates | require: failing rows are dropped too
    validate: str = "none"
    validation: Validation = field(default_factory=Validation)

    def __post_init__(self) -> None:
        require(
            self.validate in VALIDATE_MODES,
            "clean.validate",
            self.validate,
            "one of " + ", ".join(VALIDATE_MODES),
        )
        require(self.layout in CODE_LAYOUTS, "clean.layout", self.layout, "one of " + ", ".join(CODE_LAYOUTS))
        for key, known in (("rules", ROW_RULES), ("duplicates", DUPLICATE_RULES)):
            names = getattr(self, key)
            require(len(set(names)) == len(names), f"clean.{key}", names, "each rule once")
            for name in names:
                require(name in known, f"clean.{key}", name, "one of " + ", ".join(known))
