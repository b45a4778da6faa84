"""How much memory generation may take, and what a token of a row costs of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from stages.common.core.errors import UserError
from stages.generation.completion import BatchRow
from stages.generation.settings import GenerationSettings
from stages.generation.slots import SLACK_COLUMNS

# Of what is free, where evaluate.memory_gib is 0: others use a machine's memory, few use its GPU's
FREE_SHARE = {"cpu": 0.2, "cuda": 0.7}
# Prompt tokens per forward pass: with more, its activations exceed the processor's cache
MAX_READ_TOKENS = 1024
# Values alive at once for a token that is read, in units of the widest layer
ACTIVATIONS = 12
# Values for each logit of a step: in float32 and float64, scaled, summed
LOGIT_BYTES = 24
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class TokenCost:
    """Bytes for a token: `kept` while its row is in the batch, `read` while its prompt is read."""

    kept: int
    read: int


def token_budget(model: Any, rows: Sequence[BatchRow], settings: GenerationSettings) -> float:
    """Return how many tokens of all rows together the cache may hold.

    Raises:
        UserError: one row alone does not fit; names its problem, and what it needs.
    """
    share, device = FREE_SHARE[model.device.type], model.device
    budget = settings.memory_gib * 2**30 or share * free_bytes(device)
    cost, row = measure_token(model), max(rows, key=lambda row: row.need)
    vocabulary = model.config.get_text_config().vocab_size
    logits = min(settings.batch_size, len(rows)) * vocabulary * LOGIT_BYTES
    room = budget - logits - (max(len(row.ids), MAX_READ_TOKENS) + MAX_READ_TOKENS) * cost.read
    lacking = (row.need + SLACK_COLUMNS) * cost.kept - room
    if lacking > 0:
        limit = "evaluate.memory_gib" if settings.memory_gib else f"{share:.0%} of what is free"
        raise UserError(
            f"{row.name} needs {(budget + lacking) / 2**30:.3f} GiB for {len(row.ids)} tokens of prompt and "
            f"{row.limit} of answer, beside the weights; generation may take {budget / 2**30:.3f} ({limit}). Raise "
            "evaluate.memory_gib, lower evaluate.max_new_tokens or evaluate.batch_size, or exclude the problem."
        )
    return room / cost.kept


@torch.inference_mode()
def measure_token(model: Any) -> TokenCost:
    """Return what a token costs: its keys and values in all layers, and what a step and a reading need beside.

    Attention repeats one layer's keys and values for all heads that share them, while they are multiplied.
    """
    ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    cache = getattr(model(input_ids=ids, use_cache=True), "past_key_values", None)
    states = [
        state[:, :, :1]
        for layer in getattr(cache, "layers", ())
        if isinstance(layer, DynamicLayer) and layer.is_initialized
        for state in (layer.keys, layer.values)
    ]
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", 1)
    copied = max((state.nbytes * max(1, heads // state.shape[1]) for state in states), default=0)
    sizes = [getattr(config, name, None) or 0 for name in ("hidden_size", "intermediate_size")]
    widest = max(copied, *(size * model.dtype.itemsize for size in sizes))
    return TokenCost(max(1, sum(state.nbytes for state in states) + 2 * copied), ACTIVATIONS * widest)


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a GPU, or of this machine within a container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    try:
        limit, used = (
            (CGROUP / name).read_text("ascii").strip() for name in ("memory.max", "memory.current")
        )
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no container, or "max"
        return free
