"""Merge the adapter into its base one weight at a time, and check that the result is the trained model.

    dvc repro merge
    python -m stages.merge merge.base=original merge.max_mean_kl=0.2

Writes models/merged, a plain Hugging Face folder with the files of models/base and merge_manifest.json,
unless the parity gate fails. Merging takes the memory of one weight beyond the adapter; the gate takes that
of one model.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from stages.common.core.errors import UserError
from stages.common.core.files import atomic_folder, sha256_file, write_json
from stages.common.core.paths import ADAPTER, BASE_MODEL, MERGED_MODEL, PACKED
from stages.common.core.stage import Settings, run
from stages.common.model.packs import batch_packs, read_packs
from stages.merge.settings import MergeSettings

if TYPE_CHECKING:
    from pathlib import Path

    from stages.merge.merged_weights import Recipe
    from stages.merge.parity import Parity

MERGE_MANIFEST = "merge_manifest.json"
PACKS_PER_ROW = 2  # packs in one forward pass of the comparison


def main(settings: Settings) -> dict[str, Any]:
    """Merge base and adapter; return the figures of the parity gate and its limits."""
    from stages.common.model.mergeable import linear_weights
    from stages.common.model.quantize import Quantization
    from stages.common.model.weight_files import weight_files
    from stages.merge.adapter_weights import check_base, read_updates
    from stages.merge.merged_weights import Recipe
    from stages.merge.weight_writer import write_merged

    merge: MergeSettings = settings.merge
    rows, split = comparison_rows(merge.parity_tokens)
    quantization, updates = Quantization.load(ADAPTER), read_updates(ADAPTER)
    before = {path.name: sha256_file(path) for path in weight_files(BASE_MODEL)}
    check_base(ADAPTER, before)
    quantized = frozenset() if quantization.quantization == "none" else linear_weights(BASE_MODEL)
    recipe = Recipe(merge.base, quantization, updates, quantized)
    with atomic_folder(MERGED_MODEL) as folder:
        kept = write_merged(BASE_MODEL, folder, recipe.changed, recipe.merged_weight)
        counts = {"merged": len(recipe.changed), "kept": kept}
        write_json(folder / MERGE_MANIFEST, merge_manifest(recipe, counts, before, folder))
        attention = settings.train.attention
        figures = run_gate(folder, attention, rows, merge) | {"split": split} if rows else {"gate": "off"}
    return {"base": merge.base, **{f"tensors_{name}": count for name, count in counts.items()}, **figures}


def run_gate(
    folder: "Path", attention: str, rows: Sequence[dict[str, Any]], merge: MergeSettings
) -> dict[str, Any]:
    """Compare the merged model in `folder` with the trained model; return the figures and their limits.

    Raises:
        UserError: a figure is beyond its limit.
    """
    from stages.common.model.load import load_frozen_model
    from stages.common.model.quantize import Quantization
    from stages.common.model.trained import load_trained
    from stages.merge.parity import (
        all_targets,
        check_parity,
        measure_parity,
        parity_limits,
        read_states,
    )

    unquantized = Quantization("none", False, Quantization.load(ADAPTER).dtype)
    trained = read_states(partial(load_trained, BASE_MODEL, ADAPTER, attention), rows, attention)
    merged = read_states(partial(load_frozen_model, folder, unquantized, attention), rows, attention)
    parity = measure_parity(trained, merged, all_targets(rows))
    print_parity(parity)
    check_parity(parity, merge)
    return {"gate": "passed", **asdict(parity), "limits": parity_limits(merge)}


def comparison_rows(tokens: int) -> tuple[Sequence[dict[str, Any]], str]:
    """Return rows of about this many tokens, and the name of their split; no rows for 0 tokens.

    The rows are held-out packs, or training packs if none are held out.
    """
    if not tokens:
        print(
            "merge: merge.parity_tokens is 0: the merged model is not compared with the trained one",
            flush=True,
        )
        return [], ""
    for split in ("validation", "train"):
        packs = read_packs(PACKED / f"{split}.arrow")
        if len(packs):
            return batch_packs(packs, PACKS_PER_ROW, tokens), split
    raise UserError(f"{PACKED}: no packs to compare the merged model on. Run `dvc repro pack`.")


def merge_manifest(
    recipe: "Recipe", counts: dict[str, int], base: dict[str, str], folder: "Path"
) -> dict[str, Any]:
    """Return what the merged model was made of, and how: enough to reproduce and to verify it."""
    return {
        "merge": {"base": recipe.base, "formula": recipe.formula()},
        "quantization": asdict(recipe.quantization),
        "tensors": counts,
        "base": base,
        "adapter": {p.name: sha256_file(p) for p in sorted(ADAPTER.iterdir()) if p.is_file()},
        "merged": {name: sha256_file(folder / name) for name in base},
        "versions": {name: version(name) for name in ("bitsandbytes", "torch")},
    }


def print_parity(parity: "Parity") -> None:
    print(
        f"merge: {parity.tokens} tokens, mean KL {parity.mean_kl:.2e}, largest logit difference "
        f"{parity.largest_logit_difference:.3f}, same top token {parity.top1_agreement:.2%}, loss "
        f"{parity.trained_loss:.4f} trained, {parity.merged_loss:.4f} merged",
        flush=True,
    )


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything is on disk; nothing may use the network
    # observes: which kernels the gate uses; where train.attention changes, so does the adapter
    run("merge", main, observes=("train",))
