"""Find rows that hold the text or the solution of a benchmark problem.

Each check looks a row up in one index over all problems of data/benchmarks, so its cost does not grow with
their number. Words are lower-cased runs of letters, digits and underscores; solutions are compared with white
space collapsed.
"""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from stages.clean.code.fingerprint import CODE_WORD, code_shingles
from stages.clean.code.syntax import UnparsableError, parse_python, read_module_code
from stages.clean.row import WORD_PATTERN, RowView
from stages.clean.rules.quotes import quote
from stages.clean.settings import Contamination
from stages.common.core.errors import UserError
from stages.common.core.files import read_jsonl
from stages.common.rows.schema import Problem

EXAMPLE_START = re.compile(r">>>|^\s*(for example|examples?|e\.g\.|assert\b)|\bassert ", re.I | re.M)
IMPORT_LINE = re.compile(r"^(import|from)\s.*$", re.M)
DOCSTRING_WORDS = 8  # a benchmark's docstring with fewer words is too common to prove anything
NGRAM_WORDS = 10
SOLUTION_CHARACTERS = 60  # least characters shared with a solution, white space collapsed
PIECE = (SOLUTION_CHARACTERS + 1) // 2  # of indexed pieces: any shared run of SOLUTION_CHARACTERS holds one


@dataclass(frozen=True)
class ProblemMatch:
    """A row's overlap with one problem."""

    benchmark: str
    task_id: str
    text: str  # what the two share
    measure: float = 1.0  # how much of the problem, or how similar, 0 to 1

    def __str__(self) -> str:
        return f"{self.benchmark} {self.task_id}: {self.text}"


class RunIndex:
    """Looks up runs of `size` words: by their first, middle and last word, and whole only where these agree."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.values: dict[str, list[Any]] = {}  # run of words -> what was added with it
        self.anchors: set[tuple[str, str, str]] = set()

    def add(self, run: list[str], value: Any) -> None:
        self.anchors.update(self.ends(run))
        self.values.setdefault(" ".join(run), []).append(value)

    def ends(self, words: list[str]) -> Iterator[tuple[str, str, str]]:
        return zip(words, words[self.size // 2 :], words[self.size - 1 :], strict=False)

    def find(self, words: list[str]) -> dict[str, list[Any]]:
        """Return the runs of `words` that were added, in order, with their values."""
        places = [place for place, ends in enumerate(self.ends(words)) if ends in self.anchors]
        runs = (" ".join(words[place : place + self.size]) for place in places)
        return {run: self.values[run] for run in runs if run in self.values}


class ProblemIndex:
    """Lookup tables over all problems, by position in `problems`. Two benchmarks may share a problem."""

    def __init__(self, problems: list[tuple[str, Problem]], settings: Contamination) -> None:
        """`problems`: benchmark and problem."""
        self.settings, self.problems = settings, problems
        self.docstrings = RunIndex(DOCSTRING_WORDS)  # first words of a docstring -> problem, whole docstring
        self.ngrams = RunIndex(NGRAM_WORDS)  # -> problem
        self.ngram_counts: list[int] = []
        self.solutions: list[str] = []
        # Piece of a solution -> problem, offset in the solution
        self.pieces = defaultdict[str, list[tuple[int, int]]](list)
        # Canonical text of a solution of at least `ast_words` words
        self.functions = defaultdict[str, list[int]](list)
        # Shingle of the canonical text of any solution
        self.shingles = defaultdict[tuple[str, ...], list[int]](list)
        self.solution_shingles: list[set[tuple[str, ...]]] = []
        self.names = defaultdict[str, list[int]](list)  # normalized name of the entry point
        for number, (_, problem) in enumerate(problems):
            self.add(number, problem)

    def add(self, number: int, problem: Problem) -> None:
        for text in descriptions(problem):
            words = split_words(text)
            if len(words) >= DOCSTRING_WORDS:
                self.docstrings.add(words[:DOCSTRING_WORDS], (number, " ".join(words)))
        words = split_words(f"{problem.prompt}\n{problem.canonical_solution}\n{problem.suffix}")
        runs = {tuple(words[i : i + NGRAM_WORDS]) for i in range(len(words) - NGRAM_WORDS + 1)}
        self.ngram_counts.append(len(runs))
        for run in runs:
            self.ngrams.add([*run], number)
        # without its imports, which other programs share
        solution = collapse_whitespace(IMPORT_LINE.sub("", problem.canonical_solution))
        self.solutions.append(solution)
        for start in range(len(solution) - PIECE + 1) if len(solution) >= SOLUTION_CHARACTERS else ():
            self.pieces[solution[start : start + PIECE]].append((number, start))
        functions = dict(read_module_code(problem.solved).functions)
        text = functions.get(problem.entry_point, "")
        if text and len(CODE_WORD.findall(text)) >= self.settings.ast_words:
            self.functions[text].append(number)
        self.solution_shingles.append(code_shingles(text))
        for shingle in self.solution_shingles[-1]:
            self.shingles[shingle].append(number)
        self.names[normalized_name(problem.entry_point)].append(number)

    def match(self, problem: int, text: str, measure: float = 1.0) -> ProblemMatch:
        benchmark, indexed = self.problems[problem]
        return ProblemMatch(benchmark, indexed.task_id, text, measure)

    @cached_property
    def known_shingles(self) -> frozenset[tuple[str, ...]]:
        """All indexed shingles as a set, so that their hashes are computed once and not per row."""
        return frozenset(self.shingles)


def read_problems(folder: str | Path) -> list[tuple[str, Problem]]:
    """Read all problems in a folder as (benchmark, problem), files in order of name.

    Raises:
        UserError: the folder holds no benchmark, or a line is not a problem; names the file and the line.
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
            f"{folder} holds no benchmarks: nothing to decontaminate against. Run `dvc repro fetch`."
        )
    return problems


