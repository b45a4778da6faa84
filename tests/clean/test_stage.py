"""The clean stage as a whole: planted rows, the funnel, bytes, presets, and errors."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from stages.clean.__main__ import main
from stages.clean.funnel import funnel_counts
from stages.clean.settings import (
    DUPLICATE_RULES,
    ROW_RULES,
    CleanSettings,
    Contamination,
    Length,
    NearDuplicates,
)
from stages.common.core.config_sections import load_sections
from stages.common.core.errors import UserError
from stages.common.core.files import read_jsonl, read_metrics, sha256_file
from stages.common.engine import EngineSettings
from stages.common.rows.schema import row_schema
from tests.helpers.clean_rows import CLAMP, RUNS, record, write_inputs
from tests.helpers.tiny_project import REPOSITORY, generated_functions

ENGINE = EngineSettings(workers=1)
HEAD = "def gather(rows, limit):\n"
DOC = '    """Gather the rows of every open ledger until the limit of the day is reached by one of them."""\n'
BODY = (
    "    kept = []\n    for row in rows:\n        if len(kept) >= limit or row is None:\n            break\n"
    "        kept.append(row)\n    return kept\n"
)
OTHER_NAMES = (
    "    out = []\n    for r in items:\n        if len(out) >= n or r is None:\n            break\n"
    "        out.append(r)\n    return out\n"
)
TEXT = (
    "def tell(name):\n"
    + '    """Say who."""\n'
    + "".join(f"    print('part {i} of', name)\n" for i in range(30))
)
NEARLY = TEXT.replace("part 7 of", "piece seven of").replace("part 20 of", "piece twenty of")


WORDS = "Walk over the numbers of a list from left to right and give back the sum of those that are even"
RELATED = [  # Jaccard 0.62: both kept at a threshold of 0.7, one dropped at 0.3
    {
        "prompt": f'def add_even(numbers):\n    """{WORDS}."""\n',
        "completion": "    return sum(n for n in numbers if n % 2 == 0)\n",
    },
    {
        "prompt": f'def add_even(numbers):\n    """{WORDS}, once halved."""\n',
        "completion": "    total = sum(n for n in numbers if n % 2 == 0)\n    return total // 2\n",
    },
]


def planted() -> list[dict[str, Any]]:
    """One row or two for each rule; ids say what is to become of them."""
    return [
        record("exact-copy", HEAD + DOC, BODY.replace("\n", "  \n")),
        record("exact-kept", HEAD + DOC, BODY, tests="assert gather([], 1) == []\n"),
        record("ast-copy", 'def first(items, n):\n    """Take."""\n', OTHER_NAMES),
        record("near-copy", "", NEARLY.removesuffix("    print('part 29 of', name)\n")),
        record("near-kept", "", TEXT),
        record("empty", "def f():\n", " \n"),
        record("length", "def f():\n", "    x = 1\n" * 900),
        record("long_lines", "def f():\n", "    return '" + "x" * 300 + "'\n"),
        record("parse", "def f():\n", "return 1\n"),
        record("placeholder", "def f(a):\n", "    # TODO: write it\n    return a\n"),
        record("placeholder-stub", "def f(a):\n", "    raise NotImplementedError\n"),
        record("repetition", "def f(a):\n", "    a.append(1)\n" * 40),
        record("contaminated_docstring", RUNS["prompt"].partition(">>>")[0] + '"""\n', "    return len(values) // 9\n"),
        record("contaminated_solution", "def g(values):\n", RUNS["canonical_solution"].replace("return best", "return 1")),
        record("contaminated_ast", "def g(a, b, c):\n", "    return max(b, min(a, c))\n"),
        record("suspect", 'def clamp(x):\n    """Other."""\n', "    return abs(x) % 17\n"),
    ]  # fmt: skip


def background(count: int = 24) -> list[dict[str, Any]]:
    rows = [*generated_functions(count), *RELATED]
    return [record(f"row-{i:03}", r["prompt"], r["completion"], source="other") for i, r in enumerate(rows)]


