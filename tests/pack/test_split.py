"""The validation split: whole components by their hash, and components that are too large for it."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.pack.split import component_hash, validation_mask


def split(components: Sequence[str], share: float, seed: int = 0) -> tuple[list[bool], str]:
    """Whether each of the rows "0", "1", ... is held out, and the warning."""
    hashes = np.array([component_hash(component, seed) for component in components], np.uint64)
    mask, warning = validation_mask(hashes, [str(i) for i in range(len(components))], share)
    return mask.tolist(), warning


def sides(components: Sequence[str], share: float, seed: int = 0) -> tuple[set[str], set[str]]:
    """Components in training, and those held out."""
    mask, _ = split(components, share, seed)
    pairs = list(zip(components, mask, strict=True))
    return {one for one, out in pairs if not out}, {one for one, out in pairs if out}


@given(st.lists(st.integers(0, 30).map(str), max_size=80), st.floats(0.01, 0.99), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_both_sides_get_a_row_and_no_component_is_cut_without_a_warning(
    components: list[str], share: float, seed: int
) -> None:
    train, held_out = sides(components, share, seed)
    mask, warning = split(components, share, seed)
    if len(set(components)) > 1:
        assert 0 < sum(mask) < len(mask)
    if "row by row" not in warning:
        assert not train & held_out
    largest = max((components.count(one) for one in components), default=0)
    assert bool(warning) is (largest > max(1.0, share * len(components)))


def test_the_split_holds_out_the_share_and_depends_on_the_seed() -> None:
    components = [str(i) for i in range(1000)]
    one, two = (sides(components, 0.1, seed)[1] for seed in (0, 1))
    assert 70 < len(one) < 130
    assert one != two
    assert split(components, 0.0) == ([False] * 1000, "")


def test_adding_a_component_moves_no_other_between_splits() -> None:
    components = [str(i) for i in range(400)]
    assert sides(components, 0.1)[1] - {"new"} == sides([*components, "new"], 0.1)[1] - {"new"}


def test_a_large_component_stays_in_training_where_the_others_can_make_the_share() -> None:
    for seed in range(20):
        components = ["big"] * 400 + [str(i) for i in range(600)]
        train, held_out = sides(components, 0.1, seed)
        assert "big" in train - held_out
        assert 70 < len(held_out) < 130  # of 1000 rows
    assert "400 of 1000 documents" in split(components, 0.1)[1]


@pytest.mark.parametrize(
    "components", [["one"] * 1000, ["one"] * 700 + ["two"] * 300, ["one"] * 900 + [*"abcdefghij"] * 10]
)
def test_components_that_are_most_of_the_rows_are_split_row_by_row(components: list[str]) -> None:
    mask, warning = split(components, 0.2)
    assert 160 < sum(mask) < 240
    assert "row by row" in warning
    whole = {one for one in components if components.count(one) <= 200}
    train, held_out = sides(components, 0.2)
    assert not train & held_out & whole


def test_documents_of_one_row_stay_together() -> None:
    hashes = np.full(300, 7, np.uint64)
    mask, _ = validation_mask(hashes, [str(i // 3) for i in range(300)], 0.2)
    assert (mask.reshape(-1, 3).sum(axis=1) % 3 == 0).all()
    assert 0 < mask.sum() < 300
