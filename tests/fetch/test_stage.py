"""fetch: pinned sources, functions from source text, benchmarks, clear errors."""

import ast
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from stages.common.core.errors import UserError
from stages.common.core.files import read_json, read_jsonl, sha256_file
from stages.common.rows.schema import row_schema
from stages.common.sources.pins import match_names, pinned_wheel
from stages.fetch.benchmark_formats import parse_benchmark
from stages.fetch.functions import FunctionRow, functions_of
from stages.fetch.row_errors import NOT_PYTHON
from stages.fetch.settings import FetchSettings, Source
from stages.fetch.text_files import functions_in
from tests.helpers.fetch_reading import source_rows
from tests.helpers.loopback_hub import COMMIT, REPOSITORY, hub, made_file, make_wheel, run_stage, stage_folder

ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}
SUM = "0" * 64


def file_source(**other: Any) -> Source:
    given: dict[str, Any] = {"name": "mine", "kind": "file", "path": "data/sources/x.jsonl", "sha256": SUM, "licence": "MIT"}  # fmt: skip
    return Source(**{**given, **other})


def benchmark(format: str, **other: Any) -> Source:
    return file_source(format=format, **other)


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: list[dict]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


# Functions

MODULE = '''
from __future__ import annotations
import math
import numpy as np
from itertools import chain, count as counter
from typing import overload
from . import sibling

LIMIT = 10
try:
    import fast
except ImportError:
    fast = None

def helper(x):
    return min(x, LIMIT)

def deep(x):
    return helper(x) + 1

def plain(a: int) -> int:
    """Return the number a, one more."""

    # why
    return a + 1

def with_imports(a):
    """Return all of the roots of a."""
    return [math.sqrt(x) for x in chain(a, counter())]

def with_helpers(a):
    """Return what is deep within a.

    >>> with_helpers(3)
    4
    """
    return deep(a)

class Node:
    def __init__(self, next: Node | None = None):
        self.next = next

def with_class(n: int) -> Node:
    """Build a chain of n nodes."""
    node = None
    for _ in range(n):
        node = Node(node)
    return node

def generator(a):
    """Yield every item of a twice."""
    for x in a:
        yield x
        yield x

def outside(a):
    """Return the sum of the array a."""
    return np.sum(a)

def outside_within(a):
    """Return the sum of the array a."""
    import numpy
    return numpy.sum(a)

def relative(a):
    """Return what the sibling says."""
    return sibling.say(a)

def conditional(a):
    """Return the fast result of a."""
    return fast(a)

def unknown(a):
    """Return what nobody has defined."""
    return nothing(a)

def no_arguments():
    """Return the number that is one."""
    return 1

def no_docstring(a):
    return a

def no_words(a):
    """>>> no_words(3) is the same as this and that"""
    return a

def no_result(a):
    """Print the number a, nothing more."""
    def inner():
        return 3
    print(a)

def only_words(a):
    """Return the number a, some day."""

def one_line(a): "Return the number a, as it is."; return a

def changes(a):
    """Remember the number a for later."""
    global LIMIT
    LIMIT = a
    return a

async def later(a):
    """Return the number a, later on."""
    return a

def __dunder__(a):
    """Return the number a, as it is."""
    return a

def _plain(a):
    """Return the number a, one more."""
    return a + 1

@overload
def typed(a: int) -> int: ...

def typed(a):
    """Return the number a, as it is."""
    return a

def twice(a):
    """Return the number a, as it is."""
    return a

def twice(a):
    """Return the number a, as it is."""
    return a
'''


def long_function(body: int, name: str = "long") -> str:
    return (
        f'def {name}(a):\n    """Return the number a, slowly."""\n'
        + "    a += 1\n" * (body - 1)
        + "    return a\n"
    )


def taken(source: str, path: str = "pkg/a.py") -> tuple[dict[str, FunctionRow], Counter[str]]:
    reasons: Counter[str] = Counter()
    return {row.name: row for row in functions_of(path, source, reasons)}, reasons


def test_a_function_becomes_prompt_and_body() -> None:
    row = taken(MODULE)[0]["plain"]
    assert row.prompt == 'def plain(a: int) -> int:\n    """Return the number a, one more."""\n'
    assert row.completion == "    # why\n    return a + 1\n"


def test_needed_imports_come_first_and_only_those() -> None:
    row = taken(MODULE)[0]["with_imports"]
    assert row.prompt == (
        "import math\nfrom itertools import chain, count as counter\n\n\n"
        'def with_imports(a):\n    """Return all of the roots of a."""\n'
    )


