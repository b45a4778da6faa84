"""Decontamination: rows that hold the text or the solution of a benchmark problem.

Each check looks a row up in one index over all problems of data/benchmarks, so its cost does not grow with them. Words
are lower-cased runs of letters, digits and underscores; solutions are compared with white space collapsed.
"""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from stages.clean.code.fingerprint import CODE_WORD, code_shingles
from stages.clean.code.syntax import UnparsableError, parse, read_module
from stages.clean.contamination.word_runs import Runs, Words, batches
from stages.clean.row import WORD, Row
from stages.clean.rules.row_rules import quote
from stages.clean.settings import Contamination
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
    measure: float = 1.0  # how much of the problem, or how alike, 0 to 1

    def __str__(self) -> str:
        return f"{self.benchmark} {self.task_id}: {self.text}"


@dataclass
class Index:
    """What is looked up; numbers are positions in `problems`. Two benchmarks may hold the same problem."""

    settings: Contamination
    problems: list[tuple[str, Problem]]  # benchmark and problem
    docstrings: dict[str, list[tuple[int, str]]] = field(default_factory=dict)  # first words -> whole text
    pieces: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # -> problem, offset
    solutions: list[str] = field(default_factory=list)
    ngrams: dict[str, list[int]] = field(default_factory=dict)
    ngram_counts: list[int] = field(default_factory=list)
    functions: dict[str, list[int]] = field(
        default_factory=dict
    )  # canonical text of a solution of `ast_words`
    shingles: dict[tuple[str, ...], list[int]] = field(default_factory=dict)  # of that text
    solution_shingles: list[set[tuple[str, ...]]] = field(default_factory=list)
    names: dict[str, list[int]] = field(default_factory=dict)  # plain name of the entry point
    runs: dict[str, Runs] = field(
        default_factory=dict
    )  # by check: words that a row it finds something in must hold

    def match(self, problem: int, text: str, measure: float = 1.0) -> Match:
        benchmark, found = self.problems[problem]
        return Match(benchmark, found.task_id, text, measure)

    @cached_property
    def known_shingles(self) -> frozenset[tuple[str, ...]]:
        """As a set, whose hashes need not be worked out again for each row."""
        return frozenset(self.shingles)

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


def index_of(folder: str | Path, settings: Contamination) -> Index:
    """The index over the benchmarks of a folder. A process makes it once, and anew when a file there changes.

    Raises:
        UserError: as `read_problems`.
    """
    stats = [(path.name, path.stat()) for path in sorted(Path(folder).glob("*.jsonl"))]
    version = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    return index_of_version(str(Path(folder).absolute()), version, astuple(settings))


@lru_cache(maxsize=2)
def index_of_version(
    folder: str, version: tuple[tuple[str, int, int], ...], settings: tuple[Any, ...]
) -> Index:
    return build_index(read_problems(folder), Contamination(*settings))


def mark(rows: Sequence[Row], index: Index) -> None:
    """Note on each row which of the checks for runs of words can find something in it; others look at every row.

    The result of no check changes, only its cost: a few microseconds a row where a row without marks takes a hundred.
    """
    for places in batches([row.text for row in rows]):
        words_of = Words([rows[place].text for place in places])
        held = {name: runs.texts(words_of) for name, runs in index.runs.items()}
        for place, number in enumerate(places):
            rows[number].suspected = frozenset(name for name, found in held.items() if place in found)


def possible(row: Row, check: str) -> bool:
    return row.suspected is None or check in row.suspected


def build_index(problems: list[tuple[str, Problem]], settings: Contamination) -> Index:
    """Index of all problems for `CHECKS` and for what comes near them."""
    index = Index(settings, problems)
    for number, (_, problem) in enumerate(problems):
        add_docstrings(index, number, problem)
        add_solution(index, number, problem.canonical_solution)
        grams = set(ngrams(words(problem.prompt + "\n" + problem.canonical_solution), settings.ngram_words))
        index.ngram_counts.append(len(grams))
        for gram in grams:
            index.ngrams.setdefault(gram, []).append(number)
        functions = dict(read_module(problem.prompt + problem.canonical_solution).functions)
        text = functions.get(problem.entry_point, "")
        if text and len(CODE_WORD.findall(text)) >= settings.ast_words:
            index.functions.setdefault(text, []).append(number)
        found = code_shingles(text)
        index.solution_shingles.append(found)
        for shingle in found:
            index.shingles.setdefault(shingle, []).append(number)
        index.names.setdefault(plain_name(problem.entry_point), []).append(number)
    index.runs = {
        "contaminated_docstring": Runs([*index.docstrings], settings.docstring_words),
        "contaminated_ngrams": Runs([*index.ngrams], settings.ngram_words),
    }
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


