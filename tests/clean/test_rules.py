"""Rules on single rows: each both ways, with its evidence; what counts as a row's code; fingerprints."""

import pytest
from omegaconf import OmegaConf

from stages.clean.code.syntax import read_fenced_code, read_module_code
from stages.clean.contamination.decontaminate import ProblemIndex
from stages.clean.row import WORD_PATTERN, RowView
from stages.clean.rules import quotes
from stages.clean.rules.code import unparsable
from stages.clean.rules.text import empty
from stages.clean.screen import first_failed_rule
from stages.clean.settings import (
    ROW_RULES,
    CleanSettings,
    Contamination,
    Length,
    LongLines,
    Placeholder,
    Repetition,
)
from stages.common.core.stage import load_sections
from stages.common.rows.schema import Problem
from tests.helpers.clean_rows import RUNS, conversation, problem, row, rule_of
from tests.helpers.tiny_project import REPOSITORY

GOOD = row("    return a + b\n", 'def add(a, b):\n    """Add."""\n')


def test_a_good_row_passes_every_rule_and_every_rule_is_a_rule_or_a_check() -> None:
    from stages.clean.contamination.decontaminate import CONTAMINATION_CHECKS

    assert set(CONTAMINATION_CHECKS) < set(ROW_RULES)
    for name in set(ROW_RULES) - set(CONTAMINATION_CHECKS):
        assert rule_of(name, CleanSettings())(GOOD) is None, name


@pytest.mark.parametrize("completion", ["", " \n\t\n"])
def test_empty(completion: str) -> None:
    assert empty(row(completion, "def f():")) == "the completion is empty"


def test_empty_conversation_is_one_whose_assistant_says_nothing() -> None:
    assert empty(conversation(("user", "Hello"), ("assistant", " "))) == "the completion is empty"
    assert empty(conversation(("user", ""), ("assistant", "Hi"))) is None


def test_length_counts_the_completion_alone() -> None:
    limits = Length(min_characters=5, max_characters=20, min_lines=2, max_lines=3)
    prompt = "x" * 100 + "\n" * 9
    assert limits(row(" a\nb ", prompt)) == "3 characters, fewer than 5"
    assert limits(row("a" * 21, prompt)) == "21 characters, more than 20"
    assert limits(row("abcdef", prompt)) == "1 lines, fewer than 2"
    assert limits(row("a\nb\n\nc\nd\n", prompt)) == "4 lines, more than 3"
    assert limits(row("abc\n\ndef\n", prompt)) is None


def test_long_lines_of_prompt_and_completion() -> None:
    limits = LongLines(max_characters=10)
    assert limits(row("b" * 10, "a" * 10 + "\n")) is None
    assert limits(row("b", "a" * 11 + "\n")) == "line of 11 characters, more than 10: 'aaaaaaaaaaa'"


def test_parse_reads_prompt_and_completion_as_one_module() -> None:
    assert unparsable(row("    return a\n", "def f(a):\n")) is None
    assert unparsable(row("return a\n", "def f(a):\n")) == (
        "IndentationError: expected an indented block after function definition on line 1 (line 2)"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = '\0'", "null bytes"),
        ("(" * 5000, "SyntaxError"),
        ("x = " + "-" * 20000 + "1", "levels deep"),
        ("x = " + "1+" * 20000 + "1", "levels deep"),
        ("x = " + "[" * 250 + "]" * 250, "SyntaxError"),
        ("x = " + "9" * 5000, "Error"),
        ("x = 0x" + "f" * 9000, "ValueError"),
        ("#" * 1_000_001, "too long to parse"),
        ("x = '\ud800'", "Error"),
    ],
)
def test_hostile_text_is_dropped_with_a_reason(text: str, reason: str) -> None:
    assert reason in (unparsable(row(text)) or "")


