"""Whether two answers that were read are the same answer."""

import re
from collections.abc import Sequence
from fractions import Fraction

from r1kit.tasks.mathematics.answers import Answer
from r1kit.tasks.mathematics.expressions import expression_of, proportional, read_expression, same
from r1kit.tasks.mathematics.quantities import smallest_units
from r1kit.tasks.mathematics.real_sets import same_reals
from r1kit.tasks.mathematics.units import normal_unit, units_agree


def same_answer(gold: Answer, said: Answer) -> bool:
    """Whether the given answer is the gold one. Raises Undecided."""
    if (gold.kind in _SETS or said.kind in _SETS) and same_reals(gold, said):
        return True
    if said.kind == "relation" and gold.kind != "relation":
        inner = named_value(said)
        return inner is not None and same_answer(gold, inner)
    if gold.kind == "relation" and said.kind != "relation":
        inner = named_value(gold)
        return inner is not None and same_answer(inner, said)
    if "based" in (gold.kind, said.kind):
        return _same_digits(gold, said)
    if "quantity" in (gold.kind, said.kind):
        return _same_quantity(gold, said)
    if gold.kind == "sequence" and len(gold.parts) == 1 and said.kind == "value":
        return same_answer(gold.parts[0], said)
    if gold.kind == "value" and said.kind == "sequence" and said.text == "{}" and len(said.parts) == 1:
        return same_answer(gold, said.parts[0])
    if {gold.kind, said.kind} == {"union", "sequence"} and "" in (gold.text, said.text):
        return _same_union(gold, said)
    if gold.kind == said.kind == "sequence" and {gold.text, said.text} == {"()", ""}:
        point, values = (gold, said) if gold.text == "()" else (said, gold)
        return _same_coordinates(point, values)
    if (
        gold.kind == "sequence"
        and gold.text == ":"
        and said.kind == "words"
        and re.fullmatch(r"\d+:\d+", said.text)
    ):
        return _same_ratio(gold, said.text)
    return gold.kind == said.kind and _COMPARISONS[gold.kind](gold, said)


_SETS = ("relation", "union", "intersection", "difference", "reals", "sequence")


def same_text(one: str, other: str) -> bool:
    """Whether two texts are identical but for space, and could be answers: braces pair, and there is a
    letter or a digit. Space between two letters or digits counts: 4 2 is not 42."""
    if _without_space(one) != _without_space(other) or not re.search(r"\w", one):
        return False
    return one.count("{") == one.count("}")


def _without_space(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"(?<=\W)\s+|\s+(?=\W)", "", text.strip()))


_LARGE = re.compile(r"\d{2}[\d,]*!|\^\s*\{?\s*-?\s*\d{3}|\^\s*\{[^{}]*\^|\d{16}")


def has_large_numbers(text: str) -> bool:
    """Whether a text has factorials, powers or digits that floats are too coarse for."""
    return _LARGE.search(text) is not None


def _same_value(gold: Answer, said: Answer) -> bool:
    assert gold.expression is not None and said.expression is not None
    gold, said = _with_letter_as_unit(gold, said), _with_letter_as_unit(said, gold)
    assert gold.expression is not None and said.expression is not None
    if not units_agree(gold.unit, said.unit):
        return False
    if gold.percent != said.percent and (gold.unit or said.unit):
        return False
    if gold.percent == said.percent:
        return same(gold.expression, said.expression)
    if same(gold.expression, said.expression):
        # 40 against 40%: the sign names the unit; but 0.5 is not 0.5%.
        bare = gold.expression if not gold.percent else said.expression
        return bare.exact is not None and abs(bare.exact) >= 1
    left, right = (
        expression_of(("/", answer.expression.tree, ("number", Fraction(100))))
        if answer.percent
        else answer.expression
        for answer in (gold, said)
        if answer.expression
    )
    return same(left, right)


def _with_letter_as_unit(answer: Answer, other: Answer) -> Answer:
    """5 m as 5 meters if the other answer is in meters: alone, m might be a variable."""
    tree = answer.expression.tree if answer.expression is not None else ("",)
    if not other.unit or answer.unit or tree[0] != "*" or tree[2][0] != "name":
        return answer
    if len(tree[2][1]) > 1 or normal_unit(tree[2][1]) != other.unit:
        return answer
    return Answer("value", expression=expression_of(tree[1]), unit=other.unit)


def _same_digits(gold: Answer, said: Answer) -> bool:
    """Numbers in a base: the same digits and base; a number without a base is read in the gold answer's
    base."""
    if gold.kind == said.kind:
        return gold.text == said.text and gold.unit == said.unit
    based, bare = (gold, said) if gold.kind == "based" else (said, gold)
    if based is said and said.unit != "10":
        return False
    return (
        bare.expression is not None
        and based.text.isdigit()
        and same(bare.expression, read_expression(based.text))
    )


