"""Sign rows for the search of near duplicates: word shingles, and band keys of their MinHash.

A row is shingled in two parts, its question and its answer. Shingles of questions that many rows share (a
schema, an instruction, examples) are set aside before rows are signed: rows share them by construction.
Shingles and band keys lie in files, one pair of files per part, so memory does not grow with the length of
texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.clean.duplicates.shingles import (
    CHUNK_ROWS,
    band_keys,
    minhash,
    ragged_places,
    shared_shares,
    shingle_hashes,
)
from stages.clean.settings import NearDuplicates
from stages.common.engine import Engine

SHINGLE_WORDS = 5
RECALL = 0.985  # least chance that a pair at the least similarity asked for is compared
PERMUTATIONS = 512  # most MinHash values per row
BOILERPLATE_ROWS = 5  # a question's shingle in this many rows is set aside
BOILERPLATE_SLOTS = 32  # counters per row (4 bytes each); two shingles may share one
LOADED_PAIRS = 1 << 13  # pairs whose shingles are loaded at a time
WHOLE, QUESTION, ANSWER = slice(0, 2), slice(0, 1), slice(1, 2)  # sides of a row


def band_shape(similarity: float) -> tuple[int, int]:
    """Return (bands, rows per band), bands of at most 3 values that find a pair at `similarity` with chance
    >= RECALL.

    The chance is 1 - (1 - s^rows)^bands (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4).
    Candidates are decided exactly, so longer bands would only save comparisons.
    """
    for rows in (3, 2, 1):
        bands = 1 if similarity == 1 else int(np.ceil(np.log(1 - RECALL) / np.log1p(-(similarity**rows))))
        if bands * rows <= PERMUTATIONS:
            return bands, rows
    return PERMUTATIONS, 1


def configured_bands(settings: NearDuplicates) -> tuple[int, int]:
    return band_shape(min(settings.related, settings.threshold))


def write_shingles(folder: Path, number: int, texts: Sequence[tuple[str, str]]) -> np.ndarray:
    """Write the shingles of (question, answer) pairs below `folder`; return int32 [n, 2], how many of each."""
    sides = [side for text in texts for side in text]
    parts = [
        shingle_hashes(sides[start : start + 2 * CHUNK_ROWS], SHINGLE_WORDS)
        for start in range(0, max(1, len(sides)), 2 * CHUNK_ROWS)  # a chunk stays in the processor's cache
    ]
    np.save(folder / f"shingles-{number:06}.npy", np.concatenate([hashes for hashes, _ in parts]))
    return np.concatenate([counts for _, counts in parts]).astype(np.int32).reshape(-1, 2)


def shared_shingles(folder: Path, counts: Sequence[np.ndarray]) -> np.ndarray:
    """Return, sorted, the shingles in the questions of at least BOILERPLATE_ROWS rows.

    A first pass counts in a table of hashed slots, which is never too low; a second counts the few shingles
    that remain exactly. Memory is 128 bytes per row while it lasts.
    """
    questions = [number for number, part in enumerate(counts) if part[:, 0].any()]
    if not questions:
        return np.zeros(0, np.uint64)
    slots = np.zeros(1 << max(16, (BOILERPLATE_SLOTS * sum(map(len, counts))).bit_length() - 1), np.uint32)
    mask = np.uint64(len(slots) - 1)
    for number in questions:
        hashes, rows = rows_of_question_shingles(folder, number, counts[number])
        np.add.at(slots, (hashes & mask).astype(np.int64), rows)
    found = []
    for number in questions:
        hashes, rows = rows_of_question_shingles(folder, number, counts[number])
        often = slots[(hashes & mask).astype(np.int64)] >= BOILERPLATE_ROWS
        found.append((hashes[often], rows[often]))
    hashes, rows = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.argsort(hashes)
    hashes, starts = hashes[order], run_starts(hashes[order])
    return hashes[starts][np.add.reduceat(rows[order], starts) >= BOILERPLATE_ROWS]


def rows_of_question_shingles(folder: Path, number: int, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct shingles of a part's questions, and how many rows have each."""
    hashes = np.load(folder / f"shingles-{number:06}.npy", mmap_mode="r")
    sides = np.repeat(np.arange(counts.size), counts.reshape(-1))
    hashes, sides = hashes[sides % 2 == 0], sides[sides % 2 == 0]
    order = np.lexsort((sides, hashes))
    hashes, sides = hashes[order], sides[order]
    once = np.r_[True, (hashes[1:] != hashes[:-1]) | (sides[1:] != sides[:-1])][: len(hashes)]
    hashes = hashes[once]
    starts = run_starts(hashes)
    return hashes[starts], np.diff(np.r_[starts, len(hashes)])


@dataclass(frozen=True)
class SignTask:
    """A part to sign."""

    folder: str
    number: int
    counts: np.ndarray  # int32 [n, 2], from `write_shingles`
    settings: NearDuplicates