def test_helpers_are_inlined_with_what_they_need() -> None:
    rows = taken(MODULE)[0]
    row = rows["with_helpers"]
    assert row.helpers == 3
    place: dict[str, Any] = {}
    exec(row.prompt + row.completion, place)
    assert place["with_helpers"](30) == 11
    assert row.prompt.index("LIMIT = 10") < row.prompt.index("def helper") < row.prompt.index("def deep")
    assert rows["with_class"].prompt.startswith("from __future__ import annotations\n\n\nclass Node:")
    exec(rows["with_class"].prompt + rows["with_class"].completion, place)
    assert place["with_class"](2).next.next is None


def test_each_function_is_taken_or_has_a_reason() -> None:
    rows, reasons = taken(MODULE)
    names = {"plain", "with_imports", "with_helpers", "with_class", "generator", "typed"}
    assert set(rows) == names
    assert reasons == {
        "taken": 6,
        "needs a package outside the standard library": 3,
        "needs a name that is bound conditionally or twice": 1,
        "needs a name that its module does not define": 1,
        "has no arguments": 1,
        "has no docstring in words": 4,
        "returns and yields nothing": 2,
        "shares the docstring's line with code": 1,
        "assigns to a global name": 1,
        "is async": 1,
        "has a name of the interpreter (__x__)": 1,
        "is the private double of a public function": 1,
        "is a type checker's overload": 1,
        "is defined twice": 2,
    }
    functions = [n for n in ast.parse(MODULE).body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert sum(reasons.values()) == len(functions)


def test_limits_of_length_are_inclusive() -> None:
    assert taken(long_function(60))[1] == {"taken": 1}
    assert taken(long_function(61))[1] == {"has more than 60 body lines": 1}
    user = '\ndef user(a):\n    """Return what long returns."""\n    return long(a)\n'
    assert set(taken(long_function(78) + user)[0]) == {"user"}  # the helper is 80 lines
    assert taken(long_function(79) + user)[1]["needs more than 80 lines of helpers"] == 1


def test_decorators_from_outside_the_standard_library_are_left_out_and_others_stay() -> None:
    source = (
        "import networkx as nx\nfrom functools import lru_cache\n"
        '@nx._dispatchable(graphs=None)\n@lru_cache\ndef f(a):\n    """Return the number a, cached."""\n    return a\n'
    )
    prompt = taken(source)[0]["f"].prompt
    assert "nx" not in prompt
    assert "\n@lru_cache\ndef f(a):\n" in prompt


def test_windows_newlines_tests_and_files_that_do_not_parse() -> None:
    source = long_function(2)
    made = [made_file("a.py", data.encode()) for data in (source, source.replace("\n", "\r\n"), "def f(:\n")]
    first, second = ([one.prompt for one in functions_in(file, Counter())] for file in made[:2])
    assert first == second
    assert taken(source, "pkg/tests/helpers.py")[1] == {"stands in a test file": 1}
    assert taken(source, "pkg/test_a.py")[1] == {"stands in a test file": 1}
    source_with_bad = file_source(format="functions"), made[1:]
    assert source_rows(*source_with_bad, drop=True)[1] == {"taken": 1, NOT_PYTHON: 1}
    with pytest.raises(
        UserError, match=r"a\.py: not Python that parses \(.*\)\. Repair it, or set fetch.on_bad_row"
    ):
        source_rows(*source_with_bad)


def test_a_source_file_is_never_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    rows, _ = taken(f"open({str(mark)!r}, 'w')\n" + long_function(2))
    assert set(rows) == {"long"}
    assert not mark.exists()


# Benchmarks

MBPP = {
    "task_id": 11,
    "text": "Write a function to add two numbers.",
    "code": "import math\r\ndef helper(a):\r\n    return a\r\ndef add(a, b): \r\n    return helper(a) + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"],
    "test_setup_code": "zero = 0\r\n",
}


def test_mbpp_becomes_a_problem_whose_reference_passes() -> None:
    (problem,) = parse_benchmark(benchmark("mbpp"), [made_file("x.jsonl", lines({"doc": MBPP}))])
    assert problem.task_id == "MBPP/11"
    assert problem.entry_point == "add"
    assert problem.prompt == (
        '"""\nWrite a function to add two numbers.\nassert add(1, 2) == 3\nassert add(2, 2) == 4\n"""\n'
    )
    program = (
        problem.prompt + problem.canonical_solution + "\n" + problem.test + f"\ncheck({problem.entry_point})"
    )
    exec(program, {})
    with pytest.raises(AssertionError):
        exec(program.replace("+ b", "- b"), {})


