"""Recognise a prompt that is a function header without its body."""

import ast
import re


def is_function_header(prompt: str) -> bool:
    """Return whether `prompt` is Python that lacks only the body of its last function."""
    if not re.search(r"^[ \t]*(async )?def \w", prompt, re.MULTILINE):
        return False
    code = prompt.rstrip()
    last = code.splitlines()[-1]
    indent = last[: len(last) - len(last.lstrip())]
    for body in ("", f"\n{indent}    pass"):  # after a docstring the parser needs no body
        try:
            node: ast.AST = ast.parse(code + body)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        while isinstance(node, ast.Module | ast.ClassDef) and node.body:
            node = node.body[-1]
        return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and all(
            map(is_placeholder, node.body)
        )
    return False


def is_placeholder(statement: ast.stmt) -> bool:
    """Return whether a statement adds nothing to an answer: a docstring, an import, `...` or `pass`."""
    return isinstance(statement, ast.Pass | ast.Import | ast.ImportFrom) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )
