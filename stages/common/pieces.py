"""Texts cut where tokens never meet: each distinct piece is tokenized once, with the ids of the uncut text."""

import json
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

CUT = re.compile(r"[ \n](?<=[A-Za-z0-9][ \n])(?:(?<=\n)|(?=[A-Za-z]))")  # begins a piece: see `cuts_at_words`
KEPT_CHARACTERS = 1 << 21  # of pieces whose ids are kept in memory, about 50 MB
PROBES = (
    ("a", "def f(x1", "Return 12345", "it's", "don't", "== a", "\n  b", "naïve café x", "é1", "x_1", "  0"),
    (
        " a",
        " word",
        " x1.",
        " be's",
        " if x:\n    ",
        " B  c",
        " it's é",
        "\n",
        "\n\n",
        "\n    x",
        "\n's",
        "\n\n  é",
    ),
)

Found = tuple[bytes, list[int]]  # a document's ids, and where its seams are among them


@lru_cache(maxsize=4)
def cuts_at_words(tokenizer: Any) -> bool:
    """Whether a text may be cut between a letter or digit and a line break or a word's space, its tokens unchanged.

    So it is where no token of a byte-level BPE holds a letter or digit with a space or line break behind it: then no merge
    crosses a cut, and the usual patterns of words match on both sides as they match uncut, which is tried out.
    SentencePiece's kind puts a space before a text, so that it may not be cut.
    """
    raw = backend(tokenizer)
    if raw is None:
        return False
    parts = json.loads(raw.to_str())
    normalizer, model = parts["normalizer"], parts["model"]
    if (
        model["type"] != "BPE"
        or model.get("dropout")
        or '"ByteLevel"' not in json.dumps(parts["pre_tokenizer"])
    ):
        return False
    if normalizer is not None and normalizer["type"] != "NFC":
        return False
    if any(re.search("[A-Za-z0-9][ĠĊ]", token) for token in model["vocab"]):
        return False
    for token in parts["added_tokens"]:
        glued = token["lstrip"] or token["rstrip"] or token["single_word"]
        if glued or re.search(r"[A-Za-z0-9][ \n]|^[ \n]", token["content"]):
            return False
    pairs = [(left, right) for left in PROBES[0] for right in PROBES[1]]
    ids = plain_ids([text for left, right in pairs for text in (left, right, left + right)], tokenizer)
    return all(ids[i] + ids[i + 1] == ids[i + 2] for i in range(0, len(ids), 3))


class Pieces:
    """Ids of texts, as the bytes of int32; each distinct text is tokenized once."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.lead, self.bos = int32(leading_ids(tokenizer)), tokenizer.bos_token
        self.eos = int32([tokenizer.eos_token_id])
        self.of: dict[str, bytes] = {"": b""}
        self.characters = 0

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


def plan(document: Sequence[str], cuts: bool) -> tuple[list[str], list[tuple[int, str]]]:
    """A document's pieces; and for each seam the number of the piece it is in, and that piece's text before it."""
    text, seams = "".join(document), list(accumulate(map(len, document[:-1])))
    starts = [0, *(match.start() for match in CUT.finditer(text))] if cuts else [0]
    tails = []
    for seam in seams:
        number = bisect_right(starts, seam) - 1
        if number and starts[number] == seam - 1 and text[seam - 1] == " ":
            del starts[number]  # in the context alone no word follows
    for seam in seams:
        number = bisect_right(starts, seam) - 1
        tails.append((number, text[starts[number] : seam]))
    return [text[a:b] for a, b in pairwise([*starts, len(text)])], tails


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
