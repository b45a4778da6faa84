"""What is known of models and data sets without having them: the shapes of a model, the sizes of a data set's rows.

For a plan where neither is on this machine yet. A model or data set that is missing here can be added in a few lines, with
what says so.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# config.json of the repository, as far as shapes and limits go
MODELS: dict[str, dict[str, Any]] = {
    "codellama/CodeLlama-7b-hf": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32016,
        "max_position_embeddings": 16384,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    },
}
# Of text whose tokenizer is not here: 3.38 in reports/pack.json (Python functions, SmolLM2's tokenizer).
CHARACTERS_PER_TOKEN = 3.4


@dataclass(frozen=True)
class StandIn:
    """Rows of the sizes that a data set is said to have, before a prompt format is put around them."""

    rows: int
    characters: int  # of a row, on average
    most_tokens: int  # of a row: the data set was cut there
    answer_share: float  # of a row's tokens that are answer
    said: str  # where this is from

    def tokens(self) -> npt.NDArray[np.int64]:
        """Tokens of each row, longest last: the longest rows of a larger set, of which there are fewer the longer they are.

        The density falls in a straight line to nothing at `most_tokens`, and the mean is that of `characters`.
        """
        mean = min(self.characters / CHARACTERS_PER_TOKEN, self.most_tokens)
        width = min(1.5 * (self.most_tokens - mean), self.most_tokens - 1)
        places = (np.arange(self.rows) + 0.5) / self.rows
        return np.round(self.most_tokens - width * np.sqrt(1 - places)).astype(np.int64)


DATA: dict[str, StandIn] = {
    "mlabonne/Evol-Instruct-Python-1k": StandIn(
        rows=1000,
        characters=5500,
        most_tokens=2048,
        answer_share=0.75,
        said="1,000 rows, the longest under 2,048 tokens of a larger set, 5.5 KB each; three quarters taken as answer",
    ),
}
