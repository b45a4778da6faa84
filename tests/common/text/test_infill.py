"""Fill in the middle: where rows are cut, how the parts are rendered, and that evaluation renders the same."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.common.core.errors import UserError
from stages.common.rows.schema import Problem
from stages.common.text.fill_tokens import FILL_TOKENS, FillTokens, fill_tokens
from stages.common.text.infill import cut_row, render_infill
from stages.common.text.prompt import render_prompt, render_row
from stages.common.text.settings import PromptSettings
from stages.common.text.spans import syntax_spans
from stages.common.text.tokens import encode_parts, tokenize
from stages.generation.completion import SampleRequest, request_for
from stages.generation.generate import rows_to_generate
from stages.generation.settings import GenerationSettings
from stages.pack.documents import encode_rows
from tests.common.text.test_prompt import BODY, GPT2, HEADER, bpe, row, sentencepiece

PROBLEM = Problem("x/a/0/L0", "def f(x):\n", "f", "    y = x\n", "", kind="infill", suffix="    return y\n")
FILL = PromptSettings(style="fim", fim_share=1.0)
CODE = "import re\n\n\nclass A:\n    @property\n    def f(self):\n        if x:\n            return f'é{y}'\n\treturn 'ü', 1\n"
CODE = CODE.replace("\treturn", "        return")
TEXTS = (
    HEADER + BODY,
    CODE,
    CODE.replace("\n", "\r\n"),
    "no ( Python\r\n\x0c é",
    "x",
    "  a = '<fim_middle>'\n",
)


def with_fill_tokens(tokenizer: Any, family: FillTokens = FILL_TOKENS[1], special: bool = True) -> Any:
    tokenizer.add_tokens([name for name in family if name], special_tokens=special)
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return with_fill_tokens(bpe(GPT2))


@pytest.fixture(scope="module", params=["byte-level", "sentencepiece"])
def either(request: pytest.FixtureRequest) -> Any:
    if request.param == "byte-level":  # Qwen2.5-Coder's tokens are not special
        return with_fill_tokens(bpe(GPT2), FILL_TOKENS[0], special=False)
    return with_fill_tokens(sentencepiece(), FILL_TOKENS[3])


def numbered(texts: tuple[str, ...], copies: int) -> list[dict[str, Any]]:
    return [{**row("", text), "id": f"{n}{text[:3]}"} for n in range(copies) for text in texts]


def parts_of(ids: np.ndarray, tokenizer: Any) -> tuple[str, str, str, bool]:
    """Return prefix, middle and suffix that a document's ids spell, and whether the suffix comes first."""
    family = fill_tokens(tokenizer, "")
    prefix, suffix, middle = (
        ids.tolist().index(one) for one in tokenizer.convert_tokens_to_ids([*family[:3]])
    )
    end = len(ids) - 1 - bool(family.end)

    def spelled(start: int, stop: int) -> str:
        # after a token, since SentencePiece's decoder drops the space that its encoder puts first
        return tokenizer.decode(ids[start - 1 : stop], clean_up_tokenization_spaces=False).removeprefix(
            tokenizer.decode(ids[start - 1 : start])
        )

    if suffix == prefix + 1 and middle + 1 < end:
        return "", spelled(middle + 1, end), spelled(suffix + 1, middle), True
    return spelled(prefix + 1, suffix), spelled(middle + 1, end), spelled(suffix + 1, middle), False


def test_prefix_middle_and_suffix_are_the_text_to_the_byte_and_only_the_middle_is_trained_on(either) -> None:
    rows = numbered(TEXTS, 20)
    family = fill_tokens(either, "")
    orders = Counter()
    for one, outcome in zip(rows, encode_rows(rows, either, FILL), strict=True):
        cut = cut_row(one, FILL)
        assert cut.prefix + cut.middle + cut.suffix == one["completion"]
        (document,) = outcome.documents
        prefix, middle, suffix, first = parts_of(document.ids, either)
        if first:
            assert (prefix + middle, suffix) == (cut.prefix + cut.middle, cut.suffix)
        else:
            assert (prefix, middle, suffix) == cut[:3]
        end = [*either.convert_tokens_to_ids([family.end] if family.end else []), either.eos_token_id]
        alone = tokenize([("\n", cut.middle)], either)
        trained = alone.ids[alone.loss][:-1].tolist()
        assert document.ids[document.loss].tolist() == [*trained, *end]
        assert document.loss.sum() == len(document.loss) - np.flatnonzero(document.loss)[0]
        orders[cut.suffix_first] += 1
    assert min(orders.values()) > 30


