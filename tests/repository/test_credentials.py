"""Credentials in files that git keeps are refused, each by place and name, and never printed."""

import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from dvc.config_schema import REMOTE_SCHEMAS, SCHEMA

from tests.helpers.tiny_project import REPOSITORY, environment

CHECK = REPOSITORY / ".ci/credentials.py"
REMOTE = "['remote \"store\"']\n    url = s3://bucket/x\n"
S3CR3T = "hunter2"
# Words of DVC's options that sound like a secret, and are a file, a command, a name or a switch.
PLAIN = {
    *("ask_password", "ask_passphrase", "auth", "gss_auth", "keyfile", "key_path", "sse_kms_key_id"),
    *("bearer_token_command", "exclude_shared_token_cache_credential", "kerb_ticket"),
}


def check(folder: Path, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the check over a new repository that keeps these files."""
    folder.mkdir(exist_ok=True)
    git(folder, "init", "-q")
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    git(folder, "add", "--force", *files)
    return run(folder)


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, env=environment(folder), check=True)


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHECK), str(folder)], capture_output=True, text=True, check=False
    )


def names_of_secrets() -> list[str]:
    spec = spec_from_file_location("credentials", CHECK)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return sorted(module.SECRET)


@pytest.mark.parametrize("option", names_of_secrets())
def test_an_option_with_a_secret_is_refused(option: str, tmp_path: Path) -> None:
    done = check(tmp_path, {".dvc/config": f"[core]\n    remote = store\n{REMOTE}    {option} = {S3CR3T}\n"})
    assert done.returncode == 1
    assert f'.dvc/config:5: {option} of [remote "store"]\n' in done.stderr
    assert "dvc remote modify --local NAME OPTION VALUE" in done.stderr
    assert S3CR3T not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (".dvc/config", REMOTE.replace("s3://", f"https://me:{S3CR3T}@"), ":2: an address with a password"),
        ("sub/.dvc/config", f"[studio]\n\ttoken={S3CR3T}\n", ":2: token of [studio]"),
        (".dvc/config.local", f"{REMOTE}password = {S3CR3T}\n", ": the file itself is in git: `git rm --cached .dvc/config.local`"),
        ("data/x.csv.dvc", f"deps:\n- path: ssh://me:{S3CR3T}@host/x.csv\n", ":2: an address with a password"),
        ("dvc.yaml", f"url: https://host/x?v=1&X-Amz-Signature={S3CR3T}\n", ":1: a signed address"),
        ("data/y.dvc", f"path: https://a.example/x?sig={S3CR3T}\n", ":1: a signed address"),
        ("requirements.lock", f"--index-url https://:{S3CR3T}@host/simple\n", ":1: an address with a password"),
        ("conf/track/mine.yaml", f"uri: postgresql+x://me:{S3CR3T}@host/db\n", ":1: an address with a password"),
    ],
)  # fmt: skip
def test_it_is_found_wherever_dvc_and_people_write_it(
    name: str, text: str, said: str, tmp_path: Path
) -> None:
    done = check(tmp_path, {name: text, "other.txt": "fine\n"})
    assert done.returncode == 1
    assert f"{name}{said}\n" in done.stderr
    assert done.stderr.count("\n") == 5, "the headline, one line for it, three of advice"
    assert S3CR3T not in done.stderr + done.stdout


def test_what_is_no_secret_passes(tmp_path: Path) -> None:
    config = f"{REMOTE}    profile = me\n    ask_password = true\n    password =\n    # password = x\n    user = me\n"
    files = {
        ".dvc/config": config,
        "README.md": "http://me:$PASSWORD@host, http://me:<password>@host, http://127.0.0.1:5000/@x, git@host:x\n",
        "notes.ini": "password = not DVC's\n",
        "picture.bin": "\0\1",
        "tests/test_x.py": "'https://me:secret@host'\n",
    }
    done = check(tmp_path / "repository", files)
    assert (done.returncode, done.stderr) == (0, "")
    local = tmp_path / "repository/.dvc/config.local"
    local.write_text(f"{REMOTE}    password = {S3CR3T}\n", "utf-8")
    assert run(tmp_path / "repository").returncode == 0, "it is not in git: that is where it belongs"


def test_this_repository_passes_and_lint_asks() -> None:
    assert run(REPOSITORY).returncode == 0
    told = subprocess.run(["make", "-n", "lint"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert ".ci/credentials.py" in told.stdout
    assert "config.local" in (REPOSITORY / ".dvc/.gitignore").read_text("utf-8")


def test_a_folder_without_git_is_an_error(tmp_path: Path) -> None:
    done = run(tmp_path / "nowhere")
    assert done.returncode == 1
    assert "is no git repository" in done.stderr


def test_every_option_of_dvc_that_holds_a_secret_is_known() -> None:
    schemas = [*REMOTE_SCHEMAS.values(), SCHEMA["studio"], *SCHEMA["db"].values()]
    options = {str(key) for schema in schemas for key in schema}
    sounds = {name for name in options if re.search(r"pass|secret|token|key|auth|connection_string|ticket", name)}  # fmt: skip
    assert sounds - PLAIN == set(names_of_secrets())
