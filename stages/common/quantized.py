"""The base model as training sees it, quantized, and a model that takes packs and gives their loss."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.common.attention import NAME, register
from stages.common.dequantized import dense_weight
from stages.common.errors import UserError
from stages.common.lora_linear import freeze, low_rank
from stages.common.loss import HeadLoss, labelled
from stages.common.model_check import refuse_attention, try_model
from stages.common.products import is_widened, product_dtype

QUANTIZATION_FILE = "quantization.json"
FOUR_BITS = ("nf4", "fp4")
SUBTRACTING = ("pissa", "olora")
# bitsandbytes, when first imported on a processor with AVX512-BF16, misses an optional package that asks a kernel hub
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
UNSUPPORTED_HEADS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


@dataclass(frozen=True)
class Quantization:
    """How the base is held while the adapter is trained; kept beside the adapter, because merging must repeat it."""

    quantization: str  # nf4 | fp4 | int8 | none
    double_quantization: bool  # nf4, fp4: the scales are quantized too
    dtype: str  # bfloat16 | float32: of computation, and of weights that are not quantized
    initialisation: str = "default"  # of the adapter: pissa and olora have subtracted s B0 A0 from W before
    quant_storage: str = "uint8"  # nf4, fp4: dtype that holds the bits; under FSDP it is `dtype`

    @property
    def subtracts(self) -> bool:
        """Whether the base is Q(W - s B0 A0), A0 and B0 in the adapter's initial.safetensors; else it is Q(W)."""
        return self.initialisation in SUBTRACTING

    def save(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"
        (folder / QUANTIZATION_FILE).write_text(text, "utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Quantization":
        """Raises UserError where the adapter's folder lacks the file, or it holds something else."""
        path = folder / QUANTIZATION_FILE
        try:
            return cls(**json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file. `dvc repro train` makes it.") from None
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: not what train writes ({error}). Run `dvc repro train`.") from None


def quiet() -> None:
    """Leave transformers' bars and advice away; what it says of this project's settings is known."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def load_model(
    folder: Path, quantization: Quantization, attention: str = "auto", on_host: bool = False
) -> Any:
    """Load a model folder with attention per document; linear layers but the head in NF4 where asked.

    Args:
        attention: the implementation that it will be given, as `PackedModel` takes it.
        on_host: into the host's memory, not the GPU's, for a model that is moved there in parts.

    Raises:
        UserError: no model there, or one whose head or attention this project does not know.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM

    quiet()
    register()
    place = "cpu" if on_host else device()
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no model here (config.json is missing). `dvc repro base` makes it.")
    try:
        config = AutoConfig.from_pretrained(folder)
        refuse_unknown_head(folder, config)
        refuse_attention(folder, config, attention, quantization.dtype)
        options = load_options(quantization)
        model = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation=NAME, device_map={"": place}, **options
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{folder}: the model does not load: {error}") from error
    never_repack(model)
    freeze(model)
    try_model(PackedModel(model, attention if place == device() else "auto"), folder)
    return model.requires_grad_(False)


def load_options(quantization: Quantization) -> dict[str, Any]:
    """What `from_pretrained` is told of dtype and quantization."""
    from transformers import BitsAndBytesConfig

    kind, dtype = quantization.quantization, getattr(torch, quantization.dtype)
    config = None
    if kind in FOUR_BITS:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=kind,
            bnb_4bit_use_double_quant=quantization.double_quantization,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_storage=quantization.quant_storage,
        )
    elif kind == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    return {"dtype": dtype} | ({"quantization_config": config} if config else {})


def quantized_weight(weight: torch.Tensor, quantization: Quantization) -> torch.Tensor:
    """The parameter that `load_model` makes of a linear layer's weight (out, in): cast, then quantized.

    Block by block and row by row, nothing else of the model is needed: one weight at a time is as good as all.
    """
    cast = weight.to(getattr(torch, quantization.dtype)).contiguous()
    kind = quantization.quantization
    if kind == "none":
        return nn.Parameter(cast.to(device()), requires_grad=False)
    from bitsandbytes.nn import Int8Params, Params4bit

    if kind == "int8":
        return Int8Params(cast, requires_grad=False).to(device())
    return Params4bit(
        cast,
        requires_grad=False,
        quant_type=kind,
        compress_statistics=quantization.double_quantization,
        quant_storage=getattr(torch, quantization.quant_storage),
    ).to(device())


def round_trip(weight: torch.Tensor, quantization: Quantization) -> torch.Tensor:
    """The weight (out, in) that a layer of the loaded model computes with, unrounded: float32."""
    return dense_weight(quantized_weight(weight, quantization), torch.float32)


def residual(
    weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float, quantization: Quantization
) -> torch.Tensor:
    """W - s B0 A0, which PiSSA and OLoRA leave of a base weight before it is quantized.

    Subtracted in float32 from what is loaded, and rounded once to the dtype of computation.
    """
    dtype = getattr(torch, quantization.dtype)
    return (weight.to(dtype).float() - low_rank(a, b, scale)).to(dtype)


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def refuse_unknown_head(folder: Path, config: Any) -> None:
    for name in UNSUPPORTED_HEADS:
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise UserError(f"{folder}: config.json sets {name}, which the loss does not know yet")


def never_repack(model: nn.Module) -> None:
    """Keep 4-bit weights as they are in `eval()`.

    With AVX512-BF16 bitsandbytes repacks them in place at the first evaluation, for a kernel that computes
    something slightly different: training would go on with another function than before.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


class PackedModel(nn.Module):
    """A causal language model that takes rows made by `flatten`, wherever these are."""

    def __init__(self, model: nn.Module, attention: str = "auto") -> None:
        super().__init__()
        self.model = model  # a transformers model, or a PeftModel around it
        self.attention = attention  # how it is computed: train.attention
        self._head: torch.Tensor | None = None

    @property
    def causal(self) -> Any:
        get = getattr(self.model, "get_base_model", None)
        return get() if get else self.model

    @property
    def device(self) -> torch.device:
        return self.causal.device

    def hidden(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, lengths: Sequence[int]
    ) -> torch.Tensor:
        """States before the head: (1, tokens, size)."""
        output = self.causal.base_model(
            input_ids=input_ids.to(self.device),
            position_ids=position_ids.to(self.device),
            lengths=tuple(lengths),
            attention=self.attention,
            use_cache=False,
        )
        return output.last_hidden_state

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        lengths: Sequence[int],
        labels: torch.Tensor,
    ) -> torch.Tensor:
        """Cross entropy summed over the labelled tokens, float32, in nats."""
        positions, targets = labelled(labels.to(self.device))
        states = self.hidden(input_ids, position_ids, lengths)[0, positions]
        return HeadLoss.apply(states, self.head(), targets, torch.is_grad_enabled())

    def head(self) -> torch.Tensor:
        """Weight (vocabulary, size) of the frozen head as a factor of products; one that has to be widened is kept."""
        weight = self.causal.get_output_embeddings().weight
        if not is_widened(weight):
            return weight
        if self._head is None:
            self._head = weight.detach().to(product_dtype(weight.dtype, weight.device))
        return self._head


@torch.no_grad()
def mean_loss(model: PackedModel, rows: Sequence[dict[str, Any]]) -> float | None:
    """Mean cross entropy of the labelled tokens of all rows, without dropout; None where no token has a label."""
    was_training = model.training
    model.eval()
    try:
        tokens = sum(len(labelled(row["labels"])[1]) for row in rows)
        total = sum(float(model(**row)) for row in rows)
    finally:
        model.train(was_training)
    return total / tokens if tokens else None
