"""The marks that models put around their thinking: one table for what is judged and for where generation stops."""

# Opener and closer, compared ignoring case. Sources: the chat templates of DeepSeek R1 and Qwen 3, Gemini and
# EXAONE, Reflection, Seed-OSS, LongCat, Mistral's Magistral, Kimi-VL, Cohere's Command A, OpenThinker, gpt-oss (harmony),
# Gemma 4, Granite 3.2
THINKING = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<reasoning>", "</reasoning>"),
    ("<reflection>", "</reflection>"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<analysis>", "</analysis>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("<|channel|>commentary<|message|>", "<|channel|>final<|message|>"),
    ("<|channel>thought", "<channel|>"),
    ("Here is my thought process:", "Here is my response:"),
)


def open_thinking(prompt: str) -> str:
    """Return the closer of the thinking that a rendered prompt opens at its end; empty if it opens none."""
    return opened_by(prompt)[1]


def opened_by(prompt: str) -> tuple[str, str]:
    """Return the opener that a rendered prompt ends with, and its closer; empty without one."""
    end = prompt.rstrip().casefold()
    found = [pair for pair in THINKING if end.endswith(pair[0].casefold())]
    return max(found, key=lambda pair: len(pair[0]), default=("", ""))


def answer_start(text: str, closer: str = "") -> int | None:
    """Return where the answer starts: after the thinking that `text` begins with; None while that goes on.

    `closer` ends thinking that the prompt opened. Marks after the answer's start are part of the answer.
    """
    folded, start = text.lower(), 0
    while True:
        if not closer:
            begin = len(text) - len(text[start:].lstrip())
            closer = next((c for o, c in THINKING if folded.startswith(o.lower(), begin)), "")
            if not closer:
                return start
        at = folded.find(closer.lower(), start)
        if at < 0:
            return None
        start, closer = at + len(closer), ""
