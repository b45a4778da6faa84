"""Rows and packs that a configuration trains on: counted where they are packed, else packed here from what there is."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.common.errors import UserError
from stages.common.files import read_json
from stages.plan.known import CHARACTERS_PER_TOKEN, DATA
from stages.plan.memory import Batch, attention_pairs, layer_activations

PACKED, ROWS, MODEL = Path("data/packed"), Path("data/clean/rows.parquet"), Path("models/base")
SAMPLE_GROUPS = 2  # row groups (of 4,096 rows) that are tokenized for an estimate
CANDIDATES = 64  # micro batches that are looked at: those of the most tokens, and of the most attention
INT = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Data:
    """What there is to train on in one epoch, and what was held out and lost."""

    origin: str  # packs | clean | stand-ins
    said: str  # how the figures were come by
    rows_in: int  # before rows were dropped for length, or held out
    rows: int  # that are trained on
    pack_tokens: INT  # tokens of each training pack
    pack_pairs: INT  # what attention computes of each, see `attention_pairs`
    pack_longest: INT  # tokens of the longest document of each
    lengths: INT  # tokens of each training document; where `said` names a part of the rows, of that part
    labelled_share: float  # of the training tokens
    validation_rows: int
    validation_tokens: int
    overlong: str  # what is done with rows over the length: drop | truncate | split | fail
    overlong_rows: int
    overlong_dropped: int  # of these, rows of which nothing is left
    tokens_lost: int

    @property
    def tokens(self) -> int:
        return int(self.pack_tokens.sum())


def packed(lengths: INT, starts: INT, scale: float = 1.0) -> dict[str, Any]:
    """What `Data` holds of packs, of documents in their order and the first document of each pack.

    Args:
        scale: how many packs there are for each of these; their figures are repeated.
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


def differing(sections: Mapping[str, Any], tracked: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Names of sections that are not those of reports/config.yaml."""
    return [name for name in names if asdict(sections[name]) != tracked.get(name)]


def data_of(sections: Mapping[str, Any], tracked: Mapping[str, Any]) -> Data:
    """The rows that a configuration trains on.

    Args:
        sections: the composed configuration, by section.
        tracked: reports/config.yaml, which says what the artifacts on disk were made with.

    Raises:
        UserError: neither packs nor rows of this configuration are here, and nothing is known of its data set.
    """
    pack = sections["pack"]
    other = differing(sections, tracked, ("base", "fetch", "clean", "prompt", "pack"))
    if not other and (PACKED / "packing.json").is_file():
        figures = read_json(PACKED / "packing.json")
        made = (figures["style"], figures["max_length"], figures["overlong"]["what"])
        if made == (sections["prompt"].style, pack.max_length, pack.overlong):
            return from_packs(figures)
        other = ["pack"]  # packed with overrides on the command line
    why = (
        f"data/packed is of another configuration ({', '.join(other)})"
        if PACKED.exists()
        else "no data/packed"
    )
    if ROWS.is_file() and not {"fetch", "clean"} & set(other) and (MODEL / "config.json").is_file():
        return from_clean(sections, why, own_tokenizer="base" not in other)
    known = [DATA.get(source.repo) for source in sections["fetch"].sources]
    if known and all(known):
        return from_stand_ins(sections, why)
    raise UserError(
        f"{why}, and rows of this configuration are not here ({ROWS}), nor is it known how large they are. Run "
        "`dvc repro clean` with this configuration in params.yaml, or describe the data set in stages/plan/known.py."
    )


def from_packs(figures: Mapping[str, Any]) -> Data:
    """Of data/packed; `figures`: its packing.json."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from stages.common.model.packs import read_packs

    packs = read_packs(PACKED / "train.arrow")
    with pa.memory_map(str(packs.path)) as source, pa.ipc.open_stream(source) as stream:
        listed = [batch["lengths"] for batch in stream]
        lengths = np.concatenate([pc.list_flatten(one).to_numpy() for one in listed]).astype(np.int64)
        documents = np.concatenate([pc.list_value_length(one).to_numpy() for one in listed]).astype(np.int64)
    overlong = figures["overlong"]
    return Data(
        origin="packs",
        said="counted in data/packed",
        rows_in=figures["rows_in"],
        rows=figures["train"]["rows"],
        **packed(lengths, np.cumsum(documents) - documents),
        labelled_share=figures["train"]["labelled_share"],
        validation_rows=figures["validation"]["rows"],
        validation_tokens=figures["validation"]["tokens"],
        overlong=overlong["what"],
        overlong_rows=overlong["rows"],
        overlong_dropped=overlong["dropped"],
        tokens_lost=overlong["tokens_lost"],
    )


def from_clean(sections: Mapping[str, Any], why: str, own_tokenizer: bool) -> Data:
    """Rows of data/clean, rendered, tokenized and packed as the pack stage does it; of many rows, a part."""
    from stages.pack.clean_rows import open_rows
    from stages.pack.documents import Task, documents_of
    from stages.pack.model_limits import vocabulary_of
    from stages.pack.overlong import Cost
    from stages.pack.packing import pack as packing_of
    from stages.pack.split import validation_split

    pack = sections["pack"]
    with open_rows() as file:
        rows, groups = file.metadata.num_rows, min(file.num_row_groups, SAMPLE_GROUPS)
        sampled = sum(file.metadata.row_group(group).num_rows for group in range(groups))
    task = Task(0, str(MODEL), (), vocabulary_of(MODEL), pack, sections["prompt"], alone=True)
    parts = [documents_of(task._replace(group=group)) for group in range(groups)]
    dropped: Counter[str] = sum((part.dropped for part in parts), Counter())
    if not sum(len(part.lengths) for part in parts):
        raise UserError(
            f"{ROWS}: no rows left to pack ({dict(dropped)}). Raise pack.max_length or change prompt.style."
        )
    cost = Cost()
    for part in parts:
        cost.add(part.cost)
    split = validation_split([part.components for part in parts], pack.validation_share)
    held_out = np.concatenate([split.held_out(part.components) for part in parts])
    lengths, labelled, first = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("lengths", "labelled", "first")
    )
    trained = lengths[~held_out]
    packing = packing_of(trained, pack.max_length, pack.max_documents)
    scale = rows / max(1, sampled)
    whole = "" if sampled == rows else f", of {sampled:,} of its {rows:,} rows"
    foreign = "" if own_tokenizer else ", with models/base's tokenizer, which is of another model"
    return Data(
        origin="clean",
        said=f"{why}: packed here from data/clean{whole}{foreign}",
        rows_in=rows,
        rows=round(scale * int(first[~held_out].sum())),
        **packed(trained[packing.order], packing.starts[:-1], scale),
        labelled_share=float(labelled[~held_out].sum() / max(1, trained.sum())),
        validation_rows=round(scale * int(first[held_out].sum())),
        validation_tokens=round(scale * int(lengths[held_out].sum())),
        overlong=pack.overlong,
        overlong_rows=round(scale * cost.rows),
        overlong_dropped=round(scale * cost.dropped),
        tokens_lost=round(scale * cost.tokens_lost),
    )


