"""The pack stage: every document is packed once, no pack is too long, labels, the split, files and errors."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stages.common.core.errors import UserError
from stages.common.core.files import sha256_folder, write_parquet
from stages.common.engine import EngineSettings
from stages.common.model.packs import read_packs
from stages.common.rows.schema import row_schema
from stages.common.text.fill_tokens import FILL_TOKENS
from stages.common.text.prompt import render_prompt
from stages.common.text.settings import PromptSettings
from stages.common.text.tokens import load_tokenizer
from stages.pack import show
from stages.pack.__main__ import main
from stages.pack.overlong import Document, shorten_text, split_exchanges
from stages.pack.packing import Packing, fewest_packs, pack_lengths
from stages.pack.settings import PackSettings
from stages.pack.show import mark_labels
from tests.common.test_engine import two_nodes
from tests.helpers.tiny_project import REPOSITORY, generated_functions

CASES = st.integers(8, 300).flatmap(
    lambda capacity: st.tuples(
        st.just(capacity), st.lists(st.integers(1, capacity), max_size=200), st.sampled_from([0, 0, 1, 2, 5])
    )
)


def lists_of(packing: Packing) -> list[list[int]]:
    return [packing.order[a:b].tolist() for a, b in pairwise(packing.starts.tolist())]


def first_fit(lengths: list[int], capacity: int) -> int:
    """Return the number of packs that first fit takes, in the given order."""
    rooms: list[int] = []
    for length in lengths:
        for i, room in enumerate(rooms):
            if room >= length:
                rooms[i] -= length
                break
        else:
            rooms.append(capacity - length)
    return len(rooms)


def one_by_one(lengths: list[int], capacity: int, most: int) -> list[list[int]]:
    """Best fit decreasing by its definition: take the pack with the least sufficient room, ties go to the
    last changed.
    """
    packs: list[list[int]] = []
    room: list[int] = []
    changed: list[int] = []
    for step, i in enumerate(sorted(range(len(lengths)), key=lambda i: -lengths[i])):
        fitting = [
            p for p in range(len(packs)) if room[p] >= lengths[i] and len(packs[p]) < (most or len(lengths))
        ]
        if not fitting:
            fitting = [len(packs)]
            packs.append([])
            room.append(capacity)
            changed.append(step)
        best = min(fitting, key=lambda p: (room[p], -changed[p]))
        packs[best].append(i)
        room[best] -= lengths[i]
        changed[best] = step
    return packs


@given(CASES)
@settings(max_examples=100, deadline=None)
def test_every_document_is_packed_once_and_no_pack_is_too_long(case):
    capacity, lengths, most = case
    packs = lists_of(pack_lengths(lengths, capacity, most))
    assert sorted(i for one in packs for i in one) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in one) <= capacity for one in packs)
    assert all(len(one) <= (most or len(lengths)) for one in packs)


@given(CASES)
@settings(max_examples=100, deadline=None)
def test_packs_equal_best_fit_decreasing_one_document_at_a_time(case):
    capacity, lengths, most = case
    assert lists_of(pack_lengths(lengths, capacity, most)) == one_by_one(lengths, capacity, most)


@given(CASES)
@settings(max_examples=100, deadline=None)
def test_pack_count_is_near_the_lower_bound(case):
    capacity, lengths, _ = case
    packs = len(pack_lengths(lengths, capacity))
    halves = sum(2 * length > capacity for length in lengths)
    fewest = fewest_packs(sum(lengths), len(lengths), halves, capacity)
    assert fewest <= packs
    assert packs <= first_fit(sorted(lengths, reverse=True), capacity) * 11 / 9 + 1
    assert packs <= 1.5 * fewest + 1


def test_each_document_goes_to_the_fullest_pack_with_room():
    assert lists_of(pack_lengths([5, 7, 3, 2, 1], 10)) == [[1, 2], [0, 3, 4]]
    assert lists_of(pack_lengths([6, 5, 4, 5], 10)) == [[0, 2], [1, 3]]
    assert lists_of(pack_lengths([1] * 5, 10, 2)) == [[0, 1], [2, 3], [4]]
    assert lists_of(pack_lengths([], 10)) == []
    assert fewest_packs(5, 5, 0, 10, 2) == 3
    with pytest.raises(ValueError, match="document 1 has 11 tokens"):
        pack_lengths([3, 11], 10)


def test_lengths_beyond_sixteen_bits_are_packed_too():
    lengths = [(7919 * i * i) % 199_999 + 1 for i in range(300)]
    assert lists_of(pack_lengths(lengths, 200_000)) == one_by_one(lengths, 200_000, 0)


def test_many_documents_fill_their_packs():
    """Each against each open pack would take hours."""
    lengths = np.random.default_rng(0).lognormal(5.2, 0.7, 300_000).clip(8, 2048).astype(int)
    packing = pack_lengths(lengths, 2048)
    assert lengths.sum() / (len(packing) * 2048) > 0.999


class Stage:
    """The pack stage in its own folder."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.model = folder / "models/base"
        shutil.copytree(model, self.model)

    def write(self, rows: list[dict[str, Any]], component: str | None = None) -> None:
        rows = [complete(row, number, component) for number, row in enumerate(rows)]
        schema = row_schema().append(pa.field("component", pa.string(), nullable=False))
        table = pa.Table.from_pylist(sorted(rows, key=lambda r: r["id"]), schema=schema)
        write_parquet(self.folder / "data/clean/rows.parquet", table)

    def run(
        self,
        style: str = "completion",
        loss: str = "last",
        template: str = "",
        workers: int = 1,
        **values: Any,
    ) -> dict[str, Any]:
        """Run the stage here, and in worker processes if there are several."""
        pack = PackSettings(**{"max_length": 128, "validation_share": 0.2, **values})
        prompt = PromptSettings(style=style, loss=loss, template=template)
        return main(SimpleNamespace(pack=pack, prompt=prompt, engine=EngineSettings(workers=workers)))  # type: ignore[arg-type]

    def packs(self, split: str = "train") -> list[dict[str, Any]]:
        return list(datasets.Dataset.from_file(str(self.folder / f"data/packed/{split}.arrow")))


