"""Prompts of problems whose middle the model fills in."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from stages.common.core.errors import UserError
from stages.common.rows.schema import Problem
from stages.common.text.settings import PromptSettings
from stages.generation.completion import SampleRequest, request_for
from stages.generation.generate import rows_to_generate
from stages.generation.infill import FILL_TOKENS, render_infill
from stages.generation.settings import GenerationSettings

PROBLEM = Problem("x/a/0/L0", "def f(x):\n", "f", "    y = x\n", "", kind="infill", suffix="    return y\n")


@pytest.fixture
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|endoftext|>")
    made.add_special_tokens({"additional_special_tokens": list(FILL_TOKENS[1])})
    return made


def test_the_tokenizers_own_tokens_mark_prefix_suffix_and_middle(tokenizer) -> None:
    (row,) = rows_to_generate(
        [request_for(PROBLEM, 0)], tokenizer, 512, Path(), PromptSettings(), GenerationSettings()
    )
    assert tokenizer.decode(row.ids) == "<fim_prefix>def f(x):\n<fim_suffix>    return y\n<fim_middle>"
    assert [i for i in row.ids if i in tokenizer.all_special_ids] == tokenizer.convert_tokens_to_ids(
        FILL_TOKENS[1]
    )
    assert (
        row.ending.find("    y = x\n\n\ndef g():\n    pass\n", finished=True) is None
    )  # an end token ends it


def test_a_token_that_the_problem_spells_is_text(tokenizer) -> None:
    text = render_infill("a = '<fim_middle>'\n", "", tokenizer)
    request = SampleRequest("a = '<fim_middle>'\n", suffix="")
    (row,) = rows_to_generate([request], tokenizer, 512, Path(), PromptSettings(), GenerationSettings())
    assert text.endswith("<fim_suffix><fim_middle>")
    assert row.ids.count(tokenizer.convert_tokens_to_ids("<fim_middle>")) == 1


@pytest.mark.parametrize("tokens", FILL_TOKENS)
def test_every_family_is_known(tokens: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.generation.infill.guard", lambda text, tokenizer, allowed: text)
    family = SimpleNamespace(get_vocab=lambda: dict.fromkeys(tokens, 0))
    assert render_infill("p", "s", family) == f"{tokens[0]}p{tokens[1]}s{tokens[2]}"


def test_a_tokenizer_without_such_tokens_is_refused() -> None:
    with pytest.raises(UserError, match=r"no tokens for filling in the middle.*leave the benchmark out"):
        render_infill("p", "s", SimpleNamespace(get_vocab=dict))


def test_a_question_stands_for_the_prompt() -> None:
    problem = Problem("x", "def f():\n", "f", "", "", question="Fix it.")
    assert request_for(problem, 2) == SampleRequest("Fix it.", 2, "x")
