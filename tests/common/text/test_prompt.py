"""Rendering and tokenizing: the same text and tokens in training and evaluation, in every style."""

import json
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from stages.common.core.errors import UserError
from stages.common.rows.headers import is_function_header
from stages.common.text.prompt import render_prompt, render_row
from stages.common.text.seam import split_trailing_space
from stages.common.text.settings import ORDINARY_STYLES, PromptSettings
from stages.common.text.templates import Unrenderable
from stages.common.text.tokens import encode_prompts, load_tokenizer, tokenize

HEADER = 'import math\n\n\ndef area(r: float) -> float:\n    """Area of a circle.\n\n    >>> area(0)\n    0.0\n    """\n'
BODY = "    if r < 0:\n        return 0.0\n    return math.pi * r * r\n"
TEMPLATE = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT4 = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def bpe(
    pattern: str, template: str | None = TEMPLATE, bos: bool = False, size: int = 600
) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on code, with merges of line breaks and indents; without any at size 259."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|start|>", "<|bos|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([HEADER + BODY] * 20, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|bos|> $A", special_tokens=[("<|bos|>", 2)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        bos_token="<|bos|>",
        additional_special_tokens=["<|start|>"],
    )
    fast.chat_template = template
    return fast


def sentencepiece() -> PreTrainedTokenizerFast:
    """Llama 2's kind: a space before the first word, spaces in the words, a line break as a byte, BOS."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁+[^▁]*|[^▁]+"), "isolated")
    special = ["<unk>", "<|end|>", "<|start|>", "<|bos|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special)
    tokenizer.train_from_iterator((HEADER + BODY).splitlines() * 20, trainer)
    parts = json.loads(tokenizer.to_str())
    parts["model"]["byte_fallback"], parts["pre_tokenizer"] = True, None
    parts["added_tokens"] = parts["added_tokens"][:4]
    tokenizer = Tokenizer.from_str(json.dumps(parts))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        bos_token="<|bos|>",
        additional_special_tokens=["<|start|>"],
    )
    fast.chat_template = TEMPLATE
    return fast


QUESTION = "Q: {{ prompt }}\nA:\n"


def settings_of(style: str) -> PromptSettings:
    return PromptSettings(style=style, template=QUESTION if style == "template" else "")


KINDS = {
    "gpt2": lambda: bpe(GPT2),
    "gpt4": lambda: bpe(GPT4),
    "bytes": lambda: bpe(GPT2, size=259),
    "sentencepiece": sentencepiece,
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return bpe(GPT2)


@pytest.fixture(scope="module")
def gpt4() -> PreTrainedTokenizerFast:
    return bpe(GPT4)


def row(prompt: str | None = None, completion: str | None = None, messages: list | None = None) -> dict:
    turns = None if messages is None else [{"role": r, "content": c} for r, c in messages]
    return {"id": "r", "prompt": prompt, "completion": completion, "messages": turns}


ROWS = {
    "function": row(HEADER, BODY),
    "function, white space on the other side": row(HEADER.rstrip(), "\n" + BODY),
    "instruction": row("Name a circle's area.", "It is pi r squared."),
    "text": row("", HEADER + BODY),
    "conversation": row(messages=[("user", "Area?"), ("assistant", "pi r r")]),
}


def encode_rows(documents: Sequence[tuple[str, str]], tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """Return prompt ids and completion ids of each (prompt text, completion text), as in `tokenize`."""
    tokens, prompts = tokenize(documents, tokenizer), encode_prompts([p for p, _ in documents], tokenizer)
    rows = []
    for prompt, start, end in zip(prompts, tokens.starts[:-1], tokens.starts[1:], strict=True):
        ids = tokens.ids[start:end].tolist()
        assert tokens.loss[start:end].tolist() == [i >= max(1, len(prompt)) for i in range(len(ids))]
        rows.append((ids[: len(prompt)], ids[len(prompt) :]))
    return rows


def encode_row(prompt: str, completion: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    return encode_rows([(prompt, completion)], tokenizer)[0]


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("style", ORDINARY_STYLES)
@pytest.mark.parametrize("name", ["tokenizer", "gpt4"])
def test_a_prompt_has_the_same_tokens_alone_and_before_its_completion(name, style, kind, request):
    tokenizer = request.getfixturevalue(name)
    prompt, completion = render_row(ROWS[kind], tokenizer, settings_of(style))
    prompt_ids, completion_ids = encode_row(prompt, completion, tokenizer)
    assert prompt_ids == encode_prompts([prompt], tokenizer)[0]
    assert tokenizer.decode(prompt_ids + completion_ids) == prompt + completion + "<|end|>"
    assert completion_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in completion_ids[:-1]


def random_rows(count: int) -> list[tuple[str, str]]:
    """Prompts and completions with any white space at the seam: headers with their bodies, tasks with their
    answers.
    """
    draw = random.Random(0)
    rows = []
    for _ in range(count):
        name, end = (
            draw.choice("abé"),
            draw.choice(['"""Doc."""', "'''Doc\n\n    more.\n    '''", "# note", ""]),
        )
        header = (
            f"{draw.choice(['', 'import re' + chr(10) * 2])}def {name}(x: int) -> int:\n    {end}".rstrip()
        )
        body = f"    {draw.choice(['if x:', 'for y in x:'])}\n        return {draw.randint(0, 99)}\n"
        task = draw.choice(
            ["Write it.", "What is 2?", "Sum: [1, 2]", '"""\nWrite it.\nassert f(1) == 2\n"""']
        )
        answer = draw.choice(["It is 4.", "def f(x):\n    return x\n", "`f`"])
        seam = "\n" * draw.randint(1, 3)
        cut = draw.randint(0, len(seam))
        prompt, completion = draw.choice([(header, body), (task, answer)])
        rows.append((prompt + seam[:cut], seam[cut:] + completion))
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("style", ORDINARY_STYLES)
@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_prompts_have_the_tokens_of_training(kind, style):
    tokenizer, settings = KINDS[kind](), settings_of(style)
    for prompt, completion in [(HEADER, BODY), (HEADER.rstrip(), "\n" + BODY), *random_rows(200)]:
        begun, rest = render_row(row(prompt, completion), tokenizer, settings)
        prompt_ids, completion_ids = encode_row(begun, rest, tokenizer)
        whole = encode_prompts([begun + rest], tokenizer)[0]
        if is_function_header(prompt) or style != "completion":
            assert [*prompt_ids, *completion_ids] == [
                *whole,
                tokenizer.eos_token_id,
            ]  # the seam is where tokens meet
            assert encode_prompts([render_prompt(prompt, tokenizer, settings)], tokenizer)[0] == prompt_ids
        spelled = tokenizer.decode([*prompt_ids, *completion_ids])
        assert "".join(spelled.split()).endswith("".join(f"{rest}<|end|>".split()))


LEADS = {  # what a template puts before an answer, and not after the question alone
    " ": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",  # Llama 2
    "<think>\n\n</think>\n\n": "{% for m in messages %}{{ '<|start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}",  # Qwen3
}


@pytest.mark.parametrize("kind", ["gpt2", "sentencepiece"])
@pytest.mark.parametrize("lead", LEADS)
def test_what_a_template_puts_before_an_answer_precedes_the_header_in_training_and_evaluation(kind, lead):
    tokenizer = KINDS[kind]()
    tokenizer.chat_template = LEADS[lead]
    settings = PromptSettings(style="chat")
    prompt, completion = render_row(ROWS["function"], tokenizer, settings)
    assert prompt.endswith(lead + "```python\n" + HEADER.rstrip())
    assert completion == "\n" + BODY.rstrip() + "\n```" + " " * (lead == " ")
    assert render_prompt(HEADER, tokenizer, settings) == prompt
    [(ids, _)] = encode_rows([(prompt, completion)], tokenizer)
    assert ids == encode_prompts([prompt], tokenizer)[0]
    prompt, completion = render_row(ROWS["instruction"], tokenizer, settings)
    assert render_prompt("Name a circle's area.", tokenizer, settings) == prompt
    assert completion.strip() == lead.strip() + "\n\n" * (lead != " ") + "It is pi r squared."


@pytest.mark.parametrize("kind", KINDS)
def test_blank_lines_before_a_body_do_not_change_the_prompt(kind):
    tokenizer = KINDS[kind]()
    prompts = {render_row(row(HEADER, "\n" * n + BODY), tokenizer, PromptSettings())[0] for n in range(4)}
    prompts |= {render_prompt(HEADER.rstrip() + "\n" * n, tokenizer, PromptSettings()) for n in range(4)}
    assert prompts == {HEADER if kind == "gpt4" else HEADER.rstrip()}


def test_a_separately_tokenized_completion_gets_no_extra_space():
    tokenizer = sentencepiece()
    assert tokenizer.convert_ids_to_tokens(tokenizer("r")["input_ids"])[1:] == ["▁r"]
    prompt_ids, completion_ids = encode_row("def a", "rea(", tokenizer)
    assert prompt_ids + completion_ids[:-1] != tokenizer("def area(")["input_ids"]
    assert tokenizer.decode(completion_ids) == "rea(<|end|>"


def test_a_line_break_that_merges_with_the_indent_moves_to_the_completion(tokenizer):
    kept, moved = split_trailing_space(HEADER, tokenizer)
    assert (kept, moved) == (HEADER.rstrip(), "\n")
    prompt, completion = render_row(ROWS["function"], tokenizer, PromptSettings())
    assert (prompt, completion) == (kept, "\n" + BODY)
    prompt_ids, completion_ids = encode_row(prompt, completion, tokenizer)
    # one token, which a bare newline in the prompt would cut
    assert tokenizer.decode(completion_ids[:1]).startswith("\n  ")
    assert encode_prompts([HEADER], tokenizer)[0] != prompt_ids


def test_a_line_break_that_merges_with_the_punctuation_before_it_stays_in_the_prompt(gpt4):
    kept, moved = split_trailing_space(HEADER, gpt4)
    assert (kept, moved) == (HEADER, "")
    prompt, completion = render_row(ROWS["function"], gpt4, PromptSettings())
    assert (prompt, completion) == (HEADER, BODY)
    whole = gpt4(HEADER + BODY)["input_ids"]
    prompt_ids, completion_ids = encode_row(prompt, completion, gpt4)
    assert prompt_ids + completion_ids == [*whole, gpt4.eos_token_id]  # as in pretraining text


def test_texts_are_tokenized_separately_if_their_seam_lies_inside_a_token(tokenizer):
    prompt_ids, completion_ids = encode_row("return math.p", "i * r", tokenizer)
    assert prompt_ids == encode_prompts(["return math.p"], tokenizer)[0]
    assert tokenizer.decode(completion_ids) == "i * r<|end|>"


def test_bos_comes_first_where_the_tokenizer_adds_it_and_only_once():
    with_bos = bpe(GPT2, bos=True)
    prompt_ids, completion_ids = encode_row("def f(", "x)", with_bos)
    assert prompt_ids[0] == with_bos.bos_token_id
    assert with_bos.bos_token_id not in [*prompt_ids[1:], *completion_ids]
    assert encode_prompts(["<|bos|>x"], with_bos)[0].count(with_bos.bos_token_id) == 1
    plain = bpe(GPT2)
    prompt_ids, completion_ids = encode_row("def f(", "x)", plain)
    assert plain.bos_token_id not in prompt_ids + completion_ids


@pytest.mark.parametrize("style", ["alpaca", "chat"])
def test_a_function_header_is_in_the_instruction_and_begins_the_answer(tokenizer, style):
    settings = PromptSettings(style=style)
    prompt, completion = render_row(ROWS["function"], tokenizer, settings)
    assert settings.instruction in prompt
    assert prompt.count("def area(r: float)") == 2  # in the question, and at the answer's beginning
    assert prompt.endswith("```python\n" + HEADER.rstrip())
    assert completion == "\n" + BODY.rstrip() + "\n```"


@pytest.mark.parametrize("style", ["alpaca", "chat"])
def test_an_instruction_is_rendered_unchanged(tokenizer, style):
    settings = PromptSettings(style=style)
    prompt, completion = render_row(ROWS["instruction"], tokenizer, settings)
    assert "```" not in prompt
    assert settings.instruction not in prompt
    assert completion == "It is pi r squared."
    assert render_prompt("Name a circle's area.", tokenizer, settings) == prompt


def test_chat_trains_on_the_last_answer_only(tokenizer):
    turns = [
        ("user", "one"),
        ("assistant", "two"),
        ("user", "three"),
        ("assistant", "four"),
        ("user", "five"),
    ]
    prompt, completion = render_row(row(messages=turns), tokenizer, PromptSettings(style="chat"))
    assert completion == "four"
    assert prompt.endswith("three<|end|>\n<|start|>assistant\n")
    assert "five" not in prompt


TURNS = [
    ("system", "Be brief."),
    ("user", "one"),
    ("assistant", "two"),
    ("tool", "three"),
    ("assistant", ""),
    ("user", "four"),
    ("assistant", "five\n"),
    ("user", "six"),
]


def test_chat_trains_on_every_answer_with_prompt_loss_all(tokenizer):
    texts = render_row(row(messages=TURNS), tokenizer, PromptSettings(style="chat", loss="all"))
    assert list(texts[1::2]) == ["two<|end|>", "five\n"]
    whole = tokenizer.apply_chat_template(row(messages=TURNS[:-1])["messages"], tokenize=False)
    assert "".join(texts) + "<|end|>\n" == whole
    tokens = tokenize([texts], tokenizer)
    assert tokenizer.decode(tokens.ids[tokens.loss]) == "two<|end|>five\n<|end|>"
    assert tokens.ids.tolist() == tokenizer(whole.removesuffix("\n"))["input_ids"]
    last = render_row(row(messages=TURNS), tokenizer, PromptSettings(style="chat"))
    assert last == ("".join(texts[:-1]), texts[-1])


MARKED = {  # where the answers end: with the token of the end, or with a special token and a line break
    "end inside": "{% for m in messages %}<|start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|end|>{% endgeneration %}{% else %}{{ m.content }}<|end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}",
    "system in front": "{% if messages[0].role == 'system' %}{{ messages[0].content }}\n\n{% endif %}"
    "{%- for m in messages if m.role != 'system' %}[{{ m.role }}] "
    "{% if m.role == 'assistant' -%}{% generation %}{{ m.content }}<|end|>{% endgeneration %}{% else %}{{ m.content }} "
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}",
}


@pytest.mark.parametrize("kind", ["gpt2", "gpt4", "bytes"])
@pytest.mark.parametrize("template", MARKED)
def test_the_loss_mask_equals_the_generation_mask_of_a_template(kind, template):
    marked = KINDS[kind]()
    marked.chat_template = MARKED[template]
    turns = row(messages=[turn for turn in TURNS[:-1] if turn[1]])
    texts = render_row(turns, marked, PromptSettings(style="chat", loss="all"))
    tokens = tokenize([texts], marked)
    theirs = marked.apply_chat_template(
        turns["messages"], return_dict=True, return_assistant_tokens_mask=True
    )
    count = len(tokens.ids)
    assert theirs["input_ids"][:count] == tokens.ids.tolist()
    assert theirs["assistant_masks"][:count] == tokens.loss.astype(int).tolist()
    # the rest is white space after the last answer, which we leave out
    assert not any(theirs["assistant_masks"][count:])
    last = tokenize([render_row(turns, marked, PromptSettings(style="chat"))], marked)
    assert last.ids.tolist() == tokens.ids.tolist()
    final = max(i for i, (a, b) in enumerate(pairwise([0, *theirs["assistant_masks"]])) if b > a)
    assert np.flatnonzero(last.loss).tolist() == [i for i in np.flatnonzero(tokens.loss) if i >= final]


def test_an_answer_that_a_template_ends_in_white_space_is_trained_on_with_it(tokenizer):
    tokenizer = bpe(
        GPT2,
        template="{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
    )
    texts = render_row(row(messages=TURNS[1:3] * 2), tokenizer, PromptSettings(style="chat", loss="all"))
    assert texts == ("user: one\n\nassistant: ", "two\n\n", "user: one\n\nassistant: ", "two")


THINKS = (  # opens the thought in the generation prompt, as Qwen3.5 does; only the last answer keeps its own
    "{% for m in messages %}{% set parts = m.content.split('</think>') %}<|start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n"
    "{{ m.reasoning_content or (parts[0].split('<think>')[-1].strip() if parts[1:] else '') }}\n</think>\n"
    "{% endif %}{{ parts[-1].strip() }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n<think>\n{% endif %}"
)


@pytest.mark.parametrize("answer", ["<think>\nso\n</think>\nyes", "so\n</think>\nyes"])
def test_a_thought_that_the_generation_prompt_opens_is_trained_on_once(answer):
    tokenizer = bpe(GPT2, template=THINKS)
    turns = row(messages=[("user", "u"), ("assistant", answer)])
    expected = "<|start|>user\nu<|end|>\n<|start|>assistant\n<think>\n", "so\n</think>\nyes"
    assert render_row(turns, tokenizer, PromptSettings(style="chat")) == expected


def test_the_end_of_a_turn_that_is_not_the_end_of_text_is_trained_on_too():
    gemma = bpe(GPT2, template=TEMPLATE.replace("<|end|>", "<end_of_turn>"))
    texts = render_row(row(messages=[("user", "u"), ("assistant", "a")]), gemma, PromptSettings(style="chat"))
    assert texts[1] == "a<end_of_turn>"
    assert tokenize([texts], gemma).ids[-1] == gemma.eos_token_id


def test_a_template_that_drops_thoughts_of_earlier_turns_is_a_drop_reason():
    forgets = bpe(
        GPT2,
        template="{% for m in messages %}{{ m.content if loop.last else m.content[:1] }}<|end|>{% endfor %}",
    )
    turns = row(messages=[("user", "u"), ("assistant", "ab")] * 2)
    with pytest.raises(Unrenderable, match="template"):
        render_row(turns, forgets, PromptSettings(style="chat", loss="all"))


def test_a_template_of_the_configuration_is_used_in_training_and_evaluation(tokenizer):
    source = (
        "{% if system %}S: "
        "{{ system }}\n{% endif %}{% for m in messages[:-1] %}{{ m.role }}={{ m.content }};{% endfor %}Q: "
        "{{ prompt }}\nA:"
    )
    settings = PromptSettings(style="template", template=source, system="Be kind.")
    expected_prompt = "S: Be kind.\nQ: Name a circle's area.\nA:"
    assert render_row(ROWS["instruction"], tokenizer, settings) == (expected_prompt, "It is pi r squared.")
    assert render_prompt("Name a circle's area.", tokenizer, settings) == expected_prompt
    prompt, completion = render_row(ROWS["function"], tokenizer, settings)
    assert render_prompt(HEADER, tokenizer, settings) == prompt
    assert prompt.endswith("```python\n" + HEADER.rstrip())
    assert completion == "\n" + BODY.rstrip() + "\n```"
    prompt, completion = render_row(row(messages=TURNS), tokenizer, settings)
    assert prompt.startswith("S: Be brief.\nsystem=Be brief.;user=one;")
    assert (prompt[-8:], completion) == (" four\nA:", "five")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ question }}", "prompt.template: UndefinedError: 'question' is undefined"),
        ("{{ prompt + 1 }}", "prompt.template: TypeError"),
        ("{{ prompt.__class__.__mro__ }}", "prompt.template: SecurityError"),
    ],
)
def test_the_error_of_a_failing_template_is_reported(tokenizer, template, message):
    with pytest.raises(UserError, match=message):
        render_prompt("x", tokenizer, PromptSettings(style="template", template=template))


def test_a_template_may_refuse_a_row(tokenizer):
    settings = PromptSettings(style="template", template="{{ raise_exception('no') }}")
    with pytest.raises(Unrenderable, match="template"):
        render_row(ROWS["instruction"], tokenizer, settings)


@pytest.mark.parametrize(
    ("template", "fault"), [("", "prompt.style is template"), ("a\n{% if %}", r"\(line 2: ")]
)
def test_a_template_with_a_syntax_error_is_refused(template, fault):
    with pytest.raises(ValueError, match=r"prompt\.template is .*" + fault):
        PromptSettings(style="template", template=template)


def test_a_system_message_is_added_only_to_conversations_without_one(tokenizer):
    settings = PromptSettings(style="chat", system="Be brief.")
    assert render_row(ROWS["conversation"], tokenizer, settings)[0].startswith("<|start|>system\nBe brief.")
    own = row(messages=[("system", "Be long."), ("user", "Area?"), ("assistant", "pi r r")])
    assert "Be brief." not in render_row(own, tokenizer, settings)[0]
    assert "Be brief." in render_prompt(HEADER, tokenizer, settings)


@pytest.mark.parametrize(
    ("style", "bad", "reason"),
    [
        ("completion", row(messages=[("system", "s"), ("user", "u"), ("assistant", "a")]), "conversation"),
        ("alpaca", row(messages=[("user", "u"), ("assistant", "a")] * 2), "conversation"),
        ("chat", row(messages=[("user", "u")]), "no_answer"),
        ("chat", row(messages=[("user", "u"), ("assistant", " ")]), "no_answer"),
        ("completion", row("p", " \n"), "empty_completion"),
        ("chat", row(messages=[("assistant", "a")]), "no_question"),
        ("alpaca", row("p", "a \ufdd0 b"), "noncharacter"),
    ],
)
def test_a_row_that_a_style_cannot_render_has_a_drop_reason(tokenizer, style, bad, reason):
    with pytest.raises(Unrenderable) as caught:
        render_row(bad, tokenizer, PromptSettings(style=style))
    assert caught.value.reason == reason


def test_a_template_that_rewrites_answered_turns_is_a_drop_reason(tokenizer):
    odd = bpe(GPT2, template="{{ messages | length }}{{ messages[-1]['content'] }}<|end|>")
    with pytest.raises(Unrenderable, match="template"):
        render_row(ROWS["conversation"], odd, PromptSettings(style="chat"))


def test_chat_without_a_template_says_what_to_do():
    bare = bpe(GPT2, template=None)
    for ask in (lambda s: render_prompt(HEADER, bare, s), lambda s: render_row(ROWS["function"], bare, s)):
        with pytest.raises(UserError, match=r"prompt\.style=chat.*no chat template.*completion or alpaca"):
            ask(PromptSettings(style="chat"))
        assert ask(PromptSettings(style="alpaca"))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (HEADER, True),
        (HEADER.rstrip(), True),
        ("def f(x):\n", True),
        ("class A:\n    def f(self):\n        '''Doc.'''\n", True),
        ("def f(x):\n    import math\n    '''Doc.'''\n", True),
        ("def f(x):\n    return x\n", False),
        ("Write def f(x): please", False),
        ('"""\nWrite a function.\nassert f(1) == 2\n"""\n', False),
        ("def f(" + "(" * 2000, False),
        ("def f(\0):", False),
        ("", False),
    ],
)
def test_function_headers_are_recognised(prompt, expected):
    assert is_function_header(prompt) is expected


def test_a_folder_without_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match=r"models.*no tokenizer in this folder"):
        load_tokenizer(tmp_path / "models")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot read the tokenizer's files"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_is_loaded_from_its_folder(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    settings = PromptSettings(style="chat")
    assert render_prompt(HEADER, loaded, settings) == render_prompt(HEADER, tokenizer, settings)
