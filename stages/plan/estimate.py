"""Make the plan of a composed configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from stages.common.core.errors import UserError
from stages.common.model.shapes import ModelShapes, gemm_rate, model_shapes
from stages.pack.model_limits import configured_context
from stages.plan.data_estimate import (
    TrainingData,
    changed_sections,
    estimate_data,
    full_batch,
    heaviest_batch,
)
from stages.plan.device import detect_hardware
from stages.plan.memory import (
    Batch,
    adapted_layers,
    adapter_parameters,
    evaluate_bytes,
    gate_bytes,
    memory_parts,
    required_bytes,
)
from stages.plan.model_config import base_folder, modules_of
from stages.plan.planned_run import EVALUATE, GATE, PlannedRun
from stages.plan.power import describe_power
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

MILLION = 1_000_000


@dataclass(frozen=True)
class Workload:
    """What is computed; of a million tokens of full packs where the data is not known."""

    # the micro batch that takes the most memory
    batch: Batch
    # tokens of each document, and the share of them that has labels
    lengths: Sequence[int]
    labelled_share: float
    # 0: not known
    steps: int
    epochs: float
    # trained on in all epochs, and read by validations
    tokens: int
    evaluated: int


def make_plan(sections: dict[str, Any], tracked: dict[str, Any], calibration: float = 1.5) -> PlannedRun:
    """Return the plan of a composed configuration.

    Args:
        sections: the composed configuration, by section.
        tracked: reports/config.yaml, the configuration that the artifacts on disk were made with.
        calibration: seconds for which a matrix product is timed.

    Raises:
        UserError: a stage would refuse the configuration, the model is unknown, or no row is left to train on.
    """
    base, train = sections["base"], sections["train"]
    base_is_here = not changed_sections(sections, tracked, ["base"])
    folder, where = base_folder(base, base_is_here)
    model = modules_of(folder)
    shapes, layers = model_shapes(model), adapted_layers(model, train.lora)
    data, machine = estimate_data(sections, tracked), detect_hardware()
    cuda, known = machine.device == "cuda", isinstance(data, TrainingData)
    work = plan_work(data, sections, shapes, len(layers), cuda)
    held_out = data.validation_rows if isinstance(data, TrainingData) else None
    refuse_training(sections, folder, model, layers, work.steps or None, held_out)

    plain, checkpointed = (
        required_bytes(
            memory_parts(shapes, replace(train, gradient_checkpointing=on), work.batch, layers, cuda)
        )
        for on in (False, True)
    )
    trained = adapter_parameters(layers, train.lora)
    operations = operations_per_token(shapes, work.lengths, work.labelled_share, trained)
    torch.set_num_threads(train.threads or machine.cores)
    kind = product_dtype_name(train.dtype, torch.device(machine.device))
    rate = gemm_rate(kind, machine.device, calibration)
    reached = reached_share(tracked, machine, train.dtype) if base_is_here else None
    share = reached or SHARES[machine.device]
    packed = data.tokens if isinstance(data, TrainingData) else 0
    return PlannedRun(
        sections=sections,
        shape=where,
        context=configured_context(model.config.to_dict()) or 0,
        data=data,
        machine=machine,
        steps=work.steps,
        warmup_steps=warmup_steps(train, work.steps) if work.steps else 0,
        epochs=work.epochs,
        tokens=work.tokens if known else 0,
        memory=memory_parts(shapes, train, work.batch, layers, cuda),
        disk=disk_parts(shapes, train, trained, packed, base.kind == "hub", base_is_here),
        plain=plain,
        checkpointed=checkpointed,
        later={
            GATE: gate_bytes(shapes, sections, cuda),
            EVALUATE: evaluate_bytes(shapes, sections["evaluate"], machine.memory, cuda),
        },
        rate=rate,
        share=share,
        share_basis="reached by the training of reports/train.json" if reached else "assumed",
        power=describe_power(sections["evaluate"]),
        operations=operations,
        seconds=training_seconds(
            operations, work.tokens, work.evaluated, rate, share, train.gradient_checkpointing
        ),
    )


def plan_work(
    data: TrainingData | str, sections: Mapping[str, Any], shapes: ModelShapes, adapted: int, cuda: bool
) -> Workload:
    """Return what training computes.

    Raises:
        UserError: there is no pack.
    """
    train, pack = sections["train"], sections["pack"]
    if not isinstance(data, TrainingData):
        batch = full_batch(pack, train.micro_batch)
        return Workload(batch, [pack.max_length], 1.0, train.max_steps, 0.0, MILLION, 0)
    if not len(data.pack_tokens):
        raise UserError(
            f"no pack to train on ({data.basis}). Raise pack.max_length, or look at reports/clean.json."
        )
    order = order_packs(data.pack_tokens.tolist(), train)
    evaluations = 2 + len(order) // max(1, train.eval_every or len(order))
    return Workload(
        batch=heaviest_batch(data, order, shapes, train, adapted, cuda),
        lengths=data.lengths.tolist(),
        labelled_share=data.labelled_share,
        steps=step_count(len(order), train),
        epochs=len(order) / len(data.pack_tokens),
        tokens=int(data.pack_tokens[order].sum()),
        evaluated=evaluations * (train.eval_tokens or data.validation_tokens),
    )