def _same_sequence(gold: Answer, said: Answer) -> bool:
    unordered = {"", "{}"}
    if gold.text in unordered and said.text in unordered:
        given = said.parts if len(said.parts) <= len(gold.parts) or len(gold.parts) < 2 else _once(said.parts)
        return len(gold.parts) == len(given) and _same_without_order(gold.parts, given)
    return (
        gold.text == said.text
        and len(gold.parts) == len(said.parts)
        and all(same_answer(g, s) for g, s in zip(gold.parts, said.parts, strict=True))
    )


def _once(parts: Sequence[Answer]) -> list[Answer]:
    """The parts without repetitions."""
    kept: list[Answer] = []
    for part in parts:
        if not any(same_answer(part, other) for other in kept):
            kept.append(part)
    return kept


def _same_coordinates(gold: Answer, said: Answer) -> bool:
    """``x = 1, y = 2`` is the point (1, 2): a value for every variable, in their alphabetical order."""
    names = [part.unit for part in said.parts if part.kind == "relation" and part.text == "="]
    if (
        len(names) != len(said.parts)
        or len(names) != len(gold.parts)
        or names != sorted(set(names))
        or "" in names
    ):
        return False
    return all(same_answer(g, s.parts[1]) for g, s in zip(gold.parts, said.parts, strict=True))


def _same_ratio(gold: Answer, said: str) -> bool:
    """9:12, which might be a time of day, against the ratio 3:4."""
    one, other = (Fraction(term) for term in said.split(":"))
    first, second = (part.expression for part in gold.parts) if len(gold.parts) == 2 else (None, None)
    if first is None or second is None or not one:
        return False
    return same(first, read_expression("1")) and same(second, read_expression(f"({other / one})"))


def _same_without_order(gold: Sequence[Answer], said: Sequence[Answer]) -> bool:
    left = list(said)
    for part in gold:
        place = next((place for place, other in enumerate(left) if same_answer(part, other)), None)
        if place is None:
            return False
        del left[place]
    return not left


def _same_matrix(gold: Answer, said: Answer) -> bool:
    return gold.text == said.text and all(
        same_answer(g, s) for g, s in zip(gold.parts, said.parts, strict=True)
    )


def _same_union(gold: Answer, said: Answer) -> bool:
    """Unions of the same pieces, in any order; a piece may be written as an inequality."""
    return len(gold.parts) == len(said.parts) and _same_without_order(gold.parts, said.parts)


def _same_difference(gold: Answer, said: Answer) -> bool:
    return all(same_answer(g, s) for g, s in zip(gold.parts, said.parts, strict=True))


def _same_words(gold: Answer, said: Answer) -> bool:
    return gold.text == said.text


_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\neq": "\\neq"}


def _same_relation(gold: Answer, said: Answer) -> bool:
    named = gold.unit and said.unit
    if named and gold.unit != said.unit and not (gold.parts[0].expression and said.parts[0].expression):
        return False
    sides = [part.expression for part in (*gold.parts, *said.parts)]
    if any(side is None for side in sides):
        return gold.text == said.text and all(
            same_answer(g, s) for g, s in zip(gold.parts, said.parts, strict=True)
        )
    left, right, other_left, other_right = sides
    if same(left, other_left) and same(right, other_right):  # type: ignore[arg-type]
        return said.text == gold.text
    if same(left, other_right) and same(right, other_left):  # type: ignore[arg-type]
        return said.text == _FLIPPED[gold.text]
    factor = proportional((sides[0], sides[1]), (sides[2], sides[3]))  # type: ignore[arg-type]
    if factor is None or factor == 0:
        return False
    return said.text == (gold.text if factor > 0 else _FLIPPED[gold.text]) or (
        gold.text == said.text and gold.text in ("=", "\\neq")
    )


def named_value(answer: Answer) -> Answer | None:
    """The right side of ``x = ...``, ``f(2) = ...`` and ``(x, y) = ...``, but not of ``(y, x) = ...``."""
    names = re.findall(r"[A-Za-z]", answer.unit) if answer.unit.startswith("(") else []
    if names != sorted(names):
        return None
    return answer.parts[1] if answer.kind == "relation" and answer.text == "=" and answer.unit else None


def _same_quantity(gold: Answer, said: Answer) -> bool:
    """5 hours 30 minutes against 5.5 hours or 330 minutes."""
    if gold.kind != said.kind:
        quantity, value = (gold, said) if gold.kind == "quantity" else (said, gold)
        size = smallest_units(quantity.unit, value.unit) if value.kind == "value" else None
        if size is None or value.percent or value.expression is None or quantity.expression is None:
            return False
        amount = expression_of(("*", value.expression.tree, ("number", size)))
        return same(quantity.expression, amount)
    assert gold.expression is not None and said.expression is not None
    return gold.unit == said.unit and same(gold.expression, said.expression)


_COMPARISONS = {
    "value": _same_value,
    "sequence": _same_sequence,
    "union": _same_union,
    "intersection": _same_union,
    "difference": _same_difference,
    "reals": _same_words,
    "matrix": _same_matrix,
    "relation": _same_relation,
    "infinity": _same_words,
    "words": _same_words,
}
