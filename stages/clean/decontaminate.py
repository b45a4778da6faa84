"""Decontamination: rows that hold the text or the solution of a benchmark problem.

Each check looks a row up in one index over all problems of data/benchmarks, so its cost does not grow with them. Words
are lower-cased runs of letters, digits and underscores; solutions are compared with white space collapsed.
"""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from stages.clean.rows import WORD, Row
from stages.clean.rules import quote
from stages.clean.settings import Contamination
from stages.clean.syntax import UnparsableError, parse, read_module
from stages.common.errors import UserError
from stages.common.files import read_jsonl
from stages.common.schema import Problem

EXAMPLES = re.compile(r">>>|^\s*(for example|examples?|e\.g\.|assert\b)|\bassert ", re.I | re.M)
IMPORT_LINE = re.compile(r"^(import|from)\s.*$", re.M)


@dataclass(frozen=True)
class Match:
    """A row's overlap with one problem."""

    benchmark: str
    task_id: str
    text: str  # what the two share

    def __str__(self) -> str:
        return f"{self.benchmark} {self.task_id}: {self.text}"


@dataclass
class Index:
    """What is looked up; values are positions in `problems`, the first problem that has the key."""

    settings: Contamination
    problems: list[tuple[str, Problem]]  # benchmark and problem
    docstrings: dict[str, list[tuple[int, str]]] = field(default_factory=dict)  # first words -> whole text
    pieces: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # -> problem, offset
    solutions: list[str] = field(default_factory=list)
    ngrams: dict[str, list[int]] = field(default_factory=dict)
    ngram_counts: list[int] = field(default_factory=list)
    fingerprints: dict[str, int] = field(default_factory=dict)
    entry_points: dict[str, list[int]] = field(default_factory=dict)

    def match(self, problem: int, text: str) -> Match:
        benchmark, found = self.problems[problem]
        return Match(benchmark, found.task_id, text)

    @property
    def piece(self) -> int:
        """Length of indexed pieces: a run of `solution_characters` holds a whole one at any such stride."""
        return (self.settings.solution_characters + 1) // 2


def read_problems(folder: str | Path) -> list[tuple[str, Problem]]:
    """All problems below a folder with the name of their benchmark, files in order of name.

    Raises:
        UserError: no benchmark there, or a line that is no problem; names file and line.
    """
    problems = []
    for path in sorted(Path(folder).glob("*.jsonl")):
        for number, record in enumerate(read_jsonl(path), 1):
            try:
                problems.append((path.stem, Problem(**record)))
            except TypeError as error:
                raise UserError(
                    f"{path}, line {number}: not a problem ({error}). Run `dvc repro fetch`."
                ) from None
    if not problems:
        raise UserError(
            f"{folder} holds no benchmark: nothing to decontaminate against. Run `dvc repro fetch`."
        )
    return problems


def build_index(problems: list[tuple[str, Problem]], settings: Contamination) -> Index:
    """Index of all problems for `CHECKS`."""
    index = Index(settings, problems)
    for number, (_, problem) in enumerate(problems):
        add_docstrings(index, number, problem)
        add_solution(index, number, problem.canonical_solution)
        grams = set(ngrams(words(problem.prompt + "\n" + problem.canonical_solution), settings.ngram_words))
        index.ngram_counts.append(len(grams))
        for gram in grams:
            index.ngrams.setdefault(gram, []).append(number)
        functions = read_module(problem.prompt + problem.canonical_solution).functions
        if problem.entry_point in functions:
            index.fingerprints.setdefault(functions[problem.entry_point], number)
        index.entry_points.setdefault(problem.entry_point, []).append(number)
    return index


def add_docstrings(index: Index, number: int, problem: Problem) -> None:
    least = index.settings.docstring_words
    for text in descriptions(problem):
        found = words(text)
        if len(found) >= least:
            index.docstrings.setdefault(" ".join(found[:least]), []).append((number, " ".join(found)))


def descriptions(problem: Problem) -> list[str]:
    """The problem in words: docstrings of its prompt, each whole and up to its first example."""
    try:
        tree: ast.AST | None = parse(problem.prompt + problem.canonical_solution)
    except UnparsableError:
        tree = None
    if tree is None:
        texts = [problem.prompt]
    else:
        kinds = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    return [part for text in texts for part in dict.fromkeys((text, EXAMPLES.split(text)[0])) if part.strip()]


