"""Merge in child processes, to measure memory and to fill a disk: `python -m tests.helpers.merge_models`.

Children are forked after all imports and a first small merge, so none inherits memory that another has freed.
Each child repeats that merge before it measures, because pages of libraries only count for a process that has
touched them.
"""

import contextlib
import ctypes
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.helpers.peak_memory import REPOSITORY, memory

LAYERS_A_SHARD = 12
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 64,
}
NEW_NAMESPACE = 0x00020000  # CLONE_NEWNS


def split_weight_file(base: Path, parts: int) -> None:
    """Split the single weight file of a folder into `parts` files with an index."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(base / "model.safetensors")
    names = sorted(tensors)
    places = {name: f"model-{1 + at * parts // len(names)}.safetensors" for at, name in enumerate(names)}
    for file in sorted(set(places.values())):
        save_file({n: tensors[n] for n in names if places[n] == file}, base / file, {"format": "pt"})
    (base / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": places}
    (base / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")


def write_large(root: Path, count: int, layers_a_shard: int = LAYERS_A_SHARD) -> None:
    """Write models/base of `count` shards of `layers_a_shard` layers each, and models/adapter for the first
    layer.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    from stages.common.model.quantize import Quantization

    base, adapter = root / "models/base", root / "models/adapter"
    base.mkdir(parents=True)
    adapter.mkdir()
    size, wide = SIZES["hidden_size"], SIZES["intermediate_size"]
    LlamaConfig(**SIZES, num_hidden_layers=count * layers_a_shard, architectures=["LlamaForCausalLM"]).save_pretrained(base)  # fmt: skip
    shapes = {f"self_attn.{x}_proj": (size, size) for x in "qkvo"}
    shapes |= {"mlp.gate_proj": (wide, size), "mlp.up_proj": (wide, size), "mlp.down_proj": (size, wide)}
    places: dict[str, str] = {}
    for shard in range(count):
        layers = range(shard * layers_a_shard, (shard + 1) * layers_a_shard)
        tensors = {
            f"model.layers.{i}.{n}.weight": torch.randn(s).bfloat16()
            for i in layers
            for n, s in shapes.items()
        }
        places |= dict.fromkeys(tensors, f"model-{shard}.safetensors")
        save_file(tensors, base / f"model-{shard}.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}), "utf-8")
    layer = "base_model.model.model.layers.0.mlp.up_proj.lora_"
    save_file(
        {f"{layer}A.weight": torch.ones(2, size), f"{layer}B.weight": torch.ones(wide, 2)},
        adapter / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    Quantization("nf4", True, "bfloat16").save(adapter)


def run_children(scratch: Path, trained: Path) -> dict[str, Any]:
    """Run the children and return their results by name; `trained` is a folder with models/base and
    models/adapter.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.merge_models", str(scratch), str(trained)],
        cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def merge(root: Path) -> Any:
    from stages.common.core.stage import Settings
    from stages.merge.__main__ import main
    from stages.merge.settings import MergeSettings

    os.chdir(root)
    return main(Settings("merge", {"merge": MergeSettings(parity_tokens=0)}))


def measured(root: Path, small: Path) -> dict[str, Any]:
    """Return the peak memory of a merge beyond the memory before it, and the size of a shard, in MiB."""
    merge(small)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak is counted from here
    before = memory("VmRSS")
    merge(root)
    peak = (memory("VmHWM") - before) / 1024
    return {
        "peak_mib": peak,
        "shard_mib": (root / "models/base/model-0.safetensors").stat().st_size / 2**20,
    }


def on_a_full_disk(root: Path, trained: Path) -> dict[str, Any]:
    """Merge into a file system that holds a merged model already and has no room for a second one."""
    from stages.common.core.stage import errors_as_message
    from stages.merge import __main__ as stage

    (root / "models").mkdir(parents=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NAMESPACE) or libc.mount(b"none", b"/", None, 0x44000, None):  # MS_REC | MS_PRIVATE
        return {"skip": f"no mount namespace here: {os.strerror(ctypes.get_errno())}"}
    if libc.mount(b"tmpfs", str(root / "models").encode(), b"tmpfs", 0, b"size=128k"):
        return {"skip": f"no file system can be mounted here: {os.strerror(ctypes.get_errno())}"}
    (root / "models/merged").mkdir()
    (root / "models/merged/old").write_text("stays", "utf-8")
    stage.BASE_MODEL, stage.ADAPTER = trained / "models/base", trained / "models/adapter"
    number, stderr = None, io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.suppress(SystemExit), errors_as_message("merge"):
        try:
            merge(root)
        except OSError as error:
            number = error.errno
            raise
    there = sorted(path.relative_to(root / "models").as_posix() for path in (root / "models").rglob("*"))
    return {"errno": number, "message": stderr.getvalue(), "there": there}


def in_a_child(job: Callable[[], Any]) -> Any:
    """Run `job` in a child process and return its result, passed as JSON."""
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        with contextlib.redirect_stdout(sys.stderr), open(sending, "w", encoding="utf-8") as pipe:
            pipe.write(json.dumps(job()))
        os._exit(0)
    os.close(sending)
    with open(receiving, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text)


def main() -> None:
    scratch, trained = Path(sys.argv[1]), Path(sys.argv[2])
    result = {}
    small = scratch / "a layer"
    in_a_child(partial(write_large, small, 1, 1))
    with contextlib.redirect_stdout(sys.stderr):
        merge(small)
    for count in (2, 4):
        root = scratch / f"{count} shards"
        in_a_child(partial(write_large, root, count))
        result[root.name] = in_a_child(partial(measured, root, small))
    result["full"] = in_a_child(partial(on_a_full_disk, scratch / "full", trained))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
