"""Rules on code and prose: what fails, what passes, and the edge between them; what the presets choose."""

import pyarrow as pa
import pytest
from omegaconf import OmegaConf

from stages.clean.row import RowView
from stages.clean.rules.code import comments, docstring, language, licence, placeholder, system
from stages.clean.rules.prose import boilerplate, refusal
from stages.clean.rules.quotes import quote
from stages.clean.rules.row_rules import RULE_FUNCTIONS
from stages.clean.rules.settings import (
    Boilerplate,
    Comments,
    Docstring,
    Language,
    Licence,
    Placeholder,
    Refusal,
    System,
)
from stages.clean.settings import CleanSettings
from stages.clean.transform import transform_batch
from stages.common.schema import row_schema
from stages.common.stage import load_sections
from tests.helpers.clean_rows import conversation, record, row
from tests.helpers.tiny_project import REPOSITORY

JS = "```javascript\nconsole.log(a, b)\n```\n"
PYTHON = "```python\nprint(a, b)\n```\n"


def fenced(answer: str) -> RowView:
    return row(answer, "Do it.", layout="fenced")


def test_fences_of_other_languages() -> None:
    assert language(fenced(JS), Language()) == (
        "1.00 of its code is in another language, most of it javascript: 'console.log(a, b)'"
    )
    assert (
        language(fenced(JS + PYTHON), Language(max_other_code_share=0.5)) is not None
    )  # 18 of 30 characters
    assert language(fenced(JS + PYTHON), Language(max_other_code_share=0.6)) is None
    for mark in ("bash", "text", "", "json"):
        assert language(fenced(f"```{mark}\nls -l\n```\n"), Language()) is None
    assert language(fenced(JS), Language(neutral=["javascript"])) is None
    assert language(conversation(("user", JS), ("assistant", PYTHON)), Language()) is None


def test_unmarked_code_of_other_languages() -> None:
    java = "public static void main(String[] a) { System.out.println(1); }"
    assert language(fenced(java), Language()) == (
        "looks like another language: 'public static void', 'system.out.print'"
    )
    assert language(fenced("In Java it is public static void main."), Language()) is None  # one alone
    assert language(fenced(java + "\n" + PYTHON), Language()) is None


@pytest.mark.parametrize("text", ["hello", "{'a': [1, -2]}", '"""Only words."""', "a, b"])
def test_a_module_that_only_names_values_is_not_python(text: str) -> None:
    assert (language(row(text), Language(python=True)) or "").startswith("no Python in it: ")
    assert language(row(text), Language()) is None


@pytest.mark.parametrize("text", ["print(1)", "x = 1", "import os", "def f(): pass", "not python at all"])
def test_python_is_python_and_parse_has_the_rest(text: str) -> None:
    assert language(row(text), Language(python=True)) is None


def test_scripts() -> None:
    assert language(row("x = 1  # αβγ and café"), Language()) is None
    found = language(row("# Это сумма двух чисел\nx = a + b"), Language())
    assert found == "0.85 of its letters are not latin or greek: 'сумма'"
    assert language(row("# Это сумма двух чисел\nx = a + b"), Language(scripts=["latin", "cyrillic"])) is None
    edge = "# " + "a" * 8 + "сс\n"
    assert language(row(edge), Language(max_other_script_share=0.2)) is None
    assert language(row(edge), Language(max_other_script_share=0.19)) is not None
    with pytest.raises(ValueError, match=r"clean\.language\.scripts is 'klingon'"):
        Language(scripts=["klingon"])


def test_prose_that_is_not_english() -> None:
    limits = Language(prose_words=8)
    french = "Cette fonction calcule la somme des nombres pairs donnés\n" + PYTHON
    assert (language(fenced(french), limits) or "").startswith(
        "0 of the commonest English words in 9 words of prose"
    )
    assert language(fenced(french), Language(prose_words=10)) is None  # too few to judge
    assert language(fenced(french), Language()) is None
    assert language(fenced("This gives the sum of all of the even numbers\n" + PYTHON), limits) is None


