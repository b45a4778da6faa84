"""Apply the rules on single rows in their configured order."""

from collections.abc import Callable
from dataclasses import dataclass

from stages.clean.contamination.decontaminate import CONTAMINATION_CHECKS, ProblemIndex
from stages.clean.row import RowView
from stages.clean.rules.code import unparsable
from stages.clean.rules.text import empty
from stages.clean.settings import CleanSettings

PLAIN_RULES = {"empty": empty, "parse": unparsable}  # the others are sections of the settings


@dataclass(frozen=True)
class RowDrop:
    """Why a rule drops a row."""

    rule: str
    evidence: str
    benchmarks: tuple[str, ...] = ()  # every benchmark with a problem that the rule found in the row


def first_failed_rule(row: RowView, settings: CleanSettings, index: ProblemIndex) -> RowDrop | None:
    """Return the drop of the first rule of `settings.rules` that the row fails, None if it passes all."""
    for name in settings.rules:
        if name in CONTAMINATION_CHECKS:
            matches = CONTAMINATION_CHECKS[name](row, index)
            if first := next(matches, None):
                others = {match.benchmark for match in matches} - {first.benchmark}
                also = f"; also {', '.join(sorted(others))}" if others else ""
                return RowDrop(name, f"{first}{also}", (first.benchmark, *sorted(others)))
        else:
            rule: Callable[[RowView], str | None] = PLAIN_RULES.get(name) or getattr(settings, name)
            if evidence := rule(row):
                return RowDrop(name, evidence)
    return None