def complete(row: dict[str, Any], number: int, component: str | None) -> dict[str, Any]:
    row_id = f"{number:08x}"
    base = dict.fromkeys(row_schema().names)
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
    stage = Stage(tmp_path, tiny_model)
    stage.write(generated_functions(40))
    return stage


def test_a_share_of_the_rows_is_filled_in_if_the_tokenizer_has_the_tokens_for_it(stage, capsys):
    with pytest.raises(UserError, match=r"no tokens for filling in.*choose another prompt\.style"):
        stage.run(style="fim")
    assert not (stage.folder / "data/packed").exists()
    tokenizer = load_tokenizer(stage.model)
    tokenizer.add_tokens([*FILL_TOKENS[0][:3]])
    tokenizer.save_pretrained(stage.model)
    config = json.loads((stage.model / "config.json").read_text())
    (stage.model / "config.json").write_text(json.dumps({**config, "vocab_size": len(tokenizer)}))
    metrics = stage.run(style="fim")
    middle = tokenizer.convert_tokens_to_ids(FILL_TOKENS[0].middle)
    packs = [*stage.packs(), *stage.packs("validation")]
    filled = sum(pack["input_ids"].count(middle) for pack in packs)
    assert metrics["documents_filled"] == filled
    assert 10 < filled < 30
    assert all(pack["labels"].count(middle) == 0 for pack in packs)
    assert f"fill in the middle: {filled} of 40 documents" in capsys.readouterr().out


