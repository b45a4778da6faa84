"""Merge the adapter into its base, one weight at a time, and prove that the merged model is the one that was trained.

    dvc repro merge
    python -m stages.merge merge.base=original merge.max_mean_kl=0.2

Writes models/merged, a plain Hugging Face folder in the files of models/base with merge_manifest.json, unless the parity
gate fails. The merge itself takes the memory of one weight above the adapter; the gate, that of one model.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common.errors import UserError
from stages.common.files import atomic_write, sha256_file, write_json
from stages.common.model.packs import batch_packs, read_packs
from stages.common.stage import Settings, run
from stages.merge.settings import MergeSettings

if TYPE_CHECKING:
    from stages.merge.shards import Written
    from stages.merge.weights import Recipe

BASE = Path("models/base")
ADAPTER = Path("models/adapter")
MERGED = Path("models/merged")
PACKED = Path("data/packed")
MANIFEST = "merge_manifest.json"
ROW_PACKS = 2  # packs in one forward pass of the comparison


def main(settings: Settings) -> dict[str, Any]:
    """Base and adapter in, merged model out; returns the figures of the parity gate and its limits."""
    from stages.common.model.quantize import Quantization
    from stages.merge.adapter_weights import check_base, read_updates
    from stages.merge.shards import write_merged
    from stages.merge.weights import Recipe, quantized_weights

    merge: MergeSettings = settings.merge
    rows, split = comparison_rows(merge.parity_tokens)
    quantization = Quantization.load(ADAPTER)
    updates = read_updates(ADAPTER)
    recipe = Recipe(merge.base, quantization, updates, quantized_weights(BASE, quantization))
    with atomic_write(MERGED) as folder:
        written = write_merged(BASE, folder, recipe.changed, recipe.merged)
        check_base(ADAPTER, written.base)
        write_json(folder / MANIFEST, manifest(recipe, written))
        figures = (
            gate(folder, quantization.dtype, rows, merge) | {"split": split} if rows else {"gate": "off"}
        )
    counts = {"tensors_merged": written.tensors_merged, "tensors_kept": written.tensors_kept}
    return {"base": merge.base, **counts, **figures}


def gate(folder: Path, dtype: str, rows: Sequence[dict[str, Any]], merge: MergeSettings) -> dict[str, Any]:
    """Compare what was written with the trained model: figures and limits.

    Raises:
        UserError: a figure is over its limit.
    """
    from stages.common.model.load import load_frozen_model
    from stages.common.model.quantize import Quantization
    from stages.common.model.trained import load_trained
    from stages.merge.parity import all_targets, check, compare, limits, view

    trained = view(partial(load_trained, BASE, ADAPTER), rows)
    merged = view(partial(load_frozen_model, folder, Quantization("none", False, dtype)), rows)
    parity = compare(trained, merged, all_targets(rows))
    tell(parity)
    check(parity, merge)
    return {"gate": "passed", **asdict(parity), "limits": limits(merge)}


def comparison_rows(tokens: int) -> tuple[Sequence[dict[str, Any]], str]:
    """Held-out packs, or training packs where nothing is held out, and the name of the split; none for 0 tokens."""
    if not tokens:
        print("merge: merge.parity_tokens is 0, nothing is compared with the trained model", flush=True)
        return [], ""
    for split in ("validation", "train"):
        packs = read_packs(PACKED / f"{split}.arrow")
        if len(packs):
            return batch_packs(packs, ROW_PACKS, tokens), split
    raise UserError(f"{PACKED}: no packs to compare the merged model on. Run `dvc repro pack`.")


def manifest(recipe: "Recipe", written: "Written") -> dict[str, Any]:
    """What the merged model was made of, and how: enough to make it again, and to check it."""
    return {
        "merge": {"base": recipe.base, "formula": recipe.formula()},
        "quantization": asdict(recipe.quantization),
        "tensors": {"merged": written.tensors_merged, "kept": written.tensors_kept},
        "base": written.base,
        "adapter": {p.name: sha256_file(p) for p in sorted(ADAPTER.iterdir()) if p.is_file()},
        "merged": written.merged,
        "versions": {name: version(name) for name in ("bitsandbytes", "torch")},
    }


def tell(parity: Any) -> None:
    print(
        f"merge: {parity.tokens} tokens, mean KL {parity.mean_kl:.2e}, largest logit difference "
        f"{parity.largest_logit_difference:.3f}, same top token {parity.top1_agreement:.2%}, loss "
        f"{parity.trained_loss:.4f} trained, {parity.merged_loss:.4f} merged",
        flush=True,
    )


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything is on disk; nothing may ask the network
    run("merge", main)
