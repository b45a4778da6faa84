"""fetch: rows of well-known data sets come out whole, or the source is refused with the lines that settle it."""

import json
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from stages.common.core.errors import UserError
from stages.fetch import row_errors
from stages.fetch.__main__ import print_reading
from stages.fetch.settings import Source
from stages.fetch.source_rows import Tally, row_batches
from tests.fetch.test_readers import file_source, lines
from tests.helpers.fetch_reading import mixed, read_one, source_rows
from tests.helpers.loopback_hub import made_file


def turns(*given: tuple[str, str], keys: tuple[str, str] = ("role", "content")) -> list[dict[str, str]]:
    return [dict(zip(keys, turn, strict=True)) for turn in given]


def sharegpt(*given: tuple[str, str]) -> list[dict[str, str]]:
    return turns(*given, keys=("from", "value"))


def short(row: dict[str, Any]) -> Any:
    """A conversation as pairs of role and content, with what else a turn has; or prompt and completion."""
    if row["messages"] is None:
        return row["prompt"], row["completion"]
    return [
        (m["role"], m["content"], *([json.loads(m["extra"])] if m.get("extra") else []))
        for m in row["messages"]
    ]


CHAT = turns(("user", "Ask this."), ("assistant", "Say that."))
SAID = [("user", "Ask this."), ("assistant", "Say that.")]
CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
RENDERED = "Below.\n### Instruction:\nSum it\n\n### Input:\n1 2\n\n### Response:\n3"
TOOL = {"name": "f", "description": "d", "parameters": {"a": {"type": "int"}}}

