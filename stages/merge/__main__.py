"""Merge the adapter into the dequantized base, and prove that the merged model is the one that was trained.

    dvc repro merge
    python -m stages.merge merge.max_mean_kl=0.01

Writes models/merged, a plain Hugging Face folder with merge_manifest.json, unless the parity gate fails.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages.common.errors import UserError
from stages.common.files import replacing, write_json
from stages.common.packs import batches, read_packs
from stages.common.stage import Settings, run

BASE = Path("models/base")
ADAPTER = Path("models/adapter")
MERGED = Path("models/merged")
PACKED = Path("data/packed")
MANIFEST = "merge_manifest.json"
ROW_PACKS = 2  # packs in one forward pass of the comparison


def main(settings: Settings) -> dict[str, Any]:
    """Base and adapter in, merged model out; returns the figures of the parity gate."""
    from stages.common.quantized import PackedModel, Quantization, load_model
    from stages.merge.parity import check, compare
    from stages.merge.weights import add_trained_adapter, manifest, merged_weights, write_merged

    rows, split = comparison_rows(settings.merge.parity_tokens)
    quantization = Quantization.load(ADAPTER)
    trained = add_trained_adapter(load_model(BASE, quantization), ADAPTER)
    merged = merged_weights(trained)

    with replacing(MERGED) as folder:
        kept = write_merged(folder, BASE, merged)
        parts = {"merged": len(merged), "kept": kept}
        write_json(folder / MANIFEST, manifest(BASE, ADAPTER, quantization, parts))
        again = load_model(
            folder, Quantization("none", False, quantization.dtype)
        )  # what is on disk, not in memory
        parity = compare(PackedModel(trained).eval(), PackedModel(again).eval(), rows)
        tell(parity)
        check(parity, settings.merge)
    return {**asdict(parity), "split": split, "tensors_merged": len(merged), "tensors_kept": kept}


def comparison_rows(tokens: int) -> tuple[Sequence[dict[str, Any]], str]:
    """Held-out packs, or training packs where nothing is held out; and the name of the split."""
    for split in ("validation", "train"):
        packs = read_packs(PACKED / f"{split}.arrow")
        if len(packs):
            return batches(packs, ROW_PACKS, tokens), split
    raise UserError(f"{PACKED}: no packs to compare the merged model on. Run `dvc repro pack`.")


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
