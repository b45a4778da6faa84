"""Rows of data/raw out of a source's files: recognised, identified, sampled by weight."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from stages.common.errors import UserError
from stages.fetch.columns import recognised
from stages.fetch.files import File
from stages.fetch.functions import functions_of
from stages.fetch.settings import Source
from stages.fetch.suites import basic_skills
from stages.fetch.tables import rows_of

ID_DIGITS = 20
Content = tuple[dict[str, Any], dict[str, Any]]  # columns, metadata


def source_rows(source: Source, files: Iterable[File]) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Rows of a source in the schema of data/raw, sorted by id, and how its candidates fared, by reason.

    Raises:
        UserError: a file or row cannot be read, or the source has no row at all.
    """
    reasons: Counter[str] = Counter()
    made = {"functions": from_functions, "basic_skills": from_basic_skills}.get(source.format, from_columns)
    rows = identified(source, made(files, reasons))
    if not rows:
        raise UserError(
            f"source '{source.name}': no row came of it. {dict(reasons) or 'Its files are empty.'}"
        )
    taken = [row for row in rows if share(row["id"]) < source.weight]
    reasons["taken"] = len(taken)
    if len(rows) > len(taken):
        reasons["left out by weight"] = len(rows) - len(taken)
    return sorted(taken, key=lambda row: row["id"]), reasons


def from_columns(files: Iterable[File], reasons: Counter[str]) -> Iterator[Content]:
    for file in files:
        for number, row in rows_of(file.name, file.read()):
            try:
                yield recognised(row), {"path": file.name, "row": number}
            except ValueError as error:
                raise UserError(f"{file.name}, row {number}: {error}") from None


def from_functions(files: Iterable[File], reasons: Counter[str]) -> Iterator[Content]:
    for file in files:
        for row in functions_of(file.name, file.read(), reasons):
            place = {"path": file.name, "line": row.line, "name": row.name, "helpers": row.helpers}
            yield single(row.prompt, row.completion), place


def from_basic_skills(files: Iterable[File], reasons: Counter[str]) -> Iterator[Content]:
    for name, number, prompt, completion in basic_skills(files):
        yield single(prompt, completion), {"path": name, "row": number}


def single(prompt: str, completion: str) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, "messages": None, "tests": None}


def identified(source: Source, contents: Iterable[Content]) -> list[dict[str, Any]]:
    """Give each row its id: a sum over source and content; a repeated row gets -2, -3, ... behind it."""
    seen: Counter[str] = Counter()
    rows = []
    for columns, metadata in contents:
        content = json.dumps([source.name, columns], sort_keys=True, ensure_ascii=False)
        digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:ID_DIGITS]
        seen[digest] += 1
        row = {
            "id": digest if seen[digest] == 1 else f"{digest}-{seen[digest]}",
            "source": source.name,
            "licence": source.licence,
            **columns,
            "metadata": json.dumps(metadata, sort_keys=True, ensure_ascii=False),
        }
        rows.append(row)
    return rows


def share(row_id: str) -> float:
    """A row's place in [0, 1), evenly spread over ids; rows below the source's weight are taken."""
    return int(hashlib.sha256(f"weight {row_id}".encode()).hexdigest()[:12], 16) / 16**12
