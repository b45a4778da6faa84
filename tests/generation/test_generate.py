"""Generation: batching changes no token, rows end with their function, each sample has its own random stream."""

import copy
import ctypes
import math
import random
import shutil
import sys
import types
from collections import Counter, deque
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from stages.common.core.errors import UserError
from stages.common.text.prompt import render_prompt
from stages.common.text.settings import PromptSettings
from stages.common.text.tokens import encode_prompts, load_tokenizer
from stages.evaluate.settings import EvaluateSettings
from stages.generation.completion import BatchRow, Completion, Detokenizer, SampleRequest, finish_row
from stages.generation.generate import generate, random_stream_key, stop_ids
from stages.generation.packed_linear import PackedLinear, pack_linears
from stages.generation.slots import SLACK_COLUMNS, OneRow, Slots, make_slots
from stages.generation.stopping import LOOP_TOKENS, Ending, ending_for, in_loop
from stages.generation.token_budget import MAX_READ_TOKENS, measure_token, token_budget
from stages.generation.transformers_backend import (
    Sampler,
    decode_in_parallel,
    decode_rows,
    load_for_generation,
    next_chunk,
    split_rows,
)
from tests.helpers.tiny_project import generated_functions

NEVER = Ending("answer", False)  # ends at a closed code fence, which random models do not write


