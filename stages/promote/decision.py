"""Whether a candidate becomes the champion, and in which words: the report's paired test, problem by problem."""

from dataclasses import dataclass

from stages.common.comparison import (
    PASSED,
    SIGNIFICANCE_LEVEL,
    Comparison,
    compare_models,
    describe_smallest_difference,
    format_difference,
)
from stages.common.errors import UserError
from stages.common.page.formats import format_p_value
from stages.promote.scored import Scored

RULE = f"refused where pass@1 is lower and the exact paired test, two-sided, has p < {SIGNIFICANCE_LEVEL}"
# settings that a score depends on: two models that differ in one are not compared
ALIKE = ("benchmark", "samples", "temperature", "max_new_tokens", "cpu_seconds", "memory_mib")
# settings that a score does not depend on; of the rest a difference is said
NO_MATTER = ("target", "pass_at", "batch_size", "workers", "isolation", "allow_weak_sandbox")


@dataclass(frozen=True)
class Decision:
    """`promoted`, the sentence that says why, and the tags that keep it."""

    promoted: bool
    sentence: str
    tags: dict[str, str]


def decide(champion: Scored | None, candidate: Scored) -> Decision:
    """Compare both, if there is a champion.

    Raises:
        UserError: the two were not scored alike.
    """
    if champion is None:
        return first(candidate)
    notes = differences(champion, candidate)
    comparison = compare_models(champion.samples, candidate.samples)
    promoted = not (comparison.difference < 0 and comparison.beyond_noise)
    sentence = " ".join(
        [told(champion, candidate, comparison, promoted), describe_smallest_difference(comparison), *notes]
    )
    tags = {
        "against": champion.version,
        "p": f"{comparison.p:.6g}",
        "won": str(len(comparison.won)),
        "lost": str(len(comparison.lost)),
        "difference": f"{comparison.difference:.6g}",
        "benchmark": candidate.benchmark,
    }
    return Decision(promoted, sentence, as_tags(promoted, tags))


def first(candidate: Scored) -> Decision:
    passed = sum(sample["verdict"] == PASSED for sample in candidate.samples)
    sentence = (
        f"Version {candidate.version} becomes champion: there was none. {passed} of its {len(candidate.samples)} samples "
        f"for {candidate.benchmark} passed."
    )
    weak = [" It was judged in a weak sandbox (level C)."] if candidate.weak else []
    tags = {"against": "none", "benchmark": candidate.benchmark}
    return Decision(True, sentence + "".join(weak), as_tags(True, tags))


def as_tags(promoted: bool, more: dict[str, str]) -> dict[str, str]:
    found = {f"codetune.promotion.{key}": value for key, value in {**more, "rule": RULE}.items()}
    return {"codetune.promotion": "promoted" if promoted else "refused", **found}


def told(champion: Scored, candidate: Scored, comparison: Comparison, promoted: bool) -> str:
    new, old = f"Version {candidate.version}", f"version {champion.version}"
    if promoted:
        start = f"{new} becomes champion in place of {old}: it is not worse beyond noise."
    else:
        start = f"{new} does not become champion, {old} stays: it is worse by more than noise."
    problems = len(comparison.problems)
    return (
        f"{start} Of {problems} problems of {candidate.benchmark} it won {len(comparison.won)} and lost "
        f"{len(comparison.lost)} ({format_difference(comparison)}; {comparison.test_name}, p {format_p_value(comparison.p)})."
    )


def differences(champion: Scored, candidate: Scored) -> list[str]:
    """Sentences on what else differs in how both were scored.

    Raises:
        UserError: something differs that forbids a comparison.
    """
    both = f"Versions {champion.version} (champion) and {candidate.version} (candidate)"
    how = "Score both alike: set it in params.yaml, `dvc repro` with each model, then promote."
    for key in ALIKE:
        old, new = (scored.params.get(f"evaluate.{key}") for scored in (champion, candidate))
        if old != new:
            raise UserError(f"{both} are not comparable: evaluate.{key} is {old} and {new}. {how}")
    if champion.weak != candidate.weak:
        levels = f"level {champion.isolation} and {candidate.isolation}"
        raise UserError(f"{both} are not comparable: one was judged in a weak sandbox ({levels}). {how}")
    if problems(champion) != problems(candidate):
        raise UserError(f"{both} are not comparable: their problems of {candidate.benchmark} differ. {how}")
    return [*other_settings(champion, candidate), *sandboxes(champion, candidate)]


def problems(scored: Scored) -> dict[str, tuple[str, int]]:
    """Prompt and number of samples of each problem."""
    found: dict[str, tuple[str, int]] = {}
    for sample in scored.samples:
        _, count = found.get(sample["task_id"], ("", 0))
        found[sample["task_id"]] = (sample["prompt"], count + 1)
    return found


def other_settings(champion: Scored, candidate: Scored) -> list[str]:
    keys = sorted(
        key
        for key in champion.params.keys() | candidate.params.keys()
        if key.startswith(("evaluate.", "prompt."))
        and key.removeprefix("evaluate.") not in (*ALIKE, *NO_MATTER)
    )
    pairs = [(key, champion.params.get(key), candidate.params.get(key)) for key in keys]
    differing = [f"{key} ({old} and {new})" for key, old, new in pairs if old != new]
    return [f"They were scored with different {', '.join(differing)}."] if differing else []


def sandboxes(champion: Scored, candidate: Scored) -> list[str]:
    if champion.weak:
        return ["Both were judged in a weak sandbox (level C)."]
    if champion.isolation != candidate.isolation:
        return [f"They were judged at isolation levels {champion.isolation} and {candidate.isolation}."]
    return []
