"""A benchmark of a repository: what is held out and why, what its problems are worth, and what stays out of training."""

import json
import subprocess
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.benchmark.__main__ import main
from stages.benchmark.held_out import is_chosen, own_functions
from stages.benchmark.own_tests import read_suite, unit_tests
from stages.benchmark.proof import with_first_examples
from stages.clean.contamination.decontaminate import CONTAMINATION_CHECKS, ProblemIndex
from stages.clean.settings import Contamination
from stages.common.core.errors import UserError
from stages.common.rows.schema import Problem
from stages.fetch.benchmark_formats import parse_benchmark
from stages.fetch.settings import Source
from stages.fetch.source_file import SourceFile
from tests.helpers.clean_rows import row

CODE = '''\
import re

import thirdparty

SEPARATORS = re.compile(r"[ _]+")


def parts(text):
    return SEPARATORS.split(text)


def to_kebab(text, *, upper=False):
    """Turn a text of several words into kebab case, with one hyphen between words.

    >>> from mine.names import to_kebab
    >>> to_kebab("two words")
    'two-words'
    >>> to_kebab("a_b  c")
    'a-b-c'

    Words in capital letters are possible as well.

    >>> to_kebab("a b", upper=True)
    'A-B'
    """
    joined = "-".join(parts(text))
    return joined.upper() if upper else joined.lower()


def longest(words, default=""):
    """Return the longest word of a list of words, the default if there are none."""
    best = default
    for word in words:
        if len(word) > len(best):
            best = word
    return best


def nothing_said(values):
    """Return the largest of the values without saying which one it is.

    >>> found = nothing_said([1])
    """
    largest = max(value for value in values if value is not None)
    return largest


def wrong(values):
    """Return the sum of the squares of all values that are given here.

    >>> wrong([1, 2])
    7
    """
    return sum(value * value for value in values if value is not None)


def foreign(value):
    """Return what the third party makes of a value."""
    return thirdparty.make(value)


def tiny(x):
    """Double it up."""
    return x + x


class Shape:
    """A shape."""

    @staticmethod
    def area(width, height):
        """Return the area of a rectangle, whose sides may not be negative numbers.

        >>> Shape.area(2, 3)
        6
        """
        if width < 0 or height < 0:
            raise ValueError("a side is negative")
        return width * height

    def grow(self, by):
        """Return a larger shape than this one."""
        return self
'''
SUITE = """\
import unittest

import pytest

from mine import names
from mine.names import longest as found


class NamesTest(unittest.TestCase):
    def setUp(self):
        self.words = ["a", "abc", "ab"]

    def test_longest(self):
        self.assertEqual(found(self.words), "abc")
        self.assertEqual(names.longest([], default="-"), "-")

    def test_tiny(self):
        self.assertEqual(names.tiny(2), 4)

    def test_kebab_of_a_file(self):
        self.assertEqual(names.to_kebab(open("words.txt").read()), "x")


@pytest.mark.parametrize("words", [[]])
def test_with_a_fixture(words):
    assert found(words) == ""
"""


