"""A corpus in data/raw's schema with a known share of everything that clean is to find, streamed to Parquet.

Seven rows of ten are functions (`prompt` and `completion`), three are conversations with the function in a fence. What
was planted stands in each row's `metadata`: `planted` (its kind) and `family` (rows of one origin share it). Rows are a
function of their number, the seed and the problems alone, so the file is written in batches, already sorted by id.
"""

import builtins
import json
import keyword
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.grammar import NOUNS, Writer
from stages.common.core.files import atomic_write
from stages.common.rows.schema import Problem, row_schema

BATCH_ROWS = 4096
WORDS = re.compile(r"\w+|[^\w\s]+")  # of the clean stage: shingles are runs of these
SHINGLE = 5
# Shares of all rows, of copies that are planted beside their originals and of rows that a rule drops.
SHARES = {"exact": 0.02, "renamed": 0.02, "near": 0.08, "contaminated": 0.005, "secret": 0.01, "junk": 0.03}
LEVELS = (0.95, 0.9, 0.85, 0.8, 0.76, 0.73, 0.67, 0.64, 0.6, 0.55)  # Jaccard of a near copy with its original
COPIES = 2  # near copies of one original
KEEP = frozenset([*keyword.kwlist, *dir(builtins), "x"])  # words that are not replaced


@dataclass(frozen=True)
class Text:
    """What a row is made of."""

    head: str  # signature and docstring
    body: str
    about: str

    @property
    def whole(self) -> str:
        return self.head + self.body


@dataclass(frozen=True)
class Planted:
    """The place of a row in the plan: the `number`-th of its kind, from the `base`-th original."""

    kind: str  # plain, or a key of SHARES
    number: int
    base: int


