"""Near duplicates against a brute-force oracle; bands, components, and who is kept."""

import random
import re
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.clean.duplicates.deduplicate import (
    cluster_size_counts,
    normalize_text,
    preference_ranks,
    representatives_by_key,
    text_digest,
)
from stages.clean.duplicates.near_duplicates import (
    LEADERS,
    Components,
    NearDuplicateGraph,
    Signatures,
    band_shape,
    drop_unique_keys,
    near_components,
    near_duplicates,
    representatives_by_label,
    write_signatures,
)
from stages.clean.duplicates.shingles import band_keys, minhash, shared_shares, shingle_hashes
from stages.clean.settings import NearDuplicates
from stages.common.engine import SerialEngine

NEAR = NearDuplicates()
SURE = NearDuplicates(permutations=512, recall=0.999999)  # none is missed


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


def shingles(text: str, size: int) -> set[str]:
    """Shingles as strings: nothing shared with the code under test."""
    words = re.findall(r"\w+|[^\w\s]+", text)
    return {" ".join(words[i : i + size]) for i in range(max(1, len(words) - size + 1))} if words else set()


def jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def oracle(texts: list[str]) -> dict[tuple[int, int], float]:
    """Jaccard similarity of every pair."""
    sets = [shingles(text, NEAR.shingle_words) for text in texts]
    size = range(len(texts))
    return {(i, j): jaccard(sets[i], sets[j]) for i in size for j in size if i < j}


def partition(labels: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels.tolist())}


def brute_components(size: int, truth: dict[tuple[int, int], float], threshold: float) -> set[frozenset[int]]:
    """Components by repeated merging."""
    groups = [{place} for place in range(size)]
    for (i, j), similarity in truth.items():
        if similarity >= threshold:
            a = next(g for g in groups if i in g)
            b = next(g for g in groups if j in g)
            if a is not b:
                groups.remove(b)
                a |= b
    return {frozenset(group) for group in groups}


def near_of(
    texts: Sequence[str], near: NearDuplicates, part: int = 50, alive: np.ndarray | None = None
) -> NearDuplicateGraph:
    with TemporaryDirectory() as folder:
        starts = range(0, len(texts), part)
        counts = [
            write_signatures(Path(folder), number, texts[start : start + part], near)
            for number, start in enumerate(starts)
        ]
        return near_components(
            Signatures(Path(folder), counts), np.ones(len(texts), bool) if alive is None else alive, near
        )


@pytest.mark.parametrize("seed", range(4))
def test_components_are_those_of_all_pairs(seed: int) -> None:
    texts = corpus(seed)
    truth = oracle(texts)
    near = near_of(texts, SURE)
    expected = brute_components(len(texts), truth, NEAR.threshold)
    assert partition(near.duplicates.labels) == expected
    assert partition(near.related.labels) == brute_components(len(texts), truth, NEAR.related)
    assert 12 < len(expected) < len(texts)  # some were joined, some were not


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_only_banding_misses_pairs(seed: int) -> None:
    """With few bands components are finer than the truth, never coarser."""
    texts = corpus(seed, families=6)
    truth = oracle(texts)
    labels = near_of(texts, NearDuplicates(permutations=8, recall=0.5)).duplicates.labels
    for (i, j), similarity in truth.items():
        if similarity == 1:
            assert labels[i] == labels[j]
    for group in partition(labels):
        assert any(group <= whole for whole in brute_components(len(texts), truth, NEAR.threshold))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(alphabet="ab c+.\n\u00e9\u2014\u00a0\U0001f600_1", max_size=40), max_size=8))
def test_small_texts_of_every_shape(texts: list[str]) -> None:
    labels = near_of(texts, SURE, part=3).duplicates.labels if texts else np.zeros(0, int)
    truth = oracle(texts)
    assert partition(labels) == brute_components(len(texts), truth, NEAR.threshold)