def from_stand_ins(sections: Mapping[str, Any], why: str) -> Data:
    """Rows of the sizes that the data sets are known to have, between what the prompt format puts around a row."""
    from stages.pack.packing import pack as packing_of

    pack, sources = sections["pack"], sections["fetch"].sources
    known = [DATA[source.repo] for source in sources]
    bare = np.concatenate([one.tokens() for one in known])
    answers = np.concatenate([one.tokens() * one.answer_share for one in known])
    every = bare + around(sections["prompt"])
    kept, cost = within(every, pack.max_length, pack.overlong)
    count = round(pack.validation_share * len(kept))
    held_out = np.zeros(len(kept), bool)
    if count:
        held_out[np.linspace(0, len(kept) - 1, count).round().astype(int)] = True
    lengths = kept[~held_out]
    packing = packing_of(lengths, pack.max_length, pack.max_documents)
    said = "; ".join(f"{source.repo}: {one.said}" for source, one in zip(sources, known, strict=True))
    return Data(
        origin="stand-ins",
        said=f"{why}, and the rows are not here: stand-in rows at {CHARACTERS_PER_TOKEN} characters a token ({said})",
        rows_in=len(every),
        rows=len(lengths),
        **packed(lengths[packing.order], packing.starts[:-1]),
        labelled_share=float(answers.sum() / every.sum()),
        validation_rows=count,
        validation_tokens=int(kept[held_out].sum()),
        overlong=pack.overlong,
        **cost,
    )


def around(prompt: Any) -> int:
    """Tokens that a prompt format puts around a question and an answer, end-of-text and BOS with them."""
    from stages.common.text.templates import opening

    if prompt.style == "chat":
        return 60  # conf/prompt/chat.yaml: about; the template is the tokenizer's
    texts = {"completion": "", "template": prompt.template}
    text = texts[prompt.style] if prompt.style in texts else opening("", None, prompt)
    return 2 + round(len(text) / CHARACTERS_PER_TOKEN)


def within(lengths: INT, limit: int, mode: str) -> tuple[INT, dict[str, Any]]:
    """Documents of at most `limit` tokens of those lengths, and what that cost."""
    over = lengths > limit
    if mode == "truncate":
        kept, lost = np.minimum(lengths, limit), int((lengths - limit)[over].sum())
    elif mode == "split":
        parts = -(-lengths // limit)
        kept, lost = np.repeat(lengths // parts, parts), 0
    else:
        kept, lost = lengths[~over], int(lengths[over].sum())
    dropped = int(over.sum()) if mode in ("drop", "fail") else 0
    return kept, {"overlong_rows": int(over.sum()), "overlong_dropped": dropped, "tokens_lost": lost}


def heaviest_batch(
    data: Data, order: Sequence[int], size: int, config: Mapping[str, Any], train: Any, cuda: bool
) -> Batch:
    """The micro batch whose layers keep the most, of `size` packs each in training order."""
    packs = np.asarray(order)
    starts = np.arange(0, len(packs), size)
    tokens, pairs = (np.add.reduceat(each[packs], starts) for each in (data.pack_tokens, data.pack_pairs))
    longest = np.maximum.reduceat(data.pack_longest[packs], starts)
    most = {int(i) for each in (tokens, pairs) for i in np.argsort(each)[-CANDIDATES:]}
    found = [
        Batch(int(tokens[i]), int(pairs[i]), int(longest[i]), round(data.labelled_share * int(tokens[i])))
        for i in sorted(most)
    ]
    return max(found, key=lambda batch: layer_activations(config, train, batch, cuda))
