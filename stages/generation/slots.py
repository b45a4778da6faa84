"""Batches whose rows join and leave: a key-value cache with a slot per row, within a budget of tokens.

All rows end at one column, as with left padding, and a mask hides what is before a row's own start; so the
model sees what transformers' own `generate` shows it. A row that is finished gives its slot to the last row,
and new prompts enter at free slots while the others go on. Slots are as wide as the longest row in them: long
rows come first, few at once, and when they are done the same memory is laid out anew as more, narrower slots.
"""

import inspect
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

SLACK_COLUMNS = 64  # steps between two moves of the cache's columns to the front
PLAIN_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)  # subclasses keep more than keys and values
MIN_GROWTH = 1.25  # of the number of slots, for which the cache is laid out anew


class CacheWindow:
    """The cache's size, `slots` and `columns`, and the part in use: `rows` slots, columns `first` to `end`."""

    def __init__(self) -> None:
        self.slots, self.columns = 0, 0
        self.rows, self.first, self.end = 0, 0, 0
        self.reading: torch.Tensor | None = None  # while prompts are read: which of them each new row takes


class SlotLayer(DynamicLayer):
    """One layer's keys and values, [slots, heads, columns, head size]; gives the model views of the window.

    While prompts are read, theirs go to the rows behind those in use, so that they end at the window's last
    column.
    """

    def __init__(self, window: CacheWindow) -> None:
        super().__init__()
        self.window = window
        self.is_initialized: bool = False

    def allocate(self, like: torch.Tensor) -> torch.Tensor:
        # Zeros: a masked cell is multiplied by 0, which leaves a NaN a NaN
        shape = (self.window.slots, like.shape[1], self.window.columns, like.shape[3])
        return torch.zeros(shape, dtype=like.dtype, device=like.device)

    def lay_out(self) -> None:
        """Move what is in use to column 0 of new slots; one tensor at a time, to hold no cache twice."""
        window = self.window
        for name in ("keys", "values") if self.is_initialized else ():
            old = getattr(self, name)
            used = old[: window.rows, :, window.first : window.end]
            same = (old.shape[0], old.shape[2]) == (window.slots, window.columns)
            new = old if same else self.allocate(old)
            new[: window.rows, :, : used.shape[2]] = used.clone() if same else used
            setattr(self, name, new)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.keys, self.values = self.allocate(key_states), self.allocate(value_states)
            self.dtype, self.device = self.keys.dtype, self.keys.device
            self.is_initialized = True
        window, width = self.window, key_states.shape[-2]
        if window.reading is not None:
            rows = slice(window.rows, window.rows + len(window.reading))
            columns = slice(window.end - width, window.end)
            self.keys[rows, :, columns] = key_states[window.reading]
            self.values[rows, :, columns] = value_states[window.reading]
            return key_states, value_states
        end = window.end + width
        self.keys[: window.rows, :, window.end : end] = key_states
        self.values[: window.rows, :, window.end : end] = value_states
        used = slice(window.rows), slice(None), slice(window.first, end)
        return self.keys[used], self.values[used]

    def get_seq_length(self) -> int:
        return 0 if self.window.reading is not None else self.window.end - self.window.first


