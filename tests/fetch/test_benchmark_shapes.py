"""Rows of EvoEval, HumanEvalFix, CRUXEval, HumanEval-Infilling and LiveCodeBench become problems."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.clean.contamination.decontaminate import ProblemIndex
from stages.clean.settings import Contamination
from stages.common.core.errors import UserError
from stages.common.rows.schema import Problem
from stages.fetch.benchmark_formats import parse_benchmark
from stages.fetch.settings import FetchSettings, Source
from stages.judge.benchmark import parse_problem
from tests.helpers.benchmark_rows import CRUX, EVO, EVO_RELEASED, FIX, INFILL, LIVE, LIVE_METHOD, packed
from tests.helpers.loopback_hub import made_file


def problems(form: str, *rows: dict[str, Any], **fields: Any) -> list[Problem]:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return parse_benchmark(Source(name="x", kind="file", format=form, **fields), [made_file("x.jsonl", text)])


ALL = [
    *(("evoeval", row) for row in (EVO, EVO_RELEASED)),
    *(("humanevalfix", FIX), ("humanevalfix-docs", FIX), ("cruxeval", CRUX), ("infilling", INFILL)),
    *(("livecodebench", row) for row in (LIVE, LIVE_METHOD)),
]


@pytest.mark.parametrize(("form", "row"), ALL)
def test_a_problem_survives_its_file_and_can_be_decontaminated(form: str, row: dict[str, Any]) -> None:
    (problem,) = problems(form, row)
    assert parse_problem(json.loads(json.dumps(problem.row())), "x") == problem
    index = ProblemIndex([("x", problem)], Contamination())
    assert index.ngram_counts[0] > 0


def test_a_fixed_function_is_asked_for_with_its_tests_or_its_docstring() -> None:
    (tests,), (docs,) = problems("humanevalfix", FIX), problems("humanevalfix-docs", FIX)
    assert tests.question.startswith(
        "from typing import List\n\n\ndef total(xs: List[int]) -> int:\n    return sum(xs[1:])\n"
    )
    assert "assert total([1, 2]) == 3" in tests.question
    assert "The sum" not in tests.question
    assert tests.question.endswith(
        "Fix bugs in total.\n\nfrom typing import List\n\n\ndef total(xs: List[int]) -> int:"
    )
    assert "assert total([1, 2])" not in docs.question
    assert docs.question.count("The sum") == 2
    assert "check(total)\n" not in tests.test  # the judge calls it


def test_infilling_problems_share_their_parent() -> None:
    other = {**INFILL, "task_id": "SingleLineInfilling/HumanEval/0/L1"}
    assert [p.parent for p in problems("infilling", INFILL, other)] == ["HumanEval/0"] * 2


def test_days_select_contests() -> None:
    assert len(problems("livecodebench", LIVE, LIVE_METHOD, since="2024-10-02")) == 1
    assert len(problems("livecodebench", LIVE, LIVE_METHOD, until="2024-10-01")) == 1
    assert len(problems("livecodebench", LIVE, LIVE_METHOD, since="2024-10-01", until="2025-01-01")) == 2


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("executed",)


@pytest.mark.parametrize(
    ("form", "row", "message"),
    [
        ("livecodebench", {**LIVE, "private_test_cases": packed(Evil())}, "names builtins.print"),
        ("livecodebench", {**LIVE, "private_test_cases": packed("[]")[:-8]}, "not readable"),
        ("livecodebench", {**LIVE, "private_test_cases": "?"}, "not readable"),
        ("livecodebench", {**LIVE, "metadata": '{"func_name": "f"}'}, "its function is 'f'"),
        ("cruxeval", {**CRUX, "output": "print(1)"}, "malformed node"),
        ("evoeval", {**EVO_RELEASED, "inputs": ["open('x')"]}, "not a list of plain values"),
        ("infilling", {**INFILL, "suffix": "))"}, "unmatched"),
        ("infilling", {k: v for k, v in INFILL.items() if k != "suffix"}, "lacks 'suffix'"),
        ("humanevalfix", {**FIX, "buggy_solution": None}, "buggy_solution must be text"),
    ],
)
def test_a_row_of_another_shape_is_named(
    form: str, row: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"x\.jsonl, row 1: not a problem") as raised:
        problems(form, row)
    assert message in str(raised.value)
    assert "executed" not in capsys.readouterr().out


def test_a_pickle_of_plain_values_is_read_and_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems("livecodebench", LIVE)[0].expected == repr(["3\n", "7\n"])
    monkeypatch.setattr("stages.fetch.benchmark_shapes.MAX_TESTS_BYTES", 10)
    with pytest.raises(UserError, match="more than 10 bytes"):
        problems("livecodebench", LIVE)


@pytest.mark.parametrize("name", ["evoeval", "humanevalfix", "cruxeval", "infilling", "livecodebench"])
def test_the_preset_of_a_benchmark_is_pinned_and_has_its_format(name: str) -> None:
    entry = yaml.safe_load(Path("conf/benchmark", f"{name}.yaml").read_text())["fetch"]["benchmarks"][name]
    assert FetchSettings(benchmarks={name: Source(**entry)}).benchmarks[name].format == name