@pytest.mark.parametrize(
    ("completion", "line"),
    [
        ("return name\n", 3),
        ("if name:\n    return name\nelse:\n    pass\n", 4),
        ("class A:\n    return 1\n", 4),
    ],
)
def test_a_return_that_lost_its_function_does_not_parse(completion: str, line: int) -> None:
    """`ast.parse` takes it; the compiler does not."""
    prompt = 'def tell(name):\n    """Tell."""\n'
    assert unparsable(row(completion, prompt)) == f"SyntaxError: 'return' outside function (line {line})"
    assert [name for name, _ in read_module_code(prompt + completion).functions] == ["tell"]
    assert unparsable(row("    def inner():\n        return 1\n    return inner\n", prompt)) is None
    assert unparsable(row("if name:\n    def inner():\n        return 1\n", prompt)) is None


def test_fenced_python_must_parse_and_other_languages_need_not() -> None:
    bad = "Here:\n```python\ndef f(:\n```\n"
    assert (unparsable(row(bad, layout="fenced")) or "").startswith("SyntaxError: invalid syntax (line 1)")
    assert unparsable(conversation(("user", "f?"), ("assistant", bad)))
    for fine in ("No code.", "```js\nfunction f( {\n```", "```\n$ ls\n```", "```python\nx = 1\n```"):
        assert unparsable(row(fine, layout="fenced")) is None


def test_code_of_fences() -> None:
    text = "A\n```py\ndef f(x):\n    return x\n```\nB\n  ```\n  def g(x):\n      return 2 * x\n  ```\n```sh\nls\n```\n"
    assert [name for name, _ in read_fenced_code(text).functions] == ["f", "g"]
    assert read_fenced_code("def f(x): return x").functions == []
    assert dict(read_fenced_code("```python\ndef cut(x):\n    return x").functions).keys() == {"cut"}


@pytest.mark.parametrize(
    "line", ["# TODO: finish", "#todo", "# Your code here", "# implement this later", "# fill in here"]
)
def test_placeholder_quotes_the_line(line: str) -> None:
    found = row(f"    {line}\n    return a\n", "def f(a):\n")
    assert Placeholder()(found) == f"placeholder: '{line}'"
    assert Placeholder(patterns=[])(found) is None


def test_a_todo_list_is_not_a_placeholder() -> None:
    fine = row(
        "    todo = [a]  # what is left\n    return todo\n", "def todo_list(a):\n    # TODO in the prompt\n"
    )
    assert Placeholder()(fine) is None


@pytest.mark.parametrize(
    "body", ["pass", "...", "raise NotImplementedError", "raise NotImplementedError('f')", "'doc'"]
)
def test_stub_bodies(body: str) -> None:
    stub = row(f"    {body}\n", 'def f(a):\n    """Do it."""\n')
    assert (Placeholder()(stub) or "").startswith(
        'nothing but a stub in "f: ' if "'" in body else "nothing but a stub in 'f: "
    )
    assert Placeholder(stubs=False)(stub) is None


@pytest.mark.parametrize(
    "body", ["if a:\n        pass\n    return a", "raise ValueError", "return ...", "pass\n    print(a)"]
)
def test_bodies_that_do_something(body: str) -> None:
    assert Placeholder()(row(f"    {body}\n", "def f(a):\n")) is None


def test_a_stub_that_the_last_function_uses_is_fine() -> None:
    text = "def hook(x):\n    pass\n\n\ndef f(x):\n    return hook(x)\n"
    assert Placeholder()(row(text)) is None


def test_repeated_lines() -> None:
    limits = Repetition(max_line_share=0.5)
    assert limits(row("x += 1\n" * 16 + "y = 1\nz = 1\nw = 1\nv = 1\n")) == (
        "0.75 of its lines repeat an earlier one: 'x += 1'"
    )
    assert limits(row("x += 1\n" * 19)) is None  # too few lines to judge
    assert limits(row("x += 1\n" * 6 + "\n".join(f"{c} += 1" for c in "abcdefghijklmnop"))) is None


