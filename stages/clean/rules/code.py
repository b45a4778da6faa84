"""Rules on code: language, syntax, comments, placeholders, docstrings, use of the system, licence."""

import ast
import re
from collections.abc import Iterator

from stages.clean.code.scopes import FUNCTION_NODES
from stages.clean.code.syntax import PYTHON_MARKS, does_nothing
from stages.clean.row import WORD_PATTERN, RowView
from stages.clean.rules.quotes import line_around, quote
from stages.clean.rules.settings import Comments, Docstring, Language, Licence, Placeholder, System
from stages.common.spdx import allows

# Expressions that only name values: a module of nothing else is data, or prose that happens to parse.
VALUES = (ast.Constant, ast.Name, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.UnaryOp)
NAME_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
DOC_WORD = re.compile(r"[^\W_]+")
FILLERS = frozenset(("a", "an", "the", "of", "for", "to", "this", "function", "method"))
# The first eight are Gopher's
STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with", "a", "is", "in", "for"))
SPDX_TAG = re.compile(r"SPDX-License-Identifier:[ \t]*([^\n*'\"]+)")


def language(row: RowView, settings: Language) -> str | None:
    """Drop code in another language, rows without required Python, prose in another script or not English."""
    if row.fences:
        others = [
            (name, block)
            for name, block in row.fences
            if name not in settings.neutral and name not in PYTHON_MARKS
        ]
        other = sum(len(block) for _, block in others)
        python = sum(len(block) for name, block in row.fences if name in PYTHON_MARKS)
        if other > settings.max_other_code_share * (other + python):
            name, block = max(others, key=lambda pair: len(pair[1]))
            return f"{other / (other + python):.2f} of its code is in another language, most of it {name}: {quote(block)}"
    tree = row.code.tree
    if settings.python and not row.code.error and (tree is None or not any(map(does_something, tree.body))):
        return f"no Python in it: {quote(row.checked_text)}"
    if tree is None and (found := language_markers(row.checked_text.lower(), settings)):
        return f"looks like another language: {', '.join(map(repr, found))}"
    return prose_language(row, settings)


def language_markers(text: str, settings: Language) -> list[str]:
    """Return the markers of other languages in a lower-case text; a single one proves nothing."""
    found = [marker for marker in settings.markers if marker in text]
    return found if len(found) > 1 else []


def prose_language(row: RowView, settings: Language) -> str | None:
    text = row.checked_text
    if not text.isascii() and (runs := settings.other_letters.findall(text)):
        other, letters = sum(map(len, runs)), sum(map(str.isalpha, text))
        if other > settings.max_other_script_share * max(1, letters):
            wanted = " or ".join(settings.scripts)
            return (
                f"{other / max(1, letters):.2f} of its letters are not {wanted}: {quote(max(runs, key=len))}"
            )
    if settings.prose_words and len(row.prose) > settings.prose_words:
        words = DOC_WORD.findall(row.prose.lower())
        if len(words) >= settings.prose_words:
            found = len(STOP_WORDS.intersection(words))
            if found < settings.min_stop_words:
                return f"{found} of the commonest English words in {len(words)} words of prose: {quote(row.prose)}"
    return None


def does_something(statement: ast.stmt) -> bool:
    return not (isinstance(statement, ast.Expr) and isinstance(statement.value, VALUES))


def unparsable(row: RowView) -> str | None:
    """Drop rows with Python that does not parse. A row without code passes."""
    return row.code.error or None


def comments(row: RowView, limits: Comments) -> str | None:
    """Drop code with too many or too few comment lines; lines in strings that begin with # count too."""
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
    if len(lines) < max(1, limits.min_lines):
        return None
    found = [line for line in lines if line.startswith("#")]
    share = len(found) / len(lines)
    if share > limits.max_share:
        return f"{share:.2f} of its lines are comments, more than {limits.max_share}: {quote(found[0])}"
    if share < limits.min_share:
        return f"{share:.2f} of its lines are comments, fewer than {limits.min_share}"
    return None


def placeholder(row: RowView, settings: Placeholder) -> str | None:
    """Drop work left to the reader: a marker in the completion, or functions that do nothing."""
    lowered = row.answer.lower()
    for pattern in settings.compiled:
        found = pattern.search(lowered)
        if found:
            # Lower case can be longer: İ becomes two characters
            quoted = row.answer if len(row.answer) == len(lowered) else lowered
            return f"placeholder: {quote(line_around(quoted, found.start()))}"
    if settings.stubs and row.code.stub:
        return f"nothing but a stub in {quote(row.code.stub)}"
    if settings.stubs and row.code.tree and (stub := stub_class(row.code.tree)):
        return f"nothing but stubs in the class {stub}"
    return None


