"""Control tokens that a row's text spells are text, in every kind of tokenizer; those of a template are tokens."""

import json
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from stages.common.core.errors import UserError
from stages.common.text.prompt import render_prompt, render_row
from stages.common.text.settings import PromptSettings
from stages.common.text.templates import Unrenderable
from stages.common.text.tokens import control_tokens, encode_prompts, guard, plain_ids, tokenize
from tests.common.text.test_prompt import GPT2, TEMPLATE, bpe, row, sentencepiece

CHAT = PromptSettings(style="chat")
SPECIAL = ["<unk>", "<|end|>", "<|start|>"]
LETTERS = sorted({*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ<>|.,?[]/_\n"})


def fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<|end|>")
    made.chat_template = TEMPLATE
    return made


def unigram() -> PreTrainedTokenizerFast:
    """T5's kind: the vocabulary holds the control tokens as its likeliest words."""
    words = [(text, 0.0) for text in SPECIAL] + [("▁", -2.0)] + [(letter, -4.0) for letter in LETTERS]
    tokenizer = Tokenizer(models.Unigram(words, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return fast(tokenizer)


def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's kind, of words between spaces: a control token is a word of the vocabulary."""
    pieces = [*SPECIAL, *LETTERS, *("##" + letter for letter in LETTERS)]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece()
    return fast(tokenizer)


def merges() -> PreTrainedTokenizerFast:
    """Llama 2's kind: merges spell the control token."""
    pieces = [*SPECIAL, "▁", *LETTERS, "<|", "en", "end", "|>", "<|end"]
    steps = [("<", "|"), ("e", "n"), ("en", "d"), ("|", ">"), ("<|", "end"), ("<|end", "|>")]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, steps, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return fast(tokenizer)


def splitting() -> PreTrainedTokenizerFast:
    made = bpe(GPT2)
    made.split_special_tokens = True
    return made


def undeclared() -> PreTrainedTokenizerFast:
    """The tokens that open and close turns are added, but not special."""
    parts = json.loads(bpe(GPT2).backend_tokenizer.to_str())
    for token in parts["added_tokens"]:
        token["special"] = token["content"] == "<|bos|>"
    tokenizer = Tokenizer.from_str(json.dumps(parts))
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|bos|>")
    made.chat_template = TEMPLATE
    return made


KINDS = {
    "byte-level": lambda: bpe(GPT2),
    "bos": lambda: bpe(GPT2, bos=True),
    "sentencepiece": sentencepiece,
    "unigram": unigram,
    "wordpiece": wordpiece,
    "merges": merges,
    "splitting": splitting,
    "undeclared": undeclared,
}
USER, ANSWER = "Is <|end|> a word?", "No. <|start|>user is <|end|>"


@pytest.mark.parametrize("kind", KINDS)
def test_control_tokens_of_the_template_alone_are_tokens(kind: str) -> None:
    tokenizer = KINDS[kind]()
    texts = render_row(row(messages=[("user", USER), ("assistant", ANSWER)]), tokenizer, CHAT)
    tokens = tokenize([texts], tokenizer)
    assert {"<|end|>", "<|start|>"} <= control_tokens(tokenizer).keys()
    controls = {tokenizer.convert_tokens_to_ids(text) for text in ("<|end|>", "<|start|>")}
    found = [tokenizer.convert_ids_to_tokens(int(i)) for i in tokens.ids if int(i) in controls]
    assert found == ["<|start|>", "<|end|>", "<|start|>", "<|end|>"]
    trained = tokenizer.decode(tokens.ids[tokens.loss].tolist(), clean_up_tokenization_spaces=False)
    assert "".join(trained.split()).startswith("".join(ANSWER.split()))
    prompt = encode_prompts([texts[0]], tokenizer)[0]
    assert tokens.ids[: len(prompt)].tolist() == prompt
    assert np.flatnonzero(tokens.loss)[0] == len(prompt)
    assert encode_prompts([render_prompt(USER, tokenizer, CHAT)], tokenizer)[0] == prompt


@pytest.mark.parametrize("kind", KINDS)
def test_text_without_spelt_control_tokens_has_the_ids_of_the_tokenizer(kind: str) -> None:
    tokenizer = KINDS[kind]()
    texts = ["def f", " a b", "<|", "x <|start|>user\nab<|end|>"]
    ids = plain_ids(texts, tokenizer)
    raw = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    assert ids == [raw.encode(text, add_special_tokens=False).ids for text in texts]


def test_overlapping_control_tokens_are_all_text() -> None:
    tokenizer = bpe(GPT2)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>", "|><|"]})
    text = "<|end|><|start|>|><|end|>"
    ids = plain_ids([guard(text, tokenizer)], tokenizer)[0]
    assert not set(ids) & set(control_tokens(tokenizer).values())
    assert tokenizer.decode(ids) == text


def test_a_control_token_keeps_its_meaning_where_the_settings_allow_it() -> None:
    tokenizer = bpe(GPT2)
    text = row("a <|start|> b <|bos|>", "c")
    settings = PromptSettings(control_tokens=["<|start|>"])
    ids = tokenize([render_row(text, tokenizer, settings)], tokenizer).ids.tolist()
    assert ids.count(tokenizer.convert_tokens_to_ids("<|start|>")) == 1
    assert tokenizer.bos_token_id not in ids
    for token, fault in (
        ("<|strat|>", "no control token of this tokenizer"),
        ("<|end|>", "end-of-text token"),
    ):
        with pytest.raises(UserError, match=fault):
            render_row(text, tokenizer, PromptSettings(control_tokens=[token]))


HERMES = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for m in messages %}<|start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ CALL }}{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "warmth", "parameters": {"type": "object"}}}]
CALL = {"id": "c0", "type": "function", "function": {"name": "warmth", "arguments": {"city": "Oslo <|end|>"}}}


