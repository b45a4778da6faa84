"""stages.try: the models that are there answer as in evaluate, one prompt, a conversation or a line of a file."""

import io
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from stages.common.core.errors import UserError
from stages.common.text.settings import PromptSettings
from stages.evaluate.settings import EvaluateSettings
from stages.generation.completion import BatchRow, Completion, SampleRequest
from stages.generation.generate import generate
from stages.playground.command import main, model_place, split_file
from stages.playground.display import Screen
from stages.playground.player import OnText, Player
from tests.helpers.tiny_project import REPOSITORY

HEADER = 'def add_all(numbers):\n    """Add up all numbers."""\n'
CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
SETTINGS = EvaluateSettings(max_new_tokens=24)


@pytest.fixture
def here(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: the configuration and models/base."""
    shutil.copytree(tiny_model, tmp_path / "models/base")
    shutil.copytree(REPOSITORY / "conf", tmp_path / "conf")
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text("utf-8"))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_answer_is_that_of_evaluate(tiny_model: Path) -> None:
    for settings in (SETTINGS, EvaluateSettings(max_new_tokens=24, temperature=0.8, seed=3)):
        (wanted,) = generate([SampleRequest(HEADER)], tiny_model, PromptSettings(), settings)
        seen: list[str] = []
        player = Player("base", tiny_model, None, PromptSettings(), settings)
        assert player.answer(HEADER, on_text=seen.append) == wanted
        assert len(seen) == wanted.new_tokens
        assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(seen))


def test_both_models_answer_one_after_the_other(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("models/base", "models/merged")
    main([HEADER, "--max-new-tokens", "5"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("==")] == [
        "== base (models/base): 5 tokens, length",
        "== tuned (models/merged): 5 tokens, length",
    ]


def test_a_conversation_keeps_its_history(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(CHAT, "utf-8")
    player = Player("base", folder, None, PromptSettings(style="chat"), SETTINGS)
    asked: list[str] = []

    def complete(row: BatchRow, on_text: OnText) -> Completion:
        asked.append(player.tokenizer.decode(row.ids))
        return Completion("hi", 1, "eos")

    monkeypatch.setattr(player, "complete", complete)
    turns = [{"role": "user", "content": "one"}]
    for question in ("two", "three"):
        turns += [
            {"role": "assistant", "content": player.reply(turns).text},
            {"role": "user", "content": question},
        ]
    player.reply(turns)
    monkeypatch.undo()
    end = player.tokenizer.eos_token
    assert (
        asked[-1]
        == f"<user>one{end}<assistant>hi{end}<user>two{end}<assistant>hi{end}<user>three{end}<assistant>"
    )
    with pytest.raises(UserError, match="the context is 256"):
        player.reply([{"role": "user", "content": "word " * 300}])


def test_a_conversation_is_read_from_standard_input(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("models/base/chat_template.jinja").write_text(CHAT, "utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n\nnever read\n"))
    main(["--chat", "--style", "chat", "--model", "base", "--max-new-tokens", "3"])
    assert capsys.readouterr().out.count("== base") == 2


def test_the_adapter_is_asked_where_nothing_is_merged(here: Path) -> None:
    assert model_place("base") == ("base (models/base)", Path("models/base"), None)
    (here / "models/adapter").mkdir()
    title, folder, adapter = model_place("tuned")
    assert title == "tuned, not merged (models/adapter on models/base)"
    assert (folder, adapter) == (Path("models/base"), Path("models/adapter"))
    shutil.copytree("models/base", "models/merged")
    assert model_place("tuned") == ("tuned (models/merged)", Path("models/merged"), None)
    assert model_place("models/merged") == ("models/merged", Path("models/merged"), None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x"], "--model tuned: models/merged holds no model"),
        (["x", "--model", "mine"], "--model mine: mine holds no model. Name base, tuned or a model's folder"),
        (["", "--model", "base"], "the prompt is empty"),
        (["--chat", "--model", "base"], "prompt.style is completion.*--style chat"),
        (["--fim", "params.yaml", "--model", "base"], "expected FILE:LINE"),
        (["--fim", "none.py:3", "--model", "base"], "none.py cannot be read"),
        (["--fim", "params.yaml:9999", "--model", "base"], "params.yaml has no line 9999"),
        (["--fim", "params.yaml:1", "--model", "base"], "no tokens for filling in the middle"),
    ],
)
def test_bad_input_is_one_message(here: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_a_line_of_a_file_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("one\ntwo\nthree", "utf-8")
    assert split_file(f"{file}:2") == ("one\n", "three")
    assert split_file(f"{file}:3") == ("one\ntwo\n", "")


@pytest.mark.parametrize(("width", "rows"), [(130, 1), (70, 2)])
def test_answers_stand_side_by_side_where_there_is_room(width: int, rows: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    with Screen(["base", "tuned"], console) as screen:
        for number in (0, 1):
            screen.writer(number)("    return [bold]")
            screen.end(number, Completion("    return [bold]\n", 4, "eos"))
    whole = console.file.getvalue().rpartition("╭─ base")[2]  # type: ignore[attr-defined]
    assert len([line for line in whole.splitlines() if "return [bold]" in line]) == rows
    assert whole.count("4 tokens, eos") == 2


def test_help_needs_no_torch() -> None:
    code = "import runpy, sys\nsys.argv = ['try', '--help']\ntry: runpy.run_module('stages.try', run_name='__main__')\nexcept SystemExit: pass\nassert not {'torch', 'transformers', 'rich', 'hydra'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=dict(os.environ), capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--fim FILE:LINE" in done.stdout