def test_evaluation_asks_with_the_tokens_of_training(either) -> None:
    settings = replace(FILL, fim_spm_share=0.0)
    for one in numbered(TEXTS, 5):
        cut = cut_row(one, settings)
        (outcome,) = encode_rows([one], either, settings)
        ids, loss = outcome.documents[0]
        assert encode_parts(render_infill(cut.prefix, cut.suffix, either), either) == ids[~loss].tolist()


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.integers(0, 9))
def test_any_text_is_cut_where_its_parts_join_again(text: str, seed: int) -> None:
    cut = cut_row(row("", text), replace(FILL, fim_seed=seed))
    assert bool(cut) == bool(text.strip())
    if cut:
        assert cut.prefix + cut.middle + cut.suffix == text
        assert cut.middle


def test_spans_are_whole_lines_statements_and_expressions() -> None:
    lines, statements, expressions = ({CODE[a:b] for a, b in kind} for kind in syntax_spans(CODE))
    assert "            return f'é{y}'\n" in lines
    assert "return f'é{y}'" in statements
    assert expressions == {"property", "f'é{y}'", "'ü', 1"}
    assert "        if x:\n            return f'é{y}'\n        return 'ü', 1\n" in lines
    assert not {CODE, CODE.strip()} & (lines | statements)
    assert syntax_spans("no ( Python") == []
    windows = CODE.replace("\n", "\r\n")
    assert {windows[a:b] for a, b in syntax_spans(windows)[0]} == {x.replace("\n", "\r\n") for x in lines}


def test_shares_decide_how_many_rows_are_cut_and_a_row_alone_is_cut_the_same() -> None:
    settings = PromptSettings(style="fim", fim_share=0.3, fim_spm_share=0.2, fim_syntax_share=0.0)
    cuts = [cut_row({**row("", CODE), "id": str(n)}, settings) for n in range(2000)]
    filled = [cut for cut in cuts if cut]
    assert 520 < len(filled) < 680
    assert 0.15 < sum(cut.suffix_first for cut in filled) / len(filled) < 0.25
    assert cut_row({**row("", CODE), "id": "7"}, settings) == cuts[7]
    assert cuts != [
        cut_row({**row("", CODE), "id": str(n)}, replace(settings, fim_seed=1)) for n in range(2000)
    ]


def test_instructions_conversations_and_benchmarks_have_the_ordinary_style(tokenizer) -> None:
    settings, chat = (
        replace(FILL, ordinary="chat", system="Be brief."),
        PromptSettings(style="chat", system="Be brief."),
    )
    for one in (row("Name it.", "Pi."), row(messages=[("user", "Area?"), ("assistant", "pi r r")])):
        assert render_row(one, tokenizer, settings) == render_row(one, tokenizer, chat)
    assert "<fim_prefix>" in render_row(row(HEADER, BODY), tokenizer, settings)[0]
    assert render_prompt(HEADER, tokenizer, settings) == render_prompt(HEADER, tokenizer, chat)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"style": "completion", "fim_share": 0.2}, "fim_share is 0.2.* only prompt.style=fim"),
        ({"style": "fim", "fim_share": 0.0}, "fim_share is 0.0"),
        ({"style": "fim", "fim_spm_share": 1.5}, "fim_spm_share is 1.5"),
        ({"style": "fim", "ordinary": "fim"}, "prompt.ordinary is 'fim'"),
        ({"style": "fim", "system": "Be kind."}, "prompt.system"),
        ({"style": "fim", "control_tokens": ["<fim_prefix>"]}, "writes them itself"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptSettings(**setting)


@pytest.mark.parametrize("family", FILL_TOKENS, ids=lambda family: family.prefix)
def test_every_family_is_known(family: FillTokens) -> None:
    tokenizer = with_fill_tokens(bpe(GPT2, size=259), family, special=False)
    assert render_infill("p", "s", tokenizer) == [family.prefix, "p", family.suffix, "s", family.middle]
    assert fill_tokens(tokenizer, "") == family


def test_a_tokenizer_without_such_tokens_is_refused() -> None:
    with pytest.raises(UserError, match=r"no tokens for filling in the middle.*leave the benchmark out"):
        render_infill("p", "s", bpe(GPT2, size=259))


def test_the_tokenizers_own_tokens_mark_a_problem_and_those_it_spells_are_text(tokenizer) -> None:
    request = SampleRequest("a = '<fim_middle>'\n", suffix="")
    row, spelled = rows_to_generate(
        [request_for(PROBLEM, 0), request], tokenizer, 512, Path(), PromptSettings(), GenerationSettings()
    )
    assert tokenizer.decode(row.ids) == "<fim_prefix>def f(x):\n<fim_suffix>    return y\n<fim_middle>"
    # an end token ends it
    assert row.ending.find("    y = x\n\n\ndef g():\n    pass\n", finished=True) is None
    assert spelled.ids.count(tokenizer.convert_tokens_to_ids("<fim_middle>")) == 1


def test_a_question_stands_for_the_prompt() -> None:
    problem = Problem("x", "def f():\n", "f", "", "", question="Fix it.")
    assert request_for(problem, 2) == SampleRequest("Fix it.", 2, "x")
