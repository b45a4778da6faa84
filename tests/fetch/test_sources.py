"""fetch: local files and licences: pinned, and refused in one message before any download."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stages.common.core.errors import UserError
from stages.fetch.licences import forbids, require_card_licence
from stages.fetch.resolve import resolve_source
from stages.fetch.settings import FetchSettings, Source

SUM = "0" * 64
DATA = bytes(range(256)) * 4096  # 1 MiB


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def source(**given: Any) -> Source:
    defaults: dict[str, Any] = {
        "name": "mine",
        "kind": "file",
        "path": "data/sources/x.jsonl",
        "licence": "MIT",
    }
    one = Source(**{**defaults, **given})
    one.check()
    return one


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data/sources in a folder of its own, which is the working directory."""
    folder = tmp_path / "data/sources"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return folder


def refused(one: Source, *message: str) -> str:
    with pytest.raises(UserError) as error:
        resolve_source(one)
    for part in message:
        assert part in str(error.value)
    return str(error.value)


# Files


def test_a_glob_takes_files_of_all_folders_and_is_pinned_by_its_listing(sources: Path) -> None:
    (sources / "b/c").mkdir(parents=True)
    for name in ("a.jsonl", "b/c/d.jsonl", "b/.hidden.jsonl", "b/e.csv", "a.jsonl.dvc"):
        (sources / name).write_text(name, "utf-8")
    names = ["data/sources/a.jsonl", "data/sources/b/c/d.jsonl"]
    sums = subprocess.run(["sha256sum", *names], capture_output=True, check=True).stdout
    resolved = resolve_source(source(path="data/sources/**/*.jsonl", sha256=sha256(sums)))
    assert [file.name for file in resolved.files] == names
    assert [file.read() for file in resolved.files] == [b"a.jsonl", b"b/c/d.jsonl"]
    assert resolved.lock["resolved"] == {"sha256": sha256(sums)}
    assert resolved.lock["bytes"] == 18
    assert resolved.lock["files"][names[0]] == {"bytes": 7, "sha256": sha256(b"a.jsonl")}
    (sources / "a.jsonl").write_text("changed", "utf-8")
    refused(source(path="data/sources/**/*.jsonl", sha256=sha256(sums)), "does not match its pin", sha256(sums), "sha256sum data/sources/**/*.jsonl | sha256sum")  # fmt: skip
    refused(source(path="data/sources/*.txt", sha256=SUM), "no file matches data/sources/*.txt")


def test_a_path_that_is_not_a_readable_file_says_what_it_is(sources: Path) -> None:
    (sources / "folder").mkdir()
    (sources / "loop").symlink_to("loop")
    (sources / "lost").symlink_to("nowhere")
    (sources / "unreadable").symlink_to("/proc/self/mem")
    os.mkfifo(sources / "pipe")
    for name, message in (
        (
            "folder",
            "data/sources/folder is a folder, expected a file. For all files below it set path: data/sources/folder/**/*, and format: text",
        ),
        ("loop", "data/sources/loop is a loop of symbolic links"),
        ("lost", "data/sources/lost is a link to nowhere, which does not exist"),
        ("pipe", "data/sources/pipe is not a regular file"),
        ("unreadable", "data/sources/unreadable is not readable"),
        ("absent", "data/sources/absent: no such file"),
    ):
        refused(source(path=f"data/sources/{name}", sha256=SUM), f"source 'mine': {message}")
    refused(source(path="data/sources/l*p", sha256=SUM), "data/sources/loop is a loop of symbolic links")


@pytest.mark.slow
def test_a_file_without_a_sum_is_pinned_by_the_dvc_file_beside_it(sources: Path) -> None:
    (sources / "x.jsonl").write_text("one", "utf-8")
    (sources / "folder/sub").mkdir(parents=True)
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl"):
        (sources / "folder" / name).write_text(name, "utf-8")
    refused(source(), "is not pinned. Set sha256: " + sha256(b"one"), "`dvc add data/sources/x.jsonl`")
    dvc = [sys.executable, "-m", "dvc"]
    env = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    (sources.parent / "y.jsonl").write_text("far", "utf-8")
    imported = ["import-url", "-q", "data/y.jsonl", "data/sources/y.jsonl"]
    added = ["add", "-q", "data/sources/x.jsonl", "data/sources/folder"]
    for command in (["init", "--no-scm", "-q"], added, imported):
        subprocess.run([*dvc, *command], check=True, env=env)
    pin = resolve_source(source()).lock["resolved"]
    assert pin == {"sha256": sha256(b"one"), "dvc": "data/sources/x.jsonl.dvc"}
    assert resolve_source(source(path="data/sources/y.jsonl")).files[0].read() == b"far"
    glob = source(path="data/sources/folder/**/*.jsonl")
    assert len(resolve_source(glob).files) == 3
    assert resolve_source(glob).lock["resolved"]["dvc"] == "data/sources/folder.dvc"
    (sources / "x.jsonl").unlink()
    refused(source(), "data/sources/x.jsonl: no such file. `dvc pull` fetches it")
    (sources / "x.jsonl").write_text("two", "utf-8")
    message = refused(source(), "data/sources/x.jsonl does not match data/sources/x.jsonl.dvc")
    assert hashlib.md5(b"one").hexdigest() in message
    assert hashlib.md5(b"two").hexdigest() in message
    (sources / "folder/sub/c.jsonl").unlink()
    refused(glob, "data/sources/folder does not match data/sources/folder.dvc")
    (sources / "x.jsonl.dvc").write_text("outs:\n- md5: 0\n  path: x.jsonl\n", "utf-8")
    refused(source(), "was written by DVC 2")


