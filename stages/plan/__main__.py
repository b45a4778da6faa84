"""Estimate what a training will take, and warn of odd settings, in seconds and without loading weights.

    python -m stages.plan
    python -m stages.plan experiment=tutorial
    python -m stages.plan train.micro_batch=4 pack.max_length=2048 --json

Composes params.yaml and conf/ with the overrides, like `python -m stages.config`, and writes nothing. Rows
are counted in data/packed. If that belongs to another configuration, rows of data/clean are packed here, or
stand-in rows are used for a data set whose sizes are known.
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
from stages.plan.training_plan import TrainingPlan


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
        plan = make_plan(sections, tracked)
        if as_json:
            print(json.dumps(plan_as_json(plan), indent=2))
        else:
            from stages.plan.table import render_plan

            print(render_plan(plan))


def make_plan(sections: dict[str, Any], tracked: dict[str, Any], calibration: float = 1.5) -> TrainingPlan:
    """Return the plan of a composed configuration.

    Args:
        sections: the composed configuration, by section.
        tracked: reports/config.yaml, the configuration that the artifacts on disk were made with.
        calibration: seconds for which matrix products are timed.

    Raises:
        UserError: the model or the size of its rows is unknown, or no row is left to train on.
    """
    from stages.common.core.errors import UserError
    from stages.plan.advice import find_warnings
    from stages.plan.data_estimate import changed_sections, estimate_data, heaviest_batch
    from stages.plan.device import detect_hardware, measure_product_rate
    from stages.plan.memory import adapter_parameters, memory_parts
    from stages.plan.model_config import load_base_config
    from stages.plan.quantities import run_facts
    from stages.plan.spending import (
        SHARES,
        disk_parts,
        operations_per_token,
        reached_share,
        training_seconds,
    )
    from stages.train.schedule import order_packs

    base, train = sections["base"], sections["train"]
    base_is_here = not changed_sections(sections, tracked, ["base"])
    config, shape = load_base_config(base, base_is_here)
    data, hardware = estimate_data(sections, tracked), detect_hardware()
    if not len(data.pack_tokens):
        raise UserError(
            f"no pack to train on ({data.basis}). Raise pack.max_length, or look at reports/clean.json."
        )
    cuda = hardware.device == "cuda"
    order = order_packs(data.pack_tokens.tolist(), train)
    batch = heaviest_batch(data, order, train.micro_batch, config, train, cuda)
    memory = memory_parts(config, train, batch, cuda)
    tokens = int(data.pack_tokens[order].sum())
    trained = adapter_parameters(config, train.lora)
    operations = operations_per_token(config, data.lengths.tolist(), data.labelled_share, trained)
    rate = measure_product_rate(config, train.dtype, hardware.device, train.threads, calibration)
    reached = (
        reached_share(tracked, rate, config, train.dtype)
        if base_is_here and hardware.device == "cpu"
        else None
    )
    share = reached or SHARES[hardware.device]
    evaluations = 2 + len(order) // max(1, train.eval_every or len(order))
    evaluated = evaluations * (train.eval_tokens or data.validation_tokens)
    seconds = training_seconds(operations, tokens, evaluated, rate, share, train.gradient_checkpointing)
    disk = disk_parts(config, train, data.tokens, base.kind == "hub", base_is_here)
    facts = run_facts(sections, config, data, hardware, order, batch, sum(disk.values()), seconds)
    return TrainingPlan(
        base=base.name,
        shape=shape,
        data=data,
        facts=facts,
        memory=memory,
        disk=disk,
        machine=hardware,
        rate=rate,
        share=share,
        share_basis="reached by the training of reports/train.json" if reached else "assumed",
        operations=operations,
        tokens=tokens,
        seconds=seconds,
        warnings=find_warnings(facts),
    )


def plan_as_json(plan: TrainingPlan) -> dict[str, Any]:
    """Return the plan for `json.dumps`: arrays are left out, figures derived from them are added."""
    data = {k: v for k, v in asdict(plan.data).items() if isinstance(v, (str, int, float))}
    facts = {name: value for name, value in asdict(plan.facts).items() if value != float("inf")}
    parts = {"tokens": plan.data.tokens, "packs": plan.facts.packs, "utilisation": plan.facts.utilisation}
    return {
        **asdict(plan),
        "data": {**data, **parts},
        "facts": facts,
        "warmup_share": plan.facts.warmup_share,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
