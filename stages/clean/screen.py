"""The rules on single rows, in their order."""

from dataclasses import dataclass

from stages.clean.contamination.decontaminate import CHECKS, Index
from stages.clean.row import Row
from stages.clean.rules.row_rules import RULES
from stages.clean.settings import CleanSettings


@dataclass(frozen=True)
class Drop:
    rule: str
    evidence: str
    benchmarks: tuple[str, ...] = ()  # all whose problems the rule found in a contaminated row


def first_failure(row: Row, settings: CleanSettings, index: Index) -> Drop | None:
    """The first rule of `settings.rules` that a row fails."""
    for name in settings.rules:
        if name in CHECKS:
            matches = CHECKS[name](row, index)
            first = next(matches, None)
            if first:
                others = {match.benchmark for match in matches} - {first.benchmark}
                also = f"; also {', '.join(sorted(others))}" if others else ""
                return Drop(name, f"{first}{also}", (first.benchmark, *sorted(others)))
        else:
            evidence = RULES[name](row, settings)
            if evidence:
                return Drop(name, evidence)
    return None
