"""What a store's address and its answers mean."""

import re
from importlib.util import find_spec

REFUSED = {  # statuses of a server that knows who may do what
    401: "the user name or the password is missing or wrong. Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
    403: "the user may not do this there. Ask for the permission to edit, or set another MLFLOW_TRACKING_USERNAME.",
}
# what a database says that answers but will not have this user, password or name
PERMANENT_DATABASE_ERROR = re.compile(
    r"authentication failed|does not exist|[Aa]ccess denied|[Uu]nknown database"
)
NO_DRIVER = "its driver is not installed ({}). For PostgreSQL: pip install psycopg2-binary."


def with_driver(uri: str) -> str:
    """An address that names the driver which is installed.

    SQLAlchemy takes `postgresql://` for psycopg2's or psycopg's, by its own version.
    """
    bare = "postgresql://"
    if uri.startswith(bare) and not find_spec("psycopg") and find_spec("psycopg2"):
        return f"postgresql+psycopg2://{uri.removeprefix(bare)}"
    return uri


def http_status(error: Exception) -> int:
    """The HTTP status that an error of MLflow, of its database or of the network stands for; 503 where nothing answered."""
    if isinstance(error, OSError):
        return getattr(getattr(error, "response", None), "status_code", 503)
    found = re.search(r"failed with error code (\d{3})", str(error))  # MLflow calls some 4xx internal errors
    return int(found[1]) if found else getattr(error, "get_http_status_code", lambda: 503)()