def tool_row(**last: Any) -> dict[str, Any]:
    turns = [
        {"role": "user", "content": "How warm?", "extra": None},
        {"role": "assistant", "content": "", "extra": json.dumps({"tool_calls": [CALL]})},
        {"role": "tool", "content": "4", "extra": json.dumps({"tool_call_id": "c0", "name": "warmth"})},
        {"role": "assistant", "content": "It is 4.", "extra": json.dumps(last)},
    ]
    return {**row(messages=[]), "messages": turns, "tools": json.dumps(TOOLS)}


@pytest.mark.parametrize("arguments", ["call.function.arguments | tojson", "call.function.arguments"])
def test_tool_calls_tools_and_reasoning_are_rendered_and_trained_on(arguments: str) -> None:
    call = f"call.function.name ~ ' ' ~ ({arguments})"
    tokenizer = bpe(GPT2, template=HERMES.replace("CALL", call))
    every = PromptSettings(style="chat", loss="all")
    tokens = tokenize([render_row(tool_row(reasoning_content="cold"), tokenizer, every)], tokenizer)
    trained = tokenizer.decode(tokens.ids[tokens.loss].tolist())
    assert trained == 'warmth {"city": "Oslo <|end|>"}<|end|><think>cold</think>It is 4.<|end|>'
    assert '"name": "warmth", "parameters"' in tokenizer.decode(tokens.ids[~tokens.loss].tolist())
    assert render_row(tool_row(train=True), tokenizer, CHAT)[1] == "It is 4."
    with pytest.raises(Unrenderable, match=r"prompt\.loss=all trains on the others"):
        render_row(tool_row(train=False), tokenizer, CHAT)
    first = tokenize([render_row(tool_row(train=False), tokenizer, every)], tokenizer)
    assert tokenizer.decode(first.ids[first.loss].tolist()) == 'warmth {"city": "Oslo <|end|>"}<|end|>'


@pytest.mark.parametrize(
    ("left_out", "reason"),
    [
        ("{{ CALL }}", "tool_calls"),
        ("{{ tools | tojson }}", "tools"),
        ("{{ m.reasoning_content }}", "reasoning_content"),
        ("{{ m.content }}", "conversation"),
    ],
)
def test_a_field_that_the_template_does_not_render_is_the_reason_of_a_drop(
    left_out: str, reason: str
) -> None:
    template = HERMES.replace(left_out, "").replace("CALL", "call.function | tojson")
    with pytest.raises(Unrenderable) as caught:
        render_row(tool_row(reasoning_content="cold"), bpe(GPT2, template=template), CHAT)
    assert caught.value.reason == reason


@pytest.mark.parametrize("style", ["completion", "alpaca", "template"])
def test_a_style_that_cannot_render_a_field_drops_the_row_by_its_name(style: str) -> None:
    settings = PromptSettings(style=style, template="{{ prompt }}" if style == "template" else "")
    answer = {"role": "assistant", "content": "b", "extra": json.dumps({"reasoning_content": "c"})}
    odd = {**row(messages=[]), "messages": [{"role": "user", "content": "a", "extra": None}, answer]}
    with pytest.raises(Unrenderable) as caught:
        render_row(odd, bpe(GPT2), settings)
    assert caught.value.reason == "reasoning_content"


def test_turns_that_a_template_never_reads_drop_the_row_and_an_indent_stays() -> None:
    settings = PromptSettings(style="template", template="Q: {{ prompt }}\nA:\n")
    tokenizer = bpe(GPT2)
    talk = [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "\n    y = 1\n")]
    with pytest.raises(Unrenderable, match=r"conversation: the template does not read turn 1 \(user\)"):
        render_row(row(messages=talk), tokenizer, settings)
    assert render_row(row(messages=talk[2:]), tokenizer, settings) == ("Q: three\nA:\n", "    y = 1")


@pytest.mark.parametrize(
    ("style", "setting"),
    [
        ("alpaca", {"loss": "all"}),
        ("template", {"loss": "all"}),
        ("completion", {"system": "Be kind."}),
        ("alpaca", {"system": "Be kind."}),
        ("chat", {"template": "{{ prompt }}"}),
        ("completion", {"instruction": "Go on."}),
    ],
)
def test_a_setting_that_the_style_ignores_is_refused(style: str, setting: dict[str, Any]) -> None:
    (name,) = setting
    values = {"template": "x" if style == "template" else "", **setting}
    with pytest.raises(ValueError, match=rf"prompt\.{name} is .* only prompt.style="):
        PromptSettings(style=style, **values)


def test_good_earlier_answers_are_trained_on_if_the_last_is_empty() -> None:
    talk = row(messages=[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", " ")])
    texts = render_row(talk, bpe(GPT2), PromptSettings(style="chat", loss="all"))
    assert texts[1::2] == ("b",)
    assert "c<|end|>" not in "".join(texts)
