"""Show rows of data/clean as the model will see them: the rendered text, what is trained on between « and ».

    python -m stages.pack.show                       # a row of each source
    python -m stages.pack.show 0a3f                  # the row whose id begins so
    python -m stages.pack.show --source mine --tokens

Renders with reports/config.yaml, so it needs no data/packed. A row that would be dropped is shown with the reason.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from stages.common.core.config_sections import load_sections
from stages.common.core.errors import UserError
from stages.common.core.paths import BASE_MODEL, CLEAN_ROWS
from stages.common.core.stage import COMPOSED_CONFIG, errors_as_message
from stages.pack.clean_rows import open_rows, read_rows
from stages.pack.documents import Row, RowGroupTask, cached_tokenizer, tokenize_rows
from stages.pack.model_limits import vocabulary_size
from stages.pack.overlong import Document, OverlongCost

COLOUR, PLAIN = "\x1b[32m", "\x1b[0m"
SAMPLE_CHARACTERS = 1500  # of a row that pack shows at its end


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("python -m stages.pack.show", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("row", nargs="?", default="", metavar="ROW", help="id of a row, or how it begins")
    parser.add_argument("--source", default="", help="show a row of this source")
    parser.add_argument("--tokens", action="store_true", help="also list the tokens, trained ones with *")
    given = parser.parse_args(arguments)
    with errors_as_message("pack.show"):
        from omegaconf import OmegaConf

        if not COMPOSED_CONFIG.exists():
            raise UserError(f"{COMPOSED_CONFIG}: no such file. First run `dvc repro config`.")
        sections = load_sections(OmegaConf.load(COMPOSED_CONFIG), ("pack", "prompt"))
        task = RowGroupTask(
            0, str(BASE_MODEL), vocabulary_size(BASE_MODEL), sections["pack"], sections["prompt"], alone=True
        )
        rows = find_rows(given.row, given.source)
        print("\n\n".join(rendered_row(row, task, given.tokens) for row in rows))


def find_rows(row_id: str = "", source: str = "") -> Iterator[Row]:
    """Yield the row whose id begins with `row_id`, or the first row of the source, or of each source.

    Raises:
        UserError: there is no such row; names the sources.
    """
    seen: set[str] = set()
    with open_rows() as file:
        groups = file.num_row_groups
    for group in range(groups):
        table = read_rows(group)
        names = zip(table["id"].to_pylist(), table["source"].to_pylist(), strict=True)
        for number, (one, name) in enumerate(names):
            is_wanted = name == source if source else bool(row_id) or name not in seen
            seen.add(name)
            if is_wanted and one.startswith(row_id):
                yield table.slice(number, 1).to_pylist()[0]
                if row_id or source:
                    return
    if row_id or source or not seen:
        of_source = f" of source {source}" if source else ""
        known = ", ".join(sorted(seen)) or "none"
        raise UserError(f"{CLEAN_ROWS}: no row {row_id}{of_source}. Its sources are {known}.")


def rendered_row(row: Row, task: RowGroupTask, tokens: bool = False, characters: int = 0) -> str:
    """Return a row as the model sees it, or why it is dropped; `characters`: the most of each document, 0: all."""
    # `fail` would end the command instead of describing the row
    pack = replace(task.pack, overlong="drop") if task.pack.overlong == "fail" else task.pack
    (outcome,) = tokenize_rows([row], task._replace(pack=pack), OverlongCost())
    head = f"row {row['id']} ({row['source']})"
    if not outcome.documents:
        return f"{head} is dropped: {outcome.reason}: {outcome.detail}"
    tokenizer = cached_tokenizer(task.model)
    shown = []
    for number, document in enumerate(outcome.documents, 1):
        part = f", part {number} of {len(outcome.documents)}" if len(outcome.documents) > 1 else ""
        text = mark_labels(document, tokenizer, sys.stdout.isatty())
        cut = f"\n... {len(text) - characters} more characters" if 0 < characters < len(text) else ""
        shown.append(f"{head}{part}: {len(document.ids)} tokens, {int(document.loss.sum())} trained on")
        shown.append(
            (text[:characters] if cut else text) + (PLAIN if cut and sys.stdout.isatty() else "") + cut
        )
        if tokens:
            shown += list_tokens(document, tokenizer)
    return "\n".join(shown)


def mark_labels(document: Document, tokenizer: Any, colours: bool = False) -> str:
    """Return the decoded text with « and » around every run of trained tokens, or in colour."""
    opening, closing = (COLOUR, PLAIN) if colours else ("«", "»")
    ids, loss = document.ids.tolist(), document.loss.tolist()
    ends = [i for i in range(1, len(ids) + 1) if i == len(ids) or loss[i] != loss[i - 1]]
    text = done = ""
    for end in ends:  # decoded from the beginning: SentencePiece tokenizers would drop a run's first space
        now = tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False)
        run = now[len(done) :]
        text += f"{opening}{run}{closing}" if loss[end - 1] else run
        done = now
    return text


def list_tokens(document: Document, tokenizer: Any) -> list[str]:
    """Return a line for each token: * if it is trained on, its id, its text in the vocabulary."""
    names = tokenizer.convert_ids_to_tokens(document.ids.tolist())
    return [
        f"{'*' if trained else ' '} {token:>7} {name!r}"
        for token, trained, name in zip(document.ids, document.loss, names, strict=True)
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