WHOLE = {  # data set: a row in its columns, and what it becomes
    "Dolly": ({"instruction": "Which?", "context": "A or B.", "response": "B.", "category": "closed_qa"}, ("Which?\n\nA or B.", "B.")),
    "Alpaca with its rendering": ({"instruction": "Sum it", "input": "1 2", "output": "3", "text": RENDERED}, ("Sum it\n\n1 2", "3")),
    "python_code_instructions_18k_alpaca": ({"instruction": "Sum it", "input": "1 2", "output": "3", "prompt": RENDERED}, ("Sum it\n\n1 2", "3")),
    "LLaMA-Factory": (
        {"instruction": "i", "input": "", "output": "o", "system": "s", "history": [["q", "a"]]},
        [("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "i"), ("assistant", "o")],
    ),
    "OpenOrca": (
        {"id": "niv.1", "system_prompt": "You.", "question": "q?", "response": "r."},
        [("system", "You."), ("user", "q?"), ("assistant", "r.")],
    ),
    "OpenOrca without a system prompt": ({"id": "niv.1", "system_prompt": "", "question": "q?", "response": "r."}, ("q?", "r.")),
    "GSM8K": ({"question": "q", "answer": "a"}, ("q", "a")),
    "AIME": ({"problem": "p", "solution": "so it is $x$", "answer": "$x$"}, ("p", "so it is $x$")),
    "OpenHermes-2.5": (
        {"conversations": sharegpt(("human", "Ask this."), ("gpt", "Say that.")), "source": "a", "category": "b", "title": None, "idx": None},
        SAID,
    ),
    "SlimOrca": (
        {"conversations": [{"from": "human", "value": "q", "weight": 0.0}, {"from": "gpt", "value": "a", "weight": 1.0}]},
        [("user", "q"), ("assistant", "a")],
    ),
    "UltraChat 200k, No Robots": ({"prompt": "Ask this.", "prompt_id": "x", "messages": CHAT, "category": "Chat"}, SAID),
    "NuminaMath": ({"source": "s", "problem": "Ask this.", "solution": "Say that.", "messages": CHAT}, SAID),
    "LIMA": ({"conversations": ["q", "a", "r", "b"], "source": "x"}, [("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b")]),
    "The Stack": (
        {"content": "x = 1", "hexsha": "ab", "ext": "py", "lang": "Python", "max_stars_repo_path": "a.py", "max_stars_repo_licenses": ["MIT"], "size": 5},
        ("", "x = 1"),
    ),
    "FineWeb": ({"text": "t", "id": "<urn:uuid:1>", "dump": "CC-MAIN", "url": "http://a", "file_path": "s3://b", "language": "en"}, ("", "t")),
    "xLAM": (
        {"id": 0, "query": "q?", "answers": json.dumps([{"name": "f", "arguments": {"a": 1}}]), "tools": json.dumps([TOOL])},
        [("user", "q?"), ("assistant", "", {"tool_calls": [CALL]})],
    ),
    "LLaMA-Factory's tools": (
        {"conversations": sharegpt(("human", "q"), ("function_call", '{"name": "f", "arguments": {"a": 1}}'), ("observation", "{}"), ("gpt", "z"))},
        [("user", "q"), ("assistant", "", {"tool_calls": [CALL]}), ("tool", "{}"), ("assistant", "z")],
    ),
    "OpenAI's functions": (
        {"messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a": 1}'}},
            {"role": "function", "name": "f", "content": "3"},
        ]},
        [("user", "q"), ("assistant", "", {"tool_calls": [CALL]}), ("tool", "3", {"name": "f"})],
    ),
    "OpenAI's tools": (
        {"messages": [
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c", **CALL, "function": {"name": "f", "arguments": '{"a": 1}'}}]},
            {"role": "tool", "tool_call_id": "c", "content": "3"},
        ]},
        [("assistant", "", {"tool_calls": [{"id": "c", **CALL}]}), ("tool", "3", {"tool_call_id": "c"})],
    ),
    "reasoning": (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "thinking": "hm", "content": "a"}]},
        [("user", "q"), ("assistant", "a", {"reasoning_content": "hm"})],
    ),
    "reasoning in a column": ({"question": "q", "reasoning": "hm", "answer": "a"}, [("user", "q"), ("assistant", "a", {"reasoning_content": "hm"})]),
    "mistral-finetune": (
        {"messages": [*CHAT, *CHAT[:1], {"role": "assistant", "content": "b", "weight": 0}]},
        [*SAID, SAID[0], ("assistant", "b", {"train": False})],
    ),
    "Axolotl": (
        {"messages": [{"role": "user", "content": "q", "train": False}, {"role": "assistant", "content": "b", "training": False}]},
        [("user", "q"), ("assistant", "b", {"train": False})],
    ),
    "AgentInstruct, ms-swift": (
        {"conversations": [{"from": "human", "loss": None, "value": "q"}, {"from": "gpt", "loss": False, "value": "b"}]},
        [("user", "q"), ("assistant", "b", {"train": False})],
    ),
    "verl": (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b", "loss_mask": 0}, *CHAT]},
        [("user", "q"), ("assistant", "b", {"train": False}), *SAID],
    ),
    "LangChain": ({"messages": turns(("human", "Ask this."), ("ai", "Say that."))}, SAID),
    "KTO, desirable": ({"prompt": "q", "completion": "a", "label": True}, ("q", "a")),
    "names that only begin like a label": ({"prompt": "q", "completion": "a", "target_language": "en", "class_name": "Foo"}, ("q", "a")),
    "an answer that is a number": ({"question": "In what year?", "answer": 1969}, ("In what year?", "1969")),
    "a system column": ({"messages": CHAT, "system": "Be brief."}, [("system", "Be brief."), *SAID]),
    "NaN from pandas": ({"instruction": "i", "input": float("nan"), "output": "o"}, ("i", "o")),
    "JSON text": ({"messages": json.dumps(CHAT)}, SAID),
    "Python text from pandas": ({"messages": str(CHAT)}, SAID),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_rows_of_well_known_data_sets_come_out_whole(name: str) -> None:
    row, expected = WHOLE[name]
    assert short(read_one(row)) == expected


def test_tools_become_those_of_openai() -> None:
    expected = [{"type": "function", "function": TOOL}]
    for given in ([TOOL], json.dumps(expected)):
        assert json.loads(read_one({"messages": CHAT, "tools": given})["tools"]) == expected
        assert json.loads(read_one({"question": "q", "answer": "a", "tools": given})["tools"]) == expected
    assert "tools" not in read_one({"messages": CHAT, "tools": "[]"})


