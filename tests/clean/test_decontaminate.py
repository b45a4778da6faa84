"""Decontamination: each check both ways, with the problem and the text that match."""

import ast
import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import yaml

from stages.clean.__main__ import main
from stages.clean.code.fingerprint import CODE_WORD
from stages.clean.contamination import decontaminate
from stages.clean.contamination.benchmark_proximity import (
    STRONGEST_ROWS,
    ProximitySummary,
    find_proximities,
)
from stages.clean.contamination.decontaminate import (
    CONTAMINATION_CHECKS,
    ProblemIndex,
    ProblemMatch,
    load_index,
    read_problems,
)
from stages.clean.row import RowView, make_row
from stages.clean.settings import CleanSettings, Contamination
from stages.common.core.errors import UserError
from stages.common.core.files import write_jsonl
from stages.common.engine import EngineSettings
from stages.common.rows.schema import Problem
from stages.fetch.benchmark_formats import parse_benchmark
from stages.fetch.problem_rows import chosen_problems
from stages.fetch.resolve import resolve_source
from stages.fetch.settings import Source
from tests.helpers.clean_rows import CLAMP, RUNS, conversation, problem, record, row, write_inputs
from tests.helpers.fetch_reading import source_rows
from tests.helpers.loopback_hub import made_file
from tests.helpers.tiny_project import REPOSITORY

EVERY = Contamination(ast_words=1)  # solutions that are idioms count too
FILLER = "".join(f"    step_{i} = call_{i}(step, {i})\n" for i in range(60))


@pytest.fixture(scope="module")
def index() -> ProblemIndex:
    return ProblemIndex([("tiny", Problem(**p)) for p in (RUNS, CLAMP)], EVERY)


def failing(made: RowView, index: ProblemIndex) -> list[str]:
    return [name for name in CONTAMINATION_CHECKS if first(name, made, index)]


def first(rule: str, made: RowView, index: ProblemIndex) -> ProblemMatch | None:
    return next(CONTAMINATION_CHECKS[f"contaminated_{rule.removeprefix('contaminated_')}"](made, index), None)


def near(made: RowView, index: ProblemIndex, *rules: str) -> list[tuple[str, str]]:
    """Reason and problem of everything that the row comes near."""
    return [(reason, match.task_id) for reason, match in find_proximities(made, index, rules)]


def test_an_unrelated_row_passes(index: ProblemIndex) -> None:
    made = row(
        "    return sorted(words, key=len)\n", 'def by_length(words):\n    """Sort words by length."""\n'
    )
    assert failing(made, index) == []


def test_docstring_without_its_examples_in_other_layout(index: ProblemIndex) -> None:
    words = "RETURN the length of the\n  longest run, of equal neighbours: in a list of (whole) numbers"
    made = row(FILLER, f'def f(x):\n    """{words} and so on."""\n')
    assert str(first("docstring", made, index)) == (
        "tiny Tiny/0: 'return the length of the longest run of equal neighbours in a list of whole numbers'"
    )
    assert failing(made, index) == ["contaminated_docstring"]
    assert not first("docstring", row(words.replace("equal ", "")), index)
    assert not first("docstring", row(words + "ed"), index)  # ends inside a word
    chat = conversation(("user", words), ("assistant", "No."))
    assert first("docstring", chat, index)


def test_short_docstrings_prove_nothing(index: ProblemIndex) -> None:
    made = row("    return x\n", 'def f(x):\n    """Clamp x."""\n')
    assert not first("docstring", made, index)


def test_a_docstring_at_module_level_counts() -> None:
    text = "Write a function that counts the vowels of every second word."
    problem = {
        **RUNS,
        "prompt": f'"""\n{text}\nassert f("a") == 1\n"""\n',
        "canonical_solution": "def f(x):\n    return 1\n",
    }
    made = ProblemIndex([("mbpp", Problem(**problem))], EVERY)
    assert first("docstring", row(FILLER, text), made)


