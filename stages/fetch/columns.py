"""Read the rows of a source in the format that all its columns decide; no text is left out without a word."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from stages.common.core.errors import UserError
from stages.fetch.column_paths import SHOWN, MappedColumns, read_score, value_at
from stages.fetch.licences import PERMISSIVE, hub_licence, require_allowed
from stages.fetch.row_errors import FORMAT, LICENCE, LeftOut, RowError
from stages.fetch.row_formats import (
    ANSWERS,
    CHAT_COLUMNS,
    FORMATS,
    JSON_COLUMNS,
    KNOWN_FORMATS,
    PLAIN_TEXT,
    QUESTIONS,
    RawColumns,
    RowFormat,
    SourceRow,
    read_tests,
)
from stages.fetch.settings import Source
from stages.fetch.turns import EMPTY, json_in, turn_fields, without_nulls
from stages.fetch.unread import (
    LICENCE_NAME,
    RENDERINGS,
    TARGET_NAME,
    is_metadata,
    is_numeric,
    proposal,
    target_texts,
    texts_in,
    unread_message,
)

CONTENT = {"prompt", "completion", "messages"}  # mapping one of them settles what a row is
LONG_TEXT = 40  # characters


class RowReader:
    """Turns rows of a source into columns of data/raw, once `decide` has seen the first ones."""

    def __init__(self, source: Source, licences: Sequence[str] = PERMISSIVE) -> None:
        self.source, self.licences = source, tuple(licences)
        self.mapping = MappedColumns(source)
        self.mapped = self.mapping.names
        self.is_mapped = bool(self.mapped & CONTENT)
        self.read_names = self.mapping.read_names
        self.unused: set[str] = set()  # columns and fields of turns that hold something, and are not read
        self.settled: set[str] = set()  # those of them whose texts need no look

    def decide(self, rows: Sequence[SourceRow], place: str) -> None:
        """Decide the format by the columns of the first rows: the first format of which none is always null.

        Raises:
            UserError: no format fits, or a text would be left out; prints the settings to choose from.
        """
        rows = [without_nan(row) for row in rows]
        listed = dict.fromkeys(name for row in rows for name in row)
        if self.is_mapped:
            found = format_of(self.mapped | ({"prompt"} if "completion" in self.mapped else set()))
        else:
            of_rows = {one.required: one for row in rows if (one := format_of(filled_names(row)))}
            found = min(of_rows.values(), key=FORMATS.index, default=format_of(set(listed)))
        if found is None:
            first = {
                name: next((row[name] for row in rows if row.get(name) is not None), None) for name in listed
            }
            maps = proposal(
                {
                    name: value
                    for name, value in first.items()
                    if not is_metadata(name, False) and (TARGET_NAME.fullmatch(name) or not is_numeric(value))
                }
            )
            raise UserError(
                f"{place}: {FORMAT} (its columns: {', '.join(listed) or 'none'}). Known: {KNOWN_FORMATS}."
                f"{' Say in the source what its rows are, such as' if maps else ''}{maps}"
            )
        self.format: RowFormat = found
        if not self.is_mapped:
            self.read_names |= {*found.required, *found.optional}
        self.turn_columns = {*CHAT_COLUMNS, self.source.columns.get("messages", "")} & self.read_names
        self.harmless = {*self.source.ignore, *found.known}
        if lost := self.mapped - CONTENT - {*found.optional, "tests", "licence"}:
            raise UserError(
                f"{place}: columns.{min(lost)}: rows with {', '.join(found.required)} have no place for it"
            )
        self.require_read([row for row in rows if not self.other_format(row)], place)

    def other_format(self, row: SourceRow) -> RowFormat | None:
        """Return the format of a row without any column of its source's."""
        if self.is_mapped or not row.keys().isdisjoint(self.format.required):
            return None
        return format_of(filled_names(row))

    def read(self, row: SourceRow, place: str, is_padded: bool = False) -> RawColumns:
        """Return the row's columns of data/raw.

        Args:
            is_padded: the file gives all objects of a column the same keys, as Parquet and Arrow do.

        Raises:
            RowError: the row cannot be used.
            LeftOut: a score is too low, or the row's own licence is not allowed.
            UserError: it has a text that nothing reads.
        """
        row = without_nan(row)
        if other := self.other_format(row):
            theirs, ours = (" + ".join(one.required) for one in (other, self.format))
            raise RowError(FORMAT, f"it has {theirs}, its source {ours}: rows of another format need a source of their own")  # fmt: skip
        self.require_read([row], place)
        for path, minimum in self.source.minimum.items():
            if read_score(row, path) < minimum:
                raise LeftOut(f"under the minimum of {path}")
        own: RawColumns = {}
        if licence_path := self.source.columns.get("licence"):
            own["licence"] = self.own_licence(value_at(row, licence_path))
        if self.mapped:
            values = self.mapping.values(row)
            row = {**({} if self.is_mapped else row), **values}
            if "completion" in self.mapped:
                row = {"prompt": "", **row}
        row = parsed(row, is_padded)
        for name in self.format.required:
            if row.get(name) is None:
                raise RowError(FORMAT, f"its {name} is {'null' if name in row else 'missing'}")
        columns = self.format.convert(row)
        for name in ("tests", "unit_tests"):
            if columns.get("tests") is None and name in self.format.optional:
                columns["tests"] = read_tests(row.get(name))
        return {**columns, **own}

    def require_read(self, rows: Sequence[SourceRow], place: str) -> None:
        """Check that no text of the rows is left out that may be meant.

        Raises:
            UserError: names the columns, and prints the settings to choose from.
        """
        unread = {name: text for row in reversed(rows) for name, text in self.unread_texts(row)}
        if unread:
            chat = {*CHAT_COLUMNS, "tools"} & set(self.format.required) or any("." in name for name in unread)
            used = {
                name: next((row[name] for row in rows if row.get(name) not in EMPTY), None)
                for name in dict.fromkeys(name for row in rows for name in row)
                if not chat and (name in self.read_names or name in unread)
            }
            raise UserError(
                f"{place}: its rows have {', '.join(self.format.required)}, but {unread_message(unread, used)}"
            )

    def unread_texts(self, row: SourceRow) -> Iterator[tuple[str, str]]:
        """Yield names and texts of columns that nothing reads and that may be meant; notes all others."""
        for name in sorted(row.keys() - self.read_names - self.settled):
            if row[name] in EMPTY:
                continue
            self.unused.add(name)
            if isinstance(row[name], Mapping):
                self.unused |= {f"{name}.{key}" for key in row[name] if LICENCE_NAME.search(key)}
            if self.is_mapped or name in self.harmless:
                self.settled.add(name)
                continue
            if is_metadata(name, self.format.required in PLAIN_TEXT) and not TARGET_NAME.fullmatch(name):
                self.settled.add(name)
                continue
            texts = list(texts_in(row[name])) or target_texts(name, row[name])
            texts = texts or [str(row[name])] * (name in (*QUESTIONS, *ANSWERS))
            if texts and not self.is_repeated(name, texts, row):
                yield name, max(texts, key=len)
        for column in self.turn_columns & row.keys():
            for key, value in turn_fields(row[column]):
                self.unused.add(name := f"{column}.{key}")
                if name not in self.harmless and (TARGET_NAME.fullmatch(key) or not is_metadata(key, False)):
                    yield from ((name, text) for text in [*texts_in(value), *target_texts(key, value)])

    def is_repeated(self, name: str, texts: Sequence[str], row: SourceRow) -> bool:
        """Whether question, answer or turns hold the texts already, or they are the whole row, rendered.

        A short text may be in a longer one by chance, unless it is a final answer.
        """
        if self.format.required in PLAIN_TEXT:  # which part of a text is the answer is what they say
            return False
        read = [text.strip() for column in self.read_names & row.keys() for text in texts_in(row[column])]
        within = "\0".join(read)
        is_long = {text: len(text) >= LONG_TEXT or name in ANSWERS for text in texts}
        if all(text.strip() in (within if is_long[text] else read) for text in texts):
            return True
        return name in RENDERINGS and all(text in texts[0] for text in read)

    def own_licence(self, value: Any) -> str:
        """Return a row's own licence, or the licences of a list, all of which hold, as an SPDX expression.

        Raises:
            LeftOut: it is not allowed.
        """
        ids = tuple(str(one) for one in (value if isinstance(value, list) else [value]))
        if not (expression := allowed_licence(ids, self.licences)):
            raise LeftOut(LICENCE, ", ".join(ids)[:SHOWN])
        return expression

    def summary(self) -> dict[str, Any]:
        """Return what sources.lock.json keeps: which columns were the row, and which were not used."""
        read = sorted(self.mapped) if self.is_mapped else list(self.format.required)
        return {"read_as": read, **({"columns_not_used": sorted(self.unused)} if self.unused else {})}


