"""Parse HumanEval+ and MBPP+ (Liu et al. 2023), as evalplus releases them or as the hub has them.

A released row has `base_input`, `plus_input` and `atol`; its answers are those of the canonical solution. A
row on the hub has a `test` program with lists `inputs` and `results`, which is read as text and not run.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from stages.common.rows.schema import Problem

TASK_ORACLES = {  # evalplus/eval/_special_oracle.py and evalplus/eval/__init__.py, version 0.3.1
    "HumanEval": {"find_zero": "root"},
    "Mbpp": {
        "are_equivalent": "anything",
        "sum_div": "equal_or_zero",
        "surface_Area": "surface_area",
        "digit_distance_nums": "digit_distance",
        **dict.fromkeys(("check_str", "text_match_three", "text_starta_endb"), "not_none"),
        **dict.fromkeys(
            (
                *(
                    "similar_elements",
                    "find_char_long",
                    "common_in_nested_lists",
                    "extract_singly",
                    "larg_nnum",
                ),
                *("intersection_array", "find_dissimilar", "Diff"),
            ),
            "set",
        ),
    },
}


def plus_problem(row: dict[str, Any]) -> Problem:
    """Return the problem of a row of HumanEval+ or MBPP+, whose format its columns tell.

    Raises:
        KeyError, TypeError, ValueError, SyntaxError: the row is not a problem.
    """
    if "base_input" in row:
        return released_problem(row)
    inputs, expected, atol = inputs_of(row["test"])
    if "code" in row:
        code = plain_lines(row["code"]).strip("\n")
        name = entry_point(code, row["test_list"])
        prompt = f'"""\n{row["prompt"]}\n{row["test_list"][0]}\n"""\n'  # as in the released file
        task, code = f"Mbpp/{str(row['task_id']).removeprefix('Mbpp/')}", f"{code}\n"
    else:
        task, prompt, name, code = (
            row[key] for key in ("task_id", "prompt", "entry_point", "canonical_solution")
        )
    return Problem(task, prompt, name, code, "", inputs, expected, atol, oracle_of(task, name))


def released_problem(row: dict[str, Any]) -> Problem:
    task, name = row["task_id"], row["entry_point"]
    suite, _, number = task.partition("/")
    given = [*row["base_input"], *(row["plus_input"] or [])]
    if suite == "Mbpp":
        given = [INPUT_RULES.get(int(number), list)(arguments) for arguments in given]
    inputs = {stable_literal(arguments): None for arguments in given}  # each once, as on the hub
    return Problem(
        *(task, row["prompt"], name, row["canonical_solution"], ""),
        inputs=f"[{', '.join(inputs)}]",
        atol=float(row["atol"]),
        oracle=oracle_of(task, name),
    )


def oracle_of(task: str, entry_point: str) -> str:
    return TASK_ORACLES.get(task.partition("/")[0], {}).get(entry_point, "equal")


def stable_literal(value: Any) -> str:
    """The value's literal, with a set in the order of its items' text: the same from run to run."""
    if isinstance(value, list):
        return f"[{', '.join(map(stable_literal, value))}]"
    if isinstance(value, set) and value:
        return f"{{{', '.join(sorted(map(stable_literal, value)))}}}"
    return repr(value)


def inputs_of(test: str) -> tuple[str, str, float]:
    """Sources of the lists `inputs` and `results` of a test program, and its tolerance.

    The second is "" where there are no results (the program calls the reference), or other things than plain
    values.

    Raises:
        ValueError: it has no list of inputs that are plain values.
    """
    with any_number_of_digits():
        body = ast.parse(test).body
    functions = {node.name: node.body for node in body if isinstance(node, ast.FunctionDef)}
    body = functions.get("check", body)
    assigned = [node for node in body if isinstance(node, ast.Assign)]
    lists = {
        target.id: node.value for node in assigned for target in node.targets if isinstance(target, ast.Name)
    }
    inputs, results = lists.get("inputs"), lists.get("results")
    if not isinstance(inputs, ast.List) or not is_plain(inputs):
        raise ValueError("its test has no list of inputs that are plain values")
    loops = [part for node in body if isinstance(node, ast.For) for part in ast.walk(node)]
    numbers = [n.value for n in loops if isinstance(n, ast.Constant) and isinstance(n.value, int | float)]
    lines = test.encode().split(b"\n")
    expected = source_segment(results, lines) if results and is_plain(results) else ""
    return source_segment(inputs, lines), expected, float(numbers[-1] if numbers else 0)


def source_segment(node: ast.expr, lines: list[bytes]) -> str:
    """What ast.get_source_segment gives, which takes seconds a megabyte."""
    assert node.end_lineno
    taken = lines[node.lineno - 1 : node.end_lineno]
    taken[-1] = taken[-1][: node.end_col_offset]
    taken[0] = taken[0][node.col_offset :]
    return b"\n".join(taken).decode()


PLAIN_NODES = (
    *(ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Constant),
    *(ast.UnaryOp, ast.unaryop, ast.BinOp, ast.operator, ast.expr_context),
)


def is_plain(node: ast.AST) -> bool:
    """Whether an expression holds plain values, `inf`, `nan` and `set()` only."""
    return all(
        isinstance(part, PLAIN_NODES)
        or (isinstance(part, ast.Name) and part.id in ("inf", "nan", "set"))
        or (isinstance(part, ast.Call) and ast.unparse(part) == "set()")
        for part in ast.walk(node)
    )


@contextmanager
def any_number_of_digits() -> Iterator[None]:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)


def entry_point(code: str, asserts: list[str]) -> str:
    """Name of the function that the asserts call and the reference defines.

    Raises:
        ValueError: they share none.
    """
    defined = {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for test in asserts:
        calls = [node.func for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Call)]
        for called in calls:
            if isinstance(called, ast.Name) and called.id in defined:
                return called.id
    raise ValueError("its asserts call no function that its reference code defines")


def plain_lines(text: str) -> str:
    """Text with plain newlines and no white space at the ends of lines."""
    return "\n".join(line.rstrip() for line in text.replace("\r\n", "\n").split("\n"))


def nested_tuples(value: Any) -> Any:
    """Lists in lists as tuples in tuples."""
    return tuple(nested_tuples(item) for item in value) if isinstance(value, list) else value


def inner_tuples(value: Any) -> list[Any]:
    return [tuple(item) for item in value]


Rule = Callable[[list[Any]], Any]
# What MBPP+'s inputs were before JSON made lists of tuples and text of numbers: mbpp_deserialize_inputs of
# evalplus 0.3.1, by number of the task.
INPUT_RULES: dict[int, Rule] = {
    number: rule
    for numbers, rule in (
        (
            "2 116 132 143 222 261 273 394 399 421 424 429 470 560 579 596 616 630 726 740 744 809",
            inner_tuples,
        ),
        (
            "63 64 70 94 120 237 272 299 400 409 417 438 473 614 780",
            lambda args: [inner_tuples(arg) for arg in args],
        ),
        ("75 413 444 753", lambda args: [inner_tuples(args[0]), args[1]]),
        ("106 750", lambda args: [args[0], tuple(args[1])]),
        ("115", lambda args: [[set(x) if isinstance(x, list) and x else {} for x in args[0]]]),
        ("124", lambda args: [float(args[0]), complex(args[1])]),
        ("250 405 446 617 720 763 808", lambda args: [tuple(args[0]), args[1]]),
        ("259 401 445", lambda args: [tuple(inner_tuples(arg)) for arg in args]),
        ("278", lambda args: [tuple(tuple(x) if isinstance(x, list) else x for x in args[0])]),
        ("307", lambda args: [tuple(args[0]), args[1], args[2]]),
        ("722", lambda args: [{key: tuple(value) for key, value in args[0].items()}, *args[1:]]),
        ("252", lambda args: [complex(args[0])]),
        ("580 615 791", nested_tuples),
    )
    for number in map(int, numbers.split())
}
