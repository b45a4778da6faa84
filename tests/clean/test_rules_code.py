"""Rules on code and prose: what fails, what passes, and the edge between them; what the presets choose."""

import pytest
from omegaconf import OmegaConf

from stages.clean.contamination.decontaminate import CONTAMINATION_CHECKS
from stages.clean.row import RowView
from stages.clean.rules.code import Comments, Docstring, Licence, Placeholder
from stages.clean.rules.language import Language
from stages.clean.rules.prose import Boilerplate, Refusal
from stages.clean.rules.quotes import quote
from stages.clean.rules.system import System
from stages.clean.settings import ROW_RULES, CleanSettings
from stages.clean.transform import transform_records
from stages.common.core.stage import load_sections
from tests.helpers.clean_rows import conversation, record, row, rule_of
from tests.helpers.tiny_project import REPOSITORY

JS = "```javascript\nconsole.log(a, b)\n```\n"
PYTHON = "```python\nprint(a, b)\n```\n"


def fenced(answer: str) -> RowView:
    return row(answer, "Do it.", layout="fenced")


def test_fences_of_other_languages() -> None:
    assert Language()(fenced(JS)) == (
        "1.00 of its code is in another language, most of it javascript: 'console.log(a, b)'"
    )
    assert Language(max_other_code_share=0.5)(fenced(JS + PYTHON)) is not None  # 18 of 30 characters
    assert Language(max_other_code_share=0.6)(fenced(JS + PYTHON)) is None
    for mark in ("bash", "text", "", "json"):
        assert Language()(fenced(f"```{mark}\nls -l\n```\n")) is None
    assert Language()(conversation(("user", JS), ("assistant", PYTHON))) is None


def test_unmarked_code_of_other_languages() -> None:
    java = "public static void main(String[] a) { System.out.println(1); }"
    assert Language()(fenced(java)) == (
        "looks like another language: 'public static void', 'system.out.print'"
    )
    assert Language()(fenced("In Java it is public static void main.")) is None  # one alone
    assert Language()(fenced(java + "\n" + PYTHON)) is None


@pytest.mark.parametrize("text", ["hello", "{'a': [1, -2]}", '"""Only words."""', "a, b"])
def test_a_module_that_only_names_values_is_not_python(text: str) -> None:
    assert (Language(python=True)(row(text)) or "").startswith("no Python in it: ")
    assert Language()(row(text)) is None


@pytest.mark.parametrize("text", ["print(1)", "x = 1", "import os", "def f(): pass", "not python at all"])
def test_python_is_python_and_parse_has_the_rest(text: str) -> None:
    assert Language(python=True)(row(text)) is None


def test_scripts() -> None:
    assert Language()(row("x = 1  # αβγ and café")) is None
    found = Language()(row("# Это сумма двух чисел\nx = a + b"))
    assert found == "0.85 of its letters are not latin or greek: 'сумма'"
    assert Language(scripts=["latin", "cyrillic"])(row("# Это сумма двух чисел\nx = a + b")) is None
    edge = "# " + "a" * 8 + "сс\n"
    assert Language(max_other_script_share=0.2)(row(edge)) is None
    assert Language(max_other_script_share=0.19)(row(edge)) is not None
    with pytest.raises(ValueError, match=r"clean\.language\.scripts is 'klingon'"):
        Language(scripts=["klingon"])


def test_prose_that_is_not_english() -> None:
    limits = Language(min_stop_words=2)
    french = "Cette fonction calcule la somme des nombres pairs donnés. " * 6
    assert (limits(fenced(french + "\n" + PYTHON)) or "").startswith("0 of the commonest English words in 54")
    assert limits(fenced(french[:300] + "\n" + PYTHON)) is None  # too few to judge
    assert Language()(fenced(french)) is None
    assert limits(fenced("This gives the sum of all of the even numbers. " * 6 + PYTHON)) is None


def test_share_of_comments() -> None:
    limits = Comments(max_share=0.5)
    assert limits(row("# a\n# b\nx = 1\ny = 2\n")) is None
    assert limits(row("# a\n# b\n# c\ny = 2\n")) == "0.75 of its lines are comments, more than 0.5: '# a'"
    assert limits(row("# a\n# b\n# c\n")) is None  # three lines
    assert limits(fenced("# Title\n# Title\n# Title\n# Title\n")) is None  # headings, no code
    assert limits(fenced("```py\n# a\n# b\n# c\ny = 2\n```")) is not None


@pytest.mark.parametrize(
    "line",
    [
        "# ... existing code ...",
        "# rest of the code",
        "# The rest of your function",
        "# code goes here",
        "x = 'Lorem ipsum'",
        "#   TODO",
    ],
)
def test_more_placeholders(line: str) -> None:
    found = Placeholder()(row(f"    x = 1\n    {line}\n", "def f():\n"))
    assert found == f"placeholder: {quote(line)}"


@pytest.mark.parametrize("line", ["# the rest of the list", "# ... and so on", "goes = here"])
def test_comments_that_are_not_placeholders(line: str) -> None:
    assert Placeholder()(row(f"    {line}\n    return 1\n", "def f():\n")) is None


