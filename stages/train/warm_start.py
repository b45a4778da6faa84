"""Start a training from the adapter of an earlier one (`train.start_from`), of this project or of peft."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common.core.errors import UserError
from stages.common.core.files import read_json, sha256_file
from stages.common.core.paths import ADAPTER, BASE_MODEL

if TYPE_CHECKING:
    from stages.train.settings import TrainSettings

CONFIG_FILE, WEIGHTS_FILE, BASE_HASHES = "adapter_config.json", "adapter_model.safetensors", "base.json"
START_FILES = (CONFIG_FILE, WEIGHTS_FILE, "initial.safetensors")
# Entries of adapter_config.json that must be as in the settings, and those that none of the settings can express
SAME = {"r": "rank", "lora_alpha": "alpha", "use_rslora": "rslora", "use_dora": "dora"}
UNSUPPORTED = (
    "alpha_pattern",
    "fan_in_fan_out",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
)
CHANGES_BASE = ("pissa", "olora", "corda")  # initialisations that subtract something from the base
NAMED = 3  # tensors named in a message


def start_hashes(train: "TrainSettings") -> dict[str, str]:
    """Return the sha256 of each file that the training starts from; {} where it starts from nothing."""
    if not train.start_from:
        return {}
    files = [Path(train.start_from) / name for name in START_FILES]
    return {path.name: sha256_file(path) for path in files if path.is_file()}


def refuse_start(train: "TrainSettings") -> None:
    """Raise UserError if `train.start_from` is no adapter, or not of the kind that the settings describe."""
    if not train.start_from:
        return
    folder = Path(train.start_from)
    if folder.resolve().is_relative_to(ADAPTER.resolve()):
        raise UserError(
            f"train.start_from={folder} is what this stage replaces, and DVC removes it first. Copy it: "
            f"`cp -r {ADAPTER} models/start`, and set train.start_from=models/start."
        )
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise UserError(
                f"train.start_from={folder}: no file {name} there, so it is no LoRA adapter of peft."
            )
    problems = config_differences(read_json(folder / CONFIG_FILE), train)
    if problems:
        raise UserError(
            f"train.start_from={folder} does not fit the settings: {'; '.join(problems)}. Change the settings, or "
            "start from another adapter."
        )


def config_differences(config: dict[str, Any], train: "TrainSettings") -> list[str]:
    """Say how an adapter_config.json differs from the settings, beyond the names and shapes of its tensors."""
    if config.get("peft_type") != "LORA":
        return [f"it is of peft's kind {config.get('peft_type')}, not LORA"]
    defaults = {"use_rslora": False, "use_dora": False}
    found = [
        f"train.lora.{key} is {getattr(train.lora, key)}, but its {name} is {value}"
        for name, key in SAME.items()
        if (value := config.get(name, defaults.get(name))) != getattr(train.lora, key)
    ]
    found += [
        f"its {name} is {config[name]}, which is not supported" for name in UNSUPPORTED if config.get(name)
    ]
    if config.get("bias", "none") != "none":
        found.append(f"it trained biases (bias: {config['bias']}), which is not supported")
    if str(config.get("init_lora_weights")).lower().startswith(CHANGES_BASE):
        found.append(f"it was begun with {config['init_lora_weights']}, which changed the base under it")
    return found


def base_hashes() -> dict[str, str]:
    """Return the sha256 of each weight file of models/base."""
    return {path.name: sha256_file(path) for path in sorted(BASE_MODEL.glob("*.safetensors"))}


def load_start(adapted: Any, train: "TrainSettings") -> None:
    """Put the weights of `train.start_from` into a fresh adapter, from `add_adapter`.

    Raises:
        UserError: it has other tensors, or tensors of other shapes; names them.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(train.start_from)
    try:
        given = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / WEIGHTS_FILE}: damaged ({error}).") from None
    ours = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(adapted).items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in given.items()}
    problems = [
        describe_tensors("lacks", sorted(set(ours) - set(theirs))),
        describe_tensors("has besides", sorted(set(theirs) - set(ours))),
        describe_tensors(
            "has in other shapes",
            [
                f"{name} {theirs[name]} instead of {ours[name]}"
                for name in sorted(set(ours) & set(theirs))
                if ours[name] != theirs[name]
            ],
        ),
    ]
    if any(problems):
        raise UserError(
            f"train.start_from={folder} does not fit train.lora.target_modules and the base: it "
            f"{', and '.join(filter(None, problems))}. Name the layers that it adapts, or start from another adapter."
        )
    set_peft_model_state_dict(adapted, given)
    initial = folder / "initial.safetensors"
    adapted.initial = load_file(initial) if initial.is_file() else {}
    hashes = folder / BASE_HASHES
    if hashes.is_file() and read_json(hashes) != base_hashes():
        print(f"train: {folder} was trained on another base than models/base; it fits in shape", flush=True)


def describe_tensors(verb: str, names: list[str]) -> str:
    """Return `verb`, how many tensors and the first of them; nothing without names."""
    more = " ..." if len(names) > NAMED else ""
    return f"{verb} {len(names)} tensors ({', '.join(names[:NAMED])}{more})" if names else ""
