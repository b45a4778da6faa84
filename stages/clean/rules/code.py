"""Rules on code: syntax, comments, placeholders, docstrings, licence. See text.py.

CodeXGLUE: its code-to-text set, after CodeSearchNet. Self-align: bigcode-project/starcoder2-self-align,
seed_gathering/filter_dataset.py. C4: arXiv 1910.10683.
"""

import ast
import re
from dataclasses import dataclass, field
from functools import cached_property

from stages.clean.code.scopes import FUNCTION_NODES
from stages.clean.code.syntax import PYTHON_MARKS, does_nothing
from stages.clean.row import RowView
from stages.clean.rules.phrases import LICENCE_HEADERS, PLACEHOLDER_PATTERNS
from stages.clean.rules.quotes import line_around, quote
from stages.clean.rules.valid_settings import require_lower_case, require_share
from stages.common.core.settings import require
from stages.common.spdx import allows

DOC_WORD = re.compile(r"[^\W_]+")
SPDX_TAG = re.compile(r"SPDX-License-Identifier:[ \t]*([^\n*'\"]+)")
MIN_CODE_LINES = 4  # the comments of shorter code are not counted


def unparsable(row: RowView) -> str | None:
    """Drop rows with Python that does not parse. A row without code passes."""
    return row.code.error or None


@dataclass
class Comments:
    """Drop code with too many comment lines; lines in strings that begin with # count too."""

    # Comment lines, share of the non-blank lines of code, 0 to 1; BigCode: 0.8 of the characters of files
    max_share: float = 0.8

    def __post_init__(self) -> None:
        require_share("comments", self, "max_share")

    def __call__(self, row: RowView) -> str | None:
        if row.layout == "whole":
            lines = row.lines
        else:
            lines = [
                line
                for name, block in row.fences
                if name in PYTHON_MARKS
                for line in map(str.strip, block.splitlines())
                if line
            ]
        if len(lines) < MIN_CODE_LINES:
            return None
        found = [line for line in lines if line.startswith("#")]
        share = len(found) / len(lines)
        if share > self.max_share:
            return f"{share:.2f} of its lines are comments, more than {self.max_share}: {quote(found[0])}"
        return None


@dataclass
class Placeholder:
    """Drop work left to the reader: a marker in the completion, or functions that do nothing."""

    # Drop functions whose body is only pass, `...`, raise NotImplementedError or a docstring
    stubs: bool = True
    # Lower-case regular expressions, searched in the lower-cased completion, at a third of the cost of
    # ignoring case. Self-align drops every todo, fixme and bug.
    patterns: list[str] = field(default_factory=lambda: list(PLACEHOLDER_PATTERNS))

    def __post_init__(self) -> None:
        for pattern in self.patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                require(False, "clean.placeholder.patterns", pattern, f"a regular expression ({error})")
            letters = re.sub(r"\\.", "", pattern)  # \S and \W are not capitals
            require(letters == letters.lower(), "clean.placeholder.patterns", pattern, "lower case")

    @cached_property
    def compiled(self) -> list[re.Pattern[str]]:
        return [re.compile(pattern) for pattern in self.patterns]

    def __call__(self, row: RowView) -> str | None:
        lowered = row.answer.lower()
        for pattern in self.compiled:
            found = pattern.search(lowered)
            if found:
                # Lower case can be longer: İ becomes two characters
                quoted = row.answer if len(row.answer) == len(lowered) else lowered
                return f"placeholder: {quote(line_around(quoted, found.start()))}"
        if self.stubs and row.code.stub:
            return f"nothing but a stub in {quote(row.code.stub)}"
        if self.stubs and row.code.tree and (stub := stub_class(row.code.tree)):
            return f"nothing but stubs in the class {stub}"
        return None


def stub_class(tree: ast.Module) -> str:
    """Return the last class's name if all methods are stubs and the module has no functions, otherwise ""."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    if not classes or any(isinstance(node, FUNCTION_NODES) for node in tree.body):
        return ""
    methods = [node for owner in classes for node in owner.body if isinstance(node, FUNCTION_NODES)]
    return classes[-1].name if methods and all(does_nothing(s) for m in methods for s in m.body) else ""


@dataclass
class Docstring:
    """Drop rows whose last function has no docstring, or one too short, too long, or not ASCII.

    A prompt that is a docstring and nothing else, as in MBPP, documents its function.
    """

    required: bool = False  # drop a module whose last top-level function has no docstring; Self-align
    min_words: int = 0  # words of the docstring, from 0; CodeXGLUE: 3
    max_words: int = 1000  # CodeXGLUE: 256
    min_ascii_share: float = 0.0  # ASCII characters of the docstring, 0 to 1

    def __post_init__(self) -> None:
        most = self.max_words
        require(
            0 <= self.min_words <= most,
            "clean.docstring.min_words",
            self.min_words,
            f"a number from 0 to max_words ({most})",
        )
        require_share("docstring", self, "min_ascii_share")

    def __call__(self, row: RowView) -> str | None:
        tree = row.code.tree
        last = (
            next((node for node in reversed(tree.body) if isinstance(node, FUNCTION_NODES)), None)
            if tree
            else None
        )
        if last is None:
            return None
        text = ast.get_docstring(last, clean=False)
        if (
            text is None
            and tree
            and row.prompt
            and tree.body[0].end_lineno == row.prompt.rstrip().count("\n") + 1
        ):
            text = ast.get_docstring(tree, clean=False)
        if text is None or not text.strip():
            return f"no docstring in {last.name}" if self.required else None
        words = DOC_WORD.findall(text)
        if len(words) < self.min_words:
            return f"docstring of {len(words)} words, fewer than {self.min_words}: {quote(text)}"
        if len(words) > self.max_words:
            return f"docstring of {len(words)} words, more than {self.max_words}: {quote(text)}"
        if not text.isascii():
            share = sum(map(str.isascii, text)) / len(text)
            if share < self.min_ascii_share:
                return (
                    f"{share:.2f} of its docstring is ASCII, less than {self.min_ascii_share}: {quote(text)}"
                )
        return None


@dataclass
class Licence:
    """Drop rows whose licence is not on the list of fetch.licences, or whose code has a header that names another licence."""

    # Lower-case phrases of headers that name another licence, searched in code
    headers: list[str] = field(default_factory=lambda: list(LICENCE_HEADERS))
    # SPDX ids of fetch.licences, as sources.lock.json has them: no setting here. Empty: any licence
    ids = frozenset[str]()

    def __post_init__(self) -> None:
        require_lower_case("licence", "headers", self.headers)

    def __call__(self, row: RowView) -> str | None:
        if self.ids and not allows(self.ids, row.licence):
            return f"licence {row.licence!r} is not in fetch.licences"
        code = row.text if row.layout == "whole" else "\n".join(block for _, block in row.fences)
        if "icense" not in code and "ICENSE" not in code and "icence" not in code and "GPL" not in code:
            return None
        for found in SPDX_TAG.finditer(code) if self.ids else ():
            if not allows(self.ids, found.group(1).strip(" \t\r/->")):  # a comment may end on its line
                return f"a header names another licence: {quote(found.group())}"
        lowered = code.lower()
        for phrase in self.headers:
            place = lowered.find(phrase)
            if place >= 0:
                return f"a header names another licence: {quote(line_around(lowered, place))}"
        return None
