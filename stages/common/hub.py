"""The Hugging Face hub's errors, in one sentence each."""

from collections.abc import Iterator
from contextlib import contextmanager

from stages.common.errors import UserError


@contextmanager
def hub_errors(what: str, revision: str) -> Iterator[None]:
    """Turn what huggingface_hub raises inside into a UserError that names repository and commit."""
    import httpx2
    from huggingface_hub import errors

    unreachable = f"{what} at {revision} could not be downloaded: no network?"
    try:
        yield
    except errors.LocalEntryNotFoundError as error:  # an EntryNotFoundError by class, but means no network
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
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, httpx2.HTTPError, OSError) as error:
        raise UserError(f"{unreachable} ({short(error)})") from None


def short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
