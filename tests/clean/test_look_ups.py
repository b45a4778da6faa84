"""Look-ups change no result of decontamination, only its cost: against the plain way to do it."""

import re
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.clean.code.fingerprint import code_shingles
from stages.clean.contamination import decontaminate
from stages.clean.contamination.benchmark_proximity import (
    candidate_problems,
    find_proximities,
    similar_solutions,
)
from stages.clean.contamination.decontaminate import (
    CONTAMINATION_CHECKS,
    ProblemIndex,
    RunIndex,
    descriptions,
)
from stages.clean.settings import Contamination
from stages.common.rows.schema import Problem
from tests.helpers.clean_rows import CLAMP, RUNS, problem, row

SUMS = problem(
    "Tiny/2",
    'def größe(a, b):\n    """Añade los números İ y ß de las dos listas, straße für straße, y nada más."""\n',
    "größe",
    "    total = 0\n    for x, y in zip(a, b):\n        total += x * y\n    return total\n",
)
PROBLEMS = [("tiny", Problem(**made)) for made in (RUNS, CLAMP, SUMS)]
LIMITS = Contamination()
with pytest.MonkeyPatch.context() as patched:
    patched.setattr(decontaminate, "DOCSTRING_WORDS", 3)
    patched.setattr(decontaminate, "NGRAM_WORDS", 4)
    INDEX = ProblemIndex(PROBLEMS, LIMITS)
# Pieces of problems, and what stands between words or only seems to: marks, digits of other scripts, half characters.
PIECES = sorted(
    {piece for _, p in PROBLEMS for piece in re.findall(r"\S+|\s+", p.prompt + p.canonical_solution)}
)
ODD = [
    " ",
    "\n",
    "_",
    "-",
    "İ",
    "ß",
    "\u0307",
    "\u00a0",
    "²",
    "一二",
    "\ud800",
    "\0",
    "é",
    "e\u0301",
    "\x1c",
    "٣",
    "·",
]
TEXTS = st.lists(
    st.one_of(
        st.sampled_from([p.prompt for _, p in PROBLEMS] + [p.canonical_solution for _, p in PROBLEMS]),
        st.sampled_from(PIECES),
        st.sampled_from(ODD),
        st.sampled_from([" ".join(PIECES[i : i + 6]) for i in range(0, len(PIECES), 3)]),
        st.text(max_size=5),
    ),
    max_size=25,
).map("".join)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def runs(text: str, size: int) -> set[tuple[str, ...]]:
    listed = words(text)
    return {tuple(listed[i : i + size]) for i in range(len(listed) - size + 1)}


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_words_in_common_are_those_of_plain_sets(text: str) -> None:
    made = row(text)
    size = INDEX.ngrams.size
    coverage = {
        p.task_id: len(runs(text, size) & whole) / len(whole)
        for _, p in PROBLEMS
        if (whole := runs(p.prompt + "\n" + p.canonical_solution, size))
    }
    matches = [*CONTAMINATION_CHECKS["contaminated_ngrams"](made, INDEX)]
    assert {match.task_id: match.measure for match in matches} == {
        task: share for task, share in coverage.items() if share > LIMITS.ngram_coverage
    }
    spaced = f" {' '.join(words(text))} "
    holding = {
        p.task_id
        for _, p in PROBLEMS
        for description in descriptions(p)
        if len(words(description)) >= INDEX.docstrings.size and f" {' '.join(words(description))} " in spaced
    }
    assert {match.task_id for match in CONTAMINATION_CHECKS["contaminated_docstring"](made, INDEX)} == holding


@given(
    st.lists(st.sampled_from("abc"), max_size=12),
    st.lists(st.lists(st.sampled_from("abc"), min_size=3, max_size=3)),
)
def test_runs_are_found_in_order(listed: list[str], added: list[list[str]]) -> None:
    index = RunIndex(3)
    for number, run in enumerate(added):
        index.add(run, number)
    expected = {
        " ".join(run): [number for number, other in enumerate(added) if other == run]
        for place in range(len(listed) - 2)
        if (run := listed[place : place + 3]) in added
    }
    assert list(index.find(listed).items()) == list(expected.items())