def prompts(count: int, seed: int = 3) -> list[str]:
    """Prompts of many lengths, from one token to about 150."""
    rng = random.Random(seed)
    texts = [row["prompt"] + row["completion"] for row in generated_functions(count, seed)]
    return [text[: rng.choice([3, 20, len(text) // 2, len(text)])] for text in texts]


def sample_requests(texts: list[str]) -> list[SampleRequest]:
    return [SampleRequest(text) for text in texts]


def settings(**values) -> EvaluateSettings:
    return EvaluateSettings(**{"dtype": "float32", "max_new_tokens": 24, **values})


def one_by_one(model, ids: list[list[int]], stops: set[int], new_tokens: int) -> list[list[int]]:
    """Return greedy tokens by transformers' own `generate`, one prompt at a time."""
    made = []
    for prompt in ids:
        output = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=new_tokens,
            eos_token_id=sorted(stops),
            pad_token_id=0,
        )
        made.append(output[0, len(prompt) :].tolist())
    return made


def in_batches(model, tokenizer, ids, stops: set[int], batch: int, new_tokens: int, tokens=math.inf):
    rows = [BatchRow(i, prompt, NEVER, new_tokens) for i, prompt in enumerate(ids)]
    decode_rows(model, rows, Sampler(Detokenizer(tokenizer), stops), batch, tokens, lambda *_: None)
    return [row.new for row in rows]


@pytest.fixture(scope="module", autouse=True)
def one_core():
    """Tiny models are slower on two cores than on one."""
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(cores)


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def model(tiny_model):
    """The tiny model with random weights large enough that it does not repeat one token."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.3)
    return model


@pytest.fixture(scope="module")
def packed(model):
    packed = copy.deepcopy(model)
    return pack_linears(packed)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3, 8, 64])
def test_batched_tokens_equal_generate_one_by_one(model, packed, tokenizer, batch):
    ids = encode_prompts(prompts(20), tokenizer)
    stops = set(range(40))  # a sixteenth of the vocabulary: rows end at all lengths
    expected = one_by_one(model, ids, stops, 40)
    assert len({len(tokens) for tokens in expected}) > 8
    assert max(Counter(expected[0]).values()) < 20
    assert in_batches(packed, tokenizer, ids, stops, batch, 40) == expected


def test_packed_weights_give_the_same_products():
    torch.manual_seed(0)
    for bias, dtype in [(True, torch.float32), (False, torch.float32), (True, torch.bfloat16)]:
        linear = torch.nn.Linear(48, 40, bias=bias, dtype=dtype)
        model = torch.nn.Sequential(linear, torch.nn.ReLU())
        x = torch.randn(3, 5, 48, dtype=dtype)
        with torch.inference_mode():
            expected = model(x)
            packs = dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
            assert type(pack_linears(model)[0]) is (PackedLinear if packs else torch.nn.Linear)
            torch.testing.assert_close(
                model(x), expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5
            )


def test_packing_leaves_the_embedding_of_a_tied_head(model, packed):
    ids = torch.tensor([[5, 6, 7, 8]])
    assert type(packed.lm_head) is PackedLinear
    with torch.inference_mode():
        torch.testing.assert_close(packed(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "sliding"])
def test_other_architectures(tokenizer, kind):
    torch.manual_seed(1)
    size = {"vocab_size": len(tokenizer), "initializer_range": 0.3}
    if kind == "gpt2":
        config = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=256, **size)
        model = GPT2LMHeadModel(config).eval()
    else:
        config = MistralConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=16,
            **size,
        )
        model = MistralForCausalLM(config).eval()
    ids = encode_prompts(prompts(12), tokenizer)
    stops = set(range(40))
    assert in_batches(model, tokenizer, ids, stops, 5, 30) == one_by_one(model, ids, stops, 30)


def test_a_model_without_keys_and_values_runs_one_row_at_a_time(tokenizer):
    torch.manual_seed(2)
    config = MambaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=8, initializer_range=0.3
    )
    model = MambaForCausalLM(config).eval()
    expected = copy.deepcopy(model)
    pack_linears(model)
    mixer = model.backbone.layers[0].mixer
    # Its weight is multiplied outside the layer
    assert type(mixer.dt_proj) is PackedLinear
    assert torch.equal(mixer.dt_proj.weight, expected.backbone.layers[0].mixer.dt_proj.weight)
    assert measure_token(model).kept == 1  # its state does not grow
    assert isinstance(make_slots(model, 8, math.inf), OneRow)
    ids = encode_prompts(prompts(4), tokenizer)
    stops = set(range(40))
    assert in_batches(model, tokenizer, ids, stops, 8, 12) == one_by_one(expected, ids, stops, 12)


def test_a_model_whose_state_generation_does_not_find_is_refused(tmp_path):
    from transformers import RwkvConfig, RwkvForCausalLM

    size = {"vocab_size": 64, "hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2}
    torch.manual_seed(0)
    RwkvForCausalLM(RwkvConfig(**size)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="RwkvForCausalLM keeps its state where generation does not find it"):
        load_for_generation(tmp_path, "float32")


def test_a_hybrid_takes_a_row_at_a_time(tokenizer):
    """Falcon-H1's layers keep keys, values and the state of a recurrence."""
    from transformers import FalconH1Config, FalconH1ForCausalLM

    torch.manual_seed(3)
    mamba = {"d_ssm": 64, "n_heads": 8, "d_head": 8, "d_state": 8, "n_groups": 1, "chunk_size": 8}
    config = FalconH1Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        **{f"mamba_{name}": value for name, value in mamba.items()},
    )
    model = FalconH1ForCausalLM(config).eval()
    ids, stops = encode_prompts(prompts(3), tokenizer), set(range(40))
    expected = one_by_one(model, ids, stops, 8)
    assert isinstance(make_slots(model, 8, math.inf), OneRow)
    assert in_batches(pack_linears(model), tokenizer, ids, stops, 8, 8) == expected


@pytest.mark.slow
def test_columns_are_moved_to_the_front_when_they_run_out(model, tokenizer):
    """Many short prompts through two slots: the cache is used many times over."""
    ids = encode_prompts([text[:12] for text in prompts(40)], tokenizer)
    stops = set(range(80))
    assert sum(map(len, one_by_one(model, ids, stops, 20))) / 2 > 12 + 20 + SLACK_COLUMNS
    assert in_batches(model, tokenizer, ids, stops, 2, 20) == one_by_one(model, ids, stops, 20)


def test_a_finished_rows_slot_goes_to_the_last_row(model):
    slots = Slots(model, 4, math.inf)
    assert slots.make_room(16) == 4
    with torch.inference_mode():
        slots.admit([[5, 6, 7], [5, 6], [8, 9], [9]])
        assert slots.starts.tolist() == [0, 1, 1, 2]
        assert slots.drop([0, 2]) == [3, 1]
        assert slots.rows == 2
        assert slots.starts.tolist() == [2, 1]
        assert slots.window.first == 1
        logits = slots.step(torch.tensor([10, 11]))
        alone = [model(torch.tensor([ids])).logits[0, -1] for ids in ([9, 10], [5, 6, 11])]
    torch.testing.assert_close(logits, torch.stack(alone), rtol=1e-4, atol=1e-4)


def test_samples_of_one_prompt_share_its_prefill(model, monkeypatch):
    slots = Slots(model, 8, math.inf)
    slots.make_room(16)
    seen = []
    original = slots.forward
    monkeypatch.setattr(
        slots, "forward", lambda ids, *rest: (seen.append(ids.shape), original(ids, *rest))[1]
    )
    with torch.inference_mode():
        logits = slots.admit([[5, 6, 7]] * 3 + [[8, 9]])
    assert seen == [(2, 3)]
    assert logits.shape[0] == slots.rows == 4
    assert torch.equal(logits[0], logits[2])
    assert not torch.equal(logits[0], logits[3])


@pytest.mark.slow
def test_long_rows_take_the_slots_of_several_short_ones(model, packed, tokenizer, monkeypatch):
    """A cache too small for all rows changes no token, and is laid out anew as the rows grow shorter."""
    ids = sorted(encode_prompts(prompts(24), tokenizer), key=len, reverse=True)
    stops = set(range(40))
    expected = one_by_one(model, ids, stops, 40)
    shapes = []
    original = Slots.make_room

    def watched(self, longest):
        slots = original(self, longest)
        shapes.append((slots, self.window.columns))
        return slots

    monkeypatch.setattr(Slots, "make_room", watched)
    tokens = 3 * (len(ids[0]) + 40 + SLACK_COLUMNS)
    assert in_batches(packed, tokenizer, ids, stops, 16, 40, tokens) == expected
    assert all(slots * columns <= tokens for slots, columns in shapes)
    assert shapes[0][0] == 3
    assert shapes[-1][0] > 3


@pytest.mark.slow
def test_the_measured_peak_is_below_the_budget():
    """One prompt of 1,500 tokens among 60 short ones, as in MBPP: its length is not every slot's."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=128,
        max_position_embeddings=4096,
    )
    wide = MistralForCausalLM(config).eval()
    rows = [BatchRow(i, [1 + i] * (1500 if i == 0 else 20), NEVER, 40) for i in range(61)]
    state = 4 * 128 * 4
    cost = measure_token(wide)
    assert cost.kept == 8 * 2 * state + 2 * state
    budget = 0.3 * 2**30  # slots of one width for all would take 61 x 1,604 tokens: 3.4 GiB
    tokens = token_budget(wide, rows, settings(memory_gib=0.3))
    assert tokens * cost.kept < budget - 1500 * cost.read
    sampler = Sampler(None, set())
    sampler.append = lambda row, token: (
        row.new.append(token) or ("length" if len(row.new) == row.limit else None)
    )
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.generation.transformers_backend.finish_row", lambda row, *_: row)
        decode_rows(wide, rows[1:3], sampler, 64, tokens, lambda *_: None)  # what torch keeps
        rows[1].new, rows[2].new = [], []
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak is counted from here
        before = memory_kib("VmRSS")
        decode_in_parallel(wide, rows, sampler, 64, tokens, lambda index, _: made.append(index))
    assert sorted(made) == list(range(61))
    peak = (memory_kib("VmHWM") - before) * 1024
    assert 0.3 * budget < peak < budget


def memory_kib(key: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def test_a_row_that_cannot_fit_is_an_error_with_its_problem_and_need(model, tiny_model):
    rows = [BatchRow(0, [1] * 5, NEVER, 24), BatchRow(1, [1] * 400, NEVER, 24, name="T/9")]
    cost = measure_token(model)
    logits = 2 * model.config.vocab_size * 24
    gib = ((424 + SLACK_COLUMNS) * cost.kept + 2 * MAX_READ_TOKENS * cost.read + logits) / 2**30
    assert token_budget(model, rows, settings(memory_gib=gib * 1.001)) > 424 + SLACK_COLUMNS
    message = rf"T/9 needs {gib:.3f} GiB for 400 tokens of prompt and 24 of answer, .* may take {gib / 2:.3f}"
    with pytest.raises(UserError, match=message):
        token_budget(model, rows, settings(memory_gib=gib / 2))
    requests = [SampleRequest("def f(x):\n", 0, "T/1")]
    with pytest.raises(UserError, match=r"T/1 needs .* \(evaluate\.memory_gib\)\. Raise"):
        generate(requests, tiny_model, PromptSettings(), settings(memory_gib=1e-6))


def test_prefill_is_bounded_in_tokens():
    rows = [BatchRow(i, [i] * (MAX_READ_TOKENS // 2), NEVER, 1) for i in range(5)]
    assert [len(next_chunk(deque(rows[n:]), 100)) for n in (0, 4)] == [2, 1]
    assert [len(next_chunk(deque([rows[0]] * 50), room)) for room in (100, 7)] == [50, 7]


def test_generate_gives_completions_in_order(tiny_model):
    raw = [row["prompt"] for row in generated_functions(7, 5)]
    one = generate(sample_requests(raw), tiny_model, PromptSettings(), settings(batch_size=1))
    many = generate(sample_requests(raw), tiny_model, PromptSettings(), settings(batch_size=4))
    assert one == many
    assert (
        generate(sample_requests(raw[::-1]), tiny_model, PromptSettings(), settings(batch_size=3))
        == one[::-1]
    )
    assert {completion.stop for completion in one} <= {"eos", "function_end", "loop", "length"}
    assert all(1 <= completion.new_tokens <= 24 for completion in one)


def test_bfloat16_is_repeatable(tiny_model):
    raw = [row["prompt"] for row in generated_functions(9, 5)]
    runs = [
        generate(sample_requests(raw), tiny_model, PromptSettings(), settings(dtype="bfloat16"))
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


def test_two_workers_give_the_completions_of_one(model, tokenizer):
    """Two cores, each with its own batch and every prompt twice: the same completions, in the same order."""
    ids = [prompt for prompt in encode_prompts(prompts(40), tokenizer) for _ in range(2)]
    stops = set(range(40))
    cores = torch.get_num_threads()
    results = {}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            rows = [BatchRow(i, prompt, NEVER, 30) for i, prompt in enumerate(ids)]
            made: dict[int, Completion] = {}
            sampler = Sampler(Detokenizer(tokenizer), stops)
            decode_in_parallel(model, rows, sampler, 64, math.inf, made.__setitem__)
            assert torch.get_num_threads() == threads
            assert len(made) == 80
            assert all(made[row.index].new_tokens == len(row.new) for row in rows)
            results[threads] = made
    finally:
        torch.set_num_threads(cores)
    assert results[1] == results[2]


def test_rows_are_split_evenly_and_a_prompts_samples_stay_together():
    rows = [BatchRow(i, [1] * (i // 2 + 1), NEVER, 1) for i in range(40)]
    shares = split_rows(rows, 3)
    assert sorted(row.index for share in shares for row in share) == list(range(40))
    assert [len(share) for share in shares] == [14, 14, 12]
    prompts_of = [{len(row.ids) for row in share} for share in shares]
    assert not prompts_of[0] & prompts_of[1]
    assert max(map(max, prompts_of)) - min(map(max, prompts_of)) < 3


def test_each_completion_is_reported_as_soon_as_it_is_finished(tiny_model):
    raw = [row["prompt"] for row in generated_functions(5, 5)]
    reported: dict[int, Completion] = {}
    made = generate(sample_requests(raw), tiny_model, PromptSettings(), settings(), reported.__setitem__)
    assert [reported[index] for index in range(5)] == made


@pytest.mark.slow
def test_a_sample_depends_on_seed_problem_and_number_alone(tiny_model):
    raw = [row["prompt"] for row in generated_functions(4, 5)]
    hot = settings(temperature=1.0, batch_size=3)
    requests = [SampleRequest(text, number) for text in raw for number in range(3)]
    several = generate(requests, tiny_model, PromptSettings(), hot)
    assert len({c.text for c in several}) > 8
    for batch in (1, 12):
        wide = settings(temperature=1.0, batch_size=batch)
        assert generate(requests, tiny_model, PromptSettings(), wide) == several
    resumed = generate(
        [SampleRequest(raw[2], 2), SampleRequest(raw[3], 1)], tiny_model, PromptSettings(), hot
    )
    assert resumed == [several[8], several[10]]
    other = generate(requests, tiny_model, PromptSettings(), settings(temperature=1.0, seed=1))
    assert sum(a != b for a, b in zip(other, several, strict=True)) > 8


def test_sampling_follows_the_distribution(tokenizer):
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.0, 0.2]])).expand(4000, 4)
    rows = [BatchRow(i, [0], NEVER, 1, random_stream_key(0, SampleRequest("p", i))) for i in range(4000)]
    counts = Counter(Sampler(Detokenizer(tokenizer), set(), 1.0).next_tokens(logits, rows))
    assert [counts[i] / 4000 for i in range(4)] == pytest.approx([0.5, 0.3, 0.0, 0.2], abs=0.03)
    cold = Counter(Sampler(Detokenizer(tokenizer), set(), 0.05).next_tokens(logits, rows))
    assert cold[0] == 4000


def test_a_row_that_reaches_the_context_ends_there(tiny_model):
    context = load_for_generation(tiny_model, "float32").config.max_position_embeddings
    tokenizer = load_tokenizer(tiny_model)
    text = "x = 1\n" * 200
    ids = tokenizer(text)["input_ids"][: context - 5]
    almost = tokenizer.decode(ids).rstrip()
    used = len(encode_prompts([render_prompt(almost, tokenizer, PromptSettings())], tokenizer)[0])
    (completion,) = generate(sample_requests([almost]), tiny_model, PromptSettings(), settings())
    assert completion.new_tokens <= context - used < 24
    with pytest.raises(UserError, match=r"T/2 has \d+ tokens, and the context"):
        generate(
            [SampleRequest("x"), SampleRequest(text, 0, "T/2")], tiny_model, PromptSettings(), settings()
        )


def test_a_folder_without_a_model_is_an_error_that_names_it(tmp_path, tiny_model):
    with pytest.raises(UserError, match="holds no model"):
        generate(sample_requests(["x"]), tmp_path, PromptSettings(), settings())
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot load a causal model"):
        generate(sample_requests(["x"]), broken, PromptSettings(), settings())


class FakeEngine:
    """Stands in for vLLM's `LLM`: records its call and answers with fixed ids."""

    def __init__(self, **options):
        self.options = options

    def generate(self, prompts, parameters, use_tqdm):
        FakeEngine.call = self.options, prompts, parameters
        ids = [
            [7, 8, one["stop_token_ids"][0]] if i else [7] * one["max_tokens"]
            for i, one in enumerate(parameters)
        ]
        outputs = [types.SimpleNamespace(outputs=[types.SimpleNamespace(token_ids=tuple(x))]) for x in ids]
        return outputs


def test_vllm_gets_the_same_tokens_and_its_answers_are_cut_by_the_same_rule(
    tiny_model, tokenizer, monkeypatch
):
    fake = types.ModuleType("vllm")
    fake.LLM, fake.SamplingParams, fake.TokensPrompt = FakeEngine, dict, dict
    monkeypatch.setitem(sys.modules, "vllm", fake)
    raw = [row["prompt"] for row in generated_functions(2, 5)]
    requests = [SampleRequest(raw[0]), SampleRequest(raw[1], 3)]
    reported = {}
    evaluate_settings = settings(backend="vllm", temperature=0.8, seed=5, dtype="auto")
    made = generate(requests, tiny_model, PromptSettings(), evaluate_settings, reported.__setitem__)
    options, prompts, parameters = FakeEngine.call
    assert (options["model"], options["dtype"]) == (str(tiny_model), "bfloat16")
    assert options["max_model_len"] == max(len(one["prompt_token_ids"]) for one in prompts) + 24
    rendered = [render_prompt(text, tokenizer, PromptSettings()) for text in raw]
    assert [one["prompt_token_ids"] for one in prompts] == encode_prompts(rendered, tokenizer)
    assert [one["seed"] for one in parameters] == [random_stream_key(5, one) % 2**63 for one in requests]
    assert [one["temperature"] for one in parameters] == [0.8, 0.8]
    assert [(c.stop, c.new_tokens) for c in made] == [("length", 24), ("eos", 3)]
    assert made[1].text == Detokenizer(tokenizer)([7, 8])
    assert [reported[0], reported[1]] == made


def test_a_backend_that_is_not_installed_says_what_to_do(tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"evaluate\.backend=vllm, but .* `pip install '\.\[vllm\]'`"):
        generate(sample_requests(["x"]), tiny_model, PromptSettings(), settings(backend="vllm"))


def test_chat_without_a_template_is_refused(tiny_model):
    with pytest.raises(UserError, match="no chat template"):
        generate(sample_requests(["x"]), tiny_model, PromptSettings(style="chat"), settings())


BODY, PROGRAM = Ending("body", False), Ending("program", False)
OPENED = Ending("answer", True, "", ("<think>", "</think>"))
ASKED = Ending("program", False, '"""\nWrite a function that')


@pytest.mark.parametrize(
    ("ending", "kept", "rest"),
    [
        (BODY, "\n    return x\n\n", "def g(y):"),
        (BODY, "\n    return x\n", "p"),
        (BODY, "\n    return x\n\n\n", "if __name__ == '__main__':\n    f(1)"),
        (BODY, "\n    return x\n\n", "@cache\ndef g():"),
        (BODY, "\n    return x\n\n", "# Example:\n# f(1)\nprint(f(1))"),
        (BODY, "\n    a = 1\n# still in it\n    return a\n", "class A:"),
        (BODY, "\n    return {\n        'a': 1\n}\n", "print"),
        (BODY, "\n    return [\n1,\n2]\n", "x"),
        (BODY, "\n    return [(\n", "def g():"),
        (BODY, '\n    text = """\nmargin\n"""\n    return text\n', "f"),
        (BODY, "\n    return 'it''s # (' + x  # (\n", "f"),
        (BODY, "\n    return x\n", "```"),
        (BODY, "\n    return x\n", ")"),
        (BODY, " return x\n", "f"),
        (BODY, "\n\ndef f(x):\n    return x\n\n", "f(1)"),
        (BODY, "\n\nimport math\n\ndef f(x):\n    return x\n\n", "f"),
        (BODY, "\n", "print(f(1))\n"),
        (PROGRAM, "\ndef h(x):\n    return x\n\nN = 3\n\ndef f(x):\n    return h(x)\n\n", "print(f(1))\n"),
        (PROGRAM, "\nimport re\nfrom a import b\n@c\ndef f(x):\n    return x\n", "assert f(1)\n"),
        (Ending("body", True), "    return x\n", "f"),
        (Ending("fence", False), "\n    return x\n\nprint(f(1))\n", "```\nIt"),
        (Ending("answer", False), "Here:\n```python\ndef f(): pass\n```", "\nIt"),
        (Ending("answer", True), "```\nf = lambda x: 1\n```", ""),
        (Ending("answer", True), "```\npip install x\n```\n```python\nclass A:\n  x = 1\n```", "\nIt"),
        (
            Ending("answer", True),
            "<think>\n```\ndef f(): pass\n```\n</think>\n```\ndef f(): return\n```",
            "\n",
        ),
        (Ending("answer", True), "[think]\n```\ndef f(): 1\n```\n[/THINK]```\ndef f(): 2\n```", "\n"),
        (OPENED, "draft\n```\ndef f(): 1\n```\nNo.\n</think>\n\n```\ndef f(): 2\n```", "\n"),
        (ASKED, "\ndef f(x):\n    return x\n\n", '"""\nWrite a function that sums."""'),
        (PROGRAM, "\ndef f(x):\n    return x\n\n", "def f(x):\n    return x\n\nx"),
        (
            PROGRAM,
            "\ndef f(x):\n    return x\n\ndef f(x):\n    return -x\n\n",
            "def f(x):\n    return x\n\nx",
        ),
        (
            PROGRAM,
            "\ndef f(x):\n    return f(x)\n\ndef g(x):\n    return g(x)\n",
            "def h(x):\n    return h(x)\nx",
        ),
        (PROGRAM, "\n@a\ndef f(x):\n    return x\n@a\n", "def f(x):\n    return x\n@a"),
    ],
)
def test_where_an_answer_ends(ending, kept, rest):
    assert ending.find(kept + rest) == len(kept)
    if rest:
        assert ending.find(kept) in (None, len(kept))


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (BODY, "\n    if x:\n        return 1\n\n    return 2\n\n"),
        (BODY, "\n    return x\n\n# a comment may be followed by more of the body\n"),
        (BODY, "\n    return [\n1,\n"),
        (BODY, '\n    x = """\nprint(1)\n'),
        (BODY, "\n\ndef helper(x):"),
        (PROGRAM, "\ndef f(x):\n    return x\n\ndef"),
        (PROGRAM, "Here is a function.\n\n"),
        (Ending("fence", False), "\n    return x\n``"),
        (Ending("answer", False), "Text ``` in a line\n```python\nx"),
        (Ending("answer", True), "```\nprint(f(1))\n```\nand\n"),
        (Ending("answer", True), "<think>\n```\ndef f(): pass\n```\n"),
        (OPENED, "draft\n```\ndef f(): 1\n```\nNo.\n"),
        (ASKED, '\n"""\nWrite a function that adds."""\ndef f(x):\n    return x\n'),
        (PROGRAM, "\ndef f(x):\n    return x\n\ndef g(x):\n    return x\n\nimport re\nimport re\n"),
        (PROGRAM, "".join(f"\ndef {f}(x):\n    '''\ntext {ord(f)}\n'''\n" for f in "abcde")),
        (BODY, ""),
    ],
)
def test_where_an_answer_may_continue(ending, text):
    assert ending.find(text) is None


