"""What is mended in the text of rows: encoding, line ends; and that nothing else changes."""

import pytest

from stages.clean.settings import CleanSettings
from stages.clean.transform import clean_line_ends, transform_records
from tests.helpers.clean_rows import record


@pytest.mark.parametrize(
    ("text", "expected", "kinds"),
    [
        ("a\r\nb\rc\n", "a\nb\nc\n", {"line_ends": 2}),
        ("\ufeffx = 1", "x = 1", {"encoding": 1}),
        ("\ufeff\ufeffx", "x", {"encoding": 1}),
        ("x = '\ufeff'", "x = '\ufeff'", {}),
        ("x = '\x1f' + '\x1b[0m'", "x = '\x1f' + '\x1b[0m'", {}),  # what the program computes with
        ("\tif a:\n\f\n", "\tif a:\n\f\n", {}),
        ("e\u0301 = 'ﬁ'\u2028", "e\u0301 = 'ﬁ'\u2028", {}),  # not composed: a literal would change
    ],
)
def test_characters(text: str, expected: str, kinds: dict[str, int]) -> None:
    assert clean_line_ends(text) == (expected, kinds)
    [new], counts = transform_records([record("r", None, text)], CleanSettings())
    assert new["completion"] == expected
    assert counts == dict.fromkeys(kinds, 1)


def test_every_text_column_and_nothing_else() -> None:
    extra = '{"name": "a\\r"}'
    messages = [
        {"role": "user", "content": "hi\r\n", "extra": extra},
        {"role": "assistant", "content": None, "extra": None},
        None,
        {"role": "tool\r", "content": "x", "extra": None},
    ]
    rows = [
        record("a", "p\r\n", "c\r\n", tests="t\r\n", metadata='{"a": "\r"}'),
        record("b", None, None, messages=messages),
        record("c", None, None, messages=[]),
        record("d", "p", None),
    ]
    (first, second, *others), counts = transform_records(rows, CleanSettings())
    assert [first[name] for name in ("prompt", "completion", "tests")] == ["p\n", "c\n", "t\n"]
    assert first["metadata"] == '{"a": "\r"}'
    mended = {"role": "user", "content": "hi\n", "extra": '{"name": "a\\n"}'}
    assert second["messages"] == [mended, *messages[1:]]
    assert others == rows[2:]
    assert counts == {"line_ends": 2}
