"""All that is asked of Daft: MinHash, and rows whose band keys collide. Only what makes near duplicates cheap is here.

Daft returns rows in any order, so every result is sorted by row number before it leaves.
"""

from collections.abc import Iterator

import daft
import numpy as np
import pyarrow as pa
from daft import DataType, col
from daft.functions import minhash

FNV_PRIME = np.uint64(0x100000001B3)


def band_keys(signatures: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """One 64-bit key for each band of each signature.

    Args:
        signatures: uint32 [n, permutations], with permutations >= bands * rows.

    Returns:
        uint64 [n, bands]; equal keys within a band mean equal MinHash values (up to a 64-bit hash). The band's
        number is part of the key: keys of two bands never meet on purpose.
    """
    values = signatures[:, : bands * rows].astype(np.uint64).reshape(len(signatures), bands, rows)
    keys = np.broadcast_to(np.arange(1, bands + 1, dtype=np.uint64), values.shape[:2]).copy()
    for place in range(rows):
        keys ^= values[:, :, place] + np.uint64(0x9E3779B97F4A7C15)
        keys *= FNV_PRIME
        keys ^= keys >> np.uint64(29)
    return keys


def colliding_rows(
    texts: pa.Array, permutations: int, shingle: int, bands: int, rows: int, bands_per_pass: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows that share a band with another row, some bands at a time.

    Args:
        texts: words of each row, separated by single spaces.

    Yields:
        For each pass `(keys, numbers)`, sorted by both: rows with equal keys collided. A row with fewer than
        `shingle` words has one shingle, all of it.
    """
    table = pa.table({"row": np.arange(len(texts), dtype=np.int64), "text": texts})
    kind = DataType.fixed_size_list(DataType.uint64(), bands)

    @daft.func.batch(return_dtype=kind)
    def keys_of(series: daft.Series) -> pa.Array:
        values = series.to_arrow()
        signatures = values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), permutations)
        keys = band_keys(signatures, bands, rows).reshape(-1)
        return pa.FixedSizeListArray.from_arrays(pa.array(keys), bands)

    signature = minhash(col("text"), num_hashes=permutations, ngram_size=shingle)
    keyed = daft.from_arrow(table).select(col("row"), keys_of(signature).alias("keys")).collect()
    for start in range(0, bands, bands_per_pass):
        yield sorted_collisions(keyed, range(start, min(start + bands_per_pass, bands)))


def sorted_collisions(keyed: daft.DataFrame, chosen: range) -> tuple[np.ndarray, np.ndarray]:
    """(keys, rows) of all rows that share a key of the chosen bands with another row, sorted."""
    parts = [keyed.select(col("row"), col("keys").get(band).alias("key")) for band in chosen]
    exploded = parts[0]
    for part in parts[1:]:
        exploded = exploded.union_all(part)
    counted = exploded.groupby("key").agg(col("row").count().alias("rows"))
    shared = counted.where(col("rows") > 1).select("key")
    found = exploded.join(shared, on="key", how="semi").to_arrow()
    keys = found.column("key").to_numpy()
    numbers = found.column("row").to_numpy()
    order = np.lexsort((numbers, keys))
    return keys[order], numbers[order]
