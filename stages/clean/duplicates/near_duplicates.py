"""Near duplicates (Broder 1997): MinHash over shingles of words, banded (LSH) to find candidates, each candidate then
decided by its exact Jaccard similarity, and connected components of what remains.

The shingles and band keys of rows lie in files, one pair of files a task. A pass loads the keys of a few bands, and the
shingles of candidates are read when they are compared, so that memory does not grow with the length of texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from stages.clean.duplicates.shingles import CHUNK_ROWS, band_keys, minhash, shared_shares, shingle_hashes
from stages.clean.settings import NearDuplicates
from stages.common.engine import Engine

LEADERS = 16  # rows of a group that are compared with all others of it: a group of up to 17 is compared whole
BATCH_PAIRS = 1 << 16  # pairs after whose comparison components are joined
LOADED_PAIRS = 1 << 13  # pairs whose shingles are loaded at a time
PASS_KEYS = 1 << 20  # keys of a pass, unless one band of all rows has more: memory grows with it
SEEN_A_ROW = 2  # pairs remembered for each row, on average; what is forgotten is only compared again


def band_shape(permutations: int, similarity: float, recall: float) -> tuple[int, int]:
    """(bands, rows a band): the longest bands with which a pair at `similarity` collides with chance >= `recall`.

    The chance is 1 - (1 - s^rows)^bands (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4).
    """
    for rows in range(permutations, 1, -1):
        bands = permutations // rows
        if 1 - (1 - similarity**rows) ** bands >= recall:
            return bands, rows
    return permutations, 1


def bands_of(settings: NearDuplicates) -> tuple[int, int]:
    return band_shape(settings.permutations, min(settings.related, settings.threshold), settings.recall)


def write_signatures(folder: Path, number: int, texts: Sequence[str], settings: NearDuplicates) -> np.ndarray:
    """Write shingles and band keys of some texts below `folder`; returns int32 [n], the shingles of each."""
    bands, rows = bands_of(settings)
    parts = []
    for start in range(
        0, max(1, len(texts)), CHUNK_ROWS
    ):  # what a chunk needs stays in the processor's cache
        hashes, counts = shingle_hashes(texts[start : start + CHUNK_ROWS], settings.shingle_words)
        keys = band_keys(minhash(hashes, counts[counts > 0], bands * rows), bands, rows)
        parts.append((keys, hashes, counts))
    np.save(folder / f"keys-{number:06}.npy", np.concatenate([keys for keys, _, _ in parts], axis=1))
    np.save(folder / f"shingles-{number:06}.npy", np.concatenate([hashes for _, hashes, _ in parts]))
    return np.concatenate([counts for _, _, counts in parts]).astype(np.int32)


class Signatures:
    """What `write_signatures` wrote, for all rows."""

    def __init__(self, folder: Path, counts: list[np.ndarray]) -> None:
        """Args: counts: of each file, in the order of their numbers: the shingles of its rows."""
        self.folder = folder
        self.counts = np.concatenate(counts)
        self.bounds = np.r_[0, np.cumsum([len(part) for part in counts])]

    def keys(self, bands: range, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Keys of some bands and the row of each, int32, of the rows of the mask `alive` that have shingles."""
        chosen = alive & (self.counts > 0)
        size = int(chosen.sum())
        keys = np.empty((len(bands), size), np.uint64)
        first = 0
        for number, start in enumerate(self.bounds[:-1]):
            part = slice(start, self.bounds[number + 1])
            some = chosen[part][self.counts[part] > 0]
            loaded = np.load(self.folder / f"keys-{number:06}.npy", mmap_mode="r")
            last = first + int(some.sum())
            keys[:, first:last] = loaded[bands.start : bands.stop, some]
            first = last
        return keys.reshape(-1), np.tile(np.flatnonzero(chosen).astype(np.int32), len(bands))

    def shingles(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(hashes, counts) of rows, which ascend."""
        hashes = []
        cuts = np.asarray(np.searchsorted(rows, self.bounds))
        for number in np.flatnonzero(np.diff(cuts)).tolist():
            part = self.counts[self.bounds[number] : self.bounds[number + 1]].astype(np.int64)
            inside = rows[cuts[number] : cuts[number + 1]] - self.bounds[number]
            counts = part[inside]
            firsts = (np.cumsum(part) - part)[inside]
            places = np.arange(counts.sum()) + np.repeat(firsts - (np.cumsum(counts) - counts), counts)
            hashes.append(np.load(self.folder / f"shingles-{number:06}.npy", mmap_mode="r")[places])
        return (np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)), self.counts[rows].astype(
            np.int64
        )

    def similarity(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Exact Jaccard similarity of each pair of rows."""
        similarity = np.empty(len(left))
        for start in range(0, len(left), LOADED_PAIRS):
            pairs = slice(start, start + LOADED_PAIRS)
            places = sorted_unique(np.r_[left[pairs], right[pairs]])
            hashes, counts = self.shingles(places)
            sides = (np.searchsorted(places, side[pairs]) for side in (left, right))
            similarity[pairs] = shared_shares(hashes, counts, *sides)
        return similarity


def sorted_unique(values: np.ndarray) -> np.ndarray:
    """`np.unique` by sorting: its hash table met 500,000 such numbers with 121 s, sorting takes 4."""
    values = np.sort(values)
    return values[np.flatnonzero(np.r_[True, values[1:] != values[:-1]][: len(values)])]


class Components:
    """Connected components of rows, joined some edges at a time; `of` is int32 [n], a component's least row."""

    def __init__(self, size: int) -> None:
        self.of = np.arange(size, dtype=np.int32)

    def join(self, left: np.ndarray, right: np.ndarray) -> None:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        left, right = self.of[left], self.of[right]
        nodes = sorted_unique(np.r_[left, right])
        if not len(nodes):
            return
        ends = (np.searchsorted(nodes, left), np.searchsorted(nodes, right))
        graph = coo_array((np.ones(len(left), dtype=bool), ends), shape=(len(nodes), len(nodes)))
        count, labels = connected_components(graph, directed=False)
        least = np.full(count, len(self.of), np.int32)
        np.minimum.at(least, labels, nodes)
        new = np.arange(len(self.of), dtype=np.int32)
        new[nodes] = least[labels]
        np.take(new, self.of, out=self.of)


@dataclass
class Near:
    """What is known of near duplicates among some rows."""

    same: Components  # joined by pairs of at least `threshold`
    related: Components  # joined by pairs of at least `related`
    looked_at: int = 0  # pairs whose similarity was worked out
    pairs: int = 0  # of these at `threshold` or above
    seen: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # left * rows + right, sorted


def near_components(signatures: Signatures, alive: np.ndarray, settings: NearDuplicates) -> Near:
    """Components of the rows of the mask `alive`; others stay alone.

    Every pair whose bands collide is compared, but for those that are connected at `threshold` already, and in groups
    of more than LEADERS + 1 rows those without a leader: time stays linear in the rows of a cluster.
    """
    from stages.clean.duplicates.collisions import collisions

    near = Near(Components(len(alive)), Components(len(alive)))
    bands, _ = bands_of(settings)
    if alive.any():
        step = max(1, PASS_KEYS // int(alive.sum()))
        for start in range(0, bands, step):
            keys, rows = crowded(*signatures.keys(range(start, min(start + step, bands)), alive))
            if len(keys):
                compare_groups(near, signatures, *collisions(keys, rows), settings)
    return near


def crowded(keys: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without most keys that no other row has: those that are alone in their slot of a table by the keys' last bits.

    It leaves a tenth for the sort that decides.
    """
    size = 1 << (4 * len(keys) - 1).bit_length()
    slots = (keys & np.uint64(size - 1)).astype(np.uint32 if size <= 1 << 32 else np.int64)
    last = np.empty(size, np.int32 if len(keys) < 1 << 31 else np.int64)
    places = np.arange(len(keys), dtype=last.dtype)
    last[slots] = places
    several = np.zeros(size, bool)
    several[slots[last[slots] != places]] = True
    chosen = several[slots]
    return keys[chosen], rows[chosen]


def compare_groups(
    near: Near, signatures: Signatures, keys: np.ndarray, rows: np.ndarray, settings: NearDuplicates
) -> None:
    """Compare rows with equal keys: each leader in turn with those after it, while its group is not one component."""
    for turn in range(LEADERS):
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]][: len(keys)])
        sizes = np.diff(np.r_[starts, len(keys)])
        firsts = np.repeat(starts, sizes)
        later = np.flatnonzero(np.arange(len(keys)) - firsts > turn)
        if not len(later):
            return
        compare(near, signatures, rows[firsts[later] + turn], rows[later], settings)
        labels = near.same.of[rows]
        apart = np.logical_or.reduceat(labels != labels[firsts], starts)
        open_ = np.repeat(apart & (sizes > turn + 2), sizes)
        keys, rows = keys[open_], rows[open_]


def compare(
    near: Near, signatures: Signatures, left: np.ndarray, right: np.ndarray, settings: NearDuplicates
) -> None:
    """Work out the similarity of pairs not seen before between components, some at a time, and join components."""
    size = len(near.same.of)
    codes = sorted_unique(left.astype(np.int64) * size + right)
    if len(near.seen):
        places = np.minimum(np.searchsorted(near.seen, codes), len(near.seen) - 1)
        codes = codes[near.seen[places] != codes]
    for start in range(0, len(codes), BATCH_PAIRS):
        batch = codes[start : start + BATCH_PAIRS]
        left, right = np.divmod(batch, size)
        fresh = near.same.of[left] != near.same.of[right]
        left, right = left[fresh], right[fresh]
        similarity = signatures.similarity(left, right)
        close = similarity >= settings.threshold
        related = similarity >= min(settings.related, settings.threshold)
        near.looked_at += len(left)
        near.pairs += int(close.sum())
        near.same.join(left[close], right[close])
        near.related.join(left[related], right[related])
        if len(near.seen) > SEEN_A_ROW * size:
            near.seen = near.seen[:0]
        near.seen = np.sort(np.r_[near.seen, batch[fresh][~close]], kind="stable")


def near_duplicates(path: Path, column: str, settings: NearDuplicates, engine: Engine) -> np.ndarray:
    """The row that stands for each row of a Parquet file of texts: the longest of its component, then the first.

    Returns:
        int64 [n]; a row is kept where it stands for itself.
    """
    import pyarrow.parquet as pq

    with TemporaryDirectory(prefix=".near-", dir=path.parent) as scratch:
        groups = pq.ParquetFile(path).metadata.num_row_groups
        tasks = [TextTask(str(path), column, number, scratch, settings) for number in range(groups)]
        found = list(engine.map(sign_texts, tasks))
        signatures = Signatures(Path(scratch), [counts for counts, _ in found])
        sizes = np.concatenate([lengths for _, lengths in found])
        near = near_components(signatures, np.ones(len(sizes), bool), settings)
    order = np.lexsort((np.arange(len(sizes)), -sizes))
    ranks = np.empty(len(sizes), np.int64)
    ranks[order] = np.arange(len(sizes))
    return representatives(near.same.of, ranks)


@dataclass(frozen=True)
class TextTask:
    path: str
    column: str
    number: int  # of the row group
    scratch: str
    settings: NearDuplicates


def sign_texts(task: TextTask) -> tuple[np.ndarray, np.ndarray]:
    """Shingles and characters of the texts of a row group."""
    import pyarrow.parquet as pq

    column: Any = pq.ParquetFile(task.path).read_row_group(task.number, [task.column]).column(0)
    texts = column.to_pylist()
    counts = write_signatures(Path(task.scratch), task.number, texts, task.settings)
    return counts, np.fromiter(map(len, texts), np.int64, len(texts))


def representatives(labels: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """For each row the position of the row of its component with the lowest rank."""
    order = np.lexsort((ranks, labels))
    first = np.flatnonzero(np.diff(labels[order], prepend=-1))
    return order[first][np.searchsorted(labels[order][first], labels)]