@pytest.mark.parametrize(
    "unit", ["    if a == 2:\n        return 2\n", "_empty", "    x = x.strip()\n", "1 + "]
)
def test_a_row_that_repeats_itself_ends_as_it_would_at_its_limit(tokenizer, unit):
    ids = tokenizer("\n    x = [\n" + unit * 200)["input_ids"]
    row, sampler = BatchRow(0, [1], BODY, 400), Sampler(Detokenizer(tokenizer), set())
    stop = next(stop for token in ids if (stop := sampler.append(row, token)))
    assert stop == "loop"
    assert LOOP_TOKENS <= len(row.new) < 300
    period = len(tokenizer(unit * 2)["input_ids"]) - len(tokenizer(unit)["input_ids"])
    assert row.new[-period:] == ids[:400][-period:]
    completion = finish_row(row, stop, sampler.detokenizer)
    assert (completion.stop, completion.new_tokens) == ("loop", len(row.new))


@pytest.mark.parametrize(
    "text",
    [
        "    board = [\n" + "        [0, 0, 0, 0, 0, 0, 0, 0, 0],\n" * 9,
        "    grid = [\n" + "        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0],\n" * 10,
        "    sieve = [" + "0, " * 30,
        "    line = '" + "-" * 90,
        "".join(f"    if n == {n}:\n        return True\n" for n in range(40)),
    ],
)
def test_tables_and_chains_are_no_loops(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert not any(in_loop(ids[:end], left) for end in range(1, len(ids) + 1) for left in range(1, 40))


def test_special_tokens_that_mark_thinking_are_read_and_end_nothing(tiny_model, tmp_path):
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.add_tokens(["[THINK]", "[/THINK]", "<|call|>"], special_tokens=True)
    marks = tokenizer.convert_tokens_to_ids(["[THINK]", "[/THINK]"])
    assert stop_ids(tmp_path, tokenizer) == {tokenizer.eos_token_id}
    assert stop_ids(tmp_path, load_tokenizer(tiny_model)) == {tokenizer.eos_token_id}
    inner = tokenizer("x = 1", add_special_tokens=False)["input_ids"]
    assert Detokenizer(tokenizer)([marks[0], *inner, marks[1]]) == "[THINK]x = 1[/THINK]"


def test_thinking_that_the_prompt_opened_is_told_by_the_completion(tokenizer):
    opened = ending_for("Write a function.", "<|assistant|>\n<think>\n", PromptSettings(style="chat"))
    assert (opened.kind, opened.thinking) == ("answer", ("<think>", "</think>"))
    row = BatchRow(0, [1], opened, 99)
    row.new = tokenizer("maybe", add_special_tokens=False)["input_ids"]
    assert finish_row(row, "length", Detokenizer(tokenizer)).text == "<think>maybe"
    # Code that the prompt began after the opener is the answer
    begun = ending_for("def f():\n", "<think>\n```python\ndef f():\n", PromptSettings(style="chat"))
    assert (begun.kind, begun.thinking) == ("fence", ("", ""))


def test_the_ending_rule_follows_from_style_and_prompt():
    header, task = "def f(x):\n    '''Doc.'''\n", "Write a function."
    kinds = {
        (style, raw): ending_for(raw, "x", PromptSettings(style=style)).kind
        for style in ("completion", "chat", "alpaca")
        for raw in (header, task)
    }
    assert kinds == {
        ("completion", header): "body",
        ("completion", task): "program",
        ("chat", header): "fence",
        ("chat", task): "answer",
        ("alpaca", header): "fence",
        ("alpaca", task): "answer",
    }


def test_a_row_ends_with_the_token_that_completes_it(tokenizer):
    """Token by token: nothing is generated after the first character of the next statement."""
    text = "\n    return x\n\nprint(f(1))\nmore"
    row = BatchRow(0, [1], BODY, 99)
    sampler = Sampler(Detokenizer(tokenizer), {tokenizer.eos_token_id})
    ids = tokenizer(text)["input_ids"]
    stops = []
    for token in ids:
        stops.append(sampler.append(row, token))
        if stops[-1]:
            break
    assert stops[-1] == "function_end"
    assert tokenizer.decode(row.new[:-1]).strip() == "return x"
    completion = finish_row(row, stops[-1], sampler.detokenizer)
    assert (completion.text, completion.stop) == ("\n    return x\n\n", "function_end")
    assert completion.new_tokens == len(row.new)


def test_end_of_text_and_token_limit_are_distinguished(tokenizer):
    sampler = Sampler(Detokenizer(tokenizer), {tokenizer.eos_token_id})
    row = BatchRow(0, [1], BODY, 3)
    ids = tokenizer("\n    return")["input_ids"]
    assert sampler.append(row, ids[0]) is None
    assert sampler.append(row, tokenizer.eos_token_id) == "eos"
    assert finish_row(row, "eos", sampler.detokenizer).text == tokenizer.decode(ids[:1])
    other = BatchRow(1, [1], BODY, 1)
    assert sampler.append(other, ids[0]) == "length"
