"""Which rows of an update each of several processes computes.

By length, longest first and back and forth, all processes have about the same work. But then the rows of one
prompt are spread over the processes, and each computes that prompt. Where prompts are long, whole groups are
dealt instead, so that a prompt is computed by one process (packing.py)."""

from collections.abc import Sequence

from r1kit.train.packing import positions, prompt_groups
from r1kit.types import Row

LESS = 0.9  # whole groups are dealt if the longest share then has at most this part of the positions


def deal(lengths: Sequence[int], shares: int) -> list[list[int]]:
    """Indices of work of these lengths in as many shares, longest first and back and forth."""
    dealt: list[list[int]] = [[] for _ in range(shares)]
    for place, index in enumerate(sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))):
        lap, turn = divmod(place, shares)
        dealt[turn if lap % 2 == 0 else shares - 1 - turn].append(index)
    return dealt


def deal_rows(rows: Sequence[Row], shares: int, share: bool) -> list[list[int]]:
    """Indices of rows in as many shares; ``share``: rows of one prompt share it where one process has
    them."""
    by_length = deal([len(row.token_ids) for row in rows], shares)
    if not share or shares == 1:
        return by_length
    groups = prompt_groups(rows)
    if len(groups) == len(rows):
        return by_length
    dealt = deal([positions([rows[i] for i in group]) for group in groups], shares)
    whole = [sorted(i for place in own for i in groups[place]) for own in dealt]

    def longest(found: Sequence[Sequence[int]]) -> int:
        return max(positions([rows[i] for i in own]) for own in found)

    return whole if longest(whole) <= LESS * longest(by_length) else by_length