def test_each_row_is_in_one_pack_and_begins_with_the_prompt_tokens_of_evaluation(stage):
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
            prompt_ids = tokenizer(render_prompt(rows[row_id]["prompt"], tokenizer, PromptSettings()))[
                "input_ids"
            ]
            assert ids[: len(prompt_ids)] == prompt_ids
            assert labels[: len(prompt_ids)] == [-100] * len(prompt_ids)
            assert labels[len(prompt_ids) :] == ids[len(prompt_ids) :]
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


def test_metrics_match_the_written_packs(stage):
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


def test_rows_whose_tests_passed_are_trained_on_twice_and_validated_on_once(stage, capsys):
    stage.run(validated_copies=2)
    assert "pack.validated_copies=2 repeats no row" in capsys.readouterr().out
    path = Path("data/clean/rows.parquet")
    table = pq.read_table(path)
    verdicts = pa.array([[True, False, None][i % 3] for i in range(len(table))], pa.bool_())
    write_parquet(path, table.append_column("validated", verdicts))
    once, metrics = stage.run(), stage.run(validated_copies=2)
    passed = {row["id"] for row in pq.read_table(path).to_pylist() if row["validated"]}
    assert metrics["validated"] == {"rows": len(passed), "copies": 2}
    for split, copies in (("train", 2), ("validation", 1)):
        counts = Counter(row_id for pack in stage.packs(split) for row_id in pack["row_ids"])
        assert {n for row_id, n in counts.items() if row_id in passed} == {copies}
        assert {n for row_id, n in counts.items() if row_id not in passed} == {1}
        assert len(counts) == metrics[split]["rows"] == once[split]["rows"]
        assert counts.total() == metrics[split]["documents"]


def test_packing_twice_gives_the_same_bytes(stage):
    stage.run()
    first = sha256_folder(stage.folder / "data/packed")
    stage.run()
    assert sha256_folder(stage.folder / "data/packed") == first


def test_rows_of_one_component_stay_in_one_split(stage):
    rows = [{**row, "component": str(i % 7)} for i, row in enumerate(generated_functions(40))]
    stage.write(rows)
    metrics = stage.run(validation_share=0.3)
    sides = [
        {int(row_id, 16) % 7 for pack in stage.packs(split) for row_id in pack["row_ids"]}
        for split in ("train", "validation")
    ]
    assert all(sides)
    assert not sides[0] & sides[1]
    assert [metrics[split]["components"] for split in ("train", "validation")] == [
        len(side) for side in sides
    ]


def test_overlong_rows_are_dropped_and_counted_or_fail(stage):
    long = {"prompt": "def f():\n", "completion": "    return [" + "1, " * 300 + "]\n"}
    stage.write([*generated_functions(10), long])
    metrics = stage.run()
    assert metrics["rows_dropped"] == {"overlong": 1}
    assert metrics["rows_in"] == metrics["rows_kept"] + 1 == 11
    with pytest.raises(UserError, match=r"row 0000000a \(s\): \d+ tokens, but pack.max_length is 128"):
        stage.run(overlong="fail")


def test_the_cost_of_shortening_overlong_rows_is_reported(stage):
    body = "    return [" + "1, " * 60 + "]\n"
    header = "def f():\n" + '    """' + "words of " * 60 + '"""\n'
    stage.write(
        [{"prompt": header, "completion": "    return 1\n"}, {"prompt": "def f():\n", "completion": body}]
    )
    fits = stage.run(max_length=256, validation_share=0.0)
    assert fits["rows_kept"] == 2
    fits = fits["train"]
    for overlong, kept in (("truncate", 1), ("split", 2)):
        metrics = stage.run(max_length=64, overlong=overlong, validation_share=0.0)
        packs = stage.packs()
        lost = metrics["overlong"]
        assert (metrics["rows_kept"], lost["rows"], lost["dropped"]) == (kept, 2, 2 - kept)
        tokens = sum(len(pack["input_ids"]) for pack in packs)
        labelled = sum(label != -100 for pack in packs for label in pack["labels"])
        assert lost["tokens_lost"] == fits["tokens"] - tokens
        assert lost["labelled_tokens_lost"] == fits["labelled_tokens"] - labelled
        assert all(sum(pack["lengths"]) <= 64 for pack in packs)
        assert metrics["train"]["documents"] == sum(len(pack["lengths"]) for pack in packs) >= kept


