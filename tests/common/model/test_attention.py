"""Attention within documents: every implementation gives what its definition gives, and a pack what its documents give.

`flex` and `flash` compute on CUDA alone. Here `flex` runs uncompiled, with PyTorch's ban on a backward pass on CPUs
lifted, and `flash` through a stand-in of the same signature; both are also given shapes without data.
"""

import inspect
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from stages.common.core.errors import UserError
from stages.common.model.attention import kernels
from stages.common.model.attention.dense import BLOCK_TOKENS, lay_out_documents
from stages.common.model.attention.interface import (
    ATTENTION_NAME,
    DENSE_TOKENS,
    IMPLEMENTATIONS,
    SUPPORTED_FEATURES,
    choose_attention,
    document_attention,
)
from stages.common.model.attention.kernels import AttentionSpec, block_mask, document_boundaries
from stages.common.model.loss import Head, HeadLoss
from stages.common.model.packed_model import PackedModel
from stages.common.model.packs import IGNORED, flatten_packs
from stages.train.settings import ATTENTIONS, TrainSettings
from tests.helpers.lora_gradients import LENGTHS, adapted_model, assert_close, gradients, pack, solo_packs


@pytest.fixture(autouse=True)
def runs_on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.set_num_threads(1)  # on tiny tensors threads only wait for each other
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *tensors: None)
    monkeypatch.setattr(kernels, "flash_function", lambda: flash_stand_in)
    yield
    for cached in (block_mask, document_boundaries, kernels.window_mask):
        cached.cache_clear()


def flash_stand_in(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """varlen_attn as its documentation has it: (tokens, heads, size), windows of so many tokens to each side."""
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert enable_gqa == (query.shape[1] != key.shape[1])
    starts = cu_seq_q.tolist()
    lengths = [end - start for start, end in pairwise(starts)]
    assert max_q == max_k == max(lengths)
    assert scale is not None
    left, right = window_size
    assert right == 0  # causal
    window = None if left < 0 else left + 1
    heads = [t.transpose(0, 1)[None] for t in (query, key, value)]
    return defined(*heads, AttentionSpec(tuple(lengths), scale, window))[0]


def defined(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: AttentionSpec
) -> torch.Tensor:
    """softmax(mask(cap(scale Q K^T))) V over the whole row, (1, tokens, heads, size)."""
    number = torch.repeat_interleave(torch.arange(len(documents.lengths)), torch.tensor(documents.lengths))
    distance = torch.arange(len(number))[:, None] - torch.arange(len(number))
    seen = (number[:, None] == number) & (distance >= 0)
    if documents.window is not None:
        seen &= distance < documents.window
    repeats = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(repeats, dim=1) for t in (key, value))
    scores = query @ key.transpose(2, 3) * documents.scale
    if documents.softcap is not None:
        scores = documents.softcap * torch.tanh(scores / documents.softcap)
    return (scores.masked_fill(~seen, float("-inf")).softmax(-1) @ value).transpose(1, 2)


def projections(tokens: int, heads: int, groups: int, size: int) -> list[torch.Tensor]:
    """Query, key, value as a layer makes them: memory runs by token."""
    torch.manual_seed(tokens)
    return [torch.randn(1, tokens, n, size).transpose(1, 2) for n in (heads, groups, groups)]


SHAPES: list[
    tuple[list[int], int, int, dict[str, Any]]
] = [  # lengths, heads, key heads, what the layer asks for
    (LENGTHS, 6, 2, {}),
    ([1], 4, 2, {}),
    ([1, 1, 1], 4, 4, {}),
    ([BLOCK_TOKENS + 3], 2, 1, {}),
    ([90, 3, 71, 132, 90, 131, 1], 6, 2, {}),  # dense: three calls, in each of which some are padded
    ([3, DENSE_TOKENS + 6, 1], 3, 1, {}),
    (LENGTHS, 6, 2, {"window": 7}),
    ([130, 200, 1], 3, 1, {"window": 100}),
    (LENGTHS, 6, 2, {"softcap": 0.5}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "lengths", "heads", "groups", "asked"),
    [
        (name, *shape)
        for name in IMPLEMENTATIONS
        for shape in SHAPES
        if set(shape[3]) <= set(SUPPORTED_FEATURES[name])
    ],
)
def test_values_and_gradients_are_those_of_the_definition(
    name: str, lengths: list[int], heads: int, groups: int, asked: dict[str, Any]
) -> None:
    documents = AttentionSpec(tuple(lengths), 0.3, **asked)
    inputs = [t.requires_grad_() for t in projections(sum(lengths), heads, groups, 16)]
    wanted = defined(*inputs, documents)
    given = torch.randn_like(wanted)
    expected = torch.autograd.grad(wanted, inputs, given)
    ours = IMPLEMENTATIONS[name](*inputs, documents)
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)
    largest = max(float(t.abs().max()) for t in expected)
    for a, b in zip(torch.autograd.grad(ours, inputs, given), expected, strict=True):
        assert (a - b).abs().max() <= 1e-5 * largest


