"""The rule on language: code in another one, rows without required Python, prose that is not English."""

import ast
import re
from dataclasses import dataclass, field
from functools import cached_property

from stages.clean.code.syntax import PYTHON_MARKS
from stages.clean.row import RowView
from stages.clean.rules.phrases import MARKERS, NEUTRAL, SCRIPTS
from stages.clean.rules.quotes import quote
from stages.clean.rules.valid_settings import require_names, require_share

# Expressions that only name values: a module of nothing else is data, or prose that happens to parse.
VALUES = (ast.Constant, ast.Name, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.UnaryOp)
PROSE_WORD = re.compile(r"[^\W_]+")
# The first eight are Gopher's
STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with", "a", "is", "in", "for"))
MIN_PROSE_WORDS = 50  # shorter prose is not checked


@dataclass
class Language:
    """Drop code in another language, rows without required Python, prose in another script or not English."""

    python: bool = False  # the row must hold Python that does more than name values
    # Fenced code marked as another language, share of all marked code, 0 to 1
    max_other_code_share: float = 0.5
    # Allowed scripts, names in phrases.SCRIPTS
    scripts: list[str] = field(default_factory=lambda: ["latin", "greek"])
    max_other_script_share: float = 0.2  # letters of other scripts, share of all letters, 0 to 1
    # Prose of 50 words must hold this many of the, be, to, of, and, that, have, with, a, is, in, for;
    # 0: not checked; Gopher: 2 of the first eight
    min_stop_words: int = 0

    def __post_init__(self) -> None:
        require_share("language", self, "max_other_code_share", "max_other_script_share")
        require_names("language.scripts", self.scripts, SCRIPTS)

    @cached_property
    def other_letters(self) -> re.Pattern[str]:
        """Matches runs of letters of other scripts."""
        return re.compile(rf"[^\W\d_{''.join(SCRIPTS[name] for name in self.scripts)}]+")

    def __call__(self, row: RowView) -> str | None:
        if row.fences:
            others = [
                (name, block)
                for name, block in row.fences
                if name not in NEUTRAL and name not in PYTHON_MARKS
            ]
            other = sum(len(block) for _, block in others)
            python = sum(len(block) for name, block in row.fences if name in PYTHON_MARKS)
            if other > self.max_other_code_share * (other + python):
                name, block = max(others, key=lambda pair: len(pair[1]))
                return f"{other / (other + python):.2f} of its code is in another language, most of it {name}: {quote(block)}"
        tree = row.code.tree
        if self.python and not row.code.error and (tree is None or not any(map(does_something, tree.body))):
            return f"no Python in it: {quote(row.checked_text)}"
        if tree is None and (found := language_markers(row.checked_text.lower())):
            return f"looks like another language: {', '.join(map(repr, found))}"
        return self.prose_language(row)

    def prose_language(self, row: RowView) -> str | None:
        text = row.checked_text
        if not text.isascii() and (runs := self.other_letters.findall(text)):
            other, letters = sum(map(len, runs)), sum(map(str.isalpha, text))
            if other > self.max_other_script_share * max(1, letters):
                wanted = " or ".join(self.scripts)
                return f"{other / max(1, letters):.2f} of its letters are not {wanted}: {quote(max(runs, key=len))}"
        if self.min_stop_words and len(row.prose) > MIN_PROSE_WORDS:
            words = PROSE_WORD.findall(row.prose.lower())
            if len(words) >= MIN_PROSE_WORDS:
                found = len(STOP_WORDS.intersection(words))
                if found < self.min_stop_words:
                    return f"{found} of the commonest English words in {len(words)} words of prose: {quote(row.prose)}"
        return None


def language_markers(text: str) -> list[str]:
    """Return the markers of other languages in a lower-case text; a single one proves nothing."""
    found = [marker for marker in MARKERS if marker in text]
    return found if len(found) > 1 else []


def does_something(statement: ast.stmt) -> bool:
    return not (isinstance(statement, ast.Expr) and isinstance(statement.value, VALUES))
