"""FSDP-QLoRA: each rank holds its part of the frozen base, and the whole adapter.

PyTorch's `fully_shard` (FSDP2) cuts each frozen tensor into as many parts as there are ranks, gathers a layer before
its forward and its backward pass, and lets it go again. 4-bit weights are stored in the dtype of computation
(`Quantization.quant_storage`) and cut like others, as bitsandbytes' guide to FSDP-QLoRA says; their scales, 0.13 bits a
weight with double quantization, stay whole. What trains, a few hundredths of the base at most, is not cut:
gradients are averaged by DDP, and optimizers, clipping and checkpoints are those of one process.
"""

from collections.abc import Collection
from functools import partial
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from stages.common.errors import UserError

Scales = list[tuple[Any, Any]]  # layers of 4 bits, each with its `quant_state`


def shard_model(model: nn.Module, layers: Collection[str], device: str, ranks: int) -> None:
    """Leave this rank its part of each frozen tensor, on `device`, where what trains goes whole.

    From then on the model computes when all ranks call it, and only as a whole.

    Args:
        model: the same on all ranks, in the host's memory.
        layers: names of the classes whose modules are gathered one at a time; the rest is gathered for a whole step.

    Raises:
        UserError: the model has no such layers.
    """
    from torch.distributed.device_mesh import init_device_mesh

    units = [module for module in model.modules() if type(module).__name__ in layers]
    if not units:
        raise UserError(
            "train.accelerate=fsdp: the model does not say which of its modules are layers (_no_split_modules). "
            "Set train.accelerate=ddp."
        )
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for parameter in trained:
        parameter.data = parameter.data.to(device)
    mesh = init_device_mesh(device, (ranks,))
    for unit in (*units, model):
        scales = find_scales(unit)
        fully_shard(unit, mesh=mesh, ignored_params=trained)  # also moves what it cuts to the device
        unit.register_forward_pre_hook(partial(attach_scales, scales))  # after fully_shard's, which gathers


def find_scales(unit: nn.Module) -> Scales:
    """Those of the layers below a module that have not been cut yet."""
    linear = [module for module in unit.modules() if isinstance(module, nn.Linear)]
    held = [(layer, getattr(layer.weight, "quant_state", None)) for layer in linear]
    return [(layer, state) for layer, state in held if state is not None]


def attach_scales(scales: Scales, *_: Any) -> None:
    """FSDP gathers into plain tensors; `dense_weight` wants the scales on them."""
    for layer, state in scales:
        layer.weight.quant_state = state


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)


def wrap_in_ddp(model: nn.Module) -> nn.Module:
    """DDP around a sharded model, for what trains alone."""
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    buffers = [name for name, _ in model.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen + buffers)
    return DistributedDataParallel(model)
