"""The README's picture of the pipeline is the pipeline."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.tiny_project import REPOSITORY, SITE, STAGES, Project

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