def test_placeholder_quotes_a_line_of_text_that_changes_length_in_lower_case() -> None:
    assert Placeholder()(row("x = 'İİ'\n# TODO it\n")) == "placeholder: '# todo it'"


def test_patterns_are_lower_case_regular_expressions() -> None:
    assert Placeholder(patterns=[r"\S+ \W"]).compiled
    for wrong in ("TODO", "("):
        with pytest.raises(ValueError, match=r"clean\.placeholder\.patterns"):
            Placeholder(patterns=[wrong])


def test_spaces_do_not_make_a_pattern_slow() -> None:
    text = "#" + " " * 50_000 + "x" + "ff " + " " * 50_000
    for name in ("placeholder", "blobs", "licence"):
        rule_of(name, typed("functions"))(row(text))


def test_classes_of_nothing_but_stubs() -> None:
    stubs = "class A:\n    def f(self):\n        pass\n\n    def g(self):\n        '''Doc.'''\n"
    assert Placeholder()(row(stubs)) == "nothing but stubs in the class A"
    assert Placeholder(stubs=False)(row(stubs)) is None
    assert Placeholder()(row(stubs + "        return 1\n")) is None
    assert Placeholder()(row(stubs + "\n\ndef h():\n    return 1\n")) is None
    assert Placeholder()(row("class Wrong(Exception):\n    pass\n")) is None


def documented(text: str) -> RowView:
    return row("    return 1\n", f'def helper():\n    return 2\n\n\ndef merge_sort(xs):\n    """{text}"""\n')


def test_docstring_of_the_last_function() -> None:
    bare = row("def f():\n    '''Doc.'''\n\n\ndef g():\n    return 1\n")
    assert Docstring(required=True)(bare) == "no docstring in g"
    assert Docstring()(bare) is None
    assert Docstring(required=True)(documented(" ")) == "no docstring in merge_sort"
    assert Docstring(required=True)(documented("Sort.")) is None
    assert Docstring(required=True)(row("x = 1")) is None


def test_a_prompt_that_is_a_docstring_documents_the_function() -> None:
    code = "import math\ndef root(x):\n    return math.sqrt(x)\n"
    required = Docstring(required=True, min_words=2)
    assert required(row(code, prompt='"""\nThe root of a number.\n"""\n')) is None
    assert required(row(code, prompt='"""Root."""\n')) == "docstring of 1 words, fewer than 2: 'Root.'"
    assert required(row(f'"""A module of mine."""\n{code}')) == "no docstring in root"
    assert required(row(code, prompt='"""A module of mine."""\nX = 1\n')) == "no docstring in root"


def test_words_of_a_docstring() -> None:
    text = documented("Sort a list.")
    assert Docstring(min_words=3, max_words=3)(text) is None
    assert Docstring(min_words=4)(text) == "docstring of 3 words, fewer than 4: 'Sort a list.'"
    assert Docstring(max_words=2)(text) == "docstring of 3 words, more than 2: 'Sort a list.'"


def test_ascii_share_of_a_docstring() -> None:
    assert Docstring(min_ascii_share=0.75)(documented("ab é")) is None
    assert (
        Docstring(min_ascii_share=0.75)(documented("aб é"))
        == "0.50 of its docstring is ASCII, less than 0.75: 'aб é'"
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("import subprocess\n", "subprocess"),
        ("from subprocess import run as go\n", "subprocess"),
        ("import os\nos.system('ls')\n", "os.system"),
        ("import os as o\nmap(o.system, x)\n", "os.system"),
        ("from os import remove as r\nr('x')\n", "os.remove"),
        ("from shutil import rmtree\n", "shutil.rmtree"),
        ("def f(x):\n    return eval(x)\n", "eval"),
        ("import ctypes.util\n", "ctypes"),
        ("from pathlib import Path as P\nP.unlink(x)\n", "pathlib.Path.unlink"),
        ("from pathlib import Path\nPath(x).unlink()\n", "pathlib.Path.unlink"),
        ("from os import *\nsystem('ls')\n", "os.system"),
        ("import builtins as b\nb.eval(x)\n", "eval"),
        ("ｅｖａｌ('x')\n", "eval"),  # a name to Python, written in other letters
    ],
)
def test_code_that_touches_the_system(text: str, name: str) -> None:
    assert f"uses {name}: " in (System()(row(text)) or "")


@pytest.mark.parametrize(
    "text",
    [
        "import os.path\nos.path.join(a, b)\n",
        "x.remove(1)\nmodel.eval()\n",
        "def exec(x):\n    return x\n\n\nexec(1)\n",
        "# subprocess\nx = 'os.system'\n",
        "import ast\nast.literal_eval(x)\n",
        "from . import socket\n",
        "eval = 3\n",
        "from os import *\ndef system(x):\n    return x\nsystem(1)\n",
        "import os\nx(os).remove(1)\nos.path.exists(p)\n",
        "import os\n(",
    ],
)
def test_code_that_touches_nothing(text: str) -> None:
    assert System()(row(text)) is None