def test_share_of_comments() -> None:
    limits = Comments(max_share=0.5, min_share=0.2, min_lines=4)
    assert comments(row("# a\n# b\nx = 1\ny = 2\n"), limits) is None
    assert (
        comments(row("# a\n# b\n# c\ny = 2\n"), limits)
        == "0.75 of its lines are comments, more than 0.5: '# a'"
    )
    assert (
        comments(row("a = 1\nb = 2\nc = 3\nd = 4\n"), limits)
        == "0.00 of its lines are comments, fewer than 0.2"
    )
    assert comments(row("# a\n# b\n# c\n"), limits) is None  # three lines
    assert comments(fenced("# Title\n# Title\n# Title\n# Title\n"), limits) is None  # headings, no code
    assert comments(fenced("```py\n# a\n# b\n# c\ny = 2\n```"), limits) is not None


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
    found = placeholder(row(f"    x = 1\n    {line}\n", "def f():\n"), Placeholder())
    assert found == f"placeholder: {quote(line)}"


@pytest.mark.parametrize("line", ["# the rest of the list", "# ... and so on", "goes = here"])
def test_comments_that_are_not_placeholders(line: str) -> None:
    assert placeholder(row(f"    {line}\n    return 1\n", "def f():\n"), Placeholder()) is None


def test_placeholder_quotes_a_line_of_text_that_changes_length_in_lower_case() -> None:
    assert placeholder(row("x = 'İİ'\n# TODO it\n"), Placeholder()) == "placeholder: '# todo it'"


def test_patterns_are_lower_case_regular_expressions() -> None:
    assert Placeholder(patterns=[r"\S+ \W"]).compiled
    for wrong in ("TODO", "("):
        with pytest.raises(ValueError, match=r"clean\.placeholder\.patterns"):
            Placeholder(patterns=[wrong])


def test_spaces_do_not_make_a_pattern_slow() -> None:
    text = "#" + " " * 50_000 + "x" + "ff " + " " * 50_000
    for name in ("placeholder", "blobs", "licence"):
        RULE_FUNCTIONS[name](row(text), typed("functions"))


def test_classes_of_nothing_but_stubs() -> None:
    stubs = "class A:\n    def f(self):\n        pass\n\n    def g(self):\n        '''Doc.'''\n"
    assert placeholder(row(stubs), Placeholder()) == "nothing but stubs in the class A"
    assert placeholder(row(stubs), Placeholder(stubs=False)) is None
    assert placeholder(row(stubs + "        return 1\n"), Placeholder()) is None
    assert placeholder(row(stubs + "\n\ndef h():\n    return 1\n"), Placeholder()) is None
    assert placeholder(row("class Wrong(Exception):\n    pass\n"), Placeholder()) is None


def documented(text: str) -> RowView:
    return row("    return 1\n", f'def helper():\n    return 2\n\n\ndef merge_sort(xs):\n    """{text}"""\n')


def test_docstring_of_the_last_function() -> None:
    bare = row("def f():\n    '''Doc.'''\n\n\ndef g():\n    return 1\n")
    assert docstring(bare, Docstring(required=True)) == "no docstring in g"
    assert docstring(bare, Docstring()) is None
    assert docstring(documented(" "), Docstring(required=True)) == "no docstring in merge_sort"
    assert docstring(documented("Sort."), Docstring(required=True)) is None
    assert docstring(row("x = 1"), Docstring(required=True)) is None


def test_words_of_a_docstring() -> None:
    text = documented("Sort a list.")
    assert docstring(text, Docstring(min_words=3, max_words=3)) is None
    assert docstring(text, Docstring(min_words=4)) == "docstring of 3 words, fewer than 4: 'Sort a list.'"
    assert docstring(text, Docstring(max_words=2)) == "docstring of 3 words, more than 2: 'Sort a list.'"


def test_ascii_share_of_a_docstring() -> None:
    assert docstring(documented("ab é"), Docstring(min_ascii_share=0.75)) is None
    assert (
        docstring(documented("aб é"), Docstring(min_ascii_share=0.75))
        == "0.50 of its docstring is ASCII, less than 0.75: 'aб é'"
    )


def test_a_docstring_that_repeats_the_name() -> None:
    limits = Docstring(repeats_name=True)
    assert docstring(documented("The merge sort function."), limits) == (
        "the docstring of merge_sort only repeats its name: 'The merge sort function.'"
    )
    assert docstring(documented("Merge sort of a list."), limits) is None
    assert docstring(documented("Merge sort."), Docstring()) is None


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
    assert f"uses {name}: " in (system(row(text), System()) or "")


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
    assert system(row(text), System()) is None