def test_repeated_ngrams() -> None:
    limits = Repetition()
    assert limits(row("a b c " * 20)) == "0.94 of its 8-grams repeat an earlier one: 'a b c a b c a b'"
    assert limits(row(" ".join(f"w{i}" for i in range(90)))) is None
    assert limits(row("a b c " * 19)) is None  # 57 words: too few to judge


def test_evidence_fits_into_a_table() -> None:
    quoted = quotes.quote("a\n  b\t" + "c" * 500)
    assert "\n" not in quoted
    assert quoted.startswith("'a b ccc")
    assert len(quoted) <= quotes.QUOTED_CHARACTERS + 2


def whole(text: str) -> str:
    code = read_module_code(text)
    assert not code.error
    return code.fingerprint


ORIGINAL = '''
import math
from os import path


def spread(values, scale=2):
    """Spread them."""
    total = 0
    for place, value in enumerate(values):
        total += scale * sum(v for v in value if v > place)
    try:
        return math.sqrt(total)
    except ValueError as error:
        raise TypeError from error
'''
RENAMED = '''
from os import path
import math


def width(xs: list, k: int = 2) -> float:
    """Other words,
    more of them."""
    acc = 0
    for i, x in enumerate(xs):
        acc += k * sum(q for q in x if q > i)  # a comment
    try:
        return math.sqrt(acc)
    except ValueError as problem:
        raise TypeError from problem
'''


def test_renamed_code_has_the_same_fingerprint() -> None:
    assert whole(ORIGINAL) == whole(RENAMED)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("total = 0", "total = 1"),  # a constant
        ("sum(", "max("),  # a builtin
        ("v > place", "place > v"),  # roles swapped
        ("math.sqrt", "math.log"),  # an attribute
        ("import math", "import cmath as math"),  # an import
        ("scale * sum", "total * sum"),  # another local
        ("scale=2", "scale=True"),  # 2 and True differ in text only
        ("+=", "-="),
    ],
)
def test_another_program_has_another_fingerprint(old: str, new: str) -> None:
    changed = ORIGINAL.replace(old, new)
    assert changed != ORIGINAL
    assert whole(changed) != whole(ORIGINAL)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("def f(a, b):\n    return a - b", "def g(b, a):\n    return b - a", True),
        ("def f(a, b):\n    return a - b", "def f(a, b):\n    return b - a", False),
        ("def f(x):\n    return [x for x in x]", "def f(y):\n    return [z for z in y]", True),
        ("def f(x, y):\n    return [x for x in x]", "def f(x, y):\n    return [x for x in y]", False),
        ("f = lambda a: a + k", "g = lambda b: b + k", True),
        ("f = lambda a: a + k", "f = lambda k: k + k", False),
        ("def f(x):\n    return x.a", "def f(x):\n    return x.b", False),
        ("def f():\n    global n\n    n = 1", "def f():\n    n = 1", False),
        ("def f(x):\n    if (n := x): return n", "def f(x):\n    if (m := x): return m", True),
        ("def f(x):\n    match x:\n        case [a, *b]: return b", "def f(y):\n    match y:\n        case [c, *d]: return d", True),
        ("def f(x):\n    match x:\n        case [a, *b]: return b", "def f(x):\n    match x:\n        case [a, *b]: return a", False),
        ("def f(x):\n    def g(y): return y + x\n    return g", "def f(a):\n    def h(b): return b + a\n    return h", True),
        ("def f(x):\n    def g(x): return x\n    return g", "def f(x):\n    def g(y): return x\n    return g", False),
        ("class A:\n    def go(self): return self.n", "class B:\n    def go(this): return this.n", True),
        ("class A:\n    def go(self): pass", "class A:\n    def run(self): pass", False),
        ("async def f(x): return x", "def f(x): return x", False),
        ("def f(*a): return a", "def f(a): return a", False),
        ("def f(a, *, b): return a", "def f(a, b): return a", False),
    ],
)  # fmt: skip
def test_scopes(first: str, second: str, same: bool) -> None:
    assert (whole(first) == whole(second)) is same


