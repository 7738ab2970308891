"""Best-fit-decreasing placement of sequences into lines of a fixed length (DeepSeek-R1, supplement B.1; Ding
et al. 2024)."""

import heapq
from collections.abc import Sequence


def place(lengths: Sequence[int], context: int) -> list[list[int]]:
    """Bins of indices whose lengths sum to at most ``context``: the longest first, each into the bin with the
    least free space that is enough, the first of equals. Deterministic; in time n log n."""
    bins: list[list[int]] = []
    by_free: dict[int, list[int]] = {}  # free positions -> bins, as a heap
    known = 0  # bit f: some bin has f positions free

    def note(index: int, free: int) -> None:
        nonlocal known
        heapq.heappush(by_free.setdefault(free, []), index)
        known |= 1 << free

    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        fitting = known >> length
        if not fitting:
            bins.append([index])
            note(len(bins) - 1, context - length)
            continue
        free = length + (fitting & -fitting).bit_length() - 1
        chosen = heapq.heappop(by_free[free])
        if not by_free[free]:
            known &= ~(1 << free)
        bins[chosen].append(index)
        note(chosen, free - length)
    return bins
