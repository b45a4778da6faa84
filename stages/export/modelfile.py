"""An Ollama Modelfile with the template that training used."""

from stages.common.core.errors import UserError
from stages.common.text.settings import PromptSettings
from stages.common.text.templates import ALPACA


def ollama_modelfile(file: str, prompt: PromptSettings, stop: str) -> str:
    """Return a Modelfile of a GGUF file.

    Args:
        stop: the token that ends an answer.

    Raises:
        UserError: prompt.style=template, whose Jinja Ollama does not read.
    """
    lines = [f"FROM ./{file}", "PARAMETER temperature 0", f'PARAMETER stop "{stop}"']
    if prompt.style in ("completion", "fim"):
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    elif prompt.style == "alpaca":
        lines.append(f'TEMPLATE """{ALPACA.format(prompt="{{ .Prompt }}")}"""')
    elif prompt.style == "template":
        raise UserError(
            "prompt.style=template: Ollama reads no Jinja. Write its TEMPLATE by hand, in Go's form"
        )
    # style chat: Ollama reads the chat template that the file has
    return "\n".join(lines) + "\n"