def test_a_pack_holds_at_most_max_documents(stage):
    metrics = stage.run(max_documents=2)
    assert max(len(pack["lengths"]) for pack in stage.packs()) == 2
    assert metrics["train"]["fewest_packs"] >= metrics["train"]["rows"] / 2


def test_prompt_loss_selects_which_answers_have_labels(stage):
    tokenizer = load_tokenizer(stage.model)
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    tokenizer.chat_template = template + "{% if add_generation_prompt %}<assistant>{% endif %}"
    tokenizer.save_pretrained(stage.model)
    turns = [
        ("user", "sum"),
        ("assistant", "total"),
        ("tool", "kept"),
        ("user", "list"),
        ("assistant", "item"),
    ]
    stage.write([{"messages": [{"role": role, "content": content} for role, content in turns]}])
    for loss, expected in (("all", "total<|endoftext|>item<|endoftext|>"), ("last", "item<|endoftext|>")):
        metrics = stage.run("chat", loss)
        (pack,) = stage.packs()
        assert tokenizer.decode([label for label in pack["labels"] if label != -100]) == expected
        text = "".join(f"<{role}>{content}<|endoftext|>" for role, content in turns)
        assert tokenizer.decode(pack["input_ids"]) == text
        assert metrics["rows_kept"] == 1


@pytest.mark.parametrize("style", ["completion", "alpaca"])
def test_prompt_loss_text_labels_all_but_the_first_token_and_validates_on_answers(stage, style):
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight")
    stage.write([{"prompt": f"say {word} as a list", "completion": f" item {word}"} for word in words])
    answers, texts = (stage.run(style, loss, validation_share=0.5) for loss in ("last", "text"))
    assert texts["validation"] == answers["validation"]
    assert texts["train"]["tokens"] == answers["train"]["tokens"]
    held_out = stage.packs("validation")
    assert (
        sum(label != -100 for pack in held_out for label in pack["labels"])
        == answers["validation"]["labelled_tokens"]
    )
    labelled = 0
    for pack in stage.packs():
        first = {sum(pack["lengths"][:n]) for n in range(len(pack["lengths"]))}
        expected = [-100 if at in first else token for at, token in enumerate(pack["input_ids"])]
        assert pack["labels"] == expected
        labelled += len(expected) - len(first)
    assert texts["train"]["labelled_tokens"] == labelled > answers["train"]["labelled_tokens"]


def test_a_template_that_drops_earlier_thoughts_drops_the_row_with_prompt_loss_all(stage):
    tokenizer = load_tokenizer(stage.model)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>"
        "{{ m.content if loop.last else m.content.split('</think>')[-1] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    tokenizer.save_pretrained(stage.model)
    turns = [
        ("user", "sum"),
        ("assistant", "<think>add</think>total"),
        ("user", "list"),
        ("assistant", "item"),
    ]
    talk = [{"role": role, "content": content} for role, content in turns]
    stage.write([{"messages": talk}, {"messages": talk[:2]}])
    metrics = stage.run("chat", "all", validation_share=0.0)
    assert (metrics["rows_dropped"], metrics["rows_kept"]) == ({"template": 1}, 1)
    assert trained_on(stage, tokenizer) == ["<think>add</think>total<|endoftext|>"]
    metrics = stage.run("chat", "last", validation_share=0.0)
    assert (metrics["rows_dropped"], metrics["rows_kept"]) == ({}, 2)
    assert sorted(trained_on(stage, tokenizer)) == [
        "<think>add</think>total<|endoftext|>",
        "item<|endoftext|>",
    ]