def test_the_sanitized_mbpp_has_other_columns() -> None:
    row = {"source_file": "x", "task_id": 11, "prompt": MBPP["text"], "code": MBPP["code"], "test_imports": ["zero = 0"], "test_list": MBPP["test_list"]}  # fmt: skip
    full = parse_benchmark(benchmark("mbpp"), [made_file("x.jsonl", lines(MBPP))])
    assert parse_benchmark(benchmark("mbpp"), [made_file("x.jsonl", lines(row))]) == full
    assert parse_benchmark(benchmark("mbpp"), [made_file("x.parquet", parquet([row]))]) == full


def test_a_function_named_check_is_not_hidden_by_its_tests() -> None:
    row = {**MBPP, "code": "def check(a):\n    return a > 1", "test_list": ["assert check(2) == True"], "test_setup_code": ""}  # fmt: skip
    (problem,) = parse_benchmark(benchmark("mbpp"), [made_file("x.jsonl", lines(row))])
    program = (
        problem.prompt + problem.canonical_solution + "\n" + problem.test + f"\ncheck({problem.entry_point})"
    )
    exec(program, {})
    with pytest.raises(AssertionError):
        exec(program.replace("a > 1", "a > 2"), {})


@pytest.mark.parametrize(
    ("format", "rows", "message"),
    [
        ("mbpp", [{**MBPP, "code": "x = 1"}], "row 1: not a problem in format mbpp: its asserts call no function"),
        ("humaneval", [{"task_id": "a"}], "row 1: not a problem in format humaneval: it lacks 'prompt'"),
        ("humaneval", [dict.fromkeys(("task_id", "prompt", "entry_point", "canonical_solution", "test"), "a")] * 2, "row 2: the task_id a is repeated"),
    ],
)  # fmt: skip
def test_a_row_that_is_not_a_problem_names_file_and_row(format: str, rows: list[dict], message: str) -> None:
    with pytest.raises(UserError, match=f"x.jsonl, {message}"):
        parse_benchmark(benchmark(format), [made_file("x.jsonl", lines(*rows))])


def problems_as_rows(*rows: dict, tasks: str = "") -> list[dict[str, Any]]:
    return source_rows(benchmark("mbpp", tasks=tasks), [made_file("x.jsonl", lines(*rows))])[0]


def test_a_problem_is_trained_on_as_the_benchmark_asks_it_and_as_a_documented_function() -> None:
    asked, documented = problems_as_rows(MBPP)
    (problem,) = parse_benchmark(benchmark("mbpp"), [made_file("x.jsonl", lines(MBPP))])
    assert (asked["prompt"], asked["completion"]) == (problem.prompt, problem.canonical_solution)
    code = "import math\ndef helper(a):\n    return a\ndef add(a, b):\n"
    words = '    """Write a function to add two numbers.\n'
    examples = '    >>> add(1, 2)\n    3\n    >>> add(2, 2)\n    4\n    """\n'
    assert documented["prompt"] == code + words + examples
    assert documented["completion"] == "    return helper(a) + b\n"
    for row in (asked, documented):
        exec(row["prompt"] + row["completion"] + row["tests"], {})
        with pytest.raises(AssertionError):
            exec((row["prompt"] + row["completion"]).replace("+ b", "- b") + row["tests"], {})
    places = [json.loads(row["metadata"]) for row in (asked, documented)]
    assert places == [{"parent": "MBPP/11", "rendering": name} for name in ("benchmark", "function")]


@pytest.mark.parametrize(
    ("code", "completion"),
    [
        ("def add(a, b):\n  # sum\n  return a + b", "    return a + b\n"),
        ("def add(a, b):\n    # sum\n    return a + b", "    # sum\n    return a + b\n"),
        ("def add(a, b): return a + b", "    return a + b\n"),
        ("def add(a,\n        b):\n\treturn a + b", "    return a + b\n"),
        (
            "def add(a, b):\n    @print\n    def c(): 1\n    return a + b",
            "    @print\n    def c(): 1\n    return a + b\n",
        ),
        ("def add(a, b):\n    return a + b\nx = add(1, 1)", None),
        ("def add(a, b):\n    'Sum.'\n    return a + b", None),
        ("@staticmethod\ndef add(a, b):\n    return a + b", None),
    ],
)
def test_a_body_that_a_documented_function_has(code: str, completion: str | None) -> None:
    _, *documented = problems_as_rows({**MBPP, "code": code})
    assert [row["completion"] for row in documented] == ([completion] if completion else [])


