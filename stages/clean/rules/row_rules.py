"""Rules on single rows by name: each returns the evidence for a drop, or None. Thresholds: rules/settings.py.

A rule is a pure function of the row and its own settings. Rules about text see the module, or for
conversations and fenced rows the assistant's answer (`RowView.checked_text`); rules about length and
repetition see only the completion.
"""

from collections.abc import Callable

from stages.clean.row import RowView
from stages.clean.rules.code import comments, docstring, language, licence, placeholder, system, unparsable
from stages.clean.rules.prose import boilerplate, refusal
from stages.clean.rules.text import alphanumeric, blobs, empty, encoding, length, long_lines, repetition
from stages.clean.settings import CleanSettings

RULE_FUNCTIONS: dict[str, Callable[[RowView, CleanSettings], str | None]] = {
    "empty": lambda row, _: empty(row),
    "length": lambda row, settings: length(row, settings.length),
    "long_lines": lambda row, settings: long_lines(row, settings.long_lines),
    "licence": lambda row, settings: licence(row, settings.licence),
    "encoding": lambda row, settings: encoding(row, settings.encoding),
    "alphanumeric": lambda row, settings: alphanumeric(row, settings.alphanumeric),
    "blobs": lambda row, settings: blobs(row, settings.blobs),
    "parse": lambda row, _: unparsable(row),
    "language": lambda row, settings: language(row, settings.language),
    "comments": lambda row, settings: comments(row, settings.comments),
    "placeholder": lambda row, settings: placeholder(row, settings.placeholder),
    "docstring": lambda row, settings: docstring(row, settings.docstring),
    "system": lambda row, settings: system(row, settings.system),
    "refusal": lambda row, settings: refusal(row, settings.refusal),
    "boilerplate": lambda row, settings: boilerplate(row, settings.boilerplate),
    "repetition": lambda row, settings: repetition(row, settings.repetition),
}
