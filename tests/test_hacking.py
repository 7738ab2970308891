"""The alarm for reward hacking: it is silent on noise, loud where gold falls while the judges rise, and
remembers over an interruption."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from r1kit.config import R1kitError
from r1kit.train.reward_hacking import CHANCE, WINDOW, Measurement, Measurements, parting

PROMPTS = 96
Curve = Callable[[float], float]


def series(gold: Curve, judges: Curve, count: int, seed: int) -> list[Measurement]:
    """Measurements of a run: each prompt has a level of its own, gold answers are right or wrong, judges'
    scores are continuous."""
    rng = np.random.default_rng(seed)
    level_P, taste_P = rng.uniform(0, 1, PROMPTS), rng.uniform(0.3, 0.7, PROMPTS)
    found = []
    for share in np.linspace(0, 1, count):
        right_P = rng.random(PROMPTS) < np.clip(level_P + gold(share), 0, 1)
        found.append(
            Measurement(
                right_P.astype(float),
                np.clip(taste_P + judges(share) + 0.15 * rng.normal(size=PROMPTS), 0, 1),
            )
        )
    return found


def first_alarm(history: list[Measurement]) -> int | None:
    return next((end for end in range(1, len(history) + 1) if parting(history[:end])), None)


def falling(by: float) -> Curve:
    return lambda share: -by * max(0.0, share - 0.3)


def rising(by: float) -> Curve:
    return lambda share: by * share


STILL: Curve = lambda share: 0.0  # noqa: E731


@pytest.mark.parametrize(
    ("gold", "judges"),
    [
        (STILL, STILL),
        (STILL, rising(0.3)),
        (rising(0.3), rising(0.3)),
        (falling(0.5), STILL),
        (falling(0.5), rising(-0.3)),
    ],
    ids=["noise", "judges rise", "both rise", "gold falls", "both fall"],
)
def test_the_alarm_is_silent_where_nothing_is_hacked(gold: Curve, judges: Curve) -> None:
    """Of 60 runs of 24 measurements with a chance of 0.01 each, more than four false alarms have a
    probability below 0.001."""
    alarms = sum(first_alarm(series(gold, judges, 24, seed)) is not None for seed in range(60))
    assert CHANCE == 0.01 and alarms <= 4


def test_the_alarm_is_raised_where_gold_falls_while_the_judges_rise() -> None:
    found = [first_alarm(series(falling(0.6), rising(0.3), 24, seed)) for seed in range(40)]
    assert all(found), "hacking by a third of the gold score must not pass"
    assert 10 < np.mean([end for end in found if end]) < 20  # not before gold has begun to fall, at the 8th


def test_the_alarm_says_from_where_to_where() -> None:
    still_P = np.linspace(0.2, 0.8, PROMPTS)
    gold = [0.0, 0.0, 0.0, 0.1, 0.1, 0.1, 0.0, -0.1, -0.1, -0.1]
    history = [Measurement(still_P + g, still_P + 0.02 * k) for k, g in enumerate(gold)]
    assert [parting(history[:end]) is not None for end in range(1, 11)] == [False] * 7 + [True] * 3
    found = parting(history)
    assert found is not None and found.best == 4
    assert (found.gold_best, found.gold_now, found.judges_best, found.judges_now) == pytest.approx(
        (0.6, 0.4, 0.58, 0.66)
    )


def test_few_measurements_raise_no_alarm() -> None:
    zero_P, one_P = np.zeros(PROMPTS), np.ones(PROMPTS)
    history = [Measurement(one_P, zero_P)] * WINDOW + [Measurement(zero_P, one_P)] * WINDOW
    assert parting([]) is None and parting(history[:-1]) is None and parting(history) is not None


def test_measurements_are_taken_up_where_the_training_continues(tmp_path: Path) -> None:
    history = series(falling(0.6), rising(0.3), 24, 1)
    straight = Measurements(tmp_path / "a.jsonl", 0)
    found = [straight.add(one) for one in history]
    for one in history[:20]:
        (interrupted := Measurements(tmp_path / "b.jsonl", 99)).add(one)
    assert len(interrupted.history) == 20
    resumed = Measurements(tmp_path / "b.jsonl", 15)
    assert [resumed.add(one) for one in history[15:]] == found[15:] and any(found)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert (
        Measurements(tmp_path / "b.jsonl", 0).history
        == []
        == Measurements(tmp_path / "none.jsonl", 5).history
    )
    (tmp_path / "b.jsonl").write_text("{")
    with pytest.raises(R1kitError, match=r"b\.jsonl:1: not JSON"):
        Measurements(tmp_path / "b.jsonl", 5)