class Plan:
    """What stands on each of `rows` places: as many of each kind as SHARES says, scattered by the seed.

    Memory: 4 bytes a row.
    """

    def __init__(self, rows: int, seed: int) -> None:
        counts = {kind: int(rows * share) for kind, share in SHARES.items()}
        self.kinds = ["plain", *counts]
        self.ends = list(accumulate([rows - sum(counts.values()), *counts.values()]))
        self.order = np.random.default_rng(seed).permutation(rows).astype(np.int32)
        originals, self.first = 0, {}
        for kind, count in counts.items():
            self.first[kind] = originals
            originals += -(-count // COPIES) if kind == "near" else count
        if originals > self.ends[0]:
            raise ValueError(f"{rows} rows hold no originals for {originals} families")

    def __getitem__(self, place: int) -> Planted:
        number = int(self.order[place])
        at = next(i for i, end in enumerate(self.ends) if number < end)
        if at == 0:
            return Planted("plain", number, number)
        number -= self.ends[at - 1]
        kind = self.kinds[at]
        return Planted(kind, number, self.first[kind] + (number // COPIES if kind == "near" else number))


def original(seed: int, base: int, names: int = 0) -> Text:
    """The text of an original; other `names` give the same function with other names."""
    structure = seed * 2**40 + base
    return Text(*Writer(structure, (structure + 1) * 7919 + names).function())


def near_copy(text: Text, level: float, rng: random.Random) -> Text:
    """Words replaced in runs, or lines inserted, until its Jaccard similarity with `text` is about `level`."""
    return inserted(text, level, rng) if rng.random() < 0.4 else edited(text, level, rng)


def edited(text: Text, level: float, rng: random.Random) -> Text:
    """Replace words, run by run: names, numbers and prose, so that it still parses."""
    found = [*WORDS.finditer(text.whole)]
    free = [i for i, m in enumerate(found) if i > 1 and (m[0][0].isalnum() and m[0] not in KEEP)]
    shingles = max(1, len(found) - SHINGLE + 1)
    wanted = shingles * (1 - level) / (1 + level)  # shingles to lose: (S - k) / (S + k) = level
    touched: set[int] = set()
    chosen: dict[int, str] = {}
    start = rng.randrange(len(free))
    while len(touched) < wanted and len(chosen) < len(free):
        at = free[start % len(free)]
        word = found[at][0]
        chosen[at] = (
            str(rng.randrange(1000, 9999)) if word.isdigit() else f"{rng.choice(NOUNS)}_{rng.choice(NOUNS)}"
        )
        touched.update(range(max(0, at - SHINGLE + 1), min(at, shingles - 1) + 1))
        start = start + 1 if rng.random() < 0.6 else rng.randrange(len(free))
    pieces, end, cut = [], 0, len(text.head)
    for at, word in sorted(chosen.items()):
        pieces += [text.whole[end : found[at].start()], word]
        end = found[at].end()
        cut += len(word) - len(found[at][0]) if found[at].start() < len(text.head) else 0
    whole = "".join([*pieces, text.whole[end:]])
    return Text(whole[:cut], whole[cut:], text.about)


def inserted(text: Text, level: float, rng: random.Random) -> Text:
    """Insert lines: `n` words in one place lose SHINGLE - 1 shingles and add n + SHINGLE - 1."""
    lines = text.body.splitlines()
    shingles = max(1, len(WORDS.findall(text.whole)) - SHINGLE + 1)
    lost = added = 0
    while (shingles - lost) / (shingles + added) > level:
        at = rng.randrange(len(lines))
        indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
        if lines[at].lstrip().startswith(("else", "except")):
            continue
        line = f"{rng.choice(NOUNS)}_{rng.randrange(1000)} = {rng.choice(NOUNS)}[{rng.randrange(1000)}]"
        lines.insert(at, indent + line)
        lost, added = lost + SHINGLE - 1, added + len(WORDS.findall(line)) + SHINGLE - 1
    return Text(text.head, "\n".join(lines) + "\n", text.about)


def contaminated(text: Text, problems: Sequence[Problem], number: int) -> Text:
    """A benchmark problem's description, its solution, or the whole of it."""
    problem = problems[number % len(problems)]
    how = number // len(problems) % 3
    if how == 0:
        return Text(problem.prompt, problem.canonical_solution.rstrip("\n") + "\n", text.about)
    if how == 1:
        quoted = "\n".join(f"    # {line.strip()}" for line in problem.prompt.splitlines() if line.strip())
        return Text(text.head, f"{quoted}\n{text.body}", text.about)
    return Text(
        text.head,
        text.body + "\n\n" + problem.prompt + problem.canonical_solution.rstrip("\n") + "\n",
        text.about,
    )


def secret(text: Text, rng: random.Random) -> Text:
    """A line with a key, a password, an address of a person or a machine."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    code = "".join(rng.choices(letters, k=16))
    line = rng.choice(
        (
            f'aws_key = "AKIA{code}"',
            f'password = "{code.lower()}9#"',
            f'api_key = "{rng.getrandbits(160):040x}"',
            f'owner = "{rng.choice(NOUNS)}.{rng.choice(NOUNS)}@{rng.choice(NOUNS)}.org"',
            f'host = "{rng.randrange(11, 99)}.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"',
            f'token = "ghp_{rng.getrandbits(180):045x}"'[:51] + '"',
        )
    )
    return Text(text.head, f"    {line}\n{text.body}", text.about)


JUNK: dict[str, Callable[[Text, random.Random], Text]] = {
    "empty": lambda t, r: Text(t.head, " \n", t.about),
    "long": lambda t, r: Text(
        t.head, t.body + "".join(f"    row_{i} = {r.randrange(10**6)}\n" for i in range(500)), t.about
    ),
    "long line": lambda t, r: Text(
        t.head, f"    data = [{', '.join(map(str, r.choices(range(9999), k=900)))}]\n{t.body}", t.about
    ),
    "cut": lambda t, r: Text(t.head, t.body + "    if (\n", t.about),
    "placeholder": lambda t, r: Text(t.head, t.body + "    # TODO: the rest\n", t.about),
    "stub": lambda t, r: Text(t.head, "    pass\n", t.about),
    "repeated lines": lambda t, r: Text(
        t.head, t.body + "    total += 1\n" * (60 + r.randrange(90)), t.about
    ),
    "hex": lambda t, r: Text(t.head, f'    blob = "{r.getrandbits(800):0200x}"\n{t.body}', t.about),
    "base64": lambda t, r: Text(
        t.head,
        f'    blob = "{"".join(r.choices("ABCDEFGHabcdefghijklmnopqrstuvwxyz0123456789+/", k=200))}=="\n{t.body}',
        t.about,
    ),
    "refusal": lambda t, r: Text(
        t.head, f"    # As an AI language model, I cannot help with that.\n{t.body}", t.about
    ),
    "comments": lambda t, r: Text(
        t.head, "".join(f"    # {t.about} {i}\n" for i in range(40)) + t.body, t.about
    ),
    "system": lambda t, r: Text(
        f"import os\nimport subprocess\n\n\n{t.head}", f"    os.system('rm -r /')\n{t.body}", t.about
    ),
}
JUNK_KINDS = tuple(JUNK)


def text_of(planted: Planted, seed: int, problems: Sequence[Problem]) -> tuple[Text, str]:
    """The text of a place of the plan, and a word on it."""
    rng = random.Random(seed * 2**40 + 2**39 + planted.number)
    text = original(seed, planted.base, 1 if planted.kind == "renamed" else 0)
    if planted.kind == "near":
        level = LEVELS[planted.number % len(LEVELS)]
        return near_copy(text, level, rng), f"Jaccard {level}"
    if planted.kind == "contaminated":
        return contaminated(text, problems, planted.number), ""
    if planted.kind == "secret":
        return secret(text, rng), ""
    if planted.kind == "junk":
        name = JUNK_KINDS[planted.number % len(JUNK_KINDS)]
        return JUNK[name](text, rng), name
    return text, ""


def rows_of(
    plan: Plan, start: int, stop: int, seed: int, problems: Sequence[Problem]
) -> Iterator[dict[str, Any]]:
    """Rows `start` to `stop` of the corpus; ids grow with the place, and are as good as random otherwise."""
    rng = random.Random(seed * 2**40 + 2**38 + start)
    rows = len(plan.order)
    for place in range(start, stop):
        planted = plan[place]
        text, note = text_of(planted, seed, problems)
        low, high = place * 2**80 // rows, (place + 1) * 2**80 // rows
        row: dict[str, Any] = {
            "id": f"{low + rng.getrandbits(80) % (high - low):020x}",
            "source": ("library", "scripts", "answers")[planted.base % 3],
            "licence": ("MIT", "Apache-2.0", "BSD-3-Clause")[planted.base % 3],
            "tests": None,
            "metadata": json.dumps(
                {"family": planted.base, "note": note, "planted": planted.kind}, sort_keys=True
            ),
        }
        if planted.base % 10 < 7:
            yield {**row, "prompt": text.head, "completion": text.body, "messages": None}
        else:
            yield {**row, "prompt": None, "completion": None, "messages": conversation(text)}


def conversation(text: Text) -> list[dict[str, str]]:
    asked = text.about[0].lower() + text.about[1:]
    return [
        {"role": "user", "content": f"Write a Python function for this: {asked}."},
        {"role": "assistant", "content": f"```python\n{text.whole}```\n"},
    ]


def write_corpus(path: Path, rows: int, seed: int, problems: Sequence[Problem]) -> None:
    """Write a corpus of `rows` rows; memory does not grow with them but for the plan."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    plan = Plan(rows, seed)
    with (
        atomic_write(path) as temporary,
        pq.ParquetWriter(temporary, row_schema(), compression="zstd") as writer,
    ):
        for start in range(0, rows, BATCH_ROWS):
            made = rows_of(plan, start, min(start + BATCH_ROWS, rows), seed, problems)
            writer.write_table(pa.Table.from_pylist(list(made), schema=row_schema()))
