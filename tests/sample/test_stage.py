"""sample: which rows are drawn for, which completions are kept, and that clean reads them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stages.sample.drawing as drawing
from stages.clean.__main__ import main as clean_main
from stages.clean.row import make_row
from stages.clean.settings import CleanSettings
from stages.common.core.errors import UserError
from stages.common.engine import EngineSettings
from stages.common.rows.schema import Problem, row_schema
from stages.common.text.settings import PromptSettings
from stages.generation.completion import Completion, SampleRequest
from stages.sample.__main__ import main
from stages.sample.settings import SampleSettings

HEADER = 'def total(values):\n    """Return the sum.\n\n    >>> total([1, 2])\n    3\n    """\n'
ANSWER = "    return sum(values)\n"
SOLUTION = """    counts = {}
    for word in text.split():
        counts[word] = counts.get(word, 0) + 1
    best = max(counts.values())
    return sorted(word for word, count in counts.items() if count == best)
"""
BENCHMARK = Problem("B/1", "def commonest(text):\n", "commonest", SOLUTION, "def check(c):\n    pass\n")


def record(number: int, prompt: str, completion: str, **columns: Any) -> dict[str, Any]:
    fixed = {"id": f"{number:020x}", "source": "mine", "licence": "MIT", "metadata": "{}"}
    return {
        **dict.fromkeys(row_schema().names),
        "prompt": prompt,
        "completion": completion,
        **fixed,
        **columns,
    }


ROWS = [
    record(1, HEADER, ANSWER),
    record(2, "Write a function twice(x) that doubles a number.\n", "def twice(x):\n    return 2 * x\n",
           tests="assert twice(3) == 6", metadata='{"parent": "twice"}'),
    record(3, "def half(x):\n", "    return x / 2\n"),
    record(4, "def wrong(x):\n", "    return x\n", tests="assert wrong(1) == 2"),
    record(5, "def frequent(text):\n", SOLUTION, tests="assert frequent('a b a') == ['a']"),
    record(6, "", "a text without a question", tests="assert True"),
]  # fmt: skip
DRAWN = {
    ROWS[0]["id"]: [
        "    return sum(values)",  # the row's own answer
        "    result = 0\n    for value in values:\n        result += value\n    return result",
        "    result = 0\n    for value in values:   # in turn\n        result += value\n    return result",
        "    return len(values)",
        "    return sum(values",
        "    return sum(list(values))",
    ],
    ROWS[1]["id"]: [
        "def twice(x):\n    return x + x",
        "Here it is:\n```python\ndef twice(x):\n    return x * 2\n```",
        "def twice(x):\n    return x << 1",
        "def twice(x):\n    return x",
        "pass",
        "def thrice(x):\n    return 3 * x",
    ],
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the rows and the benchmark, and a model whose completions are DRAWN."""
    monkeypatch.chdir(tmp_path)
    for folder in ("data/raw", "data/benchmarks", "models/base"):
        (tmp_path / folder).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(ROWS, schema=row_schema()), "data/raw/rows.parquet")
    Path("data/benchmarks/b.jsonl").write_text(json.dumps(BENCHMARK.row()) + "\n", "utf-8")

    def generate(requests: list[SampleRequest], *arguments: Any) -> list[Completion]:
        made = [Completion(DRAWN[one.name][one.sample], 9, "eos") for one in requests]
        for index, completion in enumerate(made):
            arguments[-1](index, completion)
        return made

    monkeypatch.setattr(drawing, "generate", generate)
    return tmp_path


def run(**values: Any) -> dict[str, Any]:
    settings = SampleSettings(**values)
    return main(SimpleNamespace(sample=settings, prompt=PromptSettings()))  # type: ignore[arg-type]


def sampled() -> list[dict[str, Any]]:
    return pq.read_table("data/sampled/rows.parquet").to_pylist()


def test_passing_answers_with_trees_of_their_own_become_rows(here: Path) -> None:
    metrics = run(samples=6, keep=2)
    assert metrics["rows"] == 2
    assert metrics["passed_over"] == {
        "its own answer does not pass": 1,
        "near a benchmark problem": 1,
        "no single question": 1,
        "no tests or doctests": 1,
    }
    assert metrics["completions"] == {
        "drawn": 12,
        "failed": 4,  # len; x, pass, thrice
        "kept": 4,
        "no code": 1,  # a bracket is open
        "over sample.keep": 1,
        "same as another": 2,  # the row's own; a comment more
    }
    rows = sampled()
    assert [row["completion"] for row in rows] == [
        DRAWN[ROWS[0]["id"]][1] + "\n",
        DRAWN[ROWS[0]["id"]][5] + "\n",
        DRAWN[ROWS[1]["id"]][0] + "\n",
        DRAWN[ROWS[1]["id"]][1] + "\n",
    ]
    assert {row["source"] for row in rows} == {"sampled"}
    assert {row["licence"] for row in rows} == {"MIT"}
    assert [make_row(row, "whole").parent for row in rows] == [ROWS[0]["id"]] * 2 + ["twice"] * 2
    assert len({row["id"] for row in rows}) == 4
    assert metrics["kept"] == 4


def test_off_writes_no_rows_and_loads_no_model(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "generate", None)
    assert run() == {"samples": 0, "kept": 0}
    assert sampled() == []


def test_an_interrupted_run_draws_only_what_is_missing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, asked = drawing.generate, []

    def stop_after_three(requests: list[SampleRequest], *arguments: Any) -> list[Completion]:
        whole(requests[:3], *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(drawing, "generate", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        run(samples=6)
    monkeypatch.setattr(
        drawing, "generate", lambda requests, *a: asked.extend(requests) or whole(requests, *a)
    )
    run(samples=6)
    assert len(asked) == 12 - 3
    assert not drawing.JOURNAL.exists()


def test_nothing_to_draw_for_is_an_error_that_says_why(here: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS[2:], schema=row_schema()), "data/raw/rows.parquet")
    with pytest.raises(UserError, match=r"1 near a benchmark problem.*set `- sample: none`"):
        run(samples=6)


def test_clean_reads_the_sampled_rows_beside_their_own_and_keeps_a_family_together(here: Path) -> None:
    run(samples=6, keep=2)
    clean = CleanSettings(rules=["parse"], validate="tag")
    clean_main(SimpleNamespace(clean=clean, engine=EngineSettings(workers=1)))  # type: ignore[arg-type]
    kept = pq.read_table("data/clean/rows.parquet").to_pylist()
    components = {}
    for row in kept:
        components.setdefault(row["component"], set()).add(row["completion"])
    family = [texts for texts in components.values() if ANSWER in texts]
    assert family == [{ANSWER, *(DRAWN[ROWS[0]["id"]][at] + "\n" for at in (1, 5))}]
    assert sum(row["source"] == "sampled" and row["validated"] for row in kept) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"samples": -1}, "sample.samples"),
        ({"samples": 2, "temperature": 0.0}, "greedy samples are identical"),
        ({"keep": 0}, "sample.keep"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SampleSettings(**values)
