"""Write the model card and the data card from reports/, and push the merged model and its rows to a hub.

    python -m stages.publish                                # a dry run: published/{model,data}/README.md
    python -m stages.publish --push me/my-model             # the model, private; --public: for everybody
    python -m stages.publish --push me/my-rows --what data  # the rows of data/clean

Nothing is published while a licence of the training rows forbids it, unless `--allow ID` names that licence. A
push that broke off sends on the next run only what the hub does not have.
"""

import argparse
import re
from pathlib import Path

from stages.common.core.errors import UserError
from stages.common.core.files import atomic_folder
from stages.common.core.paths import CLEAN_ROWS, MERGED_MODEL
from stages.common.core.stage import errors_as_message
from stages.common.git import git
from stages.common.sources.hub import hub_errors
from stages.publish.cards import data_card, model_card, origin_of, size_of
from stages.publish.permission import count_licences, require_publishable
from stages.report.inputs import read_report_inputs

FOLDER = Path("published")
CARD = "README.md"


def main(arguments: argparse.Namespace) -> None:
    """Write both cards; push one repository if it is named."""
    inputs, rows = read_report_inputs(), count_licences()
    name = arguments.push or "OWNER/NAME"
    if arguments.push.count("/") != (1 if arguments.push else 0):
        raise UserError(f"--push {arguments.push}: expected OWNER/NAME")
    if not (MERGED_MODEL / "config.json").is_file():
        raise UserError(f"{MERGED_MODEL} holds no model. Run `dvc repro` to make it")
    root = Path.cwd()
    changed = git("status", "--porcelain", folder=root).splitlines()
    remotes = git("remote", folder=root).splitlines()
    remote = git("remote", "get-url", remotes[0], folder=root) if remotes else ""
    origin = origin_of(
        git("rev-parse", "HEAD", folder=root), [line[3:] for line in changed], without_login(remote)
    )
    cards = {
        "model": model_card(inputs, rows, name, origin),
        "data": data_card(inputs, rows, name, origin),
    }
    with atomic_folder(FOLDER) as folder:
        for what, text in cards.items():
            (folder / what).mkdir()
            (folder / what / CARD).write_text(text, "utf-8")
    print(f"publish: wrote {FOLDER}/model/{CARD} and {FOLDER}/data/{CARD}")
    require_publishable(rows, arguments.allow)
    what, sent = arguments.what, {"model": MERGED_MODEL, "data": CLEAN_ROWS.parent}[arguments.what]
    if arguments.push:
        push(arguments.push, what, sent, arguments.public)
    else:
        print(
            f"publish: a dry run. `--push OWNER/NAME --what {what}` sends {sent} ({size_of(sent) / 2**20:.0f} MiB) "
            "and its card"
        )


def without_login(remote: str) -> str:
    """Return an address without the name and password that it may hold; empty for a folder of this machine."""
    scheme, found, rest = remote.partition("://")
    if found and scheme != "file":
        return f"{scheme}://{rest.rpartition('@')[2]}"
    return remote if re.match(r"[\w.-]+@[\w.-]+:", remote) else ""


def push(name: str, what: str, folder: Path, public: bool) -> None:
    """Send a folder and its card to a repository of the hub, which is made where it is missing.

    Raises:
        UserError: the hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    kind, pattern = {"model": ("model", "*"), "data": ("dataset", "rows.parquet")}[what]
    files = {path.name: path for path in sorted(folder.glob(pattern))} | {CARD: FOLDER / what / CARD}
    api = HfApi()
    with hub_errors(name, "main", "uploaded"):
        api.create_repo(name, repo_type=kind, private=not public, exist_ok=True)
        api.create_commit(  # all or nothing; large files that the hub has are not sent again
            name,
            [CommitOperationAdd(place, path) for place, path in files.items()],
            commit_message="A run of codetune",
            repo_type=kind,
        )
    print(f"publish: {folder} and its card are at {api.endpoint}/{'datasets/' * (what == 'data')}{name}")


def publish_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "publish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--push", default="", metavar="OWNER/NAME", help="send to this repository of the hub")
    parser.add_argument("--what", choices=("model", "data"), default="model", help="what is sent")
    parser.add_argument("--public", action="store_true", help="a new repository is for everybody")
    parser.add_argument(
        "--allow",
        nargs="*",
        default=[],
        metavar="ID",
        help="licences that you have the right to publish under",
    )
    return parser.parse_args()


if __name__ == "__main__":
    arguments = publish_arguments()
    with errors_as_message("publish"):
        main(arguments)
