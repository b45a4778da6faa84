"""Write the merged model for other programs, as GGUF, and say what each format costs.

    python -m stages.export                          # models/export: F16 and Q8_0, a Modelfile, export.json
    python -m stages.export --formats f16 q8_0 q4_0
    python -m stages.export --score                  # and score each as evaluate@tuned was scored

Each file is read back, and its logits are compared with the merged model's. A score is that of the weights that
the file holds, generated and judged like evaluate's, and compared with the merged model's by the paired test.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from stages.common.core.errors import UserError
from stages.common.core.files import atomic_folder, read_jsonl, sha256_file, write_json
from stages.common.core.paths import MERGED_MODEL
from stages.common.core.stage import Settings, errors_as_message
from stages.common.model.coverage import silence_transformers
from stages.config.compose import compose_config
from stages.export.architectures import Architecture, architecture_of
from stages.export.gguf_file import FORMATS, read_gguf, read_weights, write_gguf
from stages.export.modelfile import ollama_modelfile

EXPORTED = Path("models/export")
# Mean KL in nats between the next tokens of the merged model and of a file, at most. What rounds to 4 bits loses
# much in a small model, so its limit only tells another model
LARGEST_KL = {"f16": 1e-4, "q8_0": 0.01, "q4_0": 1.0}
TEXT_TOKENS = 256  # of each text that is compared
SAMPLES = Path("reports/evaluate/tuned/samples.jsonl")


def main(arguments: argparse.Namespace) -> None:
    """Write models/export."""
    architecture = architecture_of(MERGED_MODEL)
    require_space(architecture, arguments.formats)
    settings = compose_config()
    chosen = next((form for form in ("q8_0", "f16") if form in arguments.formats), "q4_0")
    modelfile = ollama_modelfile(f"model-{chosen}.gguf", settings["prompt"], end_token())
    facts: dict[str, Any] = {}
    with atomic_folder(EXPORTED) as folder:
        for form in arguments.formats:
            path = folder / f"model-{form}.gguf"
            write_gguf(MERGED_MODEL, path, architecture, form)
            facts[form] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            with tempfile.TemporaryDirectory(dir=folder) as held:
                rebuild(path, architecture, Path(held))
                facts[form] |= compare_logits(Path(held), form)
                if arguments.score:
                    facts[form] |= score(Path(held), settings, form)
            print_facts(form, facts[form])
        (folder / "Modelfile").write_text(modelfile, "utf-8")
        write_json(folder / "export.json", facts)
    print(f"export: {EXPORTED}: Modelfile (`ollama create NAME -f {EXPORTED}/Modelfile`), export.json")


def require_space(architecture: Architecture, formats: list[str]) -> None:
    """Raise UserError unless the disk holds the files, and a float32 copy of one while it is compared."""
    parameters = sum(weight.size for _, weight in read_weights(MERGED_MODEL))
    needed = parameters * (sum({"f16": 2.0, "q8_0": 1.1, "q4_0": 0.7}[form] for form in formats) + 4)
    EXPORTED.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(EXPORTED.parent).free
    if needed > free:
        raise UserError(
            f"{EXPORTED} needs {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free. Free some, or ask for "
            "fewer --formats."
        )


def rebuild(path: Path, architecture: Architecture, folder: Path) -> None:
    """Write a folder with the merged model's files and the weights that a GGUF file holds."""
    import torch
    from safetensors.torch import save_file

    for file in MERGED_MODEL.iterdir():
        if file.is_file() and file.suffix not in (".safetensors", ".gguf") and "index" not in file.name:
            shutil.copyfile(file, folder / file.name)
    names = [name for name, _ in read_weights(MERGED_MODEL)]
    if architecture.config.get("tie_word_embeddings"):
        names = [name for name in names if name != "lm_head.weight"]
    weights = read_gguf(path, names, architecture)
    tensors = {name: torch.from_numpy(np.array(weight, order="C")) for name, weight in weights.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def compare_logits(folder: Path, form: str) -> dict[str, float]:
    """Return how the next tokens of a file's weights differ from the merged model's, over texts of the training.

    Raises:
        UserError: by more than the format allows.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    silence_transformers()
    tokenizer = AutoTokenizer.from_pretrained(MERGED_MODEL, local_files_only=True)
    models = [
        AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32, local_files_only=True).eval()
        for one in (MERGED_MODEL, folder)
    ]
    divergences, same = [], []
    for text in sample_texts():
        ids = torch.tensor([tokenizer(text).input_ids[:TEXT_TOKENS]])
        with torch.inference_mode():
            ours, theirs = (model(input_ids=ids).logits[0].log_softmax(-1) for model in models)
        divergences.append((ours.exp() * (ours - theirs)).sum(-1))
        same.append(ours.argmax(-1) == theirs.argmax(-1))
    mean = max(0.0, float(torch.cat(divergences).mean()))
    if not mean <= LARGEST_KL[form]:
        raise UserError(
            f"{form}: the file does not hold the merged model: mean KL {mean:.3g} nats, at most {LARGEST_KL[form]} "
            "is rounding. Nothing was written; please report it with models/merged/config.json."
        )
    agreement = float(torch.cat(same).float().mean())
    return {"mean_kl": round(mean, 8), "same_top_token": round(agreement, 6)}


def sample_texts() -> list[str]:
    """Return texts to compare on: what the tuned model was asked and wrote, else a function."""
    if not SAMPLES.is_file():
        return ['def total(values):\n    """Return the sum of the values."""\n    return sum(values)\n']
    return [row["prompt"] + row["completion"] for row in read_jsonl(SAMPLES)[:16]]


def score(folder: Path, settings: dict[str, Any], form: str) -> dict[str, Any]:
    """Return the score of a folder's model on the benchmarks of evaluate, beside the merged model's."""
    from stages.common.comparison import compare_models
    from stages.evaluate.scored_benchmark import score_benchmark
    from stages.judge.benchmark import load_benchmark
    from stages.judge.scoring import open_judge_pool

    if not SAMPLES.is_file():
        raise UserError(
            f"{SAMPLES} is missing, with the merged model's samples. Run `dvc repro evaluate@tuned`"
        )
    evaluate, rows = settings["evaluate"], []
    for name in evaluate.scored:
        pool = open_judge_pool(evaluate.for_benchmark(name))
        found = score_benchmark(
            name, load_benchmark(name), pool, Settings("export", settings), folder, None, f"export-{form}"
        )
        rows += found.rows
        for kept in found.kept:
            kept.close()
    comparison = compare_models(read_jsonl(SAMPLES), rows)
    return {
        "passed": sum(row["verdict"] == "passed" for row in rows),
        "tried": len(rows),
        "won": len(comparison.won),
        "lost": len(comparison.lost),
        "p": comparison.p,
    }


def end_token() -> str:
    from transformers import AutoTokenizer

    return str(AutoTokenizer.from_pretrained(MERGED_MODEL, local_files_only=True).eos_token)


def print_facts(form: str, facts: dict[str, Any]) -> None:
    parts = [
        f"{facts['bytes'] / 2**20:.0f} MiB",
        f"mean KL {facts['mean_kl']:.2g} nats to the merged model",
        f"same top token {facts['same_top_token']:.1%}",
    ]
    if "passed" in facts:
        parts.append(
            f"{facts['passed']} of {facts['tried']} passed; {facts['won']} won, {facts['lost']} lost against the "
            f"merged model, p {facts['p']:.2g}"
        )
    print(f"export: {form}: " + "; ".join(parts), flush=True)


def export_options(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.export", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=["f16", "q8_0"], help="GGUF files to write"
    )
    parser.add_argument("--score", action="store_true", help="score each file on the benchmarks of evaluate")
    return parser.parse_args(given)


if __name__ == "__main__":
    options = export_options()
    with errors_as_message("export"):
        main(options)
