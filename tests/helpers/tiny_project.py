"""A tiny project: this repository's own code with a two-layer model and a few dozen rows, as git and DVC repository.

Nothing is mocked: the same stages, dvc.yaml and conf/ run, on input that takes seconds.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stages.common.core.files import sha256_file

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = 40
CONTEXT = 256  # tokens the tiny model has positions for
STAGES = ["config", "base", "fetch", "sample", "clean", "pack", "train", "merge", "evaluate@base", "evaluate@tuned", "report", "track"]  # fmt: skip
SITE = "DVC_SITE_CACHE_DIR"
WARM = "CODETUNE_TEST_PYTHON"  # folder of an interpreter that has imported the libraries (warm_python.py)

VERBS = "count sum merge rank filter split join measure scale shift weigh compare collect reduce fold trim"
ADJECTIVES = "early heavy narrow remote silent bright hollow rapid steady broken curved frozen golden humble"
NOUNS = "harbours ledgers meadows engines parcels rivers lanterns orchards signals tunnels vessels windows"
PLACES = (
    "northern archive, crowded market, second shelf, empty theatre, lower deck, distant station, old mill"
)
ENDINGS = "before winter comes, without looking back, in the given order, for the yearly audit, once a day"


def generated_functions(count: int, seed: int = 0) -> list[dict[str, str]]:
    """`count` small functions that parse, each a prompt (signature, docstring) and a completion (body)."""
    rng = random.Random(seed)
    return [generated_function(rng, number) for number in range(count)]


def generated_function(rng: random.Random, number: int) -> dict[str, str]:
    verb, noun = rng.choice(VERBS.split()), rng.choice(NOUNS.split())
    first, second = (rng.choice(ADJECTIVES.split()) for _ in range(2))
    words = (
        f"{verb.capitalize()} the {first} {noun} of the {rng.choice(PLACES.split(', '))} and "
        f"{rng.choice(VERBS.split())} the {second} {rng.choice(NOUNS.split())} {rng.choice(ENDINGS.split(', '))}."
    )
    a, b, c, d = (rng.randrange(2, 97) for _ in range(4))
    op, aug = rng.choice(["<", ">", "!=", ">="]), rng.choice(["+=", "-=", "*="])
    bodies = [
        f"    total = {a}\n    for item in {noun}:\n        if item {op} {b}:\n            total {aug} item % {c}\n    return total - {d}\n",
        f"    kept = [item + {a} for item in {noun} if item {op} {b}]\n    kept.sort()\n    return kept[:{c}]\n",
        f"    found = {{}}\n    for place, item in enumerate({noun}):\n        found[item * {a}] = place // {b}\n    return found.get({c}, {d})\n",
        f"    if len({noun}) {op} {a}:\n        return {b}\n    first = {noun}[0] * {c}\n    return max(first, {d})\n",
        f"    low, high = {a}, {a + b}\n    while low < high:\n        low += len({noun}) + {c}\n    return low - {d}\n",
        f"    words = [str(item * {a}) for item in {noun}]\n    text = '-'.join(words)\n    return text[:{b}] or str({c})\n",
    ]
    prompt = f'def {verb}_{noun}_{number}({noun}):\n    """{words}"""\n'
    return {"prompt": prompt, "completion": rng.choice(bodies)}


def near_duplicates() -> list[dict[str, str]]:
    """Two functions alike by 0.6 to 0.7 (Jaccard of 5-word shingles): both kept at a threshold of 0.7, one at 0.5."""
    words = (
        "Walk over the numbers of the given list from its left end to its right end, add up all that are even, leave "
        "out all that are odd, carry the sum along from one number to the next, and give back what was reached"
    )
    body = "    total = 0\n    for number in numbers:\n        if number % 2 == 0:\n            total += number\n    return total"
    other = words.replace("carry", "take").replace("given", "long")
    return [
        {"prompt": f'def add_even(numbers):\n    """{words}."""\n', "completion": f"{body}\n"},
        {
            "prompt": f'def add_even(numbers):\n    """{other} at last."""\n',
            "completion": f"{body} // 2\n",
        },
    ]


def unwanted() -> list[dict[str, str]]:
    """A copy of a row, and one that does not parse: clean drops both."""
    return [
        generated_functions(1)[0],
        {"prompt": 'def half(x):\n    """Halve it."""\n', "completion": "    return (x /\n"},
    ]


def problems() -> list[dict[str, str]]:
    """Four problems in HumanEval's shape; a model without training solves none of them."""
    made = []
    for i, (name, words, body, given, want) in enumerate(
        [
            ("double", "Return twice the number x.", "    return 2 * x\n", "4", "8"),
            ("is_even", "Tell whether the number x is even.", "    return x % 2 == 0\n", "3", "False"),
            ("last_item", "Return the last item of the list x.", "    return x[-1]\n", "[1, 5]", "5"),
            ("shout", "Return the text x in capital letters.", "    return x.upper()\n", "'hey'", "'HEY'"),
        ]
    ):
        made.append(
            {
                "task_id": f"Tiny/{i}",
                "prompt": f'def {name}(x):\n    """{words}\n\n    >>> {name}({given})\n    {want}\n    """\n',
                "entry_point": name,
                "canonical_solution": body,
                "test": f"def check(candidate):\n    assert candidate({given}) == {want}\n",
            }
        )
    return made


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """Write JSON lines; their sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return sha256_file(path)


def write_model(folder: Path) -> None:
    """A two-layer Llama with random weights, and a byte-level BPE trained on generated functions."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(
        [row["prompt"] + row["completion"] for row in generated_functions(200, 1)], trainer
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|endoftext|>", bos_token="<|endoftext|>", model_max_length=CONTEXT
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def environment(folder: Path) -> dict[str, str]:
    """For the project's processes: this interpreter first, no tracking server, no litter, no identity of the user.

    `python` is one that has imported the libraries, where a fixture has started it.
    """
    warm = [os.environ[WARM]] if WARM in os.environ else []
    interpreters = [*warm, str(Path(sys.executable).parent)]
    drop = ("MLFLOW_TRACKING_URI", "HYDRA_FULL_ERROR", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    kept = {k: v for k, v in os.environ.items() if k not in drop}
    return {
        **kept,
        "PATH": os.pathsep.join([*interpreters, os.environ.get("PATH", "")]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",  # threads cost more than they bring on matrices of 64 by 64
        "DVC_NO_ANALYTICS": "1",
        SITE: os.environ.get(SITE, str(folder.parent / "dvc-site")),
        "GIT_CONFIG_GLOBAL": "/dev/null",
    }


@dataclass
class Done:
    """A finished command."""

    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    @property
    def ran(self) -> list[str]:
        """Stages that DVC ran, in the order of the pipeline; those taken from its cache are not among them."""
        found = re.findall(r"^Running stage '([^']+)'", self.out, flags=re.MULTILINE)
        assert set(found) <= set(STAGES), found
        return sorted(found, key=STAGES.index)


@dataclass
class Project:
    """A repository in a temporary folder, and what tests do with one."""

    root: Path

    def run(self, *command: str, check: bool = False, env: dict[str, str] | None = None) -> Done:
        python = str(Path(os.environ[WARM], "python")) if WARM in os.environ else sys.executable
        done = subprocess.run(
            # Not within a command such as `unshare` or `prlimit`: a fork of the server would not be under it
            [python if command[0] == sys.executable else command[0], *command[1:]],
            cwd=self.root,
            env={**environment(self.root), **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        result = Done(done.returncode, done.stdout, done.stderr)
        assert not check or result.status == 0, f"{' '.join(command)}\n{result.text[-6000:]}"
        return result

    def stage(self, name: str, *overrides: str, env: dict[str, str] | None = None) -> Done:
        """Run one stage directly, without DVC."""
        return self.run(sys.executable, "-m", f"stages.{name}", *overrides, env=env)

    def repro(self, *arguments: str) -> Done:
        """`dvc repro`, which must succeed."""
        return self.run(sys.executable, "-m", "dvc", "repro", *arguments, check=True)

    def dvc(self, *arguments: str) -> Done:
        return self.run(sys.executable, "-m", "dvc", *arguments, check=True)

    def git(self, *arguments: str) -> str:
        return self.run("git", *arguments, check=True).out.strip()

    def commit(self, message: str = "work") -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD")

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace text that must be in a file."""
        text = (self.root / path).read_text("utf-8")
        assert old in text, f"{path} has no {old!r}"
        (self.root / path).write_text(text.replace(old, new, 1), "utf-8")

    def params(self, **values: Any) -> None:
        """Set dotted keys in params.yaml (dots written as two underscores), below its defaults."""
        path = self.root / "params.yaml"
        node = yaml.safe_load(path.read_text("utf-8"))
        for key, value in values.items():
            *parents, last = key.split("__")
            place = node
            for part in parents:
                place = place.setdefault(part, {})
            place[last] = value
        path.write_text(yaml.safe_dump(node, sort_keys=False), "utf-8")

    def composed(self, section: str, key: str) -> Any:
        """A value of reports/config.yaml."""
        return yaml.safe_load((self.root / "reports/config.yaml").read_text("utf-8"))[section][key]

    def copy(self, root: Path) -> "Project":
        """A copy with everything: outputs, DVC's cache (links stay links), git history."""
        subprocess.run(["cp", "-a", str(self.root), str(root)], check=True)
        return Project(root)

    def files(self, *folders: str) -> dict[str, str]:
        """sha256 of every file below the folders (of the whole project: all but scratch and internals)."""
        found = [p for f in (folders or (".",)) for p in (self.root / f).rglob("*") if p.is_file()]
        hidden = (".git", ".dvc", ".cache")
        names = {p.relative_to(self.root): p for p in found}
        return {
            str(name): sha256_file(path)
            for name, path in sorted(names.items())
            if name.parts[0] not in hidden and not name.name.startswith("mlflow.db")
            if not name.name.endswith(("-times.json", "times.html"))  # differ from run to run
        }


def repository_files() -> list[str]:
    """Files of this repository that belong to the code: tracked, or new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    code = ("stages/", "conf/", "hydra_plugins/", ".dvc/", "data/sources/.gitkeep")
    single = ("dvc.yaml", "requirements.lock", ".gitignore", ".dvcignore", "pyproject.toml")
    return sorted(f for f in set(listed) if f.startswith(code) or f in single if (REPOSITORY / f).is_file())


def make_project(root: Path, model: Path) -> Project:
    """Build the tiny project in the new folder `root`, everything committed, nothing run."""
    for name in repository_files():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, root / name)
    shutil.copytree(model, root / "data/sources/tiny-model")
    rows = write_jsonl(
        root / "data/sources/rows.jsonl", [*generated_functions(ROWS), *near_duplicates(), *unwanted()]
    )
    benchmark = write_jsonl(root / "data/sources/problems.jsonl", problems())
    for name, node in tiny_configuration(rows, benchmark).items():
        head = "# @package _global_\n" if name.startswith("conf/benchmark") else ""
        (root / name).write_text(head + yaml.safe_dump(node, sort_keys=False), "utf-8")
    project = Project(root)
    project.git("init", "-q", "-b", "main")
    for key, value in (("user.name", "Tiny"), ("user.email", "tiny@example.org"), ("gc.auto", "0")):
        project.git("config", key, value)
    project.commit("the tiny project")
    return project


def tiny_configuration(rows: str, benchmark: str) -> dict[str, Any]:
    """params.yaml and the options it picks; `rows` and `benchmark` are sha256 sums."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text("utf-8"))
    groups = {
        group: option
        for item in params["defaults"]
        if isinstance(item, dict)
        for group, option in item.items()
    }
    groups |= {"base": "tiny", "fetch": "tiny", "benchmark": ["tiny"], "experiment": None}
    file = {"kind": "file", "licence": "CC0-1.0"}
    return {
        "conf/base/tiny.yaml": {
            "kind": "local",
            "name": "tiny",
            "path": "data/sources/tiny-model",
            "licence": "CC0-1.0",
        },
        "conf/fetch/tiny.yaml": {
            "sources": [{"name": "rows", **file, "path": "data/sources/rows.jsonl", "sha256": rows}],
        },
        "conf/benchmark/tiny.yaml": {
            "fetch": {
                "benchmarks": {
                    "tiny": {
                        **file,
                        "path": "data/sources/problems.jsonl",
                        "sha256": benchmark,
                        "format": "humaneval",
                    }
                }
            },
            "evaluate": {"scoring": {"tiny": {}}},
        },
        "params.yaml": {
            "defaults": [*({g: o} for g, o in groups.items()), "_self_"],
            "clean": {"validate": "none"},
            "pack": {"max_length": CONTEXT, "validation_share": 0.15},
            "train": {
                "epochs": 2.0,
                "threads": 1,
                "learning_rate": 0.01,
                "micro_batch": 1,
                "save_every": 2,
                "lora": {"rank": 4, "alpha": 8},
            },
            "evaluate": {"max_new_tokens": 12},
            "track": {"peak_seconds": 0.1},
        },
    }