REFUSED = {  # columns: those of which the error tells
    "instruction code": {"instruction": "Double x.", "code": "2 * x"},
    "question code": {"question": "How do I sort?", "code": "items.sort()"},
    "nl code": {"nl": "remove duplicates", "code": "set(xs)"},
    "title content": {"title": "Squares", "content": "sum(x * x for x in xs)"},
    "text label": {"text": "The film was dull.", "label": "negative"},
    "text category": {"text": "The film was dull.", "category": "films"},
    "text summary": {"text": "Rain in the north.", "summary": "North wet."},
    "text and the number of its label": {"text": "The film was dull.", "label": 0},
    "SST-2": {"sentence": "The film was dull.", "label": 0, "idx": 3},
    "text answer": {"text": "It was 1969.", "answer": 1969},
    "prompt text": {"prompt": "Explain.", "text": "A function that calls itself."},
    "docstring code": {"docstring": "Return the cube.", "code": "x ** 3", "language": "python"},
    "question input output": {"question": "In what year?", "input": "It was 1969.", "output": "1969"},
    "question context answer": {"question": "In what year?", "context": "It was then.", "answer": "then"},
    "MetaMath": {"query": "Gracie has?", "original_question": "How many?", "response": "42 of them"},
    "an Alpaca row without its output": {"instruction": "Do.", "output": None, "text": "Do it."},
    "OASST": {"message_id": "1", "text": "hello", "role": "prompter"},
    "CommitPack": {"commit": "abcdef", "old_contents": "x=1", "new_contents": "x=2", "message": "Fix it", "lang": "Python"},
    "SQuAD": {"id": "1", "context": "C is", "question": "Q?", "answers": {"text": ["C"], "answer_start": [0]}},
    "preferences": {"prompt": "p", "chosen": "good", "rejected": "bad"},
    "preferences of turns": {"chosen": CHAT, "rejected": CHAT[:1]},
    "other capitals": {"Question": "q", "Response": "r"},
    "names that no template can say": {"the question": "q", "more of it": "r", "text": "s"},
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_text_that_no_format_reads_stops_the_source_with_lines_that_settle_it(name: str) -> None:
    row = REFUSED[name]
    with pytest.raises(UserError) as error:
        read_one(row)
    shown = [line.strip() for line in str(error.value).splitlines() if line.startswith("    ")]
    settled = yaml.safe_load("\n".join(line for line in shown if not line.startswith("ignore")))
    made = short(read_one(row, **settled))
    texts = [
        value
        for key, value in row.items()
        if isinstance(value, str)
        and key not in {"rejected", "id", "commit", "lang", "language", "message_id"}
    ]
    whole = "".join(text for part in made for text in (part[1] if made == SAID else part))
    assert all(text in whole for text in texts)
    assert made == SAID or made[1]


@pytest.mark.parametrize(
    ("row", "ignore"),
    [
        ({"messages": CHAT, "chosen": "x", "rejected": "y"}, ["chosen", "rejected"]),
        ({"messages": CHAT, "images": ["a.png"]}, ["images"]),
        ({"messages": CHAT, "image": {"bytes": b"..", "path": None}}, ["image"]),
        ({"messages": [CHAT[0], {**CHAT[1], "refusal": "I will not."}]}, ["messages.refusal"]),
        ({"text": "body", "title": "T"}, ["title"]),
        ({"messages": CHAT, "label": False}, ["label"]),
        ({"messages": CHAT, "kto_tag": False}, ["kto_tag"]),
        ({"messages": CHAT, "weight": 0.5}, ["weight"]),
        ({"messages": [CHAT[0], {**CHAT[1], "mask": True}]}, ["messages.mask"]),
        ({"messages": [CHAT[0], {**CHAT[1], "train_detail": [{"begin_offset": 0, "end_offset": 3, "train": False}]}]}, ["messages.train_detail"]),
    ],
)  # fmt: skip
def test_what_stays_unused_is_named_by_the_source(row: dict, ignore: list[str]) -> None:
    with pytest.raises(UserError) as error:
        read_one(row)
    assert f"    ignore: [{', '.join(ignore)}]" in str(error.value)
    made = read_one(row, ignore=ignore)
    assert short(made) in (SAID, ("", "body"))


def test_all_rows_of_a_source_are_looked_at_and_have_one_format() -> None:
    rows = [{"text": f"row {i}"} for i in range(300)]
    late = made_file("x.jsonl", lines(*rows, {"text": "x", "summary": "s"}))
    for drop in (False, True):
        with pytest.raises(UserError, match=r"x\.jsonl, row 301: .*nothing would read summary"):
            source_rows(file_source(), [late], drop)
    for place in (1, 300):
        mixed_rows = made_file("x.jsonl", lines(*rows[:place], {"messages": CHAT}, *rows[place:]))
        found, reasons = source_rows(file_source(), [mixed_rows], drop=True)
        assert reasons == {"taken": len(found), row_errors.FORMAT: 301 - len(found)}
        # among the first rows the format that comes first in FORMATS wins
        assert len(found) == (1 if place == 1 else 300)
        with pytest.raises(UserError, match="rows of another format need a source of their own"):
            source_rows(file_source(), [mixed_rows])
    alpaca = [{"instruction": f"i{n}", "output": "o", "text": f"i{n}: o"} for n in range(3)]
    alpaca[1]["output"] = None  # type: ignore[assignment]
    found, reasons = source_rows(file_source(), [made_file("x.jsonl", lines(*alpaca))], drop=True)
    assert {row["prompt"] for row in found} == {"i0", "i2"}
    assert reasons == {"taken": 2, row_errors.FORMAT: 1}


def test_an_answer_called_bad_is_taken_only_where_its_label_is_true() -> None:
    rows = [{"prompt": f"q{n}", "completion": "a", "label": n % 2 == 0} for n in range(4)]
    files = [made_file("x.jsonl", lines(*rows))]
    with pytest.raises(UserError, match=r"minimum: \{label: 1\}\n.*\n    ignore: \[label\]"):
        source_rows(file_source(), files)
    found, _ = source_rows(file_source(minimum={"label": 1}), files)
    assert [row["prompt"] for row in found] == ["q0", "q2"]


def test_what_a_turn_has_beside_its_text_is_content_of_the_row() -> None:
    weighed = [CHAT[0], {**CHAT[1], "weight": 0}]
    rows = [{"messages": CHAT}, {"messages": weighed}, {"messages": CHAT, "tools": [TOOL]}]
    found, _ = source_rows(file_source(), [made_file("x.jsonl", lines(*rows))])
    assert len({row["id"].removesuffix("-2") for row in found}) == 3


def test_keys_that_parquet_adds_to_objects_are_left_out() -> None:
    called = [[{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {key: 1}}}]}] for key in "ab"]  # fmt: skip
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([{"messages": one} for one in called]), sink)
    found, _ = source_rows(file_source(), [made_file("x.parquet", sink.getvalue().to_pybytes())])
    calls = [json.loads(row["messages"][0]["extra"])["tool_calls"][0] for row in found]
    assert sorted(json.dumps(call["function"]["arguments"]) for call in calls) == ['{"a": 1}', '{"b": 1}']


