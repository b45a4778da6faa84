"""Tokenizes the rows of a Parquet file once: `side texts model`; prints its cost as JSON."""

import json
import sys

import pyarrow.parquet as pq

from benchmarks.tell import clock
from stages.common.text.tokens import load_tokenizer, tokenize

BATCH_ROWS = 1024


def main() -> None:
    side, texts, model = sys.argv[1:]
    table = pq.read_table(texts)
    pairs = list(zip(table["prompt"].to_pylist(), table["completion"].to_pylist(), strict=True))
    batches = [pairs[start : start + BATCH_ROWS] for start in range(0, len(pairs), BATCH_ROWS)]
    tokens = 0
    if side == "ours":
        tokenizer = load_tokenizer(model)
        tokenize([("warm", "up")], tokenizer)
        with clock() as taken:
            for batch in batches:
                tokens += len(tokenize(batch, tokenizer).ids)
    else:
        from tokenizers import Tokenizer

        plain = Tokenizer.from_file(f"{model}/tokenizer.json")
        plain.encode_batch(["warm", "up"])
        with clock() as taken:
            for batch in batches:
                found = plain.encode_batch([prompt + completion for prompt, completion in batch])
                tokens += sum(len(encoding.ids) for encoding in found)
    print(json.dumps({"wall": taken.wall, "cpu": taken.cpu, "tokens": tokens}))


if __name__ == "__main__":
    main()
