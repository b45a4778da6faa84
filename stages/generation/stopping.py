"""Find the end of an answer: the rules that end a sample before its end-of-text token."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stages.common.rows.headers import is_function_header
from stages.common.text.settings import PromptSettings
from stages.judge.extract.thinking import answer_start, opened_by

NESTING_TOKEN = re.compile(r'"""|\'\'\'|\\.|["\'#()\[\]{}]')
DEFINES = re.compile(r"(async\s+def|def|class|import|from)\b|@|\"\"\"|\'\'\'")
DEFINED = re.compile(r"[ \t]*(async\s+def|def|class)\b|\w+ *(:[^=]+)?= *lambda\b")
DEFINED_NAME = re.compile(r"(?:async\s+def|def|class)\s+(\w+)")
ASSIGNS = re.compile(r"[A-Za-z_][\w.,\[\] ]*(:[^=]+)?=[^=]")
NO_EXPRESSION = re.compile(r"(def|class|import|assert|return|while|with|try)\b")
PROMPT_HEAD = 24  # characters by which a prompt is recognised in a text
LOOP_TIMES, LOOP_TOKENS = 12, 100  # a table of ten equal rows is no loop, nor a list of fifty zeros


@dataclass(frozen=True)
class Ending:
    """How the text after a rendered prompt ends.

    Kinds: `body` (a function's body, in bare code), `program` (functions, in bare code), `fence` (code in a
    fence that the prompt opened), `answer` (prose with one fenced block), `none` (an end token only).
    """

    kind: str
    line_start: bool  # the prompt ends in a line break, so that the text starts a line
    prompt_head: str = ""  # how the benchmark's prompt begins: where it comes again, the answer is over
    thinking: tuple[str, str] = (
        "",
        "",
    )  # what the rendered prompt ends with, if it opens thinking: opener, closer

    def find(self, text: str, finished: bool = False) -> int | None:
        """Return the offset where the answer in `text` ends, None while it may continue.

        `finished`: nothing follows, so the last line counts as complete.
        """
        if self.kind == "none":
            return None
        if self.kind == "fence":
            return self.fence(text, 0)
        if self.kind == "answer":
            start = answer_start(text, self.thinking[1])
            return None if start is None else self.fence(text, start)
        return self.code(text, finished)

    def fence(self, text: str, start: int) -> int | None:
        """Return the offset of the closing fence: its start if the prompt opened the fence, else its end.

        In an answer, which begins at `start`, only a fence with a definition counts: an install command or a use
        of the function may precede the function.
        """
        inside = answers = self.kind == "fence"
        offset = start
        for number, line in enumerate(text[start:].split("\n")):
            if line.startswith("```") and (number or start or self.line_start):
                if inside and answers:
                    return offset if self.kind == "fence" else offset + 3
                inside, answers = not inside, False
            elif inside:
                answers = answers or DEFINED.match(line) is not None
            offset += len(line) + 1
        return None

    def code(self, text: str, finished: bool) -> int | None:
        """Return the offset of the first top-level line of something else, or of comments just before it.

        Something else is also the prompt again, or a definition again (`repeats`).
        """
        lines = text.split("\n")
        state, offset, begun = Nesting(), 0, False
        comment: int | None = None
        block, seen = 0, Counter[str]()
        for number, line in enumerate(lines):
            whole = finished or number < len(lines) - 1
            starts = bool(number or self.line_start) and line[:1] not in ("", " ", "\t", "\r", "\f")
            if starts and state.top(line):
                if line[0] == "#":
                    comment = offset if comment is None else comment
                elif self.ends(line, begun, whole) or (begun and self.asks_again(text, offset)):
                    return offset if comment is None else comment
                else:
                    if repeats(text[block : offset if comment is None else comment], seen):
                        return block
                    block, comment = offset, None
            elif line.strip():
                begun, comment = True, None
            state.feed(line)
            offset += len(line) + 1
        return None

    def asks_again(self, text: str, offset: int) -> bool:
        return bool(self.prompt_head) and text.startswith(self.prompt_head, offset)

    def ends(self, line: str, begun: bool, whole: bool) -> bool:
        """Return whether a top-level line is not part of the answer; `begun`: a body has been seen."""
        if self.kind == "body":
            return begun or (whole and not DEFINES.match(line))
        return begun and whole and not (DEFINES.match(line) or ASSIGNS.match(line))


def ending_for(prompt: str, rendered: str, settings: PromptSettings, ending: str = "auto") -> Ending:
    """Return the rule for a benchmark's prompt and its rendering, of the kind `ending` unless that is auto."""
    header = is_function_header(prompt)
    kind = ("body" if header else "program") if settings.beside_fim.style == "completion" else ""
    kind = kind or ("fence" if header else "answer")
    kind = kind if ending == "auto" else ending
    thinking = opened_by(rendered) if kind == "answer" else ("", "")
    return Ending(kind, not rendered or rendered.endswith("\n"), prompt.strip()[:PROMPT_HEAD], thinking)


def repeats(block: str, seen: Counter[str]) -> bool:
    """Return whether a definition came before word for word, or twice under other names; add it to `seen`."""
    name = DEFINED_NAME.match(block)
    if not name:
        return False
    same = block.strip()
    alike = re.sub(rf"\b{name[1]}\b", "", same)
    seen.update((same, alike))
    return seen[same] > 1 or seen[alike] > 2


def in_loop(tokens: Sequence[int], left: int) -> bool:
    """Return whether a row goes on with the same tokens over and over, and may end here.

    It may end where the `left` tokens to its limit are whole turns of the loop: its text then breaks off at the
    same place of a line as it would have, and parses no better or worse.
    """
    for period in range(1, len(tokens) // LOOP_TIMES + 1):
        if tokens[-1] == tokens[-1 - period] and left % period == 0:
            length = max(LOOP_TIMES * period, LOOP_TOKENS)
            if length <= len(tokens) and tokens[period - length :] == tokens[-length:-period]:
                return True
    return False


class Nesting:
    """Track open strings and brackets: inside them, a line at the margin is not a new statement."""

    def __init__(self) -> None:
        self.quote = ""
        self.depth = 0

    def top(self, line: str) -> bool:
        """Return whether `line`, which starts at the margin, starts a statement."""
        return not self.quote and (self.depth == 0 or NO_EXPRESSION.match(line) is not None)

    def feed(self, line: str) -> None:
        for token in NESTING_TOKEN.findall(line):
            if self.quote:
                if token.startswith(self.quote):
                    self.quote = ""
            elif token == "#":
                break
            elif token[0] in "\"'":
                self.quote = token
            elif token in "([{":
                self.depth += 1
            elif token in ")]}":
                self.depth = max(0, self.depth - 1)
        if len(self.quote) == 1:  # a plain string ends with its line
            self.quote = ""
