"""The configuration: every option of every group composes and validates; an error for a wrong key or value says where it is set."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from stages.common.core.config_sections import check_overrides, config_locations, load_sections
from stages.common.core.errors import UserError
from stages.common.core.files import sha256_file
from stages.common.core.settings import OTHER_GROUPS, SECTIONS, section_class
from stages.common.core.stage import Settings, declared_sections
from stages.config.compose import plain_values, register_params, validate_config
from stages.fetch.settings import FetchSettings, Source
from tests.helpers.tiny_project import REPOSITORY, Project

FILES = sorted(
    p.relative_to(REPOSITORY / "conf").with_suffix("") for p in (REPOSITORY / "conf").rglob("*.yaml")
)
ACCELERATE = Path(
    "train/accelerate"
)  # files of `accelerate launch`: tests/train/test_distributed.py reads them
OPTIONS = [file for file in FILES if file.parent != ACCELERATE]


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture
def composed() -> Iterator[Any]:
    """Composes params.yaml with overrides, as `python -m stages.config` does."""
    from hydra import compose, initialize_config_dir

    register_params(Path("params.yaml"))
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        yield lambda *overrides: compose("params", overrides=check_overrides(overrides))


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_option_composes_and_validates(option: Path, composed: Any) -> None:
    sections = validate_config(composed(f"{option.parent}={option.name}"))
    assert list(sections) == list(SECTIONS)
    assert all(isinstance(section, section_class(name)) for name, section in sections.items())


@pytest.mark.parametrize("option", FILES, ids=str)
def test_every_option_says_what_it_is_for(option: Path) -> None:
    lines = Path(f"{REPOSITORY}/conf/{option}.yaml").read_text("utf-8").splitlines()
    comments = [line for line in lines[:8] if line.startswith("#")]
    assert lines[0].startswith("# "), "the first line is a comment"
    assert any(word in line for line in comments for word in ("dvc ", "python -m stages.", "make ")), comments


def test_every_group_has_a_section_and_a_default() -> None:
    defaults = yaml.safe_load(Path("params.yaml").read_text("utf-8"))["defaults"]
    picked = {group for item in defaults if isinstance(item, dict) for group in item}
    groups = {option.parts[0] for option in OPTIONS}
    assert groups == picked == {*SECTIONS, *OTHER_GROUPS}
    assert defaults[-1] == "_self_", "what params.yaml says goes over the options it picks"


def test_one_file_adds_a_benchmark(composed: Any) -> None:
    default, mine = validate_config(composed()), validate_config(composed("benchmark=[humaneval,mine]"))
    assert default["evaluate"].scored == list(default["fetch"].benchmarks) == ["humaneval", "mbpp-held"]
    assert mine["evaluate"].scored == list(mine["fetch"].benchmarks) == ["humaneval", "mine"]
    assert mine["fetch"].benchmarks["mine"].name == "mine"
    assert mine["fetch"].sources == default["fetch"].sources


@pytest.mark.slow
@pytest.mark.parametrize("option", [o for o in OPTIONS if o.parent.name == "benchmark"], ids=str)
def test_every_benchmark_is_fetched_and_scored(option: Path, composed: Any) -> None:
    sections = validate_config(composed(f"benchmark={option.name}"))
    assert sections["evaluate"].scored == list(sections["fetch"].benchmarks) != []


def test_the_example_of_a_benchmark_is_the_pinned_one(composed: Any) -> None:
    source = validate_config(composed("benchmark=mine"))["fetch"].benchmarks["mine"]
    assert sha256_file(source.path) == source.sha256


def test_params_yaml_overrides_options(
    composed: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = Path("params.yaml").read_text("utf-8")
    (tmp_path / "params.yaml").write_text(text + "\nevaluate:\n  max_new_tokens: 7\n", "utf-8")
    register_params(tmp_path / "params.yaml")
    assert validate_config(composed())["evaluate"].max_new_tokens == 7
    assert validate_config(composed("evaluate.max_new_tokens=9"))["evaluate"].max_new_tokens == 9


def test_the_tracked_configuration_is_the_composed_one(composed: Any) -> None:
    tracked = yaml.safe_load(Path("reports/config.yaml").read_text("utf-8"))
    now = {name: plain_values(section) for name, section in validate_config(composed()).items()}
    assert tracked == now, "run `dvc repro config` and commit reports/config.yaml"


@pytest.mark.parametrize(
    "text",
    ["${now:", "${oc.env:", "http://localhost", *(f"/{folder}/" for folder in ("home", "Users", "root"))],
)
def test_no_machine_or_moment_in_the_configuration(text: str) -> None:
    files = [Path("params.yaml"), Path("dvc.yaml"), *Path("conf").rglob("*.yaml")]
    assert [str(f) for f in files if text in f.read_text("utf-8")] == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.lora.rnak=8",
            "unknown key 'train.lora.rnak' on the command line. Did you mean 'train.lora.rank'?",
        ),
        ("tarin.lora.rank=8", "Did you mean 'train.lora.rank'?"),
        ("+train.lora.rnak=8", "Did you mean 'train.lora.rank'?"),
        ("fetch.benchmarks.mine.formt=mbpp", "Did you mean 'fetch.benchmarks.mine.format'?"),
    ],
)
def test_unknown_key_on_the_command_line(override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        check_overrides([override])
    assert message in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("train.lora.rank=many", "train.lora.rank"),
        ("train.lora.rank=0", "train.lora.rank"),
        ("train.lora.rank=[4,8]", "train.lora.rank"),
        ("evaluate.temperature=cold", "evaluate.temperature"),
        ("pack.validation_share=1.5", "pack.validation_share"),
        ("prompt.style=shouting", "prompt.style"),
        ("sweep.name=a/b", "sweep.name"),
        ("sweep.objective=pass_at_1", "sweep.objective"),
    ],
)
def test_wrong_value_names_its_key(override: str, key: str, composed: Any) -> None:
    with pytest.raises(UserError) as error:
        validate_config(composed(override))
    assert str(error.value).startswith(key)


def test_a_group_that_is_not_there(composed: Any) -> None:
    from hydra.errors import HydraException

    with pytest.raises(HydraException, match="nothing-of-the-kind"):
        composed("train=nothing-of-the-kind")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with configuration files of its own."""
    (tmp_path / "conf/train").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text("defaults: [_self_]\ntrain:\n  lora: {rank: 8}\n", "utf-8")
    (tmp_path / "conf/train/qlora.yaml").write_text("# why\nlora:\n  # why\n  rank: 4\n", "utf-8")
    (tmp_path / "conf/train/list.yaml").write_text("things:\n  - {a: 1}\n  - a: 2\n    b: 3\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_config_locations_are_files_and_lines(files: Path) -> None:
    assert config_locations("train.lora.rank") == ["params.yaml:3", "conf/train/qlora.yaml:4"]
    assert config_locations("train.things[1].b") == ["conf/train/list.yaml:4"]
    assert config_locations("train.lora.rnak") == []


def test_unknown_key_in_a_file_names_file_and_line(files: Path) -> None:
    from omegaconf import OmegaConf

    (files / "conf/train/qlora.yaml").write_text("# why\nlora:\n  rnak: 4\n", "utf-8")
    with pytest.raises(UserError) as error:
        load_sections(OmegaConf.create({"train": {"lora": {"rnak": 4}}}), ["train"])
    assert "'train.lora.rnak' (in conf/train/qlora.yaml:3). Did you mean 'train.lora.rank'?" in str(
        error.value
    )


def test_an_undeclared_section_cannot_be_read() -> None:
    settings = Settings("merge", {name: object() for name in declared_sections("merge")})
    with pytest.raises(
        UserError, match=r"stage merge reads the section 'pack', which dvc\.yaml does not declare"
    ):
        settings.pack  # noqa: B018


@pytest.mark.slow
def test_the_command_writes_or_refuses(fresh: Project, tmp_path: Path) -> None:
    project = fresh.copy(tmp_path / "project")
    assert project.stage("config").status == 0
    written = (project.root / "reports/config.yaml").read_bytes()
    assert yaml.safe_load(written)["train"]["lora"]["rank"] == 4
    project.params(train__lora__rnak=8)
    refused = project.stage("config")
    assert refused.status == 1
    assert "unknown key 'train.lora.rnak' (in params.yaml:" in refused.err
    assert "Did you mean 'train.lora.rank'?" in refused.err
    assert "Traceback" not in refused.text
    assert "Traceback" in project.stage("config", env={"HYDRA_FULL_ERROR": "1"}).err
    assert (project.root / "reports/config.yaml").read_bytes() == written


def test_settings_modules_stay_light() -> None:
    """`python -m stages.config --help` must not wait for torch: no section's module may import such a thing."""
    import subprocess

    code = (
        "import sys; from stages.common.core.settings import SECTIONS, section_class; import stages.config.compose;"
        "[section_class(n) for n in SECTIONS];"
        "print(sorted({'torch','transformers','mlflow','pyarrow','numpy','matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_source_is_written_with_the_fields_that_were_set_and_read_back_whole() -> None:
    settings = FetchSettings(sources=[Source("rows", "file", path="data/sources/rows.jsonl", licence="MIT")])
    written = plain_values(settings)
    assert written["sources"] == [
        {"name": "rows", "kind": "file", "path": "data/sources/rows.jsonl", "licence": "MIT"}
    ]
    assert written["on_bad_row"] == "fail"
    assert load_sections(OmegaConf.create({"fetch": written}), ["fetch"]) == {"fetch": settings}
