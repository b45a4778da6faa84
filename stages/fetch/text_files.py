"""Read a file as one row of plain text, and a notebook by its cells; find the functions of a Python file."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from stages.common.core.errors import one_line
from stages.fetch.compression import DAMAGED, unpacked
from stages.fetch.documented import documented_of
from stages.fetch.functions import FunctionRow, functions_of
from stages.fetch.row_errors import (
    CUT,
    MAX_ROW_BYTES,
    NOT_NOTEBOOK,
    NOT_PYTHON,
    NOT_UTF8,
    OVERSIZE,
    UNREADABLE,
    RowError,
)
from stages.fetch.source_file import SourceFile


def text_of(file: SourceFile, left_out: Counter[str]) -> str:
    """Return a file's text; of a notebook (.ipynb) its cells, whose outputs are counted in `left_out`.

    Raises:
        RowError: it is no text in UTF-8, too large, cut, or no notebook.
        UserError: it cannot be opened.
    """
    try:
        with unpacked(file) as stream:
            data = stream.read(MAX_ROW_BYTES + 1)
    except DAMAGED as error:
        raise RowError(CUT, one_line(error)) from None
    if len(data) > MAX_ROW_BYTES:
        raise RowError(OVERSIZE, "")
    if b"\0" in data:
        raise RowError(UNREADABLE, "it is binary, or text in UTF-16")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RowError(NOT_UTF8, str(error)) from None
    return notebook_text(text, left_out) if ".ipynb" in file.name else text


def notebook_text(text: str, left_out: Counter[str]) -> str:
    """Return a notebook's cells as a script in jupytext's percent format: prose as comments.

    Raises:
        RowError: it is no notebook of nbformat 4.
    """
    try:
        cells = json.loads(text)["cells"]
        parts = [cell_text(cell["cell_type"], "".join(cell["source"])) for cell in cells]
        left_out["outputs of notebook cells"] += sum(len(cell.get("outputs", ())) for cell in cells)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        detail = f"{type(error).__name__}: {error}; `jupyter nbconvert --to notebook` writes nbformat 4"
        raise RowError(NOT_NOTEBOOK, detail) from None
    return "\n".join(part for part in parts if part)


def cell_text(kind: str, source: str) -> str:
    """Return a cell with its marker; nothing for an empty cell."""
    source = source.strip("\n")
    if not source.strip():
        return ""
    if kind == "code":
        return f"# %%\n{source}\n"
    return "\n".join([f"# %% [{kind}]", *(f"# {line}".rstrip() for line in source.split("\n"))]) + "\n"


def functions_in(file: SourceFile, reasons: Counter[str], documented: bool = False) -> Iterator[FunctionRow]:
    """Yield the functions of a Python file that qualify; `reasons` counts the others, and `taken`.

    Args:
        documented: also those that are not self-contained, and methods.

    Raises:
        RowError: the file does not parse.
    """
    text = text_of(file, Counter()).replace("\r\n", "\n").replace("\r", "\n")
    try:
        yield from (documented_of if documented else functions_of)(file.name, text, reasons)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RowError(NOT_PYTHON, str(error)) from None


def place_of(file: SourceFile, **more: Any) -> str:
    """Return a row's metadata as JSON."""
    return json.dumps({"path": file.name, **more}, sort_keys=True, ensure_ascii=False)
