"""Values of a row by dotted path or by Jinja template, as `columns`, `template` and `minimum` of a source name them."""

import json
import math
from collections.abc import Mapping
from typing import Any

from stages.common.core.errors import UserError
from stages.fetch.row_errors import FORMAT, NOT_TEXT, SCORE, TEMPLATE, RowError
from stages.fetch.settings import Source

MISSING = object()
SHOWN = 60  # characters of a value in an error


class MappedColumns:
    """What `columns` and `template` of a source make of a row; `read_names` are the columns that they read.

    Raises:
        UserError: a template is not Jinja; names its line.
    """

    def __init__(self, source: Source) -> None:
        from jinja2 import StrictUndefined, TemplateSyntaxError, meta
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self.paths, self.templates = source.columns, {}
        named = (*source.columns.values(), *source.minimum)
        self.read_names = {*named, *(path.split(".")[0] for path in named)}
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        for name, text in source.template.items():
            try:
                parsed = environment.parse(text)
            except TemplateSyntaxError as error:
                where = f"fetch source '{source.name}': template.{name}, line {error.lineno}"
                raise UserError(f"{where}: {error.message}") from None
            self.read_names |= meta.find_undeclared_variables(parsed)
            self.templates[name] = environment.from_string(parsed)
        self.names = {*self.paths, *self.templates}

    def values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the mapped columns of a row, without its licence.

        Raises:
            RowError: a column is missing, or a template fails.
        """
        found = {name: require_value(row, path) for name, path in self.paths.items() if name != "licence"}
        for name, template in self.templates.items():
            try:
                found[name] = template.render({"row": row, **row})
            except Exception as error:  # a template may raise anything
                raise RowError(TEMPLATE, f"template.{name}: {type(error).__name__}: {error}") from None
        return found


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
        raise RowError(SCORE, f"'{path}' is {'missing' if value is MISSING else repr(value)[:SHOWN]}")
    return score