def contaminated_docstring(row: Row, index: Index) -> Iterator[Match]:
    """The row holds the words of a problem's docstring, in order."""
    if not possible(row, "contaminated_docstring"):
        return
    text = f" {' '.join(row.words)} "
    tried: set[tuple[int, str]] = set()  # a row may say the first words again and again
    for gram in ngrams(row.words, index.settings.docstring_words):
        for number, docstring in index.docstrings.get(gram, ()):
            if (number, docstring) not in tried and f" {docstring} " in text:
                yield index.match(number, quote(docstring))
            tried.add((number, docstring))


def contaminated_solution(row: Row, index: Index) -> Iterator[Match]:
    """The row and a solution share a run of characters of at least `solution_characters`: the first such run of each."""
    text, size = squeeze(row.text), index.piece
    told: set[int] = set()  # a row may say a solution again and again
    for start in range(0, len(text) - size + 1, max(1, index.settings.solution_characters - size + 1)):
        for number, offset in index.pieces.get(text[start : start + size], ()):
            if number in told:
                continue
            shared = common_run(text, start, index.solutions[number], offset, size)
            if len(shared) >= index.settings.solution_characters:
                told.add(number)
                yield index.match(number, quote(shared))


def common_run(text: str, start: int, other: str, offset: int, size: int) -> str:
    """The longest common run around `text[start:start + size] == other[offset:offset + size]`."""
    back = 0
    while back < min(start, offset) and text[start - back - 1] == other[offset - back - 1]:
        back += 1
    end = size
    while start + end < len(text) and offset + end < len(other) and text[start + end] == other[offset + end]:
        end += 1
    return text[start - back : start + end]


def contaminated_ngrams(row: Row, index: Index) -> Iterator[Match]:
    """More than `ngram_coverage` of the n-grams of a problem (prompt and solution) stand in the row."""
    return (match for match in covered(row, index) if match.measure > index.settings.ngram_coverage)


def covered(row: Row, index: Index) -> Iterator[Match]:
    """Each problem that shares n-grams with the row, measured by the share of the problem's; the largest first."""
    if not possible(row, "contaminated_ngrams"):
        return
    shared: dict[int, list[str]] = {}
    for gram in dict.fromkeys(ngrams(row.words, index.settings.ngram_words)):
        for number in index.ngrams.get(gram, ()):
            shared.setdefault(number, []).append(gram)
    coverage = {number: len(grams) / index.ngram_counts[number] for number, grams in shared.items()}
    for number in sorted(coverage, key=lambda n: (-coverage[n], n)):
        size, share = index.settings.ngram_words, coverage[number]
        text = f"{share:.2f} of its {size}-grams, first {quote(shared[number][0])}"
        yield index.match(number, text, share)


def contaminated_ast(row: Row, index: Index) -> Iterator[Match]:
    """A function of the row is a problem's canonical solution with other names."""
    for name, text in row.functions:
        for number in index.functions.get(text, ()):
            yield index.match(number, f"{name} is its solution but for names")


CHECKS: dict[str, Callable[[Row, Index], Iterator[Match]]] = {
    "contaminated_docstring": contaminated_docstring,
    "contaminated_solution": contaminated_solution,
    "contaminated_ngrams": contaminated_ngrams,
    "contaminated_ast": contaminated_ast,
}


def per_benchmark(problems: list[tuple[str, Problem]], names: Iterable[str]) -> dict[str, int]:
    """How often each benchmark stands in `names`, zero where it does not."""
    counts = Counter(names)
    return {name: counts[name] for name in dict.fromkeys(name for name, _ in problems)}


def plain_name(name: str) -> str:
    """A function's name without case, underscores and what it is in: benchmarks have words_string and is_Diff."""
    return name.rpartition(".")[2].lower().replace("_", "")


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def squeeze(text: str) -> str:
    """White space runs as one space: indentation and line breaks do not hide a copy."""
    return " ".join(text.split())


def ngrams(items: list[str], size: int) -> list[str]:
    return [" ".join(items[i : i + size]) for i in range(len(items) - size + 1)]
