"""Quantities in several units, such as 5 hours 30 minutes, as one amount of the smallest unit."""

import re
from fractions import Fraction

from r1kit.tasks.mathematics.units import normal_unit

# dimension: how many of the smallest unit each unit is
_DIMENSIONS: dict[str, dict[str, int]] = {
    "time": {"s": 1, "min": 60, "h": 3600, "day": 86400, "week": 604800},
    "metric length": {"mm": 1, "cm": 10, "dm": 100, "m": 1000, "km": 1000000},
    "length": {"in": 1, "ft": 12, "yd": 36, "mi": 63360},
    "metric mass": {"mg": 1, "g": 1000, "kg": 1000000, "t": 1000000000},
    "mass": {"oz": 1, "lb": 16},
    "calendar": {"month": 1, "year": 12},
    "volume": {"ml": 1, "l": 1000},
    "dollars": {"cent": 1, "dollar": 100},
    "yuan": {"cent": 1, "jiao": 10, "yuan": 100},
}
_NUMBER = r"\d+(?:\.\d+)?(?:/\d+)?"
_PART = re.compile(
    rf"\s*(?:,|and\b|\\text\s*\{{\s*and\s*\}})?\s*({_NUMBER}|\\frac\s*\{{\d+\}}\s*\{{\d+\}})\s*"
    r"(?:\\(?:text|mathrm|mbox|textit|rm)\s*\{\s*([A-Za-z.]+|[一-鿿]{1,2})\s*(?:,|and)?\s*\}|([A-Za-z]+)\.?"
    r"|([一-鿿]{1,2}?(?=\d|$)))"
)


def read_quantity(text: str) -> tuple[str, Fraction] | None:
    """The dimension and the amount, in its smallest unit, of a number of at least two parts in falling units
    of one dimension; None for anything else."""
    parts: list[tuple[Fraction, str]] = []
    place, text = 0, text.strip()
    while place < len(text):
        match = _PART.match(text, place)
        if match is None or len(parts) > 4:
            return None
        fraction = re.fullmatch(r"\\frac\s*\{(\d+)\}\s*\{(\d+)\}", match[1])
        value = f"{fraction[1]}/{fraction[2]}" if fraction else match[1]
        if re.search(r"/0+$", value) or ("." in value and "/" in value):
            return None
        parts.append((Fraction(value), normal_unit(match[2] or match[3] or match[4])))
        place = match.end()
    if len(parts) < 2:
        return None
    if any(unit == "h" for _, unit in parts):  # 2时30分: 分 is a cent elsewhere
        parts = [(value, "min" if unit == "cent" else unit) for value, unit in parts]
    for dimension, sizes in _DIMENSIONS.items():
        if all(unit in sizes for _, unit in parts):
            scales = [sizes[unit] for _, unit in parts]
            if scales != sorted(set(scales), reverse=True):
                return None
            return dimension, sum((value * sizes[unit] for value, unit in parts), Fraction(0))
    return None


def smallest_units(dimension: str, unit: str) -> Fraction | None:
    """How many of a dimension's smallest unit a unit is; None for a unit of another dimension."""
    size = _DIMENSIONS[dimension].get(unit)
    return None if size is None else Fraction(size)
