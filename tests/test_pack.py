"""Packing: every document once, packs never over their length, labels, the split, files and errors."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.common.errors import UserError
from stages.common.files import sha256_folder, write_parquet
from stages.common.prompt import render_prompt
from stages.common.prompt_settings import PromptSettings
from stages.common.schema import row_schema
from stages.common.tokens import load_tokenizer
from stages.pack.__main__ import main
from stages.pack.packing import best_fit_decreasing, fewest_packs
from stages.pack.settings import PackSettings
from stages.pack.split import validation_components
from tests.tiny import generated_functions

LENGTHS = st.integers(8, 300).flatmap(
    lambda capacity: st.tuples(st.just(capacity), st.lists(st.integers(1, capacity), max_size=200))
)


def first_fit(lengths: list[int], capacity: int) -> int:
    """Packs that first fit, in the given order, takes."""
    rooms: list[int] = []
    for length in lengths:
        for i, room in enumerate(rooms):
            if room >= length:
                rooms[i] -= length
                break
        else:
            rooms.append(capacity - length)
    return len(rooms)


@given(LENGTHS)
@settings(max_examples=300, deadline=None)
def test_every_document_is_packed_once_and_no_pack_is_too_long(case):
    capacity, lengths = case
    packs = best_fit_decreasing(lengths, capacity)
    assert sorted(i for pack in packs for i in pack) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in pack) <= capacity for pack in packs)


@given(LENGTHS)
@settings(max_examples=300, deadline=None)
def test_packs_are_few(case):
    capacity, lengths = case
    packs = len(best_fit_decreasing(lengths, capacity))
    fewest = fewest_packs(lengths, capacity)
    assert fewest <= packs
    assert packs <= first_fit(sorted(lengths, reverse=True), capacity) * 11 / 9 + 1
    assert packs <= 1.5 * fewest + 1


def test_each_document_goes_to_the_fullest_pack_with_room():
    assert best_fit_decreasing([5, 7, 3, 2, 1], 10) == [[1, 2], [0, 3, 4]]
    assert best_fit_decreasing([6, 5, 4, 5], 10) == [[0, 2], [1, 3]]
    assert best_fit_decreasing([], 10) == []
    with pytest.raises(ValueError, match="document 1 has 11 tokens"):
        best_fit_decreasing([3, 11], 10)


def test_packing_is_no_function_of_time_or_hashes():
    lengths = [(7 * i * i) % 199 + 1 for i in range(5000)]
    packs = best_fit_decreasing(lengths, 200)
    assert packs == best_fit_decreasing(lengths, 200)


def test_a_hundred_thousand_documents_pack_in_seconds():
    lengths = [(i * 7919) % 2000 + 48 for i in range(100_000)]
    packs = best_fit_decreasing(lengths, 2048)
    assert sum(lengths) / (len(packs) * 2048) > 0.98


@given(st.lists(st.integers(0, 30).map(str), max_size=80), st.floats(0.01, 0.9), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_the_split_leaves_something_on_each_side(components, share, seed):
    held_out = validation_components(components, share, seed)
    if len(set(components)) < 2:
        assert held_out == set()
    else:
        assert held_out
        assert held_out < set(components)


def test_the_split_holds_out_the_share_and_depends_on_the_seed():
    components = [str(i) for i in range(4000)]
    one, two = (validation_components(components, 0.1, seed) for seed in (0, 1))
    assert 320 < len(one) < 480
    assert one != two
    assert validation_components(components, 0.0, 0) == set()


def test_a_row_that_comes_moves_no_other_between_the_sides():
    components = [str(i) for i in range(400)]
    assert validation_components(components, 0.1, 0) - {"new"} == validation_components(
        [*components, "new"], 0.1, 0
    ) - {"new"}


def test_a_component_larger_than_the_share_stays_in_training():
    for seed in range(30):
        assert "big" not in validation_components(["big"] * 50 + [str(i) for i in range(50)], 0.1, seed)


class Stage:
    """The stage in a folder of its own."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.model = folder / "models/base"
        shutil.copytree(model, self.model)

    def write(self, rows: list[dict[str, Any]], component: str | None = None) -> None:
        rows = [complete(row, number, component) for number, row in enumerate(rows)]
        schema = row_schema().append(pa.field("component", pa.string(), nullable=False))
        table = pa.Table.from_pylist(sorted(rows, key=lambda r: r["id"]), schema=schema)
        write_parquet(self.folder / "data/clean/rows.parquet", table)

    def run(self, style: str = "completion", **values: Any) -> dict[str, Any]:
        pack = PackSettings(**{"max_length": 128, "validation_share": 0.2, **values})
        return main(SimpleNamespace(pack=pack, prompt=PromptSettings(style=style)))  # type: ignore[arg-type]

    def packs(self, split: str = "train") -> list[dict[str, Any]]:
        return list(datasets.Dataset.from_file(str(self.folder / f"data/packed/{split}.arrow")))


