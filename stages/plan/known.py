"""Known shapes of models and sizes of data sets' rows, for planning before either is on this machine.

Add a model or data set in a few lines, with the source of its figures.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# the shapes and limits in config.json of the repository
KNOWN_CONFIGS: dict[str, dict[str, Any]] = {
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
# for text whose tokenizer is not here: 3.38 in reports/pack.json (Python functions, SmolLM2's tokenizer).
CHARACTERS_PER_TOKEN = 3.4


@dataclass(frozen=True)
class StandIn:
    """Sizes of a data set's rows, without a prompt format."""

    rows: int
    # mean per row
    characters: int
    # longest row; longer ones were left out of the data set
    most_tokens: int
    # share of a row's tokens that are answer
    answer_share: float
    # where the figures are from, in words
    basis: str

    def tokens(self) -> npt.NDArray[np.int64]:
        """Return the tokens of each row, in rising order: the longest rows of a larger set, fewer the longer.

        The density falls in a straight line to nothing at `most_tokens`, and the mean is that of
        `characters`.
        """
        mean = min(self.characters / CHARACTERS_PER_TOKEN, self.most_tokens)
        width = min(1.5 * (self.most_tokens - mean), self.most_tokens - 1)
        places = (np.arange(self.rows) + 0.5) / self.rows
        return np.round(self.most_tokens - width * np.sqrt(1 - places)).astype(np.int64)


KNOWN_ROWS: dict[str, StandIn] = {
    "mlabonne/Evol-Instruct-Python-1k": StandIn(
        rows=1000,
        characters=5500,
        most_tokens=2048,
        answer_share=0.75,
        basis="1,000 rows, the longest under 2,048 tokens of a larger set, 5.5 KB each; three quarters taken "
        "as answer",
    ),
}
