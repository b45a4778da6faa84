"""Rows whose middle is filled in, where they are longer than a pack."""

from typing import Any

import numpy as np
import pytest

from stages.common.text.fill_tokens import FILL_TOKENS
from stages.common.text.infill import cut_row
from stages.common.text.settings import PromptSettings
from stages.pack.documents import RowGroupTask, tokenize_rows
from stages.pack.overlong import Document, OverlongCost, shorten_fill
from stages.pack.settings import PackSettings
from stages.pack.text_pieces import split_at_lines
from tests.common.text.test_infill import with_fill_tokens
from tests.common.text.test_prompt import GPT2, bpe, row

FILL = PromptSettings(style="fim", fim_share=1.0)
TEXT = "".join(f"def f{n}(x):\n    y = x + {n}\n    return y\n\n\n" for n in range(40))
PRE, SUF, MID, END = 90, 91, 92, 99


@pytest.mark.parametrize(
    ("ids", "limit", "expected"),
    [
        # the room for context is shared; what one part does not need goes to the other
        ([PRE, 1, 2, 3, SUF, 4, 5, 6, MID, 7, END], 7, [PRE, 3, SUF, 4, MID, 7, END]),
        ([PRE, 1, SUF, 4, 5, 6, MID, 7, END], 8, [PRE, 1, SUF, 4, 5, MID, 7, END]),
        ([PRE, 1, 2, 3, SUF, MID, 7, END], 7, [PRE, 2, 3, SUF, MID, 7, END]),
        ([PRE, SUF, 4, 5, MID, 1, 2, 7, END], 7, [PRE, SUF, 4, MID, 2, 7, END]),
        ([PRE, 1, SUF, 4, MID, 7, END], 5, [PRE, SUF, MID, 7, END]),
        ([PRE, 1, SUF, 4, MID, 7, END], 4, None),
    ],
)
def test_context_is_cut_where_it_is_farthest_from_the_middle(ids, limit, expected) -> None:
    loss = np.isin(ids, [7, END])
    found = shorten_fill(Document(np.array(ids, np.int32), loss), limit, (PRE, SUF, MID))
    assert [one.ids.tolist() for one in found] == ([] if expected is None else [expected])
    assert all((one.loss == np.isin(one.ids, [7, END])).all() for one in found)


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = with_fill_tokens(bpe(GPT2))
    monkeypatch.setattr("stages.pack.documents.cached_tokenizer", lambda model: made)
    return made


@pytest.mark.parametrize("overlong", ["drop", "truncate", "split"])
def test_a_long_file_is_dropped_or_keeps_the_context_of_its_middle_or_is_filled_in_piece_by_piece(
    tokenizer: Any, overlong: str
) -> None:
    pack = PackSettings(max_length=200, overlong=overlong)
    task, cost = RowGroupTask(0, "", 0, pack, FILL, alone=True), OverlongCost()
    rows = [{**row("", TEXT), "id": str(n)} for n in range(12)]
    middle = tokenizer.convert_tokens_to_ids(FILL_TOKENS[1].middle)
    outcomes = tokenize_rows(rows, task, cost)
    documents = [document for one in outcomes for document in one.documents]
    assert cost.rows == len(rows)
    assert cost.labelled_tokens_lost >= 0
    assert all(len(one.ids) <= 200 and (one.ids == middle).sum() == 1 for one in documents)
    if overlong == "drop":
        assert {one.reason for one in outcomes} == {"overlong"}
    elif overlong == "truncate":
        short = [one for one in rows if len(cut_row(one, FILL).middle) < 100]
        assert short
        assert [bool(one.documents) for one in outcomes if one.reason == ""].count(True) >= len(short)
    else:
        assert all(len(one.documents) > 5 for one in outcomes)


def test_pieces_of_a_text_are_about_equal_and_join_again() -> None:
    pieces = split_at_lines(TEXT, 7)
    assert "".join(pieces) == TEXT
    assert len(pieces) == 7
    assert max(map(len, pieces)) < 1.2 * min(map(len, pieces))
    assert split_at_lines("one line", 3) == ["one line"]