def test_a_column_of_licences_leaves_rows_out_or_is_named_as_not_looked_at(
    capsys: pytest.CaptureFixture,
) -> None:
    given = ["MIT", "mit", "GPL-3.0", ["MIT", "Apache-2.0"], ["MIT", "AGPL-3.0"], "Proprietary", None]
    rows = [{"content": f"x = {n}", "license": licence} for n, licence in enumerate(given)]
    files = [made_file("x.jsonl", lines(*rows))]
    source = file_source(columns={"licence": "license"})
    found, tallies = mixed([(source, files)])
    assert Counter(row["licence"] for row in found) == {"MIT": 2, "MIT AND Apache-2.0": 1}
    assert tallies["mine"].reasons == {"taken": 3, row_errors.LICENCE: 4}
    assert [row["row"] for row in tallies["mine"].listed] == [3, 5, 6, 7]
    print_reading(source, tallies["mine"])
    assert "not looked at" not in capsys.readouterr().out
    nested = {"text": "x", "meta": {"license": "GPL-3.0", "id": 3}}
    _, tallies = mixed([(file_source(), [made_file("x.jsonl", lines(nested))])])
    print_reading(file_source(), tallies["mine"])
    assert "not looked at: `columns: {licence: meta.license}` does" in capsys.readouterr().out
    found, tallies = mixed([(file_source(), files)])
    assert len(found) == 7
    print_reading(file_source(), tallies["mine"])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "fetch: mine: columns not used: license",
        "fetch: mine: the rows' own licences were not looked at: `columns: {licence: license}` does",
    ]