def complete(row: dict[str, Any], number: int, component: str | None) -> dict[str, Any]:
    row_id = f"{number:08x}"
    base = {"prompt": None, "completion": None, "messages": None, "tests": None}
    fixed = {
        "id": row_id,
        "source": "s",
        "licence": "MIT",
        "metadata": "{}",
        "component": component or row_id,
    }
    return {**base, **fixed, **row}


@pytest.fixture
def stage(tmp_path, tiny_model, monkeypatch) -> Stage:
    monkeypatch.chdir(tmp_path)
    made = Stage(tmp_path, tiny_model)
    made.write(generated_functions(40))
    return made


def test_each_row_is_in_one_pack_and_its_tokens_are_those_that_evaluation_asks_with(stage):
    metrics = stage.run()
    tokenizer = load_tokenizer(stage.model)
    rows = {f"{i:08x}": row for i, row in enumerate(generated_functions(40))}
    seen = []
    for pack in stage.packs() + stage.packs("validation"):
        assert sum(pack["lengths"]) == len(pack["input_ids"]) == len(pack["labels"]) <= 128
        start = 0
        for row_id, length in zip(pack["row_ids"], pack["lengths"], strict=True):
            ids, labels = (pack[key][start : start + length] for key in ("input_ids", "labels"))
            start += length
            asked = tokenizer(render_prompt(rows[row_id]["prompt"], tokenizer, PromptSettings()))["input_ids"]
            assert ids[: len(asked)] == asked
            assert labels[: len(asked)] == [-100] * len(asked)
            assert labels[len(asked) :] == ids[len(asked) :]
            assert labels[-1] == tokenizer.eos_token_id
            text = rows[row_id]["prompt"] + rows[row_id]["completion"]
            assert tokenizer.decode(ids[:-1]) == text
            seen.append(row_id)
    assert sorted(seen) == sorted(rows)
    assert metrics["rows_kept"] == 40


def test_the_first_token_of_plain_text_has_no_label(stage):
    stage.write([{"prompt": "", "completion": "x = 1\n"}] * 3)
    stage.run(validation_share=0.0)
    tokenizer = load_tokenizer(stage.model)
    ids = tokenizer("x = 1\n")["input_ids"]
    (pack,) = stage.packs()
    assert pack["labels"] == [-100, *ids[1:], tokenizer.eos_token_id] * 3
    assert stage.packs("validation") == []