def sign_part(task: SignTask) -> np.ndarray:
    """Take the shared shingles (shared.npy) out of a part's questions, and write its band keys.

    Returns:
        int32 [n, 2], the shingles that remain of each row's question and answer.
    """
    path, counts = Path(task.folder) / f"shingles-{task.number:06}.npy", task.counts
    hashes = np.load(path)
    shared = np.load(Path(task.folder) / "shared.npy")
    if len(shared) and len(hashes):
        sides = np.repeat(np.arange(counts.size), counts.reshape(-1))
        places = np.minimum(np.searchsorted(shared, hashes), len(shared) - 1)
        kept = (sides % 2 == 1) | (shared[places] != hashes)
        hashes = hashes[kept]
        counts = np.bincount(sides[kept], minlength=counts.size).astype(np.int32).reshape(-1, 2)
        np.save(path, hashes)
    bands, rows = configured_bands(task.settings)
    sizes = counts.sum(axis=1, dtype=np.int64)
    ends = np.cumsum(sizes)
    keys = []
    for start in range(0, max(1, len(sizes)), CHUNK_ROWS):
        chunk = sizes[start : start + CHUNK_ROWS]
        first = int(ends[start] - sizes[start]) if len(sizes) else 0
        values = minhash(hashes[first : first + int(chunk.sum())], chunk[chunk > 0], bands * rows)
        keys.append(band_keys(values, bands, rows))
    np.save(path.with_name(f"keys-{task.number:06}.npy"), np.concatenate(keys, axis=1))
    return counts


class Signatures:
    """Reads what `sign_part` wrote, for all rows."""

    def __init__(self, folder: Path, counts: Sequence[np.ndarray]) -> None:
        """`counts`: for each part, in order of number, what `sign_part` returned."""
        self.folder = folder
        self.counts = np.concatenate([np.zeros((0, 2), np.int32), *counts])
        self.bounds = np.r_[0, np.cumsum([len(part) for part in counts], dtype=np.int64)]

    def keys(self, band: int, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the keys of a band and their rows (int32), of rows in the mask `alive` with shingles."""
        has_shingles = self.counts.any(axis=1)
        keys = [
            np.load(self.folder / f"keys-{number:06}.npy", mmap_mode="r")[band]
            for number in range(len(self.bounds) - 1)
        ]
        found = np.concatenate([np.zeros(0, np.uint64), *keys])[alive[has_shingles]]
        return found, np.flatnonzero(alive & has_shingles).astype(np.int32)

    def shingles(self, rows: np.ndarray, side: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return (hashes, counts) of one side of `rows`, which ascend."""
        hashes = [np.zeros(0, np.uint64)]
        cuts = np.asarray(np.searchsorted(rows, self.bounds))
        for number in np.flatnonzero(np.diff(cuts)).tolist():
            part = self.counts[self.bounds[number] : self.bounds[number + 1]].astype(np.int64)
            inside = rows[cuts[number] : cuts[number + 1]] - self.bounds[number]
            firsts = (np.cumsum(part) - part.reshape(-1)).reshape(-1, 2)[inside, side.start]
            places = ragged_places(firsts, part[inside, side].sum(axis=1))
            hashes.append(np.load(self.folder / f"shingles-{number:06}.npy", mmap_mode="r")[places])
        return np.concatenate(hashes), self.counts[rows, side].sum(axis=1, dtype=np.int64)

    def similarity(self, left: np.ndarray, right: np.ndarray, side: slice = WHOLE) -> np.ndarray:
        """Return the exact Jaccard similarity of each pair of rows, or of one side of them."""
        similarity = np.empty(len(left))
        for start in range(0, len(left), LOADED_PAIRS):
            pairs = slice(start, start + LOADED_PAIRS)
            places = sorted_unique(np.r_[left[pairs], right[pairs]])
            hashes, counts = self.shingles(places, side)
            ends = (np.searchsorted(places, each[pairs]) for each in (left, right))
            similarity[pairs] = shared_shares(hashes, counts, *ends)
        return similarity


def sign(engine: Engine, folder: Path, counts: Sequence[np.ndarray], settings: NearDuplicates) -> Signatures:
    """Sign all parts whose shingles `write_shingles` wrote; `counts` is what it returned for each."""
    np.save(folder / "shared.npy", shared_shingles(folder, counts))
    tasks = (SignTask(str(folder), number, part, settings) for number, part in enumerate(counts))
    return Signatures(folder, list(engine.map(sign_part, tasks)))


def sorted_unique(values: np.ndarray) -> np.ndarray:
    """Return `np.unique` by sorting: on 500,000 such numbers its hash table took 121 s, sorting takes 4 s."""
    values = np.sort(values)
    return values[run_starts(values)]


def run_starts(values: np.ndarray) -> np.ndarray:
    """Return where each run of equal neighbours starts."""
    return np.flatnonzero(np.r_[True, values[1:] != values[:-1]][: len(values)])