def clean(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    settings.setdefault("contamination", Contamination(ast_words=1))  # CLAMP is an idiom
    return main(SimpleNamespace(clean=CleanSettings(**settings), engine=ENGINE))  # type: ignore[arg-type]


def rows_of(folder: Path, name: str = "rows") -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in pq.read_table(folder / f"data/clean/{name}.parquet").to_pylist()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_inputs(tmp_path, [*planted(), *background()], [RUNS, CLAMP])
    return tmp_path


def test_planted_rows_are_dropped_with_rule_and_evidence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean(folder, monkeypatch)
    dropped = rows_of(folder, "dropped")
    assert {name: row["rule"] for name, row in dropped.items()} == {
        "exact-copy": "exact", "ast-copy": "ast", "near-copy": "near", "empty": "empty", "length": "length",
        "long_lines": "long_lines", "parse": "parse", "placeholder": "placeholder", "placeholder-stub": "placeholder",
        "repetition": "repetition", "contaminated_docstring": "contaminated_docstring",
        "contaminated_solution": "contaminated_solution", "contaminated_ast": "contaminated_ast",
    }  # fmt: skip
    assert dropped["exact-copy"]["evidence"] == "same text as exact-kept"
    assert dropped["ast-copy"]["evidence"] == "same code but for names as exact-kept"
    assert dropped["near-copy"]["evidence"].startswith("Jaccard 0.8")
    assert dropped["near-copy"]["evidence"].endswith(" with near-kept")
    assert dropped["contaminated_ast"]["evidence"] == "tiny Tiny/1: g is its solution but for names"
    assert "previous = None for value in values" in dropped["contaminated_solution"]["evidence"]
    assert all(row["evidence"] for row in dropped.values())


def test_kept_and_dropped_rows_are_the_rows_that_came(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean(folder, monkeypatch)
    kept, dropped = (pq.read_table(folder / f"data/clean/{name}.parquet") for name in ("rows", "dropped"))
    raw = pq.read_table(folder / "data/raw/rows.parquet")
    again = pa.concat_tables([t.select(raw.schema.names) for t in (kept, dropped)]).sort_by("id")
    assert again.equals(raw)
    assert kept.schema.names == [*row_schema().names, "component"]
    assert dropped.schema.names == [*row_schema().names, "rule", "evidence"]
    for table in (kept, dropped):
        ids = table.column("id").to_pylist()
        assert ids == sorted(ids)


def test_the_funnel_adds_up_by_source_and_by_rule(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = clean(folder, monkeypatch)
    assert metrics["rows_in"] == len(planted()) + len(background())
    assert metrics["rows_in"] == metrics["rows_kept"] + sum(metrics["dropped"].values())
    assert list(metrics["dropped"]) == [*ROW_RULES, *DUPLICATE_RULES]
    for rule in metrics["dropped"]:
        assert metrics["dropped"][rule] == sum(counts[rule] for counts in metrics["by_source"].values())
    for counts in metrics["by_source"].values():
        assert counts["rows_in"] == counts["kept"] + sum(counts[rule] for rule in metrics["dropped"])
    assert metrics["by_source"]["made"]["kept"] == 3
    assert metrics["contaminated"] == {"tiny": 3}
    assert metrics["cluster_sizes"] == {rule: {"2": 1} for rule in DUPLICATE_RULES}
    assert json.loads(json.dumps(metrics)) == metrics


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-1, 2)), min_size=1))
def test_a_funnel_counts_what_a_loop_counts(rows: list[tuple[str, int]]) -> None:
    sources = pa.array([source for source, _ in rows]).dictionary_encode()
    counts = funnel_counts(["x", "y", "z"], np.array([rule for _, rule in rows], np.int16), sources)
    assert counts["rows_kept"] == sum(rule < 0 for _, rule in rows)
    assert counts["dropped"] == {n: sum(r == i for _, r in rows) for i, n in enumerate("xyz")}
    for source, line in counts["by_source"].items():
        own = Counter(rule for name, rule in rows if name == source)
        expected = {"rows_in": own.total(), "kept": own[-1], "x": own[0], "y": own[1], "z": own[2]}
        assert line == expected


@pytest.mark.parametrize("rule", [-2, 1])
def test_a_funnel_that_does_not_add_up_raises(rule: int) -> None:
    with pytest.raises(RuntimeError, match="does not add up"):
        funnel_counts(["parse"], np.array([rule]), pa.array(["a"]).dictionary_encode())


def test_problems_that_kept_rows_come_near_are_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = clean(folder, monkeypatch)
    listed = read_jsonl(folder / "data/clean/near.jsonl")
    assert listed == [
        {
            "benchmark": "tiny",
            "task_id": "Tiny/1",
            "rows": 1,
            "reasons": {
                "same_name": {
                    "rows": 1,
                    "strongest": [
                        {
                            "measure": 1.0,
                            "evidence": "has a function clamp",
                            "id": "suspect",
                            "source": "made",
                        }
                    ],
                }
            },
        }
    ]
    assert metrics["problems_near"] == {"tiny": 1}
    assert "suspect" in rows_of(folder)