def test_the_figures_are_those_of_the_files(stage):
    metrics = stage.run()
    packs = stage.packs()
    train = metrics["train"]
    assert train["packs"] == len(packs)
    assert train["tokens"] == sum(len(pack["input_ids"]) for pack in packs)
    assert train["labelled_tokens"] == sum(label != -100 for pack in packs for label in pack["labels"])
    assert train["utilisation"] == pytest.approx(train["tokens"] / (len(packs) * 128), abs=1e-4)
    assert train["fewest_packs"] <= train["packs"]
    assert train["rows"] + metrics["validation"]["rows"] == metrics["rows_kept"] == 40
    histograms = metrics["histograms"]
    assert sum(histograms["rows"]) == train["rows"]
    assert sum(histograms["packs"]) == sum(histograms["packs_by_documents"]) == train["packs"]
    packing = json.loads((stage.folder / "data/packed/packing.json").read_text())
    assert packing["max_length"] == 128
    assert packing["train"] == train


def test_twice_gives_the_same_bytes(stage):
    stage.run()
    first = sha256_folder(stage.folder / "data/packed")
    stage.run()
    assert sha256_folder(stage.folder / "data/packed") == first


def test_rows_of_one_component_stay_on_one_side(stage):
    rows = [{**row, "component": str(i % 7)} for i, row in enumerate(generated_functions(40))]
    stage.write(rows)
    stage.run()
    sides = [
        {int(row_id, 16) % 7 for pack in stage.packs(split) for row_id in pack["row_ids"]}
        for split in ("train", "validation")
    ]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_longer_rows_are_dropped_and_counted_or_fail(stage):
    long = {"prompt": "def f():\n", "completion": "    return [" + "1, " * 300 + "]\n"}
    stage.write([*generated_functions(10), long])
    metrics = stage.run()
    assert metrics["rows_dropped"] == {"overlong": 1}
    assert metrics["rows_in"] == metrics["rows_kept"] + 1 == 11
    with pytest.raises(UserError, match=r"row 0000000a \(s\): \d+ tokens, and pack.max_length is 128"):
        stage.run(overlong="fail")


def test_rows_that_the_style_cannot_show_are_counted_by_reason(stage):
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    stage.write([*generated_functions(5), {"messages": talk}, {"messages": talk * 2}, {"messages": talk[:1]}])
    metrics = stage.run()
    assert metrics["rows_dropped"] == {"conversation": 1, "no_answer": 1}
    assert metrics["rows_kept"] == 6


def test_no_rows_left_is_an_error_that_says_why_and_writes_nothing(stage):
    with pytest.raises(UserError, match=r"no rows left to pack, of 40 \(40 overlong\)"):
        stage.run(max_length=8)
    assert not (stage.folder / "data/packed").exists()
    stage.write([])
    with pytest.raises(UserError, match="the file is empty"):
        stage.run()


def test_packs_longer_than_the_context_are_refused(stage):
    with pytest.raises(UserError, match=r"pack\.max_length is 257, but the context of models/base is 256"):
        stage.run(max_length=257)


def test_missing_parts_are_named(stage):
    (stage.model / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="models/base: no tokenizer there"):
        stage.run()
    (stage.model / "config.json").unlink()
    with pytest.raises(UserError, match=r"models/base/config\.json: no such file"):
        stage.run()
    (stage.folder / "data/clean/rows.parquet").unlink()
    with pytest.raises(UserError, match=r"data/clean/rows\.parquet: no such file"):
        stage.run()


def test_rows_without_components_are_refused(stage):
    table = pa.Table.from_pylist([complete(generated_functions(1)[0], 0, None)], schema=row_schema())
    write_parquet(stage.folder / "data/clean/rows.parquet", table)
    with pytest.raises(UserError, match="no column component"):
        stage.run()


def test_a_tokenizer_of_another_model_is_refused(stage):
    config = json.loads((stage.model / "config.json").read_text())
    (stage.model / "config.json").write_text(json.dumps({**config, "vocab_size": 20}))
    with pytest.raises(UserError, match="the model knows 20 tokens"):
        stage.run()


def test_chat_without_a_template_is_refused(stage):
    with pytest.raises(UserError, match="no chat template"):
        stage.run(style="chat")
    assert stage.run(style="alpaca", max_length=256)["rows_kept"] > 0
