"""A file at a URL: downloaded once into .cache/fetch/urls/<sha256>, in blocks, resumed where the protocol can."""

import errno
import time
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from stages.common.errors import UserError
from stages.common.files import sha256_file
from stages.common.sources.pins import require_sha256
from stages.fetch.origin import File, Origin
from stages.fetch.settings import Source

CACHE = Path(".cache/fetch/urls")
BLOCK = 8 << 20  # bytes asked for and written at once
ATTEMPTS = 5  # in a row without a new byte
EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("ssh", "sftp"), "ssh"),
}


def bring(source: Source) -> Origin:
    """The file that a URL gives, if it is the pinned one.

    Raises:
        UserError: no driver for the protocol, no network, no such file, or what came has another sha256.
    """
    name = unquote(PurePosixPath(urlsplit(source.url).path).name) or source.name
    path = downloaded(source.url, source.sha256, f"source '{source.name}': {source.url}")
    return Origin([File(name, path)], {name: source.sha256}, {"sha256": source.sha256})


def downloaded(url: str, sha256: str, what: str, cache: Path = CACHE) -> Path:
    """Path of the file with this sha256, from the cache or from the URL.

    A cached file is checked at each use, and fetched again if it was changed. What an interrupted download left is
    gone on from; if the result is not the pinned file, it is downloaded whole once more.

    Raises:
        UserError: as `bring`.
    """
    path, part = cache / sha256, cache / f"{sha256}.part"
    if path.exists():
        if sha256_file(path) == sha256:
            return path
        path.unlink()
    cache.mkdir(parents=True, exist_ok=True)
    filesystem, place = opened(url, what)
    resumed = part.exists() and part.stat().st_size > 0
    print(f"downloading {url}", flush=True)
    download(filesystem, place, part, what)
    if resumed and sha256_file(part) != sha256:
        part.unlink()
        download(filesystem, place, part, what)
    try:
        require_sha256(part, sha256, what)
    except UserError:
        part.unlink()
        raise
    return part.rename(path)


def opened(url: str, what: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it.

    Raises:
        UserError: no driver is installed for the protocol, or there is none.
    """
    from fsspec.core import url_to_fs

    protocol = url.partition("://")[0]
    # proxies and ~/.netrc, as other clients of http have them
    options = {"client_kwargs": {"trust_env": True}} if protocol in ("http", "https") else {}
    try:
        return url_to_fs(url, **options)
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        install = f"pip install '.[{extra}]'" if extra else str(error)
        raise UserError(f"{what} needs a driver for {protocol} that is not installed: {install}") from None
    except ValueError as error:
        raise UserError(f"{what}: fsspec knows no such protocol ({error})") from None


def download(filesystem: Any, place: str, part: Path, what: str) -> None:
    """Append to `part` what is missing of the file; a dropped connection is gone on from where it broke.

    Raises:
        UserError: no such file, no access, or the connection breaks again and again.
    """
    left = ATTEMPTS
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
            left = ATTEMPTS if part.exists() and part.stat().st_size > before else left - 1
            if not left:
                raise UserError(
                    f"{what} could not be downloaded: no network? ({type(error).__name__}: {short(error)}) "
                    "Run it again: it goes on where it broke."
                ) from None
            time.sleep(0.2 * (ATTEMPTS - left))


def append(filesystem: Any, place: str, part: Path) -> None:
    """Write the bytes behind those that `part` has; all of them where the place cannot be read from the middle."""
    size = filesystem.info(place).get("size")
    have = part.stat().st_size if part.exists() else 0
    if have and size == have:
        return
    try:
        copy(filesystem, place, part, 0 if size is not None and have > size else have, BLOCK)
    except ValueError:  # a server that gives no ranges: in one stream
        copy(filesystem, place, part, 0, 0)
    came = part.stat().st_size
    if size is not None and came != size:
        raise ConnectionError(f"{came:,} of {size:,} bytes came")


def copy(filesystem: Any, place: str, part: Path, start: int, block: int) -> None:
    """Write to `part` what the place has from `start` on, in requests of `block` bytes, or in one (0)."""
    # each block is asked for once, by itself; files over SSH know no such caches
    caching = {} if {"ssh", "sftp"} & {*filesystem.protocol} else {"cache_type": "none"}
    with filesystem.open(place, "rb", block_size=block, **caching) as stream, part.open("ab") as out:
        if start:
            stream.seek(start)
        out.truncate(start)
        while data := stream.read(BLOCK):
            out.write(data)


def refused(error: Exception) -> str:
    """Why asking again would not help, or ""."""
    chain: list[BaseException] = [
        error
    ]  # fsspec's http says FileNotFoundError for every failure; its cause tells
    while cause := chain[-1].__cause__:
        chain.append(cause)
    statuses = [getattr(e, "status", None) or getattr(e, "code", None) for e in chain]
    status = next((s for s in statuses if isinstance(s, int)), 0)
    broken = any(
        isinstance(e, OSError) and not isinstance(e, FileNotFoundError | PermissionError) for e in chain
    )
    if status in (401, 403) or isinstance(error, PermissionError):
        return f"access is refused ({short(chain[-1])}). Give credentials the way its protocol does (environment, ~/.aws, ~/.netrc)"  # fmt: skip
    if any("Credentials" in type(e).__name__ for e in chain):
        return f"it asks for credentials ({short(error)})"
    if status in (404, 410) or (isinstance(error, FileNotFoundError) and not status and not broken):
        return "no such file there"
    return ""


def short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
