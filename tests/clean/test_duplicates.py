"""Near duplicates against a brute-force oracle; bands, components, and who is kept."""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.clean.contamination.decontaminate import ProblemIndex
from stages.clean.duplicates import signatures
from stages.clean.duplicates.deduplicate import (
    cluster_size_counts,
    deduplicate,
    key_labels,
    normalize_text,
    preference_ranks,
    text_digest,
)
from stages.clean.duplicates.near_duplicates import (
    NEIGHBOURS,
    Components,
    Likeness,
    NearDuplicateGraph,
    near_components,
    representatives,
)
from stages.clean.duplicates.shingles import band_keys, minhash, shared_shares, shingle_hashes
from stages.clean.duplicates.sides import question_and_answer, question_digest
from stages.clean.duplicates.signatures import (
    SHINGLE_WORDS,
    Signatures,
    band_shape,
    shared_shingles,
    sign,
    write_shingles,
)
from stages.clean.parts import screen_row
from stages.clean.settings import CleanSettings, Contamination, NearDuplicates
from stages.common.engine import SerialEngine

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


def shingles(text: str, size: int) -> set[str]:
    """Shingles as strings: nothing shared with the code under test."""
    words = re.findall(r"\w+|[^\w\s]+", text)
    return {" ".join(words[i : i + size]) for i in range(max(1, len(words) - size + 1))} if words else set()


def jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def oracle(texts: list[str]) -> dict[tuple[int, int], float]:
    """Jaccard similarity of every pair."""
    sets = [shingles(text, SHINGLE_WORDS) for text in texts]
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


def signed(folder: Path, sides: Sequence[tuple[str, str]], near: NearDuplicates, part: int) -> Signatures:
    counts = [
        write_shingles(folder, number, sides[start : start + part])
        for number, start in enumerate(range(0, len(sides), part))
    ]
    return sign(SerialEngine(), folder, counts, near)


def near_of(
    texts: Sequence[str], near: NearDuplicates = NEAR, part: int = 50, alive: np.ndarray | None = None
) -> NearDuplicateGraph:
    """The graph of texts that are answers to no question."""
    with TemporaryDirectory() as folder:
        found = signed(Path(folder), [("", text) for text in texts], near, part)
        likeness = Likeness(found, np.zeros(len(texts), np.uint64), near)
        return near_components(np.ones(len(texts), bool) if alive is None else alive, likeness)


