"""The table of thinking marks: where an answer starts, and what a prompt has opened."""

import pytest

from stages.judge.extract.thinking import answer_start, opened_by

# Openers and closers of chat templates, and of vLLM's reasoning parsers
THOUGHTS = [
    *(
        (f"<{name}>", f"</{name}>")
        for name in ("think", "thinking", "thought", "reasoning", "seed:think", "Thought")
    ),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>commentary to=x <|constrain|>json<|message|>", "<|channel|>final<|message|>"),
    ("<|channel>thought", "<channel|>"),
    ("<unused94>thought", "<unused95>"),
    ("Here is my thought process:", "Here is my response:"),
    ("analysisWe", "assistantfinal"),
]


@pytest.mark.parametrize(("opener", "closer"), THOUGHTS)
def test_the_answer_starts_after_the_thinking(opener: str, closer: str) -> None:
    draft = "\nMaybe:\n```python\ndef f(): pass\n```\n"
    text = f" \n{opener}{draft}{closer}\nanswer"
    assert text[answer_start(text) :] == "\nanswer"
    assert answer_start(text.upper()) == answer_start(text)
    assert answer_start(opener + draft) is None
    assert answer_start(draft, closer) is None
    assert (draft + closer + "x")[answer_start(draft + closer + "x", closer) :] == "x"


def test_marks_within_the_answer_are_the_answers() -> None:
    text = "```python\nTAG = '</think>'\n```\n<think>more</think>"
    assert answer_start(text) == 0
    twice = "<think>a</think>\n<think>b</think>c"
    assert twice[answer_start(twice) :] == "c"
    harmony = "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>b"
    assert answer_start(harmony) is None
    end = "<|end|><|start|>assistant<|channel|>final<|message|>c"
    assert (harmony + end)[answer_start(harmony + end) :] == "c"


def test_only_a_prompt_that_ends_in_an_opener_has_opened_thinking() -> None:
    assert opened_by("<|im_start|>assistant\n<think>\n")[1] == "</think>"
    assert opened_by("<|assistant|>\n<THINKING>")[1].casefold() == "</thinking>"
    assert opened_by("Think in <think> tags.<|im_end|>\n<|im_start|>assistant\n")[1] == ""
    assert opened_by("<think>\n\n</think>\n\n")[1] == ""
    assert opened_by("<|turn>model\n<|channel>thought\n<channel|>")[1] == ""
