"""Values between judge and candidate: tagged JSON of plain types, never pickle, marshal or eval.

A value is a JSON null, true, false, string or 64-bit integer, or a list that starts with a tag:

    ["i", "-1f"]            an integer of any size, hexadecimal
    ["f", "0x1.8p+1"]       a float, bit-exact, also inf and nan
    ["u", "..."] ["b", ...] a string with lone surrogates (surrogatepass UTF-8), bytes; hexadecimal
    ["l", ...] ["t", ...]   list, tuple
    ["s", ...] ["z", ...]   set, frozenset
    ["d", key, value, ...]  dict, in order; any other mapping, which equals the same dict
    ["k", ...] ["I", ...]   view of a dict, or another set that is no set; iterator
    ["m", type, ...]        a type of MADE, with the arguments that make it
    ["o", name]             anything else: an opaque token, equal to nothing
    ["o", name, ["l", ...]] the same with items, for another iterable
"""

import contextlib
import importlib
import json
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from itertools import chain, islice
from typing import Any

MAX_FRAME_BYTES = 4 << 20  # a frame
MAX_NESTING = 100  # containers in containers
MAX_ITEMS = 100_000  # items taken from an iterator, or in a range
MAX_BITS = 10_000  # of a number, and characters of a text, that makes a value: comparing it is cheap
FRAME_HEADER = struct.Struct(">I")
COMPACT = json.JSONEncoder(separators=(",", ":"))
# Types that a few values make, by module and name, and how to take them apart
MADE: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "builtins.complex": lambda v: (v.real, v.imag),
    "builtins.bytearray": lambda v: (bytes(v),),
    "builtins.range": lambda v: (v.start, v.stop, v.step),
    "array.array": lambda v: (v.typecode, v.tolist()),
    "collections.deque": lambda v: (list(v),),
    "decimal.Decimal": lambda v: (str(v),),
    "fractions.Fraction": lambda v: (v.numerator, v.denominator),
    "datetime.datetime": lambda v: (*v.timetuple()[:6], v.microsecond, v.tzinfo),
    "datetime.date": lambda v: v.timetuple()[:3],
    "datetime.time": lambda v: (v.hour, v.minute, v.second, v.microsecond, v.tzinfo),
    "datetime.timedelta": lambda v: (v.days, v.seconds, v.microseconds),
    "datetime.timezone": lambda v: (v.utcoffset(None),),
    "zoneinfo.ZoneInfo": lambda v: (v.key,),
    "pathlib.PurePosixPath": lambda v: (str(v),),
    "uuid.UUID": lambda v: (str(v),),
    "numpy.ndarray": lambda v: (v.tolist(),),
}
# Types that are sent as what they wrap
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "builtins.memoryview": bytes,
    "collections.UserList": lambda v: v.data,
    "collections.UserString": lambda v: v.data,
}


class TooDeep(ValueError):
    """Containers nested deeper than MAX_NESTING, or in themselves."""


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
        TooDeep: nested deeper than MAX_NESTING.
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
    if issubclass(kind, bytes):
        return ["b", bytes.hex(value)]
    if depth >= MAX_NESTING:
        raise TooDeep(f"nested deeper than {MAX_NESTING}")

    def each(items: Iterable[Any]) -> list[Any]:
        return [encode_value(item, strict, depth + 1) for item in items]

    if issubclass(kind, list):
        return ["l", *each(list.__iter__(value))]
    if issubclass(kind, tuple):
        return ["t", *each(tuple.__iter__(value))]
    if issubclass(kind, dict):
        return ["d", *each(chain.from_iterable(dict.items(value)))]
    if issubclass(kind, set | frozenset):
        base: Any = set if issubclass(kind, set) else frozenset
        return ["s" if base is set else "z", *sorted(each(base.__iter__(value)), key=json.dumps)]
    return encode_other(value, kind, strict, each)


def encode_text(value: str) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:
        return ["u", value.encode("utf-8", "surrogatepass").hex()]
    return value


