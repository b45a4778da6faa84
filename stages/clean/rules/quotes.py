"""How rules quote a row."""

SHOWN = 160  # characters of a row that evidence quotes


def line_around(text: str, place: int) -> str:
    start = text.rfind("\n", 0, place) + 1
    end = text.find("\n", place)
    return text[start : end if end >= 0 else len(text)].strip()


def quote(text: str) -> str:
    """`text` on one line, cut to what fits into a table."""
    text = " ".join(text.split())
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")


def around(text: str, place: int) -> str:
    """A quote of the 40 characters on both sides of a place."""
    return quote(text[max(0, place - 40) : place + 40])