def test_an_assert_that_is_no_call_with_a_literal_is_no_example() -> None:
    asserts = ["assert add(1, 2) == 1 + 2", "assert round(add(1, 2)) == 3", "assert add(1, 2) > 2"]
    assert len(problems_as_rows({**MBPP, "test_list": asserts})) == 1
    raw = problems_as_rows({**MBPP, "test_list": ["assert add('\\n', '') == '\\n'"]})[1]
    assert 'r"""Write' in raw["prompt"]
    assert ">>> add('\\n', '')\n    '\\n'\n" in raw["prompt"]


def test_tasks_choose_problems_by_the_number_that_ends_their_id() -> None:
    rows = [{**MBPP, "task_id": number} for number in (9, 10, 11, 12, 110)]
    found = problems_as_rows(*rows, tasks="10-11, 110")
    assert {json.loads(row["metadata"])["parent"] for row in found} == {"MBPP/10", "MBPP/11", "MBPP/110"}
    with pytest.raises(
        UserError, match="tasks: 13-100 names none of its 5 problems, whose numbers are from 9"
    ):
        problems_as_rows(*rows, tasks="13-100")
    for wrong in ("11-", "12-11", "a", "1;2"):
        with pytest.raises(ValueError, match=f"tasks is '{wrong}': expected ranges of the number"):
            FetchSettings(benchmarks={"mine": benchmark("mbpp", tasks=wrong)})
    with pytest.raises(ValueError, match="tasks is '1-2': expected nothing"):
        FetchSettings(sources=[file_source(tasks="1-2")])


def test_a_problem_without_a_solution_is_not_trained_on() -> None:
    names = ("task_id", "prompt", "entry_point", "test")
    row = {**dict.fromkeys(names, "def f():\n"), "canonical_solution": ""}
    with pytest.raises(UserError, match="has no canonical solution to train on"):
        source_rows(benchmark("humaneval"), [made_file("x.jsonl", lines(row))])


# Settings and pins


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"kind": "hub", "repo": "a/b", "revision": "main", "members": ["*"]},
            "not pinned: revision is 'main'",
        ),
        (
            {"kind": "pypi", "package": "a", "version": ">=1", "members": ["*"]},
            "not pinned: version is '>=1'",
        ),
        ({"sha256": "1" * 63}, f"not pinned: sha256 is '{'1' * 63}'"),
        ({"path": "/etc/passwd"}, "path is '/etc/passwd'"),
        ({"path": "data/sources/../raw/x.jsonl"}, "expected a path below data/sources/"),
        ({"weight": 0.0}, "weight is 0.0"),
        ({"licence": ""}, "licence is ''"),
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"kind": "git"}, "kind is 'git'"),
    ],
)
def test_a_source_without_a_pin_is_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        FetchSettings(sources=[file_source(**given)])
    assert message in str(error.value)


def test_rows_are_no_benchmark_and_names_are_unique() -> None:
    with pytest.raises(ValueError, match="format of 'mine' is 'rows': expected one of humaneval"):
        FetchSettings(benchmarks={"mine": file_source()})
    with pytest.raises(ValueError, match="each name once"):
        FetchSettings(sources=[file_source(), file_source()])
    with pytest.raises(
        ValueError, match=r"fetch\.benchmarks\.other\.name is 'mine': expected other, or nothing"
    ):
        FetchSettings(benchmarks={"other": benchmark("mbpp")})
    with pytest.raises(ValueError, match="fetch source 'other' is not pinned: sha256 is 'x'"):
        FetchSettings(benchmarks={"other": benchmark("mbpp", name="", sha256="x")})


def test_members_are_globs_and_a_missing_one_names_the_nearest() -> None:
    names = ["a/x.py", "a/b/y.py", "a/tests/t.py", "a/z.txt"]
    assert match_names(names, ["a/*.py", "!*/tests/*"], "w") == ["a/b/y.py", "a/x.py"]
    with pytest.raises(UserError, match=r"w has no file that matches 'a/x.pi'. The nearest is 'a/x.py'"):
        match_names(names, ["a/x.pi"], "w")


