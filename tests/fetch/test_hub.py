"""fetch from the hub: real clients against a hub on loopback; files, rows and splits as `datasets` has them."""

import errno
import gzip
import hashlib
import io
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from stages.common.core.errors import UserError
from stages.common.core.files import read_json
from stages.common.sources import hub
from stages.fetch.settings import Source
from tests.helpers.loopback_hub import COMMIT, REPOSITORY, Site, make_wheel, run_stage, serving, stage_folder

OTHER = "f" * 40
REPO = "datasets/me/set"
LARGE = bytes(range(256)) * (21 << 12)  # 21 MiB; the client writes 10 MiB at once


def lines(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def parquet(*texts: str) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": list(texts)}), sink)
    return sink.getvalue()


def csv(*texts: str) -> bytes:
    return "".join(f"{line}\n" for line in ("text", *texts)).encode()


def card(**head: Any) -> bytes:
    return f"---\n{json.dumps(head)}\n---\n# A set\n".encode()


def source(**given: Any) -> Source:
    one = Source(
        **{"name": "set", "kind": "hub", "repo": "me/set", "revision": COMMIT, "licence": "MIT", **given}
    )
    one.check()
    return one


CONFIGS = [
    {"config_name": "small", "data_files": "part/one.jsonl"},
    {"config_name": "big", "default": True, "data_files": [{"split": "train", "path": ["part/*.jsonl"]}, {"split": "extra", "path": "more.jsonl"}]},
    {"config_name": "folder", "data_dir": "folder"},
]  # fmt: skip
CONFIGURED = {"README.md": card(license="mit", configs=CONFIGS), "part/one.jsonl": lines("1"), "part/two.jsonl": lines("2", "3"), "more.jsonl": lines("4"), "folder/train.jsonl": lines("5"), "folder/test.jsonl": lines("6")}  # fmt: skip
# Repositories, and what is requested of each: configuration, split.
LAYOUTS: dict[str, tuple[dict[str, bytes], list[tuple[str, str]]]] = {
    "one-file": ({"set.jsonl": lines("a", "b")}, [("", "")]),
    "files-of-splits": (
        {"train.jsonl": lines("a"), "my-test.jsonl": lines("b"), "dev.jsonl": lines("c"), "LICENSE": b"x"},
        [("", "train"), ("", "test"), ("", "validation")],
    ),
    "folders-of-splits": (
        {"data/train/x.jsonl": lines("a"), "data/train/y.jsonl": lines("b"), "data/eval/z.jsonl": lines("c")},
        [("", "train"), ("default", "test")],
    ),
    "shards": (
        {
            "data/train-00000-of-00002.parquet": parquet("a"),
            "data/train-00001-of-00002-abcdef.parquet": parquet("b"),
            "data/odd-00000-of-00001.parquet": parquet("c"),
            "data/train.jsonl": lines("never"),
        },
        [("", "train"), ("", "odd")],
    ),
    "most-common-suffix": (
        {"a.csv": csv("a"), "b.csv": csv("b"), "c.jsonl": lines("never")},
        [("", "train")],
    ),
    "parquet-before-others": ({"a.csv": csv("never"), "a.parquet": parquet("b")}, [("", "train")]),
    "hidden-and-special": (
        {
            ".git/x.jsonl": lines("never"),
            "__x__/x.jsonl": lines("never"),
            "x.jsonl": lines("a"),
            "config.json": b"{}",
        },
        [("", "train")],
    ),
    "packed": (
        {"a.jsonl.gz": gzip.compress(lines("a")), "b.jsonl.gz": gzip.compress(lines("b"))},
        [("", "train")],
    ),
    "configured": (
        CONFIGURED,
        [("", "train"), ("", "extra"), ("small", "train"), ("folder", "test"), ("folder", "")],
    ),
}
READ = """
import json, sys
from datasets import load_dataset
done = {}
for repo, configuration, split in json.load(sys.stdin):
    rows = load_dataset(repo, configuration or None, split=split or "train", revision="COMMIT")
    done["|".join((repo, configuration, split))] = sorted(rows["text"])
json.dump(done, sys.stdout)
""".replace("COMMIT", COMMIT)


@pytest.fixture(scope="module")
def shelf() -> Iterator[Site]:
    with serving(Site({f"datasets/me/{name}": files for name, (files, _) in LAYOUTS.items()})) as site:
        yield site


@pytest.fixture(scope="module")
def theirs(shelf: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Texts that `datasets.load_dataset` reads for each layout, configuration and split."""
    requested = [(f"me/{name}", c, s) for name, (_, questions) in LAYOUTS.items() for c, s in questions]
    env = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    home = {"HF_ENDPOINT": shelf.address, "HF_HOME": str(tmp_path_factory.mktemp("hf"))}
    done = subprocess.run(
        [sys.executable, "-c", READ], input=json.dumps(requested), env={**env, **home}, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_fetch_reads_the_rows_that_datasets_reads(
    name: str, shelf: Site, theirs: Mapping[str, list[str]], tmp_path: Path
) -> None:
    requested = LAYOUTS[name][1]
    sources = [{"name": f"s{n}", "kind": "hub", "repo": f"me/{name}", "revision": COMMIT, "licence": "MIT", "configuration": c, "split": s} for n, (c, s) in enumerate(requested)]  # fmt: skip
    place = stage_folder(tmp_path, {"fetch": {"sources": sources, "benchmarks": {}}})
    done = run_stage(place, "fetch", {"HF_ENDPOINT": shelf.address})
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(place / "data/raw/rows.parquet").to_pylist()
    for n, (c, s) in enumerate(requested):
        ours = sorted(row["completion"] for row in rows if row["source"] == f"s{n}")
        assert ours == theirs[f"me/{name}|{c}|{s}"], (c, s)
        assert "never" not in ours


# Layout


@pytest.mark.parametrize(
    ("files", "asked", "message"),
    [
        (CONFIGURED, {"configuration": "medium"}, "Available: ['small', 'big', 'folder']"),
        (CONFIGURED, {"configuration": "small", "split": "test"}, "it has no split test. Its splits: train"),
        ({"a.jsonl": lines("1")}, {"configuration": "medium"}, "medium"),
        ({"a.jsonl": lines("1")}, {"split": "test"}, "it has no split test. Its splits: train"),
        ({"README.md": card(configs=[{"config_name": "a", "data_files": "x.jsonl"}, {"config_name": "b", "data_files": "x.jsonl"}]), "x.jsonl": lines("1")}, {}, "['a', 'b']"),
        ({"README.md": card(configs=[{"config_name": "a", "data_files": "a.csv", "sep": ";"}]), "a.csv": csv("1")}, {}, "its card sets sep, which is not supported"),
        ({"README.md": card(configs=[{"config_name": "a", "data_files": "*.png"}]), "a.png": b"x"}, {}, "its files are read by imagefolder"),
        ({"README.md": b"---\na: [\n---\n", "a.jsonl": lines("1")}, {}, "the head of its README.md cannot be read"),
        ({"README.md": b"---\n- a\n---\n", "a.jsonl": lines("1")}, {}, "the head of its README.md cannot be read"),
        ({"README.md": card(license="mit")}, {}, "`datasets` cannot resolve it"),
    ],
)  # fmt: skip
def test_what_cannot_be_resolved_says_why(files: dict, asked: dict, message: str, brought: Any) -> None:
    with serving(Site({REPO: files})) as site:
        refused(lambda: brought(site, **asked), f"the data set me/set at {COMMIT}: ", message)
        assert not [path for _, path, _ in site.requests if "resolve" in path and path.endswith((".jsonl", ".csv"))]  # fmt: skip


# Downloads


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """Seconds that were waited, without waiting; the working directory is an empty folder."""
    import time

    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return waited


@pytest.fixture
def brought(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> Any:
    """`resolve_source` against a site, in this process."""
    import datasets
    from huggingface_hub import constants

    from stages.fetch.resolve import resolve_source

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "token")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "cache")

    def run(site: Site, **given: Any) -> Any:
        monkeypatch.setattr(constants, "ENDPOINT", site.address)
        template = site.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", site.address)
        return resolve_source(source(**given))

    return run


def refused(call: Any, *message: str) -> None:
    with pytest.raises(UserError) as error:
        call()
    for part in message:
        assert part in str(error.value), str(error.value)
    assert "\n\n" not in str(error.value)


def test_a_fetched_revision_is_reread_without_a_network(brought: Any) -> None:
    with serving(
        Site({REPO: {"x.jsonl": lines("now")}, f"{REPO}@{OTHER}": {"x.jsonl": lines("then")}})
    ) as site:
        for commit, text in ((COMMIT, "now"), (OTHER, "then")):
            (file,) = brought(site, revision=commit).files
            assert file.read() == lines(text)
        refused(lambda: brought(site, revision="a" * 40), f"has no commit {'a' * 40}")
        refused(
            lambda: brought(site, repo="me/lost"), "the data set me/lost is not on the hub, or is private"
        )
        refused(
            lambda: brought(site, data_files=["y.jsonl"]),
            "has no file that matches 'y.jsonl'. The nearest is 'x.jsonl'",
        )
        before = len(site.requests)
        assert brought(site).files[0].read() == lines("now")
        assert len(site.requests) == before


def test_a_redirected_file_that_breaks_off_is_resumed_and_checked(brought: Any, waits: list[float]) -> None:
    files = {"x.jsonl": LARGE, "README.md": card(license="mit")}
    with serving(Site({REPO: files}, lfs=frozenset({"x.jsonl"}))) as site:
        end = "/store/" + hashlib.sha256(LARGE).hexdigest()
        site.cuts[end] = [15 << 20, (21 << 19) - 1]
        resolved = brought(site)
        (file,) = resolved.files
        assert file.read() == LARGE
        first, *again = site.gets(end)
        assert first in ("", "bytes=0-")
        starts = [int(part.removeprefix("bytes=").split("-")[0]) for part in again]
        assert starts == [10 << 20, 20 << 20]
    assert resolved.lock["resolved"] == {"commit": COMMIT, "card_licence": "MIT"}
    assert resolved.lock["files"]["x.jsonl"] == {"bytes": len(LARGE), "sha256": end[7:]}


def test_bytes_that_are_not_those_of_the_commit_are_refused_and_not_kept(brought: Any) -> None:
    class Wrong(dict):
        """Lists one content and gives another."""

        given = False

        def __getitem__(self, key: str) -> bytes:
            return lines("b") if self.given else lines("a")

    files = Wrong({"x.jsonl": lines("a")})
    with serving(Site({REPO: files})) as site:
        files.given = True
        refused(lambda: brought(site), "x.jsonl is not the commit's file", "expected git", "found    git")
        files.given = False
        assert brought(site).files[0].read() == lines("a")


def test_a_file_of_two_commits_is_downloaded_once_unless_its_copy_was_changed(brought: Any) -> None:
    files = {"x.jsonl": lines("a")}
    with serving(Site({REPO: files, f"{REPO}@{OTHER}": {**files, "more.csv": b"x"}})) as site:
        (file,) = brought(site).files
        brought(site, revision=OTHER)  # its ETag is that of a file that is here
        assert len(site.gets("/x.jsonl")) == 1
        file.path.resolve().write_bytes(lines("b"))
        assert brought(site).files[0].read() == lines("a")
        assert len(site.gets("/x.jsonl")) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "answers", "message"),
    [
        ("/revision/", [(401, {"X-Error-Message": "Invalid credentials in Authorization header"})], "the hub rejects the login (401)"),
        ("/revision/", [(401, {"X-Error-Code": "RepoNotFound"})], "is not on the hub, or is private. Check its name, or log in (`hf auth login`)"),
        ("/revision/", [(403, {"X-Error-Code": "GatedRepo"})], "is gated: accept its terms on the hub, then log in"),
        ("/resolve/", [(403, {"X-Error-Code": "GatedRepo"})] * 9, "is gated: accept its terms on the hub, then log in"),
        ("/revision/", [(403, {})], "the hub denies access (403)"),
        ("/resolve/", [(404, {"X-Error-Code": "EntryNotFound"})] * 9, "lacks a file"),
        ("/revision/", [(429, {"Retry-After": "7"})] * 9, "too many requests to the hub (429). Wait 7 seconds"),
        ("/revision/", [(429, {"Retry-After": "3600"})] * 9, "Wait 3600 seconds"),
        ("/resolve/", [(429, {"Retry-After": "7"})] * 99, "too many requests to the hub (429)"),
    ],
)  # fmt: skip
def test_a_refusal_of_the_hub_is_one_message(part: str, answers: list, message: str, brought: Any, waits: list[float]) -> None:  # fmt: skip
    files = {"x.jsonl": lines("a"), "README.md": card(license="mit")}
    with serving(Site({REPO: files}, faults={part: answers})) as site:
        refused(lambda: brought(site), "source 'set': the data set me/set", message)
    assert max(waits, default=0) <= hub.MAX_WAIT


def test_a_full_disk_is_not_reported_as_a_missing_network(
    brought: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    with (
        serving(Site({REPO: {"x.jsonl": lines("a")}})) as site,
        pytest.raises(OSError, match="No space left"),
    ):
        brought(site)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "cache/x"), "could not be kept on disk: [Errno 13] Permission denied: 'cache/x'"),
        (OSError(errno.EMFILE, "Too many open files"), "could not be kept on disk: [Errno 24] Too many open files"),
        (ConnectionResetError("reset by peer"), "could not be downloaded. Is there a network? (reset by peer)"),
    ],
)  # fmt: skip
def test_an_error_of_the_disk_is_not_called_one_of_the_network(
    error: OSError, message: str, brought: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any, **named: Any) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with serving(Site({REPO: {"x.jsonl": lines("a")}})) as site:
        refused(lambda: brought(site, data_files=["x.jsonl"]), message)


def test_an_answer_of_the_hub_is_not_called_a_missing_network(brought: Any) -> None:
    with serving(Site({REPO: {"x.jsonl": lines("a")}}, faults={"/revision/": [(503, {})] * 9})) as site:
        refused(lambda: brought(site), "could not be downloaded: the hub answered 503. Rerun later")


def test_a_private_set_is_read_with_the_users_token(brought: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Site({REPO: {"x.jsonl": lines("a")}}, login="Bearer hf_mine")) as site:
        refused(
            lambda: brought(site),
            "is not on the hub, or is private. Check its name, or log in (`hf auth login`)",
        )
        monkeypatch.setenv("HF_TOKEN", "hf_mine")
        assert brought(site).files[0].read() == lines("a")


def test_too_many_requests_are_retried_after_a_wait(brought: Any, waits: list[float]) -> None:
    faults = {"/revision/": [(429, {"Retry-After": "7"})], "/tree/": [(503, {})], "/resolve/": [(429, {"Retry-After": "5"})] * 2}  # fmt: skip
    with serving(Site({REPO: {"x.jsonl": lines("a")}}, faults=faults)) as site:  # type: ignore[arg-type]
        assert brought(site).files[0].read() == lines("a")
    assert waits[0] == 7.0
    assert 5 <= waits[-1] < 7  # by the client itself


def test_a_loading_script_is_never_run_and_the_message_names_the_parquet_copy(
    brought: Any, tmp_path: Path
) -> None:
    script = f"open({str(tmp_path / 'executed')!r}, 'w')\n".encode()
    files = {"set.py": script, "raw.jsonl": lines("a")}
    with serving(Site({REPO: files})) as site:
        refused(lambda: brought(site), "a loading script (set.py), which is never run", "refs/convert/parquet", "git ls-remote")  # fmt: skip
        assert brought(site, data_files=["raw.jsonl"]).files[0].read() == lines("a")
    assert not (tmp_path / "executed").exists()


def test_the_cards_licence_is_compared_before_any_file_is_downloaded(brought: Any) -> None:
    files = {"x.jsonl": lines("a"), "README.md": card(license="cc-by-nc-4.0")}
    with serving(Site({REPO: files})) as site:
        refused(lambda: brought(site), "its licence is given as MIT, but its card says CC-BY-NC-4.0")
        assert site.gets("/x.jsonl") == []


@pytest.mark.slow
def test_the_lock_records_what_was_requested_and_what_it_resolved_to(tmp_path: Path) -> None:
    given = {"name": "set", "kind": "hub", "repo": "me/set", "revision": COMMIT, "licence": "MIT", "configuration": "big", "split": "train"}  # fmt: skip
    place = stage_folder(tmp_path, {"fetch": {"sources": [given], "benchmarks": {}}})
    with serving(Site({REPO: CONFIGURED})) as site:
        done = run_stage(place, "fetch", {"HF_ENDPOINT": site.address})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lock = read_json(place / "data/raw/sources.lock.json")["sources"]["set"]
    requested = {"kind": "hub", "repo": "me/set", "revision": COMMIT, "configuration": "big", "split": "train", "format": "rows", "weight": 1.0}  # fmt: skip
    assert lock["requested"] == requested
    assert lock["resolved"] == {"commit": COMMIT, "card_licence": "MIT"}
    assert lock["licence"] == "MIT"
    assert lock["rows"] == 3
    assert lock["files"].keys() == {"part/one.jsonl", "part/two.jsonl"}
    assert lock["bytes"] == len(lines("1") + lines("2", "3"))


@pytest.mark.slow
def test_a_preset_that_forbids_commercial_use_says_so_before_any_download(tmp_path: Path) -> None:
    preset = yaml.safe_load((REPOSITORY / "conf/fetch/evol-instruct-python-1k.yaml").read_text("utf-8"))
    (given,) = preset["sources"]
    place = stage_folder(tmp_path, {"fetch": {**preset, "benchmarks": {}}})
    message = "fetch: evol-instruct-python-1k: its licence CC-BY-NC-SA-4.0 forbids commercial use"
    done = run_stage(place, "fetch")  # without a network: nothing comes
    assert done.returncode == 1
    assert [line[: len(message)] for line in done.stdout.splitlines()] == [message]
    files = {"data/train.parquet": parquet("a"), "README.md": card()}
    with serving(Site({f"datasets/{given['repo']}": files}, commit=given["revision"])) as site:
        done = run_stage(place, "fetch", {"HF_ENDPOINT": site.address})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith(message)
    assert done.stdout.count("forbids") == 1
    assert "its card names no licence, and it is made of Evol-Instruct data, CC-BY-NC-SA-4.0" in done.stdout
    lock = read_json(place / "data/raw/sources.lock.json")["sources"][given["name"]]
    assert (lock["licence"], lock["forbids"]) == ("CC-BY-NC-SA-4.0", "commercial use")


@pytest.mark.slow
def test_lock_and_report_record_sources_and_formats_of_every_kind(tmp_path: Path) -> None:
    texts, folder = [lines("1", "2"), gzip.compress(csv("3")), lzma.compress(lines("4"))], tmp_path / "data/sources"  # fmt: skip
    folder.mkdir(parents=True)
    for name, data in zip("abc", texts, strict=True):
        (folder / f"part-{name}.txt").write_bytes(data)
    sums = [hashlib.sha256(data).hexdigest() for data in texts]
    listed = "".join(f"{s}  data/sources/part-{n}.txt\n" for n, s in zip("abc", sums, strict=True))
    code = b'def f(a):\n    """Return a as it is."""\n    return a\n'
    wheel = make_wheel(tmp_path / ".cache/wheels/pkg-1.0-py3-none-any.whl", {"pkg/a.py": code, "pkg/b.py": b""})  # fmt: skip
    given: dict[str, dict[str, Any]] = {
        "set": {"kind": "hub", "repo": "me/set", "revision": COMMIT, "split": "train", "max_rows": 1},
        "near": {"kind": "file", "licence": "CC-BY-4.0", "path": "data/sources/part-*.txt", "sha256": hashlib.sha256(listed.encode()).hexdigest()},
        "pkg": {"kind": "pypi", "package": "pkg", "version": "1.0", "sha256": wheel, "members": ["pkg/*"], "format": "functions"},
    }  # fmt: skip
    repository = {"train.parquet": parquet("a", "b"), "README.md": card(license="mit")}
    with serving(Site({REPO: repository})) as site:
        sources = [{"name": name, "licence": "MIT", **one} for name, one in given.items()]
        place = stage_folder(tmp_path, {"fetch": {"sources": sources, "benchmarks": {}, "on_bad_row": "drop"}})  # fmt: skip
        done = run_stage(place, "fetch", {"HF_ENDPOINT": site.address})
    assert done.returncode == 0, done.stderr
    lock = read_json(place / "data/raw/sources.lock.json")["sources"]
    report = read_json(place / "reports/fetch.json")["sources"]
    resolved = {"set": {"commit": COMMIT, "card_licence": "MIT"}, "near": {"sha256": given["near"]["sha256"]}, "pkg": {"file": "pkg-1.0-py3-none-any.whl", "sha256": wheel}}  # fmt: skip
    formats = {"set": {"Parquet": 1}, "near": {"JSON lines": 1, "CSV, gz": 1, "JSON lines, xz": 1}, "pkg": {"Python": 2}}  # fmt: skip
    sizes = {"set": len(parquet("a", "b")), "near": sum(map(len, texts)), "pkg": len(code)}
    for name, requested in given.items():
        entry = lock[name]
        assert entry["requested"].items() >= {k: v for k, v in requested.items() if k != "licence"}.items(), (
            name
        )
        assert (entry["resolved"], entry["licence"]) == (resolved[name], requested.get("licence", "MIT"))
        assert entry["bytes"] == sizes[name] == sum(file["bytes"] for file in entry["files"].values())
        assert entry["formats"] == report[name]["formats"] == formats[name]
        assert (report[name]["bytes"], report[name]["rows"]) == (entry["bytes"], entry["rows"])
        assert report[name]["candidates"] == sum(report[name]["reasons"].values())
    assert {name: entry["rows"] for name, entry in lock.items()} == {"set": 1, "near": 4, "pkg": 1}
    assert report["set"]["reasons"] == {"taken": 1, "left out by max_rows": 1}
    assert list(lock["near"]["files"].values()) == [
        {"bytes": len(data), "sha256": s} for data, s in zip(texts, sums, strict=True)
    ]
    rows = pq.read_table(place / "data/raw/rows.parquet").to_pylist()
    assert {row["source"]: row["licence"] for row in rows} == {name: e["licence"] for name, e in lock.items()}


RESOLVE = """
from stages.fetch.resolve import resolve_source
from stages.fetch.settings import Source
from tests.helpers.loopback_hub import COMMIT
resolve_source(Source(name="set", kind="hub", licence="MIT", repo="me/set", revision=COMMIT, data_files=["x.jsonl"]))
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.slow
def test_a_large_file_goes_to_disk_and_not_through_memory(tmp_path: Path) -> None:
    repositories = {REPO: {"x.jsonl": bytes(112 << 20)}}
    with serving(Site(repositories, lfs=frozenset({"x.jsonl"}))) as site:
        env = {"HF_ENDPOINT": site.address, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(
            [sys.executable, "-c", RESOLVE], cwd=tmp_path, env={**os.environ, **env}, capture_output=True, text=True, check=False
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.split()[-1])  # KiB, of which about 45 MiB are imports
    assert peak < 128 << 10, f"{peak} KiB"