@pytest.mark.parametrize(("length", "found"), [(59, False), (60, True), (90, True)])
@pytest.mark.parametrize("start", [0, 1, 17, 30])
@pytest.mark.parametrize("shift", [0, 7, 29, 30])
def test_pieces_of_a_solution(index: ProblemIndex, length: int, found: bool, start: int, shift: int) -> None:
    solution = decontaminate.collapse_whitespace(RUNS["canonical_solution"])
    piece = solution[start : start + length]
    made = row("#" * shift + "@" + piece.replace(" ", "\n   ") + "@" + FILLER)
    match = first("solution", made, index)
    assert (match is not None) is found
    if match:
        assert str(match) == f"tiny Tiny/0: {decontaminate.quote(piece)}"


def test_a_whole_solution_in_a_fenced_answer(index: ProblemIndex) -> None:
    answer = f"Sure:\n```python\n{RUNS['prompt']}{RUNS['canonical_solution']}```\n"
    made = conversation(("user", "Longest run?"), ("assistant", answer))
    assert failing(made, index) == list(CONTAMINATION_CHECKS)


def test_imports_of_a_solution_are_not_evidence() -> None:
    imports = "from collections import Counter, OrderedDict, defaultdict, deque\nimport itertools\n"
    problem = {
        **RUNS,
        "prompt": '"""Count."""\n',
        "canonical_solution": imports + "def f(x):\n    return 1\n",
    }
    made = ProblemIndex([("mbpp", Problem(**problem))], EVERY)
    assert not first("solution", row(FILLER, imports + "\n\ndef other(x):\n"), made)


def test_ngram_coverage(index: ProblemIndex) -> None:
    words = decontaminate.split_words(RUNS["prompt"] + RUNS["canonical_solution"])
    grams = len(words) - 9
    enough, short = grams // 2 + 1, grams // 2
    made = row(" ".join(words[: enough + 9]))
    match = first("ngrams", made, index)
    assert match
    assert match.task_id == "Tiny/0"
    assert (
        match.text
        == f"{enough / grams:.2f} of its 10-grams, first {decontaminate.quote(' '.join(words[:10]))}"
    )
    assert not first("ngrams", row(" ".join(words[: short + 9])), index)


def test_renamed_solution(index: ProblemIndex) -> None:
    made = row(
        "    return max(lo, min(value, hi))\n", 'def bound(value: int, lo, hi):\n    """Keep in bounds."""\n'
    )
    assert str(first("ast", made, index)) == "tiny Tiny/1: bound is its solution but for names"
    assert failing(made, index) == ["contaminated_ast"]
    swapped = row("    return min(lo, max(value, hi))\n", "def bound(value, lo, hi):\n")
    assert failing(swapped, index) == []


def test_renamed_solution_among_others_and_where_layout_does_not_look(index: ProblemIndex) -> None:
    code = "def one(x):\n    return 1\n\n\ndef bound(v, lo, hi):\n    return max(lo, min(v, hi))\n"
    for made in (
        row(code),
        row(code, "Write bound.", "fenced"),
        row(f"It is\n```python\n{code}```", "Write it: "),
    ):
        assert failing(made, index) == ["contaminated_ast"]


def method(source: str) -> str:
    """Functions of a module as methods of a class that call one another through it; without imports and docstrings."""
    tree = decontaminate.parse_python(source)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    names = {node.name for node in functions}
    for node in functions:
        node.args.args.insert(0, ast.arg("self"))
        node.body = node.body[bool(ast.get_docstring(node)) :] or node.body
    for call in [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]:
        if isinstance(call.func, ast.Name) and call.func.id in names:
            call.func = ast.Attribute(ast.Name("self", ast.Load()), call.func.id, ast.Load())
    body = "\n".join(ast.unparse(ast.fix_missing_locations(node)) for node in functions)
    return "class Solution:\n" + textwrap.indent(body, "    ") + "\n"


def inside(source: str) -> str:
    return "def main():\n" + textwrap.indent(source, "    ") + "\n\nmain()\n"


