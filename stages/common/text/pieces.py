"""Texts cut where tokens never meet: each distinct piece is tokenized once, with the ids of the uncut text."""

import json
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, chain
from typing import Any, NamedTuple

A = "A-Za-z0-9"
M = r"!-&(-/:-@\[-`{-~"  # marks: ASCII but letters, digits, white space and the apostrophe, which may begin an ending ('s)
# Ways to cut a text, the finer first. Each: what matches from one cut to the next, and what no token may hold, in the
# alphabet of byte-level BPE (Ġ: space, Ċ: line break).
CUTS = (
    (  # between letters or digits, marks, and white space before either: tokenizers of GPT-2's kind
        re.compile(rf"[^{A}{M}]*(?:[{A}]+|[{M}]+)(?:[^{A}{M} \n][^{A}{M}]*(?:[{A}]+|[{M}]+|\Z))*|[^{A}{M}]+"),
        re.compile(rf"[{A}][ĠĊ{M}]|[{M}][ĠĊ{A}]"),
    ),
    (  # behind letters or digits: a mark may be one token with the line break or the letter behind it, as GPT-4 has it
        re.compile(rf"[^{A}]*[{A}]+(?:[^{A}{M} \n][^{A}]*(?:[{A}]+|\Z))*|[^{A}]+"),
        re.compile(rf"[{A}][ĠĊ{M}]"),
    ),
)
KEPT_CHARACTERS = 1 << 21  # of pieces whose ids are kept in memory, about 50 MB
PROBES = (  # on both sides of what is tried out
    "a¤ word¤f(x1¤Return 12345¤it's¤don't ==¤\n  b¤naïve café x¤é1¤x_1¤  0¤漢字a¤(¤ a(¤).¤_¤ __¤"
    '"""¤x = [¤ =¤://¤\n\n  )¤é.¤12.¤a\'b,¤...¤\t{¤<|¤ ¤  ¤ a¤ x1.¤  b¤ it\'s é¤ 4¤\n¤\n\n¤\n    x¤'
    "\n's¤\n\n  é¤\n(¤ é¤b¤1¤12345¤x's¤yé¤a\n¤_x¤(a¤..¤)\n\n    'b'¤\"\"\"\n¤<b¤[]\n\n¤{'s"
)

Found = tuple[bytes, list[int]]  # a document's ids, and where its seams are among them


@lru_cache(maxsize=4)
def cuts_of(tokenizer: Any) -> re.Pattern[str] | None:
    """What cuts a text into pieces whose tokens, one after another, are those of the text; None: nothing that is known.

    A byte-level BPE may be cut where none of its tokens holds the characters on both sides, for then no merge crosses
    the cut; and where its pattern of words matches on both sides as it matches uncut, which is tried out on every cut of
    two probes. SentencePiece's kind puts a space before a text, so that it may not be cut.
    """
    raw = backend(tokenizer)
    if raw is None:
        return None
    parts = json.loads(raw.to_str())
    normalizer, model, added = parts["normalizer"], parts["model"], parts["added_tokens"]
    if (
        model["type"] != "BPE"
        or model.get("dropout")
        or '"ByteLevel"' not in json.dumps(parts["pre_tokenizer"])
    ):
        return None
    if normalizer is not None and normalizer["type"] != "NFC":
        return None
    if any(token["lstrip"] or token["rstrip"] or token["single_word"] for token in added):
        return None
    merged = model["vocab"].keys() - {token["content"] for token in added}
    return next((piece for piece, glued in CUTS if fits(piece, glued, merged, tokenizer)), None)


def fits(piece: re.Pattern[str], glued: re.Pattern[str], merged: Iterable[str], tokenizer: Any) -> bool:
    if any(map(glued.search, merged)):
        return False
    probes = PROBES.split("¤")
    texts = [left + right for left in probes for right in probes]
    cut = [piece.findall(text) for text in texts]
    ids = plain_ids([*texts, *chain.from_iterable(cut)], tokenizer)
    rest = iter(ids[len(texts) :])
    return all(ids[i] == [*chain.from_iterable(next(rest) for _ in of)] for i, of in enumerate(cut))


