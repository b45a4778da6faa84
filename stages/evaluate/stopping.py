"""Find the end of an answer: the rules that end a sample before its end-of-text token."""

import re
from dataclasses import dataclass

from stages.common.headers import is_function_header
from stages.common.text.settings import PromptSettings

NESTING_TOKEN = re.compile(r'"""|\'\'\'|\\.|["\'#()\[\]{}]')
DEFINES = re.compile(r"(async\s+def|def|class|import|from)\b|@|\"\"\"|'''")
DEFINED = re.compile(r"[ \t]*(async\s+def|def|class)\b|\w+ *(:[^=]+)?= *lambda\b")
ASSIGNS = re.compile(r"[A-Za-z_][\w.,\[\] ]*(:[^=]+)?=[^=]")
NO_EXPRESSION = re.compile(r"(def|class|import|assert|return|while|with|try)\b")


@dataclass(frozen=True)
class Ending:
    """How the text after a rendered prompt ends.

    Kinds: `body` (a function's body, in bare code), `program` (functions, in bare code), `fence` (code in a
    fence that the prompt opened), `answer` (prose with one fenced block).
    """

    kind: str
    line_start: bool  # the prompt ends in a line break, so that the text starts a line

    def find(self, text: str, finished: bool = False) -> int | None:
        """Return the offset where the answer in `text` ends, None while it may continue.

        `finished`: nothing follows, so the last line counts as complete.
        """
        lines = text.split("\n")
        if self.kind in ("fence", "answer"):
            return self.fence(lines)
        return self.code(lines, finished)

    def fence(self, lines: list[str]) -> int | None:
        """Return the offset of the closing fence: its start if the prompt opened the fence, else its end.

        In an answer only a fence with a definition counts, and none in its thinking: an install command or a
        use of the function may precede the function.
        """
        inside, offset, answers = self.kind == "fence", 0, self.kind == "fence"
        thinking = lines[0].startswith("<think>")
        for number, line in enumerate(lines):
            if "</think>" in line:
                inside = answers = thinking = False
            elif line.startswith("```") and (number or self.line_start):
                if inside and answers and not thinking:
                    return offset if self.kind == "fence" else offset + 3
                inside, answers = not inside, False
            elif inside:
                answers = answers or DEFINED.match(line) is not None
            offset += len(line) + 1
        return None

    def code(self, lines: list[str], finished: bool) -> int | None:
        """Return the offset of the first top-level line of something else, or of comments just before it."""
        state, offset, begun = Nesting(), 0, False
        comment: int | None = None
        for number, line in enumerate(lines):
            whole = finished or number < len(lines) - 1
            starts = bool(number or self.line_start) and line[:1] not in ("", " ", "\t", "\r", "\f")
            if starts and state.top(line):
                if line[0] == "#":
                    comment = offset if comment is None else comment
                elif self.ends(line, begun, whole):
                    return offset if comment is None else comment
                else:
                    comment = None
            elif line.strip():
                begun, comment = True, None
            state.feed(line)
            offset += len(line) + 1
        return None

    def ends(self, line: str, begun: bool, whole: bool) -> bool:
        """Return whether a top-level line is not part of the answer; `begun`: a body has been seen."""
        if self.kind == "body":
            return begun or (whole and not DEFINES.match(line))
        return begun and whole and not (DEFINES.match(line) or ASSIGNS.match(line))


def ending_for(prompt: str, rendered: str, settings: PromptSettings) -> Ending:
    """Return the rule for a benchmark's prompt and its rendering."""
    header = is_function_header(prompt)
    kind = ("body" if header else "program") if settings.style == "completion" else ""
    return Ending(kind or ("fence" if header else "answer"), not rendered or rendered.endswith("\n"))


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