def test_system_lists_and_its_line() -> None:
    code = row("import os\n\n\ndef f(p):\n    os.unlink(p)\n")
    assert system(code, System()) == "line 5 uses os.unlink: 'os.unlink(p)'"
    assert system(code, System(modules=["os"], calls=[])) == "line 1 uses os: 'import os'"
    assert system(code, System(modules=[], calls=[])) is None


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
    found = licence(row("x = 1", licence=expression), listed("MIT", "ISC"))
    assert (found is None) is fits
    assert licence(row("x = 1", licence=expression), Licence()) is None


def test_licence_of_a_header() -> None:
    gpl = "# This is free software: the GNU General Public License applies.\nx = 1\n"
    assert (licence(row(gpl), Licence()) or "").startswith(
        "a header names another licence: '# this is free software"
    )
    tagged = row("# SPDX-License-Identifier: GPL-2.0-only\nx = 1\n")
    assert licence(tagged, listed("MIT")) == (
        "a header names another licence: 'SPDX-License-Identifier: GPL-2.0-only'"
    )
    assert licence(tagged, Licence()) is None
    for header in ("# {}", "# {} -->", "/* {} */", "# {} OR GPL-2.0-only"):
        text = header.format("SPDX-License-Identifier: MIT")
        assert licence(row(f"{text}\r\nx = 1\n"), listed("MIT")) is None, text
    for text in ("MIT AND (GPL-2.0-only OR AGPL-3.0-only)", "MIT, GPL-2.0", "MIT GPL-2.0", ""):
        tagged = row(f"# SPDX-License-Identifier: {text} x\nx = 1\n")
        assert licence(tagged, listed("MIT")) is not None, text
    assert licence(fenced("The GNU General Public License asks for the source."), Licence()) is None  # prose
    assert licence(fenced(f"```python\n{gpl}```\n"), Licence()) is not None


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
    assert refusal(fenced(text), Refusal()) == f"refusal: {text.splitlines()[-1]!r}"


@pytest.mark.parametrize(
    "text",
    [
        "The model is an AI.",
        "```python\nprint('I cannot assist')\n```",
        "The lists are sorted, but I would sort them again.",
    ],
)
def test_answers(text: str) -> None:
    assert refusal(fenced(text), Refusal()) is None


def test_a_user_may_say_it() -> None:
    assert (
        refusal(conversation(("user", "Say: as an AI language model"), ("assistant", "No.")), Refusal())
        is None
    )


def test_boilerplate_by_its_share_of_lines() -> None:
    greeting = "Sure! Here is the code:\n"
    assert boilerplate(fenced(greeting + "x = 1\n"), Boilerplate()) == (
        "1 of 2 lines are boilerplate: 'Sure! Here is the code:'"
    )
    assert boilerplate(fenced(greeting + "x = 1\ny = 2\n"), Boilerplate()) is None  # a third
    assert boilerplate(fenced(greeting + "x = 1\n" * 20), Boilerplate(max_line_share=0)) is not None
    assert boilerplate(fenced("x = 1\n"), Boilerplate(max_line_share=0)) is None
    with pytest.raises(ValueError, match=r"clean\.boilerplate\.phrases is 'Sure'"):
        Boilerplate(phrases=["Sure"])


def typed(preset: str) -> CleanSettings:
    section = OmegaConf.load(REPOSITORY / f"conf/clean/{preset}.yaml")
    return load_sections({"clean": section}, ["clean"])["clean"]


def test_what_the_presets_choose() -> None:
    chosen = {
        preset: {rule for rule in typed(preset).rules if rule in RULE_FUNCTIONS}
        for preset in ("functions", "instruct", "off")
    }
    assert set(RULE_FUNCTIONS) - chosen["functions"] == {"refusal", "boilerplate"}
    assert set(RULE_FUNCTIONS) - chosen["instruct"] == {"docstring", "system"}
    assert chosen["off"] == {"empty"}


def test_only_the_preset_off_leaves_secrets_and_personal_data() -> None:
    text = "def owner():\n    return 'jane.roe@corp.io', 'AKIAIOSFODNN7REALKEY'\n"
    batch = pa.RecordBatch.from_pylist([record("r", "", text + "\r\n")], schema=row_schema())
    found = {preset: transform_batch(batch, typed(preset)) for preset in ("functions", "instruct", "off")}
    texts = {preset: new.column("completion")[0].as_py() for preset, (new, _) in found.items()}
    assert texts["off"] == text + "\n"
    assert found["off"][1] == {"line_ends": 1}
    assert texts["functions"] == texts["instruct"] == ("def owner():\n    return '<EMAIL>', '<KEY>'\n\n")