@pytest.mark.slow
def test_a_cached_wheel_that_was_changed_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel, shelf = "made_here-1.0-py3-none-any.whl", tmp_path / "shelf"
    info = "made_here-1.0.dist-info/"
    metadata = {
        f"{info}METADATA": b"Metadata-Version: 2.1\nName: made-here\nVersion: 1.0\n",
        f"{info}WHEEL": b"Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    sha256 = make_wheel(shelf / wheel, {"made_here/a.py": b"", **metadata})
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / wheel).write_bytes(b"changed")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    assert sha256_file(pinned_wheel("made-here", "1.0", sha256, cache)) == sha256
    (cache / wheel).unlink()
    with pytest.raises(UserError, match=f"expected sha256 {SUM}\n  found    sha256 {sha256}"):
        pinned_wheel("made-here", "1.0", SUM, cache)
    assert list(cache.iterdir()) == []
    with pytest.raises(UserError, match=r"pip could not download made-here==2\.0. Is there a network"):
        pinned_wheel("made-here", "2.0", sha256, cache)


# The stage


def problem_row() -> dict:
    return {"task_id": "T/0", "prompt": "def f(a):\n", "entry_point": "f", "canonical_solution": "    return a\n", "test": "def check(candidate):\n    assert candidate(1) == 1\n"}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a wheel of functions in the cache, a file of Alpaca rows and a benchmark; fetch is set up."""
    wheel = make_wheel(tmp_path / ".cache/wheels/pkg-1.0-py3-none-any.whl", {"pkg/a.py": MODULE.encode()})
    folder = tmp_path / "data/sources"
    folder.mkdir(parents=True)
    (folder / "x.jsonl").write_bytes(lines(ALPACA))
    (folder / "p.jsonl").write_bytes(lines(problem_row()))
    pypi = {"name": "pkg", "kind": "pypi", "package": "pkg", "version": "1.0", "sha256": wheel, "members": ["pkg/*.py"], "format": "functions", "licence": "MIT"}  # fmt: skip
    mine = {"name": "mine", "kind": "file", "path": "data/sources/x.jsonl", "sha256": sha256_file(folder / "x.jsonl"), "licence": "CC0-1.0"}  # fmt: skip
    suite = {"kind": "file", "path": "data/sources/p.jsonl", "sha256": sha256_file(folder / "p.jsonl"), "format": "humaneval", "licence": "MIT"}  # fmt: skip
    return stage_folder(tmp_path, {"fetch": {"sources": [pypi, mine], "benchmarks": {"tiny": suite}}})


@pytest.mark.slow
def test_fetch_writes_rows_benchmarks_and_lock_the_same_twice(place: Path) -> None:
    done = run_stage(place, "fetch")
    assert done.returncode == 0, done.stderr
    table = pq.read_table(place / "data/raw/rows.parquet")
    assert table.schema.equals(row_schema())
    ids = table["id"].to_pylist()
    assert len({*ids}) == len(ids) == 7
    assert Counter(zip(table["source"].to_pylist(), table["licence"].to_pylist(), strict=True)) == {
        ("pkg", "MIT"): 6,
        ("mine", "CC0-1.0"): 1,
    }
    assert read_jsonl(place / "data/benchmarks/tiny.jsonl") == [problem_row()]
    lock = read_json(place / "data/raw/sources.lock.json")
    assert lock["sources"]["pkg"]["rows"] == 6
    assert lock["sources"]["pkg"]["resolved"]["sha256"] == lock["sources"]["pkg"]["requested"]["sha256"]
    metrics = read_json(place / "reports/fetch.json")
    assert metrics["rows"] == 7
    assert metrics["sources"]["pkg"]["candidates"] == sum(metrics["sources"]["pkg"]["reasons"].values()) == 26
    outs = ["data/raw/rows.parquet", "data/raw/sources.lock.json", "data/benchmarks/tiny.jsonl"]
    first = [sha256_file(place / out) for out in outs]
    assert run_stage(place, "fetch", {"PYTHONHASHSEED": "7"}).returncode == 0
    assert [sha256_file(place / out) for out in outs] == first


@pytest.mark.slow
def test_the_examples_of_sources_run(tmp_path: Path) -> None:
    """conf/fetch/file.yaml and mixture.yaml on the files that they name, benchmarks left out."""
    (tmp_path / "data/sources").mkdir(parents=True)
    for file in (REPOSITORY / "data/sources").glob("example*"):
        shutil.copy(file, tmp_path / "data/sources")
    for name, expected in (("file", {"mine": 4}), ("mixture", {"instructions": 3, "questions": 2})):
        preset = yaml.safe_load((REPOSITORY / f"conf/fetch/{name}.yaml").read_text("utf-8"))
        place = stage_folder(tmp_path, {"fetch": {**preset, "benchmarks": {}}})
        done = run_stage(place, "fetch")
        assert done.returncode == 0, done.stderr
        rows = pq.read_table(place / "data/raw/rows.parquet").to_pylist()
        assert Counter(row["source"] for row in rows) == expected
    report = read_json(place / "reports/fetch.json")["sources"]
    assert report["instructions"]["reasons"] == {"taken": 3, "left out by rows": 1}
    assert report["questions"]["reasons"] == {"taken": 2, "under the minimum of votes": 1, "left out by max_rows": 1, "left out by rows": 1}  # fmt: skip
    asked = {
        "Reverse a string\n\nHow do I turn a string around?",
        "Flatten a list\n\nI have a list of lists, one level deep.",
        "Largest key\n\nWhich key of a dict has the largest value?",
        "Round up\n\nHow do I round up to a multiple of ten?",
    }
    assert {row["prompt"] for row in rows if row["source"] == "questions"} < asked
    assert all("`" in row["completion"] for row in rows if row["source"] == "questions")


def refused(place: Path, *message: str, env: dict[str, str] | None = None) -> None:
    """The stage ends with status 1, one message that has these parts, and nothing written."""
    done = run_stage(place, "fetch", env)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error in stage fetch: ")
    for part in message:
        assert part in done.stderr
    assert not (place / "data/raw").exists()
    assert not (place / "data/benchmarks").exists()
    assert not (place / "reports/fetch.json").exists()


@pytest.mark.slow
def test_a_changed_file_a_cut_line_a_missing_file_and_no_network_are_refused(place: Path) -> None:
    file = place / "data/sources/x.jsonl"
    pinned, cut = sha256_file(file), b'{"instruction": "Add.", "outp'
    file.write_bytes(lines(ALPACA) + cut)
    sha256 = sha256_file(file)
    refused(
        place,
        "data/sources/x.jsonl does not match its pin",
        f"expected sha256 {pinned}",
        f"found    sha256 {sha256}",
    )
    config = place / "reports/config.yaml"
    config.write_text(config.read_text("utf-8").replace(pinned, sha256), "utf-8")
    refused(place, "data/sources/x.jsonl, line 2: cut or damaged")
    file.unlink()
    refused(place, "source 'mine': data/sources/x.jsonl: no such file")
    next((place / ".cache/wheels").iterdir()).unlink()
    refused(place, "pip could not download pkg==1.0. Is there a network")


@pytest.mark.slow
def test_a_data_set_is_fetched_from_the_hub_at_its_commit(tmp_path: Path) -> None:
    script = b"open('executed', 'w')\n"
    files = {
        "data/a.parquet": parquet([ALPACA]),
        "data/b.jsonl": lines({**ALPACA, "output": "x"}),
        "set.py": script,
    }
    source = {"name": "set", "kind": "hub", "repo": "me/set", "revision": COMMIT, "data_files": ["data/*"], "licence": "MIT"}  # fmt: skip
    place = stage_folder(tmp_path, {"fetch": {"sources": [source], "benchmarks": {}}})
    with hub({"datasets/me/set": files}) as address:
        config = place / "reports/config.yaml"
        text = config.read_text("utf-8")
        for wrong, right, message in (
            (
                COMMIT.replace("0", "f"),
                COMMIT,
                f"the data set me/set has no commit {COMMIT.replace('0', 'f')}",
            ),
            ("me/other", "me/set", "the data set me/other is not on the hub"),
            ("lost/*", "data/*", "the data set me/set has no file that matches 'lost/*'"),
        ):
            config.write_text(text.replace(right, wrong), "utf-8")
            refused(place, message, env={"HF_ENDPOINT": address})
        config.write_text(text, "utf-8")
        refused(place, "could not be downloaded. Is there a network?")
        done = run_stage(place, "fetch", {"HF_ENDPOINT": address})
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(place / "data/raw/rows.parquet").to_pylist()
    assert sorted(row["completion"] for row in rows) == ["3", "x"]
    assert read_json(place / "data/raw/sources.lock.json")["sources"]["set"]["resolved"] == {"commit": COMMIT}
    assert not (place / "executed").exists()
