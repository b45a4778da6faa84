"""Trains with TRL's SFTTrainer on packs in the order of documents.arrow: `model packs output steps rank`. Under TRL's
interpreter.

Its best configuration on a CPU: 4-bit base, rows that are packed already and told apart by position ids, loss on labelled
tokens in chunks (TRL's default), bf16, no recomputation.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"


def main() -> None:
    model, packs, output = sys.argv[1:4]
    steps, rank = map(int, sys.argv[4:6])
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.steps: list[float] = []
            self.losses: list[float] = []

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.steps.append(time.perf_counter() - self.started)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "loss" in logs:
                self.losses.append(logs["loss"])

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    # on a GPU its packs need FlashAttention, which it takes from a package of its own; PyTorch's kernel gets a mask
    placed = {"device_map": {"": 0}, "attn_implementation": "sdpa"} if torch.cuda.is_available() else {}
    base = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.bfloat16, quantization_config=quantized, **placed
    )
    clock = Clock()
    trainer = InOrder(
        model=base,
        args=SFTConfig(
            output_dir=output,
            max_steps=steps,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=1,
            learning_rate=2e-4,
            lr_scheduler_type="constant",
            warmup_steps=0,
            max_grad_norm=1.0,
            optim="adamw_torch",
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=False,
            padding_free=True,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=0,
        ),
        train_dataset=Dataset.from_file(packs),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(
            r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[clock],
    )
    trainer.train()
    Path(output, "seen.json").write_text(json.dumps({"seconds": clock.steps, "losses": clock.losses[:steps]}))


if __name__ == "__main__":
    main()
