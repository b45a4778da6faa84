"""Rules over all rows: exact copies, alpha-renamed copies, near duplicates.

Near duplicates (Broder 1997): MinHash over shingles of words, banded (LSH) to find candidates, each candidate then
decided by its exact Jaccard similarity, and connected components of what remains. Words are runs of letters, digits
and underscores, and runs of punctuation: `a + b` and `a - b` differ. A shingle is five words in a row; a row
is prompt and completion together, imports included.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from stages.clean.settings import NearDuplicates

BATCH_PAIRS = 16384  # pairs whose shingles are compared at a time
WORDS = re.compile(r"\w+|[^\w\s]+")


def normalized(text: str) -> str:
    """Text in which exact copies are equal: NFC, no blank lines, no white space at the end of lines."""
    lines = unicodedata.normalize("NFC", text).splitlines()
    return "\n".join(line.rstrip() for line in lines if line.strip())


def text_digest(text: str) -> str:
    return hashlib.sha256(normalized(text).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def shingle_words(text: str) -> str:
    """The words of a text, separated by single spaces: what MinHash and `shingles` read."""
    return " ".join(WORDS.findall(text))


def shingles(spaced: str, size: int) -> frozenset[str]:
    """Runs of `size` words; a text with fewer words is one shingle, one without words has none."""
    words = spaced.split(" ") if spaced else []
    return frozenset(" ".join(words[i : i + size]) for i in range(max(1, len(words) - size + 1))) - {""}


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """|a & b| / |a | b|; 0 where both are empty."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared) if shared else 0.0


def equal_groups(keys: list[str], ranks: np.ndarray) -> np.ndarray:
    """Position of the row that stands for each row: of those with the same key the one with the lowest rank.

    Args:
        keys: one a row; an empty key stands for itself alone.
        ranks: int [n], all different; the best row of a group has the lowest.
    """
    best: dict[str, int] = {}
    for place in np.argsort(ranks):
        if keys[place]:
            best.setdefault(keys[place], int(place))
    return np.array([best.get(key, place) for place, key in enumerate(keys)], dtype=np.int64)


def band_shape(permutations: int, similarity: float, recall: float) -> tuple[int, int]:
    """(bands, rows a band): the longest bands with which a pair at `similarity` collides with chance >= `recall`.

    The chance is 1 - (1 - s^rows)^bands (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4).
    """
    for rows in range(permutations, 1, -1):
        bands = permutations // rows
        if 1 - (1 - similarity**rows) ** bands >= recall:
            return bands, rows
    return permutations, 1


@dataclass
class Pairs:
    """Pairs of rows, `left < right`, and their exact Jaccard similarity."""

    left: np.ndarray
    right: np.ndarray
    similarity: np.ndarray


def near_pairs(spaced: list[str], settings: NearDuplicates) -> Pairs:
    """All pairs with a Jaccard similarity of at least `settings.related` (or `threshold`, if lower) that banding finds.

    A pair whose rows are already connected at `settings.threshold` is left out: it cannot change a component.
    """
    import pyarrow as pa

    from stages.clean.engine import colliding_rows

    least = min(settings.related, settings.threshold)
    bands, rows = band_shape(settings.permutations, least, settings.recall)
    numbers = np.array([place for place, text in enumerate(spaced) if text], dtype=np.int64)
    texts = pa.array([spaced[place] for place in numbers], pa.large_string())
    passes = colliding_rows(
        texts, settings.permutations, settings.shingle_words, bands, rows, settings.bands_per_pass
    )
    verified = Verified(spaced, settings, least)
    for keys, places in passes if len(numbers) > 1 else ():
        for left, right in candidate_batches(keys, numbers[places]):
            verified.add(left, right)
    return verified.pairs


class Verified:
    """Pairs looked at so far, and the components that they make at the threshold."""

    def __init__(self, spaced: list[str], settings: NearDuplicates, least: float) -> None:
        self.spaced = spaced
        self.settings = settings
        self.least = least
        self.vocabulary: dict[str, int] = {}  # number of each shingle
        self.numbers: dict[int, np.ndarray] = {}  # sorted numbers of a row's shingles
        self.seen = np.zeros(0, dtype=np.int64)  # left * rows + right, sorted
        self.pairs = Pairs(self.seen, self.seen, np.zeros(0))
        self.labels = np.arange(len(spaced))

    def add(self, left: np.ndarray, right: np.ndarray) -> None:
        """Work out the similarity of new pairs between components, then join components."""
        codes = sorted_unique(left * len(self.spaced) + right)
        left, right = np.divmod(codes, len(self.spaced))
        fresh = (self.labels[left] != self.labels[right]) & ~np.isin(codes, self.seen, assume_unique=True)
        self.seen = np.sort(np.r_[self.seen, codes[fresh]], kind="stable")
        for start in range(0, int(fresh.sum()), BATCH_PAIRS):
            chosen = slice(start, start + BATCH_PAIRS)
            self.keep(left[fresh][chosen], right[fresh][chosen])

    def keep(self, left: np.ndarray, right: np.ndarray) -> None:
        similarity = self.similarity(left, right)
        near = similarity >= self.least
        new = Pairs(left[near], right[near], similarity[near])
        self.pairs = Pairs(*(np.r_[getattr(self.pairs, name), getattr(new, name)] for name in vars(new)))
        if (new.similarity >= self.settings.threshold).any():
            self.labels = components(len(self.spaced), self.pairs, self.settings.threshold)

    def similarity(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Exact Jaccard similarity of each pair, through a sparse matrix of rows by shingles."""
        places = sorted_unique(np.r_[left, right])
        numbers = [self.shingle_numbers(place) for place in places.tolist()]
        sizes = np.array([len(row) for row in numbers])
        shape = (len(places), len(self.vocabulary))
        rows = csr_array(
            (np.ones(sizes.sum(), dtype=np.int32), np.concatenate(numbers), np.r_[0, np.cumsum(sizes)]), shape
        )
        left, right = np.searchsorted(places, left), np.searchsorted(places, right)
        shared = rows[left].multiply(rows[right]).sum(axis=1)
        return shared / (sizes[left] + sizes[right] - shared)

    def shingle_numbers(self, place: int) -> np.ndarray:
        if place not in self.numbers:
            found = shingles(self.spaced[place], self.settings.shingle_words)
            numbers = [self.vocabulary.setdefault(shingle, len(self.vocabulary)) for shingle in found]
            self.numbers[place] = np.sort(np.array(numbers, dtype=np.int32))
        return self.numbers[place]


def sorted_unique(values: np.ndarray) -> np.ndarray:
    """`np.unique` by sorting: its hash table met 500,000 such numbers with 121 s, sorting takes 4."""
    values = np.sort(values)
    return values[np.flatnonzero(np.r_[True, values[1:] != values[:-1]][: len(values)])]


def candidate_batches(keys: np.ndarray, places: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`candidate_rounds`: the first alone, for it joins most rows of a group of copies, the others some at a time."""
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    size, enough = 0, 1
    for pair in candidate_rounds(keys, places):
        waiting.append(pair)
        size += len(pair[0])
        if size >= enough:
            yield (
                np.concatenate([left for left, _ in waiting]),
                np.concatenate([right for _, right in waiting]),
            )
            waiting, size, enough = [], 0, BATCH_PAIRS
    if waiting:
        yield np.concatenate([left for left, _ in waiting]), np.concatenate([right for _, right in waiting])


def candidate_rounds(keys: np.ndarray, places: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows with equal keys, in rounds: each row of a group in turn against those after it.

    No round holds more pairs than there are keys, and what one connects need not be looked at in the next.
    """
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]][: len(keys)])
    sizes = np.diff(np.r_[starts, len(keys)])
    offsets = np.arange(len(keys)) - np.repeat(starts, sizes)
    firsts = np.repeat(starts, sizes)
    for turn in range(int(sizes.max(initial=1)) - 1):
        later = np.flatnonzero(offsets > turn)
        yield places[firsts[later] + turn], places[later]


def components(size: int, pairs: Pairs, threshold: float = 0.0) -> np.ndarray:
    """Label of each of `size` rows: equal for rows connected by pairs of at least `threshold`."""
    kept = pairs.similarity >= threshold
    left, right = pairs.left[kept], pairs.right[kept]
    graph = coo_array((np.ones(len(left), dtype=bool), (left, right)), shape=(size, size))
    return connected_components(graph, directed=False)[1]


def representatives(labels: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """For each row the position of the row of its component with the lowest rank."""
    order = np.lexsort((ranks, labels))
    first = np.flatnonzero(np.diff(labels[order], prepend=-1))
    return order[first][np.searchsorted(labels[order][first], labels)]
