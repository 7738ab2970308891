"""Sets of real numbers as unions of intervals: from intervals, unions, differences, finite sets and
inequalities in one variable, however they are written."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cmp_to_key

from r1kit.tasks.mathematics.answers import Answer
from r1kit.tasks.mathematics.expressions import Expression, difference, expression_of
from r1kit.tasks.mathematics.syntax import Node, NotUnderstood

_FALLING = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\neq": "\\neq"}


@dataclass(frozen=True, slots=True)
class End:
    """One end of an interval. ``side``: -1 and 1 are the infinite ends; 0 is ``value``."""

    side: int
    value: Expression | None = None

    def order(self, other: "End") -> int:
        """-1, 0 or 1, as the first is less, equal or greater."""
        if self.side or other.side or self.value is None or other.value is None:
            return (self.side > other.side) - (self.side < other.side)
        return difference(self.value, other.value)


@dataclass(frozen=True, slots=True)
class Piece:
    """An interval, not empty. A closed one contains its ends."""

    low: End
    low_closed: bool
    high: End
    high_closed: bool


Reals = tuple[Piece, ...]  # in order, with a gap between neighbours
_LEAST, _GREATEST = End(-1), End(1)
ALL: Reals = (Piece(_LEAST, False, _GREATEST, False),)


def same_reals(one: Answer, other: Answer) -> bool:
    """Whether two answers are the same set of real numbers; False if one is no such set."""
    names = {name for answer in (one, other) for name in _variables(answer)}
    if len(names) > 1:
        return False
    try:
        left, right = reals_of(one), reals_of(other)
    except NotUnderstood:
        return False
    if left is None or right is None or len(left) != len(right):
        return False
    return all(
        a.low_closed == b.low_closed
        and a.high_closed == b.high_closed
        and a.low.order(b.low) == 0
        and a.high.order(b.high) == 0
        for a, b in zip(left, right, strict=True)
    )


def reals_of(answer: Answer) -> Reals | None:
    """The set that an answer describes; None if it describes none. Raises NotUnderstood where ends cannot
    be put in order."""
    if answer.kind == "reals":
        return ALL
    if answer.kind == "relation":
        return _of_relation(answer)
    if answer.kind == "sequence" and answer.text in ("()", "[]", "(]", "[)"):
        return _interval(answer)
    if answer.kind == "sequence" and answer.text == "{}":
        ends = [_end(part) for part in answer.parts]
        return _united([Piece(end, True, end, True) for end in ends if end]) if all(ends) else None
    if answer.kind not in ("union", "difference", "intersection") and not _is_list_of_conditions(answer):
        return None
    sets = [reals_of(part) for part in answer.parts]
    if any(found is None for found in sets):
        return None
    known = [found for found in sets if found is not None]
    if answer.kind == "union":
        return _united([piece for found in known for piece in found])
    if answer.kind == "difference":
        return _both(known[0], _complement(known[1]))
    if answer.kind == "intersection":
        return _intersected(known)
    return _of_conditions(answer, known)


def _is_list_of_conditions(answer: Answer) -> bool:
    return (
        answer.kind == "sequence"
        and answer.text == ""
        and any(part.kind in ("relation", "reals") for part in answer.parts)
        and not any(part.kind == "relation" and part.text == "=" for part in answer.parts)
    )


def _of_conditions(answer: Answer, sets: list[Reals]) -> Reals:
    """Conditions in a row: exceptions and domains restrict; inequalities that together hold everywhere were
    joined by "and", others by "or"."""
    restricting = [
        found
        for part, found in zip(answer.parts, sets, strict=True)
        if part.kind == "reals" or part.text == "\\neq"
    ]
    others = [found for found in sets if not any(found is one for one in restricting)]
    if not others:
        return _intersected(restricting)
    joined = _united([piece for found in others for piece in found])
    if len(others) > 1 and len(joined) == 1 and joined[0].low.side and joined[0].high.side:
        joined = _intersected(others)
    return _intersected([joined, *restricting])


def _variables(answer: Answer) -> frozenset[str]:
    own = answer.expression.names if answer.expression is not None else frozenset[str]()
    return own.union(*(_variables(part) for part in answer.parts))


def _end(answer: Answer) -> End | None:
    if answer.kind == "infinity":
        return _LEAST if answer.text == "-" else _GREATEST
    if answer.kind != "value" or answer.expression is None or answer.expression.names:
        return None
    return None if answer.unit or answer.percent else End(0, answer.expression)


def _interval(answer: Answer) -> Reals | None:
    low, high = (_end(part) for part in answer.parts) if len(answer.parts) == 2 else (None, None)
    if low is None or high is None or low.order(high) > 0:
        return None
    piece = Piece(low, answer.text[0] == "[" and not low.side, high, answer.text[1] == "]" and not high.side)
    return (piece,) if _holds_something(piece) else None


def _holds_something(piece: Piece) -> bool:
    order = piece.low.order(piece.high)
    return order < 0 or (order == 0 and piece.low_closed and piece.high_closed)


def _of_relation(answer: Answer) -> Reals | None:
    """x < 3, 3 > x, x \\neq 3, |x - 1| < 2."""
    left, right = (part.expression for part in answer.parts)
    sign = answer.text
    if left is None or right is None or len(left.names | right.names) != 1:
        return None
    if right.names:
        left, right, sign = right, left, _FALLING[sign]
    if right.names:
        return None
    return _of_condition(left.tree, sign, right)


def _of_condition(tree: Node, sign: str, bound: Expression) -> Reals | None:
    if tree[0] == "name":
        return _of_bound(sign, End(0, bound))
    if tree[0] != "abs":
        return None
    centre, inner = ("number", Fraction(0)), tree[1]
    if inner[0] in ("+", "-") and inner[1][0] == "name":
        centre, inner = (inner[2] if inner[0] == "-" else ("negative", inner[2])), inner[1]
    elif inner[0] == "-" and inner[2][0] == "name":
        centre, inner = inner[1], inner[2]
    if inner[0] != "name" or difference(bound, expression_of(("number", Fraction(0)))) <= 0:
        return None
    low, high = (End(0, expression_of((side, centre, bound.tree))) for side in "-+")
    if sign in ("<", "\\le"):
        return (Piece(low, sign == "\\le", high, sign == "\\le"),)
    if sign == "\\neq":
        return _complement((Piece(low, True, low, True), Piece(high, True, high, True)))
    return _complement((Piece(low, sign == ">", high, sign == ">"),)) if sign in (">", "\\ge") else None


def _of_bound(sign: str, end: End) -> Reals | None:
    if sign in ("<", "\\le"):
        return (Piece(_LEAST, False, end, sign == "\\le"),)
    if sign in (">", "\\ge"):
        return (Piece(end, sign == "\\ge", _GREATEST, False),)
    return _complement((Piece(end, True, end, True),)) if sign == "\\neq" else None


def _united(pieces: list[Piece]) -> Reals:
    """Pieces in order, those that touch joined."""
    found: list[Piece] = []
    for piece in sorted(pieces, key=cmp_to_key(_by_low_end)):
        if found:
            last = found[-1]
            gap = last.high.order(piece.low)
            if gap > 0 or (gap == 0 and (last.high_closed or piece.low_closed)):
                later = last.high.order(piece.high)
                high = piece.high if later < 0 else last.high
                closed = piece.high_closed if later < 0 else last.high_closed
                if later == 0:
                    closed = last.high_closed or piece.high_closed
                found[-1] = Piece(last.low, last.low_closed, high, closed)
                continue
        found.append(piece)
    return tuple(found)


def _by_low_end(one: Piece, other: Piece) -> int:
    return one.low.order(other.low) or other.low_closed - one.low_closed


def _complement(reals: Reals) -> Reals:
    found = []
    low, closed = _LEAST, False
    for piece in reals:
        found.append(Piece(low, closed, piece.low, not piece.low_closed and not piece.low.side))
        low, closed = piece.high, not piece.high_closed and not piece.high.side
    found.append(Piece(low, closed, _GREATEST, False))
    return tuple(piece for piece in found if _holds_something(piece))


def _both(one: Reals, other: Reals) -> Reals:
    return _complement(_united([*_complement(one), *_complement(other)]))


def _intersected(sets: list[Reals]) -> Reals:
    found = ALL
    for reals in sets:
        found = _both(found, reals)
    return found