def test_contaminated_rows_that_are_kept_come_near(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = clean(folder, monkeypatch, rules=["empty"])
    listed = read_jsonl(folder / "data/clean/near.jsonl")
    strongest = [
        (reason, best["id"])
        for line in listed
        for reason, found in line["reasons"].items()
        for best in found["strongest"]
    ]
    for rule in ("contaminated_docstring", "contaminated_solution", "contaminated_ast"):
        assert (rule, rule) in strongest
    assert {row for _, row in strongest} <= set(rows_of(folder))
    assert metrics["problems_near"] == {"tiny": 2}
    assert [line["task_id"] for line in listed] == ["Tiny/0", "Tiny/1"]


def test_related_rows_share_a_component(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean(folder, monkeypatch)
    kept = rows_of(folder)
    first, second = f"row-{24:03}", f"row-{25:03}"  # similar by half: both kept
    assert kept[first]["component"] == kept[second]["component"] == second  # the longer completion
    assert all(row["component"] in kept for row in kept.values())
    clean(folder, monkeypatch, near_duplicates=NearDuplicates(threshold=0.3))
    assert rows_of(folder, "dropped")[first]["rule"] == "near"


def test_without_duplicate_rules_copies_still_share_a_component(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean(folder, monkeypatch, duplicates=[])
    kept = rows_of(folder)
    assert {
        kept[f"{n}-{m}"]["component"] for n, m in (("exact", "copy"), ("exact", "kept"), ("ast", "copy"))
    } == {"exact-kept"}
    assert kept["near-copy"]["component"] == "near-kept"


def test_the_first_failing_rule_in_the_configured_order_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = record("both", "def f():\n", "return 'TODO'  # TODO\n")
    write_inputs(tmp_path, [both, *background(4)], [RUNS])
    for first, second in (("parse", "placeholder"), ("placeholder", "parse")):
        clean(tmp_path, monkeypatch, rules=[first, second])
        assert rows_of(tmp_path, "dropped")["both"]["rule"] == first


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        (
            [("a", BODY, "assert True"), ("b", BODY + "\n    # the same, longer\n", None)],
            "a",
        ),  # tests go first
        ([("a", BODY, None), ("b", BODY + "    # longer\n", None)], "b"),  # then length
        ([("b", BODY, None), ("a", BODY, None)], "a"),  # then id
    ],
)
def test_which_row_of_a_group_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[tuple[str, str, str | None]], kept: str
) -> None:
    write_inputs(
        tmp_path, [record(name, HEAD + DOC, text, tests=tests) for name, text, tests in rows], [RUNS]
    )
    clean(tmp_path, monkeypatch)
    assert list(rows_of(tmp_path)) == [kept]


def test_a_function_and_the_wrapper_that_quotes_it_are_kept_and_related(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = HEAD + DOC + BODY + "\n\ndef g(rows):\n"
    write_inputs(
        tmp_path,
        [record("a", wrapper, "    return gather(rows, 3)\n"), record("b", HEAD + DOC, BODY)],
        [RUNS],
    )
    metrics = clean(tmp_path, monkeypatch)
    assert metrics["dropped"]["near"] == 0
    assert {row["component"] for row in rows_of(tmp_path).values()} == {"b"}


def test_two_runs_write_the_same_bytes_and_leave_no_parts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = []
    for _ in range(2):
        clean(folder, monkeypatch)
        digests.append({file.name: sha256_file(file) for file in sorted((folder / "data/clean").iterdir())})
        shutil.rmtree(folder / "data/clean")
        assert list((folder / ".cache").iterdir()) == []
    assert list(digests[0]) == ["dropped.parquet", "near.jsonl", "rows.parquet"]
    assert digests[0] == digests[1]


def test_conversations_and_prose_pass_the_fenced_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chat(name: str, answer: str) -> dict[str, Any]:
        turns = [{"role": "user", "content": f"Question {name}?"}, {"role": "assistant", "content": answer}]
        return record(name, None, None, messages=turns)

    rows = [
        chat("fine", "Use a set:\n```python\ndef f(x):\n    return set(x)\n```\n"),
        chat("cut", "So:\n```python\ndef f(x:\n```\n"),
        chat("prose", "Because the list is sorted, a binary search is enough."),
        record("plain", "", "Prose alone, without any code in it."),
    ]
    write_inputs(tmp_path, rows, [RUNS])
    clean(tmp_path, monkeypatch, layout="fenced")
    assert set(rows_of(tmp_path)) == {"fine", "prose", "plain"}
    clean(tmp_path, monkeypatch)
    assert set(rows_of(tmp_path)) == {"fine", "prose"}  # `plain` is not a module


def test_no_rows_left_names_the_worst_rule_and_writes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"dropped all 42 rows .* 4\d of them by the rule 'length'"):
        clean(folder, monkeypatch, length=Length(min_characters=7999), rules=["length"])
    assert not (folder / "data/clean").exists()


