"""Settings of the clean stage: rules and their order. Thresholds of the row rules are beside each rule, in rules/."""

from dataclasses import dataclass, field

from stages.clean.rules.code import Comments, Docstring, Licence, Placeholder
from stages.clean.rules.language import Language
from stages.clean.rules.prose import Boilerplate, Refusal
from stages.clean.rules.system import System
from stages.clean.rules.text import Alphanumeric, Blobs, Encoding, Length, LongLines, Repetition
from stages.clean.rules.valid_settings import require_names
from stages.common.core.settings import require

ROW_RULES = (
    "empty", "length", "long_lines", "licence", "encoding", "alphanumeric", "blobs", "parse", "language",
    "comments", "placeholder", "docstring", "system", "refusal", "boilerplate", "repetition",
    "contaminated_docstring", "contaminated_solution", "contaminated_ngrams", "contaminated_ast",
)  # fmt: skip
DUPLICATE_RULES = ("exact", "ast", "near")
PERSONAL_KINDS = ("email", "ip", "phone", "iban", "card")
# Plugins of detect-secrets that redact. Left out: the keyword and the two entropy plugins, which are noise on
# code, and IPPublicDetector, which `personal: [ip]` replaces (docs/decisions.md).
SECRET_PLUGINS = (
    "ArtifactoryDetector", "AWSKeyDetector", "AzureStorageKeyDetector", "BasicAuthDetector",
    "CloudantDetector", "DiscordBotTokenDetector", "GitHubTokenDetector", "GitLabTokenDetector",
    "IbmCloudIamDetector", "IbmCosHmacDetector", "JwtTokenDetector", "MailchimpDetector", "NpmDetector",
    "OpenAIDetector", "PrivateKeyDetector", "PypiTokenDetector", "SendGridDetector", "SlackDetector",
    "SoftlayerDetector", "SquareOAuthDetector", "StripeDetector", "TelegramBotTokenDetector",
    "TwilioKeyDetector",
)  # fmt: skip


@dataclass(unsafe_hash=True)  # a key of a cache
class Contamination:
    # A row with more than this share of a problem's n-grams is dropped, in (0, 1]
    ngram_coverage: float = 0.5
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
        key, most = "clean.contamination", self.ngram_coverage
        require(0 < most <= 1, f"{key}.ngram_coverage", most, "a number in (0, 1]")
        require(self.ast_words >= 1, f"{key}.ast_words", self.ast_words, "1 or more")
        near, similarity = self.near_ngram_coverage, self.near_code_similarity
        wanted = f"a number from 0 to ngram_coverage ({most})"
        require(0 <= near <= most, f"{key}.near_ngram_coverage", near, wanted)
        require(0 < similarity <= 1, f"{key}.near_code_similarity", similarity, "a number in (0, 1]")


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
        require_names("redact.personal", self.personal, PERSONAL_KINDS)
        require_names("redact.plugins", self.plugins, SECRET_PLUGINS)


@dataclass(unsafe_hash=True)  # a key of a cache
class Validation:
    """How the tests and doctests of rows run; `clean.validate` says whether they do."""

    # What `require` does with a row that has nothing to run, or nothing that runs without packages, files or
    # network: keep | drop
    unchecked: str = "keep"
    # CPU seconds for all of a row's checks, the deciding limit; the wall time limit is ten times that
    cpu_seconds: float = 3.0
    memory_mib: int = 1024  # address space of a row's checks, MiB
    isolation: str = "auto"  # auto: the highest level this machine offers | A | B | C (docs/evaluate.md)
    allow_weak_sandbox: bool = False  # run the code of rows even at level C, if nothing better is available
    # Set by the config stage, not by users: sha256 of stages/judge if rows are run ("" if not), so that an
    # edit of the judge runs them again
    judge: str = ""

    def __post_init__(self) -> None:
        require_names("validation.unchecked", [self.unchecked], ("keep", "drop"))
        require_names("validation.isolation", [self.isolation], ("auto", "A", "B", "C"))
        key = "clean.validation"
        require(self.cpu_seconds > 0, f"{key}.cpu_seconds", self.cpu_seconds, "seconds above 0")
        require(self.memory_mib >= 128, f"{key}.memory_mib", self.memory_mib, "at least 128 MiB")


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
        require_names("validate", [self.validate], ("none", "tag", "require"))
        require_names("layout", [self.layout], ("whole", "fenced"))
        for key, known in (("rules", ROW_RULES), ("duplicates", DUPLICATE_RULES)):
            names = getattr(self, key)
            require(len(set(names)) == len(names), f"clean.{key}", names, "each rule once")
            require_names(key, names, known)
