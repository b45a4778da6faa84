"""Read the answer to a problem of any kind from a completion: a program, or a value."""

import ast
import re
from typing import Any

from stages.common.rows.schema import Problem
from stages.judge.extract.fences import fenced
from stages.judge.extract.program import (
    MAX_COMPLETION_CHARACTERS,
    TURN_END,
    Extraction,
    Work,
    answer_in,
    clean,
    extract_program,
    longest_prefix,
)
from stages.judge.extract.thinking import without_thinking

FILL_END = re.compile(r"<fim_\w+>|<EOT>|<[|｜](?:fim|end)\W")  # what may follow a filled middle
TAGGED = re.compile(r"\[ANSWER\](.*?)(?:\[/ANSWER\]|\Z)", re.DOTALL)


def extract_answer(problem: Problem, completion: str, fence: str = "last") -> Extraction:
    """Return the program that a completion makes of a problem of kind function, infill or script."""
    if problem.kind == "infill":
        return extract_infill(problem, completion)
    if problem.kind == "script":
        return extract_script(completion, fence)
    owner, _, method = problem.entry_point.partition(".")
    found = extract_program(problem.prompt, owner, completion, fence)
    if method and found.verdict == "no_entry_point":  # the function without its class
        bare = extract_program(problem.prompt, method, completion, fence)
        return found if bare.verdict else bare
    return found


def extract_infill(problem: Problem, completion: str) -> Extraction:
    """Return prompt, completion and suffix as they are, with a line break that the completion lost put back."""
    text = clean(without_thinking(completion)[:MAX_COMPLETION_CHARACTERS])
    text = FILL_END.split(TURN_END.split(text, maxsplit=1)[0], maxsplit=1)[0]
    reason = ""
    for middle in (text, text + "\n"):
        program = problem.prompt + middle + problem.suffix
        try:
            ast.parse(program)
            return Extraction(program)
        except SyntaxError as error:
            reason = reason or f"{error.msg}, line {error.lineno}"
        except (ValueError, MemoryError, RecursionError) as error:
            reason = reason or f"the parser gave up ({type(error).__name__})"
    return Extraction(verdict="syntax_error", reason=reason)


def extract_script(completion: str, fence: str = "last") -> Extraction:
    """Return the program of a completion: of several fences the `first` or `last` complete one that parses."""
    text, work = answer_in(completion), Work()
    blocks = fenced(text)[:: -1 if fence == "last" else 1]
    blocks.sort(key=lambda block: (block.python, block.closed), reverse=True)  # stable
    codes = [*(block.code for block in blocks), text]
    parsed = [longest_prefix(code[:MAX_COMPLETION_CHARACTERS], 0, work) for code in codes]
    acts = [any(not isinstance(node, ast.Expr) or calls(node) for node in one.tree.body) for one in parsed]
    whole = [one.lines == code.split("\n") for one, code in zip(parsed, codes, strict=True)]
    for wanted in (True, False):
        for one, does, complete in zip(parsed, acts, whole, strict=True):
            if does and complete >= wanted:
                return Extraction("\n".join(one.lines) + "\n")
    return Extraction(verdict="syntax_error", reason=work.error or "no statement")


def calls(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Call) for part in ast.walk(node))


def read_literal(completion: str) -> Any:
    """Return the value that a completion writes as a literal: alone, or as `assert f(...) == VALUE`.

    Raises:
        ValueError: there is none; names and calls are no literals.
    """
    text = clean(without_thinking(completion)[:MAX_COMPLETION_CHARACTERS])
    tagged, blocks = TAGGED.findall(text), fenced(text)
    text = tagged[-1] if tagged else blocks[-1].code if blocks else text
    text = answer_in(text).strip().removeprefix("==").strip()
    work = Work()
    body = longest_prefix(text, 0, work).tree.body
    asserts = [node.test for node in body if isinstance(node, ast.Assert)]
    first = [node.value for node in body[:1] if isinstance(node, ast.Expr)]
    for node in (*asserts, *first):
        equals = isinstance(node, ast.Compare) and isinstance(node.ops[-1], ast.Eq)
        try:
            return ast.literal_eval(node.comparators[-1] if equals else node)  # type: ignore[attr-defined]
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            break
    raise ValueError(work.error or "the answer is no literal")
