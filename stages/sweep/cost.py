"""What the points of a sweep took, stage by stage, and what of it was run only once or not at all."""

from collections.abc import Sequence
from typing import Any

from stages.common.page.formats import format_duration
from stages.sweep.comparisons import Finding
from stages.sweep.results import Point, SweepEvidence


def cost(sweep: SweepEvidence, found: Sequence[Finding]) -> dict[str, Any]:
    """Seconds of each stage and point, and which of them were spent for it.

    An entry of dvc.lock that the commit or an earlier point has too is one and the same run. A point that was there
    already, or came from the cache, ran nothing that counts.
    """
    points = [finding.point for finding in found]
    stages = [
        stage
        for stage in dict.fromkeys(s for p in points for s in p.runs)
        if any(seconds(p, stage) for p in points)
    ]
    seen, lines, spent, saved = set(sweep.before.values()), [], dict.fromkeys(stages, 0.0), 0.0
    longest = max((point.tried.seconds for point in points), default=0) or 1
    for finding in found:
        point, cells = finding.point, []
        for stage in stages:
            took, run = seconds(point, stage), point.runs.get(stage, "")
            new = run not in seen and point.tried.status.startswith("ran")
            seen.add(run)
            spent[stage] += took if new else 0
            saved += 0 if new else took
            cells.append({"seconds": f"{took:,.1f}" if took else "", "new": new})
        lines.append(
            {
                "label": finding.label,
                "cells": cells,
                "status": point.tried.status,
                "took": f"{point.tried.seconds:,.1f}",
                "share": f"{100 * point.tried.seconds / longest:.1f}",
            }
        )
    took = sum(point.tried.seconds for point in points)
    return {
        "stages": [stage.replace("@", " ") for stage in stages],
        "lines": lines,
        "spent": [f"{value:,.1f}" for value in spent.values()],
        "ran": format_duration(sum(spent.values())) if any(spent.values()) else "",
        "saved": format_duration(saved) if saved else "",
        "took": f"{took:,.1f}",
        "words": format_duration(took),
    }


def seconds(point: Point, stage: str) -> float:
    """What a stage's run took, from its metrics; 0 where they do not say."""
    value = point.metrics.get(stage.replace("@", "/"), {}).get("seconds")
    return float(value) if isinstance(value, int | float) else 0.0
