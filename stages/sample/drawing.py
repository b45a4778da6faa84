"""Which rows are drawn for, what is drawn, and which of it is kept."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.clean.contamination.decontaminate import CONTAMINATION_CHECKS, ProblemIndex, load_index
from stages.clean.row import RowView, make_row
from stages.clean.screen import first_failed_rule
from stages.clean.settings import CleanSettings
from stages.clean.validate import CheckOutcome, RowCheck, extract_check, run_checks
from stages.common.rows.headers import is_function_header
from stages.common.rows.schema import BENCHMARK_FOLDER
from stages.common.text.settings import PromptSettings
from stages.generation.completion import Completion, SampleRequest
from stages.generation.generate import generate
from stages.generation.journal import journal_key
from stages.judge.kept import KeptResults
from stages.sample.settings import SampleSettings

SOURCE = "sampled"
BATCH_CHECKS = 4096
JOURNAL = Path(".cache/sample/generated.jsonl")


@dataclass(frozen=True)
class Seed:
    """A row of data/raw that is drawn for."""

    record: dict[str, Any]
    # Of its own answer, and of those that were kept
    fingerprint: str


def view_of(record: dict[str, Any]) -> RowView:
    """Return a row with its code: the whole row where it is a module, else its answer, else the answer's fences."""
    fenced = make_row(record, "fenced")
    modules = make_row(record, "whole"), make_row({**record, "prompt": ""}, "whole")
    return next((row for row in modules if row.code.tree), fenced)


def seeds_among(
    records: Sequence[dict[str, Any]], settings: SampleSettings
) -> tuple[list[Seed], Counter[str]]:
    """Return the rows to draw for, and of the others how many there are, by reason.

    A row must have one question with an answer, and tests or doctests that its own answer passes. None may
    come near a benchmark problem by any of clean's checks, whatever clean.rules says.
    """
    rules = CleanSettings(rules=list(CONTAMINATION_CHECKS))
    index: ProblemIndex = load_index(str(BENCHMARK_FOLDER.absolute()), rules.contamination)
    reasons: Counter[str] = Counter()
    found: list[tuple[dict[str, Any], RowView, RowCheck]] = []
    for record in records:
        reason, view, check = "", None, None
        if record["messages"] is not None or not (record["prompt"] or "").strip():
            reason = "no single question"
        else:
            view = view_of(record)
            check = extract_check(view)
            if not check:
                reason = "no tests or doctests"
            elif first_failed_rule(view, rules, index):
                reason = "near a benchmark problem"
        if reason:
            reasons[reason] += 1
        elif view and check:
            found.append((record, view, check))
    outcomes = run_all([check for _, _, check in found], settings)
    kept = [
        Seed(record, view.code.fingerprint)
        for (record, view, _), outcome in zip(found, outcomes, strict=True)
        if outcome.passed
    ]
    if failing := len(found) - len(kept):
        reasons["its own answer does not pass"] = failing
    return kept, reasons


def draw(seeds: Sequence[Seed], prompt: PromptSettings, settings: SampleSettings) -> list[list[Completion]]:
    """Return `samples` completions of each row's prompt; those of an interrupted run are not drawn again."""
    requests = [
        SampleRequest(seed.record["prompt"], number, seed.record["id"])
        for seed in seeds
        for number in range(settings.samples)
    ]
    model = Path(settings.model)
    facts = {**asdict(settings), "validation": None, "keep": None, "samples": None, "code": None}
    kept = KeptResults(JOURNAL, journal_key(model, [facts, asdict(prompt)]), Completion)
    missing = [request for request in requests if request.key not in kept.results]
    if done := len(requests) - len(missing):
        print(f"sample: {done} of {len(requests)} completions were drawn before the interruption", flush=True)
    report = progress(len(requests), len(requests) - len(missing))

    def record(index: int, completion: Completion) -> None:
        kept.keep(missing[index].key, completion)
        report()

    generate(missing, model, prompt, settings, record)
    drawn = [kept.results[request.key] for request in requests]
    return [drawn[at : at + settings.samples] for at in range(0, len(drawn), settings.samples)]


def progress(total: int, done: int) -> Callable[[], None]:
    """Return a function to call at each completion; it prints a line at every tenth part."""
    count = done

    def step() -> None:
        nonlocal count
        count += 1
        if count * 10 // total > (count - 1) * 10 // total:
            print(f"sample: {count} of {total} completions", flush=True)

    return step


def keep_passes(
    seeds: Sequence[Seed], drawn: Sequence[Sequence[Completion]], settings: SampleSettings
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Return the records of the completions that are kept, and how many ended how.

    Kept of a row are the first `settings.keep` that pass its tests and whose syntax tree neither its own answer
    nor an earlier one of them has.
    """
    candidates = [
        (seed, number, sampled_record(seed.record, completion.text, number))
        for seed, completions in zip(seeds, drawn, strict=True)
        for number, completion in enumerate(completions)
    ]
    views = [view_of(record) for _, _, record in candidates]
    checks = [extract_check(view) if view.code.tree else None for view in views]
    runs = [check for check in checks if check]
    outcomes = iter(run_all(runs, settings))
    counts: Counter[str] = Counter(drawn=len(candidates))
    seen: dict[str, set[str]] = {}
    records = []
    for (seed, _, record), view, check in zip(candidates, views, checks, strict=True):
        outcome = next(outcomes) if check else CheckOutcome(None)
        trees = seen.setdefault(seed.record["id"], {seed.fingerprint})
        if not check:
            counts["no code"] += 1
        elif not outcome.passed:
            counts["failed"] += 1
        elif view.code.fingerprint in trees:
            counts["same as another"] += 1
        elif len(trees) > settings.keep:
            counts["over sample.keep"] += 1
        else:
            trees.add(view.code.fingerprint)
            counts["kept"] += 1
            records.append(record)
    return records, counts


def sampled_record(record: dict[str, Any], text: str, number: int) -> dict[str, Any]:
    """Return a row of data/raw with a drawn answer; its parent is the row's, or the row itself."""
    prompt, end = record["prompt"], "\n" if record["completion"].endswith("\n") else ""
    lead = "\n" if is_function_header(prompt) and not prompt.endswith("\n") else ""
    completion = f"{lead}{text.rstrip()}{end}"
    digest = hashlib.sha256(json.dumps([SOURCE, record["id"], completion]).encode()).hexdigest()
    parent = json.loads(record["metadata"]).get("parent") or record["id"]
    origin = {"parent": str(parent), "sample": number, "sampled_for": record["id"]}
    return {
        **record,
        "id": digest[: len(record["id"])],
        "source": SOURCE,
        "completion": completion,
        "metadata": json.dumps(origin, sort_keys=True),
    }


def run_all(checks: Sequence[RowCheck], settings: SampleSettings) -> list[CheckOutcome]:
    """Run checks in the sandbox, some thousands at a time: all of a call are held in memory."""
    batches = [checks[at : at + BATCH_CHECKS] for at in range(0, len(checks), BATCH_CHECKS)]
    return [one for batch in batches for one in run_checks(batch, settings.validation, "sample")]
