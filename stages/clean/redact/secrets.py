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

from stages.clean.redact.prefilter import widened

WHOLE_MATCH = {"GitHubTokenDetector", "GitLabTokenDetector"}
PASSWORDS = {"BasicAuthDetector", "KeywordDetector"}
# Plugins whose secrets have no form of their own
GUESSES = {"KeywordDetector", "Base64HighEntropyString", "HexHighEntropyString"}
LONG_LINE = 2000  # characters
EDGES = " \t\"'=:"
KEY_END = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY|\Z")
KEY_BYTES = re.compile(r"\\[nrt]|([A-Za-z0-9+/=]{16,}(?:(?:\\n|\n[ \t]*)[A-Za-z0-9+/=]+)*)")


class Span(NamedTuple):
    """A part of a text to replace."""

    start: int
    end: int
    kind: str  # key | password | email | ...


@dataclass(frozen=True)
class Detector:
    """A plugin of detect-secrets."""

    name: str
    plugin: Any
    # Each pattern with the group that holds the secret, 0 for the whole match
    patterns: tuple[tuple[re.Pattern[str], int], ...]

    @property
    def kind(self) -> str:
        return "password" if self.name in PASSWORDS else "key"


@cache
def load_detectors(names: tuple[str, ...]) -> tuple[Detector, ...]:
    """Load plugins by name. Importing detect-secrets takes a quarter of a second, so it happens only here."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.keyword import QUOTES_REQUIRED_DENYLIST_REGEX_TO_GROUP

    classes = {cls.__name__: cls for cls in get_mapping_from_secret_type_to_class().values()}
    found = []
    for name in names:
        plugin = classes[name]()
        if name == "KeywordDetector":
            patterns = tuple(QUOTES_REQUIRED_DENYLIST_REGEX_TO_GROUP.items())
        elif name in GUESSES:
            patterns = ((plugin.regex, 2),)
        else:
            whole = name in WHOLE_MATCH
            patterns = tuple((p, 0 if whole or not p.groups else 1) for p in plugin.denylist)
        found.append(Detector(name, plugin, patterns))
    return tuple(found)


def detector_patterns(names: tuple[str, ...]) -> list[re.Pattern[str]]:
    """Return every pattern of the named plugins."""
    return [pattern for detector in load_detectors(names) for pattern, _ in detector.patterns]


def find_secrets(line: str, names: tuple[str, ...]) -> Iterator[Span]:
    """Find the secrets in one line.

    A comment that allows a secret (`pragma: allowlist secret`) is ignored: the model must not learn it.
    """
    for detector in load_detectors(names):
        found = [
            (match, group)
            for pattern, group in detector.patterns
            if len(line) < LONG_LINE or may_match(pattern, line)
            for match in pattern.finditer(line)
        ]
        if not found:
            continue
        yielded = set(detector.plugin.analyze_string(line))
        for match, group in found:
            values = [value for value in (match.groups() or (match[0],)) if value]
            if any(value in yielded and is_secret(value, line, detector) for value in values):
                yield trimmed_span(match, group, detector.kind)


def may_match(pattern: re.Pattern[str], line: str) -> bool:
    """Whether a pattern may match, by RE2 in linear time: with `re` some patterns take quadratic time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.match_substring_regex(pa.array([line]), widened(pattern))[0].as_py()


def trimmed_span(match: re.Match[str], group: int, kind: str) -> Span:
    """Return the span of a secret without the quotes and signs that some patterns include."""
    group = group if match[group] else 0
    text = match[group]
    start = match.start(group) + len(text) - len(text.lstrip(EDGES))
    return Span(start, start + len(text.strip(EDGES)), kind)


def is_secret(value: str, line: str, detector: Detector) -> bool:
    """Whether a value passes the heuristics of detect-secrets.

    Its filter for indirect references (`x = f(...)`) applies only to guesses: a key with a form of its own is
    a key wherever it stands.
    """
    from detect_secrets.filters import heuristic

    if (
        heuristic.is_sequential_string(value)
        or heuristic.is_potential_uuid(value)
        or heuristic.is_templated_secret(value)
        or heuristic.is_prefixed_with_dollar_sign(value)
        or heuristic.is_not_alphanumeric_string(value)
    ):
        return False
    if detector.name not in GUESSES:
        return True
    plugin = detector.plugin
    if heuristic.is_likely_id_string(value, line, plugin) or heuristic.is_indirect_reference(line):
        return False
    return (
        detector.name == "KeywordDetector" or plugin.calculate_shannon_entropy(value) > plugin.entropy_limit
    )


def key_body_spans(text: str, start: int) -> Iterator[Span]:
    """Find the bytes of a private key between its first line, which ends at `start`, and its last."""
    end = KEY_END.search(text, start)
    for match in KEY_BYTES.finditer(text, start, end.start() if end else len(text)):
        if match[1]:
            yield Span(match.start(1), match.end(1), "key")