def test_similarities_are_exact(tmp_path: Path) -> None:
    texts = corpus(9)
    signatures = Signatures(tmp_path, [write_signatures(tmp_path, 0, texts, NEAR)])
    truth = oracle(texts)
    left, right = (np.array(side) for side in zip(*truth, strict=True))
    assert signatures.similarity(left, right).tolist() == [truth[pair] for pair in truth]


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=60), st.integers(1, 6))
def test_what_else_is_hashed_with_a_text_does_not_matter(text: str, size: int) -> None:
    """Texts of ASCII are hashed by tables of bytes, others by tables of all characters."""
    alone, counts = shingle_hashes([text], size)
    both, wide = shingle_hashes([text, "é"], size)
    assert both[: counts[0]].tolist() == alone.tolist()
    assert wide.tolist() == [counts[0], 1]


@given(st.lists(st.integers(0, 40)), st.integers(0, 2**64 - 41))
def test_no_shared_key_is_dropped(numbers: list[int], base: int) -> None:
    keys, rows = np.array(numbers, np.uint64) + np.uint64(base), np.arange(len(numbers), dtype=np.int32)
    kept, its_rows = drop_unique_keys(keys, rows)
    assert kept.tolist() == keys[its_rows].tolist()
    assert {row for row in rows.tolist() if numbers.count(numbers[row]) > 1} <= set(its_rows.tolist())


def test_most_unique_keys_are_dropped() -> None:
    keys = np.random.default_rng(0).integers(0, 2**64, 10_000, dtype=np.uint64)
    assert len(drop_unique_keys(keys, np.arange(10_000))[0]) < 2500


@pytest.mark.slow
@settings(deadline=None)
@given(st.text(max_size=60), st.integers(1, 6))
def test_shingles_are_those_of_the_regular_expression(text: str, size: int) -> None:
    """Characters of every kind: the table of kinds is Python's."""
    hashes, counts = shingle_hashes([text, "one two", "", text], size)
    first = hashes[: counts[0]]
    assert len(set(first.tolist())) == len(shingles(text, size))
    assert counts[0] == counts[3]
    assert counts[2] == 0
    assert hashes[len(hashes) - counts[3] :].tolist() == first.tolist()


def test_a_long_text_and_one_without_line_end() -> None:
    words = " ".join(f"w{i}" for i in range(40_000))
    hashes, counts = shingle_hashes(["a b", words, "a b"], 5)
    assert counts.tolist() == [1, 39_996, 1]
    assert len(set(hashes.tolist())) == 39_997
    assert hashes[0] == hashes[-1]


@given(
    st.lists(st.lists(st.integers(0, 12), max_size=9), min_size=1, max_size=6),
    st.sampled_from([1, 8, 1 << 18]),
)
def test_shared_shares_are_those_of_sets(rows: list[list[int]], shingles: int) -> None:
    """Whatever is compared at a time; shingles that stand twice in a row count once."""
    pairs = [(a, b) for a in range(len(rows)) for b in range(len(rows))]
    hashes = np.array([number * 2**59 for row in rows for number in row], np.uint64)
    left, right = np.array(pairs).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.clean.duplicates.shingles.TABLE_SHINGLES", shingles)
        found = shared_shares(hashes, np.array([len(row) for row in rows]), left, right)
    sets = [set(row) for row in rows]
    expected = [len(sets[a] & sets[b]) / max(1, len(sets[a] | sets[b])) for a, b in pairs]
    assert found.tolist() == expected


def test_words_keep_operators() -> None:
    assert shingle_hashes(["a + b - c"], 5)[0] != shingle_hashes(["a - b + c"], 5)[0]
    assert shingle_hashes(["if a+b:"], 5)[0].tolist() == shingle_hashes(["if  a + b\n:"], 5)[0].tolist()


def test_a_threshold_below_related_is_the_least() -> None:
    texts = ["a b c d e f g h", "a b c d e f x y", "p q r s t u"]
    assert oracle(texts)[0, 1] == pytest.approx(1 / 3)
    assert near_of(texts, SURE).related.labels.tolist() == [0, 1, 2]
    assert near_of(texts, NearDuplicates(threshold=0.3)).duplicates.labels.tolist() == [0, 0, 2]


