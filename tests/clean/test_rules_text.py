"""Rules on text as text: what fails, what passes, and the edge between them; all rules on any text."""

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.clean.row import RowView
from stages.clean.rules.row_rules import RULE_FUNCTIONS
from stages.clean.rules.settings import Alphanumeric, Blobs, Encoding, Length, LongLines, Repetition
from stages.clean.rules.text import alphanumeric, blobs, encoding, length, long_lines, repetition
from stages.clean.settings import CleanSettings, Docstring, Language
from stages.report.data_sections import RULE_MEANINGS
from tests.helpers.clean_rows import conversation, row

GARBLED = "café — naïve".encode().decode("cp1252")
ENCODED = [
    ("x = '\0'", "1 control characters, more than 0"),
    ("say('\x1b[31mred')", "1 control characters"),
    ("if x: # \u202e } {", "1 control characters"),  # Trojan Source
    ("half \ud800", "1 control characters"),
    (GARBLED, "3 sequences of UTF-8 read as Latin-1, more than 0"),
    ("Ã©tÃ©", "2 sequences"),
    ("ÐŸÑ€Ð¸Ð²ÐµÑ‚", "1 sequences"),
    ("name = '\ufffd'", "1 replacement characters, more than 0"),
    ("\ue000" * 3 + "abc", "0.50 of its characters cannot be printed"),
]


@pytest.mark.parametrize(("text", "reason"), ENCODED)
def test_text_from_the_wrong_decoder(text: str, reason: str) -> None:
    assert (encoding(row(text), Encoding()) or "").startswith(reason)


@pytest.mark.parametrize(
    "text", ["a\tb\r\n\fc", "café — naïve", "NÃO", "Привет", "日本語", "2 × 3²", "På Åland", "naïve\u00a0text", "👩\u200d🔬 " * 2 + "x" * 200]
)  # fmt: skip
def test_text_that_was_read_well(text: str) -> None:
    assert encoding(row(text), Encoding()) is None


def test_encoding_counts_up_to_its_limits() -> None:
    assert encoding(row("\0 \ufffd Ã©" + "a" * 100), Encoding(1, 1, 1)) is None
    assert encoding(row("\0\0" + "a" * 200), Encoding(max_controls=1)) is not None
    assert encoding(row("a" * 99 + "\ue000"), Encoding()) is None  # 0.01 is let pass
    assert encoding(row("a" * 98 + "\ue000"), Encoding()) is not None


def test_the_users_turn_may_be_garbled() -> None:
    assert encoding(conversation(("user", GARBLED), ("assistant", "Read it as UTF-8.")), Encoding()) is None
    assert encoding(conversation(("user", "Why?"), ("assistant", GARBLED)), Encoding()) is not None


def test_length_in_tokens_of_no_model() -> None:
    text = "total_1 = f(x)[0] + 2\n"  # total_1 | = | f | ( | x | )[ | 0 | ] | + | 2
    assert length(row(text), Length(max_tokens=10)) is None
    assert length(row(text), Length(max_tokens=9)) == "10 tokens, more than 9"
    assert length(row(text), Length(min_tokens=10)) is None
    assert length(row(text), Length(min_tokens=11)) == "10 tokens, fewer than 11"
    with pytest.raises(ValueError, match=r"clean\.length\.min_tokens"):
        Length(min_tokens=5, max_tokens=4)


def test_mean_length_of_lines() -> None:
    limits = LongLines(max_characters=100, max_mean=20)
    assert long_lines(row(("a" * 20 + "\n") * 3), limits) is None  # 63 characters in 4 lines
    assert (long_lines(row(("a" * 30 + "\n") * 3), limits) or "").startswith(
        "lines of 23 characters on average"
    )
    chat = conversation(("user", "a" * 500), ("assistant", "short"))
    assert long_lines(chat, limits) is None


def test_share_of_letters_and_digits() -> None:
    limits = Alphanumeric(min_share=0.25, min_characters=8)
    assert alphanumeric(row("ab ++++++"), limits) is None  # 2 of 8
    assert (alphanumeric(row("a  +++++++"), limits) or "").startswith(
        "0.12 of its characters are letters or digits"
    )
    assert alphanumeric(row("a ++++++"), limits) is None  # 7 characters: not judged
    assert alphanumeric(row("é ♥♥♥♥♥♥♥♥"), limits) is not None
    assert alphanumeric(row("日本 ♥♥♥♥♥♥"), limits) is None
    assert alphanumeric(row("  \n"), Alphanumeric(min_characters=0)) is None


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
    found = blobs(row(text), Blobs()) or ""
    assert "of it is data" in found
    assert kind in found
    code = "def f(a, b):\n    total = a + b\n    return total\n" * 20
    assert blobs(row(code + text), Blobs()) is None  # less than half of it
    assert kind in (blobs(row(code + text * 20), Blobs(max_characters=64, max_share=1)) or "")


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
    assert blobs(row(text), Blobs()) is None


def test_the_longest_blob_by_its_length() -> None:
    code = "total = a + b\n" * 200
    assert blobs(row(code + "A" * 1024 + "\n"), Blobs()) is None
    assert (blobs(row(code + "A" * 1025 + "\n"), Blobs()) or "").startswith(
        "1025 characters of base64, more than 1024"
    )


def test_characters_in_repeated_lines() -> None:
    limits = Repetition(min_lines=4, max_line_share=1.0, max_line_character_share=0.5)
    assert repetition(row("aaaa\naaaa\nbb\ncc\n"), limits) is None  # 4 of 12 characters
    text = "aaaaaaaa\n" * 3 + "b\nc\n"  # 16 of 26
    assert repetition(row(text), limits) == (
        "0.62 of its characters stand in lines that repeat an earlier one: 'aaaaaaaa'"
    )


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=40),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 0.9, 1.0]),
)
def test_share_of_repeated_ngrams_is_that_of_a_plain_count(words: list[str], size: int, most: float) -> None:
    limits = Repetition(min_lines=99, min_words=1, ngram_words=size, max_ngram_share=most)
    ngrams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    share = 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0
    assert (repetition(row(" ".join(words)), limits) is not None) is (share > most)


STRICT = CleanSettings(
    language=Language(python=True, prose_words=1),
    docstring=Docstring(required=True, min_words=2, min_ascii_share=0.9, repeats_name=True),
    repetition=Repetition(min_lines=0, min_words=0),
    alphanumeric=Alphanumeric(min_characters=0),
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
@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(st.characters()), st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=12).map("".join)
    )
)
def test_no_rule_raises_on_any_text_and_every_rule_is_pure(text: str) -> None:
    for make in MAKERS:
        for chosen in (CleanSettings(), STRICT):
            shared = make(text)
            for name, rule in RULE_FUNCTIONS.items():
                first = rule(shared, chosen)
                assert first is None or first
                assert rule(make(text), chosen) == first == rule(shared, chosen), name


def test_every_rule_has_a_meaning_in_the_report() -> None:
    from stages.clean.settings import DUPLICATE_RULES, ROW_RULES
    from stages.clean.write import VALIDATE_RULE

    assert set(RULE_MEANINGS) == {*ROW_RULES, VALIDATE_RULE, *DUPLICATE_RULES}