SOLUTIONS = {  # of HumanEval
    "HumanEval/13": ("greatest_common_divisor", "    while b:\n        a, b = b, a % b\n    return a\n", "a, b"),
    "HumanEval/55": (
        *("fib", "    if n == 0:\n        return 0\n    if n == 1:\n        return 1\n    return fib(n - 1) + fib(n - 2)\n"),
        "n",
    ),
    "HumanEval/49": (
        *("modp", "    ret = 1\n    for i in range(n):\n        ret = (2 * ret) % p\n    return ret\n"),
        "n, p",
    ),
}  # fmt: skip


@pytest.mark.parametrize("task_id", SOLUTIONS)
def test_a_solution_as_a_method_or_inside_a_function_is_found(task_id: str) -> None:
    name, body, arguments = SOLUTIONS[task_id]
    head = f"def {name}({arguments}):\n"
    made = ProblemIndex([("humaneval", Problem(**problem(task_id, head, name, body)))], EVERY)
    for wrap, path in ((method, f"Solution.{name}"), (inside, f"main.{name}")):
        wrapped = row(wrap(head + body))
        assert (
            str(first("ast", wrapped, made)) == f"humaneval {task_id}: {path} is its solution but for names"
        )
        assert {("near_code", task_id), ("same_name", task_id)} <= {
            *near(wrapped, made, *CONTAMINATION_CHECKS)
        }
        changed = row(wrap(head + "    print(1)\n" + body))
        assert not first("ast", changed, made)
        assert {("near_code", task_id), ("same_name", task_id)} <= {
            *near(changed, made, *CONTAMINATION_CHECKS)
        }


@pytest.fixture(scope="module")
def shipped() -> list[tuple[str, Problem]]:
    """The problems of HumanEval and MBPP, from the wheels that the default pins."""
    files = [REPOSITORY / f"conf/benchmark/{name}.yaml" for name in ("humaneval", "mbpp")]
    named = [yaml.safe_load(file.read_text())["fetch"]["benchmarks"] for file in files]
    sources = [Source(name=name, **values) for one in named for name, values in one.items()]
    return [(s.name, found) for s in sources for found in parse_benchmark(s, resolve_source(s).files)]


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [method, inside])
def test_every_solution_of_the_benchmarks_is_found_as_a_method_and_inside_a_function(
    wrap: Callable[[str], str], shipped: list[tuple[str, Problem]]
) -> None:
    assert len(shipped) == 664
    whole = ProblemIndex(shipped, EVERY)
    for _, found in shipped:
        wrapped = row(wrap(found.prompt + found.canonical_solution))
        assert found.task_id in [
            match.task_id for match in CONTAMINATION_CHECKS["contaminated_ast"](wrapped, whole)
        ]


def test_a_solution_below_ast_words_is_near_and_not_dropped(index: ProblemIndex) -> None:
    made = row("    return max(lo, min(value, hi))\n", "def bound(value, lo, hi):\n")
    words = len(CODE_WORD.findall(made.functions[0][1]))
    for least, dropped in ((1, True), (words, True), (words + 1, False)):
        lenient = ProblemIndex(index.problems, Contamination(ast_words=least))
        assert (failing(made, lenient) == ["contaminated_ast"]) is dropped
        assert ("near_code", "Tiny/1") in near(made, lenient, *CONTAMINATION_CHECKS)


IDIOMS = (
    "return a + b", "return len(a)", "return sum(a)", "return min(a)", "return max(a)", "return a.lower()", "return a ** 2",
    "return a % b == 0", "return ''.join(a)", "return sorted(a)", "return a[::-1]", "return a == a[::-1]", "return 2 * (a + b)",
    "return [x for x in a if x > 0]", "return [x + 1 for x in a]", "return max(b, min(a, c))", "return list(set(a))", "return sum(a) / len(a)",
    "return {k: v for k, v in a.items()}", "return any(x < 0 for x in a)", "return [x for y in a for x in y]",
)  # fmt: skip
PROGRAMS = (
    "while b:\n        a, b = b, a % b\n    return a",
    "best = a[0]\n    for x in a:\n        if x > best:\n            best = x\n    return best",
    "seen = 0\n    for x in a:\n        if x == b:\n            seen += 1\n    return seen",
    "if a < 2:\n        return a\n    return g(a - 1) + g(a - 2)",
    "out = 1\n    for i in range(a):\n        out = (2 * out) % b\n    return out",
    "return [a for a in range(b) if all(a % c for c in range(2, a))]",
)


