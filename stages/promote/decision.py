"""Decide whether a candidate becomes the champion, by the report's paired test, and say why."""

from dataclasses import dataclass

from stages.common.comparison import (
    PASSED,
    SIGNIFICANCE_LEVEL,
    Comparison,
    ProblemKey,
    compare_models,
    describe_smallest_difference,
    format_difference,
    problem_key,
)
from stages.common.core.errors import UserError
from stages.common.page.formats import format_p_value
from stages.promote.scored import Scored

RULE = f"refused if pass@1 is lower and the two-sided exact paired test has p < {SIGNIFICANCE_LEVEL}"
# Settings that a score depends on: models that differ in one are not compared
MUST_MATCH = (
    "benchmarks",
    "scoring",
    "samples",
    "temperature",
    "max_new_tokens",
    "cpu_seconds",
    "memory_mib",
)
# Settings that do not affect a score; a difference in any other setting is mentioned
IRRELEVANT = ("target", "pass_at", "batch_size", "workers", "isolation", "allow_weak_sandbox")


@dataclass(frozen=True)
class Decision:
    """Whether the candidate is promoted, the sentence that says why, and the tags that record it."""

    promoted: bool
    sentence: str
    tags: dict[str, str]


def decide(champion: Scored | None, candidate: Scored) -> Decision:
    """Compare the candidate with the champion, if there is one.

    Raises:
        UserError: the two versions are not comparable.
    """
    if champion is None:
        return first_champion(candidate)
    notes = check_comparable(champion, candidate)
    comparison = compare_models(champion.samples, candidate.samples)
    promoted = not (comparison.difference < 0 and comparison.beyond_noise)
    sentence = " ".join(
        [
            describe_decision(champion, candidate, comparison, promoted),
            describe_smallest_difference(comparison),
            *notes,
        ]
    )
    tags = {
        "against": champion.version,
        "p": f"{comparison.p:.6g}",
        "won": str(len(comparison.won)),
        "lost": str(len(comparison.lost)),
        "difference": f"{comparison.difference:.6g}",
        "benchmark": candidate.benchmark,
    }
    return Decision(promoted, sentence, promotion_tags(promoted, tags))


def first_champion(candidate: Scored) -> Decision:
    passed = sum(sample["verdict"] == PASSED for sample in candidate.samples)
    sentence = (
        f"Version {candidate.version} becomes champion: there was none. "
        f"{passed} of its {len(candidate.samples)} samples for {candidate.benchmark} passed."
    )
    weak = " It was judged in a weak sandbox (level C)." if candidate.weak else ""
    tags = {"against": "none", "benchmark": candidate.benchmark}
    return Decision(True, sentence + weak, promotion_tags(True, tags))


def promotion_tags(promoted: bool, details: dict[str, str]) -> dict[str, str]:
    prefixed = {f"codetune.promotion.{key}": value for key, value in {**details, "rule": RULE}.items()}
    return {"codetune.promotion": "promoted" if promoted else "refused", **prefixed}


def describe_decision(champion: Scored, candidate: Scored, comparison: Comparison, promoted: bool) -> str:
    new, old = f"Version {candidate.version}", f"version {champion.version}"
    if promoted:
        verdict = f"{new} becomes champion in place of {old}: it is not worse by more than noise."
    else:
        verdict = f"{new} does not become champion, {old} stays: it is worse by more than noise."
    problems = len(comparison.problems)
    return (
        f"{verdict} Of {problems} problems of {candidate.benchmark} it won {len(comparison.won)} and lost "
        f"{len(comparison.lost)} ({format_difference(comparison)}; {comparison.test_name}, "
        f"p {format_p_value(comparison.p)})."
    )


def check_comparable(champion: Scored, candidate: Scored) -> list[str]:
    """Return sentences on differences in how both were scored that do not forbid a comparison.

    Raises:
        UserError: a difference forbids a comparison.
    """
    both = f"versions {champion.version} (champion) and {candidate.version} (candidate) are not comparable"
    fix = (
        "Score both with the same settings: set them in params.yaml, run `dvc repro` with each model, "
        "then promote."
    )
    for key in MUST_MATCH:
        old, new = (scored.setting(f"evaluate.{key}") for scored in (champion, candidate))
        if old != new:
            raise UserError(f"{both}: evaluate.{key} is {old} and {new}. {fix}")
    if champion.weak != candidate.weak:
        levels = f"levels {champion.isolation} and {candidate.isolation}"
        raise UserError(f"{both}: one was judged in a weak sandbox ({levels}). {fix}")
    if prompts_by_problem(champion) != prompts_by_problem(candidate):
        raise UserError(f"{both}: their problems of {candidate.benchmark} differ. {fix}")
    return [*describe_settings(champion, candidate), *describe_sandboxes(champion, candidate)]


def prompts_by_problem(scored: Scored) -> dict[ProblemKey, tuple[str, int]]:
    """Return the prompt and number of samples of each problem."""
    prompts: dict[ProblemKey, tuple[str, int]] = {}
    for sample in scored.samples:
        _, count = prompts.get(problem_key(sample), ("", 0))
        prompts[problem_key(sample)] = (sample["prompt"], count + 1)
    return prompts


def describe_settings(champion: Scored, candidate: Scored) -> list[str]:
    keys = sorted(
        key
        for key in champion.params.keys() | candidate.params.keys()
        if key.startswith(("evaluate.", "prompt."))
        and key.removeprefix("evaluate.").split(".")[0] not in (*MUST_MATCH, *IRRELEVANT)
    )
    pairs = [(key, champion.params.get(key), candidate.params.get(key)) for key in keys]
    differing = [f"{key} ({old} and {new})" for key, old, new in pairs if old != new]
    return [f"They were scored with different {', '.join(differing)}."] if differing else []


def describe_sandboxes(champion: Scored, candidate: Scored) -> list[str]:
    if champion.weak:
        return ["Both were judged in a weak sandbox (level C)."]
    if champion.isolation != candidate.isolation:
        return [f"They were judged at isolation levels {champion.isolation} and {candidate.isolation}."]
    return []
