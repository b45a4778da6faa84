"""The rule on use of the system: what would end, delete, or talk to the outside where code is run."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from stages.clean.code.scopes import FUNCTION_NODES
from stages.clean.row import RowView
from stages.clean.rules.phrases import SYSTEM_CALLS, SYSTEM_MODULES
from stages.clean.rules.quotes import quote


@dataclass
class System:
    """Drop code that imports `modules` or uses `calls`, under whatever alias."""

    # Modules that code must not import, nor anything in them
    modules: list[str] = field(default_factory=lambda: list(SYSTEM_MODULES))
    # Functions (dotted names) and builtins that code must not use
    calls: list[str] = field(default_factory=lambda: list(SYSTEM_CALLS))

    @cached_property
    def forbidden(self) -> frozenset[str]:
        return frozenset((*self.modules, *self.calls))

    @cached_property
    def clue(self) -> re.Pattern[str]:
        """Matches the last part of a forbidden name: text without one uses none."""
        return re.compile(
            rf"\b(?:{'|'.join(sorted({name.rpartition('.')[2] for name in self.forbidden}))})\b"
        )

    def __call__(self, row: RowView) -> str | None:
        text, tree = row.checked_text, row.code.tree
        # Python folds non-ASCII letters in names to ASCII
        if not tree or not self.forbidden or (text.isascii() and not self.clue.search(text)):
            return None
        for node, name in used_names(tree):
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                if (prefix := ".".join(parts[:end])) in self.forbidden:
                    return f"line {node.lineno} uses {prefix}: {quote(source_line(text, row, node.lineno))}"
        return None


def used_names(tree: ast.Module) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    """Yield imported modules and dotted names with aliases resolved; bare names only where called."""
    aliases: dict[str, str] = {}
    stars: list[str] = []  # modules imported with *
    nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                package = alias.name.partition(".")[0]
                aliases[alias.asname or package] = alias.name if alias.asname else package
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
