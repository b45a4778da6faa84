"""Rules on text as text: what fails, what passes, and the edge between them; all rules on any text."""

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.clean.contamination.decontaminate import CONTAMINATION_CHECKS
from stages.clean.row import RowView
from stages.clean.rules.text import Alphanumeric, Blobs, Encoding, LongLines, Repetition
from stages.clean.settings import ROW_RULES, CleanSettings, Docstring, Language
from stages.report.data_sections import RULE_MEANINGS
from tests.helpers.clean_rows import conversation, row, rule_of

GARBLED = "café — naïve".encode().decode("cp1252")
ENCODED = [
    ("a\0b = 1", "1 control characters, more than 0"),
    ("say \x1b[31mred", "1 control characters"),
    ("x = 1 # \u202e } {", "1 characters that are not text"),  # Trojan Source
    ("x = 1 # \u2066 } {", "1 characters that reverse the order of code"),
    ("x = 'don\x92t'", "1 characters that are not text"),
    ("half \ud800", "1 characters that are not text"),
    ("x = 'a\U000e0041\U000e0042'", "1 characters that are not text"),  # text that nobody sees: a run is one
    (GARBLED, "3 sequences of UTF-8 read as Latin-1, more than 0"),
    ("Ã©tÃ©", "2 sequences"),
    ("ÐŸÑ€Ð¸Ð²ÐµÑ‚", "1 sequences"),
    ("name = '\ufffd'", "1 replacement characters, more than 0"),
]


@pytest.mark.parametrize(("text", "reason"), ENCODED)
def test_text_from_the_wrong_decoder(text: str, reason: str) -> None:
    assert (Encoding()(row(text)) or "").startswith(reason)


@pytest.mark.parametrize(
    "text",
    [
        *("a\tb\r\n\fc", "café — naïve", "NÃO", "Привет", "日本語", "2 × 3²", "På Åland", "naïve\u00a0text"),
        *(
            "👩\u200d🔬",
            "❤\ufe0f",
            "👨\u200d👩\u200d👧\u200d👦",
            "می\u200cخواهم",
            "क्\u200dष",
            "hy\u00adphen",
            "a\u200e mark",
        ),
        *(
            "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
            "e\u0301\u0323",
            "word\u2060joiner",
            "\uf8ff",
        ),
        *("🫩 is newer than this Python", "葛\U000e0100", "ᠮᠣ\u180eᠩ", "\u061c٣"),
    ],
)
def test_text_that_was_read_well(text: str) -> None:
    assert Encoding()(row(text)) is None
    assert Encoding()(conversation(("user", "Hi"), ("assistant", text))) is None


def test_a_control_character_in_a_literal_is_what_a_program_computes_with() -> None:
    code = "SEPARATOR = '\x1f'\nRED = '\x1b[31m'\n"
    assert Encoding()(row(code)) is None
    assert Encoding()(row(f"```python\n{code}```\n", layout="fenced")) is None
    assert Encoding()(row(f"\x1b[1m\n```python\n{code}```\n", layout="fenced")) is not None


def test_marks_of_direction_are_text_in_prose_and_a_fault_in_code() -> None:
    text = "\u202bשלום\u202c and \u2067عربي\u2069 are greetings.\n"
    assert Encoding()(row(text, layout="fenced")) is None
    assert Encoding()(row(f"{text}```python\n# \u2067 x\n```\n", layout="fenced")) is not None


def test_encoding_counts_up_to_its_limit() -> None:
    assert Encoding(1)(row("\0 \ufffd Ã©" + "a" * 100)) is None
    assert Encoding(1)(row("\0\0" + "a" * 200)) is not None


def test_the_users_turn_may_be_garbled() -> None:
    assert Encoding()(conversation(("user", GARBLED), ("assistant", "Read it as UTF-8."))) is None
    assert Encoding()(conversation(("user", "Why?"), ("assistant", GARBLED))) is not None


def test_mean_length_of_lines() -> None:
    limits = LongLines(max_characters=100, max_mean=20)
    assert limits(row(("a" * 20 + "\n") * 3)) is None  # 63 characters in 4 lines
    assert (limits(row(("a" * 30 + "\n") * 3)) or "").startswith("lines of 23 characters on average")
    chat = conversation(("user", "a" * 500), ("assistant", "a paragraph " * 200 + f"![x]({'a' * 500})"))
    assert limits(chat) is None
    assert limits(row("```json\n" + "[1], " * 30 + "\n```\n", layout="fenced")) is not None


def test_share_of_letters_and_digits() -> None:
    limits = Alphanumeric(min_share=0.25)
    assert limits(row("a" * 15 + " " + "+" * 45)) is None
    assert (limits(row("a" * 14 + "  " + "+" * 46)) or "").startswith("0.23 of its characters are letters")
    assert limits(row("a " + "+" * 58)) is None  # 59 characters: not judged
    assert limits(row("é " + "♥" * 60)) is not None
    assert limits(row("日本" * 10 + " " + "♥" * 60)) is None
    assert limits(row("  \n" * 30)) is None