def test_documents_of_about_one_length_are_computed_together() -> None:
    layout = lay_out_documents((90, 3, 71, 132, 90, 131, 1))
    assert [(group.documents, group.length) for group in layout.groups] == [(2, 132), (3, 90), (2, 3)]
    assert [group.start for group in layout.groups] == [0, 264, 534]
    tokens = torch.arange(1.0, 519.0)[None, None, :, None]
    arranged = layout.arrange(tokens)
    assert arranged.shape == (540, 1, 1)
    assert (arranged == 0).sum() == 540 - 518, "padding is zero"
    assert torch.equal(layout.restore(arranged), tokens.transpose(1, 2))
    one = lay_out_documents((40, 40))
    assert [(group.documents, group.length) for group in one.groups] == [(2, 40)]
    own = tokens[:, :, :80].contiguous()
    assert one.arrange(own).data_ptr() == own.data_ptr(), "nothing to pad or to move"


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_bfloat16_is_as_near_as_its_rounding(name: str) -> None:
    documents = AttentionSpec(tuple(LENGTHS), 0.3)
    inputs = projections(sum(LENGTHS), 6, 2, 16)
    wanted = defined(*inputs, documents)
    ours = IMPLEMENTATIONS[name](*(t.bfloat16() for t in inputs), documents)
    assert ours.dtype == torch.bfloat16
    assert (ours.float() - wanted).abs().max() < 0.02 * wanted.abs().max()


@pytest.fixture(scope="module")
def trained(tiny_model: Any) -> Any:
    """The tiny model with an adapter, and what transformers' own attention gives for each document alone."""
    model = adapted_model(tiny_model).train()
    whole = pack(LENGTHS)
    logits, loss = alone(model, whole)
    return SimpleNamespace(model=model, pack=whole, logits=logits, loss=loss, gradients=gradients(model))


