"""Count or estimate the rows and packs that a configuration trains on.

They are counted in data/packed if it belongs to this configuration; otherwise rows of data/clean are packed here.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.common.core.errors import UserError
from stages.common.core.files import read_json
from stages.common.core.paths import BASE_MODEL, CLEAN_ROWS, PACKED
from stages.common.model.shapes import ModelShapes
from stages.config.compose import plain_values
from stages.plan.memory import Batch, attention_pairs, layer_activations

SAMPLE_GROUPS = 2  # row groups (of 4,096 rows) to tokenize for an estimate
CANDIDATES = 64  # micro batches to compare: those of the most tokens, and those of the most attention
INT = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TrainingData:
    """What one epoch trains on, and what was held out and lost."""

    # packs | clean
    origin: str
    # where the figures are from, in words
    basis: str
    # before rows were dropped for length or held out
    rows_in: int
    # trained on
    rows: int
    # of each training pack: tokens, `attention_pairs` summed over its documents, tokens of its longest
    # document
    pack_tokens: INT
    pack_pairs: INT
    pack_longest: INT
    # tokens of each training document; of the sampled rows only if `basis` names a sample
    lengths: INT
    # share of the training tokens that have labels
    labelled_share: float
    validation_rows: int
    validation_tokens: int
    # treatment of rows over the length: drop | truncate | split | fail
    overlong: str
    overlong_rows: int
    # of these, rows of which nothing is left
    overlong_dropped: int
    tokens_lost: int

    @property
    def tokens(self) -> int:
        return int(self.pack_tokens.sum())


def pack_columns(lengths: INT, starts: INT, scale: float = 1.0) -> dict[str, Any]:
    """Return the fields of `TrainingData` that describe packs.

    Args:
        lengths: tokens of each document, in the order of the packs.
        starts: index of the first document of each pack.
        scale: packs in the data set for each of these; their figures are repeated.
    """
    count = round(scale * len(starts))
    if not len(starts):
        none = np.zeros(0, np.int64)
        return {"pack_tokens": none, "pack_pairs": none, "pack_longest": none, "lengths": none}
    return {
        "pack_tokens": np.resize(np.add.reduceat(lengths, starts), count),
        "pack_pairs": np.resize(np.add.reduceat(attention_pairs(lengths), starts), count),
        "pack_longest": np.resize(np.maximum.reduceat(lengths, starts), count),
        "lengths": lengths,
    }


def changed_sections(
    sections: Mapping[str, Any], tracked: Mapping[str, Any], names: Sequence[str]
) -> list[str]:
    """Return the names of sections that differ from reports/config.yaml."""
    return [name for name in names if plain_values(sections[name]) != tracked.get(name)]


def estimate_data(sections: Mapping[str, Any], tracked: Mapping[str, Any]) -> TrainingData | str:
    """Return the rows that a configuration trains on, or why they are not known.

    Args:
        sections: the composed configuration, by section.
        tracked: reports/config.yaml, the configuration that the artifacts on disk were made with.
    """
    pack = sections["pack"]
    changed = changed_sections(sections, tracked, ("base", "fetch", "clean", "prompt", "pack"))
    if not changed and (PACKED / "packing.json").is_file():
        figures = read_json(PACKED / "packing.json")
        packed_with = (figures["style"], figures["max_length"], figures["overlong"]["what"])
        if packed_with == (sections["prompt"].style, pack.max_length, pack.overlong):
            return data_from_packs(figures)
        changed = ["pack"]  # packed with overrides on the command line
    reason = (
        f"data/packed belongs to another configuration ({', '.join(changed)})"
        if PACKED.exists()
        else "no data/packed"
    )
    clean_is_here = CLEAN_ROWS.is_file() and not {"fetch", "clean"} & set(changed)
    if clean_is_here and (BASE_MODEL / "config.json").is_file():
        return data_from_clean(sections, reason, own_tokenizer="base" not in changed)
    return f"{reason}, and {CLEAN_ROWS} has no rows of it"


def data_from_packs(figures: Mapping[str, Any]) -> TrainingData:
    """Count data/packed; `figures` is its packing.json."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from stages.common.model.packs import read_packs

    packs = read_packs(PACKED / "train.arrow")
    with pa.memory_map(str(packs.path)) as source, pa.ipc.open_stream(source) as stream:
        columns = [batch["lengths"] for batch in stream]
        lengths = np.concatenate([pc.list_flatten(column).to_numpy() for column in columns]).astype(np.int64)
        documents = np.concatenate([pc.list_value_length(column).to_numpy() for column in columns]).astype(
            np.int64
        )
    overlong = figures["overlong"]
    return TrainingData(
        origin="packs",
        basis="counted in data/packed",
        rows_in=figures["rows_in"],
        rows=figures["train"]["rows"],
        **pack_columns(lengths, np.cumsum(documents) - documents),
        labelled_share=figures["train"]["labelled_share"],
        validation_rows=figures["validation"]["rows"],
        validation_tokens=figures["validation"]["tokens"],
        overlong=overlong["what"],
        overlong_rows=overlong["rows"],
        overlong_dropped=overlong["dropped"],
        tokens_lost=overlong["tokens_lost"],
    )


