"""`train.source_weights`: how much a labelled token counts, by the source of its row."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from stages.common.core.errors import UserError
from stages.common.core.files import sha256_folder
from stages.common.core.paths import CLEAN_ROWS, PACKED
from stages.common.model.loss import Head, HeadLoss
from stages.common.model.packs import flatten_packs, read_packs
from stages.train.__main__ import ADAPTER, main
from stages.train.checkpoints import result_settings
from stages.train.settings import TrainSettings
from stages.train.source_weights import label_weight, weigh_packs
from tests.helpers.train_workplace import train_settings


def write_sources() -> None:
    """Every second document of the packs is of source `even`."""
    ids = read_packs(PACKED / "train.arrow").row_ids()
    sources = ["even" if number % 2 == 0 else "odd" for number in range(len(ids))]
    CLEAN_ROWS.parent.mkdir(parents=True)
    pq.write_table(pa.table({"id": ids, "source": sources}), CLEAN_ROWS)


def test_a_weighted_gradient_is_that_of_the_weighted_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    states, head = torch.randn(5, 8, generator=generator), torch.randn(20, 8, generator=generator)
    targets, weights = torch.tensor([3, 7, 1, 0, 19]), torch.tensor([2.0, 0.5, 1.0, 4.0, 1.0])
    ours, plain = states.clone().requires_grad_(), states.clone().requires_grad_()
    loss = HeadLoss.apply(ours, Head(head), targets, True, weights)
    wanted = (torch.nn.functional.cross_entropy(plain @ head.t(), targets, reduction="none") * weights).sum()
    loss.backward()
    wanted.backward()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(ours.grad, plain.grad)


def test_documents_weigh_what_their_source_does(place: Path) -> None:
    write_sources()
    packs = read_packs(PACKED / "train.arrow")
    assert weigh_packs(packs, {"even": 2.5}) == {
        "even": {"weight": 2.5, "documents": 12},
        "odd": {"weight": 1.0, "documents": 12},
    }
    pack = packs[0]
    assert pack["weights"] == [2.5, 1.0, 2.5]
    row = flatten_packs([pack])
    assert row["weights"].tolist()[0] == [
        weight for weight, length in zip(pack["weights"], pack["lengths"], strict=True) for _ in range(length)
    ]
    labelled = [
        weight for weight, label in zip(row["weights"][0], pack["labels"], strict=True) if label != -100
    ]
    assert label_weight(row) == sum(labelled)
    with pytest.raises(UserError, match=r"is of source evne. The packs have even \(12\), odd \(12\)"):
        weigh_packs(packs, {"evne": 2.0})


def test_weights_change_the_training_and_equal_ones_do_not(place: Path) -> None:
    write_sources()
    seen: list[Any] = []
    for weights in ({}, {"even": 1.0}, {"even": 8.0}):
        metrics = main(train_settings(max_steps=3, source_weights=weights))
        assert metrics
        seen.append((sha256_folder(ADAPTER), metrics.get("source_weights"), metrics["train_loss_last"]))
    assert seen[0][0] == seen[1][0] != seen[2][0]
    assert seen[0][1] is None
    assert seen[2][1]["even"] == {"weight": 8.0, "documents": 12}
    assert seen[0][2] == seen[1][2]


def test_a_weight_of_nothing_is_refused_and_none_leaves_the_key_of_a_training() -> None:
    with pytest.raises(
        ValueError, match=r"train.source_weights.mine must be a number above 0|source_weights.mine"
    ):
        TrainSettings(source_weights={"mine": 0.0})
    assert "source_weights" not in result_settings(TrainSettings())
    assert "source_weights" in result_settings(TrainSettings(source_weights={"mine": 2.0}))
