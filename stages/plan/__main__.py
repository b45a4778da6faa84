"""Estimate what a training will take, and warn of odd settings, in seconds and without loading weights.

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
        run = make_plan(sections, tracked)
        if as_json:
            print(json.dumps(plan_as_json(run), indent=2))
        else:
            from stages.plan.table import render_plan

            print(render_plan(run))


def make_plan(sections: dict[str, Any], tracked: dict[str, Any], calibration: float = 1.5) -> PlannedRun:
    """Return the plan of a composed configuration.

    Args:
        sections: the composed configuration, by section.
        tracked: reports/config.yaml, the configuration that the artifacts on disk were made with.
        calibration: seconds for which a matrix product is timed.

    Raises:
        UserError: a stage would refuse the configuration, the model is unknown, or no row is left to train on.
    """
    import torch

    from stages.common.core.errors import UserError
    from stages.common.model.shapes import gemm_rate, model_shapes
    from stages.pack.model_limits import configured_context
    from stages.plan.data_estimate import changed_sections, estimate_data, full_batch, heaviest_batch
    from stages.plan.device import detect_hardware
    from stages.plan.memory import (
        adapted_layers,
        adapter_parameters,
        checkpointed,
        evaluate_bytes,
        gate_bytes,
        memory_parts,
        required_bytes,
    )
    from stages.plan.model_config import base_folder, modules_of
    from stages.plan.planned_run import EVALUATE, GATE
    from stages.plan.refusals import refuse_training
    from stages.plan.spending import (
        SHARES,
        disk_parts,
        operations_per_token,
        reached_share,
        training_seconds,
    )
    from stages.train.schedule import order_packs, step_count, warmup_steps
    from stages.train.throughput import product_dtype_name

    base, train = sections["base"], sections["train"]
    base_is_here = not changed_sections(sections, tracked, ["base"])
    folder, where = base_folder(base, base_is_here)
    model = modules_of(folder)
    shapes, layers = model_shapes(model), adapted_layers(model, train.lora)
    data, machine = estimate_data(sections, tracked), detect_hardware()
    cuda = machine.device == "cuda"
    order: list[int] = []
    steps, tokens, held_out, evaluated = train.max_steps, 1_000_000, None, 0
    batch = full_batch(sections["pack"], train.micro_batch)
    lengths, labelled_share = [sections["pack"].max_length], 1.0
    if not isinstance(data, str):
        if not len(data.pack_tokens):
            raise UserError(
                f"no pack to train on ({data.basis}). Raise pack.max_length, or look at reports/clean.json."
            )
        order = order_packs(data.pack_tokens.tolist(), train)
        steps, tokens = step_count(len(order), train), int(data.pack_tokens[order].sum())
        held_out, lengths, labelled_share = data.validation_rows, data.lengths.tolist(), data.labelled_share
        batch = heaviest_batch(data, order, shapes, train, len(layers), cuda)
        evaluations = 2 + len(order) // max(1, train.eval_every or len(order))
        evaluated = evaluations * (train.eval_tokens or data.validation_tokens)
    refuse_training(sections, folder, model, layers, steps or None, held_out)

    plain, less = (
        required_bytes(memory_parts(shapes, checkpointed(train, on), batch, layers, cuda))
        for on in (False, True)
    )
    trained = adapter_parameters(layers, train.lora)
    operations = operations_per_token(shapes, lengths, labelled_share, trained)
    torch.set_num_threads(train.threads or machine.cores)
    rate = gemm_rate(
        product_dtype_name(train.dtype, torch.device(machine.device)), machine.device, calibration
    )
    reached = reached_share(tracked, machine, train.dtype) if base_is_here else None
    share = reached or SHARES[machine.device]
    return PlannedRun(
        sections=sections,
        shape=where,
        context=configured_context(model.config.to_dict()) or 0,
        data=data,
        machine=machine,
        steps=steps,
        warmup_steps=warmup_steps(train, steps) if steps else 0,
        epochs=len(order) / len(data.pack_tokens) if not isinstance(data, str) else 0.0,
        tokens=tokens if order else 0,
        memory=memory_parts(shapes, train, batch, layers, cuda),
        disk=disk_parts(
            shapes,
            train,
            trained,
            0 if isinstance(data, str) else data.tokens,
            base.kind == "hub",
            base_is_here,
        ),
        plain=plain,
        checkpointed=less,
        later={
            GATE: gate_bytes(shapes, sections, cuda),
            EVALUATE: evaluate_bytes(shapes, sections["evaluate"], machine.memory, cuda),
        },
        rate=rate,
        share=share,
        share_basis="reached by the training of reports/train.json" if reached else "assumed",
        operations=operations,
        seconds=training_seconds(operations, tokens, evaluated, rate, share, train.gradient_checkpointing),
    )


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
