"""Estimate what a training will take and what its scores can show, in seconds and without loading weights.

    python -m stages.plan
    python -m stages.plan experiment=tutorial
    python -m stages.plan train.micro_batch=4 pack.max_length=2048 --json

Composes params.yaml and conf/ with the overrides, like `python -m stages.config`, and writes nothing. What a stage
would refuse later is refused here. Rows are counted in data/packed. If that belongs to another configuration, rows of
data/clean are packed here; without either, memory is that of full packs, and what rows decide is not known.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from stages.common.core.config_sections import check_overrides
from stages.common.core.stage import COMPOSED_CONFIG, errors_as_message, run_with_hydra
from stages.config.compose import compose_config, register_params
from stages.plan.planned_run import PlannedRun


def main(arguments: Sequence[str]) -> None:
    with errors_as_message("plan", os.environ.get("HYDRA_FULL_ERROR") == "1"):
        as_json = "--json" in arguments
        overrides = [a for a in arguments if a != "--json"]
        if any(a.startswith("-") for a in overrides):  # --help, --cfg job: Hydra answers
            register_params(Path("params.yaml"))
            sys.argv[1:] = overrides
            run_with_hydra("plan", lambda config: None, Path("conf"), "params")
            return
        sections = compose_config(*check_overrides(overrides))
        tracked = yaml.safe_load(COMPOSED_CONFIG.read_text("utf-8")) if COMPOSED_CONFIG.exists() else {}
        from stages.plan.estimate import make_plan

        run = make_plan(sections, tracked)
        if as_json:
            print(json.dumps(plan_as_json(run), indent=2))
        else:
            from stages.plan.table import render_plan

            print(render_plan(run))


def plan_as_json(run: PlannedRun) -> dict[str, Any]:
    """Return the plan for `json.dumps`: settings and arrays are left out, figures derived from them are added."""
    from stages.plan.advice import find_warnings
    from stages.plan.planned_run import utilisation

    plan = {name: value for name, value in vars(run).items() if name not in ("sections", "data", "machine")}
    data: Any = run.data
    if not isinstance(data, str):
        counted = {k: v for k, v in vars(data).items() if isinstance(v, (str, int, float))}
        packs = {"tokens": data.tokens, "packs": len(data.pack_tokens)}
        data = {**counted, **packs, "utilisation": utilisation(data, run.max_length)}
    return {
        "base": run.sections["base"].name,
        **plan,
        "data": data,
        "machine": asdict(run.machine),
        "needed": run.needed,
        "warmup_share": run.warmup_share,
        "warnings": find_warnings(run),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