def make_repository(folder: Path) -> Path:
    for name, text in {
        "src/mine/names.py": CODE,
        "src/mine/short.py": CODE[CODE.index("def longest") :].split("\n\n\n")[0],
        "tests/test_names.py": SUITE,
        "broken.py": "def (",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for command in ("init -q", "add -A", "-c user.name=a -c user.email=a@b.c commit -qm one"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the command wrote, and what it printed."""
    root = tmp_path_factory.mktemp("own")
    repository = make_repository(root / "mine")
    (root / "conf/benchmark").mkdir(parents=True)
    import contextlib
    import io

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(root)
        main([str(repository), "--name", "own", "--share", "1"])
    return root, printed.getvalue()


@pytest.fixture(scope="module")
def rows(made: tuple[Path, str]) -> dict[str, dict[str, Any]]:
    lines = (made[0] / "data/sources/own.jsonl").read_text().splitlines()
    return {one["entry_point"]: one for one in map(json.loads, lines)}


def test_functions_with_tests_that_can_fail_are_held_out(rows: dict[str, dict[str, Any]]) -> None:
    assert [*rows] == ["to_kebab", "longest", "area"]
    assert rows["area"]["task_id"] == "own/src/mine/names.py:Shape.area"
    assert [one["path"] for one in rows.values()] == ["src/mine/names.py"] * 3
    assert CODE.splitlines()[rows["longest"]["line"] - 1] == 'def longest(words, default=""):'
    assert len({one["commit"] for one in rows.values()}) == 1
    assert len(rows["area"]["commit"]) == 40


@pytest.mark.parametrize(
    "line",
    [
        "11 functions and methods in 4 files",
        "1 needs a package outside the standard library",
        "1 is a method that needs its object or class",
        "1 is a copy of another function",
        "1 stands in a file that does not parse",
        "1 has no docstring in words",
        "1 has tests that a body of `pass` or NotImplementedError passes",
        "1 fails its own tests in the sandbox: wrong_answer",
        "1 is too short for the rules that keep it out of training",
        "3 problems: data/sources/own.jsonl, conf/benchmark/own.yaml",
    ],
)
def test_what_is_left_out_is_counted_by_reason(made: tuple[Path, str], line: str) -> None:
    assert line in [one.strip() for one in made[1].splitlines()]


def test_the_prompt_has_context_and_first_examples_and_the_test_has_all(
    rows: dict[str, dict[str, Any]],
) -> None:
    kebab = rows["to_kebab"]
    assert kebab["prompt"].startswith('import re\n\n\nSEPARATORS = re.compile(r"[ _]+")\n')
    assert "def parts(text):" in kebab["prompt"]
    assert "two-words" in kebab["prompt"]
    assert "upper=True" not in kebab["prompt"]
    assert "A-B" in kebab["test"]
    assert kebab["prompt"].endswith('possible as well.\n\n    """\n')
    assert "test_kebab_of_a_file" not in kebab["test"]  # there is no file in the sandbox
    assert "NamesTest('test_longest').debug()" in rows["longest"]["test"]


def test_the_file_of_conf_scores_it(made: tuple[Path, str]) -> None:
    preset = yaml.safe_load((made[0] / "conf/benchmark/own.yaml").read_text())
    source = Source(**preset["fetch"]["benchmarks"]["own"], name="own")
    source.check()
    data = made[0] / source.path
    assert preset["evaluate"]["scoring"] == {"own": {}}
    parsed = parse_benchmark(source, [SourceFile(data.name, data)])
    assert [one.entry_point for one in parsed] == ["to_kebab", "longest", "area"]


def as_method(source: str) -> str:
    return "class Tools:\n" + textwrap.indent(source, "    ")


def test_training_rows_that_are_or_hold_a_held_out_function_are_dropped(
    rows: dict[str, dict[str, Any]],
) -> None:
    fields = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
    problems = [("own", Problem(*(one[name] for name in fields))) for one in rows.values()]
    index = ProblemIndex(problems, Contamination())
    for name, first in (("to_kebab", "def to_kebab"), ("longest", "def longest")):
        whole = CODE[CODE.index(first) :].split("\n\n\n")[0] + "\n"
        head, _, body = whole.rpartition('"""\n')
        renamed = whole.replace("best", "kept").replace("words", "texts").replace("joined", "made")
        copies = [row(body, head + '"""\n'), row(CODE), row(renamed), row(as_method(whole))]
        for copy in copies:
            found = [m.task_id for check in CONTAMINATION_CHECKS.values() for m in check(copy, index)]
            assert rows[name]["task_id"] in found, copy.text
    other = row(
        'def halve(values):\n    """Return half of each value."""\n    return [v / 2 for v in values]\n'
    )
    assert not any(any(check(other, index)) for check in CONTAMINATION_CHECKS.values())


def test_a_function_is_chosen_by_its_own_hash() -> None:
    found = list(own_functions({"names.py": CODE}, Counter()))
    fewer = list(own_functions({"names.py": CODE.replace("def wrong", "def other")}, Counter()))
    for seed in range(5):
        chosen = [{one.place for one in some if is_chosen(one, 0.5, seed)} for some in (found, fewer)]
        assert chosen[0] - {"names.py:wrong"} == chosen[1] - {"names.py:other"}
        assert chosen[0] <= {one.place for one in found if is_chosen(one, 0.8, seed)}
    assert len({frozenset(one.place for one in found if is_chosen(one, 0.5, seed)) for seed in range(9)}) > 1


def test_a_test_of_a_module_finds_the_function_in_it() -> None:
    import ast

    (function,) = [one for one in own_functions({"a.py": CODE}, Counter()) if one.node.name == "longest"]
    suite = read_suite(ast.parse("import a\n\ndef test_it():\n    assert a.longest(['b']) == 'b'\n"), {"a"})
    (test,) = unit_tests(function, [suite])
    names: dict[str, Any] = {}
    exec(
        "import types\n"
        + "".join(test.needed)
        + f"def run(candidate):\n{textwrap.indent(test.call, '    ')}\n",
        names,
    )
    names["run"](lambda words: words[0])
    with pytest.raises(AssertionError):
        names["run"](lambda words: "")


def test_examples_stay_up_to_the_first_call() -> None:
    prompt = 'def f(x):\n    """Say.\n\n    >>> y = 1\n    >>> f(y)\n    1\n    >>> f(2)\n    2\n    """\n'
    assert with_first_examples(prompt) == prompt.replace("    >>> f(2)\n    2\n", "")
    tight = 'def f(x):\n    """Say.\n\n    >>> f(y)\n    1\n    >>> f(2)\n    2"""\n'
    assert with_first_examples(tight) == tight


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name", "a b"], "--name is 'a b'"),
        (["--name", "own", "--share", "2"], "--share is 2"),
        (["--name", "own", "--licence", "mine"], "--licence is 'mine'"),
        (["--name", "humaneval"], "conf/benchmark/humaneval.yaml exists"),
    ],
)
def test_bad_arguments_are_one_message(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/benchmark").mkdir(parents=True)
    (tmp_path / "conf/benchmark/humaneval.yaml").write_text("# somebody's own\n")
    with pytest.raises(UserError, match=message):
        main([".", *options])


def test_a_repository_without_problems_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/benchmark").mkdir(parents=True)
    for folder, message in (("none", "no such folder"), ("conf", "has no Python files")):
        with pytest.raises(UserError, match=message):
            main([folder, "--name", "own"])
    (tmp_path / "conf/a.py").write_text("x = 1\n")
    with pytest.raises(UserError, match="no function is left to hold out"):
        main(["conf", "--name", "own"])
    assert [path.name for path in tmp_path.rglob("own*")] == []
