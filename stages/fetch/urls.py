"""Download a URL's file once, in blocks, to .cache/fetch/urls/<sha256>; resumes if the protocol can."""

import errno
import time
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from stages.common.errors import UserError, one_line
from stages.common.files import sha256_file
from stages.common.sources.pins import require_sha256
from stages.fetch.settings import Source
from stages.fetch.source_file import PinnedFiles, SourceFile

URL_CACHE = Path(".cache/fetch/urls")
BLOCK = 8 << 20  # bytes requested and written at once
URL_ATTEMPTS = 5  # in a row without a new byte
DRIVER_EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("ssh", "sftp"), "ssh"),
}


def resolve_url(source: Source) -> PinnedFiles:
    """Return the file at a URL, checked against its pin.

    Raises:
        UserError: no driver for the protocol, no network, no such file, or another sha256.
    """
    name = unquote(PurePosixPath(urlsplit(source.url).path).name) or source.name
    path = fetch_url(source.url, source.sha256, f"source '{source.name}': {source.url}")
    return PinnedFiles([SourceFile(name, path)], {name: source.sha256}, {"sha256": source.sha256})


def fetch_url(url: str, sha256: str, what: str, cache: Path = URL_CACHE) -> Path:
    """Return the path of the file with this sha256, from the cache or downloaded from the URL.

    A cached file is verified at each use, and downloaded again if it was changed. An interrupted download is
    resumed; if the result does not match the pin, the file is downloaded once more from the start.

    Raises:
        UserError: as `resolve_url`.
    """
    path, part = cache / sha256, cache / f"{sha256}.part"
    if path.exists():
        if sha256_file(path) == sha256:
            return path
        path.unlink()
    cache.mkdir(parents=True, exist_ok=True)
    filesystem, place = open_url(url, what)
    resumed = part.exists() and part.stat().st_size > 0
    print(f"downloading {url}", flush=True)
    download_url(filesystem, place, part, what)
    if resumed and sha256_file(part) != sha256:
        part.unlink()
        download_url(filesystem, place, part, what)
    try:
        require_sha256(part, sha256, what)
    except UserError:
        part.unlink()
        raise
    return part.rename(path)


def open_url(url: str, what: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it.

    Raises:
        UserError: no driver for the protocol is installed, or none exists.
    """
    from fsspec.core import url_to_fs

    protocol = url.partition("://")[0]
    # Honour proxies and ~/.netrc, as other HTTP clients do.
    options = {"client_kwargs": {"trust_env": True}} if protocol in ("http", "https") else {}
    try:
        return url_to_fs(url, **options)
    except ImportError as error:
        extra = DRIVER_EXTRAS.get(protocol)
        install = f"pip install '.[{extra}]'" if extra else str(error)
        raise UserError(
            f"{what} needs a driver for {protocol} that is not installed. Install it: {install}"
        ) from None
    except ValueError as error:
        raise UserError(
            f"{what}: fsspec does not support this protocol ({error}). Use another URL."
        ) from None


def download_url(filesystem: Any, place: str, part: Path, what: str) -> None:
    """Append the missing bytes of the file to `part`; a dropped connection is resumed where it broke.

    Raises:
        UserError: no such file, no access, or too many dropped connections in a row.
    """
    left = URL_ATTEMPTS
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return append(filesystem, place, part)
        except Exception as error:  # each driver has errors of its own
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            refusal = refused(error)
            if refusal:
                raise UserError(f"{what}: {refusal}") from None
            left = URL_ATTEMPTS if part.exists() and part.stat().st_size > before else left - 1
            if not left:
                raise UserError(
                    f"{what} could not be downloaded. Is there a network? ({type(error).__name__}: "
                    f"{one_line(error, 200)}) Rerun to resume the download."
                ) from None
            time.sleep(0.2 * (URL_ATTEMPTS - left))


def append(filesystem: Any, place: str, part: Path) -> None:
    """Append the bytes that `part` lacks; write all of them if the server cannot send a range."""
    size = filesystem.info(place).get("size")
    have = part.stat().st_size if part.exists() else 0
    if have and size == have:
        return
    try:
        copy(filesystem, place, part, 0 if size is not None and have > size else have, BLOCK)
    except ValueError:  # a server without ranges: in one stream
        copy(filesystem, place, part, 0, 0)
    received = part.stat().st_size
    if size is not None and received != size:
        raise ConnectionError(f"received {received:,} of {size:,} bytes")


def copy(filesystem: Any, place: str, part: Path, start: int, block: int) -> None:
    """Write the bytes from `start` on to `part`, in requests of `block` bytes; 0: in one request."""
    # No cache: each block is requested once. Files over SSH do not take the option.
    caching = {} if {"ssh", "sftp"} & {*filesystem.protocol} else {"cache_type": "none"}
    with filesystem.open(place, "rb", block_size=block, **caching) as stream, part.open("ab") as out:
        if start:
            stream.seek(start)
        out.truncate(start)
        while data := stream.read(BLOCK):
            out.write(data)


def refused(error: Exception) -> str:
    """Return why a retry would not help, or ""."""
    # fsspec's HTTP raises FileNotFoundError for every failure; the causes say which.
    chain: list[BaseException] = [error]
    while cause := chain[-1].__cause__:
        chain.append(cause)
    statuses = [getattr(e, "status", None) or getattr(e, "code", None) for e in chain]
    status = next((s for s in statuses if isinstance(s, int)), 0)
    broken = any(
        isinstance(e, OSError) and not isinstance(e, FileNotFoundError | PermissionError) for e in chain
    )
    if status in (401, 403) or isinstance(error, PermissionError):
        return f"access is denied ({one_line(chain[-1], 200)}). Provide credentials as its protocol expects (environment, ~/.aws, ~/.netrc)."  # fmt: skip
    if any("Credentials" in type(e).__name__ for e in chain):
        return f"it needs credentials ({one_line(error, 200)})"
    if status in (404, 410) or (isinstance(error, FileNotFoundError) and not status and not broken):
        return "no such file"
    return ""
