"""Find near duplicates (Broder 1997): MinHash over word shingles, LSH bands to find candidate pairs, the
exact Jaccard similarity to decide each, and connected components of the pairs that remain.

Shingles and band keys lie in files, one pair of files per task. A pass loads the keys of a few bands; the
shingles of candidates are read when they are compared. So memory does not grow with the length of texts.
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

LEADERS = 16  # rows of a group compared with all others in it: groups of up to 17 are compared completely
BATCH_PAIRS = 1 << 16  # pairs to compare before components are joined
LOADED_PAIRS = 1 << 13  # pairs whose shingles are loaded at a time
PASS_KEYS = 1 << 20  # keys per pass, unless a single band has more; memory grows with it
SEEN_PAIRS_PER_ROW = 2  # pairs remembered per row, on average; a forgotten pair is only compared again


def band_shape(permutations: int, similarity: float, recall: float) -> tuple[int, int]:
    """Return (bands, rows per band): the longest bands that find a pair at `similarity` with chance >=
    `recall`.

    The chance is 1 - (1 - s^rows)^bands (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4).
    """
    for rows in range(permutations, 1, -1):
        bands = permutations // rows
        if 1 - (1 - similarity**rows) ** bands >= recall:
            return bands, rows
    return permutations, 1


def configured_bands(settings: NearDuplicates) -> tuple[int, int]:
    return band_shape(settings.permutations, min(settings.related, settings.threshold), settings.recall)


def write_signatures(folder: Path, number: int, texts: Sequence[str], settings: NearDuplicates) -> np.ndarray:
    """Write shingles and band keys of texts below `folder`; return int32 [n], the shingles of each."""
    bands, rows = configured_bands(settings)
    parts = []
    for start in range(0, max(1, len(texts)), CHUNK_ROWS):  # a chunk's data stays in the processor's cache
        hashes, counts = shingle_hashes(texts[start : start + CHUNK_ROWS], settings.shingle_words)
        keys = band_keys(minhash(hashes, counts[counts > 0], bands * rows), bands, rows)
        parts.append((keys, hashes, counts))
    np.save(folder / f"keys-{number:06}.npy", np.concatenate([keys for keys, _, _ in parts], axis=1))
    np.save(folder / f"shingles-{number:06}.npy", np.concatenate([hashes for _, hashes, _ in parts]))
    return np.concatenate([counts for _, _, counts in parts]).astype(np.int32)


class Signatures:
    """Reads what `write_signatures` wrote, for all rows."""

    def __init__(self, folder: Path, counts: list[np.ndarray]) -> None:
        """`counts`: for each file, in order of number, the number of shingles of its rows."""
        self.folder = folder
        self.counts = np.concatenate(counts)
        self.bounds = np.r_[0, np.cumsum([len(part) for part in counts])]

    def keys(self, bands: range, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return keys of some bands and their rows (int32), for rows in the mask `alive` with shingles."""
        signed = alive & (self.counts > 0)
        size = int(signed.sum())
        keys = np.empty((len(bands), size), np.uint64)
        first = 0
        for number, start in enumerate(self.bounds[:-1]):
            part = slice(start, self.bounds[number + 1])
            columns = signed[part][self.counts[part] > 0]
            part_keys = np.load(self.folder / f"keys-{number:06}.npy", mmap_mode="r")
            last = first + int(columns.sum())
            keys[:, first:last] = part_keys[bands.start : bands.stop, columns]
            first = last
        return keys.reshape(-1), np.tile(np.flatnonzero(signed).astype(np.int32), len(bands))

    def shingles(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (hashes, counts) of `rows`, which ascend."""
        hashes = []
        cuts = np.asarray(np.searchsorted(rows, self.bounds))
        for number in np.flatnonzero(np.diff(cuts)).tolist():
            part = self.counts[self.bounds[number] : self.bounds[number + 1]].astype(np.int64)
            inside = rows[cuts[number] : cuts[number + 1]] - self.bounds[number]
            counts = part[inside]
            firsts = (np.cumsum(part) - part)[inside]
            places = np.arange(counts.sum()) + np.repeat(firsts - (np.cumsum(counts) - counts), counts)
            hashes.append(np.load(self.folder / f"shingles-{number:06}.npy", mmap_mode="r")[places])
        all_hashes = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
        return all_hashes, self.counts[rows].astype(np.int64)

    def similarity(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the exact Jaccard similarity of each pair of rows."""
        similarity = np.empty(len(left))
        for start in range(0, len(left), LOADED_PAIRS):
            pairs = slice(start, start + LOADED_PAIRS)
            places = sorted_unique(np.r_[left[pairs], right[pairs]])
            hashes, counts = self.shingles(places)
            sides = (np.searchsorted(places, side[pairs]) for side in (left, right))
            similarity[pairs] = shared_shares(hashes, counts, *sides)
        return similarity


def sorted_unique(values: np.ndarray) -> np.ndarray:
    """Return `np.unique` by sorting: on 500,000 such numbers its hash table took 121 s, sorting takes 4 s."""
    values = np.sort(values)
    return values[np.flatnonzero(np.r_[True, values[1:] != values[:-1]][: len(values)])]


class Components:
    """Connected components, joined by batches of edges; `labels` is int32 [n], a component's lowest row."""

    def __init__(self, size: int) -> None:
        self.labels = np.arange(size, dtype=np.int32)

    def join(self, left: np.ndarray, right: np.ndarray) -> None:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        left, right = self.labels[left], self.labels[right]
        nodes = sorted_unique(np.r_[left, right])
        if not len(nodes):
            return
        ends = (np.searchsorted(nodes, left), np.searchsorted(nodes, right))
        graph = coo_array((np.ones(len(left), dtype=bool), ends), shape=(len(nodes), len(nodes)))
        count, node_labels = connected_components(graph, directed=False)
        least = np.full(count, len(self.labels), np.int32)
        np.minimum.at(least, node_labels, nodes)
        new = np.arange(len(self.labels), dtype=np.int32)
        new[nodes] = least[node_labels]
        np.take(new, self.labels, out=self.labels)


@dataclass
class NearDuplicateGraph:
    """What is known so far of near duplicates among some rows."""

    duplicates: Components  # joined by pairs at `threshold` or above
    related: Components  # joined by pairs at `related` or above
    compared: int = 0  # pairs whose similarity was computed
    close_pairs: int = 0  # those of them at `threshold` or above
    # Compared pairs below `threshold` as left * rows + right, sorted
    seen_pairs: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


def near_components(
    signatures: Signatures, alive: np.ndarray, settings: NearDuplicates
) -> NearDuplicateGraph:
    """Return the components of the rows in the mask `alive`; other rows stay alone.

    Every pair with a colliding band is compared, except pairs already connected at `threshold` and, in groups
    of more than LEADERS + 1 rows, pairs without a leader. So time stays linear in the rows of a cluster.
    """
    from stages.clean.duplicates.collisions import collisions

    near = NearDuplicateGraph(Components(len(alive)), Components(len(alive)))
    bands, _ = configured_bands(settings)
    if alive.any():
        step = max(1, PASS_KEYS // int(alive.sum()))
        for start in range(0, bands, step):
            keys, rows = drop_unique_keys(*signatures.keys(range(start, min(start + step, bands)), alive))
            if len(keys):
                compare_groups(near, signatures, *collisions(keys, rows), settings)
    return near


def drop_unique_keys(keys: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop most keys that occur once: hash keys to slots by their low bits and keep slots with more than one.

    About a tenth of the unique keys remain, for the exact sort to remove.
    """
    size = 1 << (4 * len(keys) - 1).bit_length()
    slots = (keys & np.uint64(size - 1)).astype(np.uint32 if size <= 1 << 32 else np.int64)
    last = np.empty(size, np.int32 if len(keys) < 1 << 31 else np.int64)
    places = np.arange(len(keys), dtype=last.dtype)
    last[slots] = places
    is_shared = np.zeros(size, bool)
    is_shared[slots[last[slots] != places]] = True
    kept = is_shared[slots]
    return keys[kept], rows[kept]


def compare_groups(
    near: NearDuplicateGraph,
    signatures: Signatures,
    keys: np.ndarray,
    rows: np.ndarray,
    settings: NearDuplicates,
) -> None:
    """Compare rows with equal keys: each leader with the rows after it, until the group is one component."""
    for turn in range(LEADERS):
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]][: len(keys)])
        sizes = np.diff(np.r_[starts, len(keys)])
        firsts = np.repeat(starts, sizes)
        later = np.flatnonzero(np.arange(len(keys)) - firsts > turn)
        if not len(later):
            return
        compare_pairs(near, signatures, rows[firsts[later] + turn], rows[later], settings)
        labels = near.duplicates.labels[rows]
        apart = np.logical_or.reduceat(labels != labels[firsts], starts)
        open_ = np.repeat(apart & (sizes > turn + 2), sizes)
        keys, rows = keys[open_], rows[open_]


def compare_pairs(
    near: NearDuplicateGraph,
    signatures: Signatures,
    left: np.ndarray,
    right: np.ndarray,
    settings: NearDuplicates,
) -> None:
    """Compute the similarity of unseen pairs between components, in batches, and join the close ones."""
    size = len(near.duplicates.labels)
    codes = sorted_unique(left.astype(np.int64) * size + right)
    if len(near.seen_pairs):
        places = np.minimum(np.searchsorted(near.seen_pairs, codes), len(near.seen_pairs) - 1)
        codes = codes[near.seen_pairs[places] != codes]
    for start in range(0, len(codes), BATCH_PAIRS):
        batch = codes[start : start + BATCH_PAIRS]
        left, right = np.divmod(batch, size)
        fresh = near.duplicates.labels[left] != near.duplicates.labels[right]
        left, right = left[fresh], right[fresh]
        similarity = signatures.similarity(left, right)
        close = similarity >= settings.threshold
        related = similarity >= min(settings.related, settings.threshold)
        near.compared += len(left)
        near.close_pairs += int(close.sum())
        near.duplicates.join(left[close], right[close])
        near.related.join(left[related], right[related])
        if len(near.seen_pairs) > SEEN_PAIRS_PER_ROW * size:
            near.seen_pairs = near.seen_pairs[:0]
        near.seen_pairs = np.sort(np.r_[near.seen_pairs, batch[fresh][~close]], kind="stable")


def near_duplicates(path: Path, column: str, settings: NearDuplicates, engine: Engine) -> np.ndarray:
    """Return each row's representative in a Parquet file of texts: the longest, then first, of its component.

    Returns:
        int64 [n]; a row that represents itself is kept.
    """
    import pyarrow.parquet as pq

    with TemporaryDirectory(prefix=".near-", dir=path.parent) as scratch:
        groups = pq.ParquetFile(path).metadata.num_row_groups
        tasks = [TextTask(str(path), column, number, scratch, settings) for number in range(groups)]
        signed = list(engine.map(sign_texts, tasks))
        signatures = Signatures(Path(scratch), [counts for counts, _ in signed])
        sizes = np.concatenate([lengths for _, lengths in signed])
        near = near_components(signatures, np.ones(len(sizes), bool), settings)
    order = np.lexsort((np.arange(len(sizes)), -sizes))
    ranks = np.empty(len(sizes), np.int64)
    ranks[order] = np.arange(len(sizes))
    return representatives_by_label(near.duplicates.labels, ranks)


@dataclass(frozen=True)
class TextTask:
    path: str
    column: str
    number: int  # of the row group
    scratch: str
    settings: NearDuplicates


def sign_texts(task: TextTask) -> tuple[np.ndarray, np.ndarray]:
    """Write the signatures of a row group's texts; return the shingles and the characters of each."""
    import pyarrow.parquet as pq

    column: Any = pq.ParquetFile(task.path).read_row_group(task.number, [task.column]).column(0)
    texts = column.to_pylist()
    counts = write_signatures(Path(task.scratch), task.number, texts, task.settings)
    return counts, np.fromiter(map(len, texts), np.int64, len(texts))


def representatives_by_label(labels: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return the position of each row's representative: the lowest-ranked row with the same label."""
    order = np.lexsort((ranks, labels))
    first = np.flatnonzero(np.diff(labels[order], prepend=-1))
    return order[first][np.searchsorted(labels[order][first], labels)]
