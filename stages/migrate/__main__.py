"""Write params.yaml from a configuration of Axolotl or LLaMA-Factory, and say what became of each of its keys.

    python -m stages.migrate axolotl.yml                       # params.yaml to stdout, the keys' fates to stderr
    python -m stages.migrate axolotl.yml --output params.yaml --force
    python -m stages.migrate axolotl.yml --pin --gpus 4        # ask the hub for commits and licences
    python -m stages.migrate sft.yaml --dataset-info LLaMA-Factory/data/dataset_info.json

Exit status 0: written; 1: refused, nothing written. What is marked ??? in the file must be filled in.
"""

import argparse
import copy
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from stages.common.core.errors import UserError
from stages.common.core.files import atomic_write
from stages.common.core.stage import errors_as_message
from stages.config.compose import compose_config
from stages.fetch.licences import PERMISSIVE
from stages.migrate.axolotl import migrate_axolotl
from stages.migrate.llama_factory import migrate_llama_factory
from stages.migrate.migration import LOST, MISSING, Migration, fates_as_text

# Options of conf/ that the file's defaults begin with; a migration replaces those that it knows better
OPTIONS: dict[str, Any] = {
    **{
        "base": "hub",
        "fetch": "file",
        "sample": "none",
        "clean": "off",
        "engine": "native",
        "prompt": "completion",
    },
    **{"pack": "default", "train": "qlora", "merge": "dequantized", "evaluate": "default"},
    **{"benchmark": ["humaneval", "mbpp-held"], "report": "default", "track": "default", "sweep": "default"},
    "experiment": None,
}
STAND_INS = {"revision": "0" * 40, "licence": "MIT"}  # for ???, while the rest is validated


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("python -m stages.migrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("file", type=Path, help="YAML of Axolotl or LLaMA-Factory")
    parser.add_argument("--output", type=Path, help="where to write params.yaml; default: stdout")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.add_argument(
        "--gpus", type=int, default=1, help="how many processes the other program ran; default: 1"
    )
    parser.add_argument("--pin", action="store_true", help="ask the hub for commits and licences")
    parser.add_argument("--dataset-info", type=Path, help="LLaMA-Factory's dataset_info.json")
    given = parser.parse_args(arguments)
    with errors_as_message("migrate"):
        if given.output and given.output.exists() and not given.force:
            raise UserError(
                f"{given.output} is there already. Name another --output, or --force to replace it."
            )
        if given.gpus < 1:
            raise UserError(f"--gpus is {given.gpus}, expected 1 or more")
        migration = migrate(given.file, given.gpus, given.pin, given.dataset_info)
        text = params_text(migration)
        validate_params(migration)
        if given.output:
            with atomic_write(given.output) as temporary:
                temporary.write_text(text, "utf-8")
        else:
            print(text, end="")
        print(fates_as_text(migration), file=sys.stderr)


def migrate(path: Path, gpus: int = 1, ask: bool = False, dataset_info: Path | None = None) -> Migration:
    """Read another program's file.

    Args:
        gpus: processes that it was run with.
        ask: whether to ask the hub for commits and licences.
        dataset_info: LLaMA-Factory's dataset_info.json.

    Raises:
        UserError: the file is no configuration of the two, or trains in a way that codetune does not.
    """
    given = read_peer_file(path)
    if "base_model" in given:
        m = Migration("Axolotl", str(path), given, gpus)
        migrate_axolotl(m, ask)
    elif "model_name_or_path" in given:
        m = Migration("LLaMA-Factory", str(path), given, gpus)
        migrate_llama_factory(m, ask, dataset_info)
    else:
        raise UserError(
            f"{path}: neither base_model (Axolotl) nor model_name_or_path (LLaMA-Factory) is set, so it is not "
            "known whose file this is. LLaMA-Factory's v1 layout (model:, train_dataset:) is not read."
        )
    if m.refusals:
        listed = "".join(f"\n  {refusal}" for refusal in m.refusals)
        raise UserError(f"{path} cannot be carried over, and nothing was written:{listed}")
    return m


def read_peer_file(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; a key that is set twice would hide a value, and is an error.

    Raises:
        UserError: no such file, not YAML, no mapping, or a key twice.
    """
    try:
        text = path.read_text("utf-8")
        node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
        given = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(given, dict):
        raise UserError(f"{path}: expected a mapping of settings, found {type(given).__name__}")
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if key.value in lines:
            places = f"lines {lines[key.value] + 1} and {key.start_mark.line + 1}"
            raise UserError(f"{path}: {key.value} is set twice ({places}). Remove one.")
        lines[key.value] = key.start_mark.line
    return {str(key): value for key, value in given.items()}


def params_of(m: Migration) -> dict[str, Any]:
    """Return params.yaml as a mapping: options of conf/, then what differs from them."""
    options = {group: m.settings.get(group, option) for group, option in OPTIONS.items()}
    params: dict[str, Any] = {"defaults": [*({group: option} for group, option in options.items()), "_self_"]}
    for key, value in sorted(
        m.settings.items(), key=lambda item: (list(OPTIONS).index(item[0].split(".")[0]), item[0])
    ):
        *sections, name = key.split(".")
        node = params
        for section in sections:
            node = node.setdefault(section, {})
        if sections:
            node[name] = value
    if options["base"] in ("hub", "local"):
        params["base"]["kind"] = options["base"]
    params["fetch"] = {"sources": m.sources}
    others = sorted({s["licence"] for s in m.sources} - {*PERMISSIVE, MISSING})
    if others:
        params["fetch"]["licences"] = [*PERMISSIVE, *others]
    return params


def params_text(m: Migration) -> str:
    """Return params.yaml, with a heading that names what was not carried over."""
    lost = [fate for fate in m.fates if fate.kind == LOST]
    lines = [
        f"# From {Path(m.path).name} of {m.peer}, by `python -m stages.migrate`. Look at it before it is run:",
        "#   python -m stages.plan",
        f"# clean: off filters nothing, as {m.peer} does, but for benchmark problems and exact duplicates.",
        *(["# Not carried over:"] if lost else []),
        *(f"#   {fate.key}: {' '.join(fate.text.split())}" for fate in lost),
        *(["# To do before `dvc repro`:"] if m.todo else []),
        *(f"#   {entry}" for entry in m.todo),
    ]
    return (
        "\n".join(lines) + "\n" + yaml.safe_dump(params_of(m), sort_keys=False, allow_unicode=True, width=100)
    )


def validate_params(m: Migration) -> None:
    """Compose and validate what will be written, with stand-ins for what the user must still give.

    Raises:
        UserError: the other file's values are out of range here; names the key.
    """
    params = copy.deepcopy(params_of(m))
    for node in (params.get("base", {}), *params["fetch"]["sources"]):
        node |= {key: STAND_INS[key] for key, value in node.items() if value == MISSING}
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), "utf-8")
        try:
            compose_config(params=file)
        except UserError as error:
            raise UserError(
                f"{m.path}: what it sets is not valid here, and nothing was written: {error}"
            ) from None


if __name__ == "__main__":
    main(sys.argv[1:])
