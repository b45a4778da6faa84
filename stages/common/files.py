"""Read artifacts, and write them atomically and byte-identical from run to run."""

import fcntl
import gzip
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROW_GROUP_ROWS = 4096


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` for a file or a folder, and rename it to `path` at the end.

    A killed or failing writer leaves `path` as it was. An existing folder is replaced whole: it is moved
    aside first, because removing it takes a while.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (path.with_name(f".{path.name}.{suffix}") for suffix in ("tmp", "old"))
    remove(temporary)
    remove(old)
    try:
        yield temporary
        if path.is_dir() and not path.is_symlink():
            os.replace(path, old)
        os.replace(temporary, path)
    finally:
        remove(temporary)
        remove(old)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Wait for the exclusive lock on a file, which is created if missing, and hold it until the block ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_json(path: str | Path, value: Any) -> None:
    """Write sorted, indented JSON with a final newline."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: str | Path) -> Any:
    """Read one JSON document.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. `dvc repro` makes it.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}). Remove it and run `dvc repro`.") from None


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object per line, keys in the given order."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json_line(row) + "\n")


def json_line(row: dict[str, Any]) -> str:
    """Return a row as JSON, escaped to ASCII only if it holds a lone surrogate, which UTF-8 cannot encode."""
    line = json.dumps(row, ensure_ascii=False)
    return line if line.isascii() or line.encode("utf-8", "ignore").decode() == line else json.dumps(row)


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Read JSON lines, gzipped where the name ends in .gz.

    Raises:
        UserError: the file is missing, or a line is not JSON; names file and line.
    """
    rows = []
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. `dvc repro` makes it.") from None
    try:
        data = gzip.decompress(data) if Path(path).suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}: not gzip, or truncated ({error}). Replace it with a complete copy."
        ) from None
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            if line.strip():
                rows.append(json.loads(line))
        except ValueError as error:  # also raised for bytes that are not UTF-8
            raise UserError(
                f"{path}, line {number}: not JSON ({error}). Repair or remove the line."
            ) from None
    return rows


def write_parquet(path: str | Path, table: "pa.Table") -> None:
    """Write `table` with fixed row groups and no metadata of the environment: same rows, same bytes."""
    import pyarrow.parquet as pq

    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, row_group_size=ROW_GROUP_ROWS, compression="zstd")


def open_parquet(path: str | Path) -> "pq.ParquetFile":
    """Open a Parquet file; only its footer is read yet.

    Raises:
        UserError: the file is missing, truncated or not Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. `dvc repro` makes it.") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise unreadable_parquet(path, error) from None


def unreadable_parquet(path: str | Path, error: Exception) -> UserError:
    return UserError(f"{path}: not readable as Parquet ({error}). Remove it and run `dvc repro`.")


def read_parquet(path: str | Path) -> "pa.Table":
    """Read a Parquet file.

    Raises:
        UserError: the file is missing, truncated or not Parquet.
    """
    import pyarrow as pa

    file = open_parquet(path)
    try:
        return file.read()
    except (pa.ArrowInvalid, OSError) as error:
        raise unreadable_parquet(path, error) from None


def sha256_file(path: str | Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_code(folder: str | Path) -> str:
    """Return the hex sha256 over sorted relative names and contents of the Python files below `folder`."""
    return sha256_files(folder, Path(folder).rglob("*.py"))


def sha256_folder(path: str | Path) -> str:
    """Return the hex sha256 over the sorted relative names and contents of all files below `path`."""
    return sha256_files(path, (file for file in Path(path).rglob("*") if file.is_file()))


def sha256_files(folder: str | Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()