@lru_cache(maxsize=2)
def load_index(folder: str | Path, settings: Contamination) -> ProblemIndex:
    """Return the index of a folder's benchmarks, which a process builds once.

    Raises:
        UserError: see `read_problems`.
    """
    return ProblemIndex(read_problems(folder), settings)


def descriptions(problem: Problem) -> list[str]:
    """Return the problem in words: its docstrings, each whole and up to its first example."""
    try:
        tree: ast.AST | None = parse_python(problem.solved)
    except UnparsableError:
        tree = None
    if tree is None:
        texts = [problem.prompt]
    else:
        kinds = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    return [
        part for text in texts for part in dict.fromkeys((text, EXAMPLE_START.split(text)[0])) if part.strip()
    ]


def contaminated_docstring(row: RowView, index: ProblemIndex) -> Iterator[ProblemMatch]:
    """Match rows that hold the words of a problem's docstring, in order."""
    found = index.docstrings.find(row.words)
    text = f" {' '.join(row.words)} " if found else ""
    for number, docstring in dict.fromkeys(match for matches in found.values() for match in matches):
        if f" {docstring} " in text:
            yield index.match(number, quote(docstring))


def contaminated_solution(row: RowView, index: ProblemIndex) -> Iterator[ProblemMatch]:
    """Match rows that share at least SOLUTION_CHARACTERS with a solution; yield the first run of each."""
    text = collapse_whitespace(row.text)
    matched: set[int] = set()  # a row may repeat a solution many times
    for start in range(0, len(text) - PIECE + 1, SOLUTION_CHARACTERS - PIECE + 1):
        for number, offset in index.pieces.get(text[start : start + PIECE], ()):
            if number in matched:
                continue
            shared = common_run(text, start, index.solutions[number], offset, PIECE)
            if len(shared) >= SOLUTION_CHARACTERS:
                matched.add(number)
                yield index.match(number, quote(shared))


def common_run(text: str, start: int, other: str, offset: int, size: int) -> str:
    """Return the longest common run around `text[start:start + size] == other[offset:offset + size]`."""
    back = 0
    while back < min(start, offset) and text[start - back - 1] == other[offset - back - 1]:
        back += 1
    end = size
    while start + end < len(text) and offset + end < len(other) and text[start + end] == other[offset + end]:
        end += 1
    return text[start - back : start + end]


def contaminated_ngrams(row: RowView, index: ProblemIndex) -> Iterator[ProblemMatch]:
    """Match rows that hold more than `ngram_coverage` of a problem's n-grams (of prompt and solution)."""
    return (match for match in ngram_overlaps(row, index) if match.measure > index.settings.ngram_coverage)


def ngram_overlaps(row: RowView, index: ProblemIndex) -> Iterator[ProblemMatch]:
    """Yield each problem that shares n-grams with the row, with the share of the problem's, largest first."""
    shared: dict[int, list[str]] = {}
    for gram, numbers in index.ngrams.find(row.words).items():
        for number in numbers:
            shared.setdefault(number, []).append(gram)
    coverage = {number: len(grams) / index.ngram_counts[number] for number, grams in shared.items()}
    for number in sorted(coverage, key=lambda n: (-coverage[n], n)):
        text = f"{coverage[number]:.2f} of its {NGRAM_WORDS}-grams, first {quote(shared[number][0])}"
        yield index.match(number, text, coverage[number])


def contaminated_ast(row: RowView, index: ProblemIndex) -> Iterator[ProblemMatch]:
    """Match rows with a function that equals a problem's canonical solution but for names."""
    for name, text in row.functions:
        for number in index.functions.get(text, ()):
            yield index.match(number, f"{name} is its solution but for names")


CONTAMINATION_CHECKS: dict[str, Callable[[RowView, ProblemIndex], Iterator[ProblemMatch]]] = {
    "contaminated_docstring": contaminated_docstring,
    "contaminated_solution": contaminated_solution,
    "contaminated_ngrams": contaminated_ngrams,
    "contaminated_ast": contaminated_ast,
}


def count_by_benchmark(problems: list[tuple[str, Problem]], names: Iterable[str]) -> dict[str, int]:
    """Count how often each benchmark appears in `names`, zero where it does not."""
    counts = Counter(names)
    return {name: counts[name] for name in dict.fromkeys(name for name, _ in problems)}


def normalized_name(name: str) -> str:
    """Return a function's name without scope, case and underscores: benchmarks have words_string, is_Diff."""
    return name.rpartition(".")[2].lower().replace("_", "")


def split_words(text: str) -> list[str]:
    return WORD_PATTERN.findall(text.lower())


def collapse_whitespace(text: str) -> str:
    """Collapse runs of white space to one space, so that indentation and line breaks do not hide a copy."""
    return " ".join(text.split())