def alone(model: Any, whole: dict[str, list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and summed loss of the documents one by one, by transformers' eager attention; gradients in the model."""
    causal = PackedModel(model).causal
    causal.set_attn_implementation("eager")
    logits, losses = [], []
    for part in solo_packs(whole):
        out = causal(torch.tensor([part["input_ids"]]), use_cache=False).logits[0]
        labels = torch.tensor(part["labels"])[1:]
        losses.append(cross_entropy(out[:-1], labels, ignore_index=IGNORED, reduction="sum"))
        losses[-1].backward()
        logits.append(out.detach())
    causal.set_attn_implementation(ATTENTION_NAME)
    return torch.cat(logits), torch.stack(losses).sum().detach()


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", [*IMPLEMENTATIONS, "auto", "dense in blocks", "auto, long"])
def test_a_pack_gives_what_its_documents_give(
    trained: Any, name: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "dense in blocks":
        monkeypatch.setattr("stages.common.model.attention.dense.BLOCK_TOKENS", 7)
    if name == "auto, long":
        monkeypatch.setattr("stages.common.model.attention.interface.DENSE_TOKENS", 4)
    model = PackedModel(trained.model, name.split()[0].strip(","))
    with checkpointed(model, checkpointing):
        row = flatten_packs([trained.pack])
        with torch.no_grad():
            states = model.hidden(row["input_ids"], row["position_ids"], row["lengths"])[0]
            logits = states @ model.causal.get_output_embeddings().weight.t()
        loss = model(**row)
        loss.backward()
        whole = gradients(model)
        for part in solo_packs(trained.pack):
            model(**flatten_packs([part])).backward()
        one_by_one = gradients(model)
    torch.testing.assert_close(logits, trained.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss.detach(), trained.loss, rtol=1e-5, atol=0)
    assert_close(whole, trained.gradients)
    assert_close(one_by_one, trained.gradients)


class checkpointed:
    """Gradient checkpointing as training switches it on."""

    def __init__(self, model: PackedModel, on: bool) -> None:
        self.model, self.on = model, on

    def __enter__(self) -> None:
        if self.on:
            self.model.causal.activation_checkpointing_enable()

    def __exit__(self, *error: Any) -> None:
        self.model.causal.activation_checkpointing_disable()


def test_checkpointing_computes_each_layer_twice_and_keeps_no_probabilities(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AttentionInterface

    calls: list[int] = []

    def counted(module: Any, *inputs: Any, **options: Any) -> Any:
        calls.append(module.layer_idx)
        return document_attention(module, *inputs, **options)

    monkeypatch.setitem(AttentionInterface._global_mapping, ATTENTION_NAME, counted)
    model, row = PackedModel(trained.model, "dense"), flatten_packs([trained.pack])
    layers = model.causal.config.num_hidden_layers
    kept: list[list[torch.Size]] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[-1].append(tensor.shape)
        return tensor

    for on in (False, True):
        calls.clear()
        kept.append([])
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with checkpointed(model, on):
            with hooks:
                loss = model(**row)
            assert len(calls) == layers
            loss.backward()
        assert len(calls) == layers * (1 + on)
    gradients(model)
    groups, heads = model.causal.config.num_key_value_heads, model.causal.config.num_attention_heads
    # all five are computed together, padded to the longest
    probabilities = torch.Size([len(LENGTHS) * groups, heads // groups * max(LENGTHS), max(LENGTHS)])
    assert kept[0].count(probabilities) == layers
    assert probabilities not in kept[1]
    assert len(kept[1]) < len(kept[0]) / 4


def test_masks_and_boundaries_are_made_once_per_row(trained: Any) -> None:
    row = flatten_packs([trained.pack])
    for name, made in (("flash", document_boundaries), ("flex", block_mask)):
        made.cache_clear()
        PackedModel(trained.model, name)(**row).backward()
        assert made.cache_info().misses == 1
    gradients(trained.model)


def test_a_token_does_not_reach_the_next_document(trained: Any) -> None:
    for name in ("dense", "sdpa", "flex"):
        model = PackedModel(trained.model, name)
        first, second = flatten_packs([trained.pack]), flatten_packs([trained.pack])
        second["input_ids"][0, : LENGTHS[0]] += 7
        with torch.no_grad():
            a, b = (model.hidden(r["input_ids"], r["position_ids"], r["lengths"])[0] for r in (first, second))
        assert not torch.equal(a[: LENGTHS[0]], b[: LENGTHS[0]])
        assert torch.equal(a[LENGTHS[0] :], b[LENGTHS[0] :])


def test_dropout_is_computed_or_refused(trained: Any) -> None:
    row = flatten_packs([trained.pack])
    layers = [m for m in trained.model.modules() if hasattr(m, "attention_dropout")]
    for layer in layers:
        layer.attention_dropout = 0.5
    try:
        results = []
        for on in (False, True):
            model = PackedModel(trained.model)  # auto goes to sdpa
            with checkpointed(model, on):
                torch.manual_seed(3)
                model(**row).backward()
            results.append(gradients(model))
        assert_close(*results)  # recomputed with the same probabilities dropped
        assert not torch.allclose(results[0][0], trained.gradients[0], rtol=0.1)
        for name in ("dense", "flex", "flash"):
            with pytest.raises(
                UserError, match=rf"train\.attention={name} on cpu does not support dropout.*sdpa"
            ):
                PackedModel(trained.model, name)(**row)
        model.eval()
        with torch.no_grad():
            assert float(model(**row)) == pytest.approx(float(trained.loss), rel=1e-5)
    finally:
        trained.model.train()
        for layer in layers:
            layer.attention_dropout = 0.0


def queries(device: str, dtype: torch.dtype, size: int) -> Any:
    return SimpleNamespace(device=torch.device(device), dtype=dtype, shape=(1, 4, 8, size))


@pytest.mark.parametrize(
    ("device", "dtype", "size", "longest", "asked", "ampere", "wanted"),
    [
        ("cpu", torch.float32, 64, 1024, {}, False, "dense"),
        ("cpu", torch.bfloat16, 64, 1025, {}, False, "sdpa"),
        ("cpu", torch.bfloat16, 64, 1024, {"window": 512}, False, "sdpa"),
        ("cpu", torch.bfloat16, 64, 8, {"dropout": 0.1}, False, "sdpa"),
        ("cuda", torch.bfloat16, 64, 4096, {}, True, "flash"),
        ("cuda", torch.float16, 256, 4096, {"window": 512}, True, "flash"),
        ("cuda", torch.bfloat16, 264, 4096, {}, True, "sdpa"),
        ("cuda", torch.bfloat16, 60, 4096, {}, True, "sdpa"),
        ("cuda", torch.float32, 64, 4096, {}, True, "sdpa"),
        ("cuda", torch.bfloat16, 64, 4096, {}, False, "sdpa"),
        ("cuda", torch.bfloat16, 64, 4096, {"dropout": 0.1}, True, "sdpa"),
        ("cuda", torch.bfloat16, 64, 4096, {"softcap": 30.0}, True, "flex"),
    ],
)
def test_auto_chooses_the_fastest_that_runs(
    device: str,
    dtype: torch.dtype,
    size: int,
    longest: int,
    asked: dict[str, Any],
    ampere: bool,
    wanted: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "flash_available_on", lambda device: ampere)
    assert (
        choose_attention("auto", queries(device, dtype, size), AttentionSpec((longest,), 1.0, **asked))
        == wanted
    )


def test_unsupported_attention_is_an_error() -> None:
    q = torch.zeros(1, 2, 6, 4)
    module = torch.nn.Module()
    for call, message in (
        ({"attention_mask": torch.ones(1, 6), "lengths": [6]}, "no mask"),
        ({"query": q.repeat(2, 1, 1, 1), "lengths": [6]}, "one row"),
        ({}, "sum to the row's 6 tokens"),
        ({"lengths": [5]}, "sum to the row's 6 tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            document_attention(module, **{"query": q, "key": q, "value": q, "attention_mask": None, **call})
    for options, message in (
        (
            {"sliding_window": 5, "attention": "dense"},
            r"dense on cpu does not support window.*6 tokens.*sdpa, flex, flash",
        ),
        ({"softcap": 30.0}, r"auto on cpu does not support softcap.*one that does: flex"),
        (
            {"softcap": 30.0, "dropout": 0.1},
            "None does; train.attention=auto then reads one document at a time",
        ),
        ({"s_aux": q}, "uses s_aux"),
        ({"is_causal": False}, "not causal"),
    ):
        with pytest.raises(UserError, match=message):
            document_attention(module, q, q, q, None, lengths=[6], **options)
    document_attention(module, q, q, q, None, lengths=[6], sliding_window=6, attention="dense")
    with pytest.raises(ValueError, match=r"train\.attention is .eager."):
        TrainSettings(attention="eager")
    assert ("auto", *IMPLEMENTATIONS) == ATTENTIONS


def test_flash_is_called_as_pytorch_declares_it(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention.varlen import varlen_attn

    ours, theirs = (inspect.signature(f).parameters for f in (flash_stand_in, varlen_attn))
    assert list(ours)[:7] == list(theirs)[:7]
    for name, parameter in ours.items():
        assert (parameter.kind, parameter.default) == (theirs[name].kind, theirs[name].default)
    monkeypatch.setattr(kernels, "flash_function", lambda: varlen_attn)
    q, k, v = (t.to("meta", torch.bfloat16).requires_grad_() for t in projections(sum(LENGTHS), 6, 2, 16))
    for window in (None, 7):
        out = kernels.flash(q, k, v, AttentionSpec(tuple(LENGTHS), 0.25, window))
        assert (out.shape, out.dtype) == ((1, sum(LENGTHS), 6, 16), torch.bfloat16)
        out.sum().backward()
        assert k.grad is not None
        assert k.grad.shape == k.shape
    starts = document_boundaries(tuple(LENGTHS), torch.device("cpu"))
    assert starts.tolist() == [0, 5, 6, 23, 32, 72]


def test_every_row_reaches_the_device_of_the_model(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device without data a model computes shapes; a tensor left on the CPU would show."""
    from torch.nn.attention.varlen import varlen_attn
    from transformers import AutoConfig, AutoModelForCausalLM

    monkeypatch.setattr(kernels, "flash_function", lambda: varlen_attn)
    with torch.device("meta"):
        causal = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(tiny_model), attn_implementation=ATTENTION_NAME, dtype=torch.bfloat16
        )
    row, seen = flatten_packs([pack(LENGTHS)]), []
    causal.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.extend(
            t.device.type for t in kwargs.values() if torch.is_tensor(t)
        ),
        with_kwargs=True,
    )
    for name in ("sdpa", "flash"):
        states = PackedModel(causal, name).hidden(row["input_ids"], row["position_ids"], row["lengths"])
        assert states.device.type == "meta"
        states.sum().backward()
    assert seen == ["meta"] * 4
    hidden, head = torch.zeros(9, 8, device="meta", requires_grad=True), torch.zeros(50, 8, device="meta")
    loss = HeadLoss.apply(hidden, Head(head), torch.zeros(9, dtype=torch.int64, device="meta"), True)
    loss.backward()
    assert loss.device.type == hidden.grad.device.type == "meta"


def test_labels_of_rows_reach_the_device_of_the_model(trained: Any) -> None:
    from stages.merge.parity import read_states

    class Elsewhere:
        """A tensor of another device: it can be moved, and nothing else."""

        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def to(self, device: torch.device) -> torch.Tensor:
            assert device == torch.device("cpu")
            return self.tensor

    row = flatten_packs([trained.pack])
    moved = {name: Elsewhere(t) if torch.is_tensor(t) else t for name, t in row.items()}
    model = PackedModel(trained.model)
    with torch.no_grad():
        assert torch.equal(model(**moved), model(**row))
    moved["labels"] = row["labels"]  # the gate finds the labelled tokens on the host
    seen = [read_states(lambda: trained.model, [one]).states for one in (moved, row)]
    assert torch.equal(*seen)
