"""Tokenization: ours against `tokenizers` `encode_batch` on the same texts, with one thread each and with two.

Ours renders nothing here and is given prompt and completion; it returns the ids of both, each encoded
by itself, with the end-of-text token. `encode_batch` is given prompt and completion as one text and returns its `Encoding` objects, of which
the ids are read, as anyone must. A second is one of wall; tokens are those of the whole texts, the same for both.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.corpora import corpus_of
from benchmarks.tell import Part, ratio

SIDES = ("encode_batch", "ours")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--model", type=Path, default=Path("models/base"), help="folder with tokenizer.json")
    parser.add_argument(
        "--repeats", type=int, default=3, help="of each side, alternating; the fastest counts"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])


def run(given: argparse.Namespace) -> list[Part]:
    parts = []
    with tempfile.TemporaryDirectory() as name:
        texts = Path(name, "texts.parquet")
        pq.write_table(prompts_and_completions(corpus_of(given.rows)), texts)
        print(f"{'':<28}{'tokens/s':>12}{'wall s':>9}{'cpu s':>9}{'tokens':>13}")
        for threads in given.threads:
            best: dict[str, dict[str, Any]] = {}
            for _ in range(given.repeats):
                for side in SIDES:
                    cost = run_side(side, texts, given.model, threads)
                    best[side] = min(cost, best.get(side, cost), key=lambda each: each["wall"])
            tokens = best["encode_batch"]["tokens"]
            for side in SIDES:
                best[side]["rate"] = tokens / best[side]["wall"]
                print(
                    f"{side + f', {threads} thread(s)':<28}{best[side]['rate']:>12,.0f}{best[side]['wall']:>9.2f}"
                    f"{best[side]['cpu']:>9.2f}{best[side]['tokens']:>13,}"
                )
            ours, theirs = best["ours"]["rate"], best["encode_batch"]["rate"]
            parts.append(
                Part(
                    f"tokenization, {threads} thread(s), encode_batch",
                    f"{ours:,.0f} tokens/s",
                    f"{theirs:,.0f} tokens/s",
                    ratio(ours, theirs),
                    "0.9x",
                )
            )
    return parts


def prompts_and_completions(path: Path) -> pa.Table:
    """(prompt, completion) of each row; of a conversation the question and the answer."""
    table = pq.read_table(path, columns=["prompt", "completion", "messages"])
    pairs = [
        (row["prompt"] or "", row["completion"] or "")
        if row["messages"] is None
        else (row["messages"][0]["content"] + "\n", row["messages"][-1]["content"])
        for row in table.to_pylist()
    ]
    return pa.table({"prompt": [prompt for prompt, _ in pairs], "completion": [text for _, text in pairs]})


def run_side(side: str, texts: Path, model: Path, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.tokens_run", side, str(texts), str(model)]
    parallel = {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": str(threads > 1).lower()}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **parallel}
    )
    if done.returncode:
        sys.exit(f"error: {' '.join(command)}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
