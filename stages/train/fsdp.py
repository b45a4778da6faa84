"""FSDP-QLoRA: each rank holds a shard of the frozen base and the whole adapter.

PyTorch's `fully_shard` (FSDP2) splits each frozen tensor across the ranks, gathers a layer before its forward and its
backward pass, and frees it again. 4-bit weights are stored in the dtype of computation (`Quantization.quant_storage`)
and split like others, as bitsandbytes' guide to FSDP-QLoRA says; their scales, 0.13 bits a weight with double
quantization, stay whole. Trained tensors, a few hundredths of the base at most, are not split: DDP averages their
gradients, and optimizers, clipping and checkpoints are the same as in one process.
"""

from collections.abc import Collection
from functools import partial
from typing import Any

from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from stages.common.core.errors import UserError
from stages.common.model.packed_model import reads_alone

Scales = list[tuple[Any, Any]]  # 4-bit layers, each with its `quant_state`


def shard_model(model: nn.Module, layers: Collection[str], device: str, ranks: int) -> None:
    """Keep only this rank's shard of each frozen tensor, on `device`; move trained tensors there whole.

    After this the model only runs as a whole, and only when all ranks call it.

    Args:
        model: the same on all ranks, in host memory.
        layers: class names of the modules that are gathered one at a time; the rest is gathered for a whole step.

    Raises:
        UserError: the model has no such layers, or reads one document at a time.
    """
    from torch.distributed.device_mesh import init_device_mesh

    units = layer_modules(model, layers)
    if reads_alone(getattr(model, "causal", model)):
        raise UserError(
            "train.accelerate=fsdp: this base reads one document at a time, so processes would run different numbers of "
            "passes and wait for each other for ever. Set train.accelerate=ddp."
        )
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for parameter in trained:
        parameter.data = parameter.data.to(device)
    mesh = init_device_mesh(device, (ranks,))
    for unit in (*units, model):
        scales = find_scales(unit)
        fully_shard(unit, mesh=mesh, ignored_params=trained)  # also moves its shards to the device
        unit.register_forward_pre_hook(
            partial(attach_scales, scales)
        )  # runs after fully_shard's gathering hook


def layer_modules(model: nn.Module, layers: Collection[str]) -> list[nn.Module]:
    """Return the modules of these classes; raise UserError if there are none."""
    units = [module for module in model.modules() if type(module).__name__ in layers]
    if not units:
        raise UserError(
            "train.accelerate=fsdp: the model does not name the classes of its layers (_no_split_modules), so it "
            "cannot be sharded. Set train.accelerate=ddp."
        )
    return units


def find_scales(unit: nn.Module) -> Scales:
    """Return the 4-bit layers inside a module that are not sharded yet, with their scales."""
    linear = [module for module in unit.modules() if isinstance(module, nn.Linear)]
    states = [(layer, getattr(layer.weight, "quant_state", None)) for layer in linear]
    return [(layer, state) for layer, state in states if state is not None]


def attach_scales(scales: Scales, *_: Any) -> None:
    """Put the scales back on weights that FSDP gathered into plain tensors: `dense_weight` needs them."""
    for layer, state in scales:
        layer.weight.quant_state = state


def wrap_in_ddp(model: nn.Module) -> nn.Module:
    """Wrap a model in DDP that synchronises its trained tensors only: the frozen ones are the same, or shards."""
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    buffers = [name for name, _ in model.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen + buffers)
    return DistributedDataParallel(model)
