"""Decimal commas: the option of a data set, and the rewriting of a text."""

import json

import pytest

from r1kit.config import ConfigError
from r1kit.tasks import Dataset
from r1kit.tasks.mathematics.spellings import with_decimal_points


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("3,14", "3.14"), ("Die Antwort ist 3,14.", "Die Antwort ist 3.14."), ("1.234,5", "1234.5"),
        ("1.234.567", "1234567"), ("Es sind 1.234.", "Es sind 1234."), ("1 234,5", "1234.5"),
        ("3{,}5", "3.5"), ("x = -0,25", "x = -0.25"), ("2,5; 3,5", "2.5; 3.5"), ("(2,5; 1)", "(2.5; 1)"),
        # no decimal comma: lists, points as decimal signs, dates, versions
        ("1, 2", "1, 2"), ("1,2,3", "1,2,3"), ("3.14", "3.14"), ("0.125", "0.125"), ("v1.2.3", "v1.2.3"),
        ("12.5.2024", "12.5.2024"), ("x, y", "x, y"), ("", ""),
    ],
)  # fmt: skip
def test_a_text_with_decimal_commas_is_read_with_points(text, read):
    assert with_decimal_points(text) == read


@pytest.fixture
def german(tmp_path):
    golds = ["3,14", "1.234,5", "#### 2.500", 0.125, "\\frac{1}{2}", "(1,5; 2)"]
    rows = [{"question": f"Aufgabe {place}", "answer": gold} for place, gold in enumerate(golds)]
    file = tmp_path / "de.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return lambda **options: Dataset("de", held_out=str(file), language="de", **options)


ANSWERS = [
    (0, "\\boxed{3,14}", True), (0, "Die Antwort ist 3,14.", True), (0, "Antwort: 3.14", True),
    (0, "Die Antwort ist 314.", False), (0, "\\boxed{3, 14}", False), (0, "Antwort: 3,15", False),
    (1, "\\boxed{1.234,5}", True), (1, "Es sind also 1234,50 Euro.", True), (1, "\\boxed{1,234}", False),
    (1, "\\boxed{1.234}", False), (2, "Es bleiben 2.500 Euro übrig.", True), (2, "\\boxed{2500}", True),
    (2, "\\boxed{2,5}", False), (3, "\\boxed{0,125}", True), (3, "\\boxed{125}", False),
    (4, "Die Antwort ist 0,5.", True), (4, "Die Antwort ist 0,05.", False), (5, "\\boxed{(1,5; 2)}", True),
    (5, "\\boxed{(1; 5; 2)}", False),
]  # fmt: skip


def test_with_the_option_gold_answers_and_responses_have_decimal_commas(german):
    task = german(decimal_comma=True)
    problems = task.problems("held_out")
    verdicts = task.check_batch(
        [problems[place] for place, _, _ in ANSWERS], [text for _, text, _ in ANSWERS]
    )
    assert [verdict.outcome == "correct" for verdict in verdicts] == [right for _, _, right in ANSWERS]


def test_without_the_option_a_comma_separates(german):
    task = german()
    gold = task.problems("held_out")[0]
    assert gold.answer == "3,14"
    assert task.check(gold, "\\boxed{3.14}").outcome == "wrong"
    assert task.check(gold, "\\boxed{14, 3}").outcome == "correct"


def test_votes_count_decimal_commas_and_points_together(german):
    keys = german(decimal_comma=True).vote_keys(["\\boxed{2,50}", "\\boxed{2.5}", "\\boxed{25}"])
    assert keys[0] == keys[1] != keys[2]
    assert german(decimal_comma=True).vote_key("\\boxed{2,50}") == german().vote_key("\\boxed{2.5}")


def test_the_option_is_refused_where_it_has_no_effect(german):
    with pytest.raises(ConfigError, match="decimal_comma"):
        german(decimal_comma=True, check="exact")
