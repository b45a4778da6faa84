"""Problems that a kept row comes near: the report scores the models on the others beside all of them.

What a rule of decontamination would drop counts whether or not the rule runs (with conf/clean/off.yaml it may not);
what none would drop counts from lower thresholds. A problem too many is left out sooner than one too few.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stages.clean.code.fingerprint import code_shingles
from stages.clean.contamination.decontaminate import CHECKS, Index, Match, covered, plain_name
from stages.clean.row import Row

STRONGEST = 3  # rows that near.jsonl names for each way to come near a problem


class Near(NamedTuple):
    """A problem, how a row comes near it, and the row."""

    benchmark: str
    task_id: str
    reason: str  # a rule of CHECKS that did not run, near_ngrams, near_code or same_name
    measure: float  # share of the problem's n-grams, or similarity of the code; else 1
    evidence: str
    id: str
    source: str


@dataclass
class Summary:
    """What near.jsonl tells of all kept rows: its size is bounded by the problems, whatever the number of rows."""

    rows: Counter[tuple[str, str]] = field(default_factory=Counter)  # by problem
    reasons: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # rows by problem and reason
    strongest: dict[tuple[str, str, str], list[Near]] = field(default_factory=dict)  # by the same

    def add(self, nears: Iterable[Near]) -> None:
        """Count what kept rows come near, all of a row in one call. The order of rows does not matter."""
        rows = set()
        for near in nears:
            rows.add((near.benchmark, near.task_id, near.id))
            key = (near.benchmark, near.task_id, near.reason)
            self.reasons[key] += 1
            best = self.strongest.setdefault(key, [])
            best.append(near)
            best.sort(key=lambda found: (-found.measure, found.id))
            del best[STRONGEST:]
        self.rows.update(row[:2] for row in rows)

    def lines(self) -> list[dict[str, Any]]:
        """A line for each problem: how many rows come near, and for each reason how many and the strongest few."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for benchmark, task_id, reason in sorted(self.reasons):
            problem = (benchmark, task_id)
            line = {"benchmark": benchmark, "task_id": task_id, "rows": self.rows[problem], "reasons": {}}
            key = (*problem, reason)
            best = [
                {"measure": near.measure, "evidence": near.evidence, "id": near.id, "source": near.source}
                for near in self.strongest[key]
            ]
            found.setdefault(problem, line)["reasons"][reason] = {
                "rows": self.reasons[key],
                "strongest": best,
            }
        return list(found.values())


def near_problems(row: Row, index: Index, rules: Collection[str] = ()) -> list[Near]:
    """Every problem that the row comes near, once for each reason, with the largest measure.

    Args:
        row: a row that the rules kept.
        index: of all problems.
        rules: those that ran; the row is known to pass them.
    """
    found: dict[tuple[str, str, str], Near] = {}
    for reason, match in matches(row, index, rules):
        key = (match.benchmark, match.task_id, reason)
        near = Near(*key, round(match.measure, 4), match.text, row.id, row.source)
        found[key] = max(found.get(key, near), near)
    return list(found.values())


def matches(row: Row, index: Index, rules: Collection[str]) -> Iterator[tuple[str, Match]]:
    for name, check in CHECKS.items():
        if name not in rules:
            yield from ((name, match) for match in check(row, index))
    for match in covered(row, index):
        if index.settings.near_ngram_coverage < match.measure <= index.settings.ngram_coverage:
            yield "near_ngrams", match
    yield from (("near_code", match) for match in near_code(row, index))
    for name, _ in row.functions:
        for number in index.names.get(plain_name(name), ()):
            yield "same_name", index.match(number, f"has a function {name}")


def near_code(row: Row, index: Index) -> Iterator[Match]:
    """Solutions that a function of the row is written like: Jaccard similarity of `code_shingles`."""
    for name, text in row.functions:
        own = code_shingles(text)
        for number in sorted(alike(own, index)):
            other = index.solution_shingles[number]
            shared = len(own & other)
            similarity = shared / (len(own) + len(other) - shared)
            if similarity >= index.settings.near_code_similarity:
                yield index.match(number, f"{name} is {similarity:.2f} like its solution", similarity)


def alike(own: set[tuple[str, ...]], index: Index) -> set[int]:
    """Problems whose solutions can reach the similarity; no other does.

    One that does shares at least `least` of the row's shingles. So it holds one of any that are left when `least - 1`
    are put aside: the most frequent ones (prefix filtering; Chaudhuri, Ganti, Kaushik 2006).
    """
    least = max(1, math.ceil(index.settings.near_code_similarity * len(own) - 1e-9))
    found = own & index.known_shingles
    if len(found) < least:
        return set()
    places = index.shingles
    known = sorted(found, key=lambda shingle: len(places[shingle]))
    return {number for shingle in known[: len(known) - least + 1] for number in places[shingle]}