def stub_class(tree: ast.Module) -> str:
    """Return the last class's name if all methods are stubs and the module has no functions, otherwise ""."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    if not classes or any(isinstance(node, FUNCTION_NODES) for node in tree.body):
        return ""
    methods = [node for owner in classes for node in owner.body if isinstance(node, FUNCTION_NODES)]
    return classes[-1].name if methods and all(does_nothing(s) for m in methods for s in m.body) else ""


def docstring(row: RowView, limits: Docstring) -> str | None:
    """Drop rows whose last function has no docstring, or one too short, too long, not ASCII, or redundant."""
    tree = row.code.tree
    last = (
        next((node for node in reversed(tree.body) if isinstance(node, FUNCTION_NODES)), None)
        if tree
        else None
    )
    if last is None:
        return None
    text = ast.get_docstring(last, clean=False)
    if text is None or not text.strip():
        return f"no docstring in {last.name}" if limits.required else None
    words = DOC_WORD.findall(text)
    if len(words) < limits.min_words:
        return f"docstring of {len(words)} words, fewer than {limits.min_words}: {quote(text)}"
    if len(words) > limits.max_words:
        return f"docstring of {len(words)} words, more than {limits.max_words}: {quote(text)}"
    if not text.isascii():
        share = sum(map(str.isascii, text)) / len(text)
        if share < limits.min_ascii_share:
            return f"{share:.2f} of its docstring is ASCII, less than {limits.min_ascii_share}: {quote(text)}"
    if limits.repeats_name:
        telling = {word.lower() for word in words} - FILLERS
        if telling <= {part.lower() for part in NAME_PART.findall(last.name)}:
            return f"the docstring of {last.name} only repeats its name: {quote(text)}"
    return None


def system(row: RowView, settings: System) -> str | None:
    """Drop code that imports `modules` or uses `calls`, under whatever alias."""
    text = row.checked_text
    if text.isascii() and not may_use(text, settings):  # Python folds non-ASCII letters in names to ASCII
        return None
    tree = row.code.tree
    for node, name in used_names(tree) if tree else ():
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            if (prefix := ".".join(parts[:end])) in settings.forbidden:
                return f"line {node.lineno} uses {prefix}: {quote(source_line(text, row, node.lineno))}"
    return None


def may_use(text: str, settings: System) -> bool:
    """Whether a text holds all parts of a forbidden name."""
    for clue in settings.clues:
        if clue in text:
            words = set(WORD_PATTERN.findall(text))
            return any(parts <= words for parts in settings.parts)
    return False


def used_names(tree: ast.Module) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    """Yield imported modules and dotted names with aliases resolved; bare names only where called."""
    aliases: dict[str, str] = {}
    stars: list[str] = []  # modules imported with *
    nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                aliases[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield node, f"{node.module}.{alias.name}"
            stars += [node.module] * (node.names[0].name == "*")
    defined = {node.name for node in nodes if isinstance(node, FUNCTION_NODES)}
    for node in nodes:
        target = node.func if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else node
        if isinstance(target, ast.Attribute) or (target is not node and isinstance(target, ast.Name)):
            root, path = dotted_path(target)
            if root in aliases or (not path and root and root not in defined):
                yield target, ".".join([aliases.get(root, root), *path]).removeprefix("builtins.")
                if root not in aliases:
                    yield from ((target, f"{module}.{root}") for module in stars)


def dotted_path(node: ast.expr) -> tuple[str, list[str]]:
    """Return `a` and `[b, c]` for `a.b.c` and `a.b(x).c`; the root is "" where no name comes first."""
    path: list[str] = []
    while isinstance(node, ast.Attribute | ast.Call):
        if isinstance(node, ast.Attribute):
            path.append(node.attr)
        node = node.value if isinstance(node, ast.Attribute) else node.func
    return (node.id if isinstance(node, ast.Name) else ""), path[::-1]


def source_line(text: str, row: RowView, number: int) -> str:
    """Return a line of the module; for fenced code, numbered over joined blocks, the whole text."""
    lines = text.split("\n") if row.layout == "whole" else []
    return lines[number - 1] if number <= len(lines) else text


def licence(row: RowView, settings: Licence) -> str | None:
    """Drop rows whose licence is not on the list of fetch.licences, or whose code has a header that names another licence."""
    if settings.ids and not allows(settings.ids, row.licence):
        return f"licence {row.licence!r} is not in fetch.licences"
    code = row.text if row.layout == "whole" else "\n".join(block for _, block in row.fences)
    if "icense" not in code and "ICENSE" not in code and "icence" not in code and "GPL" not in code:
        return None
    for found in SPDX_TAG.finditer(code) if settings.ids else ():
        if not allows(settings.ids, found.group(1).strip(" \t\r/->")):  # a comment may end on its line
            return f"a header names another licence: {quote(found.group())}"
    lowered = code.lower()
    for phrase in settings.headers:
        place = lowered.find(phrase)
        if place >= 0:
            return f"a header names another licence: {quote(line_around(lowered, place))}"
    return None
