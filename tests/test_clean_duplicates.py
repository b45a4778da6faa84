"""Near duplicates against a brute-force oracle; bands, components, and who is kept."""

import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.clean.duplicates import (
    Pairs,
    band_shape,
    components,
    equal_groups,
    jaccard,
    near_pairs,
    normalized,
    representatives,
    shingle_words,
    shingles,
    text_digest,
)
from stages.clean.engine import band_keys
from stages.clean.settings import NearDuplicates

NEAR = NearDuplicates()


def corpus(seed: int, families: int = 12, size: int = 5) -> list[str]:
    """Texts in families: each member replaces a growing share of its family's words."""
    rng = random.Random(seed)
    texts = []
    for family in range(families):
        base = [f"w{rng.randrange(400)}" for _ in range(rng.randrange(40, 120))]
        for member in range(size):
            words = [
                f"x{rng.randrange(400)}" if rng.random() < 0.02 * member * (family % 3) else w for w in base
            ]
            texts.append(" ".join(words))
    rng.shuffle(texts)
    return texts


def oracle(texts: list[str]) -> dict[tuple[int, int], float]:
    """Jaccard similarity of every pair."""
    sets = [shingles(text, NEAR.shingle_words) for text in texts]
    size = range(len(texts))
    return {(i, j): jaccard(sets[i], sets[j]) for i in size for j in size if i < j}


def partition(labels: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels.tolist())}


def brute_components(size: int, truth: dict[tuple[int, int], float], threshold: float) -> set[frozenset[int]]:
    """Components by repeated merging: nothing shared with the code under test."""
    groups = [{place} for place in range(size)]
    for (i, j), similarity in truth.items():
        if similarity >= threshold:
            a = next(g for g in groups if i in g)
            b = next(g for g in groups if j in g)
            if a is not b:
                groups.remove(b)
                a |= b
    return {frozenset(group) for group in groups}


@pytest.mark.parametrize("seed", range(4))
def test_components_are_those_of_all_pairs(seed: int) -> None:
    texts = corpus(seed)
    truth = oracle(texts)
    pairs = near_pairs(texts, NEAR)
    expected = brute_components(len(texts), truth, NEAR.threshold)
    assert partition(components(len(texts), pairs, NEAR.threshold)) == expected
    assert 12 < len(expected) < len(texts)  # some were joined, some were not


def test_similarities_are_exact_and_nothing_below_related_is_paired() -> None:
    texts = corpus(9)
    truth = oracle(texts)
    pairs = near_pairs(texts, NEAR)
    found = dict(
        zip(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True), pairs.similarity, strict=True)
    )
    assert found
    assert all(truth[pair] == value and value >= NEAR.related for pair, value in found.items())


def test_a_threshold_below_related_is_the_least() -> None:
    texts = ["a b c d e f g h", "a b c d e f x y", "p q r s t u"]
    assert oracle(texts)[0, 1] == pytest.approx(1 / 3)
    assert len(near_pairs(texts, NEAR).left) == 0
    assert near_pairs(texts, NearDuplicates(threshold=0.3)).similarity.tolist() == pytest.approx([1 / 3])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=9), max_size=8))
def test_small_texts_of_every_shape(words: list[list[str]]) -> None:
    texts = [" ".join(line) for line in words]
    pairs = near_pairs(texts, NEAR)
    labels = components(len(texts), pairs, NEAR.threshold)
    assert partition(labels) == brute_components(len(texts), oracle(texts), NEAR.threshold)


def test_one_thread_gives_the_same_as_all() -> None:
    code = (
        "import daft; daft.set_runner_native(num_threads=1);"
        "from tests.test_clean_duplicates import corpus, NEAR; from stages.clean.duplicates import near_pairs;"
        "p = near_pairs(corpus(3), NEAR); print(p.left.tolist(), p.right.tolist(), p.similarity.tolist())"
    )
    pairs = near_pairs(corpus(3), NEAR)
    expected = f"{pairs.left.tolist()} {pairs.right.tolist()} {pairs.similarity.tolist()}\n"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == expected


def test_bands_a_pass_do_not_matter() -> None:
    texts = corpus(5)
    one, many = (near_pairs(texts, NearDuplicates(bands_per_pass=n)) for n in (1, 64))
    assert partition(components(len(texts), one, 0.7)) == partition(components(len(texts), many, 0.7))


@pytest.mark.parametrize(
    ("similarity", "shape"),
    [(0.3, (128, 2)), (0.5, (64, 4)), (0.7, (42, 6)), (0.9, (17, 15)), (1.0, (1, 256))],
)
def test_band_shape(similarity: float, shape: tuple[int, int]) -> None:
    assert band_shape(256, similarity, 0.98) == shape
    bands, rows = shape
    assert 1 - (1 - similarity**rows) ** bands >= 0.98


def test_band_keys_tell_bands_and_values_apart() -> None:
    signatures = np.random.default_rng(0).integers(0, 2**32, (50, 256), dtype=np.uint32)
    signatures[1] = signatures[0]
    signatures[2, 4:] = signatures[0, 4:]
    signatures[3] = np.tile(signatures[3, :4], 64)  # the same values in every band
    keys = band_keys(signatures, 64, 4)
    assert (keys[0] == keys[1]).all()
    assert (keys[0] == keys[2]).sum() == 63
    assert len(np.unique(keys)) == 50 * 64 - 64 - 63


def test_words_keep_operators() -> None:
    assert shingle_words("if a+b != c:\n    x_1()") == "if a + b != c : x_1 ()"
    assert shingles(shingle_words("a + b - c"), 5) != shingles(shingle_words("a - b + c"), 5)


def test_shingles_of_short_texts() -> None:
    assert shingles("a b", 5) == {"a b"}
    assert shingles("a b c d e f", 5) == {"a b c d e", "b c d e f"}
    assert shingles("", 5) == set()
    assert jaccard(frozenset(), frozenset()) == 0


def test_normalized_text() -> None:
    assert normalized("a  \r\n\n  b\t\n") == "a\n  b"
    assert text_digest("caf\u00e9\n") == text_digest("cafe\u0301")
    assert text_digest("a\n b") != text_digest("a\nb")  # indentation is meaning


def test_the_lowest_rank_stands_for_its_group() -> None:
    ranks = np.array([3, 0, 2, 1, 4])
    assert equal_groups(["a", "b", "a", "", ""], ranks).tolist() == [2, 1, 2, 3, 4]
    assert representatives(np.array([7, 7, 5, 5, 7]), ranks).tolist() == [1, 1, 3, 3, 1]
    assert representatives(np.array([], dtype=int), np.array([], dtype=int)).tolist() == []


def test_components_join_through_a_third_row() -> None:
    pairs = Pairs(np.array([0, 1]), np.array([1, 3]), np.array([0.8, 0.6]))
    assert partition(components(4, pairs, 0.7)) == {frozenset({0, 1}), frozenset({2}), frozenset({3})}
    assert partition(components(4, pairs, 0.5)) == {frozenset({0, 1, 3}), frozenset({2})}
