"""publish: cards say what reports/ says; licences decide; a push reaches the hub, and resumes."""

import argparse
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from stages.common.core.errors import UserError
from stages.publish.__main__ import main, without_login
from stages.publish.permission import forbidden, require_publishable
from tests.helpers.report_files import make_reports
from tests.helpers.upload_hub import UploadHub, upload_hub

ROWS = [("toolz", "BSD-3-Clause"), ("toolz", "BSD-3-Clause"), ("mbpp", "CC-BY-4.0")]


def run(**values: Any) -> None:
    main(argparse.Namespace(**{"push": "", "what": "model", "public": False, "allow": [], **values}))


def write_rows(rows: list[tuple[str, str]]) -> None:
    sources, licences = zip(*rows, strict=True)
    pq.write_table(pa.table({"source": sources, "licence": licences}), "data/clean/rows.parquet")


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished project in git, whose model is two files."""
    make_reports(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_rows(ROWS)
    Path("models/merged/model.safetensors").write_bytes(b"weights")
    Path("models/merged/README.md").write_text("not ours", "utf-8")
    for command in (
        ["init", "--quiet"],
        ["add", "."],
        ["-c", "user.name=me", "-c", "user.email=me@example.org", "commit", "--quiet", "-m", "a run"],
        ["remote", "add", "origin", "https://me:secret@example.org/me/project.git"],
    ):
        subprocess.run(["git", *command], check=True)
    return tmp_path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    from huggingface_hub import _commit_api, constants

    with upload_hub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        monkeypatch.setattr(_commit_api, "is_xet_available", lambda: False)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        yield served


def read_card(path: str) -> tuple[dict[str, Any], str]:
    _, head, text = Path(path).read_text("utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


def test_the_model_card_holds_scores_licences_and_the_way_back(finished: Path) -> None:
    run()
    data, text = read_card("published/model/README.md")
    assert data["library_name"] == "transformers"
    (result,) = data["model-index"][0]["results"]
    assert result["dataset"]["name"] == "humaneval"
    assert result["metrics"][0] == {"type": "pass@1", "value": 0.5}
    assert "| toolz | BSD-3-Clause | 2 |" in text
    assert "| mbpp | CC-BY-4.0 | 1 |" in text
    assert "| humaneval | 12 | 16.7% | 50.0% (25.4% to 74.6%)" in text
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert f"git checkout {commit}" in text
    assert "https://example.org/me/project.git" in text
    assert "secret" not in text
    assert "Not exactly" not in text


def test_files_that_differ_from_the_commit_are_named(finished: Path) -> None:
    Path("params.yaml").write_text("changed", "utf-8")
    run()
    assert (
        "**Not exactly:** params.yaml differed from the commit." in read_card("published/model/README.md")[1]
    )


def test_the_data_card_has_each_licence(finished: Path) -> None:
    run()
    data, text = read_card("published/data/README.md")
    assert data["license"] == "other"
    assert data["size_categories"] == ["n<1K"]
    assert "| mbpp | CC-BY-4.0 | 1 |" in text


@pytest.mark.parametrize(
    ("licence", "why"),
    [
        ("MIT", ""),
        ("CC-BY-SA-4.0", ""),
        ("CC-BY-NC-4.0", "commercial use"),
        ("CC-BY-NC-ND-4.0", "commercial use and changed versions"),
        ("MIT OR CC-BY-NC-4.0", ""),
        ("MIT AND CC-BY-NC-4.0", "commercial use"),
        ("LicenseRef-own", "what only its owner knows"),
        ("unknown terms", "unknown: 'unknown terms' is not an SPDX id"),
    ],
)
def test_what_a_licence_forbids(licence: str, why: str) -> None:
    assert forbidden(licence) == why


def test_a_forbidding_licence_is_named_with_its_rows_and_the_way_out() -> None:
    rows = Counter({("alpaca", "CC-BY-NC-4.0"): 7, ("mine", "MIT"): 1})
    with pytest.raises(UserError, match=r"alpaca: 7 rows under CC-BY-NC-4\.0.*\n.*--allow CC-BY-NC-4\.0"):
        require_publishable(rows, [])
    require_publishable(rows, ["CC-BY-NC-4.0"])


def test_nothing_is_sent_under_a_forbidding_licence(finished: Path, hub: UploadHub) -> None:
    write_rows([("mine", "LicenseRef-own")])
    with pytest.raises(UserError, match="nothing was published"):
        run(push="me/model")
    assert hub.repositories == {}


def test_a_push_makes_a_private_repository_with_the_model_and_our_card(
    finished: Path, hub: UploadHub
) -> None:
    run(push="me/model")
    files = hub.repositories["me/model"]
    assert files.keys() == {"README.md", "config.json", "model.safetensors"}
    assert files["model.safetensors"] == b"weights"
    assert files["README.md"] == Path("published/model/README.md").read_bytes()
    assert hub.private["me/model"]
    assert 'from_pretrained("me/model")' in files["README.md"].decode()


def test_a_push_of_the_rows_is_a_data_set(finished: Path, hub: UploadHub) -> None:
    run(push="me/rows", what="data", public=True)
    assert hub.repositories["datasets/me/rows"].keys() == {"README.md", "rows.parquet"}
    assert not hub.private["datasets/me/rows"]


def test_a_push_that_broke_off_sends_no_weights_again(finished: Path, hub: UploadHub) -> None:
    hub.refuse.append(403)
    with pytest.raises(UserError, match="me/model"):
        run(push="me/model")
    assert (hub.sent, hub.repositories["me/model"]) == (1, {})
    run(push="me/model")
    assert hub.sent == 1
    assert "model.safetensors" in hub.repositories["me/model"]


@pytest.mark.parametrize("name", ["model", "a/b/c"])
def test_a_name_that_is_no_repository_is_refused(finished: Path, name: str) -> None:
    with pytest.raises(UserError, match="expected OWNER/NAME"):
        run(push=name)


def test_a_login_in_an_address_stays_out() -> None:
    assert without_login("https://me:secret@example.org/a.git") == "https://example.org/a.git"
    assert without_login("git@example.org:a.git") == "git@example.org:a.git"
    assert [without_login(place) for place in ("/home/me/project", "../project", "file:///home/me/p")] == [
        ""
    ] * 3
