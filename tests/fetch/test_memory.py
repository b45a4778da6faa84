"""fetch holds a piece of a file at a time: peak memory of other processes on larger files, and on small ones that unpack to much."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.fetch.row_errors import OVERSIZE
from tests.fetch.test_readers import PACKERS
from tests.helpers.peak_memory import peaks

pytestmark = pytest.mark.slow

MIB = 2**20
TEXT = "abcdefgh " * 444  # 4 kB
LINE = b'{"text": "%s"}\n' % TEXT.encode()
ENDS = {"lines": (b"", b""), "array": (b"[", LINE + b"]"), "objects": (b"", b""), "csv": (b"text\n", b"")}
ROW = {
    "lines": LINE,
    "array": LINE + b",",
    "objects": LINE.replace(b"{", b"{\n"),
    "csv": TEXT.encode() + b"\n",
}
Pack = Callable[[bytes], bytes]


def text_file(path: Path, kind: str, pack: Pack, mib: int) -> int:
    """Write rows of text in blocks that are packed once; packed files may stand one behind another. Returns the rows."""
    head, tail = ENDS[kind]
    per_block = MIB // len(ROW[kind])
    block = pack(ROW[kind] * per_block)
    with path.open("wb") as file:
        file.write(pack(head) if head else b"")
        for _ in range(mib):
            file.write(block)
        file.write(pack(tail) if tail else b"")
    return per_block * mib + (kind == "array")


def table_file(path: Path, kind: str, mib: int) -> int:
    """Write rows as Parquet or Arrow, in pieces of 1 MiB or in one. Returns the rows."""
    rows = MIB // len(TEXT)
    piece = pa.table({"text": pa.array([TEXT] * rows)})
    whole = pa.concat_tables([piece] * mib).combine_chunks()
    if "Parquet" in kind:
        once = kind == "Parquet in one row group"
        pq.write_table(whole, path, row_group_size=rows * (mib if once else 1), use_dictionary=False, compression="none")  # fmt: skip
    else:
        new = pa.ipc.new_stream if kind == "Arrow stream" else pa.ipc.new_file
        with new(str(path), whole.schema) as writer:
            writer.write_table(whole, max_chunksize=rows)
    return rows * mib


CASES = [
    *[(kind, packer) for kind in ("lines", "array", "objects", "csv") for packer in ("plain", "zst")],
    *[(kind, "plain") for kind in ("Parquet", "Parquet in one row group", "Arrow file", "Arrow stream")],
    ("Arrow file", "gz"),
]
SMALL, LARGE = 12, 48  # MiB


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Results of the small and of the large file of each case, with the rows that were written."""
    folder = tmp_path_factory.mktemp("grown")
    jobs, written = [], []
    for number, (kind, packer) in enumerate(CASES):
        for mib in (SMALL, LARGE):
            path = folder / f"{number}-{mib}"
            if kind in ROW:
                written.append(text_file(path, kind, PACKERS[packer], mib))
            else:
                written.append(table_file(path, kind, mib))
                if packer == "gz":
                    path.write_bytes(gzip.compress(path.read_bytes(), 1))
            jobs.append({"path": str(path), "to": "items"})
    results = [{**result, "written": rows} for result, rows in zip(peaks(jobs), written, strict=True)]
    return {case: results[2 * n : 2 * n + 2] for n, case in enumerate(CASES)}


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_memory_does_not_grow_with_the_size_of_a_file(
    case: tuple[str, str], grown: dict[tuple[str, str], list[dict[str, Any]]]
) -> None:
    small, large = grown[case]
    for result in (small, large):
        assert result["rows"] == result["written"]
        assert result["reasons"] == {}
    assert large["mib"] - small["mib"] < (LARGE - SMALL) / 3


def test_memory_does_not_grow_with_the_number_of_rows_or_equal_rows(tmp_path: Path) -> None:
    """Rows wait on disk; of each, 28 bytes are held at most."""
    jobs, sizes = [], (24, 96)  # MiB
    for mib in sizes:
        (tmp_path / f"equal-{mib}").write_bytes(LINE * (mib * MIB // len(LINE)))
        with (tmp_path / f"unlike-{mib}").open("wb") as file:
            for number in range(mib * MIB // len(LINE)):
                file.write(b'{"text": "%d %s"}\n' % (number, TEXT.encode()))
        jobs += [{"path": str(tmp_path / f"{kind}-{mib}"), "to": "groups"} for kind in ("equal", "unlike")]
    small, large = (results for results in (peaks(jobs)[:2], peaks(jobs)[2:]))
    for one, other in zip(small, large, strict=True):
        assert (one["rows"], other["rows"]) == tuple(mib * MIB // len(LINE) for mib in sizes)
        assert other["mib"] - one["mib"] < (sizes[1] - sizes[0]) / 2  # a block more or less of a parser is 22


# Small files that unpack to much

MUCH = b"a" * MIB
BOMBS = {  # bytes before and behind; how often MUCH stands between; where it is; MiB that may be held
    "a line": (b'{"text": "first"}\n{"text": "', b'"}\n{"text": "last"}\n', 100, "line 2", 64),
    "an element": (b'[{"text": "first"}, {"text": "', b'"}, {"text": "last"}]', 160, "row 2", 112),
    "a cell": (b'text\nfirst\n"', b'"\nlast\n', 100, "row 2", 64),
}


PACKED = [
    *[("a line", packer) for packer in ("gz", "bz2", "xz", "zst")],
    ("a cell", "zst"),
    ("an element", "zst"),
]


@pytest.fixture(scope="module")
def exploded(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, bool], dict[str, Any]]:
    """What becomes of each bomb where bad rows are dropped, and of those in zst where they are errors."""
    folder, jobs = tmp_path_factory.mktemp("bombs"), {}
    for shape, packer in PACKED:
        before, behind, times, _, _ = BOMBS[shape]
        pack, path = PACKERS[packer], folder / f"{shape}.{packer}"
        path.write_bytes(pack(before) + pack(MUCH) * times + pack(behind))
        assert path.stat().st_size < MIB
        for drop in (True, False)[: 1 + (packer == "zst")]:
            jobs[shape, packer, drop] = {"path": str(path), "to": "groups", "drop": drop}
    return dict(zip(jobs, peaks(list(jobs.values())), strict=True))


@pytest.mark.parametrize("bomb", PACKED, ids="-".join)
def test_a_row_that_decompresses_to_too_much_is_rejected_and_never_held(
    bomb: tuple[str, str], exploded: dict[tuple[str, str, bool], dict[str, Any]]
) -> None:
    *_, place, most = BOMBS[bomb[0]]
    dropped = exploded[*bomb, True]
    rows = 2 if bomb[0] == "a line" else 1  # a row too large ends a CSV and an array
    assert (dropped["rows"], dropped["reasons"]) == (rows, {OVERSIZE: 1})
    assert dropped["mib"] < most
    if failed := exploded.get((*bomb, False)):
        assert failed["error"].startswith(f"x, {place}: {OVERSIZE}")
        assert failed["mib"] < most


@pytest.mark.parametrize("packer", ["gz", "bz2", "xz", "zst"])
def test_rows_that_decompress_to_many_are_read_a_few_at_a_time(packer: str, tmp_path: Path) -> None:
    rows = MIB // len(LINE)
    (tmp_path / "bomb").write_bytes(PACKERS[packer](LINE * rows) * 80)
    assert (tmp_path / "bomb").stat().st_size < 2 * MIB
    (result,) = peaks([{"path": str(tmp_path / "bomb"), "to": "items"}])
    assert (result["rows"], result["reasons"]) == (rows * 80, {})
    assert result["mib"] < 30