@pytest.fixture
def sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many bands that no pair is missed."""
    monkeypatch.setattr(signatures, "RECALL", 0.9999999)
    monkeypatch.setattr(signatures, "PERMUTATIONS", 1024)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.usefixtures("sure")
def test_components_are_those_of_all_pairs(seed: int) -> None:
    texts = corpus(seed)
    truth = oracle(texts)
    near = near_of(texts)
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signatures, "RECALL", 0.2)
        labels = near_of(texts).duplicates.labels
    for (i, j), similarity in truth.items():
        if similarity == 1:
            assert labels[i] == labels[j]
    for group in partition(labels):
        assert any(group <= whole for whole in brute_components(len(texts), truth, NEAR.threshold))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(alphabet="ab c+.\n\u00e9\u2014\u00a0\U0001f600_1", max_size=40), max_size=8))
def test_small_texts_of_every_shape(texts: list[str]) -> None:
    labels = near_of(texts, part=3).duplicates.labels if texts else np.zeros(0, int)
    truth = oracle(texts)
    assert partition(labels) == brute_components(len(texts), truth, NEAR.threshold)


def test_similarities_are_exact(tmp_path: Path) -> None:
    texts = corpus(9)
    found = signed(tmp_path, [("", text) for text in texts], NEAR, 7)
    truth = oracle(texts)
    left, right = (np.array(side) for side in zip(*truth, strict=True))
    assert found.similarity(left, right).tolist() == [truth[pair] for pair in truth]


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=60), st.integers(1, 6))
def test_what_else_is_hashed_with_a_text_does_not_matter(text: str, size: int) -> None:
    """Texts of ASCII are hashed by tables of bytes, others by tables of all characters."""
    alone, counts = shingle_hashes([text], size)
    both, wide = shingle_hashes([text, "é"], size)
    assert both[: counts[0]].tolist() == alone.tolist()
    assert wide.tolist() == [counts[0], 1]


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
    assert near_of(texts).related.labels.tolist() == [0, 1, 2]
    assert near_of(texts, NearDuplicates(threshold=0.3)).duplicates.labels.tolist() == [0, 0, 2]


def test_dropped_rows_join_no_component() -> None:
    texts = ["a b c d e f g h"] * 3 + ["p q r"]
    near = near_of(texts, NEAR, part=2, alive=np.array([True, False, True, True]))
    assert near.duplicates.labels.tolist() == [0, 1, 0, 3]


@pytest.mark.parametrize(
    ("similarity", "shape"), [(0.1, (40, 1)), (0.3, (154, 3)), (0.5, (32, 3)), (0.7, (10, 3)), (1.0, (1, 3))]
)
def test_band_shape(similarity: float, shape: tuple[int, int]) -> None:
    bands, rows = band_shape(similarity)
    assert (bands, rows) == shape
    if rows > 1:
        assert 1 - (1 - similarity**rows) ** bands >= signatures.RECALL


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
    """5,000 rows, each pair at 0.9 or more: 12 million pairs, few of them compared."""
    rng = random.Random(0)
    base = [f"w{i}" for i in range(120)]
    rows = 5_000
    texts = [" ".join([*base, f"x{rng.randrange(10**9)}"]) for _ in range(rows)]
    near = near_of(texts, NearDuplicates(), part=1024)
    assert (near.duplicates.labels == 0).all()
    assert near.compared < 2 * rows
    assert len(near.seen_pairs) < rows


def test_similar_rows_that_are_not_duplicates_are_compared_with_neighbours_only() -> None:
    """Half of each row is the same: every pair is at 0.33, and collides in many bands."""
    rng = random.Random(1)
    head = [f"w{i}" for i in range(50)]
    texts = [" ".join([*head, *(f"x{rng.randrange(10**9)}" for _ in range(50))]) for _ in range(600)]
    near = near_of(texts, NEAR)
    assert (near.duplicates.labels == np.arange(600)).all()
    assert near.compared < 600 * NEIGHBOURS * 64 / 10


def test_a_chain_of_near_rows_drops_no_row_unlike_the_one_kept(tmp_path: Path) -> None:
    """Each text replaces twenty words of the one before: neighbours are at 0.7 or more, ends share nothing."""
    words = [f"w{i}" for i in range(400)]
    texts = [" ".join(words[20 * i : 20 * i + 120]) for i in range(12)]
    truth, sides = oracle(texts), [("", text) for text in texts]
    likeness = Likeness(signed(tmp_path, sides, NEAR, 5), np.zeros(12, np.uint64), NEAR)
    labels = near_components(np.ones(12, bool), likeness).duplicates.labels
    assert (labels == 0).all()
    rows = np.arange(12)
    kept_for = representatives(labels, rows, rows, likeness.near)
    assert kept_for.tolist() == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10]
    assert all(truth[kept, row] >= 0.7 for row, kept in enumerate(kept_for) if kept != row)


def kept_of(records: list[dict[str, Any]], folder: Path) -> tuple[list[int], int]:
    """Positions of the rows that `near` keeps, and the components of related rows among all."""
    sides = [question_and_answer(record) for record in records]
    questions = np.array([question_digest(question, False) for question, _ in sides], np.uint64)
    likeness = Likeness(signed(folder, sides, NEAR, 7), questions, NEAR)
    size = len(records)
    none = np.zeros(size, np.uint64)
    done = deduplicate(["near"], np.ones(size, bool), np.arange(size), {"ast": none}, likeness)
    return np.flatnonzero(done.dropped_by < 0).tolist(), len(set(done.component.tolist()))


def test_renderings_of_one_problem_are_kept_and_stay_together(tmp_path: Path) -> None:
    """Rows 0 and 1 have one parent and the same code; row 2 copies them; row 3 is a whole copy of row 0."""
    texts = [("", " ".join(f"w{i}" for i in range(60)) + end) for end in (" a", " b", " c", " a")]
    parents, codes = np.array([5, 5, 0, 5], np.uint64), np.full(4, 7, np.uint64)
    keys = {"exact": np.array([1, 2, 3, 1], np.uint64), "ast": codes}
    none, every = np.zeros(4, np.uint64), np.ones(4, bool)
    for rules, kept in ((["exact", "ast"], [0, 1]), (["exact", "near"], [0, 1]), (["exact"], [0, 1, 2])):
        likeness = Likeness(signed(tmp_path, texts, NEAR, 4), none, NEAR, parents)
        done = deduplicate(rules, every, np.arange(4), keys, likeness)
        assert np.flatnonzero(done.dropped_by < 0).tolist() == kept
        assert set(done.component[kept].tolist()) == {0}


def test_renderings_that_nothing_else_relates_share_a_component(tmp_path: Path) -> None:
    texts = [("", " ".join(f"{name}{i}" for i in range(60))) for name in "abc"]
    parents, none = np.array([5, 0, 5], np.uint64), np.zeros(3, np.uint64)
    likeness = Likeness(signed(tmp_path, texts, NEAR, 3), none, NEAR, parents)
    done = deduplicate(["near"], np.ones(3, bool), np.arange(3), {"ast": none}, likeness)
    assert done.dropped_by.tolist() == [-1] * 3
    assert done.component.tolist() == [0, 1, 0]


SCHEMA = " ".join(f"CREATE TABLE t{i} (id INT, a{i} TEXT, b{i} DATE);" for i in range(12))
SYSTEM = " ".join(f"Rule {i} of the house says that nobody may do thing number {i}." for i in range(12))
EXAMPLES = "\n".join(f"Input: example {i} of a text\nLabel: class{i}" for i in range(10))
GREETING = (
    "Hello and welcome! I am the assistant of the town library, and I am glad to help you with books today."
)
APACHE = (
    "# Copyright 2020 A. Author\n# Licensed under the Apache License, Version 2.0\n"
    + "# as is, without warranty of any kind\n" * 12
)
THINGS = ("rakes", "saws", "spades", "seeds", "pots", "hoses", "gloves", "sheds", "bulbs", "mowers", "nets", "shears")  # fmt: skip


def single(prompt: str, completion: str) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, "messages": None, "tools": None}


def chat(*turns: tuple[str, str], extra: str | None = None) -> dict[str, Any]:
    messages = [{"role": role, "content": content, "extra": None} for role, content in turns]
    messages[-1]["extra"] = extra
    return {"prompt": None, "completion": None, "messages": messages, "tools": None}


def call(thing: str) -> str:
    function = {
        "name": "stock",
        "arguments": {"what": thing, "shop": "garden", "unit": "pieces", "all": True},
    }
    return json.dumps({"tool_calls": [{"type": "function", "id": "1", "function": function}]})


SHARED = {
    "system": lambda x: chat(("system", SYSTEM), ("user", f"Do you sell {x}?"), ("assistant", f"Yes, we do have {x}.")),
    "schema": lambda x: single(f"{SCHEMA}\nQuestion: how many {x} are there?", f"SELECT count(*) FROM {x};"),
    "schema after the question": lambda x: single(f"How many {x}? {SCHEMA}", f"SELECT count(*) FROM {x};"),
    "examples, one of two labels": lambda x: single(f"{EXAMPLES}\nInput: what we wrote on {x} last week\nLabel:", f" {len(x) % 2}"),
    "context": lambda x: chat(("user", f"Context: {SYSTEM}\n\nWhat does it say about {x}?"), ("assistant", f"Nothing on {x}.")),
    "greeting": lambda x: chat(("assistant", GREETING), ("user", f"Where are the {x}?"), ("assistant", f"In the hall of {x}.")),
    "greeting after a word": lambda x: chat(("user", "Hi"), ("assistant", GREETING), ("user", f"And {x}?"), ("assistant", f"The {x} are out.")),
    "greeting in the answer": lambda x: chat(("user", f"Where are the {x} kept?"), ("assistant", f"{GREETING} Look at {x}.")),
    "licence header": lambda x: single("", f"{APACHE}def {x}(a):\n    return a.{x} + {len(x)}\n"),
    "licence header in a fence": lambda x: chat(("user", f"Write {x}"), ("assistant", f"```python\n{APACHE}def {x}(a):\n    return a.{x}\n```")),
    "tool call": lambda x: chat(("user", f"Is there any of the {x} left?"), ("assistant", ""), extra=call(x)),
}  # fmt: skip


@pytest.mark.parametrize("kind", SHARED)
def test_what_rows_share_by_construction_makes_no_duplicates(kind: str, tmp_path: Path) -> None:
    kept, components = kept_of([SHARED[kind](thing) for thing in THINGS], tmp_path)
    assert kept == list(range(len(THINGS)))
    assert components >= 6 or kind in ("greeting in the answer", "tool call")  # answers alike: related


@pytest.mark.parametrize("kind", SHARED)
def test_copies_among_rows_that_share_much_are_dropped(kind: str, tmp_path: Path) -> None:
    rows = [SHARED[kind](thing) for thing in THINGS]
    kept, _ = kept_of([*rows, rows[3], *rows[:2]], tmp_path)
    assert kept == list(range(len(THINGS)))


def test_answers_to_one_question_are_related_even_where_many_rows_ask_it(tmp_path: Path) -> None:
    rows = [
        single("Name one thing that a garden shop has on its shelves.", f"It has {x}, and {x}.")
        for x in THINGS
    ]
    kept, components = kept_of(rows, tmp_path)
    assert (len(kept), components) == (len(THINGS), 1)


def test_rows_that_differ_in_their_tools_are_no_duplicates(tmp_path: Path) -> None:
    def offered(name: str, *parameters: str) -> str:
        properties = {key: {"type": "string", "description": f"The {key} to use"} for key in parameters}
        function = {"name": name, "parameters": {"type": "object", "properties": properties}}
        return json.dumps([{"type": "function", "function": function}])

    asked = chat(
        ("user", "What is the weather in Oslo today?"), ("assistant", "I cannot tell without a look.")
    )
    tools = [offered("send_mail", "sender", "subject", "body"), offered("add_event", "date", "place"), None]
    rows = [
        {**asked, "id": "x", "source": "s", "licence": "MIT", "tests": None, "tools": each, "metadata": "{}"}
        for each in tools
    ]
    assert kept_of([*rows, rows[1]], tmp_path)[0] == [0, 1, 2]
    index = ProblemIndex([], Contamination())
    digests = [screen_row(made, index, CleanSettings(rules=[])).digest for made in [*rows, rows[1]]]
    assert len(set(digests)) == 3
    assert digests[1] == digests[3]


def test_shared_shingles_are_counted_by_row(tmp_path: Path) -> None:
    rows = [("a b c d e", "v w x y z"), ("a b c d e a b c d e", "v w x y z"), ("k l m n o", "")]
    shared = ("s t u v w x", "v w x y z")
    parts = [[*rows, shared], [shared] * 4]
    counts = [write_shingles(tmp_path, number, part) for number, part in enumerate(parts)]
    expected = shingle_hashes(["s t u v w x"], SHINGLE_WORDS)[0]
    assert shared_shingles(tmp_path, counts).tolist() == sorted(expected.tolist())
    found = sign(SerialEngine(), tmp_path, counts, NEAR)
    assert found.counts.tolist() == [[1, 1], [6, 1], [1, 0], *[[0, 1]] * 5]
    assert found.similarity(np.array([0, 3]), np.array([1, 4])).tolist() == [2 / 6, 1.0]


@pytest.mark.parametrize(
    ("question", "is_module", "asks"),
    [
        ("Say hi.", False, True), ("", False, False), ("# Say hi.\n", True, True), ('"""Say hi."""\n', True, True),
        ("def hi():\n", True, False), ("# Say\nimport os\n", True, False), ("# Say\ndef hi():\n", True, False),
    ],
)  # fmt: skip
def test_code_is_no_question(question: str, is_module: bool, asks: bool) -> None:
    assert (question_digest(question, is_module) > 0) is asks


def test_normalized_text() -> None:
    assert normalize_text("a  \r\n\n  b\t\n") == "a\n  b"
    assert text_digest("caf\u00e9\n") == text_digest("cafe\u0301")
    assert text_digest("a\n b") != text_digest("a\nb")  # indentation is meaning
    assert 0 < text_digest("") < 1 << 64


@given(st.lists(st.sampled_from([0, 1, 2, 2**40]), max_size=12), st.randoms(use_true_random=False))
def test_the_lowest_rank_stands_for_its_group(halves: list[int], rng: random.Random) -> None:
    keys = np.array(halves, np.uint64)
    ranks = list(range(len(halves)))
    rng.shuffle(ranks)
    found = representatives(key_labels(keys), np.arange(len(halves)), np.array(ranks, np.int64))
    for place, chosen in enumerate(found.tolist()):
        group = [other for other, half in enumerate(halves) if half == halves[place]]
        assert chosen == min(group if halves[place] else [place], key=ranks.__getitem__)


def test_ranks_put_validated_rows_first_then_longer_ones() -> None:
    sizes = np.array([[5, 9], [7, 9], [5, 9], [5, 10], [1, 1]])
    assert preference_ranks(np.array([False] * 4 + [True]), sizes).tolist() == [3, 1, 4, 2, 0]


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
