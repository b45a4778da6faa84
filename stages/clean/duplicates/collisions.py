"""Find the rows whose band keys collide, with Daft: on its native runner, or on Ray's where engine.kind=ray.

Daft returns rows in any order, so the result is sorted by key, then by row.
"""

import daft
import numpy as np
import pyarrow as pa
from daft import col


def collisions(keys: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that share a key with another row.

    Args:
        keys: uint64 [n], band keys.
        rows: int64 [n], the row of each key.

    Returns:
        `(keys, rows)`, sorted by both.
    """
    table = pa.table({"key": keys, "row": rows})
    found = daft.from_arrow(table).sort([col("key"), col("row")]).to_arrow()
    keys, rows = found.column("key").to_numpy(), found.column("row").to_numpy()
    same = keys[1:] == keys[:-1]
    shared = np.r_[same, False] | np.r_[False, same] if len(keys) else np.zeros(0, bool)
    return keys[shared], rows[shared]