def data_from_clean(sections: Mapping[str, Any], reason: str, own_tokenizer: bool) -> TrainingData:
    """Render, tokenize and pack rows of data/clean as the pack stage does; of many rows, a sample.

    Args:
        reason: why data/packed cannot be counted.
        own_tokenizer: whether models/base belongs to this configuration.

    Raises:
        UserError: no row is left to pack.
    """
    from stages.pack.clean_rows import open_rows
    from stages.pack.documents import RowGroupTask, tokenize_group
    from stages.pack.model_limits import vocabulary_size
    from stages.pack.overlong import OverlongCost
    from stages.pack.packing import pack_lengths
    from stages.pack.split import repeat_validated, validation_mask

    pack = sections["pack"]
    with open_rows() as file:
        rows, groups = file.metadata.num_rows, min(file.num_row_groups, SAMPLE_GROUPS)
        sampled = sum(file.metadata.row_group(group).num_rows for group in range(groups))
    task = RowGroupTask(0, str(BASE_MODEL), vocabulary_size(BASE_MODEL), pack, sections["prompt"], alone=True)
    tokenized = [tokenize_group(task._replace(group=group)) for group in range(groups)]
    reasons = [group.dropped["reason"].to_pylist() for group in tokenized if group.dropped]
    dropped = Counter(reason for group in reasons for reason in group)
    if not sum(len(group.lengths) for group in tokenized):
        raise UserError(
            f"{CLEAN_ROWS}: no rows left to pack ({dict(dropped)}). Raise pack.max_length or change "
            "prompt.style."
        )
    cost = OverlongCost()
    for group in tokenized:
        cost.add(group.cost)
    components = np.concatenate([group.components for group in tokenized])
    row_ids = [row_id for group in tokenized for row_id in group.row_ids]
    held_out, _ = validation_mask(components, row_ids, pack.validation_share)
    lengths, first, tokens, validated = (
        np.concatenate([getattr(group, name) for group in tokenized])
        for name in ("lengths", "first", "tokens", "validated")
    )
    labels = np.add.reduceat(tokens >= 0, np.cumsum(lengths) - lengths, dtype=np.int64)
    at = repeat_validated(np.flatnonzero(~held_out), validated, pack.validated_copies)
    trained = lengths[at]
    packing = pack_lengths(trained, pack.max_length, pack.max_documents)
    scale = rows / max(1, sampled)
    sample = "" if sampled == rows else f", a sample of {sampled:,} of its {rows:,} rows"
    tokenizer = "" if own_tokenizer else ", with the tokenizer of models/base, which is another model"
    return TrainingData(
        origin="clean",
        basis=f"{reason}: packed here from data/clean{sample}{tokenizer}",
        rows_in=rows,
        rows=round(scale * int(first[~held_out].sum())),
        **pack_columns(trained[packing.order], packing.starts[:-1], scale),
        labelled_share=float(labels[at].sum() / max(1, trained.sum())),
        validation_rows=round(scale * int(first[held_out].sum())),
        validation_tokens=round(scale * int(lengths[held_out].sum())),
        overlong=pack.overlong,
        overlong_rows=round(scale * cost.rows),
        overlong_dropped=round(scale * cost.dropped),
        tokens_lost=round(scale * cost.tokens_lost),
    )


def full_batch(pack: Any, size: int) -> Batch:
    """Return a micro batch of full packs of one document each, all of it labelled: the most that one can take."""
    length = pack.max_length
    return Batch(size * length, size * int(attention_pairs(length)), length, size * length)


def heaviest_batch(
    data: TrainingData, order: Sequence[int], shapes: ModelShapes, train: Any, adapted: int, cuda: bool
) -> Batch:
    """Return the micro batch of packs in training order whose layers keep the most activations."""
    packs = np.asarray(order)
    starts = np.arange(0, len(packs), train.micro_batch)
    tokens, pairs = (np.add.reduceat(counts[packs], starts) for counts in (data.pack_tokens, data.pack_pairs))
    longest = np.maximum.reduceat(data.pack_longest[packs], starts)
    candidates = {int(i) for counts in (tokens, pairs) for i in np.argsort(counts)[-CANDIDATES:]}
    batches = [
        Batch(int(tokens[i]), int(pairs[i]), int(longest[i]), round(data.labelled_share * int(tokens[i])))
        for i in sorted(candidates)
    ]
    return max(batches, key=lambda batch: layer_activations(shapes, train, batch, adapted, cuda))
