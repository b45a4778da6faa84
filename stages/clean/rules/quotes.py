"""Quote parts of a row as evidence."""

QUOTED_CHARACTERS = 160  # characters of a row that evidence quotes


def line_around(text: str, place: int) -> str:
    start = text.rfind("\n", 0, place) + 1
    end = text.find("\n", place)
    return text[start : end if end >= 0 else len(text)].strip()


def quote(text: str) -> str:
    """Return `text` quoted on one line, cut to fit a table."""
    text = " ".join(text.split())
    return repr(text if len(text) <= QUOTED_CHARACTERS else text[: QUOTED_CHARACTERS - 1] + "…")


def quote_around(text: str, place: int) -> str:
    """Quote the 40 characters on both sides of a place."""
    return quote(text[max(0, place - 40) : place + 40])
