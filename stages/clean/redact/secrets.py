"""Find secrets in a text with the plugins of detect-secrets.

Only their patterns are used, on single lines as in detect-secrets: nothing is verified over the network.
Where a pattern has a group for the secret, only the group is replaced; the groups of GitHub and GitLab are
prefixes, so there the whole match is.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

WHOLE_MATCH = {"GitHubTokenDetector", "GitLabTokenDetector"}
# Forms that detect-secrets does not know, or not whole: passwords with any sign in them or without a user,
# and keys of GitHub, Hugging Face, OpenAI, Anthropic, Google and Slack, with the group of the secret.
FORMS: dict[str, tuple[tuple[re.Pattern[str], int], ...]] = {
    "BasicAuthDetector": ((re.compile(r"://[^\s:/@'\"<>]*:([^\s/'\"<>]+)@(?=[\w\[{%])"), 1),),
    "": (
        (re.compile(r"github_pat_[A-Za-z0-9_]{22,}"), 0),
        (re.compile(r"hf_[A-Za-z]{30,}"), 0),
        (re.compile(r"sk-(?:proj|svcacct|admin|ant|or)-[A-Za-z0-9_-]{20,}"), 0),
        (re.compile(r"eyJ[A-Za-z0-9_-]{10,}(?:\.[A-Za-z0-9_-]*){4}"), 0),  # JWE: a JWT of five parts
        (re.compile(r"AIza[A-Za-z0-9_-]{35}"), 0),
        (re.compile(r"xapp-\d-[A-Z0-9]+-\d+-[a-z0-9]+|xoxe(?:\.xox[bp])?-\d-[A-Za-z0-9]{40,}"), 0),
    ),
}
# What documentation writes for a secret: your_password, guest, ghp_xxxxxxxx, and AWS's keys, which end in EXAMPLE
PLACEHOLDER = re.compile(
    r"(?i)^(?:(?:your|my|the|some|test|example|dummy|fake|sample|new|db)[-_]?)*"
    r"(?:pass(?:word|wd)?|passw0rd|pwd?|secret|token|key|api[-_]?key|change[-_]?(?:me|it)|guest|anonymous"
    r"|admin|user|root|postgres|foo|bar|example|x+)(?:[-_]?here)?$|example(?:key)?$|(.)\1{7}"
)
LONG_LINE = 4000  # characters
OVERLAP = 1000  # characters; longer tokens are found by their beginning and replaced whole
TOKEN = re.compile(r"[A-Za-z0-9_=-]*")
DOTTED_TOKEN = re.compile(r"[A-Za-z0-9_=.-]*(?<!\.)")  # JWT
KEY_LENGTH = 16384  # characters to search for the last line of a private key; RSA of 16,384 bits takes 12,700
EDGES = " \t\"'=:"
KEY_END = re.compile(r"-----(?:END [A-Z0-9 ]*PRIVATE KEY|BEGIN )|PuTTY-User-Key-File|\Z")
KEY_BYTES = re.compile(r"\\[nrt]|([A-Za-z0-9+/=]{16,}(?:(?:\\n|\n[ \t]*)[A-Za-z0-9+/=]+)*)")


class Span(NamedTuple):
    """A part of a text to replace."""

    start: int
    end: int
    kind: str  # key | password | email | ...


@dataclass(frozen=True)
class Detector:
    """A plugin of detect-secrets; without a name, the forms of this file."""

    name: str
    plugin: Any
    # Each pattern with the group that holds the secret, 0 for the whole match
    patterns: tuple[tuple[re.Pattern[str], int], ...]

    @property
    def kind(self) -> str:
        return "password" if self.name == "BasicAuthDetector" else "key"


@cache
def load_detectors(names: tuple[str, ...]) -> tuple[Detector, ...]:
    """Load plugins by name. Importing detect-secrets takes a quarter of a second, so it happens only here."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    classes = {cls.__name__: cls for cls in get_mapping_from_secret_type_to_class().values()}
    found = []
    for name in names:
        plugin = classes[name]()
        whole = name in WHOLE_MATCH
        own = tuple((p, 0 if whole or not p.groups else 1) for p in plugin.denylist)
        found.append(Detector(name, plugin, FORMS.get(name, own)))
    return (*found, Detector("", None, FORMS[""])) if names else ()


def detector_patterns(names: tuple[str, ...]) -> list[re.Pattern[str]]:
    """Return every pattern of the named plugins."""
    return [pattern for detector in load_detectors(names) for pattern, _ in detector.patterns]


def line_pieces(text: str) -> Iterator[tuple[int, str]]:
    """Yield the start and text of each line; of a long one, of pieces that overlap.

    Some patterns take time quadratic in the length of a line.
    """
    start = 0
    for line in text.split("\n"):
        for first in range(0, max(1, len(line) - OVERLAP), LONG_LINE - OVERLAP):
            yield start + first, line[first : first + LONG_LINE]
        start += len(line) + 1


def find_secrets(line: str, names: tuple[str, ...]) -> Iterator[Span]:
    """Find the secrets in one line, or in a piece of it.

    A comment that allows a secret (`pragma: allowlist secret`) is ignored: the model must not learn it.
    """
    for detector in load_detectors(names):
        found = [(match, group) for pattern, group in detector.patterns for match in pattern.finditer(line)]
        named = detector.name not in FORMS and found
        yielded = set(detector.plugin.analyze_string(line)) if named else set()
        for match, group in found:
            values = [value for value in (match.groups() or (match[0],)) if value]
            if not named:
                yielded.update(values)
            known = any(value in yielded and is_secret(value) for value in values)
            if known and not PLACEHOLDER.search(match[0]):
                yield trimmed_span(match, group, detector.kind)


def whole_token(text: str, span: Span) -> Span:
    """Return a key's span up to the end of its token: the pattern of JWT ends before the signature."""
    token = DOTTED_TOKEN if text.startswith("eyJ", span.start) else TOKEN
    rest = token.match(text, span.end) if span.kind == "key" else None
    return Span(span.start, rest.end(), span.kind) if rest else span


def trimmed_span(match: re.Match[str], group: int, kind: str) -> Span:
    """Return the span of a secret without the quotes and signs that some patterns include."""
    group = group if match[group] else 0
    text = match[group]
    start = match.start(group) + len(text) - len(text.lstrip(EDGES))
    return Span(start, start + len(text.strip(EDGES)), kind)


def is_secret(value: str) -> bool:
    """Whether a value is no placeholder and passes the heuristics of detect-secrets, but for indirect
    references (`x = f(...)`): a key with a form of its own is a key wherever it stands.
    """
    from detect_secrets.filters import heuristic

    return not (
        PLACEHOLDER.search(value)
        or heuristic.is_sequential_string(value)
        or heuristic.is_potential_uuid(value)
        or heuristic.is_templated_secret(value)
        or heuristic.is_prefixed_with_dollar_sign(value)
        or heuristic.is_not_alphanumeric_string(value)
    )


def key_body_spans(text: str, start: int) -> Iterator[Span]:
    """Find the bytes of a private key between its first line, which ends at `start`, and its last."""
    limit = min(len(text), start + KEY_LENGTH)
    end = KEY_END.search(text, start, limit)
    for match in KEY_BYTES.finditer(text, start, end.start() if end else limit):
        if match[1]:
            yield Span(match.start(1), match.end(1), "key")