def test_system_lists_and_its_line() -> None:
    code = row("import os\n\n\ndef f(p):\n    os.unlink(p)\n")
    assert System()(code) == "line 5 uses os.unlink: 'os.unlink(p)'"
    assert System(modules=["os"], calls=[])(code) == "line 1 uses os: 'import os'"
    assert System(modules=[], calls=[])(code) is None


def listed(*ids: str) -> Licence:
    """Settings as clean has them once it has read which licences fetch allowed."""
    settings = Licence()
    settings.ids = frozenset(ids)
    return settings


@pytest.mark.parametrize(
    ("expression", "fits"),
    [
        ("mit", True),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("(MIT OR GPL-3.0-only) AND ISC", True),
        ("(MIT OR ISC) AND GPL-3.0-only", False),
        ("", False),
        ("see LICENSE", False),
    ],
)
def test_licence_of_the_row(expression: str, fits: bool) -> None:
    found = listed("MIT", "ISC")(row("x = 1", licence=expression))
    assert (found is None) is fits
    assert Licence()(row("x = 1", licence=expression)) is None


def test_licence_of_a_header() -> None:
    gpl = "# This is free software: the GNU General Public License applies.\nx = 1\n"
    assert (Licence()(row(gpl)) or "").startswith("a header names another licence: '# this is free software")
    tagged = row("# SPDX-License-Identifier: GPL-2.0-only\nx = 1\n")
    assert listed("MIT")(tagged) == (
        "a header names another licence: 'SPDX-License-Identifier: GPL-2.0-only'"
    )
    assert Licence()(tagged) is None
    for header in ("# {}", "# {} -->", "/* {} */", "# {} OR GPL-2.0-only"):
        text = header.format("SPDX-License-Identifier: MIT")
        assert listed("MIT")(row(f"{text}\r\nx = 1\n")) is None, text
    for text in ("MIT AND (GPL-2.0-only OR AGPL-3.0-only)", "MIT, GPL-2.0", "MIT GPL-2.0", ""):
        tagged = row(f"# SPDX-License-Identifier: {text} x\nx = 1\n")
        assert listed("MIT")(tagged) is not None, text
    assert Licence()(fenced("The GNU General Public License asks for the source.")) is None  # prose
    assert Licence()(fenced(f"```python\n{gpl}```\n")) is not None


@pytest.mark.parametrize(
    "text",
    [
        "As an AI language model, I have no opinion.",
        "I’m sorry, but I can’t do that.",
        "My knowledge cutoff is 2021.",
        "First.\nI cannot assist with that.",
    ],
)
def test_refusals(text: str) -> None:
    assert Refusal()(fenced(text)) == f"refusal: {text.splitlines()[-1]!r}"


@pytest.mark.parametrize(
    "text",
    [
        "The model is an AI.",
        "```python\nprint('I cannot assist')\n```",
        "The lists are sorted, but I would sort them again.",
    ],
)
def test_answers(text: str) -> None:
    assert Refusal()(fenced(text)) is None


def test_a_user_may_say_it() -> None:
    assert Refusal()(conversation(("user", "Say: as an AI language model"), ("assistant", "No."))) is None


def test_boilerplate_by_its_share_of_lines() -> None:
    greeting = "Sure! Here is the code:\n"
    assert Boilerplate()(fenced(greeting + "x = 1\n")) == (
        "1 of 2 lines are boilerplate: 'Sure! Here is the code:'"
    )
    assert Boilerplate()(fenced(greeting + "x = 1\ny = 2\n")) is None  # a third
    assert Boilerplate(max_line_share=0)(fenced(greeting + "x = 1\n" * 20)) is not None
    assert Boilerplate(max_line_share=0)(fenced("x = 1\n")) is None
    with pytest.raises(ValueError, match=r"clean\.boilerplate\.phrases is 'Sure'"):
        Boilerplate(phrases=["Sure"])


def typed(preset: str) -> CleanSettings:
    section = OmegaConf.load(REPOSITORY / f"conf/clean/{preset}.yaml")
    return load_sections({"clean": section}, ["clean"])["clean"]


def test_what_the_presets_choose() -> None:
    rules = set(ROW_RULES) - set(CONTAMINATION_CHECKS)
    chosen = {
        preset: {rule for rule in typed(preset).rules if rule in rules}
        for preset in ("functions", "instruct", "off")
    }
    assert rules - chosen["functions"] == {"refusal", "boilerplate"}
    assert rules - chosen["instruct"] == {"docstring", "system"}
    assert chosen["off"] == {"empty"}


def test_only_the_preset_off_leaves_secrets_and_personal_data() -> None:
    text = "def owner():\n    return 'jane.roe@corp.io', 'AKIAIOSFODNN7REALKEY'\n"
    made = [record("r", "", text + "\r\n")]
    found = {preset: transform_records(made, typed(preset)) for preset in ("functions", "instruct", "off")}
    texts = {preset: new["completion"] for preset, ([new], _) in found.items()}
    assert texts["off"] == text + "\n"
    assert found["off"][1] == {"line_ends": 1}
    assert texts["functions"] == texts["instruct"] == ("def owner():\n    return '<EMAIL>', '<KEY>'\n\n")
