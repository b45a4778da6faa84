"""Find the benchmark problems that a kept row comes near: the report also scores models without them.

A row counts where a decontamination rule would drop it, whether or not the rule runs (conf/clean/off.yaml may
leave it out), and, from lower thresholds, where none would. In doubt a problem counts as near.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from stages.clean.code.fingerprint import code_shingles
from stages.clean.contamination.decontaminate import (
    CONTAMINATION_CHECKS,
    ProblemIndex,
    ProblemMatch,
    ngram_overlaps,
    normalized_name,
)
from stages.clean.row import RowView

STRONGEST_ROWS = 3  # rows that near.jsonl names for each problem and reason
# Why a row comes near a problem, with how: a contamination check that did not run, near_ngrams, near_code or
# same_name
Proximity = tuple[str, ProblemMatch]


@dataclass
class ProximitySummary:
    """What near.jsonl says of all kept rows. Its size depends on the number of problems, not of rows."""

    rows: Counter[tuple[str, str]] = field(default_factory=Counter)  # by problem
    reasons: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # rows by problem and reason
    # Strongest rows by problem and reason
    strongest: dict[tuple[str, str, str], list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, row: str, source: str, proximities: list[Proximity]) -> None:
        """Count all that a kept row, given by its id, comes near. The order of rows does not matter."""
        self.rows.update({(match.benchmark, match.task_id) for _, match in proximities})
        for reason, match in proximities:
            key = (match.benchmark, match.task_id, reason)
            self.reasons[key] += 1
            strongest = self.strongest.setdefault(key, [])
            measure = round(match.measure, 4)
            strongest.append({"measure": measure, "evidence": match.text, "id": row, "source": source})
            strongest.sort(key=lambda other: (-other["measure"], other["id"]))
            del strongest[STRONGEST_ROWS:]

    def lines(self) -> list[dict[str, Any]]:
        """Return a line per problem: rows that come near, in all and by reason, and the strongest of each."""
        lines: dict[tuple[str, str], dict[str, Any]] = {}
        for key in sorted(self.reasons):
            benchmark, task_id, reason = key
            rows = self.rows[benchmark, task_id]
            line = {"benchmark": benchmark, "task_id": task_id, "rows": rows, "reasons": {}}
            reasons = lines.setdefault((benchmark, task_id), line)["reasons"]
            reasons[reason] = {"rows": self.reasons[key], "strongest": self.strongest[key]}
        return list(lines.values())


def find_proximities(row: RowView, index: ProblemIndex, rules: Collection[str] = ()) -> list[Proximity]:
    """Return every problem that the row comes near, once per reason, with the largest measure.

    Args:
        row: a row that the rules kept.
        index: of all problems.
        rules: the rules that ran and that the row passed.
    """
    largest: dict[tuple[str, str, str], ProblemMatch] = {}
    for reason, match in proximity_matches(row, index, rules):
        key = (match.benchmark, match.task_id, reason)
        largest[key] = max(largest.get(key, match), match, key=lambda m: (round(m.measure, 4), m.text))
    return [(reason, match) for (_, _, reason), match in largest.items()]


def proximity_matches(row: RowView, index: ProblemIndex, rules: Collection[str]) -> Iterator[Proximity]:
    for name, check in CONTAMINATION_CHECKS.items():
        if name not in rules:
            yield from ((name, match) for match in check(row, index))
    for match in ngram_overlaps(row, index):
        if index.settings.near_ngram_coverage < match.measure <= index.settings.ngram_coverage:
            yield "near_ngrams", match
    yield from (("near_code", match) for match in similar_solutions(row, index))
    for name, _ in row.functions:
        for number in index.names.get(normalized_name(name), ()):
            yield "same_name", index.match(number, f"has a function {name}")


def similar_solutions(row: RowView, index: ProblemIndex) -> Iterator[ProblemMatch]:
    """Find solutions similar to a function of the row, by Jaccard similarity of `code_shingles`."""
    for name, text in row.functions:
        shingles = code_shingles(text)
        for number in sorted(candidate_problems(shingles, index)):
            solution = index.solution_shingles[number]
            shared = len(shingles & solution)
            similarity = shared / (len(shingles) + len(solution) - shared)
            if similarity >= index.settings.near_code_similarity:
                yield index.match(number, f"{name} is {similarity:.2f} like its solution", similarity)


def candidate_problems(shingles: set[tuple[str, ...]], index: ProblemIndex) -> set[int]:
    """Return the problems whose solutions can reach `near_code_similarity`; no other can.

    A solution that reaches it shares at least `least` of the function's shingles. So it holds at least one of
    those that remain when the `least - 1` most frequent are put aside (prefix filtering; Chaudhuri, Ganti,
    Kaushik 2006).
    """
    least = max(1, math.ceil(index.settings.near_code_similarity * len(shingles) - 1e-9))
    known = shingles & index.known_shingles
    if len(known) < least:
        return set()
    problems = index.shingles
    by_frequency = sorted(known, key=lambda shingle: len(problems[shingle]))
    return {number for shingle in by_frequency[: len(known) - least + 1] for number in problems[shingle]}
