"""Cut texts where no token crosses, and tokenize each distinct piece once, with the ids of the whole text."""

import json
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, chain
from typing import Any, NamedTuple

A = "A-Za-z0-9"
# marks: ASCII except letters, digits, white space and the apostrophe, which may begin a suffix ('s)
M = r"!-&(-/:-@\[-`{-~"
# Ways to cut a text, finest first. Each: a pattern from one cut to the next, and what no token may contain,
# in the alphabet of byte-level BPE (Ġ: space, Ċ: line break).
CUTS = (
    (  # between letters or digits, marks, and white space before either: tokenizers like GPT-2's
        re.compile(rf"[^{A}{M}]*(?:[{A}]+|[{M}]+)(?:[^{A}{M} \n][^{A}{M}]*(?:[{A}]+|[{M}]+|\Z))*|[^{A}{M}]+"),
        re.compile(rf"[{A}][ĠĊ{M}]|[{M}][ĠĊ{A}]"),
    ),
    (  # after letters or digits: a mark may form a token with the line break or letter after it (GPT-4)
        re.compile(rf"[^{A}]*[{A}]+(?:[^{A}{M} \n][^{A}]*(?:[{A}]+|\Z))*|[^{A}]+"),
        re.compile(rf"[{A}][ĠĊ{M}]"),
    ),
)
KEPT_CHARACTERS = 1 << 21  # of pieces whose ids are kept in memory, about 50 MB
PROBES = (  # tried on both sides of a cut
    "a¤ word¤f(x1¤Return 12345¤it's¤don't ==¤\n  b¤naïve café x¤é1¤x_1¤  0¤漢字a¤(¤ a(¤).¤_¤ __¤"
    '"""¤x = [¤ =¤://¤\n\n  )¤é.¤12.¤a\'b,¤...¤\t{¤<|¤ ¤  ¤ a¤ x1.¤  b¤ it\'s é¤ 4¤\n¤\n\n¤\n    x¤'
    "\n's¤\n\n  é¤\n(¤ é¤b¤1¤12345¤x's¤yé¤a\n¤_x¤(a¤..¤)\n\n    'b'¤\"\"\"\n¤<b¤[]\n\n¤{'s"
)

EncodedDocument = tuple[bytes, list[int]]  # a document's ids as bytes of int32, and the index of each seam


@lru_cache(maxsize=4)
def cuts_of(tokenizer: Any) -> re.Pattern[str] | None:
    """Return a pattern whose matches tokenize like the whole text; None: texts cannot be cut.

    A byte-level BPE can be cut where none of its tokens holds the characters on both sides, so that no merge
    crosses the cut, and where its word pattern matches each side as it matches the whole, which is tried on
    every pair of probes. SentencePiece puts a space before a text, so its texts cannot be cut.
    """
    raw = rust_tokenizer(tokenizer)
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
    return next((piece for piece, glued in CUTS if cuts_safely(piece, glued, merged, tokenizer)), None)


def cuts_safely(
    piece: re.Pattern[str], glued: re.Pattern[str], merged: Iterable[str], tokenizer: Any
) -> bool:
    if any(map(glued.search, merged)):
        return False
    probes = PROBES.split("¤")
    texts = [left + right for left in probes for right in probes]
    cut = [piece.findall(text) for text in texts]
    ids = plain_ids([*texts, *chain.from_iterable(cut)], tokenizer)
    rest = iter(ids[len(texts) :])
    return all(ids[i] == [*chain.from_iterable(next(rest) for _ in of)] for i, of in enumerate(cut))


class Pieces:
    """A cache of the ids of texts, as bytes of int32; each distinct text is tokenized once."""

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
        """Cut a text into at least one piece; an added token is a piece of its own."""
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
        """Empty the cache once it is large, to bound memory."""
        if self.characters > KEPT_CHARACTERS:
            self.of, self.characters = {"": b""}, 0

    def leading(self, text: str) -> bytes:
        """Return the leading ids of a document that begins with this text."""
        return b"" if self.bos and text.startswith(self.bos) else self.lead


@lru_cache(maxsize=2)
def pieces_of(tokenizer: Any) -> Pieces:
    return Pieces(tokenizer)


class CutDocument(NamedTuple):
    """A document cut into pieces."""

    pieces: list[str]
    # for each seam: the index of its piece, and the text of that piece before the seam
    tails: list[tuple[int, str]]


def cut_document(document: Sequence[str], ids: Pieces) -> CutDocument | None:
    """Cut a document; None: a seam lies inside an added token, which the context alone would not contain."""
    text, seams = "".join(document), list(accumulate(map(len, document[:-1])))
    pieces = ids.pieces_in(text)
    starts = [0, *accumulate(map(len, pieces))][:-1]
    tails = []
    for seam in seams:
        number = bisect_right(starts, seam) - 1
        if starts[number] < seam < starts[number] + len(pieces[number]) and pieces[number] in ids.added:
            return None
        tails.append((number, text[starts[number] : seam]))
    return CutDocument(pieces, tails)


def join_pieces(
    document: Sequence[str], pieces: list[str], tails: list[tuple[int, str]], ids: Pieces
) -> EncodedDocument | None:
    """Return the encoded document, None if a seam is not between tokens."""
    lead, of = ids.leading(pieces[0]), ids.of
    if ids.lead and not lead and len(document[0]) < len(ids.bos):
        return None  # the BOS token's text lies across the seam
    found = [of[piece] for piece in pieces]
    seams = []
    for number, tail in tails:
        before = of[tail]
        if not found[number].startswith(before):
            return None
        seams.append((len(lead) + sum(map(len, found[:number])) + len(before)) // 4)
    return b"".join([lead, *found, ids.eos]), seams


def rest_of(pieces: list[str], tails: list[tuple[int, str]]) -> str:
    """Return the beginning of a completion, up to the end of the piece with the seam."""
    ((number, tail),) = tails
    return pieces[number][len(tail) :]


def encode_separately(
    pieces: list[str], tails: list[tuple[int, str]], rest: str, ids: Pieces
) -> EncodedDocument:
    """Tokenize prompt and completion separately; see `inner_ids`."""
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
    """Return the ids of each text, without special tokens."""
    if not texts:
        return []
    raw = rust_tokenizer(tokenizer)
    if raw is None or getattr(tokenizer, "split_special_tokens", False):
        return tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [one.ids for one in raw.encode_batch_fast(list(texts), add_special_tokens=False)]


def rust_tokenizer(tokenizer: Any) -> Any:
    """Return the tokenizer's Rust implementation with padding and truncation off, None if it has none."""
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
    """Return the special tokens that the tokenizer puts before a text by default; some may follow it too."""
    plain, full = plain_ids(["a"], tokenizer)[0], tokenizer("a")["input_ids"]
    start = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), 0)
    return full[:start]
