"""What a training will take, and what is odd about it, before anything is spent: seconds, no weights loaded.

    python -m stages.plan
    python -m stages.plan experiment=tutorial
    python -m stages.plan train.micro_batch=4 pack.max_length=2048 --json

Composes params.yaml and conf/ with the overrides, as `python -m stages.config` does, and writes nothing. Rows are counted in
data/packed; where that is of another configuration they are packed here from data/clean, or stand-in rows are taken for a
data set whose sizes are known.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from stages.common.stage import COMPOSED_CONFIG, check_overrides, errors_as_message, run_with_hydra
from stages.config.compose import compose_config, register_params
from stages.plan.training_plan import Plan

if TYPE_CHECKING:
    pass


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
        plan = plan_of(sections, tracked)
        print(json.dumps(as_plain(plan), indent=2) if as_json else told(plan))


def plan_of(sections: dict[str, Any], tracked: dict[str, Any], calibration: float = 1.5) -> Plan:
    """The plan of a composed configuration.

    Args:
        sections: the composed configuration, by section.
        tracked: reports/config.yaml, which says what the artifacts on disk were made with.
        calibration: seconds for which products are timed.

    Raises:
        UserError: nothing is known of the model or of its rows.
    """
    from stages.common.errors import UserError
    from stages.plan.advice import warnings
    from stages.plan.data_estimate import data_of, differing, heaviest_batch
    from stages.plan.device import machine, product_rate
    from stages.plan.memory import adapter_parameters, memory_parts
    from stages.plan.model_config import model_config
    from stages.plan.quantities import facts_of
    from stages.plan.spending import SHARES, disk_parts, operations_a_token, reached_share, training_seconds
    from stages.train.schedule import order_packs

    base, train = sections["base"], sections["train"]
    base_is_here = not differing(sections, tracked, ["base"])
    config, shape = model_config(base, base_is_here)
    data, here = data_of(sections, tracked), machine()
    if not len(data.pack_tokens):
        raise UserError(
            f"no pack to train on ({data.said}). Raise pack.max_length, or look at reports/clean.json."
        )
    order = order_packs(data.pack_tokens.tolist(), train)
    batch = heaviest_batch(data, order, train.micro_batch, config, train, here.device == "cuda")
    memory = memory_parts(config, train, batch, here.device == "cuda")
    tokens = int(data.pack_tokens[order].sum())
    trained = adapter_parameters(config, train.lora)
    operations = operations_a_token(config, data.lengths.tolist(), data.labelled_share, trained)
    rate = product_rate(config, train.dtype, here.device, train.threads, calibration)
    reached = (
        reached_share(tracked, rate, config, train.dtype) if base_is_here and here.device == "cpu" else None
    )
    share = reached or SHARES[here.device]
    evaluated = (2 + len(order) // max(1, train.eval_every or len(order))) * (
        train.eval_tokens or data.validation_tokens
    )
    seconds = training_seconds(operations, tokens, evaluated, rate, share, train.gradient_checkpointing)
    disk = disk_parts(config, train, data.tokens, base.kind == "hub", base_is_here)
    facts = facts_of(sections, config, data, here, order, batch, sum(disk.values()), seconds)
    return Plan(
        base=base.name,
        shape=shape,
        data=data,
        facts=facts,
        memory=memory,
        disk=disk,
        machine=here,
        rate=rate,
        share=share,
        share_said="reached by the training of reports/train.json" if reached else "assumed",
        operations=operations,
        tokens=tokens,
        seconds=seconds,
        warnings=warnings(facts),
    )


def as_plain(plan: Plan) -> dict[str, Any]:
    """The plan as JSON has it: arrays are left out, what is derived of them is there."""
    data = {k: v for k, v in asdict(plan.data).items() if isinstance(v, (str, int, float))}
    facts = {name: value for name, value in asdict(plan.facts).items() if value != float("inf")}
    parts = {"tokens": plan.data.tokens, "packs": plan.facts.packs, "utilisation": plan.facts.utilisation}
    return {
        **asdict(plan),
        "data": {**data, **parts},
        "facts": facts,
        "warmup_share": plan.facts.warmup_share,
    }


def told(plan: Plan) -> str:
    from stages.plan.table import table

    return table(plan)


if __name__ == "__main__":
    main(sys.argv[1:])