def break_rows(folder: Path, how: str, rows: int) -> None:
    path = folder / "data/raw/rows.parquet"
    table = pq.read_table(path)
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "no column":
        pq.write_table(table.drop_columns(["licence"]), path)
    elif how == "type":
        pq.write_table(table.set_column(3, "prompt", pa.array(range(table.num_rows))), path)
    elif how == "null":
        source = table.column("source").to_pylist()
        pq.write_table(table.set_column(1, "source", pa.array([*source[:3], None, *source[4:]])), path)
    else:
        pq.write_table(table.slice(0, 0), path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "no such file"),
        ("truncated", "not readable as Parquet"),
        ("no column", "the columns licence are missing or of another type"),
        ("type", "the columns prompt are missing"),
        ("null", "the columns source are missing or of another type"),
        ("no rows", "holds no rows"),
    ],
)
@pytest.mark.parametrize("rows", [3, 6, 4096])  # a row group: within one, and from one to the next
def test_bad_rows_are_an_error_that_names_the_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch, how: str, message: str, rows: int
) -> None:
    break_rows(folder, how, rows)
    with pytest.raises(UserError, match=rf"data/raw/rows\.parquet.*{message}"):
        clean(folder, monkeypatch)
    assert not (folder / "data/clean").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rules": ["lenght"]}, "clean.rules is 'lenght': expected one of empty, length"),
        ({"rules": ["empty", "empty"]}, "each rule once"),
        ({"duplicates": ["fuzzy"]}, "expected one of exact, ast, near"),
        ({"layout": "prose"}, "clean.layout is 'prose'"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CleanSettings(**settings)


@pytest.mark.parametrize("preset", sorted(path.stem for path in (REPOSITORY / "conf/clean").glob("*.yaml")))
def test_every_preset_decontaminates(folder: Path, monkeypatch: pytest.MonkeyPatch, preset: str) -> None:
    section = OmegaConf.load(REPOSITORY / f"conf/clean/{preset}.yaml")
    for other in [name for name in section.pop("defaults", []) if name != "_self_"]:
        section = OmegaConf.merge(OmegaConf.load(REPOSITORY / f"conf/clean/{other}.yaml"), section)
    monkeypatch.chdir(folder)
    metrics = main(SimpleNamespace(**load_sections({"clean": section}, ["clean"]), engine=ENGINE))  # type: ignore[arg-type]
    assert metrics["decontaminated_by"] == [name for name in ROW_RULES if name.startswith("contaminated")]
    dropped = rows_of(folder, "dropped")
    for name in ("contaminated_docstring", "contaminated_solution", "empty"):
        assert dropped[name]["rule"] == name
    assert dropped.get("contaminated_ast", {}).get("rule") != "contaminated_ast"  # an idiom
    assert dropped["exact-copy"]["rule"] == "exact"
    assert (dropped.get("parse", {}).get("rule") == "parse") is (preset in ("functions", "repository"))


@pytest.mark.slow
def test_the_command_writes_metrics_and_a_failure_leaves_what_was_there(folder: Path) -> None:
    (folder / "reports").mkdir()
    (folder / "reports/config.yaml").write_text("clean: {}\nengine: {workers: 1}\n")
    shutil.copy(REPOSITORY / "dvc.yaml", folder)
    done = run_stage(folder)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((folder / "reports/clean.json").read_text())
    assert f"{metrics['rows_kept']} rows kept" in done.stdout
    assert not {"seconds", "peak_memory_mib"} & set(metrics)
    assert {"seconds", "peak_memory_mib"} <= set(read_metrics(folder / "reports/clean.json"))
    before = {file.name: sha256_file(file) for file in (folder / "data/clean").iterdir()}
    failed = run_stage(folder, "clean.rules=[length]", "clean.length.min_characters=7999")
    assert failed.returncode == 1
    assert "by the rule 'length'" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "not decontaminated by contaminated_docstring" in failed.stdout
    assert {file.name: sha256_file(file) for file in (folder / "data/clean").iterdir()} == before


def run_stage(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "stages.clean", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