class Pieces:
    """Ids of texts, as the bytes of int32; each distinct text is tokenized once."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.lead, self.bos = int32(leading_ids(tokenizer)), tokenizer.bos_token
        self.eos = int32([tokenizer.eos_token_id])
        self.cut = cuts_of(tokenizer)
        self.added = frozenset(map(str, tokenizer.added_tokens_decoder.values()))
        longest_first = sorted(self.added - {""}, key=lambda token: -len(token))
        self.pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self.of: dict[str, bytes] = {"": b""}
        self.characters = 0

    def pieces_in(self, text: str) -> list[str]:
        """What a text is cut into, one piece at least; an added token is a piece of its own."""
        if self.cut is None:
            return [text]
        find = self.cut.findall
        if self.pattern is None or not self.pattern.search(text):
            return find(text) or [text]
        pieces, done = [], 0
        for match in self.pattern.finditer(text):
            pieces += [*find(text[done : match.start()]), match[0]]
            done = match.end()
        return pieces + find(text[done:])

    def add(self, texts: Iterable[str]) -> None:
        known = self.of
        new = list(dict.fromkeys([text for text in texts if text not in known]))
        known.update(zip(new, map(int32, plain_ids(new, self.tokenizer)), strict=True))
        self.characters += sum(map(len, new))

    def forget(self) -> None:
        """Keeps memory bounded."""
        if self.characters > KEPT_CHARACTERS:
            self.of, self.characters = {"": b""}, 0

    def leading(self, text: str) -> bytes:
        """What comes before a document that begins so."""
        return b"" if self.bos and text.startswith(self.bos) else self.lead


@lru_cache(maxsize=2)
def pieces_of(tokenizer: Any) -> Pieces:
    return Pieces(tokenizer)


class Plan(NamedTuple):
    """How a document is tokenized."""

    pieces: list[str]
    tails: list[
        tuple[int, str]
    ]  # for each seam the number of the piece it is in, and that piece's text before it


def plan(document: Sequence[str], ids: Pieces) -> Plan | None:
    """None where a seam lies inside an added token, which then is none in the context alone."""
    text, seams = "".join(document), list(accumulate(map(len, document[:-1])))
    pieces = ids.pieces_in(text)
    starts = [0, *accumulate(map(len, pieces))][:-1]
    tails = []
    for seam in seams:
        number = bisect_right(starts, seam) - 1
        if starts[number] < seam < starts[number] + len(pieces[number]) and pieces[number] in ids.added:
            return None
        tails.append((number, text[starts[number] : seam]))
    return Plan(pieces, tails)


def put_together(
    document: Sequence[str], pieces: list[str], tails: list[tuple[int, str]], ids: Pieces
) -> Found | None:
    """None where a seam is not between tokens."""
    lead, of = ids.leading(pieces[0]), ids.of
    if ids.lead and not lead and len(document[0]) < len(ids.bos):
        return None  # the mark of a beginning lies across the seam
    found = [of[piece] for piece in pieces]
    seams = []
    for number, tail in tails:
        before = of[tail]
        if not found[number].startswith(before):
            return None
        seams.append((len(lead) + sum(map(len, found[:number])) + len(before)) // 4)
    return b"".join([lead, *found, ids.eos]), seams


def rest_of(pieces: list[str], tails: list[tuple[int, str]]) -> str:
    """The beginning of a completion, up to the end of the piece with the seam."""
    ((number, tail),) = tails
    return pieces[number][len(tail) :]


def put_apart(pieces: list[str], tails: list[tuple[int, str]], rest: str, ids: Pieces) -> Found:
    """Prompt and completion tokenized apart; see `inner_ids`."""
    ((number, tail),) = tails
    line, behind = ids.of["\n"], ids.of["\n" + rest]
    lead = ids.leading("".join([*pieces[:number], tail]))
    asked = b"".join([lead, *(ids.of[piece] for piece in pieces[:number]), ids.of[tail]])
    inner = behind[len(line) :] if behind.startswith(line) else ids.of[rest]
    answer = b"".join([inner, *(ids.of[piece] for piece in pieces[number + 1 :]), ids.eos])
    return asked + answer, [len(asked) // 4]


def int32(ids: Sequence[int]) -> bytes:
    return array("i", ids).tobytes()


def plain_ids(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Ids of each text, nothing added."""
    if not texts:
        return []
    raw = backend(tokenizer)
    if raw is None or getattr(tokenizer, "split_special_tokens", False):
        return tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [one.ids for one in raw.encode_batch_fast(list(texts), add_special_tokens=False)]


def backend(tokenizer: Any) -> Any:
    """The tokenizer's Rust part, None where it has none; padding and truncation off, whoever set them."""
    raw = getattr(tokenizer, "backend_tokenizer", None)
    if raw is None or not getattr(tokenizer, "is_fast", False):
        return None
    if raw.padding is not None:
        raw.no_padding()
    if raw.truncation is not None:
        raw.no_truncation()
    return raw


@lru_cache(maxsize=4)
def leading_ids(tokenizer: Any) -> list[int]:
    """The special tokens that the tokenizer puts before a text by default; it may add others after it."""
    plain, full = plain_ids(["a"], tokenizer)[0], tokenizer("a")["input_ids"]
    start = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), 0)
    return full[:start]
