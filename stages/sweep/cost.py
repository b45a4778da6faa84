"""The time that each stage of each point took, and which of these runs were shared or came from the cache."""

from collections.abc import Sequence
from typing import Any

from stages.common.page.formats import format_duration
from stages.sweep.comparisons import PointComparison
from stages.sweep.results import PointResult, SweepResults


def tally_costs(sweep: SweepResults, comparisons: Sequence[PointComparison]) -> dict[str, Any]:
    """Return the seconds of each stage and point, and which of them the sweep spent on that point.

    Equal entries in dvc.lock are one run: one that the commit or an earlier point also has is not counted again.
    A point that was already done, or came from the cache, counts nothing.
    """
    points = [comparison.point for comparison in comparisons]
    stages = [
        stage
        for stage in dict.fromkeys(s for p in points for s in p.stage_runs)
        if any(stage_seconds(p, stage) for p in points)
    ]
    seen, lines, spent, saved = set(sweep.start_runs.values()), [], dict.fromkeys(stages, 0.0), 0.0
    longest = max((point.attempt.seconds for point in points), default=0) or 1
    for comparison in comparisons:
        point, cells = comparison.point, []
        for stage in stages:
            took, run = stage_seconds(point, stage), point.stage_runs.get(stage, "")
            new = run not in seen and point.attempt.status.startswith("ran")
            seen.add(run)
            spent[stage] += took if new else 0
            saved += 0 if new else took
            cells.append({"seconds": f"{took:,.1f}" if took else "", "new": new})
        lines.append(
            {
                "label": comparison.label,
                "cells": cells,
                "status": point.attempt.status,
                "took": f"{point.attempt.seconds:,.1f}",
                "share": f"{100 * point.attempt.seconds / longest:.1f}",
            }
        )
    took = sum(point.attempt.seconds for point in points)
    return {
        "stages": [stage.replace("@", " ") for stage in stages],
        "lines": lines,
        "spent": [f"{value:,.1f}" for value in spent.values()],
        "ran": format_duration(sum(spent.values())) if any(spent.values()) else "",
        "saved": format_duration(saved) if saved else "",
        "took": f"{took:,.1f}",
        "words": format_duration(took),
    }


def stage_seconds(point: PointResult, stage: str) -> float:
    """Return the duration of a stage's run from its metrics, or the times beside them; 0 if they have none."""
    name = stage.replace("@", "/")
    value = {**point.metrics.get(name, {}), **point.metrics.get(f"{name}-times", {})}.get("seconds")
    return float(value) if isinstance(value, int | float) else 0.0
