"""Values between judge and candidate: tagged JSON of plain types, never pickle, marshal or eval.

A value is a JSON null, true, false, string or 64-bit integer, or a list that starts with a tag:

    ["i", "-1f"]            an integer of any size, hexadecimal
    ["f", "0x1.8p+1"]       a float, bit-exact, also inf and nan
    ["c", real, imaginary]  a complex number, both as float.hex()
    ["u", "..."]            a string with lone surrogates, hexadecimal of its surrogatepass UTF-8
    ["b", "..."] ["B", ...] bytes, bytearray, hexadecimal
    ["l", ...] ["t", ...]   list, tuple
    ["s", ...] ["z", ...]   set, frozenset
    ["d", [key, value] ...] dict, in order
    ["o", name]             anything else: an opaque token, equal to nothing
    ["o", name, ["l", ...]] the same with items, for an iterable without a literal (generator, range, deque)
"""

import json
import struct
import sys
from collections import deque
from itertools import islice
from typing import Any

MAX_FRAME_BYTES = 4 << 20  # a frame
MAX_NESTING = 100  # containers in containers
MAX_ITEMS = 100_000  # items taken from an iterator
FRAME_HEADER = struct.Struct(">I")
COMPACT = json.JSONEncoder(separators=(",", ":"))


class TooDeep(ValueError):
    """Containers nested deeper than MAX_DEPTH, or in themselves."""


class Malformed(ValueError):
    """A form or message that our encoder does not write."""


class Unsupported(TypeError):
    """An argument that cannot be encoded."""


class Opaque:
    """Stands for a value of a type that is not sent; equal to nothing, itself included."""

    def __init__(self, name: str, items: list[Any] | None = None) -> None:
        self.name = name
        self.items = items

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Any:
        if self.items is None:
            raise TypeError(f"'{self.name}' object is not iterable")
        return iter(self.items)

    def __repr__(self) -> str:
        return f"<{self.name}>"


ITERABLES: tuple[type, ...] = (
    range,
    deque,
    map,
    filter,
    zip,
    enumerate,
    reversed,
    type(iter([])),
    type(iter(())),
    type({}.keys()),
    type({}.values()),
    type({}.items()),
    type(x for x in ""),
)


def encode_value(value: Any, strict: bool = False, depth: int = 0) -> Any:
    """Return the JSON form of a value; subclasses of plain types are sent as their base type.

    Args:
        value: anything.
        strict: raise for a type without a form instead of sending an opaque token (the judge's side).
        depth: containers around the value.

    Raises:
        TooDeep: nested deeper than MAX_DEPTH.
        Unsupported: `strict`, and a type without a form.
    """
    if value is None or value is True or value is False:
        return value
    kind = type(value)
    if issubclass(kind, int):
        exact = int.__add__(value, 0)
        return exact if -(1 << 63) <= exact < 1 << 63 else ["i", format(exact, "x")]
    if issubclass(kind, float):
        return ["f", float.hex(value)]
    if issubclass(kind, str):
        return encode_text(str.__getitem__(value, slice(None)))
    if issubclass(kind, complex):
        return ["c", float.hex(value.real), float.hex(value.imag)]
    if issubclass(kind, bytes | bytearray):
        return ["b" if issubclass(kind, bytes) else "B", bytes(value).hex()]
    numpy = sys.modules.get("numpy")
    if numpy and issubclass(kind, numpy.generic):
        return encode_value(value.item(), strict, depth)
    return encode_container(value, kind, strict, depth)


def encode_text(value: str) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:
        return ["u", value.encode("utf-8", "surrogatepass").hex()]
    return value


def encode_container(value: Any, kind: type, strict: bool, depth: int) -> Any:
    if depth >= MAX_NESTING:
        raise TooDeep(f"nested deeper than {MAX_NESTING}")
    below = depth + 1
    if issubclass(kind, list):
        return ["l", *(encode_value(item, strict, below) for item in list.__iter__(value))]
    if issubclass(kind, tuple):
        return ["t", *(encode_value(item, strict, below) for item in tuple.__iter__(value))]
    if issubclass(kind, dict):
        pairs = dict.items(value)
        return [
            "d",
            *([encode_value(key, strict, below), encode_value(item, strict, below)] for key, item in pairs),
        ]
    if issubclass(kind, set | frozenset):
        items = [encode_value(item, strict, below) for item in kind.__iter__(value)]
        return ["s" if issubclass(kind, set) else "z", *sorted(items, key=json.dumps)]
    if strict:
        raise Unsupported(f"an argument of type {kind.__name__} cannot be sent to a sandbox")
    if issubclass(kind, ITERABLES):
        items = list(islice(value, MAX_ITEMS + 1))
        if len(items) <= MAX_ITEMS:
            return ["o", kind.__name__, ["l", *(encode_value(item, strict, below) for item in items)]]
    return ["o", kind.__name__]


def decode_value(form: Any, depth: int = 0) -> Any:
    """Return the value of a form.

    Raises:
        TooDeep: nested deeper than MAX_DEPTH.
        Malformed: a form that `encode_value` does not write.
    """
    if form is None or type(form) in (bool, int, str):
        return form
    if type(form) is not list or not form or type(form[0]) is not str:
        raise Malformed("neither a plain value nor a tagged list")
    tag, *rest = form
    try:
        return decode_scalar(tag, *rest) if tag in SCALARS else decode_collection(tag, rest, depth)
    except TooDeep:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise Malformed(f"tag {tag[:10]!r}: {error}"[:200]) from None


SCALARS = frozenset("ifcubB")


def decode_scalar(tag: str, first: str, second: str = "") -> Any:
    if tag == "i":
        return int(first, 16)
    if tag == "f":
        return float.fromhex(first)
    if tag == "c":
        return complex(float.fromhex(first), float.fromhex(second))
    if tag == "u":
        return bytes.fromhex(first).decode("utf-8", "surrogatepass")
    return bytes.fromhex(first) if tag == "b" else bytearray.fromhex(first)


def decode_collection(tag: str, rest: list[Any], depth: int) -> Any:
    if depth > MAX_NESTING:
        raise TooDeep(f"nested deeper than {MAX_NESTING}")
    if tag == "d":
        return {decode_value(key, depth + 1): decode_value(item, depth + 1) for key, item in rest}
    if tag == "o":
        name, *items = rest
        return Opaque(str(name)[:100], decode_value(items[0], depth + 1) if items else None)
    kind = {"l": list, "t": tuple, "s": set, "z": frozenset}.get(tag)
    if kind is None:
        raise Malformed(f"unknown tag {tag[:10]!r}")
    return kind(decode_value(item, depth + 1) for item in rest)


def encode_frame(message: dict[str, Any]) -> bytes:
    """Return a message as bytes: four bytes of length, then JSON in ASCII."""
    payload = COMPACT.encode(message).encode("ascii")
    return FRAME_HEADER.pack(len(payload)) + payload
