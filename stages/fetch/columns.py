"""Apply a source's column mapping, templates and minimum scores to its rows."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from stages.common.errors import UserError
from stages.fetch.row_errors import FORMAT, NOT_TEXT, SCORE, TEMPLATE, RowError
from stages.fetch.row_formats import FORMAT_COLUMNS, recognise_row
from stages.fetch.settings import Source

MISSING = object()


class BelowMinimum(Exception):
    """A row's score is below the source's minimum; the text is the column."""


def row_reader(source: Source) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return a function that turns a row of the source into `prompt`, `completion`, `messages` and `tests`.

    It raises RowError, and BelowMinimum with the column whose score is too low.

    Raises:
        UserError: a template has a syntax error; names it.
    """
    if not (source.columns or source.template or source.minimum):
        return recognise_row
    templates = {name: compile_column_template(source, name, text) for name, text in source.template.items()}
    mapped = {*source.columns, *templates}

    def read_row(row: Mapping[str, Any]) -> dict[str, Any]:
        for path, minimum in source.minimum.items():
            if read_score(row, path) < minimum:
                raise BelowMinimum(path)
        if not mapped:
            return recognise_row(row)
        values = {name: require_value(row, path) for name, path in source.columns.items()}
        for name, template in templates.items():
            values[name] = render_column(template, row, name)
        if mapped == {"tests"}:
            return recognise_row({**row, **values})
        if "completion" in mapped:
            values.setdefault("prompt", "")
        return recognise_row(values)

    return read_row


def required_columns(source: Source) -> frozenset[str] | None:
    """Return the columns to read of a source's files; None: all of them, since a template may use any."""
    if source.template:
        return None
    paths = (*source.columns.values(), *source.minimum)
    return FORMAT_COLUMNS | frozenset(paths) | frozenset(path.split(".")[0] for path in paths)


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path (`a.b.0`), parsing JSON in strings; MISSING where there is none."""
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                return MISSING
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return MISSING
    return value


def require_value(row: Mapping[str, Any], path: str) -> Any:
    value = value_at(row, path)
    if value is MISSING:
        raise RowError(FORMAT, f"it has no column '{path}'. Its columns: {', '.join(map(str, row))}")
    if value is None:
        raise RowError(NOT_TEXT, f"'{path}' is null")
    return value


def read_score(row: Mapping[str, Any], path: str) -> float:
    """Return a score, which may be a number or text (OpenCodeInstruct).

    Raises:
        RowError: it is missing, or not a number.
    """
    value = value_at(row, path)
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if math.isnan(score):  # compares as not below any minimum, so the row would be taken
        raise RowError(SCORE, f"'{path}' is {'missing' if value is MISSING else repr(value)[:60]}")
    return score


def compile_column_template(source: Source, name: str, text: str) -> Any:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    try:
        return environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(
            f"fetch source '{source.name}': template.{name}, line {error.lineno}: {error.message}"
        ) from None


def render_column(template: Any, row: Mapping[str, Any], name: str) -> str:
    try:
        return template.render(row)
    except Exception as error:  # a template may raise anything
        raise RowError(TEMPLATE, f"template.{name}: {type(error).__name__}: {error}") from None
