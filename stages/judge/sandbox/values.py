"""Values between judge and candidate: tagged JSON of plain types, never pickle, marshal or eval.

A value is a JSON null, true, false, string or 64-bit integer, or a list that starts with a tag:

    ["i", "-1f"]            an integer of any size, hexadecimal
    ["f", "0x1.8p+1"]       a float, bit-exact, also inf and nan
    ["c", real, imaginary]  a complex number, both as float.hex()
    ["q", "1", "3"]         a Fraction, both hexadecimal
    ["D", "1.50"]           a Decimal
    ["u", "..."]            a string with lone surrogates, hexadecimal of its surrogatepass UTF-8
    ["b", "..."] ["B", ...] bytes, bytearray, hexadecimal
    ["l", ...] ["t", ...]   list, tuple
    ["s", ...] ["z", ...]   set, frozenset
    ["d", [key, value] ...] dict, in order; any other mapping, which equals the same dict
    ["k", ...] ["p", ...]   keys, items of a dict, which equal sets
    ["Q", ...] ["I", ...]   deque, iterator
    ["r", start, stop, step] ["a", typecode, ...]    range, array
    ["o", name]             anything else: an opaque token, equal to nothing
    ["o", name, ["l", ...]] the same with items, for another iterable
"""

import json
import struct
import sys
from collections import deque
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, Set
from itertools import islice
from typing import Any

MAX_FRAME_BYTES = 4 << 20  # a frame
MAX_NESTING = 100  # containers in containers
MAX_ITEMS = 100_000  # items taken from an iterator
MAX_BITS = 10_000  # of a fraction's parts, and digits of a decimal: comparing them is cheap
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

    def listed(self) -> list[Any]:
        if self.items is None:
            raise TypeError(f"'{self.name}' object has no items")
        return self.items

    def __iter__(self) -> Any:
        return iter(self.listed())

    def __len__(self) -> int:
        return len(self.listed())

    def __getitem__(self, index: Any) -> Any:
        return self.listed()[index]

    def __repr__(self) -> str:
        return f"<{self.name}>"


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
    if issubclass(kind, list | tuple | dict | set | frozenset):
        return encode_container(value, kind, strict, depth)
    number = encode_number(value, kind)
    return encode_other(value, kind, strict, depth) if number is None else number


def encode_number(value: Any, kind: type) -> Any:
    """Return the form of a number of another type; None for what is none, or has too many digits."""
    numpy, numbers, decimal = (sys.modules.get(name) for name in ("numpy", "numbers", "decimal"))
    if numpy and issubclass(kind, (numpy.generic, numpy.ndarray)) and value.ndim == 0:
        plain: Any = value.item()
        return ["f", float.hex(float(value))] if type(plain) is kind else encode_value(plain)
    if decimal and issubclass(kind, decimal.Decimal):
        text = decimal.Decimal.__str__(value)
        return ["D", text] if is_short_decimal(text) else None
    if numbers and issubclass(kind, numbers.Integral):
        return encode_value(int(value))
    if numbers and issubclass(kind, numbers.Rational):
        parts = int(value.numerator), int(value.denominator)
        return (
            ["q", *(format(part, "x") for part in parts)] if max(map(abs, parts)) >> MAX_BITS == 0 else None
        )
    return None


def is_short_decimal(text: str) -> bool:
    """Return whether comparing a Decimal with numbers is cheap: few digits, a small exponent."""
    digits, _, exponent = text.upper().partition("E")
    return len(digits) <= MAX_BITS and len(exponent.lstrip("+-")) <= 4


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
    base: Any = set if issubclass(kind, set) else frozenset
    items = [encode_value(item, strict, below) for item in base.__iter__(value)]
    return ["s" if base is set else "z", *sorted(items, key=json.dumps)]


