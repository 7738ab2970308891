"""Points at which expressions with variables are compared.

Smooth expressions need a few generic points. An expression in pieces (absolute values, even roots, floors,
ceilings, logarithms) may agree with another on one piece only, so that points are needed on every piece:
between and beyond the places where the argument of such a part changes its sign, or for a floor becomes
whole, and far out."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import numpy as np

from r1kit.tasks.mathematics.syntax import Node, NotUnderstood, names_in, subtrees
from r1kit.tasks.mathematics.values import Evaluation, Value

Point = Mapping[str, Fraction]

GENERIC = 3
WHOLE = 10  # points where a variable must be a whole number
MOST_BREAKS = 24  # of one variable
MOST_ARGUMENTS = 12
HIGHEST_DEGREE = 6
STEPS = (-1, 0, 1, 2)  # the whole numbers at which a floor's argument is examined
_GRID = tuple(sign * Fraction(2) ** n * Fraction(5, 7) for n in range(-5, 21) for sign in (-1, 1))


def generic_points(names: Iterable[str], whole: frozenset[str]) -> list[Point]:
    """Points that depend on the names alone: between 1/2 and 3, negative at the second one. Names in
    ``whole`` stand for whole numbers."""
    names = sorted(names)
    return [
        {name: _whole(name, place) if name in whole else _generic(name, place) for name in names}
        for place in range(WHOLE if whole else GENERIC)
    ]


def whole_names(tree: Node) -> frozenset[str]:
    """The variables that only whole numbers can stand for: in factorials, binomial coefficients, and
    exponents of negative numbers."""
    found: frozenset[str] = frozenset()
    for node in subtrees(tree):
        if node[0] in ("!", "binom"):
            found |= names_in(node)
        elif node[0] == "^" and node[1][0] == "negative" and not names_in(node[1]):
            found |= names_in(node[2])
    return found


def breaking_points(trees: Sequence[Node], base: Point) -> Iterator[Point]:
    """Points on every piece of the trees, along each variable; the others keep their values of ``base``."""
    arguments = list(dict.fromkeys(argument for tree in trees for argument in _arguments(tree)))
    for name in sorted(base):
        breaks: set[Fraction] = set()
        for argument, steps in arguments[:MOST_ARGUMENTS]:
            if name in names_in(argument) and len(breaks) < MOST_BREAKS:
                for step in steps:
                    breaks.update(_roots(argument, Fraction(step), name, base, breaks))
        if breaks:
            for place in _between(sorted(breaks)[:MOST_BREAKS]):
                yield {**base, name: place}


def _arguments(tree: Node) -> Iterator[tuple[Node, tuple[int, ...]]]:
    """The parts of a tree at whose zeros, or whole values, it may change its form."""
    for node in subtrees(tree):
        if not names_in(node):
            continue
        if node[0] in ("abs", "root") or (node[0] == "call" and node[1] in ("\\ln", "\\arcsin", "\\arccos")):
            argument = node[2] if node[0] == "call" else node[1]
            yield argument, (0,)
            yield from ((inner[2], (0,)) for inner in subtrees(argument) if inner[0] == "/")
        elif node[0] in ("\\lfloor", "\\lceil"):
            yield node[1], STEPS
        elif node[0] == "^" and not (node[2][0] == "number" and node[2][1].denominator == 1):
            yield node[1], (0,)


def _roots(argument: Node, step: Fraction, name: str, base: Point, known: set[Fraction]) -> list[Fraction]:
    """Where the argument is ``step``, as a function of one variable: the real roots of a polynomial, else
    changes of sign on a grid."""
    values = [_at(argument, name, Fraction(place), base) for place in range(HIGHEST_DEGREE + 3)]
    if all(isinstance(value, Fraction) for value in values):
        found = _polynomial_roots([value - step for value in values])  # type: ignore[operator]
        if found is not None:
            return found
    grid = sorted({*_GRID, *known, *_between(sorted(known))})
    signs = [(place, _sign(argument, name, place, base, step)) for place in grid]
    return [
        _bisect(argument, name, base, step, low, high)
        for (low, one), (high, other) in pairwise(signs)
        if one != other
    ]


def _polynomial_roots(values: Sequence[Fraction]) -> list[Fraction] | None:
    """The real roots of the polynomial with these values at 0, 1, 2 ...; None if its degree is too high."""
    newton, row = [], list(values)  # divided differences
    for order in range(len(values)):
        newton.append(row[0])
        row = [(right - left) / (order + 1) for left, right in pairwise(row)]
    if any(newton[HIGHEST_DEGREE + 1 :]):
        return None
    coefficients = [Fraction(0)]  # lowest power first
    for order in reversed(range(HIGHEST_DEGREE + 1)):
        shifted = [Fraction(0), *coefficients]
        for place, coefficient in enumerate(coefficients):
            shifted[place] -= order * coefficient
        shifted[0] += newton[order]
        coefficients = shifted
    while coefficients and not coefficients[-1]:
        coefficients.pop()
    if len(coefficients) == 2:
        return [-coefficients[0] / coefficients[1]]
    try:
        roots = np.roots([float(coefficient) for coefficient in reversed(coefficients)])
    except (OverflowError, np.linalg.LinAlgError):
        return None
    return [Fraction(float(root.real)) for root in roots if abs(root.imag) <= 1e-6 * (1 + abs(root))]


def _at(argument: Node, name: str, place: Fraction, base: Point) -> Value | None:
    try:
        return Evaluation({**base, name: place}, 64, real=True, settled=True).value(argument)
    except NotUnderstood:
        return None


def _sign(argument: Node, name: str, place: Fraction, base: Point, step: Fraction) -> int | None:
    value = _at(argument, name, place, base)
    if value is None:
        return None
    above = value if isinstance(value, Fraction) else value.middle
    if isinstance(value, Fraction):
        return (value > step) - (value < step)
    return int(bool(above.real * step.denominator > step.numerator)) * 2 - 1


def _bisect(
    argument: Node, name: str, base: Point, step: Fraction, low: Fraction, high: Fraction
) -> Fraction:
    first = _sign(argument, name, low, base, step)
    for _ in range(16):
        middle = (low + high) / 2
        if _sign(argument, name, middle, base, step) == first:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _between(breaks: Sequence[Fraction]) -> Iterator[Fraction]:
    """A place in each gap, next to either end, and far out on both sides."""
    if not breaks:
        return
    size = max(abs(breaks[0]), abs(breaks[-1])) + 1
    for distance in (Fraction(2, 7), Fraction(9, 7), 31 * size, 9001 * size):
        yield breaks[0] - distance
        yield breaks[-1] + distance
    for low, high in pairwise(breaks):
        if high > low:
            yield low + (high - low) * Fraction(389, 911)


@lru_cache(maxsize=1000)
def _generic(name: str, place: int) -> Fraction:
    digest = hashlib.sha256(f"{name}|{place}".encode()).digest()
    size = Fraction(1, 2) + Fraction(int.from_bytes(digest[:3], "big"), 2**24) * Fraction(5, 2)
    return -size if place == 1 else size  # |x| is not x


@lru_cache(maxsize=1000)
def _whole(name: str, place: int) -> Fraction:
    """A whole number from 1 to 13. Names later in the alphabet tend to get smaller ones, as in n over r."""
    digest = hashlib.sha256(f"{name}|{place}|whole".encode()).digest()
    return Fraction(1 + digest[0] % (5 + 3 * (place % 4)))