def test_a_file_is_streamed_and_reopened_each_time(sources: Path) -> None:
    (sources / "x.jsonl").write_bytes(DATA)
    (file,) = resolve_source(source(sha256=sha256(DATA))).files
    with file.open() as first, file.open() as second:
        assert first.read(3) == second.read(3) == DATA[:3]
        first.seek(-1, os.SEEK_END)
        assert first.read() == DATA[-1:]
    assert file.size == len(DATA)


@pytest.mark.parametrize(
    ("name", "glob"),
    [("input[1].jsonl", False), ("what?.jsonl", False), ("a*.jsonl", False), ("input1.jsonl", True)],
)
def test_a_file_whose_name_looks_like_a_glob_is_found_by_its_name(
    name: str, glob: bool, sources: Path
) -> None:
    (sources / name).write_text("mine", "utf-8")
    (sources / "other.jsonl").write_text("another", "utf-8")
    path = "data/sources/input[1].jsonl" if glob else f"data/sources/{name}"
    one = source(path=path, sha256=sha256(f"{sha256(b'mine')}  data/sources/{name}\n".encode()) if glob else sha256(b"mine"))  # fmt: skip
    assert [file.read() for file in resolve_source(one).files] == [b"mine"]
    refused(source(path="data/sources/x[1]?.jsonl", sha256=SUM), "a glob by its ? and [, and none has that very name")  # fmt: skip


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("https://me:secret@host/x.jsonl", True),
        ("https://ghp_secret@host/x.jsonl", True),
        ("ssh://me:secret@host/x.jsonl", True),
        ("https://bucket.s3.amazonaws.com/x?X-Amz-Date=1&X-Amz-Signature=secret", True),
        ("https://account.blob.core.windows.net/c/x?sv=2024&sig=secret", True),
        ("https://host/x?access_token=secret", True),
        ("https://host/x?apikey=secret", True),
        ("ssh://me@host/x.jsonl", False),
        ("https://host/a@b/x.jsonl?monkey=1&design=2", False),
        ("remote://mine/x.jsonl", False),
        ("s3://bucket/x.jsonl", False),
    ],
)
def test_a_url_with_a_secret_in_a_dvc_file_is_refused_and_not_printed(
    url: str, secret: bool, sources: Path
) -> None:
    (sources / "x.jsonl").write_bytes(b"one")
    (sources / "x.jsonl.dvc").write_text(
        f"deps:\n- path: {url}\nouts:\n- md5: {hashlib.md5(b'one').hexdigest()}\n  hash: md5\n  path: x.jsonl\n"
    )
    for one in (source(), source(sha256=sha256(b"one"))):
        if secret:
            message = "x.jsonl.dvc holds a URL with a password, token or signature, and goes into git"
            assert "secret" not in refused(one, message, "dvc remote modify --local")
        else:
            assert resolve_source(one).files[0].read() == b"one"


# Licences


HUB: dict[str, Any] = {"name": "code", "kind": "hub", "repo": "nickrosh/Evol-Instruct-Code-80k-v1", "revision": "3ae930c20d5496e2c8386872d5628c45f6957db4"}  # fmt: skip


def test_a_licence_that_is_not_on_the_list_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'code': its licence CC-BY-NC-SA-4\.0 is not in fetch\.licences, so nothing of it is downloaded"):  # fmt: skip
        FetchSettings(sources=[Source(**HUB, licence="CC-BY-NC-SA-4.0")])
    with pytest.raises(ValueError, match=r"or add GPL-3\.0-only to fetch\.licences if your use"):
        FetchSettings(sources=[source(sha256=SUM, licence="(MIT OR ISC) AND GPL-3.0-only")])
    with pytest.raises(ValueError, match=r"fetch\.licences is 'Apache 2\.0': expected one SPDX id in each"):
        FetchSettings(sources=[source(sha256=SUM)], licences=["MIT", "Apache 2.0"])
    FetchSettings(sources=[Source(**HUB, licence="CC-BY-NC-SA-4.0")], licences=["MIT", "CC-BY-NC-SA-4.0"])
    FetchSettings(
        benchmarks={"mine": Source(kind="file", path="data/sources/x", format="mbpp", licence="GPL-3.0-only")}
    )


