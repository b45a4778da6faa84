"""The table of thinking marks: where an answer starts, and what a prompt has opened."""

import pytest

from stages.judge.extract.thinking import THINKING, answer_start, open_thinking


@pytest.mark.parametrize(("opener", "closer"), THINKING)
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
    assert open_thinking("<|im_start|>assistant\n<think>\n") == "</think>"
    assert open_thinking("<|assistant|>\n<THINKING>") == "</thinking>"
    assert open_thinking("Think in <think> tags.<|im_end|>\n<|im_start|>assistant\n") == ""
    assert open_thinking("<think>\n\n</think>\n\n") == ""
    assert open_thinking("<|turn>model\n<|channel>thought\n<channel|>") == ""
