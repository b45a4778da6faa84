"""Interpret the address of a store and the errors that it raises."""

import re
from importlib.util import find_spec

REFUSED = {  # HTTP statuses of a server with user permissions
    401: "the user name or password is missing or wrong. Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
    403: "this user lacks the permission. Ask for permission to edit, or set another MLFLOW_TRACKING_USERNAME.",
}
# Answers of a reachable database that rejects the user, the password or the database name
PERMANENT_DATABASE_ERROR = re.compile(
    r"authentication failed|does not exist|[Aa]ccess denied|[Uu]nknown database"
)
NO_DRIVER = "its driver is not installed ({}). For PostgreSQL, run `pip install psycopg2-binary`."


def with_driver(uri: str) -> str:
    """Return the address with the installed PostgreSQL driver in it.

    SQLAlchemy reads a bare `postgresql://` as psycopg2 or psycopg, depending on its version.
    """
    bare = "postgresql://"
    if uri.startswith(bare) and not find_spec("psycopg") and find_spec("psycopg2"):
        return f"postgresql+psycopg2://{uri.removeprefix(bare)}"
    return uri


def http_status(error: Exception) -> int:
    """Return the HTTP status of an error of MLflow, its database or the network; 503 if nothing answered."""
    if isinstance(error, OSError):
        return getattr(getattr(error, "response", None), "status_code", 503)
    match = re.search(
        r"failed with error code (\d{3})", str(error)
    )  # MLflow reports some 4xx as internal errors
    return int(match[1]) if match else getattr(error, "get_http_status_code", lambda: 503)()
