"""README.md's section on a user's own data, executed: its blocks in their order, with the tiny model and benchmark."""

import json
import re
import shutil
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tests.helpers.document_commands import command_blocks
from tests.helpers.tiny_project import REPOSITORY, STAGES, Done, Project, generated_functions, write_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SECTION = "Your own data in five minutes"
README = (REPOSITORY / "README.md").read_text("utf-8")
GOOD_ROWS = 40
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@dataclass
class Walk:
    """The project after all blocks, and what each of them printed."""

    project: Project
    done: dict[str, Done]  # by the block's commands

    def printed_by(self, command: str) -> Done:
        """Return what the one block with this command printed."""
        (found,) = [done for commands, done in self.done.items() if command in commands.splitlines()]
        return found

    def report(self, name: str) -> dict[str, Any]:
        return json.loads((self.project.root / f"reports/{name}.json").read_text("utf-8"))


def readme_rows() -> list[dict[str, str]]:
    """Return the rows that the section shows as an example."""
    section = README.split(f"## {SECTION}\n", 1)[1].split("\n## ", 1)[0]
    return [json.loads(line) for block in re.findall(r"```json\n(.*?)```", section, re.S) for line in block.splitlines()]  # fmt: skip


def instruction(function: dict[str, str], fenced: bool) -> dict[str, str]:
    """Return a generated function as an Alpaca row: its docstring is the instruction, its code the answer."""
    header, words = function["prompt"].splitlines()
    code = f"{header}\n{function['completion']}"
    return {
        "instruction": words.strip(' "'),
        "input": "",
        "output": f"Here it is:\n\n```python\n{code}```" if fenced else code,
    }


def users_rows() -> list[dict[str, str]]:
    """Return good rows, fenced and bare, with the README's example; then two that clean must drop."""
    good = [instruction(row, fenced=i % 2 == 0) for i, row in enumerate(generated_functions(GOOD_ROWS))]
    broken = {"instruction": "Halve x.", "output": "```python\ndef half(x):\n    return (x /\n```"}
    return [*readme_rows(), *good, good[0], broken]


@pytest.fixture(scope="module")
def walk(fresh: Project, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """The section's blocks, run one after the other in a copy of the tiny project; each must succeed."""
    home = tmp_path_factory.mktemp("home")
    write_jsonl(home / "instructions.jsonl", users_rows())
    project = fresh.copy(home / "project")
    shutil.copy(project.root / "conf/fetch/tiny.yaml", project.root / "conf/fetch/file.yaml")  # its benchmark
    (project.root / "data/sources/tiny-model/chat_template.jinja").write_text(CHAT_TEMPLATE, "utf-8")
    project.commit("a model with a chat template")
    done = {}
    for block in command_blocks(README):
        if block.section == SECTION:
            shell = ("bash", "-euo", "pipefail", "-c", block.commands)
            done[block.commands] = project.run(*shell, check=True, env={"HOME": str(home)})
    return Walk(project, done)


def test_the_preset_is_selected_and_suits_instructions(walk: Walk) -> None:
    config = yaml.safe_load((walk.project.root / "reports/config.yaml").read_text("utf-8"))
    assert [source["name"] for source in config["fetch"]["sources"]] == ["mine"]
    assert config["clean"]["layout"] == "fenced"
    assert config["prompt"]["style"] == "chat"


def test_every_row_is_read_and_only_the_bad_ones_are_dropped(walk: Walk) -> None:
    assert walk.report("fetch")["rows"] == len(users_rows())
    clean = walk.report("clean")
    assert {rule: n for rule, n in clean["dropped"].items() if n} == {"parse": 1, "exact": 1}
    assert clean["rows_kept"] == GOOD_ROWS + len(readme_rows())


def test_the_readmes_example_is_a_row_that_is_kept(walk: Walk) -> None:
    kept = pq.read_table(walk.project.root / "data/clean/rows.parquet").to_pylist()
    for example in readme_rows():
        assert [row["completion"] for row in kept if row["prompt"] == example["instruction"]] == [
            example["output"]
        ]


def test_the_plan_comes_before_the_training(walk: Walk) -> None:
    planned = walk.printed_by("python -m stages.plan")
    assert planned.ran == ["config", "base", "fetch", "sample", "clean", "pack"]
    assert re.search(rf"rows +\d+ to train on, of {GOOD_ROWS + len(readme_rows())}\b", planned.out)
    trained = walk.printed_by("dvc repro")
    assert trained.ran == [stage for stage in STAGES if stage not in planned.ran]


def test_both_models_are_scored_and_compared(walk: Walk) -> None:
    summary = walk.printed_by("python -m stages.report.summary").out
    for target in ("base", "tuned"):
        assert re.search(rf"^ +{target} +\d.*of 4 problems$", summary, re.MULTILINE), summary
    assert "difference" in summary


def test_what_is_committed_is_a_whole_version(walk: Walk) -> None:
    assert walk.project.git("status", "--porcelain") == ""
    assert "data/sources/mine.jsonl.dvc" in walk.project.git("ls-files").splitlines()
    assert walk.project.repro().ran == []