@pytest.mark.parametrize(("bodies", "dropped"), [(IDIOMS, False), (PROGRAMS, True)])
def test_an_idiom_that_is_a_solution_is_no_contamination(bodies: tuple[str, ...], dropped: bool) -> None:
    """One expression of a few names is what anybody writes; a loop or a condition is a solution."""
    for body in bodies:
        names = ", ".join(name for name in "abc" if re.search(rf"\b{name}\b", body))
        solved = problem("T/0", f"def g({names}):\n", "g", f"    {body}\n")
        made = ProblemIndex([("tiny", Problem(**solved))], Contamination())
        found = row(f"    {body.replace('g(', 'h(')}\n", f"def h({names}):\n")
        assert bool(first("ast", found, made)) is dropped, body
        assert ("near_code", "T/0") in near(found, made, *CONTAMINATION_CHECKS)


def test_problems_with_inputs_count_as_all_others(index: ProblemIndex) -> None:
    """HumanEval+ and MBPP+ have inputs in place of asserts."""
    problems = [
        Problem(**{**p, "test": "", "inputs": "[[[1, 1, 2]]]", "expected": "[2]"}) for p in (RUNS, CLAMP)
    ]
    plus = ProblemIndex([("plus", made) for made in problems], EVERY)
    copy = row(RUNS["canonical_solution"], RUNS["prompt"])
    assert failing(copy, plus) == failing(copy, index) == list(CONTAMINATION_CHECKS)
    assert first("ast", copy, plus) == ProblemMatch(
        "plus", "Tiny/0", "longest_run is its solution but for names"
    )


def test_a_function_of_that_name_comes_near(index: ProblemIndex) -> None:
    made = row("    return x\n", "def clamp(x):\n")
    assert failing(made, index) == []
    match = ProblemMatch("tiny", "Tiny/1", "has a function clamp")
    assert find_proximities(made, index) == [("same_name", match)]
    assert near(row("    return x\n", "def longestRun(x):\n"), index) == [("same_name", "Tiny/0")]
    assert near(row("    return clamp(x)\n", "def other(x):\n"), index) == []


@pytest.mark.parametrize(
    ("rule", "text"), [("docstring", "docstring"), ("solution", "solution"), ("ngrams", "all")]
)
def test_what_a_rule_would_drop_is_near_where_the_rule_is_off(
    index: ProblemIndex, rule: str, text: str
) -> None:
    words = "Return the length of the longest run of equal neighbours in a list of whole numbers"
    texts = {
        "docstring": words,
        "solution": RUNS["canonical_solution"],
        "all": RUNS["prompt"] + RUNS["canonical_solution"],
    }
    made = row(texts[text], "# ")
    assert (f"contaminated_{rule}", "Tiny/0") in near(made, index)
    assert f"contaminated_{rule}" not in [reason for reason, _ in near(made, index, *CONTAMINATION_CHECKS)]


def test_a_few_shared_ngrams_come_near(index: ProblemIndex) -> None:
    words = decontaminate.split_words(RUNS["prompt"] + RUNS["canonical_solution"])
    made = row(FILLER + "# " + " ".join(words[10:21]))  # two 10-grams of it
    assert near(made, index, *CONTAMINATION_CHECKS) == [("near_ngrams", "Tiny/0")]
    ((_, found),) = find_proximities(made, index)
    assert found.text.startswith(f"{2 / (len(words) - 9):.2f} of its 10-grams, first ")
    strict = ProblemIndex(index.problems, Contamination(near_ngram_coverage=0.1))
    assert near(made, strict) == []