def test_a_well_known_data_set_cannot_be_given_another_licence() -> None:
    for place in (HUB, {**HUB, "repo": HUB["repo"].lower()}):
        with pytest.raises(ValueError, match=r"'code': its licence is given as MIT, but nickrosh/Evol-Instruct-Code-80k-v1 is CC-BY-NC-SA-4\.0"):  # fmt: skip
            FetchSettings(sources=[Source(**place, licence="MIT")])


@pytest.mark.parametrize(
    ("card", "licence", "message"),
    [
        ({"license": "mit"}, "MIT", "MIT"),
        ({"license": "odc-by"}, "ODC-By-1.0", "ODC-By-1.0"),
        ({"license": "gpl-3.0"}, "GPL-3.0-or-later", "GPL-3.0"),
        ({"license": "cc"}, "CC-BY-4.0", "CC"),
        ({"license": "llama3.1"}, "LicenseRef-llama3.1", "LicenseRef-llama3.1"),
        ({"license": "openrail"}, "LicenseRef-openrail", "LicenseRef-openrail"),
        ({"license": ["mit", "apache-2.0"]}, "MIT AND Apache-2.0", "MIT AND Apache-2.0"),
        ({"license": "other", "license_name": "openrail"}, "LicenseRef-openrail", "LicenseRef-openrail"),
        (
            {"license": "other", "license_name": "My own (v2)"},
            "LicenseRef-My-own-v2",
            "LicenseRef-My-own-v2",
        ),
        ({"license": "gpl-2.0"}, "GPL-2.0-only WITH Classpath-exception-2.0", "GPL-2.0"),
        ({"license": ["mit", "apache-2.0"]}, "(Apache-2.0 OR mit)", "MIT AND Apache-2.0"),
        ({"license": "unknown"}, "MIT", None),
        ({}, "MIT", None),
    ],
)
def test_the_cards_licence_id_matches_the_configured_spdx_id(
    card: dict, licence: str, message: str | None
) -> None:
    assert require_card_licence("me/set", licence, card) == message


@pytest.mark.parametrize(
    "card", [{"license": "cc-by-nc-4.0"}, {"license": ["mit", "gpl-3.0"]}, {"license": "other"}]
)
def test_a_card_with_another_licence_is_an_error_that_names_both(card: dict) -> None:
    with pytest.raises(ValueError, match="its licence is given as MIT, but its card says "):
        require_card_licence("me/set", "MIT", card)


@pytest.mark.parametrize(
    ("licence", "message"),
    [
        ("CC-BY-NC-SA-4.0", "commercial use"),
        ("cc-by-nc-4.0", "commercial use"),
        ("MIT AND CC-BY-NC-ND-3.0-DE", "commercial use"),
        ("PolyForm-Noncommercial-1.0.0", "commercial use"),
        ("LicenseRef-intel-research", "commercial use"),
        ("MIT OR CC-BY-NC-4.0", ""),
        ("CC-BY-SA-4.0", ""),
        ("GPL-3.0-only", ""),
        ("NCSA", ""),
        ("LicenseRef-once", ""),
    ],
)
def test_licences_that_forbid_commercial_use(licence: str, message: str) -> None:
    assert forbids(licence) == message


# Settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "url"}, "kind is 'url': expected one of pypi, hub, file"),
        ({"licence": "Proprietary"}, "licence is 'Proprietary': expected an SPDX id"),
        ({"split": "test"}, "split is 'test': expected nothing: only kind hub has it"),
        ({"columns": {"question": "x"}}, "columns is 'question': expected one of prompt, completion"),
        ({"columns": {"prompt": "a"}, "template": {"prompt": "b"}}, "template is 'prompt'"),
        ({"columns": {"prompt": "a"}}, "columns is ['prompt']: expected completion beside prompt"),
        ({"format": "text", "ignore": ["a"]}, "only format rows has it"),
        ({"format": "functions", "template": {"prompt": "x"}}, "only format rows has it"),
        ({"max_rows": -1}, "max_rows is -1"),
        ({"licence": "Apache 2.0"}, "licence is 'Apache 2.0': expected an SPDX id"),
        ({"weight": 0.5}, "weight is 0.5: expected 1, since fetch.rows is 0"),
    ],
)  # fmt: skip
def test_an_invalid_field_is_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        source(**given)
    assert message in str(error.value)


def test_a_pin_without_a_value_is_none() -> None:
    assert Source(name="a", kind="file", path="data/sources/x", licence="MIT", sha256=None).sha256 == ""


def test_weights_are_parts_of_a_mix_where_rows_is_set() -> None:
    heavy = Source(name="a", kind="file", path="data/sources/x", licence="MIT", weight=3.0)
    FetchSettings(sources=[heavy], rows=100)
    with pytest.raises(ValueError, match=r"weight is 3\.0"):
        FetchSettings(sources=[heavy])
    for given in ({"rows": -1}, {"on_bad_row": "skip"}):
        with pytest.raises(ValueError, match=f"fetch.{next(iter(given))} is"):
            FetchSettings(**given)  # type: ignore[arg-type]
