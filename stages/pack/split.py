"""The validation split: whole components of near duplicates, chosen by hash."""

import hashlib
from collections import Counter
from collections.abc import Sequence


def validation_components(components: Sequence[str], share: float, seed: int) -> set[str]:
    """Components held out, of the component of each row.

    A component is held out when its hash with the seed says so, whatever other rows there are; so a row that
    comes or goes moves no other. One that alone is more than `share` of the rows stays in training. With
    `share` > 0 and two components or more, each side gets at least one.

    Args:
        components: component id of each row.
        share: share of rows to hold out, 0 to below 1; met on average.
        seed: another seed, another split.
    """
    sizes = Counter(components)
    if share == 0 or len(sizes) < 2:
        return set()
    by_hash = sorted(sizes, key=lambda component: (fraction(component, seed), component))
    small = [c for c in by_hash if sizes[c] <= max(1.0, share * len(components))] or by_hash
    held_out = [c for c in small if fraction(c, seed) < share] or small[:1]
    return set(held_out if len(held_out) < len(sizes) else held_out[:-1])


def fraction(component: str, seed: int) -> float:
    """A number in [0, 1), a pure function of its arguments, uniform over components."""
    digest = hashlib.sha256(f"{seed}:{component}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