def test_similar_code_comes_near(index: ProblemIndex) -> None:
    made = row("    return max(lower, min(value + 1, upper))\n", "def bound(value, lower, upper):\n")
    assert failing(made, index) == []
    ((reason, found),) = find_proximities(made, index)
    assert (reason, found.task_id) == ("near_code", "Tiny/1")
    assert re.fullmatch(r"bound is 0\.\d\d like its solution", found.text)
    assert 0.5 <= found.measure < 1
    strict = ProblemIndex(index.problems, Contamination(near_code_similarity=0.95))
    assert near(made, strict) == []
    unlike = row("    return [v for v in value if lower < v < upper]\n", "def bound(value, lower, upper):\n")
    assert near(unlike, index) == []


def test_a_problem_of_two_benchmarks_is_near_in_both() -> None:
    """HumanEval+ holds HumanEval's problems: a row near one is near the other."""
    both = ProblemIndex([("one", Problem(**CLAMP)), ("two", Problem(**CLAMP))], EVERY)
    made = row("    return max(lo, min(value, hi))\n", "def clamp(value, lo, hi):\n")
    found = find_proximities(made, both)
    assert sorted((reason, match.benchmark) for reason, match in found) == [
        (reason, benchmark)
        for reason in ("contaminated_ast", "near_code", "same_name")
        for benchmark in ("one", "two")
    ]


def test_a_dropped_row_counts_for_every_benchmark_that_holds_its_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        record("both", RUNS["prompt"], RUNS["canonical_solution"]),
        record("one", "def bound(v, lo, hi):\n", "    return max(lo, min(v, hi))\n"),
        record("kept", "def half(x):\n", "    return x // 2\n"),
    ]
    write_inputs(tmp_path, rows, [RUNS, CLAMP])
    for name in ("plus", "extra"):
        write_jsonl(tmp_path / f"data/benchmarks/{name}.jsonl", [{**RUNS, "task_id": f"{name}/7"}])
    write_jsonl(tmp_path / "data/benchmarks/none.jsonl", [{**CLAMP, "canonical_solution": "    return 1\n"}])
    monkeypatch.chdir(tmp_path)
    chosen = CleanSettings(rules=[*CONTAMINATION_CHECKS], contamination=EVERY)
    metrics = main(SimpleNamespace(clean=chosen, engine=EngineSettings(workers=1)))  # type: ignore[arg-type]
    assert metrics["contaminated"] == {"extra": 1, "none": 0, "plus": 1, "tiny": 2}
    assert metrics["dropped"] == {
        **dict.fromkeys(CONTAMINATION_CHECKS, 0),
        "contaminated_docstring": 1,
        "contaminated_ast": 1,
        **dict.fromkeys(("exact", "ast", "near"), 0),
    }
    assert metrics["rows_in"] == metrics["rows_kept"] + 2 == 3
    dropped = pq.read_table("data/clean/dropped.parquet").to_pylist()
    evidence = {row["id"]: row["evidence"] for row in dropped}
    assert evidence["both"].startswith("extra extra/7: 'return the length of")
    assert evidence["both"].endswith("; also plus, tiny")
    assert evidence["one"] == "tiny Tiny/1: bound is its solution but for names"


def test_a_copy_in_a_chat_is_near(index: ProblemIndex) -> None:
    answer = "It is\n```python\ndef clamp(v, lo, hi):\n    return max(lo, min(v, hi))\n```"
    chat = conversation(("user", "How?"), ("assistant", answer))
    assert ("contaminated_ast", "Tiny/1") in near(chat, index)


