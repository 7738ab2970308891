"""Which answers of a group count together in a majority vote: those that ``check_math`` calls the same.

Answers are compared in order of how often their text occurs, then of appearance, with the first answer of
every class so far. Only the comparisons below are made, whatever the answers are; an answer that is not
compared with a class is not in it. So the result depends on the answers and their order alone."""

import time
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction

from r1kit.tasks.mathematics.agreement import named_value
from r1kit.tasks.mathematics.answers import Answer, read_answer
from r1kit.tasks.mathematics.check import LONGEST_ANSWER, compare, final_answer
from r1kit.tasks.mathematics.checker_pool import ANSWER_SECONDS
from r1kit.tasks.mathematics.expressions import Expression, NotUnderstood, digits
from r1kit.tasks.mathematics.notation import tidy

MOST_COMPARISONS = 512  # of one group, without those of two plain fractions


def vote_keys(answers: Sequence[str], choice: bool = False) -> list[str | None]:
    """A key for every answer of a group: equal keys for the same answers, None for texts without a final
    answer."""
    settled = [final_answer(answer, choice) for answer in answers]
    places: dict[str, list[int]] = defaultdict(list)
    for place, text in enumerate(settled):
        if text is not None:
            places[tidy(text)].append(place)
    keys: list[str | None] = [None] * len(answers)
    firsts: list[str] = []
    left = MOST_COMPARISONS
    for text in sorted(places, key=lambda text: (-len(places[text]), places[text][0])):
        found = text
        for first in firsts:
            plain = _plain(first), _plain(text)
            if None not in plain:
                alike = plain[0] == plain[1]
            elif left:
                left -= 1
                alike = _same(first, text)
            else:
                break
            if alike:
                found = first
                break
        else:
            firsts.append(text)
        for place in places[text]:
            keys[place] = found
    return keys


def _same(one: str, other: str) -> bool:
    """Whether check_math would call either the right answer if the other were the gold one."""
    if max(len(one), len(other)) > LONGEST_ANSWER:
        return one == other
    for gold, said in ((one, other), (other, one)):
        try:
            if compare(gold, said, time.monotonic() + ANSWER_SECONDS, patient=True).outcome == "correct":
                return True
        except NotUnderstood:  # too large
            continue
    return False


def _plain(text: str) -> Fraction | None:
    """The value of a number without unit and percent sign, if it is rational."""
    answer = _read(text)
    if answer is None or answer.kind != "value" or answer.unit or answer.percent or answer.expression is None:
        return None
    return answer.expression.exact


def _read(text: str) -> Answer | None:
    try:
        return read_answer(text) if len(text) <= LONGEST_ANSWER else None
    except NotUnderstood:
        return None


def vote_key(answer: str, choice: bool = False) -> str | None:
    """A key for one answer alone, for votes over groups that are not known at once: one key for the same
    value, units and signs of percent left out. ``vote_keys`` also sees what only a comparison can see."""
    settled = final_answer(answer, choice)
    if settled is None:
        return None
    known = _read(settled)
    return "".join(tidy(settled).split()) if known is None else _key(known)


def _key(answer: Answer) -> str:
    inner = named_value(answer)
    if inner is not None:
        return _key(inner)
    if answer.expression is not None:
        return _key_of(answer.expression)
    parts = [_key(part) for part in answer.parts]
    if answer.kind == "union" or (answer.kind == "sequence" and answer.text in ("", "{}")):
        return f"{answer.kind}({','.join(sorted(parts))})"
    return f"{answer.kind}{answer.text}({','.join(parts)})"


def _key_of(expression: Expression) -> str:
    if expression.exact is not None:
        return str(expression.exact)
    return ";".join(digits(expression))
