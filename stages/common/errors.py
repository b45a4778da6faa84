"""The one error that a user is meant to read."""


class UserError(Exception):
    """Bad input: says what is wrong, where (file, row, key), and what to do.

    Stages raise it anywhere; `stages.common.stage.run` prints its text alone and ends with status 1
    (`HYDRA_FULL_ERROR=1` shows the traceback).
    """