def test_a_function_is_fingerprinted_alone_too() -> None:
    alone = read_module_code("def f(x):\n    return x + 1\n")
    among = read_module_code("import os\n\n\ndef helper(y):\n    return y\n\n\ndef g(z):\n    return z + 1\n")
    assert dict(among.functions)["g"] == dict(alone.functions)["f"]
    assert dict(among.functions)["helper"] != dict(alone.functions)["f"]


def test_words_of_a_row_are_lower_case_and_without_punctuation() -> None:
    made: RowView = row("return A_b(1)", "Def F:")
    assert made.words == ["def", "f", "return", "a_b", "1"]


FUNCTION = 'def tell(name):\n    """Tell the name to all who ask for it."""\n'
PLANTED = {  # prompt, completion, and the preset in which a row of this kind is dropped
    "empty": (FUNCTION, " \n", "functions"),
    "length": (FUNCTION, "    x = 1\n    y = 2\n" * 16, "functions"),
    "long_lines": (FUNCTION, f"    return '{'ab ' * 90}'\n", "functions"),
    "licence": (FUNCTION, "    # SPDX-License-Identifier: GPL-3.0-only\n    return name\n", "functions"),
    "encoding": (FUNCTION, "    return 'cafÃ©'\n", "functions"),
    "alphanumeric": (FUNCTION, f"    return '{'+-' * 100}'\n", "functions"),
    "blobs": (FUNCTION, f"    return '{'9fA3' * 50}'\n", "functions"),
    "parse": (FUNCTION, "return name\n", "functions"),
    "language": ("", "'a', 'b'\n", "functions"),
    "comments": (FUNCTION, "    # one\n" * 7 + "    return name\n", "functions"),
    "placeholder": (FUNCTION, "    # TODO: write it\n    return name\n", "functions"),
    "docstring": ("def tell(name):\n", "    return name\n", "functions"),
    "system": (FUNCTION, "    import subprocess\n    return subprocess.run(name)\n", "functions"),
    "refusal": ("Tell.", "As an AI language model, I cannot tell it.", "instruct"),
    "boilerplate": ("Tell.", "Sure! Here is what you asked for.\n\nPrint it.", "instruct"),
    "repetition": (FUNCTION, "    one(two, three, four, five, six, seven, eight)\n" * 8, "functions"),
    "contaminated_docstring": (RUNS["prompt"], "    return len(values) // 9\n", "functions"),
    "contaminated_solution": (
        FUNCTION, RUNS["canonical_solution"].replace("return best", "return 1").replace("\n    for", ";\n    for"),
        "instruct",
    ),
    "contaminated_ngrams": ("", " ".join(WORD_PATTERN.findall(RUNS["prompt"] + RUNS["canonical_solution"])[12:]), "instruct"),
    "contaminated_ast": (
        FUNCTION.replace("name)", "a, b)"), "    while b:\n        a, b = b, a % b\n    return a\n", "functions"
    ),
}  # fmt: skip


EUCLID = problem("T/0", "def g(x, y):\n", "g", "    while y:\n        x, y = y, x % y\n    return x\n")


@pytest.mark.slow
@pytest.mark.parametrize("rule", ROW_RULES)
def test_a_row_of_each_kind_is_dropped_by_its_rule_in_a_preset(rule: str) -> None:
    prompt, completion, preset = PLANTED[rule]
    index = ProblemIndex([("tiny", Problem(**p)) for p in (RUNS, EUCLID)], Contamination())
    for name in ("functions", "instruct"):
        section = OmegaConf.load(REPOSITORY / f"conf/clean/{name}.yaml")
        chosen = load_sections({"clean": section}, ["clean"])["clean"]
        chosen.licence.ids = frozenset({"MIT"})
        fine = row("    return name.upper()\n", FUNCTION, layout=chosen.layout)
        assert first_failed_rule(fine, chosen, index) is None
        if name == preset:
            drop = first_failed_rule(row(completion, prompt, layout=chosen.layout), chosen, index)
            assert drop is not None
            assert drop.rule == rule
            assert drop.evidence
