"""Which answers vote together: those that check_math calls the same."""

import pytest

from r1kit.tasks.mathematics import votes
from r1kit.tasks.mathematics.check import check_math, gold_fault
from r1kit.tasks.mathematics.votes import vote_key, vote_keys

SAME = [
    ("0.5", "\\frac{1}{2}"), ("\\frac12", "\\frac{1}{2}"), ("x=5", "5"), ("5 \\text{ cm}", "5"),
    ("2\\sqrt3", "2\\sqrt{3}"), ("50\\%", "50%"), ("-\\frac12", "\\frac{-1}{2}"), ("(x+1)^2", "x^2+2x+1"),
]  # fmt: skip
OTHER = [("0.5", "\\frac{1}{3}"), ("x=5", "6"), ("2\\sqrt3", "3\\sqrt2"), ("(x+1)^2", "x^2+1")]


def boxes(*texts):
    return [f"\\boxed{{{text}}}" for text in texts]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_answers_that_are_the_same_have_one_key(one, other):
    assert len(set(vote_keys(boxes(one, other)))) == 1
    assert len({vote_key(text) for text in boxes(one, other)}) == 1


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_other_answers_have_other_keys(one, other):
    assert len(set(vote_keys(boxes(one, other)))) == 2
    assert len({vote_key(text) for text in boxes(one, other)}) == 2


def test_votes_in_sets_and_without_an_answer():
    keys = vote_keys([*boxes("x \\ne 0", "(-\\infty,0)\\cup(0,\\infty)", "0"), "<think>unfinished"])
    assert keys[0] == keys[1] != keys[2] and keys[3] is None


def test_the_number_of_comparisons_is_bounded(monkeypatch):
    count = []
    compare = votes.compare  # type: ignore[attr-defined]

    def counted(*given, **options):
        count.append(1)
        return compare(*given, **options)

    monkeypatch.setattr(votes, "compare", counted)
    texts = boxes(*(f"\\sqrt{{{n}}}+x" for n in range(2, 66)))
    keys = vote_keys(texts)
    assert 0 < len(count) <= 2 * votes.MOST_COMPARISONS
    assert keys == vote_keys(texts) and len(set(keys)) == 64


def test_gold_answers_that_stand_for_none_are_refused():
    for text in ("NaN", "nan", "None", "none", "N/A", "null", "undefined", " ", "?"):
        assert gold_fault(text) is not None
        assert check_math(text, f"\\boxed{{{text}}}").outcome == "unverifiable"
    for text in ("\\text{None}", "\\text{undefined}", "no solution", "n", "0"):
        assert gold_fault(text) is None


def test_what_cannot_be_decided_is_unverifiable():
    assert check_math("\\cos(10^{-5000})", "\\boxed{1}").outcome == "unverifiable"
    assert check_math("\\cos(10^{-50})", "\\boxed{1}").outcome == "wrong"
