"""Whether two mathematical expressions have the same value.

Rational constants are compared as fractions. Other constants are enclosed in balls of growing precision until
a difference is proven; they are the same if they agree to more digits than their text and the magnitudes in
it could fake, and ``Undecided`` is raised where that would need too many. Expressions with variables are
compared over the real numbers, at points on each of their pieces (``breaks``): they are the same if they
agree wherever both are real, and there is such a point with positive variables (or none at all)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import chain

from r1kit.tasks.mathematics.breaks import GENERIC, Point, breaking_points, generic_points, whole_names
from r1kit.tasks.mathematics.products import same_product
from r1kit.tasks.mathematics.syntax import Node, NotUnderstood, TooLarge, names_in, read_tree, subtrees
from r1kit.tasks.mathematics.values import Ball, Evaluation, Imprecise, NotReal, Singular, Value

__all__ = [
    "Expression",
    "NotUnderstood",
    "TooLarge",
    "Undecided",
    "difference",
    "digits",
    "proportional",
    "read_expression",
    "same",
]

FIRST_BITS = 192
MOST_BITS = 1 << 15
FEWEST_BITS = 2048  # at the highest precision, however long the expressions are
MOST_WORK = 4_000_000  # the highest precision times the size of the expressions
_PIECES = ("abs", "root", "\\lfloor", "\\lceil", "call", "^")


class Undecided(NotUnderstood):
    """Neither equality nor difference can be proven with bounded work."""


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression: its tree, its variables, its exact value if it has one, and its length in bits."""

    tree: Node
    names: frozenset[str]
    exact: Fraction | None
    size: int
    known: dict[tuple[int, bool], tuple[Value, int]] = field(
        default_factory=dict, compare=False, repr=False
    )  # values of a constant that were computed before, by precision and mode, with their scale

    @property
    def has_i(self) -> bool:
        return any(node == ("i",) for node in subtrees(self.tree))


@lru_cache(maxsize=50_000)
def read_expression(text: str) -> Expression:
    """Read an expression. Raises NotUnderstood, also for a constant without a value, or TooLarge."""
    return expression_of(read_tree(text))


def expression_of(tree: Node) -> Expression:
    """The expression of a tree. Raises NotUnderstood, or TooLarge."""
    names, size = names_in(tree), _size(tree)
    if names:
        return Expression(tree, names, None, size)
    value, scale, bits, real = _first_value(tree, size)
    exact = value if isinstance(value, Fraction) else None
    return Expression(tree, names, exact, size, {(bits, real): (value, scale)})


def _first_value(tree: Node, size: int) -> tuple[Value, int, int, bool]:
    """The value of a constant, real if it can be; its scale, precision and mode."""
    precisions = _Precisions(size)
    for bits in precisions:
        for real in (True, False):
            evaluation = Evaluation({}, bits, real, settled=precisions.is_enough)
            try:
                return evaluation.value(tree), evaluation.scale, bits, real
            except NotReal:
                if not real:
                    raise
            except Imprecise:
                precisions.saw(evaluation.scale)
                break
            except RecursionError:
                raise NotUnderstood("nested too deep") from None
    raise TooLarge("a number of too many digits")


def _size(tree: Node) -> int:
    """How many bits of information a tree holds, about."""
    if tree[0] == "number":
        return int(tree[1].numerator.bit_length() + tree[1].denominator.bit_length() + 3)
    return 5 + sum(_size(part) for part in tree[1:] if isinstance(part, tuple))