def trained_on(stage: Stage, tokenizer: Any) -> list[str]:
    """Return the labelled text of each document."""
    texts = []
    for pack in stage.packs():
        ends = np.cumsum(pack["lengths"])[:-1]
        for labels in np.split(np.array(pack["labels"]), ends):
            texts.append(tokenizer.decode(labels[labels != -100]))
    return texts


def test_odd_rows_become_a_document_or_a_drop_reason(stage):
    rows = [
        {},
        {"prompt": "p"},
        {"prompt": "def f():\n", "completion": "    return 1\n" * 80_000},
        {"messages": []},
    ]
    stage.write([*rows, {"prompt": None, "completion": "x = 1\n"}])
    metrics = stage.run(validation_share=0.0, max_dropped_share=0.6)
    assert metrics["rows_dropped"] == {"empty_completion": 2, "no_answer": 1, "overlong": 1}
    dropped = pq.read_table(stage.folder / "data/packed/dropped.parquet")
    assert dropped.schema.names == [*row_schema().names, "reason", "detail"]
    assert dropped["reason"].to_pylist() == ["empty_completion", "empty_completion", "overlong", "no_answer"]
    assert dropped["detail"][3].as_py() == "no answer"
    assert metrics["rows_in"] == metrics["rows_kept"] + 4 == 5
    assert metrics["overlong"]["tokens_lost"] > 100_000


def test_a_truncated_parquet_file_is_named(stage):
    path = stage.folder / "data/clean/rows.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"data/clean/rows\.parquet: not readable as Parquet"):
        stage.run()


def pack_on_ray(folder: Path) -> str:
    """Run `python -m stages.pack` on a cluster of two nodes; return the sha256 of data/packed."""
    (folder / "reports").mkdir()
    shutil.copy(REPOSITORY / "dvc.yaml", folder)
    (folder / "stages").symlink_to(REPOSITORY / "stages")
    (folder / "reports/config.yaml").write_text("engine: {kind: ray}\npack: {}\nprompt: {}\n")
    settings = ("pack.max_length=128", "pack.validation_share=0.2")
    with two_nodes() as address:
        command = [sys.executable, "-m", "stages.pack", *settings, f"engine.address={address}"]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        done = subprocess.run(
            command, cwd=folder, env=environment, check=False, capture_output=True, text=True, timeout=500
        )
    assert done.returncode == 0, done.stderr[-2000:]
    return sha256_folder(folder / "data/packed")


@pytest.mark.slow
def test_packed_bytes_are_the_same_on_every_engine(stage):
    rows = [complete(row, number, None) for number, row in enumerate(generated_functions(60))]
    schema = row_schema().append(pa.field("component", pa.string(), nullable=False))
    path = stage.folder / "data/clean/rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=16)
    elsewhere = shutil.copytree(stage.folder, stage.folder / "elsewhere")

    def packed_by(workers: int) -> str:
        stage.run(workers=workers)
        packs = [pack for split in ("train", "validation") for pack in stage.packs(split)]
        assert sum(len(pack["lengths"]) for pack in packs) == 60
        found = sha256_folder(stage.folder / "data/packed")
        shutil.rmtree(stage.folder / "data/packed")
        return found

    assert packed_by(1) == packed_by(2) == pack_on_ray(elsewhere)


def test_pack_lengths_are_read_without_their_tokens(stage, tmp_path):
    stage.run()
    path = stage.folder / "data/packed/train.arrow"
    packs = read_packs(path)
    assert packs.tokens == [len(pack["input_ids"]) for pack in stage.packs()]
    before = pa.total_allocated_bytes()
    again = read_packs(path)
    assert pa.total_allocated_bytes() == before
    assert dict(again[0]) == {name: stage.packs()[0][name] for name in ("input_ids", "labels", "lengths")}


