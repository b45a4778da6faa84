"""The Hugging Face hub's errors, in one sentence each, and patience where it asks for some."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from stages.common.errors import UserError
from stages.common.stage import disk_is_full

T = TypeVar("T")
ATTEMPTS = 3
MAX_WAIT = 60  # seconds; a longer one that the hub asks for is told, not waited for


@contextmanager
def hub_errors(what: str, revision: str) -> Iterator[None]:
    """Turn what huggingface_hub raises inside into a UserError that names repository and commit."""
    import httpx2
    from huggingface_hub import errors

    unreachable = f"{what} at {revision} could not be downloaded: no network?"
    try:
        yield
    except errors.LocalEntryNotFoundError as error:  # an EntryNotFoundError by class, but means no network
        cause = error.__cause__
        if isinstance(cause, errors.HfHubHTTPError):
            raise UserError(answered(what, revision, cause)) from None
        raise UserError(f"{unreachable} ({short(error)})") from None
    except errors.GatedRepoError:
        raise UserError(
            f"{what} is gated: accept its terms on the hub and log in (`hf auth login`)"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{what} has no commit {revision}: is the revision right?") from None
    except errors.EntryNotFoundError as error:
        raise UserError(f"{what} at {revision} lacks a file: {short(error)}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{what} is not on the hub, or is private (`hf auth login`)") from None
    except errors.HfHubHTTPError as error:
        raise UserError(answered(what, revision, error)) from None
    except (errors.OfflineModeIsEnabled, httpx2.HTTPError, OSError) as error:
        if disk_is_full(error):
            raise
        raise UserError(f"{unreachable} ({short(error)})") from None


def answered(what: str, revision: str, error: Exception) -> str:
    """What a refusal of the hub means, by its status."""
    status = status_of(error)
    if status == 401:
        return (
            f"{what}: the hub asks for a login that it accepts (401): it is private, or HF_TOKEN or the login of "
            "`hf auth login` is wrong"
        )
    if status == 403:
        return f"{what}: the hub refuses access (403): does your token have the right to read it? ({short(error)})"
    if status == 429:
        wait = retry_after(error)
        told = f"wait {wait:.0f} seconds" if wait else "wait some minutes"
        return f"{what}: the hub refuses more requests for now (429): {told} and run it again, or log in (`hf auth login`), which raises the limit"
    return f"{what} at {revision} could not be downloaded: no network? ({short(error)})"


def patiently(call: Callable[[], T]) -> T:
    """What `call` gives; after 429 (too many requests) or 5xx it is called again, when the hub says or soon.

    Raises:
        HfHubHTTPError: the hub refuses it every time, or asks for more than a minute.
    """
    from huggingface_hub import errors

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except errors.HfHubHTTPError as error:
            status, wait = status_of(error), retry_after(error)
            wait = float(attempt) if wait is None else wait
            if not (status == 429 or status >= 500) or attempt == ATTEMPTS or wait > MAX_WAIT:
                raise
            print(f"the hub answers {status}; asked again in {wait:.0f} s", flush=True)
            time.sleep(wait)
    raise AssertionError("unreachable")


def status_of(error: Exception) -> int:
    response = getattr(error, "response", None)
    return int(getattr(response, "status_code", 0) or 0)


def retry_after(error: Exception) -> float | None:
    """Seconds that the answer asks to wait, None where it does not say (or says a date)."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        return max(0.0, float(headers.get("Retry-After", "")))
    except ValueError:
        return None


def short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
