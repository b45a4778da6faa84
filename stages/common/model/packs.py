"""Read the packs of documents that `pack` writes, and concatenate packs to rows for the model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.common.core.errors import UserError

IGNORED = -100  # label of a token without loss
PACK_COLUMNS = ("input_ids", "labels", "lengths")
REPACK = "Remove data/packed and run `dvc repro pack`."


class Packs:
    """The packs of one Arrow stream, memory-mapped; `packs[i]` is a mapping of `input_ids`, `labels`, `lengths`."""

    def __init__(self, path: Path, table: pa.Table) -> None:
        self.path = path
        self._columns = {name: table[name] for name in PACK_COLUMNS}
        self._row_ids = table["row_ids"] if "row_ids" in table.column_names else None
        self._weights: dict[str, float] = {}
        self.tokens = list_lengths(self._columns["input_ids"])

    def __len__(self) -> int:
        return len(self.tokens)

    def row_ids(self) -> list[str]:
        """Return the id of the row of each document.

        Raises:
            UserError: the packs do not name them.
        """
        if self._row_ids is None:
            raise UserError(f"{self.path}: column row_ids is missing. {REPACK}")
        return pc.list_flatten(self._row_ids).to_pylist()

    def weigh(self, weights: dict[str, float]) -> None:
        """Give packs `weights` of each document: how much its tokens count in the loss, by the id of its row."""
        self._weights = weights

    def __getitem__(self, index: int) -> dict[str, list[Any]]:
        """Return a pack; raise UserError if it breaks the format, as it would silently train on wrong targets."""
        pack: dict[str, list[Any]] = {name: column[index].as_py() for name, column in self._columns.items()}
        starts = document_starts(pack["lengths"])
        if not len(pack["input_ids"]) == len(pack["labels"]) == sum(pack["lengths"]):
            raise UserError(
                f"{self.path}, pack {index}: input_ids, labels and lengths disagree on the number of tokens. {REPACK}"
            )
        if any(pack["labels"][start] != IGNORED for start in starts):
            raise UserError(
                f"{self.path}, pack {index}: the first label of a document is not {IGNORED}, so it would be "
                f"predicted from the previous document. {REPACK}"
            )
        if self._row_ids is not None and self._weights:
            pack["weights"] = [self._weights[row] for row in self._row_ids[index].as_py()]
        return pack


def list_lengths(column: pa.ChunkedArray) -> list[int]:
    """Return the length of each list of a column, from its offsets: nothing else of a memory-mapped file is read."""
    return pc.list_value_length(column).to_pylist()


def read_packs(path: str | Path) -> Packs:
    """Open an Arrow IPC stream of packs.

    Raises:
        UserError: the file is missing or truncated, or lacks a column.
    """
    path = Path(path)
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            table = stream.read_all()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Run `dvc repro pack`.") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not readable as an Arrow stream ({error}). {REPACK}") from None
    missing = [name for name in PACK_COLUMNS if name not in table.column_names]
    if missing:
        raise UserError(f"{path}: column {', '.join(missing)} is missing. {REPACK}")
    return Packs(path, table)


def document_starts(lengths: Sequence[int]) -> list[int]:
    """Return the index of the first token of each document."""
    starts, position = [], 0
    for length in lengths:
        starts.append(position)
        position += length
    return starts


def flatten_packs(packs: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
    """Concatenate packs to one row without padding, whatever their lengths.

    Returns:
        `input_ids`, `labels`, `position_ids`: int64 of shape (1, tokens), positions restart at each document;
        `lengths`: a tuple, tokens of each document; `weights`, where packs have them: float32 (1, tokens). No attention mask: `lengths` keeps documents apart.
    """
    import torch

    lengths = [length for pack in packs for length in pack["lengths"]]
    row: dict[str, torch.Tensor] = {
        name: torch.tensor([token for pack in packs for token in pack[name]])[None]
        for name in ("input_ids", "labels")
    }
    if "weights" in packs[0]:
        weights = torch.tensor([weight for pack in packs for weight in pack["weights"]])
        row["weights"] = weights.repeat_interleave(torch.tensor(lengths))[None]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    return {**row, "position_ids": positions, "lengths": tuple(lengths)}


def batch_packs(packs: Packs, size: int, max_tokens: int = 0) -> list[dict[str, Any]]:
    """Make rows of `size` packs each, in their order, up to `max_tokens` tokens (0: all; at least one pack)."""
    kept: list[int] = []
    tokens = 0
    for index, length in enumerate(packs.tokens):
        if max_tokens and kept and tokens + length > max_tokens:
            break
        kept.append(index)
        tokens += length
    return [flatten_packs([packs[i] for i in kept[at : at + size]]) for at in range(0, len(kept), size)]