@lru_cache(maxsize=4096)
def allowed_licence(ids: tuple[str, ...], licences: tuple[str, ...]) -> str:
    """Return the expression of licences that all hold, "" if the list does not allow it."""
    known = [f"({one})" if " " in one else hub_licence(one.strip().casefold(), {}) for one in ids]
    expression = " AND ".join(known)
    try:
        require_allowed("row", expression, licences)
    except ValueError:
        return ""
    return expression


def without_nan(row: SourceRow) -> SourceRow:
    """Return the row with null for NaN, which pandas writes for a missing value."""
    missing = {name: None for name, value in row.items() if isinstance(value, float) and value != value}
    return {**row, **missing} if missing else row


def parsed(row: SourceRow, is_padded: bool) -> SourceRow:
    """Return the row with conversations and tools read where they are JSON text."""
    new: dict[str, Any] = {}
    for name in JSON_COLUMNS:
        value = row.get(name)
        if isinstance(value, str):
            new[name] = json_in(value, f"'{name}'") if value.strip() else None
        elif is_padded and value is not None:
            new[name] = without_nulls(value)
    return {**row, **new} if new else row


def filled_names(row: SourceRow) -> set[str]:
    return {name for name, value in row.items() if value is not None}


def format_of(names: set[str]) -> RowFormat | None:
    return next((one for one in FORMATS if names.issuperset(one.required)), None)
