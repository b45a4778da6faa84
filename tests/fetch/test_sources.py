"""fetch: local files, URLs and licences: pinned, resumed, and refused in one message before any download."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest

from stages.common.errors import UserError
from stages.fetch import urls
from stages.fetch.licences import forbids, require_card_licence
from stages.fetch.resolve import resolve_source
from stages.fetch.settings import FetchSettings, Source
from tests.helpers.loopback_hub import Site, serving

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
            "data/sources/folder is a folder, expected a file. For the files in it set path: data/sources/folder/*",
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


# URLs


def url_source(url: str, pin: str) -> Source:
    return source(kind="url", path="", url=url, sha256=pin)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls.time, "sleep", lambda seconds: None)


def test_a_url_is_downloaded_once_and_again_when_the_copy_was_changed(sources: Path) -> None:
    with serving(Site(files={"/a/x.jsonl": DATA})) as site:
        one = url_source(f"{site.address}/a/x.jsonl?key=1", sha256(DATA))
        resolved = resolve_source(one)
        (file,) = resolved.files
        assert (file.name, file.read()) == ("x.jsonl", DATA)
        assert resolved.lock["resolved"] == {"sha256": sha256(DATA)}
        assert resolved.lock["requested"]["url"] == one.url
        before = len(site.requests)
        assert resolve_source(one) == resolved
        assert len(site.requests) == before
        file.path.write_bytes(b"changed")
        assert resolve_source(one).files[0].read() == DATA
        assert len(site.requests) > before


@pytest.mark.parametrize("ranges", [True, False])
def test_a_dropped_connection_is_resumed_at_the_block_where_it_broke(
    sources: Path, ranges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls, "BLOCK", 1 << 20)
    data = DATA * 3
    with serving(
        Site(files={"/x.jsonl": data}, ranges=ranges, cuts={"/x.jsonl": [1_000_000, 700_000]})
    ) as site:
        assert resolve_source(url_source(f"{site.address}/x.jsonl", sha256(data))).files[0].read() == data
        starts = [int(part[6:].split("-")[0]) for part in site.gets("/x.jsonl") if part]
    if ranges:
        assert starts == [0, 0, 0, 1 << 20, 2 << 20]


def test_a_partial_download_is_resumed_unless_it_is_of_another_file(sources: Path) -> None:
    part = urls.URL_CACHE / f"{sha256(DATA)}.part"
    with serving(Site(files={"/x.jsonl": DATA})) as site:
        one = url_source(f"{site.address}/x.jsonl", sha256(DATA))
        for left, first in ((DATA[:600_000], 600_000), (b"?" * 600_000, 0)):
            shutil.rmtree(urls.URL_CACHE, ignore_errors=True)
            part.parent.mkdir(parents=True)
            part.write_bytes(left)
            site.requests.clear()
            assert resolve_source(one).files[0].read() == DATA
            starts = [int(part[6:].split("-")[0]) for part in site.gets("/x.jsonl") if part]
            assert starts[-1] == first
            assert not part.exists()


def test_a_refusal_of_a_url_is_one_message(sources: Path) -> None:
    with serving(Site(files={"/x.jsonl": DATA}, faults={"/closed": [(403, {})] * 50})) as site:
        refused(url_source(f"{site.address}/lost.jsonl", SUM), f"{site.address}/lost.jsonl: no such file")
        refused(url_source(f"{site.address}/closed.jsonl", SUM), "access is denied")
        refused(url_source(f"{site.address}/x.jsonl", SUM), f"expected sha256 {SUM}", sha256(DATA))
        assert list(urls.URL_CACHE.iterdir()) == []
    refused(url_source("http://127.0.0.1:9/x.jsonl", SUM), "could not be downloaded. Is there a network?")


def test_a_login_is_read_from_netrc(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Site(files={"/x.jsonl": DATA}, login="Basic bWU6c2VjcmV0")) as site:
        one = url_source(f"{site.address}/x.jsonl", sha256(DATA))
        refused(one, "access is denied (401")
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n", "utf-8")
        (tmp_path / "netrc").chmod(0o600)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        fsspec.filesystem("http").clear_instance_cache()
        assert resolve_source(one).files[0].read() == DATA


def test_a_missing_driver_names_the_extra(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.registry import _registry

    for module in ("s3fs", "gcsfs", "sshfs", "paramiko", "fsspec.implementations.sftp"):
        monkeypatch.setitem(sys.modules, module, None)
    for url, extra in (("s3://bucket/x", "s3"), ("gs://bucket/x", "gcs"), ("ssh://host/x", "ssh")):
        monkeypatch.delitem(_registry, url.partition(":")[0], raising=False)
        refused(url_source(url, SUM), "needs a driver for", f"pip install '.[{extra}]'")
    refused(url_source("nothing://bucket/x", SUM), "fsspec does not support this protocol")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An S3 on loopback with one bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    try:
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        yield client
    finally:
        server.stop()


def test_s3_is_read_in_parts_and_resumed(sources: Path, bucket: Any) -> None:
    bucket.put_object(Bucket="bucket", Key="d/x.jsonl", Body=DATA)
    one = url_source("s3://bucket/d/x.jsonl", sha256(DATA))
    part = urls.URL_CACHE / f"{sha256(DATA)}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA[:500_000])
    assert resolve_source(one).files[0].read() == DATA
    refused(url_source("s3://bucket/d/lost.jsonl", SUM), "s3://bucket/d/lost.jsonl: no such file")
    refused(url_source("s3://bucket/d/x.jsonl", SUM), "does not match its pin")


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
    url = f"https://huggingface.co/datasets/{HUB['repo']}/resolve/main/EvolInstruct-Code-80k.json"
    for place in (
        HUB,
        {**HUB, "repo": HUB["repo"].lower()},
        {"name": "code", "kind": "url", "url": url, "sha256": SUM},
    ):
        with pytest.raises(ValueError, match=r"'code': its licence is given as MIT, but nickrosh/Evol-Instruct-Code-80k-v1 is CC-BY-NC-SA-4\.0"):  # fmt: skip
            FetchSettings(sources=[Source(**place, licence="MIT")])


@pytest.mark.parametrize(
    ("card", "licence", "message"),
    [
        ({"license": "mit"}, "MIT", "MIT"),
        ({"license": "odc-by"}, "ODC-By-1.0", "ODC-By-1.0"),
        ({"license": "gpl-3.0"}, "GPL-3.0-or-later", "GPL-3.0"),
        ({"license": "cc"}, "CC-BY-4.0", "CC"),
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
        ({"kind": "url", "url": "file:///etc/passwd", "sha256": SUM}, "url is 'file:///etc/passwd'"),
        ({"kind": "url", "url": "https://me:secret@host/x", "sha256": SUM}, "expected no password"),
        ({"kind": "url", "url": "https://host/x"}, "not pinned: sha256 is ''"),
        ({"split": "test"}, "split is 'test': expected nothing: only kind hub has it"),
        ({"columns": {"question": "x"}}, "columns is 'question': expected one of prompt, completion"),
        ({"columns": {"prompt": "a"}, "template": {"prompt": "b"}}, "template is 'prompt'"),
        ({"format": "functions", "template": {"prompt": "x"}}, "only format rows has it"),
        ({"max_rows": -1}, "max_rows is -1"),
        ({"licence": "Apache 2.0"}, "licence is 'Apache 2.0': expected an SPDX id"),
        ({"weight": 3.0}, "weight is 3.0"),
    ],
)  # fmt: skip
def test_an_invalid_field_is_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        source(**given)
    assert message in str(error.value)
    assert "secret" not in str(error.value)


def test_weights_are_parts_of_a_mix_where_rows_is_set() -> None:
    heavy = Source(name="a", kind="file", path="data/sources/x", licence="MIT", weight=3.0)
    FetchSettings(sources=[heavy], rows=100)
    with pytest.raises(ValueError, match=r"weight is 3\.0"):
        FetchSettings(sources=[heavy])
    for given in ({"rows": -1}, {"on_bad_row": "skip"}):
        with pytest.raises(ValueError, match=f"fetch.{next(iter(given))} is"):
            FetchSettings(**given)  # type: ignore[arg-type]
