"""Refuses credentials in files that git keeps: `python .ci/credentials.py [FOLDER]`, part of `make lint`.

Looked at: options of DVC's configuration files that hold a secret, and, in every tracked file but tests (theirs are made
up), addresses with a password or a signature in them, as `dvc remote add` and `dvc import-url` would write them down.
"$PASSWORD" and "<password>" are no passwords. Not looked at: what earlier commits hold.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Of DVC's options (dvc/config_schema.py) those whose value is a secret; tests/repository/test_credentials.py compares the two.
SECRET = {
    *("password", "passphrase", "token", "session_token", "sas_token", "access_key_id", "secret_access_key"),
    *("account_key", "client_secret", "connection_string", "custom_auth_header", "sse_customer_key"),
    *("oss_key_id", "oss_key_secret", "gdrive_client_secret"),
}
SECTION = re.compile(r"""^\s*\[\s*['"]?(.*?)['"]?\s*\]""")
OPTION = re.compile(r"^\s*(\w+)\s*=\s*\S")
PASSWORD = re.compile(r"""[a-z][a-z0-9+.-]*://[^\s/@:'"<>]*:[^\s/@'"$<{*][^\s/@'"]*@""", re.IGNORECASE)
SIGNED = re.compile(r"""://[^\s'"]+[?&](sig|x-amz-signature|x-goog-signature)=[^\s'"$<{*]""", re.IGNORECASE)
ADVICE = """\
These belong into .dvc/config.local, which git leaves alone: `dvc remote modify --local NAME OPTION VALUE`, for an address too
(OPTION is url then), or into what the protocol has (AWS_* and ~/.aws, ~/.netrc, an SSH agent). Take them out of the
files above, and change every one that has been pushed."""


def tracked(folder: Path) -> list[str]:
    """Paths of the files that git keeps in `folder`, or is about to. Raises CalledProcessError outside a repository."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=folder, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name and (folder / name).is_file()]


def options(text: str) -> Iterator[tuple[int, str]]:
    """Line and words for each option of a DVC configuration that holds a secret."""
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if found := SECTION.match(line):
            section = found[1]
        elif (found := OPTION.match(line)) and found[1].lower() in SECRET:
            yield number, f"{found[1]} of [{section}]"


def addresses(text: str) -> Iterator[tuple[int, str]]:
    """Line and words for each address that lets in whoever reads it."""
    for number, line in enumerate(text.splitlines(), 1):
        if PASSWORD.search(line):
            yield number, "an address with a password"
        if SIGNED.search(line):
            yield number, "a signed address"


def findings(folder: Path) -> Iterator[str]:
    """What is wrong and where, never the secret itself."""
    for name in tracked(folder):
        if name.startswith("tests/"):
            continue
        if Path(name).parts[-2:] == (".dvc", "config.local"):
            yield f"{name}: the file itself is in git: `git rm --cached {name}`"
            continue
        text = (folder / name).read_bytes().decode("utf-8", "replace")
        found = list(addresses(text))
        if Path(name).parent.name == ".dvc":
            found += options(text)
        yield from (f"{name}:{number}: {what}" for number, what in sorted(found))


def main(folder: Path) -> str | None:
    """The message, None where there is nothing to say."""
    try:
        found = list(findings(folder))
    except (subprocess.CalledProcessError, NotADirectoryError, FileNotFoundError):
        return f"error: {folder} is no git repository: there is nothing to look through for credentials"
    return "\n".join(["error: credentials in files that git keeps", *found, ADVICE]) if found else None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).resolve().parents[1]))