class Slots:
    """A batch of rows of one model, each known to the caller by its place in 0 ... `rows` - 1.

    Args:
        model: any causal model of transformers whose layers all keep keys and values.
        most: rows at once, at most.
        tokens: what the cache may hold, SLACK_COLUMNS for each row included.
    """

    pads = True  # rows of unequal length share a batch, separated by a mask

    def __init__(self, model: Any, most: int, tokens: float) -> None:
        self.model, self.most, self.tokens = model, most, tokens
        self.window = CacheWindow()
        self.cache = self.empty_cache()
        self.starts = torch.zeros(0, dtype=torch.long, device=model.device)
        accepted = inspect.signature(model.forward).parameters
        self.takes = {name for name in ("position_ids", "logits_to_keep") if name in accepted}
        self.cache_name = "past_key_values" if "past_key_values" in accepted else "cache_params"  # Mamba's

    def make_room(self, longest: int) -> int:
        """Return how many slots there are for rows of up to `longest` tokens, after making as many as fit.

        No row in use may be longer; `longest` falls over the life of a batch.
        """
        window, columns = self.window, longest + SLACK_COLUMNS
        slots = int(min(self.most, self.tokens / columns))
        if columns > window.columns or slots >= MIN_GROWTH * window.slots:
            window.slots, window.columns = slots, columns
            self.move_to_front()
        return window.slots

    @property
    def rows(self) -> int:
        return self.window.rows

    def admit(self, prompts: list[list[int]]) -> torch.Tensor:
        """Read prompts into free slots; logits [prompts, vocabulary] of the token after each.

        Prompts come in order of falling length over the life of a batch: none is longer than a row in it.
        """
        distinct = sorted(set(map(tuple, prompts)), key=len)
        places = torch.tensor([distinct.index(tuple(ids)) for ids in prompts], device=self.model.device)
        width = len(distinct[-1])
        padded = torch.tensor([[*([ids[0]] * (width - len(ids))), *ids] for ids in distinct])
        starts = torch.tensor([width - len(ids) for ids in distinct])
        window = self.window
        if window.rows == 0:
            window.first, window.end = 0, width
        logits = self.read(padded, starts, places)
        window.rows += len(places)
        self.starts = torch.cat([self.starts, starts.to(self.starts.device)[places] + window.end - width])
        self.trim()
        return logits[places]

    def read(self, padded: torch.Tensor, starts: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Logits after each of `padded`, [prompts, columns], whose caches go to new rows, `places` of them."""
        self.window.reading = places
        logits = self.forward(padded, starts, torch.arange(padded.shape[1]))
        self.window.reading = None
        return logits

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append one token, [rows], to each row; logits [rows, vocabulary] of the next."""
        window = self.window
        if window.end == window.columns:
            self.move_to_front()
        columns = torch.arange(window.first, window.end + 1, device=self.starts.device)
        logits = self.forward(tokens[:, None], self.starts, columns)
        window.end += 1
        return logits

    def forward(self, ids: torch.Tensor, starts: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Logits after the last of `ids`, [rows, new columns]; `columns` are those of cache and `ids` together."""
        device = self.model.device
        ids, starts, columns = ids.to(device), starts.to(device), columns.to(device)
        optional: dict[str, Any] = {
            "position_ids": (columns[-ids.shape[1] :] - starts[:, None]).clamp(min=0),
            "logits_to_keep": 1,
        }
        output = self.model(
            input_ids=ids,
            attention_mask=(columns >= starts[:, None]).long() if self.pads else None,
            use_cache=True,
            **{self.cache_name: self.cache},
            **{name: optional[name] for name in self.takes},
        )
        return output.logits[:, -1]

    def empty_cache(self) -> Cache:
        """A cache that holds nothing yet; its layers take their shapes from what comes first."""
        count = len(DynamicCache(config=self.model.config).layers)
        return Cache(layers=[SlotLayer(self.window) for _ in range(count)])

    def drop(self, finished: list[int]) -> list[int]:
        """Give up rows. Returns the former place of each remaining row, in its new order."""
        window = self.window
        left = window.rows - len(finished)
        gone = set(finished)
        holes = [place for place in finished if place < left]
        movers = [place for place in range(left, window.rows) if place not in gone]
        order = list(range(left))
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        if holes:
            for layer in self.cache.layers:
                for state in (layer.keys, layer.values):
                    used = state[:, :, window.first : window.end]
                    used[holes] = used[movers]
        self.starts = self.starts[order]
        window.rows = left
        self.trim()
        return order

    def trim(self) -> None:
        """Leave out the columns before the first row's start."""
        self.window.first = int(self.starts.min()) if self.window.rows else self.window.end

    def move_to_front(self) -> None:
        """Move the window to column 0, of slots and columns that may be others than before."""
        window = self.window
        for layer in self.cache.layers:
            layer.lay_out()
        self.starts = self.starts - window.first
        window.first, window.end = 0, window.end - window.first


class OneRow(Slots):
    """One row at a time, for models whose cache is not only keys and values (Mamba, hybrids)."""

    pads = False  # those models take a mask for the new tokens only

    def empty_cache(self) -> Cache:
        return DynamicCache(config=self.model.config)

    def read(self, padded: torch.Tensor, starts: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        self.cache = self.empty_cache()
        return self.forward(padded, starts, torch.arange(padded.shape[1]))

    def make_room(self, longest: int) -> int:
        return 1

    def move_to_front(self) -> None:
        """Nothing to move: the cache grows by itself."""


def make_slots(model: Any, most: int, tokens: float) -> Slots:
    """Slots for the model: many where its cache is plain, one where it is not."""
    layers = DynamicCache(config=model.config).layers
    plain = all(type(layer) in PLAIN_LAYERS for layer in layers)
    return (Slots if plain else OneRow)(model, most, tokens)
