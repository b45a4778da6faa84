"""The registered model as MLflow loads it: prompts in, completions out, by the code that evaluate scored it with.

    model = mlflow.pyfunc.load_model("models:/codetune@champion")
    model.predict(["def add(a, b):\n"])                                   # ["    return a + b\n"]
    model.predict(["def add(a, b):\n"], params={"max_new_tokens": 64})

This file is stored with the weights, the modules below (`SERVED_CODE` in register.py) and the settings of `prompt` and
`evaluate`: a prompt is rendered in the style that the model was trained in, and its answer ends by the same rules.
It needs mlflow, torch and transformers, nothing else of the repository. It is greedy.
"""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from stages.common.text.prompt import render_prompt
from stages.common.text.settings import PromptSettings
from stages.common.text.tokens import load_tokenizer
from stages.generation.completion import Completion, Detokenizer, SampleRequest
from stages.generation.generate import context_length, rows_to_generate, stop_ids
from stages.generation.settings import GenerationSettings
from stages.generation.token_budget import token_budget
from stages.generation.transformers_backend import Sampler, decode_in_parallel, load_for_generation


class Completions(PythonModel):
    def load_context(self, context: Any) -> None:
        self.folder = Path(context.artifacts["merged"])
        self.prompt = PromptSettings(**context.model_config["prompt"])
        scored, names = context.model_config["evaluate"], [one.name for one in fields(GenerationSettings)]
        known = GenerationSettings(**{name: scored[name] for name in names if name in scored})
        self.settings = replace(known, temperature=0.0, backend="transformers")
        self.tokenizer = load_tokenizer(self.folder)
        self.context_length = context_length(self.folder)
        self.stops = stop_ids(self.folder, self.tokenizer)
        self.model = load_for_generation(self.folder, self.settings.dtype)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[str]:
        """Return what follows each prompt, up to the end of the answer.

        Args:
            model_input: prompts, as its only column.
            params: max_new_tokens, how many tokens a completion may take.
        """
        limit = int((params or {}).get("max_new_tokens", self.settings.max_new_tokens))
        settings = replace(self.settings, max_new_tokens=limit)
        prompts = [str(prompt) for prompt in model_input.iloc[:, 0]]
        requests = [SampleRequest(prompt) for prompt in prompts]
        rows = rows_to_generate(
            requests, self.tokenizer, self.context_length, self.folder, self.prompt, settings
        )
        done: dict[int, Completion] = {}
        sampler = Sampler(Detokenizer(self.tokenizer), self.stops)
        tokens = token_budget(self.model, rows, settings)
        decode_in_parallel(self.model, rows, sampler, settings.batch_size, tokens, done.__setitem__)
        return [self.after_prompt(prompt, done[index].text) for index, prompt in enumerate(prompts)]

    def after_prompt(self, prompt: str, text: str) -> str:
        """Return the text as it follows the prompt: style completion may ask without the white space at its end."""
        whole = render_prompt(prompt, self.tokenizer, self.prompt) + text
        continues = self.prompt.beside_fim.style == "completion" and whole.startswith(prompt)
        return whole[len(prompt) :] if continues else text


set_model(Completions())