class _Precisions:
    """Growing precisions for trees of ``size`` bits, up to what is needed or, for the work is bounded, to a
    limit. Two values that agree to ``needed`` bits count as equal: more than trees of this size with numbers
    of this ``scale`` could agree to and still differ."""

    def __init__(self, size: int) -> None:
        self.size, self.scale, self.bits = size, 0, 0

    @property
    def needed(self) -> int:
        return 96 + 2 * self.size + 4 * self.scale

    @property
    def is_enough(self) -> bool:
        return self.bits >= self.needed

    def saw(self, scale: int) -> None:
        """Note the scale of a value."""
        self.scale = max(self.scale, scale)

    def __iter__(self) -> Iterator[int]:
        most = max(FEWEST_BITS, min(MOST_BITS, MOST_WORK // self.size))
        self.bits = FIRST_BITS
        yield self.bits
        while not self.is_enough and self.bits < most:
            self.bits = min(most, max(4 * self.bits, min(self.needed, 16 * self.bits)))
            yield self.bits


def same(one: Expression, other: Expression) -> bool:
    """Whether two expressions have the same value. Raises Undecided."""
    if one.exact is not None and other.exact is not None:
        return one.exact == other.exact
    if one.tree == other.tree:
        return True
    if not one.names and not other.names:
        return _same_constants(one, other)
    return _same_functions(one, other)


def _same_constants(one: Expression, other: Expression) -> bool:
    for whole, part in ((one.tree, other.tree), (other.tree, one.tree)):
        if whole[0] in ("+", "-") and whole[1] == part:
            return same(expression_of(whole[2]), read_expression("0"))
    precisions = _Precisions(one.size + other.size)
    for bits in precisions:
        settled = precisions.is_enough
        try:
            left, left_scale = _constant(one, bits, settled)
            right, right_scale = _constant(other, bits, settled)
        except Imprecise:
            continue
        evaluation = Evaluation({}, bits, real=False)
        if evaluation.differ(left, right):
            return False
        precisions.saw(max(left_scale, right_scale))
        if precisions.is_enough:
            return True
    return _same_beyond(one, other)


def difference(one: Expression, other: Expression) -> int:
    """The sign of the first real constant minus the second. Raises NotUnderstood for others, Undecided."""
    if one.names or other.names:
        raise NotUnderstood("a constant was expected")
    if same(one, other):
        return 0
    precisions = _Precisions(one.size + other.size)
    precisions.saw(MOST_BITS)
    for bits in precisions:
        evaluation = Evaluation({}, bits, real=True, settled=True)
        gap = evaluation.subtract(evaluation.value(one.tree), evaluation.value(other.tree))
        if isinstance(gap, Fraction):
            return 1 if gap > 0 else -1
        if not gap.may_be_zero:
            return 1 if gap.middle > 0 else -1
    raise Undecided("the values agree to more digits than are computed here")


def digits(expression: Expression) -> list[str]:
    """The first 25 digits of an expression's values at the generic points: equal for equal expressions."""
    real = not expression.has_i
    found = []
    for point in generic_points(expression.names, whole_names(expression.tree)) if expression.names else [{}]:
        for mode in (real, False):
            try:
                value = Evaluation(point, FIRST_BITS, mode, settled=True).value(expression.tree)
            except NotUnderstood:
                continue
            if isinstance(value, Fraction):
                found.append(str(value))
            else:
                found.append(value.middle.context.nstr(value.middle, 25))
            break
        else:
            found.append("none")
    return found


def _same_beyond(one: Expression, other: Expression) -> bool:
    """Constants that agree to ``MOST_BITS`` bits: products are compared by their prime factors; parts that
    both have in common are taken off."""
    verdict = same_product(one.tree, other.tree)
    if verdict is not None:
        return verdict
    left, right = one.tree, other.tree
    if left[0] == right[0] and left[0] in ("+", "-") and left[1] == right[1]:
        return same(expression_of(left[2]), expression_of(right[2]))
    if left[0] == right[0] and left[0] in ("+", "-") and left[2] == right[2]:
        return same(expression_of(left[1]), expression_of(right[1]))
    raise Undecided("the values agree to more digits than are computed here")


def _constant(expression: Expression, bits: int, settled: bool) -> tuple[Value, int]:
    """The value of a constant with ``bits`` bits, and its scale."""
    if expression.exact is not None:
        return next(iter(expression.known.values()))
    real = next(iter(expression.known))[1]
    if (bits, real) not in expression.known:
        evaluation = Evaluation({}, bits, real, settled)
        value = evaluation.value(expression.tree)
        expression.known[bits, real] = (value, evaluation.scale)
    return expression.known[bits, real]


def _same_functions(one: Expression, other: Expression) -> bool:
    agreed, positive = 0, False
    real = not (one.has_i or other.has_i)
    for place, point in enumerate(comparing_points((one.tree, other.tree), real)):
        try:
            outcome = _same_at(one, other, point, real)
        except Undecided:
            if place < GENERIC:
                raise
            continue  # far out, where exponentials leave no digits
        if outcome is False:
            return False
        if outcome:
            agreed += 1
            positive = positive or all(value > 0 for value in point.values())
    if agreed and (positive or not _real_at_positive(one, other)):
        return True
    if agreed or not real:
        return False
    points = generic_points(one.names | other.names, frozenset())
    outcomes = [_same_at(one, other, point, real=False) for point in points]
    if None in outcomes:
        raise NotUnderstood("no value at the points of comparison")
    return all(outcomes)


def _real_at_positive(one: Expression, other: Expression) -> bool:
    """Whether one of them is real at a generic point with positive variables."""
    for point in generic_points(one.names | other.names, frozenset()):
        if all(value > 0 for value in point.values()):
            for expression in (one, other):
                try:
                    Evaluation(point, FIRST_BITS, real=True, settled=True).value(expression.tree)
                except NotUnderstood:
                    continue
                return True
    return False


def comparing_points(trees: tuple[Node, ...], real: bool) -> Iterator[Point]:
    """The points at which trees with variables are compared."""
    names = frozenset[str]().union(*map(names_in, trees))
    whole = frozenset[str]().union(*map(whole_names, trees)) if real else frozenset[str]()
    points = generic_points(names, whole)
    yield from points
    if real and not whole and any(node[0] in _PIECES for tree in trees for node in subtrees(tree)):
        yield from chain.from_iterable(
            breaking_points(trees, base) for base in points[: 2 if len(names) > 1 else 1]
        )


def _same_at(one: Expression, other: Expression, point: Point, real: bool) -> bool | None:
    """Whether two expressions agree at a point; None if one has no value there. Raises Undecided."""
    size = one.size + other.size + 48 * len(point)
    precisions = _Precisions(size)
    for bits in precisions:
        evaluation = Evaluation(point, bits, real, settled=precisions.is_enough)
        try:
            left, right = evaluation.value(one.tree), evaluation.value(other.tree)
        except Imprecise:
            precisions.saw(evaluation.scale)
            continue
        except (NotReal, Singular, TooLarge):
            return None
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return left == right
        precisions.saw(evaluation.scale)
        if evaluation.differ(left, right):
            return False
        if precisions.is_enough:
            return True
    raise Undecided("the values agree to more digits than are computed here")


def proportional(one: tuple[Expression, Expression], other: tuple[Expression, Expression]) -> float | None:
    """The constant c with (a - b) = c (a' - b') for two equations or inequalities; None if there is none.
    Raises Undecided."""
    trees = (("-", one[0].tree, one[1].tree), ("-", other[0].tree, other[1].tree))
    size = 48 + sum(_size(tree) for tree in trees)
    real = not any(side.has_i for side in (*one, *other))
    first: tuple[Value, Value] | None = None
    for point in comparing_points(trees, real):
        pair = _differences(trees, point, real, size)
        if pair is None:
            continue
        evaluation = Evaluation({}, MOST_BITS, real=False, settled=True)
        if any(evaluation.nonzero(value) == 0 for value in pair):
            if not all(evaluation.nonzero(value) == 0 for value in pair):
                return None
            continue
        first = first or pair
        if evaluation.differ(evaluation.multiply(pair[0], first[1]), evaluation.multiply(pair[1], first[0])):
            return None
    return None if first is None else _sign_of_ratio(*first)


def _differences(
    trees: tuple[Node, Node], point: Mapping[str, Fraction], real: bool, size: int
) -> tuple[Value, Value] | None:
    """The values of both trees at a point, precise enough to distinguish them; None if one has none."""
    precisions = _Precisions(size)
    for bits in precisions:
        evaluation = Evaluation(point, bits, real, settled=precisions.is_enough)
        try:
            pair = evaluation.value(trees[0]), evaluation.value(trees[1])
        except Imprecise:
            precisions.saw(evaluation.scale)
            continue
        except (NotReal, Singular, TooLarge):
            return None
        precisions.saw(evaluation.scale)
        if precisions.is_enough:
            return pair
    raise Undecided("the values agree to more digits than are computed here")


def _sign_of_ratio(above: Value, below: Value) -> float | None:
    """The ratio as a float of the right sign; None if it is not real."""
    ratio = Evaluation({}, FIRST_BITS, real=False, settled=True).divide(above, below)
    if isinstance(ratio, Ball):
        if not ratio.is_real and ratio.middle.imag:
            return None
        return 1.0 if ratio.middle.real > 0 else -1.0
    return 1.0 if ratio > 0 else -1.0