def test_dropped_rows_join_no_component() -> None:
    texts = ["a b c d e f g h"] * 3 + ["p q r"]
    near = near_of(texts, NEAR, part=2, alive=np.array([True, False, True, True]))
    assert near.duplicates.labels.tolist() == [0, 1, 0, 3]


@pytest.mark.parametrize("keys", [1, 2000, 1 << 20])
def test_bands_a_pass_do_not_matter(keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = corpus(5)
    monkeypatch.setattr("stages.clean.duplicates.near_duplicates.PASS_KEYS", keys)
    few = near_of(texts, NEAR)
    monkeypatch.undo()
    assert few.duplicates.labels.tolist() == near_of(texts, NEAR).duplicates.labels.tolist()
    assert few.related.labels.tolist() == near_of(texts, NEAR).related.labels.tolist()


@pytest.mark.parametrize(
    ("similarity", "shape"),
    [(0.3, (128, 2)), (0.5, (64, 4)), (0.7, (42, 6)), (0.9, (17, 15)), (1.0, (1, 256))],
)
def test_band_shape(similarity: float, shape: tuple[int, int]) -> None:
    assert band_shape(256, similarity, 0.98) == shape


@given(st.integers(1, 1024), st.floats(0.05, 1), st.floats(0.05, 0.999))
def test_bands_are_the_longest_that_find_a_pair(permutations: int, similarity: float, recall: float) -> None:
    def chance(rows: int) -> float:
        return 1 - (1 - similarity**rows) ** (permutations // rows)

    bands, rows = band_shape(permutations, similarity, recall)
    assert 1 <= bands * rows <= permutations
    assert chance(rows) >= recall or rows == 1
    assert rows == permutations or all(
        chance(longer) < recall for longer in range(rows + 1, permutations + 1)
    )


@pytest.mark.parametrize(("shared", "size"), [(20, 100), (50, 100), (80, 100), (5, 8)])
def test_minhash_values_agree_as_often_as_the_jaccard_similarity(shared: int, size: int) -> None:
    """Over 400 pairs of sets: within four standard deviations, were the values independent."""
    rng = np.random.default_rng(shared)
    agreement = []
    for _ in range(400):
        numbers = rng.integers(0, 2**63, 2 * size - shared, dtype=np.uint64)
        both = np.r_[numbers[:size], numbers[-size:]]
        values = minhash(both, np.array([size, size]), 128)
        agreement.append((values[:, 0] == values[:, 1]).mean())
    truth = shared / (2 * size - shared)
    deviation = (truth * (1 - truth) / (128 * 400)) ** 0.5
    assert abs(np.mean(agreement) - truth) < 4 * deviation


def test_bands_collide_with_the_stated_chance() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(600):
        numbers = rng.integers(0, 2**63, 150, dtype=np.uint64)  # 50 of 150 shared: 1/3
        keys = band_keys(minhash(np.r_[numbers[:100], numbers[50:]], np.array([100, 100]), 64), 16, 4)
        found.append((keys[:, 0] == keys[:, 1]).any())
    assert abs(np.mean(found) - (1 - (1 - (1 / 3) ** 4) ** 16)) < 0.07


def test_band_keys_differ_between_bands_and_values() -> None:
    signatures = np.random.default_rng(0).integers(0, 2**32, (50, 256), dtype=np.uint32)
    signatures[1] = signatures[0]
    signatures[2, 4:] = signatures[0, 4:]
    signatures[3] = np.tile(signatures[3, :4], 64)  # the same values in every band
    keys = band_keys(signatures.T, 64, 4).T
    assert (keys[0] == keys[1]).all()
    assert (keys[0] == keys[2]).sum() == 63
    assert len(np.unique(keys)) == 50 * 64 - 64 - 63


@pytest.mark.slow
def test_a_large_cluster_costs_no_more_than_as_many_single_rows() -> None:
    """20,000 rows, each pair at 0.9 or more: 200 million pairs, few of them compared."""
    rng = random.Random(0)
    base = [f"w{i}" for i in range(120)]
    rows = 20_000
    texts = [" ".join([*base, f"x{rng.randrange(10**9)}"]) for _ in range(rows)]
    started = time.process_time()
    near = near_of(texts, NearDuplicates(), part=4096)
    seconds = time.process_time() - started
    assert (near.duplicates.labels == 0).all()
    assert near.compared < 2 * rows
    assert len(near.seen_pairs) < rows
    assert seconds < 30


def test_similar_rows_that_are_not_duplicates_are_compared_with_leaders_only() -> None:
    """Half of each row is the same: every pair is at 0.33, and collides in many bands."""
    rng = random.Random(1)
    head = [f"w{i}" for i in range(50)]
    texts = [" ".join([*head, *(f"x{rng.randrange(10**9)}" for _ in range(50))]) for _ in range(600)]
    near = near_of(texts, NEAR)
    assert (near.duplicates.labels == np.arange(600)).all()
    assert near.compared < 600 * LEADERS * 64 / 10


def test_one_function_over_a_file_of_texts(tmp_path: Path) -> None:
    texts = [*corpus(2), *[f"{text} and" for text in corpus(2)]]
    pq.write_table(pa.table({"text": texts}), tmp_path / "t.parquet", row_group_size=17)
    chosen = near_duplicates(tmp_path / "t.parquet", "text", SURE, SerialEngine())
    for group in brute_components(len(texts), oracle(texts), NEAR.threshold):
        longest = min(group, key=lambda place: (-len(texts[place]), place))
        assert {int(chosen[place]) for place in group} == {longest}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.parquet"]


def test_normalized_text() -> None:
    assert normalize_text("a  \r\n\n  b\t\n") == "a\n  b"
    assert text_digest("caf\u00e9\n") == text_digest("cafe\u0301")
    assert text_digest("a\n b") != text_digest("a\nb")  # indentation is meaning
    assert len(text_digest("")) == 16


@given(st.lists(st.sampled_from([0, 1, 2, 2**40]), max_size=12), st.randoms(use_true_random=False))
def test_the_lowest_rank_stands_for_its_group(halves: list[int], rng: random.Random) -> None:
    keys = np.array([[half, half >> 1] for half in halves], np.uint64).reshape(-1, 2)
    ranks = list(range(len(halves)))
    rng.shuffle(ranks)
    for place, chosen in enumerate(representatives_by_key(keys, np.array(ranks, np.int64)).tolist()):
        group = (
            [other for other, half in enumerate(halves) if half == halves[place]]
            if halves[place]
            else [place]
        )
        assert chosen == min(group, key=ranks.__getitem__)


def test_ranks_put_validated_rows_first_then_longer_ones() -> None:
    sizes = np.array([[5, 9], [7, 9], [5, 9], [5, 10], [1, 1]])
    assert preference_ranks(np.array([False] * 4 + [True]), sizes).tolist() == [3, 1, 4, 2, 0]


def test_representatives_of_labels() -> None:
    ranks = np.array([3, 0, 2, 1, 4])
    assert representatives_by_label(np.array([7, 7, 5, 5, 7]), ranks).tolist() == [1, 1, 3, 3, 1]
    assert representatives_by_label(np.array([], dtype=int), np.array([], dtype=int)).tolist() == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=5), max_size=4))
def test_components_are_joined_incrementally(batches: list[list[tuple[int, int]]]) -> None:
    found = Components(10)
    for batch in batches:
        edges = np.array(batch, np.int64).reshape(-1, 2)
        found.join(edges[:, 0], edges[:, 1])
    truth = {(min(e), max(e)): 1.0 for batch in batches for e in batch if e[0] != e[1]}
    assert partition(found.labels) == brute_components(10, truth, 1)
    assert all(found.labels[label] == label for label in found.labels)


def test_sizes_of_clusters_are_counted_in_classes() -> None:
    sizes = np.array([0, 1, 2, 2, 7, 9, 10, 99_999, 100_000, 10**6])
    assert cluster_size_counts(sizes) == {"2": 2, "5-9": 2, "10-19": 1, "10000-99999": 1, "100000-": 2}