def test_unused_columns_are_kept_for_the_lock_and_instructions_are_called_so(
    capsys: pytest.CaptureFixture,
) -> None:
    row = {"instruction": "i", "output": "o", "id": "x", "score": 3, "note": "n"}
    source = file_source(ignore=["note"])
    _, tallies = mixed([(source, [made_file("x.jsonl", lines(row))])])
    assert tallies["mine"].reading == {
        "read_as": ["instruction", "output"],
        "columns_not_used": ["id", "note", "score"],
    }
    del tallies["mine"].reasons["taken"]
    print_reading(source, tallies["mine"])
    assert capsys.readouterr().out.splitlines() == [
        "fetch: mine: 1 rows of 1 candidates, read as instruction + output",
        "fetch: mine: columns not used: id, note, score",
        "fetch: mine: these are instructions: clean=instruct and prompt=alpaca or chat fit them",
    ]


# Files that are no tables

NOTEBOOK = {
    "nbformat": 4,
    "cells": [
        {"cell_type": "markdown", "source": ["# Sum\n", "\n", "Adds."]},
        {"cell_type": "code", "source": ["x = 1\n", "x"], "outputs": [{"text": ["1"]}, {"text": ["2"]}]},
        {"cell_type": "code", "source": "", "outputs": []},
    ],
}


def text_rows(*files: tuple[str, bytes], drop: bool = False) -> tuple[dict[str, str], Tally]:
    found, tallies = mixed([(file_source(format="text"), [made_file(*file) for file in files])], drop=drop)
    assert all(row["prompt"] == "" for row in found)
    return {json.loads(row["metadata"])["path"]: row["completion"] for row in found}, tallies["mine"]


def test_each_file_is_a_row_of_plain_text_and_a_notebook_its_cells() -> None:
    found, tally = text_rows(
        ("a/io.py", b"\xef\xbb\xbfx = 1\n"), ("a/__init__.py", b"\n"), ("b.md", b"# Hi, all\n"), ("c.ipynb", json.dumps(NOTEBOOK).encode())
    )  # fmt: skip
    assert found == {"a/io.py": "x = 1\n", "b.md": "# Hi, all\n", "c.ipynb": "# %% [markdown]\n# # Sum\n#\n# Adds.\n\n# %%\nx = 1\nx\n"}  # fmt: skip
    assert tally.reasons == {"taken": 3, row_errors.EMPTY_FILE: 1}
    assert tally.reading == {"left_out": {"outputs of notebook cells": 2}}


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.py", b"caf\xe9", row_errors.NOT_UTF8),
        ("a.bin", b"a\0b", row_errors.UNREADABLE),
        ("a.ipynb", b"{", row_errors.NOT_NOTEBOOK),
        ("a.ipynb", b'{"worksheets": []}', row_errors.NOT_NOTEBOOK),
        ("a.txt.gz", b"\x1f\x8bno", row_errors.CUT),
    ],
)
def test_a_file_that_is_no_text_is_a_bad_row(name: str, data: bytes, reason: str) -> None:
    assert text_rows((name, data), ("b", b"good"), drop=True)[1].reasons == {"taken": 1, reason: 1}
    with pytest.raises(UserError, match=f"^{name}: {reason}.*set fetch.on_bad_row=drop"):
        text_rows((name, data))


@pytest.mark.parametrize(
    ("name", "data", "hint"),
    [
        ("a.txt", b"Once there was a loop.\nIt ran, forever.\n", r"a row of plain text\.$"),
        ("a.md", b"# Title\n\nBody.\n", r"a row of plain text\.$"),
        ("a.py.gz", b"class A:\n    x, y = 1, 2\n", "or `format: functions` for its functions"),
        ("a.ipynb", json.dumps(NOTEBOOK, indent=1).encode(), "a notebook by its cells"),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_the_format_to_set(name: str, data: bytes, hint: str) -> None:
    for drop in (False, True):
        with pytest.raises(UserError, match=rf"{name} was read as a table \(.+\), since its source has `format: rows`. Set `format: text`.*{hint}"):  # fmt: skip
            source_rows(file_source(), [made_file(name, data)], drop)


def test_a_python_file_without_functions_says_so() -> None:
    file = made_file("a.py", b'class Stack:\n    """A stack."""\n')
    with pytest.raises(
        UserError, match="source 'mine' has no usable row: no top-level function in its files"
    ):
        list(
            row_batches(Source(name="mine", format="functions", licence="MIT"), [file], Tally("mine", False))
        )