def add_solution(index: Index, number: int, solution: str) -> None:
    """Index the pieces of a solution; its imports are left out, for they are everyone's."""
    solution = squeeze(IMPORT_LINE.sub("", solution))
    index.solutions.append(solution)
    if len(solution) >= index.settings.solution_characters:
        for start in range(len(solution) - index.piece + 1):
            index.pieces.setdefault(solution[start : start + index.piece], []).append((number, start))


def contaminated_docstring(row: Row, index: Index) -> Match | None:
    """The row holds the words of a problem's docstring, in order."""
    size, text = index.settings.docstring_words, ""
    for gram in ngrams(row.words, size):
        for number, docstring in index.docstrings.get(gram, ()):
            text = text or f" {' '.join(row.words)} "
            if f" {docstring} " in text:
                return index.match(number, quote(docstring))
    return None


def contaminated_solution(row: Row, index: Index) -> Match | None:
    """The row and a solution share a run of characters of at least `solution_characters`."""
    text, size = squeeze(row.text), index.piece
    for start in range(0, len(text) - size + 1, max(1, index.settings.solution_characters - size + 1)):
        for number, offset in index.pieces.get(text[start : start + size], ()):
            shared = common_run(text, start, index.solutions[number], offset, size)
            if len(shared) >= index.settings.solution_characters:
                return index.match(number, quote(shared))
    return None


def common_run(text: str, start: int, other: str, offset: int, size: int) -> str:
    """The longest common run around `text[start:start + size] == other[offset:offset + size]`."""
    back = 0
    while back < min(start, offset) and text[start - back - 1] == other[offset - back - 1]:
        back += 1
    end = size
    while start + end < len(text) and offset + end < len(other) and text[start + end] == other[offset + end]:
        end += 1
    return text[start - back : start + end]


def contaminated_ngrams(row: Row, index: Index) -> Match | None:
    """More than `ngram_coverage` of the n-grams of a problem (prompt and solution) stand in the row."""
    shared: dict[int, list[str]] = {}
    for gram in dict.fromkeys(ngrams(row.words, index.settings.ngram_words)):
        for number in index.ngrams.get(gram, ()):
            shared.setdefault(number, []).append(gram)
    if not shared:
        return None
    coverage = {number: len(grams) / index.ngram_counts[number] for number, grams in shared.items()}
    best = max(coverage, key=lambda number: (coverage[number], -number))
    if coverage[best] > index.settings.ngram_coverage:
        size = index.settings.ngram_words
        return index.match(best, f"{coverage[best]:.2f} of its {size}-grams, first {quote(shared[best][0])}")
    return None


def contaminated_ast(row: Row, index: Index) -> Match | None:
    """A function of the row is a problem's canonical solution with other names."""
    for name, digest in row.functions.items():
        if digest in index.fingerprints:
            return index.match(index.fingerprints[digest], f"{name} is its solution but for names")
    return None


def suspects(row: Row, index: Index) -> list[dict[str, str]]:
    """Problems whose entry point a function of the row is named like: worth a look, no proof."""
    found = []
    for name in row.functions:
        for number in index.entry_points.get(name, ()):
            benchmark, problem = index.problems[number]
            found.append(
                {
                    "id": row.id,
                    "source": row.source,
                    "benchmark": benchmark,
                    "task_id": problem.task_id,
                    "name": name,
                }
            )
    return found


CHECKS: dict[str, Callable[[Row, Index], Match | None]] = {
    "contaminated_docstring": contaminated_docstring,
    "contaminated_solution": contaminated_solution,
    "contaminated_ngrams": contaminated_ngrams,
    "contaminated_ast": contaminated_ast,
}


def per_benchmark(problems: list[tuple[str, Problem]], names: Iterable[str]) -> dict[str, int]:
    """Rows dropped for each benchmark, zero where none was."""
    counts = Counter(names)
    return {name: counts[name] for name in dict.fromkeys(name for name, _ in problems)}


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def squeeze(text: str) -> str:
    """White space runs as one space: indentation and line breaks do not hide a copy."""
    return " ".join(text.split())


def ngrams(items: list[str], size: int) -> list[str]:
    return [" ".join(items[i : i + size]) for i in range(len(items) - size + 1)]
