"""Print what a model folder computes under this interpreter's transformers, as JSON; run by `benchmarks.portable`."""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    folder, text = sys.argv[1], Path(sys.argv[2]).read_text("utf-8")[:4000]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        loss = float(model(input_ids=ids, labels=ids).loss)
    ends = model.generation_config.eos_token_id
    print(
        json.dumps(
            {
                "version": transformers.__version__,
                "tokens": ids.shape[1],
                "ids": ids[0].tolist(),
                "loss": loss,
                "ends": ends if isinstance(ends, list) else [ends],
            }
        )
    )


if __name__ == "__main__":
    main()