def encode_other(value: Any, kind: type, strict: bool, each: Callable[[Iterable[Any]], list[Any]]) -> Any:
    """Return the form of a value that no literal makes."""
    numpy = sys.modules.get("numpy")
    if numpy and issubclass(kind, (numpy.generic, numpy.ndarray)) and value.ndim == 0:
        plain: Any = value.item()
        return each([float(value) if type(plain) is kind else plain])[0]
    for name in (f"{base.__module__}.{base.__name__}" for base in kind.__mro__):
        if name in WRAPPERS:
            return each([WRAPPERS[name](value)])[0]
        if name in MADE and is_cheap(name, parts := MADE[name](value)):
            return ["m", name, *each(parts)]
    items: list[Any] | None = None
    if issubclass(kind, Iterable):
        items = list(islice(value.items() if issubclass(kind, Mapping) else value, MAX_ITEMS + 1))
    elif hasattr(kind, "__getitem__"):  # the older protocol of sequences
        with contextlib.suppress(Exception):
            items = list(islice(iter(value), MAX_ITEMS + 1))
    if items is not None and len(items) <= MAX_ITEMS:
        if issubclass(kind, Mapping):
            return ["d", *each(chain.from_iterable(items))]
        if issubclass(kind, Set | Iterator):
            return ["k" if issubclass(kind, Set) else "I", *each(items)]
    else:
        items = None
    if strict:
        raise Unsupported(f"an argument of type {kind.__name__} cannot be sent to a sandbox")
    return ["o", kind.__name__, *([] if items is None else each([items]))]


def is_cheap(name: str, parts: Iterable[Any]) -> bool:
    """Return whether a value of these parts is compared and iterated in little time."""
    parts = list(parts)
    if name == "builtins.range":
        return len(range(*parts)) <= MAX_ITEMS
    if name == "decimal.Decimal":
        exponent = parts[0].upper().partition("E")[2]
        return len(parts[0]) <= MAX_BITS and len(exponent.lstrip("+-")) <= 4
    return all(part.bit_length() <= MAX_BITS for part in parts if isinstance(part, int))


def decode_value(form: Any, depth: int = 0) -> Any:
    """Return the value of a form.

    Raises:
        TooDeep: nested deeper than MAX_NESTING.
        Malformed: a form that `encode_value` does not write.
    """
    if form is None or type(form) in (bool, int, str):
        return form
    if type(form) is not list or not form or type(form[0]) is not str:
        raise Malformed("neither a plain value nor a tagged list")
    tag, *rest = form
    try:
        return SCALARS[tag](*rest) if tag in SCALARS else decode_collection(tag, rest, depth)
    except TooDeep:
        raise
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        raise Malformed(f"tag {tag[:10]!r}: {error}"[:200]) from None


def decode_collection(tag: str, rest: list[Any], depth: int) -> Any:
    if depth > MAX_NESTING:
        raise TooDeep(f"nested deeper than {MAX_NESTING}")
    if tag in ("m", "o"):
        name, *rest = rest
        parts = [decode_value(item, depth + 1) for item in rest]
        if tag == "o":
            return Opaque(str(name)[:100], *parts)
        MADE[name]  # a KeyError, before anything is imported
        if not is_cheap(name, parts):
            raise Malformed(f"a {name} of too many digits or items")
        module, _, kind = name.rpartition(".")
        return getattr(importlib.import_module(module), kind.replace("ndarray", "array"))(*parts)
    return COLLECTIONS[tag]([decode_value(item, depth + 1) for item in rest])


SCALARS: dict[str, Callable[..., Any]] = {
    "i": lambda digits: int(digits, 16),
    "f": float.fromhex,
    "u": lambda digits: bytes.fromhex(digits).decode("utf-8", "surrogatepass"),
    "b": bytes.fromhex,
}
COLLECTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "l": list,
    "t": tuple,
    "s": set,
    "z": frozenset,
    "d": lambda items: dict(zip(items[::2], items[1::2], strict=True)),
    "k": lambda items: dict.fromkeys(items).keys(),
    "I": iter,
}


def encode_frame(message: dict[str, Any]) -> bytes:
    """Return a message as bytes: four bytes of length, then JSON in ASCII."""
    payload = COMPACT.encode(message).encode("ascii")
    return FRAME_HEADER.pack(len(payload)) + payload