BASE = "QUJD" * 16 + "\n"
DATA = [
    ("x = '" + "QUJDREVG" * 20 + "'", "base64"),
    ("x = '''\n" + BASE * 4 + "'''", "base64"),
    ("x = b'" + "\\x00\\xff" * 20 + "'", "hexadecimal"),
    ("x = [" + "0x1f, " * 30 + "]", "hexadecimal"),
    ("dump = '" + "de ad be ef 00 " * 8 + "'", "hexadecimal"),
    ("x = '" + "\\u0041" * 20 + "'", "\\u escapes"),
]


@pytest.mark.parametrize(("text", "kind"), DATA)
def test_data_written_as_text(text: str, kind: str) -> None:
    found = Blobs()(row(text)) or ""
    assert "of it is data" in found
    assert kind in found
    code = "def f(a, b):\n    total = a + b\n    return total\n" * 20
    assert Blobs()(row(code + text)) is None  # less than half of it
    assert kind in (Blobs(max_characters=64, max_share=1)(row(code + text * 20)) or "")


@pytest.mark.parametrize(
    "text",
    [
        "x = 0xff",
        "def add(ab, cd): return ab, cd",
        "ab, cd, ee = fa, be",
        "https://example.org/" + "a/" * 20,
        "",
    ],
)
def test_code_is_not_data(text: str) -> None:
    assert Blobs()(row(text)) is None


def test_the_longest_blob_by_its_length() -> None:
    code = "total = a + b\n" * 200
    assert Blobs()(row(code + "A" * 1024 + "\n")) is None
    assert (Blobs()(row(code + "A" * 1025 + "\n")) or "").startswith(
        "1025 characters of base64, more than 1024"
    )


def test_characters_in_repeated_lines() -> None:
    limits = Repetition(max_line_share=0.5)
    singles = "".join(f"{letter}\n" for letter in "abcdefghijklmnop")
    assert limits(row("aaaa\n" * 4 + singles)) is None  # 12 of 32 characters
    assert limits(row("a" * 9 + "\n" + ("a" * 9 + "\n") * 4 + singles)) == (
        "0.59 of its characters stand in lines that repeat an earlier one: 'aaaaaaaaa'"
    )


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from("ab"), min_size=60, max_size=200),
    st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 0.9, 1.0]),
)
def test_share_of_repeated_ngrams_is_that_of_a_plain_count(words: list[str], most: float) -> None:
    limits = Repetition(max_line_share=1, max_ngram_share=most)
    ngrams = [tuple(words[i : i + 8]) for i in range(len(words) - 7)]
    share = 1 - len(set(ngrams)) / len(ngrams)
    assert (limits(row(" ".join(words))) is not None) is (share > most)


STRICT = CleanSettings(
    language=Language(python=True, min_stop_words=2),
    docstring=Docstring(required=True, min_words=2, min_ascii_share=0.9),
    repetition=Repetition(max_line_share=0, max_ngram_share=0),
)
STRICT.licence.ids = frozenset({"MIT"})
PIECES = st.sampled_from(
    ["def f(x):\n", "    return x\n", "```python\n", "```\n", "~~~js\n", "import os as o\n", "o.system('x')\n", "class A:\n",
     "    def m(self): ...\n", '    """Say."""\n', "# GPL licence\n", "SPDX-License-Identifier: (MIT OR X)\n", "Ã©", "\\x00" * 9,
     "As an AI language model", "lorem ipsum", "İ# TODO", "\ud800", "0x00," * 9, "(" * 300, "x.y.z()\n", "\n", "'"]
)  # fmt: skip
MAKERS: list[Callable[[str], RowView]] = [
    row,
    partial(row, layout="fenced"),
    lambda text: row(text, text),
    lambda text: conversation(("user", text), ("assistant", text)),
]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.text(st.characters()), st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=12).map("".join)
    )
)
def test_no_rule_raises_on_any_text_and_every_rule_is_pure(text: str) -> None:
    for make in MAKERS:
        for chosen in (CleanSettings(), STRICT):
            shared = make(text)
            for name in set(ROW_RULES) - set(CONTAMINATION_CHECKS):
                rule = rule_of(name, chosen)
                first = rule(shared)
                assert first is None or first
                assert rule(make(text)) == first == rule(shared), name


def test_every_rule_has_a_meaning_in_the_report() -> None:
    from stages.clean.settings import DUPLICATE_RULES, ROW_RULES
    from stages.clean.write import VALIDATE_RULE

    assert set(RULE_MEANINGS) == {*ROW_RULES, VALIDATE_RULE, *DUPLICATE_RULES}