def test_rows_that_the_style_cannot_render_are_counted_by_reason(stage):
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    stage.write([*generated_functions(5), {"messages": talk}, {"messages": talk * 2}, {"messages": talk[:1]}])
    metrics = stage.run()
    assert metrics["rows_dropped"] == {"conversation": 1, "no_answer": 1}
    assert metrics["rows_kept"] == 6


def test_no_rows_left_is_an_error_with_reasons_and_writes_nothing(stage):
    with pytest.raises(
        UserError,
        match=r"none of 40 rows is left to pack\.\n  40 overlong, e\.g\. row 0{8} \(s\)[^$]*raise pack\.max_length",
    ):
        stage.run(max_length=8)
    assert not (stage.folder / "data/packed").exists()
    stage.write([])
    with pytest.raises(UserError, match="the file is empty"):
        stage.run()


def test_packs_longer_than_the_context_are_refused(stage):
    with pytest.raises(UserError, match=r"pack\.max_length is 257, but the context of models/base is 256"):
        stage.run(max_length=257)


def test_missing_input_files_are_named(stage):
    (stage.model / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="models/base: no tokenizer in this folder"):
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
    with pytest.raises(UserError, match="outside the model's vocabulary of 20 tokens"):
        stage.run()


def test_chat_without_a_template_is_refused(stage):
    with pytest.raises(UserError, match="no chat template"):
        stage.run(style="chat")
    assert stage.run(style="alpaca", max_length=256)["rows_kept"] > 0


LONG_CHAT = [
    {"role": "system", "content": "Be kind."},
    *(
        {"role": role, "content": f"{role} {number}"}
        for number in range(8)
        for role in ("user", "tool", "assistant")
    ),
    {"role": "user", "content": "unanswered"},
]
PLAIN_CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def chat_stage(stage: Stage, template: str) -> Any:
    tokenizer = load_tokenizer(stage.model)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(stage.model)
    return tokenizer


def whole_documents(stage: Stage, tokenizer: Any) -> list[str]:
    """Return the text of each document, trained text between brackets, in the order of the packs."""
    return [
        mark_labels(Document(ids, labels != -100), tokenizer)
        for pack in stage.packs()
        for ids, labels in zip(
            *(
                np.split(np.array(pack[key]), np.cumsum(pack["lengths"])[:-1])
                for key in ("input_ids", "labels")
            ),
            strict=True,
        )
    ]


@pytest.mark.parametrize("overlong", ["truncate", "split"])
@pytest.mark.parametrize("loss", ["last", "all"])
def test_a_long_chat_is_cut_between_exchanges_behind_its_system_message(stage, overlong, loss):
    tokenizer = chat_stage(stage, PLAIN_CHAT)
    stage.write([{"messages": LONG_CHAT}])
    metrics = stage.run("chat", loss, overlong=overlong, max_length=96, validation_share=0.0)
    texts = whole_documents(stage, tokenizer)
    end, seen = "<|endoftext|>", []
    for text in texts:
        assert text.startswith(f"<system>Be kind.{end}<user>")
        exchanges = text.removeprefix(f"<system>Be kind.{end}").split("<user>")[1:]
        numbers = [int(exchange.split(end)[0].removeprefix("user ")) for exchange in exchanges]
        seen += numbers
        for number, exchange in zip(numbers, exchanges, strict=True):
            answer = f"assistant {number}{end}"
            labelled = loss == "all" or number == 7
            answer = f"«{answer}»" if labelled else answer
            assert exchange == f"user {number}{end}<tool>tool {number}{end}<assistant>{answer}"
    assert max(pack_length for pack in stage.packs() for pack_length in pack["lengths"]) <= 96
    if (overlong, loss) == ("split", "all"):
        assert sorted(seen) == list(range(8))
        assert metrics["overlong"]["labelled_tokens_lost"] == metrics["overlong"]["tokens_lost"] == 0
    else:
        assert len(texts) == 1
        assert seen == list(range(8 - len(seen), 8))
        assert metrics["overlong"]["tokens_lost"] > 0


