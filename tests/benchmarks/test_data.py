"""The generated corpus and its exact truth: what the benchmark of the data stages is measured by."""

import ast
import json
import random
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.corpora import text_column
from benchmarks.corpus import LEVELS, SHARES, Plan, near_copy, original, rows_of, write_corpus
from benchmarks.jaccard import jaccard, pairs_at_least, shingle_sets
from benchmarks.near import agreement
from stages.clean.code.syntax import read_module_code
from stages.clean.parts import open_raw
from stages.common.rows.schema import Problem

PROBLEMS = [
    Problem(
        f"HumanEval/{n}",
        f'def solve_{n}(x):\n    """Double it."""\n',
        f"solve_{n}",
        f"    return x * 2 + {n}\n",
        "",
    )
    for n in range(5)
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    path = tmp_path_factory.mktemp("corpus") / "rows.parquet"
    write_corpus(path, 1000, 3, PROBLEMS)
    table = pq.read_table(path)
    open_raw(str(path))  # the schema of data/raw
    assert table["id"].to_pylist() == sorted({*table["id"].to_pylist()})
    texts = text_column(path)
    assert texts["id"].to_pylist() == table["id"].to_pylist()
    return [
        {**json.loads(row["metadata"]), "text": text, "turns": row["messages"]}
        for row, text in zip(table.to_pylist(), texts["text"].to_pylist(), strict=True)
    ]


def test_every_kind_has_its_share(rows: list[dict]) -> None:
    counts = Counter(row["planted"] for row in rows)
    assert {kind: counts[kind] for kind in SHARES} == {
        kind: int(1000 * share) for kind, share in SHARES.items()
    }
    assert counts["plain"] == 1000 - sum(int(1000 * share) for share in SHARES.values())


def test_same_seed_same_bytes_other_seed_others(tmp_path) -> None:
    for name, seed in {"a": 1, "b": 1, "c": 2}.items():
        write_corpus(tmp_path / name, 300, seed, PROBLEMS)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_a_row_does_not_depend_on_those_before_it() -> None:
    plan = Plan(400, 5)
    assert len({plan[place] for place in range(400)}) == 400
    whole, half = (list(rows_of(plan, start, 400, 5, PROBLEMS)) for start in (0, 200))
    assert [row | {"id": ""} for row in whole[200:]] == [row | {"id": ""} for row in half]


def test_planted_rows_are_what_they_say(rows: list[dict]) -> None:
    plain = {row["family"]: row for row in rows if row["planted"] == "plain"}
    for row in rows:
        first = plain[row["family"]]
        if row["planted"] == "exact":
            assert row["text"] == first["text"]
        elif row["planted"] == "renamed" and row["turns"] is None:
            assert row["text"] != first["text"]
    same = [
        read_module_code(row["text"]).fingerprint
        == read_module_code(plain[row["family"]]["text"]).fingerprint
        for row in rows
        if row["planted"] == "renamed" and row["turns"] is None
    ]
    assert np.mean(same) > 0.9  # a name may meet one that is free in the function


def test_originals_parse_and_are_all_different(rows: list[dict]) -> None:
    texts = [row["text"] for row in rows if row["planted"] in ("plain", "near") and row["turns"] is None]
    for text in texts:
        ast.parse(text)
    assert len(set(texts)) == len(texts)
    assert 450 < np.mean([len(text) for text in texts]) < 750


@pytest.mark.parametrize("level", LEVELS)
def test_near_copies_meet_their_level(level: float) -> None:
    found = []
    for base in range(40):
        text = original(0, base)
        copy = near_copy(text, level, random.Random(base))
        a, b = shingle_sets([text.whole, copy.whole], 5)
        found.append(jaccard(a, b))
        assert copy.whole != text.whole
    assert abs(np.median(found) - level) < 0.05


@pytest.mark.slow
def test_truth_is_that_of_brute_force(rows: list[dict]) -> None:
    sets = shingle_sets([row["text"] for row in rows[:400]], 5)
    plain = [set(each.tolist()) for each in sets]
    for threshold in (0.3, 0.7, 1.0):
        wanted = {
            (i, j): len(plain[i] & plain[j]) / len(plain[i] | plain[j])
            for j in range(len(plain))
            for i in range(j)
            if len(plain[i] & plain[j]) >= threshold * len(plain[i] | plain[j])
        }
        left, right, similarity = pairs_at_least(sets, threshold)
        assert (
            dict(zip(zip(left.tolist(), right.tolist(), strict=True), similarity.tolist(), strict=True))
            == wanted
        )
        assert wanted


def test_agreement_counts_pairs_in_one_cluster() -> None:
    truth = np.array([0, 0, 0, 3, 4, 4])  # 3 pairs and 1
    found = np.array([0, 0, 2, 2, 4, 4])  # 1 right, 1 wrong, 1 right
    assert agreement(found, truth) == (pytest.approx(2 / 3), pytest.approx(2 / 4))
    assert agreement(truth, truth) == (1.0, 1.0)
