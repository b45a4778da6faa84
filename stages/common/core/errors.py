"""The error whose text users read, and the text of other errors on one line."""


class UserError(Exception):
    """Bad input. The text says what is wrong, where (file, row, key), and what to do.

    Stages raise it anywhere; `stages.common.core.stage.run` prints its text alone and exits with status 1
    (`HYDRA_FULL_ERROR=1` shows the traceback).
    """


def one_line(error: BaseException, limit: int | None = None) -> str:
    """Return an error's text on one line, cut to `limit` characters; its class's name if it has none."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
