"""Turn errors of the Hugging Face hub into messages, and retry requests that it rejects for now."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from stages.common.core.errors import UserError, one_line
from stages.common.core.stage import is_disk_full

ReturnT = TypeVar("ReturnT")
HUB_ATTEMPTS = 3
MAX_WAIT = 60  # seconds; if the hub asks for a longer wait, the request fails and the message names it


@contextmanager
def hub_errors(what: str, revision: str, done: str = "downloaded") -> Iterator[None]:
    """Turn what huggingface_hub raises in the block into a UserError that names repository and commit."""
    import httpx2
    from huggingface_hub import errors

    unreachable = f"{what} at {revision} could not be {done}. Is there a network?"
    try:
        yield
    except errors.LocalEntryNotFoundError as error:  # a subclass of EntryNotFoundError, but means no network
        cause = error.__cause__
        if isinstance(cause, errors.HfHubHTTPError):
            raise UserError(explain_refusal(what, revision, cause, done)) from None
        raise UserError(f"{unreachable} ({one_line(error, 200)})") from None
    except errors.GatedRepoError:
        raise UserError(
            f"{what} is gated: accept its terms on the hub, then log in (`hf auth login`)"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{what} has no commit {revision}. Check the revision.") from None
    except errors.EntryNotFoundError as error:
        raise UserError(f"{what} at {revision} lacks a file: {one_line(error, 200)}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{what} is not on the hub, or is private. Check its name, or log in (`hf auth login`)."
        ) from None
    except errors.HfHubHTTPError as error:
        raise UserError(explain_refusal(what, revision, error, done)) from None
    except errors.OfflineModeIsEnabled:
        raise UserError(
            f"{what} at {revision} is not in the cache, and HF_HUB_OFFLINE forbids the network"
        ) from None
    except (httpx2.HTTPError, ConnectionError, TimeoutError) as error:
        raise UserError(f"{unreachable} ({one_line(error, 200)})") from None
    except OSError as error:  # of the disk: no right to write the cache, too many open files
        if is_disk_full(error):
            raise
        raise UserError(f"{what} at {revision} could not be kept on disk: {one_line(error, 200)}") from None


def explain_refusal(what: str, revision: str, error: Exception, done: str) -> str:
    """Say what an HTTP error of the hub means and what to do, by its status."""
    status = response_status(error)
    if status == 401:
        return (
            f"{what}: the hub rejects the login (401). It is private, or HF_TOKEN or the login of "
            "`hf auth login` is wrong."
        )
    if status == 403:
        return f"{what}: the hub denies access (403). May your token read it? ({one_line(error, 200)})"
    if status == 429:
        wait = retry_after(error)
        delay = f"{wait:.0f} seconds" if wait else "some minutes"
        return (
            f"{what}: too many requests to the hub (429). Wait {delay} and rerun, or log in (`hf auth "
            "login`), which raises the limit."
        )
    answer = f"the hub answered {status}" if status else "the hub's answer cannot be read"
    return f"{what} at {revision} could not be {done}: {answer}. Rerun later. ({one_line(error, 200)})"


def retry_hub(call: Callable[[], ReturnT]) -> ReturnT:
    """Return the result of `call`, retried after 429 (too many requests) or 5xx when the hub says, or soon.

    Raises:
        HfHubHTTPError: every attempt failed, or the hub asks to wait longer than MAX_WAIT.
    """
    from huggingface_hub import errors

    for attempt in range(1, HUB_ATTEMPTS + 1):
        try:
            return call()
        except errors.HfHubHTTPError as error:
            status, wait = response_status(error), retry_after(error)
            wait = float(attempt) if wait is None else wait
            if not (status == 429 or status >= 500) or attempt == HUB_ATTEMPTS or wait > MAX_WAIT:
                raise
            print(f"the hub answered {status}; retrying in {wait:.0f} s", flush=True)
            time.sleep(wait)
    raise AssertionError("unreachable")


def response_status(error: Exception) -> int:
    """Return the HTTP status of an error's response, 0 where it has none."""
    response = getattr(error, "response", None)
    return int(getattr(response, "status_code", 0) or 0)


def retry_after(error: Exception) -> float | None:
    """Return the seconds that the response says to wait, None where it names none (or a date)."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        return max(0.0, float(headers.get("Retry-After", "")))
    except ValueError:
        return None
