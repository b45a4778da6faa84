"""Jobs for ranks (see tests/helpers/fork_server.py), and readers of the files they leave."""

import csv
import os
import signal
from typing import Any

import torch
from safetensors.torch import load_file

from tests.helpers.train_workplace import train_settings

# 8 packs in steps of 3 micro batches: 3, 3, 2. Two ranks divide 3 unevenly; of three, one is idle in the last step
UNEVEN = {"micro_batch": 1, "accumulation": 3, "quantization": "none", "dtype": "float32"}


def save_gradients(**changes: Any) -> None:
    """Train without changing the model, and save every step's gradients in gradients<ranks>.pt."""
    from stages.train import __main__ as stage
    from stages.train.ranks import join_ranks
    from stages.train.trainer import PackTrainer

    rank, ranks = join_ranks()
    steps: list[list[torch.Tensor]] = []

    def keep_gradients(self: Any) -> float:
        norm = original(self)
        steps.append([p.grad.clone() for p in self.model.parameters() if p.requires_grad])
        for parameter in self.model.parameters():
            parameter.grad = None
        return norm

    def add_nonzero_adapter(*arguments: Any) -> Any:
        adapted = add(*arguments)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        return adapted

    from stages.train import lora_adapter

    original, PackTrainer.clip_gradient = PackTrainer.clip_gradient, keep_gradients  # type: ignore[method-assign]
    add, lora_adapter.add_adapter = lora_adapter.add_adapter, add_nonzero_adapter
    stage.train_here(train_settings(max_grad_norm=0.0, **changes))
    if rank == 0:
        torch.save(steps, f"gradients{ranks}.pt")


def train(kill_after: int = 0, **changes: Any) -> None:
    """Train; with `kill_after`, end with SIGKILL after that many steps."""
    from stages.train import trainer
    from stages.train.__main__ import train_here

    def kill(self: Any) -> None:
        original(self)
        if self.step == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    original, trainer.PackTrainer.end_step = trainer.PackTrainer.end_step, kill
    train_here(train_settings(**changes))


def adapter() -> dict[str, torch.Tensor]:
    return load_file("models/adapter/adapter_model.safetensors")


def assert_close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-5, atol=1e-5)


def curve() -> list[dict[str, str]]:
    with open("reports/train.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def save_beginning(**changes: Any) -> None:
    """Train; save the initialised adapter and base in beginning<ranks>-<rank>.pt."""
    from peft import get_peft_model_state_dict

    from stages.common.model.quantize import dense_weight
    from stages.common.model.trained import lora_layers
    from stages.train import __main__ as stage
    from stages.train import lora_adapter
    from stages.train.ranks import join_ranks

    def add_and_save(*arguments: Any) -> Any:
        adapted = add(*arguments)
        tensors = {f"adapter {n}": t.clone() for n, t in get_peft_model_state_dict(adapted).items()}
        tensors |= {f"initial {name}": tensor for name, tensor in adapted.initial.items()}
        layers = {name: layer.get_base_layer().weight for name, layer in lora_layers(adapted)}
        tensors |= {f"base {name}": dense_weight(weight, torch.float32) for name, weight in layers.items()}
        torch.save(tensors, f"beginning{ranks}-{rank}.pt")
        return adapted

    rank, ranks = join_ranks()
    add, lora_adapter.add_adapter = lora_adapter.add_adapter, add_and_save
    stage.train_here(train_settings(**changes))


def fail_on_one_rank(what: str, on: int, **changes: Any) -> None:
    """Train like a rank that `accelerate launch` started; the fourth step of rank `on` fails.

    Args:
        what: loss (it is not finite) | gradient (not finite) | disk (full, while the step's checkpoint is written).
    """
    from stages.common.model.packed_model import PackedModel
    from stages.train.__main__ import main
    from stages.train.launch import MESSAGES_VARIABLE

    if int(os.environ["RANK"]) == on:
        forward, save, steps, saved = PackedModel.forward, torch.save, [0], [0]

        def spoiled(self: Any, *arguments: Any, **options: Any) -> torch.Tensor:
            summed = forward(self, *arguments, **options)
            steps[0] += self.training
            if steps[0] == 4 and self.training and what == "loss":
                return summed * float("nan")
            if steps[0] == 4 and self.training and what == "gradient":
                summed.register_hook(lambda flowing: flowing * float("inf"))
            return summed

        def full(value: Any, path: Any) -> None:
            saved[0] += str(path).endswith("optimizer.pt")
            save(value, "/dev/full" if what == "disk" and saved[0] == 2 else path)

        PackedModel.forward, torch.save = spoiled, full  # type: ignore[method-assign]
    os.environ[MESSAGES_VARIABLE] = "word"
    main(train_settings(**changes))
