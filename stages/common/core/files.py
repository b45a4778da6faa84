"""Read artifacts, and write them atomically and byte-identical from run to run."""

import fcntl
import gzip
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from stages.common.core.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROW_GROUP_ROWS = 4096


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield the path of a temporary file beside `path`, and rename it to `path` at the end.

    A killed or failing writer leaves `path` as it was. A link is followed, and the file that it names replaced,
    unless that is write-protected, as the files of DVC's cache are: the link is then replaced. What is no file
    (/dev/stdout, a pipe) stays: the bytes are written to it at the end.

    Raises:
        UserError: `path` is a folder; nothing of it is touched.
    """
    path = Path(path)
    stream = opened_stream(path)
    if stream is not None:
        with stream, tempfile.TemporaryDirectory() as folder:
            yield (temporary := Path(folder) / "stream")
            with temporary.open("rb") as written:
                shutil.copyfileobj(written, stream)
        return
    if path.is_symlink() and not (path.is_file() and not path.stat().st_mode & 0o222):
        path = path.resolve()
    if path.is_dir():
        raise UserError(f"{path} is a folder, expected the name of a file to write. Add a file's name to it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # left by a run that was killed
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def opened_stream(path: Path) -> BinaryIO | None:
    """Open what is written to instead of replaced: a stream of this process, a device or a pipe; None for others."""
    if found := re.fullmatch(r"/dev/(stdout|stderr)|/(?:dev|proc/self)/fd/(\d+)", str(path)):
        sys.stdout.flush()  # a copy of the stream goes on where it stands; opening it would begin a file anew
        return os.fdopen(os.dup(int(found[2] or {"stdout": 1, "stderr": 2}[found[1]])), "wb")
    return path.open("ab") if path.exists() and not path.is_file() and not path.is_dir() else None


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`, a folder of the stage's own, and put it there at the end.

    A failing writer leaves `path` as it was. Two renames replace a folder: the old one goes aside, the new one
    takes its place, and only then is the old one deleted. If it is killed between the two, the next call puts
    the old one back first.

    Raises:
        UserError: `path` is a file; it is not touched.
    """
    path = Path(path)
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (path.with_name(f".{path.name}.{suffix}") for suffix in ("tmp", "old"))
    if old.exists() and not path.exists():
        os.rename(old, path)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file where a folder is written. Move it away.")
    remove(temporary)
    remove(old)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            os.rename(path, old)
        try:
            os.rename(temporary, path)
        except OSError:
            if old.exists():
                os.rename(old, path)
            raise
        remove(old)
    finally:
        remove(temporary)


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


def times_path(metrics: str | Path) -> Path:
    """Return the file beside a metrics file for what differs from run to run; neither git nor DVC keeps it."""
    path = Path(metrics)
    return path.with_name(f"{path.stem}-times.json")


def write_metrics(path: str | Path, metrics: dict[str, Any], times: dict[str, Any]) -> None:
    """Write a metrics file, and the times of the run that made it."""
    write_json(path, metrics)
    write_json(times_path(path), {**times, "metrics_sha256": sha256_file(path)})


def read_metrics(path: str | Path) -> dict[str, Any]:
    """Read a metrics file and the times of the run that made it, if it ran here.

    A file that git or DVC brought here (a checkout, the run cache) has no times: those beside it are of another run.

    Raises:
        UserError: as `read_json`.
    """
    times = read_json(times_path(path)) if times_path(path).exists() else {}
    made_here = times.pop("metrics_sha256", "") == (Path(path).exists() and sha256_file(path))
    return {**read_json(path), **(times if made_here else {})}


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