EXPRESSIONS = st.recursive(
    st.sampled_from(["a", "b", "x", "low", "1", "len(a)"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*<"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(EXPRESSIONS, min_size=1, max_size=12),
    EXPRESSIONS,
    st.sampled_from([0.1, 0.3, 0.5, 0.55, 0.7, 1.0]),
)
def test_similar_solutions_are_those_of_plain_jaccard(
    solutions: list[str], expression: str, least: float
) -> None:
    index = ProblemIndex(
        [
            (
                "made",
                Problem(
                    **problem(f"M/{i}", "def g(a, b, x, low):\n", "g", f"    y = {text}\n    return y\n")
                ),
            )
            for i, text in enumerate(solutions)
        ],
        Contamination(near_code_similarity=least),
    )
    made = row(f"def f(p, a, b, x):\n    y = {expression}\n    return y\n")
    own = code_shingles(dict(made.functions)["f"])
    plain = {}
    for number, text in enumerate(solutions):
        [(_, source)] = row(f"def g(a, b, x, low):\n    y = {text}\n    return y\n").functions
        similarity = len(own & code_shingles(source)) / len(own | code_shingles(source))
        if similarity >= least:
            plain[f"M/{number}"] = similarity
    assert {match.task_id: match.measure for match in similar_solutions(made, index)} == plain


SETS = st.sets(st.integers(0, 11), min_size=1)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(SETS, st.lists(SETS, max_size=12), st.sampled_from([0.05, 0.3, 0.5, 0.55, 0.7, 1.0]))
def test_shingles_put_aside_lose_no_solution(own: set[int], others: list[set[int]], least: float) -> None:
    index = ProblemIndex([], Contamination(near_code_similarity=least))
    for number, other in enumerate(others):
        for item in other:
            index.shingles.setdefault((str(item),), []).append(number)
    wanted = {n for n, other in enumerate(others) if len(own & other) / len(own | other) >= least}
    assert wanted <= candidate_problems({(str(item),) for item in own}, index)


def test_shingles_put_aside_are_not_looked_up() -> None:
    index = ProblemIndex([], Contamination(near_code_similarity=0.5))
    index.shingles.update({("rare",): [0], ("common",): [0, *range(100)], ("usual",): list(range(50))})
    assert candidate_problems({("rare",), ("common",), ("usual",)}, index) == set(
        range(50)
    )  # two of three are shared at least
    assert candidate_problems({("rare",), ("common",), ("new",), ("newer",), ("newest",)}, index) == set()


def test_shingles_are_runs_of_three_words_and_a_short_text_is_one() -> None:
    assert code_shingles("Return(BinOp($0,Add(),'x y'))") == {
        ("Return", "BinOp", "$0"),
        ("BinOp", "$0", "Add"),
        ("$0", "Add", "'x y'"),
    }
    assert code_shingles("Pass()") == {("Pass",)}
    assert code_shingles("()") == set()


HOSTILE = {
    "the first words of a docstring again and again": "return the length of the longest run of " * 20_000,
    "a docstring again and again": RUNS["prompt"] * 3_000,
    "a solution again and again": RUNS["canonical_solution"] * 3_000,
    "one word again and again": "low " * 200_000,
    "one character": "=" * 1_000_000,
    "a character short of a run, again and again": ("=" * 58 + "-") * 1_600,
    "null bytes and half characters": "\0\ud800x " * 200_000,
    "small functions": "".join(
        f"def clamp{i}(x, a, b):\n    return max(a, min(x, b))\n" for i in range(10_000)
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_megabyte_that_holds_a_problem_many_times_takes_seconds(text: str) -> None:
    """Quadratic time would be hours."""
    bars = problem("Bar/0", "def bars(x):\n", "bars", f"    return '{'=' * 300}' + x\n")
    index = ProblemIndex([*PROBLEMS, ("bars", Problem(**bars))], Contamination())
    made = row(text)
    for check in CONTAMINATION_CHECKS.values():
        matches = Counter(
            match.task_id for match in check(made, index) if "is its solution" not in match.text
        )
        assert max(matches.values(), default=0) <= 2  # a docstring is one whole and one up to its examples
    assert len(find_proximities(made, index)) <= 4 * 7
