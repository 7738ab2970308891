"""The composition of a mixture of fine-tuning data: how many rows of each domain, at any size."""

from collections.abc import Mapping
from fractions import Fraction

# DeepSeek-R1, Nature version, supplement B.3.3, table 5.
PAPER = {"math": 395_285, "code": 211_129, "stem": 10_124, "logic": 10_395, "general": 177_812}
PAPER_ROWS = sum(PAPER.values())


def apportion(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """``total`` split by weights into whole numbers, by largest remainders; equal remainders in the order of
    the weights. Raises ValueError where no weight is above 0."""
    exact = {name: Fraction(weight) for name, weight in weights.items()}
    whole = sum(exact.values())
    if whole <= 0 or min(exact.values()) < 0:
        raise ValueError("weights are numbers from 0 on, and one is above 0")
    quotas = {name: weight * total / whole for name, weight in exact.items()}
    counts = {name: int(quota) for name, quota in quotas.items()}
    left = total - sum(counts.values())
    by_remainder = sorted(
        quotas, key=lambda name: counts[name] - quotas[name]
    )  # stable: ties keep their order
    for name in by_remainder[:left]:
        counts[name] += 1
    return counts


def largest_total(total: int, weights: Mapping[str, float], there: Mapping[str, int]) -> int:
    """The largest total, up to ``total``, of which every domain has its rows. A domain gets its quota rounded
    down at least, so no total can have a quota of one row more than there are; from there downwards the first
    that fits is taken, since by largest remainders a domain may get fewer rows of a larger total."""
    exact = {name: Fraction(weight) for name, weight in weights.items() if weight > 0}
    whole = sum(exact.values())
    most = min(int((there.get(name, 0) + 1) * whole / weight) for name, weight in exact.items())
    for size in range(min(total, most), 0, -1):
        if not missing(apportion(size, weights), there):
            return size
    return 0


def shared_evenly(total: int, there: Mapping[str, int]) -> dict[str, int]:
    """``total`` split evenly, where no part has more than is there; what one lacks the others give. The sum
    is smaller where all together have less."""
    counts = dict.fromkeys(there, 0)
    left = min(total, sum(there.values()))
    while left:
        open_parts = [name for name in there if counts[name] < there[name]]
        for name, more in apportion(min(left, sum(there.values())), dict.fromkeys(open_parts, 1)).items():
            taken = min(more, there[name] - counts[name], left)
            counts[name] += taken
            left -= taken
    return counts


def in_words(needed: Mapping[str, int], there: Mapping[str, int]) -> str:
    """How many rows each domain needs and has."""
    return ", ".join(f"{name} {there.get(name, 0):,} of {count:,}" for name, count in needed.items())


def missing(needed: Mapping[str, int], there: Mapping[str, int]) -> dict[str, int]:
    """How many rows each domain lacks; nothing for one that has enough."""
    return {name: count - there.get(name, 0) for name, count in needed.items() if there.get(name, 0) < count}