def test_exchanges_begin_at_a_question():
    asked = ["user", "assistant"]
    roles = ["system", *asked, "tool", "assistant", "user", *asked, "system", *asked]
    head, exchanges = split_exchanges([{"role": role} for role in roles])
    assert [turn["role"] for turn in head] == ["system"]
    assert [" ".join(turn["role"] for turn in one) for one in exchanges] == [
        "user assistant tool assistant",
        "user user assistant",
        "system user assistant",
    ]


@pytest.mark.parametrize("lead", [0, 1])
@given(st.integers(0, 40), st.integers(2, 40), st.integers(8, 50))
@settings(max_examples=80, deadline=None)
def test_running_text_is_cut_behind_what_the_tokenizer_puts_first(lead, prompt, answer, limit):
    ids = np.arange(lead + prompt + answer, dtype=np.int32)
    assume(len(ids) > limit)
    document = Document(ids, ids >= max(1, lead + prompt))
    for part in shorten_text(document, limit, "truncate", lead):
        assert part.ids.tolist() == [*ids[:lead], *ids[max(lead, len(ids) - limit + lead) :]]
        assert part.loss.sum() == document.loss.sum()
    parts = shorten_text(document, limit, "split", lead)
    assert [i for part in parts for i in part.ids[lead:].tolist()] == [
        *range(len(ids) - sum(len(part.ids) - lead for part in parts), len(ids))
    ]
    assert all(len(part.ids) <= limit and not part.loss[0] and part.loss.any() for part in parts)


def test_no_row_ends_the_stage_and_many_drops_are_an_error_with_the_words_of_the_template(stage, capsys):
    strict = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate.') }}{% endif %}{{ m.content }}{{ eos_token }}{% endfor %}"
    )
    chat_stage(stage, strict)
    good = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "be kind"}]
    rows = [{"messages": good}] * 8 + [{"messages": good[1:]}, {"messages": [good[0], *good]}]
    stage.write(rows)
    metrics = stage.run("chat", "all")
    assert metrics["rows_dropped"] == {"no_question": 1, "template": 1}
    printed = capsys.readouterr().out
    assert "1 template, e.g. row 00000009 (s): TemplateError: Roles must alternate." in printed
    assert "WARNING: 2 of 10 rows cannot be trained on" in printed
    with pytest.raises(UserError, match=r"2 of 10 rows cannot be trained on[^$]*Roles must alternate"):
        stage.run("chat", "all", max_dropped_share=0.1)


def test_an_answer_glued_to_its_instruction_is_warned_of(stage, capsys):
    stage.write([*generated_functions(3), {"prompt": "Name a tree.", "completion": "An oak."}])
    assert stage.run()["rows_glued"] == 1
    assert "in 1 rows the completion follows the prompt without white space between, e.g. row 00000003" in (
        capsys.readouterr().out
    )


def test_rows_are_shown_with_trained_text_marked_and_tokens_on_request(stage, capsys, monkeypatch):
    (stage.folder / "reports").mkdir()
    (stage.folder / "reports/config.yaml").write_text("pack: {max_length: 64}\nprompt: {style: completion}\n")
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    stage.write([{"prompt": "Sum:\n", "completion": "total"}, {"prompt": "x", "completion": " " * 9}])
    show.main(["0000", "--tokens"])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("row 00000000 (s): ")
    assert "\n".join(shown).split("trained on\n")[1].startswith("Sum:«\ntotal<|endoftext|>»")
    assert shown[-1] == "*       0 '<|endoftext|>'"
    show.main(["00000001"])
    assert (
        capsys.readouterr().out == "row 00000001 (s) is dropped: empty_completion: the completion is empty\n"
    )
    with pytest.raises(SystemExit):
        show.main(["--source", "other"])
    assert "no row  of source other. Its sources are s." in capsys.readouterr().err
