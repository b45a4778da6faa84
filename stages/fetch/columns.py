"""A source's own words about its rows: which column is which, templates over them, and minimum scores."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from stages.common.errors import UserError
from stages.fetch.row_errors import FORMAT, NOT_TEXT, SCORE, TEMPLATE, BadRow
from stages.fetch.row_formats import COLUMNS, recognised
from stages.fetch.settings import Source

MISSING = object()


class BelowMinimum(Exception):
    """A row's score is under what the source asks for."""


def reader_of(source: Source) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What turns a row of the source's into `prompt`, `completion`, `messages` and `tests`.

    It raises BadRow, and BelowMinimum with the column whose score is too low.

    Raises:
        UserError: a template is not Jinja; names it.
    """
    if not (source.columns or source.template or source.minimum):
        return recognised
    templates = {name: compiled(source, name, text) for name, text in source.template.items()}
    own = {*source.columns, *templates}

    def made(row: Mapping[str, Any]) -> dict[str, Any]:
        for column, least in source.minimum.items():
            if number(row, column) < least:
                raise BelowMinimum(column)
        if not own:
            return recognised(row)
        values = {name: required(row, place) for name, place in source.columns.items()}
        for name, template in templates.items():
            values[name] = rendered(template, row, name)
        if own == {"tests"}:
            return recognised({**row, **values})
        if "completion" in own:
            values.setdefault("prompt", "")
        return recognised(values)

    return made


def columns_of(source: Source) -> frozenset[str] | None:
    """The columns that a source's rows are made of; None: all, as a template may ask for any."""
    if source.template:
        return None
    places = (*source.columns.values(), *source.minimum)
    return COLUMNS | frozenset(places) | frozenset(place.split(".")[0] for place in places)


def value_at(row: Mapping[str, Any], place: str) -> Any:
    """The value at a dotted place (`a.b.0`), MISSING where there is none; JSON in a string is entered too."""
    if place in row:
        return row[place]
    value: Any = row
    for part in place.split("."):
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


def required(row: Mapping[str, Any], place: str) -> Any:
    value = value_at(row, place)
    if value is MISSING:
        raise BadRow(FORMAT, f"it has no column '{place}'. Its columns: {', '.join(map(str, row))}")
    if value is None:
        raise BadRow(NOT_TEXT, f"'{place}' is null")
    return value


def number(row: Mapping[str, Any], place: str) -> float:
    """A score, also where it is written as text (OpenCodeInstruct).

    Raises:
        BadRow: it is none.
    """
    value = value_at(row, place)
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if math.isnan(score):  # it is under no minimum, so that it would be taken
        raise BadRow(SCORE, f"'{place}' is {'missing' if value is MISSING else repr(value)[:60]}")
    return score


def compiled(source: Source, name: str, text: str) -> Any:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    try:
        return environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(
            f"fetch source '{source.name}': template.{name}, line {error.lineno}: {error.message}"
        ) from None


def rendered(template: Any, row: Mapping[str, Any], name: str) -> str:
    try:
        return template.render(row)
    except Exception as error:  # a template is an expression over the row: it can raise anything
        raise BadRow(TEMPLATE, f"template.{name}: {type(error).__name__}: {error}") from None
