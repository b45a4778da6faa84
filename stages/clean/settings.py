"""Settings of the clean stage: which rules run, and in which order; thresholds of row rules in rules_settings.py."""

from dataclasses import dataclass, field

from stages.clean.rules.settings import (
    Alphanumeric,
    Blobs,
    Boilerplate,
    Comments,
    Docstring,
    Encoding,
    Language,
    Length,
    Licence,
    LongLines,
    Placeholder,
    Refusal,
    Repetition,
    System,
)
from stages.common.settings import require

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
LAYOUTS = ("whole", "fenced")
PERSONAL = ("email", "ip", "phone", "iban", "card")
VALIDATE = ("none", "tag", "require")
ISOLATION = ("auto", "A", "B", "C")
DOCTEST_FLAGS = ("ELLIPSIS", "NORMALIZE_WHITESPACE", "IGNORE_EXCEPTION_DETAIL")
# Plugins of detect-secrets that redact. Left out, as noise in code: the keyword and the two entropy plugins, and
# IPPublicDetector, whose work `personal: [ip]` does (docs/decisions.md).
PLUGINS = (
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
    solution_characters: int = (
        60  # length of a piece of a solution that counts, white space collapsed, from 2
    )
    ngram_words: int = 10  # words an n-gram, from 1
    ngram_coverage: float = 0.5  # share of a problem's n-grams found in a row above which the row is dropped
    # A solution of fewer words (syntax nodes, names, constants of its canonical text; `return a + b` has 11) is an idiom
    # whose equal is kept and listed as near, from 1: none is.
    ast_words: int = 1
    # A row that is kept comes near a problem, and the problem leaves the clean subset of the report, above this share
    # of the problem's n-grams, from 0 to `ngram_coverage` ...
    near_ngram_coverage: float = 0.02
    # ... or from this Jaccard similarity of a function's code to the solution's, names numbered, in (0, 1] ...
    near_code_similarity: float = 0.5  # ... or by a function named like the problem's entry point.

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
    permutations: int = 256  # MinHash values a row, 1 to 1024
    shingle_words: int = 5  # words a shingle, from 1
    threshold: float = 0.7  # Jaccard similarity from which all but one of the rows are dropped, in (0, 1]
    # Jaccard similarity from which kept rows share a `component`, in (0, 1]; at most `threshold` is used
    related: float = 0.5
    recall: float = 0.98  # least chance that that a pair at `related` is looked at; sets the bands, in (0, 1)

    def __post_init__(self) -> None:
        key = "clean.near_duplicates"
        require(0 < self.threshold <= 1, f"{key}.threshold", self.threshold, "a number in (0, 1]")
        require(0 < self.related <= 1, f"{key}.related", self.related, "a number in (0, 1]")
        require(0 < self.recall < 1, f"{key}.recall", self.recall, "a number in (0, 1)")
        require(1 <= self.permutations <= 1024, f"{key}.permutations", self.permutations, "1 to 1024")
        require(self.shingle_words >= 1, f"{key}.shingle_words", self.shingle_words, "1 or more")


@dataclass
class Redaction:
    secrets: bool = True  # replace what detect-secrets finds by <KEY>, passwords in URLs by <PASSWORD>
    # Replace personal data by <EMAIL>, <IP_ADDRESS>, <PHONE_NUMBER>, <IBAN>, <CREDIT_CARD>. Any of email, ip, phone,
    # iban, card. Names of people are not looked for.
    personal: list[str] = field(default_factory=lambda: list(PERSONAL))
    plugins: list[str] = field(default_factory=lambda: list(PLUGINS))  # of detect-secrets, by class

    def __post_init__(self) -> None:
        for kind in self.personal:
            require(kind in PERSONAL, "clean.redact.personal", kind, "one of " + ", ".join(PERSONAL))
        for name in self.plugins:
            known = (*PLUGINS, *GUESSING_PLUGINS)
            require(name in known, "clean.redact.plugins", name, "one of " + ", ".join(known))


@dataclass
class Validation:
    """How the tests and doctests of rows are run; whether they are is `clean.validate`."""

    # What `require` does with a row that has nothing to run, or nothing that runs without packages, files or network.
    unchecked: str = "keep"  # keep | drop
    doctest_flags: list[str] = field(  # held for every example, beside its own directives
        default_factory=lambda: ["ELLIPSIS", "NORMALIZE_WHITESPACE"]
    )
    cpu_seconds: float = (
        3.0  # CPU time of a row's checks together; the limit that decides. Wall time: ten times that
    )
    memory_mib: int = 1024  # address space of a row's checks, MiB
    isolation: str = "auto"  # auto: the highest level this machine gives | A | B | C (docs/evaluate.md)
    allow_weak_sandbox: bool = False  # run the code of rows at level C where nothing better is there
    # Written by the config stage: sha256 of stages/judge where rows are run, so that a change of it runs them again
    judge: str = ""

    def __post_init__(self) -> None:
        key = "clean.validation"
        require(self.unchecked in ("keep", "drop"), f"{key}.unchecked", self.unchecked, "keep or drop")
        for flag in self.doctest_flags:
            require(flag in DOCTEST_FLAGS, f"{key}.doctest_flags", flag, "one of " + ", ".join(DOCTEST_FLAGS))
        require(self.cpu_seconds > 0, f"{key}.cpu_seconds", self.cpu_seconds, "seconds above 0")
        require(self.memory_mib >= 128, f"{key}.memory_mib", self.memory_mib, "at least 128 MiB")
        require(
            self.isolation in ISOLATION, f"{key}.isolation", self.isolation, "one of " + ", ".join(ISOLATION)
        )


@dataclass
class CleanSettings:
    layout: str = (
        "whole"  # where a row's code is. whole: prompt + completion | fenced: ``` blocks of the answer
    )
    # Rules on single rows, in this order; the first that fails names the drop.
    rules: list[str] = field(default_factory=lambda: list(ROW_RULES))
    # Rules over all rows that are left, in this order: exact, ast, near.
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
    # none: nothing of a row is run | tag: the column `validated` says whether its tests and doctests pass, and of
    # duplicates a row that passes is kept | require: rows that fail are dropped too
    validate: str = "none"
    validation: Validation = field(default_factory=Validation)

    def __post_init__(self) -> None:
        require(self.validate in VALIDATE, "clean.validate", self.validate, "one of " + ", ".join(VALIDATE))
        require(self.layout in LAYOUTS, "clean.layout", self.layout, "one of " + ", ".join(LAYOUTS))
        for key, known in (("rules", ROW_RULES), ("duplicates", DUPLICATE_RULES)):
            names = getattr(self, key)
            require(len(set(names)) == len(names), f"clean.{key}", names, "each rule once")
            for name in names:
                require(name in known, f"clean.{key}", name, "one of " + ", ".join(known))