def encode_other(value: Any, kind: type, strict: bool, depth: int) -> Any:
    """Return the form of a range, a wrapper of a plain value, or of what can be iterated."""
    if depth >= MAX_NESTING:
        raise TooDeep(f"nested deeper than {MAX_NESTING}")
    if issubclass(kind, range) and len(value) <= MAX_ITEMS:
        return ["r", *map(encode_value, (value.start, value.stop, value.step))]
    if kind is memoryview:
        return encode_value(bytes(value))
    collections = sys.modules.get("collections")
    if collections and issubclass(kind, (collections.UserString, collections.UserList)):
        return encode_value(value.data, strict, depth + 1)
    return encode_iterable(value, kind, strict, depth + 1)


def encode_iterable(value: Any, kind: type, strict: bool, below: int) -> Any:
    """Return the form of a mapping, set, iterator or other iterable that no literal makes."""
    items = []
    if issubclass(kind, Iterable):
        items = list(islice(value.items() if issubclass(kind, Mapping) else value, MAX_ITEMS + 1))
    if not issubclass(kind, Iterable) or len(items) > MAX_ITEMS:
        if strict:
            raise Unsupported(f"an argument of type {kind.__name__} cannot be sent to a sandbox")
        return ["o", kind.__name__]
    if issubclass(kind, Mapping):
        return ["d", *([encode_value(k, strict, below), encode_value(v, strict, below)] for k, v in items)]
    forms = [encode_value(item, strict, below) for item in items]
    array = sys.modules.get("array")
    if array and issubclass(kind, array.array):
        return ["a", value.typecode, *forms]
    tags = {KeysView: "k", ItemsView: "p", Set: "s", deque: "Q", Iterator: "I"}
    tag = next((tag for base, tag in tags.items() if issubclass(kind, base)), "")
    if strict and not tag:
        raise Unsupported(f"an argument of type {kind.__name__} cannot be sent to a sandbox")
    return [tag, *forms] if tag else ["o", kind.__name__, ["l", *forms]]


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
    except (TypeError, ValueError, ArithmeticError) as error:
        raise Malformed(f"tag {tag[:10]!r}: {error}"[:200]) from None


SCALARS = frozenset("ifcqDubB")


def decode_scalar(tag: str, first: str, second: str = "") -> Any:
    if tag == "i":
        return int(first, 16)
    if tag == "f":
        return float.fromhex(first)
    if tag == "c":
        return complex(float.fromhex(first), float.fromhex(second))
    if tag == "q":
        if max(len(first), len(second)) > MAX_BITS:
            raise Malformed("a fraction of too many digits")
        return fractions_module().Fraction(int(first, 16), int(second, 16))
    if tag == "D":
        if not is_short_decimal(first):
            raise Malformed("a decimal of too many digits")
        return fractions_module().Decimal(first)
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
    if tag == "r":
        found = range(*(decode_value(item) for item in rest))
        if len(found) > MAX_ITEMS:
            raise Malformed("a range of too many items")
        return found
    make = COLLECTIONS.get(tag)
    if make is None:
        raise Malformed(f"unknown tag {tag[:10]!r}")
    return make([decode_value(item, depth + 1) for item in rest])


def make_array(items: list[Any]) -> Any:
    import array

    kind: Any = array.array
    return kind(items[0], items[1:])


COLLECTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "l": list,
    "t": tuple,
    "s": set,
    "z": frozenset,
    "k": lambda items: dict.fromkeys(items).keys(),
    "p": lambda items: dict(items).items(),
    "Q": deque,
    "I": iter,
    "a": make_array,
}


def fractions_module() -> Any:
    """Return the module of Fraction and Decimal; candidates do not load it unless they need it."""
    import fractions

    return fractions


def encode_frame(message: dict[str, Any]) -> bytes:
    """Return a message as bytes: four bytes of length, then JSON in ASCII."""
    payload = COMPACT.encode(message).encode("ascii")
    return FRAME_HEADER.pack(len(payload)) + payload
