"""The registered model as MLflow loads it: functions in, their completions out. This file is stored with the weights.

    model = mlflow.pyfunc.load_model("models:/codetune@champion")
    model.predict(["def add(a, b):\n"])                                   # ["    return a + b\n"]
    model.predict(["def add(a, b):\n"], params={"max_new_tokens": 64})

It needs mlflow, torch and transformers, nothing of the repository, so it is plainer than the evaluate stage: greedy, a prompt
at a time, and a prompt is taken as it stands. That is right for models of prompt.style=completion; for the other styles
(tag codetune.prompt_style) render the prompt first.
"""

import ast
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, StoppingCriteria

MAX_NEW_TOKENS = 256


class Completions(PythonModel):
    def load_context(self, context: Any) -> None:
        folder = Path(context.artifacts["merged"])
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        gpu = torch.cuda.is_available()
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.bfloat16 if gpu else torch.float32
        )
        stops = model.generation_config.eos_token_id
        stops = set(stops if isinstance(stops, list) else [stops]) | {self.tokenizer.eos_token_id}
        self.stops = sorted(stop for stop in stops if stop is not None)
        # Greedy whatever the folder says of sampling
        model.generation_config = GenerationConfig(eos_token_id=self.stops, pad_token_id=self.stops[0])
        self.model = model.to("cuda" if gpu else "cpu").eval()

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[str]:
        """What follows each prompt, up to the end of the function where the prompt is a function's header.

        Args:
            model_input: prompts, as its only column.
            params: max_new_tokens, how many tokens a completion may take.
        """
        limit = int((params or {}).get("max_new_tokens", MAX_NEW_TOKENS))
        return [self.complete(str(prompt), limit) for prompt in model_input.iloc[:, 0]]

    def complete(self, prompt: str, limit: int) -> str:
        header = ends_with_header(prompt)
        asked = cut_at_token_end(prompt, header, self.tokenizer)
        inputs = self.tokenizer(asked, return_tensors="pt").to(self.model.device)
        length = inputs["input_ids"].shape[1]
        ended = FunctionEnd(self.tokenizer, length) if header else None
        with torch.inference_mode():
            made = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                do_sample=False,
                max_new_tokens=limit,
                stopping_criteria=[ended] if ended else None,
            )
        text = self.tokenizer.decode(made[0, length:], skip_special_tokens=True)
        return text_after_prompt(prompt, asked, function_body(text) if header else text)


class FunctionEnd(StoppingCriteria):
    """Ends a sample at the first line that is no longer of the function."""

    def __init__(self, tokenizer: Any, length: int) -> None:
        self.tokenizer, self.length = tokenizer, length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        text = self.tokenizer.decode(input_ids[0, self.length :], skip_special_tokens=True)
        return torch.full((1,), len(function_body(text)) < len(text), device=input_ids.device)


def ends_with_header(prompt: str) -> bool:
    """Whether the prompt is Python that lacks only the body of its last function."""
    code = prompt.rstrip()
    last = code[code.rfind("\n") + 1 :]
    indent = last[: len(last) - len(last.lstrip())]
    for more in ("", f"\n{indent}    pass"):
        try:
            node: Any = ast.parse(code + more)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        while isinstance(node, ast.Module | ast.ClassDef) and node.body:
            node = node.body[-1]
        return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and all(
            map(is_placeholder_body, node.body)
        )
    return False


def is_placeholder_body(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def cut_at_token_end(prompt: str, header: bool, tokenizer: Any) -> str:
    """The prompt, cut where its tokens end as they did in training.

    Many tokenizers have one token for a line break and the indent behind it: behind a bare line break such a model
    knows nothing to say. Where the line break stays a token of its own, it is kept.
    """
    kept = prompt.rstrip()
    if not kept or not (header or "\n" in prompt[len(kept) :]):
        return prompt
    whole, longer = (tokenizer(kept + white)["input_ids"] for white in ("\n", "\n    x"))
    return kept + "\n" if longer[: len(whole)] == whole else kept


def function_body(text: str) -> str:
    """The text up to the first line at the margin behind a function's body."""
    begun, offset = False, 0
    for line in text.splitlines(keepends=True):
        if offset and begun and line[0] not in " \t\r\n#)]}":
            return text[:offset]
        begun = begun or bool(line.strip())
        offset += len(line)
    return text


def text_after_prompt(prompt: str, asked: str, text: str) -> str:
    """The completion as it follows the prompt that was given, white space at that one's end included."""
    whole = asked + text
    return whole[len(prompt) :] if whole.startswith(prompt) else text


set_model(Completions())
