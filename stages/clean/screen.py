"""The rules on single rows, in their order."""

from dataclasses import dataclass

from stages.clean.decontaminate import CHECKS, Index
from stages.clean.rows import Row
from stages.clean.rules import RULES
from stages.clean.settings import CleanSettings


@dataclass(frozen=True)
class Drop:
    rule: str
    evidence: str
    benchmark: str = ""  # whose problem it holds, for a contaminated row


def first_failure(row: Row, settings: CleanSettings, index: Index) -> Drop | None:
    """The first rule of `settings.rules` that a row fails."""
    for name in settings.rules:
        if name in CHECKS:
            match = next(CHECKS[name](row, index), None)
            if match:
                return Drop(name, str(match), match.benchmark)
        else:
            evidence = RULES[name](row, settings)
            if evidence:
                return Drop(name, evidence)
    return None