def test_near_lines_are_bounded_by_problems_and_independent_of_row_order() -> None:
    nears = [
        [
            (reason, ProblemMatch("b", f"T/{problem}", f"as row {row}", measure))
            for problem in (0, 1)
            for reason, measure in (("near_code", (row % 50) / 50), ("same_name", 1.0))
            if problem == 0 or row < 2
        ]
        for row in range(200)
    ]
    summary, reverse = ProximitySummary(), ProximitySummary()
    for number, found in enumerate(nears):
        summary.add(f"{number:03}", "made", found)
    for number, found in reversed([*enumerate(nears)]):
        reverse.add(f"{number:03}", "made", found)
    assert summary.lines() == reverse.lines()
    first_line, second = summary.lines()
    assert (first_line["task_id"], first_line["rows"], second["task_id"], second["rows"]) == (
        "T/0",
        200,
        "T/1",
        2,
    )
    assert list(first_line["reasons"]) == ["near_code", "same_name"]
    code = first_line["reasons"]["near_code"]
    assert code["rows"] == 200
    assert [(best["measure"], best["id"]) for best in code["strongest"]] == [
        (0.98, "049"),
        (0.98, "099"),
        (0.98, "149"),
    ]
    assert code["strongest"][0] == {"measure": 0.98, "evidence": "as row 49", "id": "049", "source": "made"}
    assert max(map(len, summary.strongest.values())) == STRONGEST_ROWS


def test_every_benchmark_is_read_in_order_of_name(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "b.jsonl", [RUNS])
    write_jsonl(tmp_path / "a.jsonl", [CLAMP, RUNS])
    names = [(benchmark, problem.task_id) for benchmark, problem in read_problems(tmp_path)]
    assert names == [("a", "Tiny/1"), ("a", "Tiny/0"), ("b", "Tiny/0")]


def test_a_process_builds_an_index_once(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [CLAMP])
    first_index = load_index(tmp_path, Contamination())
    assert load_index(tmp_path, Contamination()) is first_index
    assert load_index(tmp_path, Contamination(ast_words=3)).settings.ast_words == 3


def test_a_line_that_is_not_a_problem_names_file_and_line(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [CLAMP, {"task_id": "x"}])
    with pytest.raises(UserError, match=r"a\.jsonl, line 2: not a problem \(.*missing"):
        read_problems(tmp_path)
    with pytest.raises(UserError, match="holds no benchmark"):
        read_problems(tmp_path / "none")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("near_ngram_coverage", 0.6, r"is 0\.6: expected a number from 0 to ngram_coverage \(0\.5\)"),
        ("near_ngram_coverage", -0.1, r"is -0\.1"),
        ("near_code_similarity", 0.0, r"is 0\.0: expected a number in \(0, 1\]"),
        ("ngram_coverage", 1.5, r"is 1\.5"),
        ("ast_words", 0, r"is 0: expected 1 or more"),
    ],
)
def test_thresholds_out_of_range_are_named(key: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=rf"clean\.contamination\.{key} {message}"):
        Contamination(**{key: value})


def test_a_problem_that_is_trained_on_and_scored_is_found_in_both_renderings() -> None:
    """As when `tasks` of a training source and of a benchmark overlap: here task 12 is in both."""
    code = "def spread(values):\n    ordered = sorted(set(values))\n    gaps = zip(ordered, ordered[1:])\n    return max(b - a for a, b in gaps)\n"
    other = "def halves(text):\n    middle = len(text) // 2\n    return text[:middle], text[middle:]\n"
    words = ("Write a function to find the widest gap between the numbers of a list.", "Cut a text in two.")
    calls = ("spread([1, 5, 6]) == 4", "halves('abcd') == ('ab', 'cd')")
    lines = [
        json.dumps({"task_id": n, "text": text, "code": body, "test_list": [f"assert {call}"], "test_setup_code": ""})
        for n, text, body, call in zip((12, 13), words, (code, other), calls, strict=True)
    ]  # fmt: skip
    file = made_file("x.jsonl", "\n".join(lines).encode())
    trained, scored = (
        Source(name="mbpp", kind="file", format="mbpp", tasks=tasks, licence="MIT")
        for tasks in ("12-13", "12")
    )
    index = ProblemIndex([("mbpp", problem) for problem in chosen_problems(scored, [file])], Contamination())
    rows = [make_row(one, "whole") for one in source_rows(trained, [file])[0]]
    assert [bool(failing(one, index)) for one in rows] == [True, True, False, False]
