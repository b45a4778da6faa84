"""The README: its picture is the pipeline, it stays short, and what the documents name is there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.tiny_project import REPOSITORY, SITE, STAGES, Project

DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
LONGEST_README = 180  # lines
LONGEST_LINE = 110  # characters
OUR_FILE = re.compile(
    r"(?<![\w/.-])((?:stages|tests|conf|docs|benchmarks|hydra_plugins|\.ci|\.dvc/plots)/[\w./*{},-]*\.\w+)"
)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
NAMED = re.compile(r"`(\w+)`\s+\(`([\w/]+\.py)`\)")  # `NAME` (`stages/file.py`)
USERS_OWN = re.compile(r"NAME|\bmine\b|<")  # a file that the reader is told to write

Edges = set[tuple[str, str]]
NAME = r'(\w+)(?:\["([^"]+)"\])?'


def edges_of(mermaid: str) -> Edges:
    """The arrows of a mermaid flowchart, between labels where nodes have one, else between ids."""
    labels = {node: label for node, label in re.findall(NAME, mermaid) if label}
    arrows = re.findall(rf"^\s*{NAME} *--> *{NAME}\s*$", mermaid, flags=re.MULTILINE)
    return {(labels.get(tail, tail), labels.get(head, head)) for tail, _, head, _ in arrows}


def below(edges: Edges, node: str) -> Iterator[str]:
    """All that comes after `node`, some more than once."""
    for tail, head in edges:
        if tail == node:
            yield head
            yield from below(edges, head)


def reduced(edges: Edges) -> Edges:
    """The transitive reduction of an acyclic graph: without the arrows that a longer way implies."""
    return {
        (tail, head)
        for tail, head in edges
        if not any(head in below(edges, other) for start, other in edges if start == tail and other != head)
    }


def picture() -> str:
    """The one mermaid block of the README."""
    (block,) = re.findall(
        r"^```mermaid\n(.*?)^```", (REPOSITORY / "README.md").read_text("utf-8"), re.M | re.S
    )
    return str(block)


def test_the_picture_of_the_pipeline_is_dvcs_graph_without_what_is_implied(tmp_path: Path) -> None:
    drawn = Project(REPOSITORY).run("dvc", "dag", "--mermaid", check=True, env={SITE: str(tmp_path)}).out
    real = {(tail, head) for tail, head in edges_of(drawn) if tail in STAGES}  # not what was `dvc add`ed
    assert {stage for edge in real for stage in edge} == set(STAGES)
    assert len(real) > len(reduced(real))
    assert edges_of(picture()) == reduced(real)


def test_an_arrow_is_left_out_only_where_a_longer_way_implies_it() -> None:
    assert edges_of('  a --> b["x@y"]\n  b --> c\n') == {("a", "x@y"), ("x@y", "c")}
    assert edges_of('\tnode1["a"]\n\tnode2["b"]\n\tnode1-->node2\n') == {("a", "b")}
    assert reduced({("a", "b"), ("b", "c"), ("c", "d"), ("a", "d"), ("x", "d")}) == {
        ("a", "b"),
        ("b", "c"),
        ("c", "d"),
        ("x", "d"),
    }


def test_the_readme_is_short() -> None:
    lines = (REPOSITORY / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= LONGEST_README
    assert [line for line in lines if len(line) > LONGEST_LINE] == []


def missing_files(text: str) -> list[str]:
    """Return the files of ours that a text names and that are not there; globs and {a,b} count if one matches each."""
    named = {name for name in OUR_FILE.findall(text) if not USERS_OWN.search(name)}
    return sorted(name for name in named if not all(any(REPOSITORY.glob(one)) for one in alternatives(name)))


def alternatives(name: str) -> list[str]:
    """Return the paths that a name with braces stands for: a/{b,c}.md is a/b.md and a/c.md."""
    found = re.match(r"(.*)\{([^{}]*)\}(.*)", name)
    if not found:
        return [name]
    head, inside, tail = found.groups()
    return [path for choice in inside.split(",") for path in alternatives(f"{head}{choice}{tail}")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_names_is_there(document: Path) -> None:
    text = document.read_text("utf-8")
    assert missing_files(text) == []
    assert [link for link in LINK.findall(text) if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_name_that_a_document_gives_with_its_file_is_in_it(document: Path) -> None:
    named = NAMED.findall(document.read_text("utf-8"))
    missing = [(name, file) for name, file in named if not re.search(rf"\b{name}\b", (REPOSITORY / file).read_text("utf-8"))]  # fmt: skip
    assert missing == []
    assert named or document.name != "contributing.md"


def test_a_missing_file_is_seen() -> None:
    assert missing_files("see stages/clean/rules/gone.py and `conf/fetch/{file,gone}.yaml`") == [
        "conf/fetch/{file,gone}.yaml",
        "stages/clean/rules/gone.py",
    ]
    assert missing_files("conf/base/*.yaml, conf/fetch/{file,mixture}.yaml, conf/benchmark/NAME.yaml") == []
