"""The simulation of asynchronous RL against arithmetic and against a simulator that goes token by token."""

import random

import pytest

from r1kit.planning.simulation import System, simulate


def system(**changed):
    plain = {"engines": 1, "rows": 4, "group": 2, "batch": 2, "lag": 0, "step": lambda rows: 1.0,
             "update": lambda tokens: 5.0}  # fmt: skip
    return System(**{**plain, **changed})


def test_in_step_sampling_and_learning_take_turns():
    # Two groups of two rows at once for 10 tokens, then 5 seconds of learning.
    found = simulate(system(handover=2.0), [10.0], 20)
    assert found.seconds == pytest.approx((20 * 15 + 19 * 2) / 20)
    assert found.staleness == 0 and found.tokens == pytest.approx(2 * 2 * 10 / found.seconds)
    # Half as many rows at once: the two groups follow one another, and a call ends with its longest row.
    for continuous in (True, False):
        found = simulate(system(rows=2, continuous=continuous), [10.0], 20)
        assert found.seconds == pytest.approx(25)


def test_with_a_lag_the_slower_of_the_two_sets_the_pace():
    sampling = simulate(system(lag=1), [10.0], 50)
    assert sampling.seconds == pytest.approx(10, rel=0.02) and sampling.engine_busy > 0.97
    assert sampling.learner_busy == pytest.approx(0.5, abs=0.02)
    learning = simulate(system(lag=1, update=lambda tokens: 30.0), [10.0], 50)
    assert learning.seconds == pytest.approx(30, rel=0.02) and learning.learner_busy > 0.97
    assert 0 < learning.staleness <= 1
    # One more engine than needed does nothing while the bound holds it back.
    more = simulate(system(lag=1, engines=4, update=lambda tokens: 30.0), [10.0], 50)
    assert more.seconds == pytest.approx(30, rel=0.02) and more.engine_busy < 0.5


def by_tokens(engines, rows, group, batch, lag, lengths, updates, learning):
    """Seconds, one decoding step after another, of a second each."""
    live = [[] for _ in range(engines)]
    dealt, version, left, now, learns_until = 0, 0, {}, 0, None
    while version < updates:
        while dealt < min((version + lag + 1) * batch, updates * batch):
            engine = min(range(engines), key=lambda engine: len(live[engine]))
            if len(live[engine]) + group > rows:
                break
            own = random.Random(f"0 {dealt}").choices(lengths, k=group)
            live[engine] += [[length, dealt] for length in own]
            left[dealt], dealt = group, dealt + 1
        first = version * batch
        if learns_until is None and all(left.get(g) == 0 for g in range(first, first + batch)):
            learns_until = now + learning
        now += 1
        for engine in range(engines):
            for row in live[engine]:
                row[0] -= 1
                left[row[1]] -= row[0] == 0
            live[engine] = [row for row in live[engine] if row[0]]
        if learns_until == now:
            version, learns_until = version + 1, None
    return now


@pytest.mark.parametrize(("lag", "engines"), [(0, 1), (0, 3), (1, 2), (3, 2)])
def test_events_end_when_a_simulator_of_tokens_ends(lag, engines):
    lengths = [3.0, 4.0, 9.0, 17.0]
    found = simulate(
        system(engines=engines, rows=6, group=2, batch=5, lag=lag, update=lambda tokens: 11.0), lengths, 30
    )
    expected = by_tokens(engines, 6, 2, 5, lag, lengths, 30, 11)
    assert found.seconds * 30 == pytest.approx(expected, rel=0.01)


def test_more_rows_make_every_step_of_an_engine_longer():
    slower = simulate(system(step=lambda rows: 0.5 * rows), [10.0], 10)
    assert slower.seconds == pytest.approx(0.5 * 4 * 10 + 5)
    # A row of 4 tokens ends first; the other three go on in shorter steps.
    uneven = simulate(system(group=1, rows=2, batch=2, step=lambda rows: float(rows)), [4.0, 10.0], 400)
    both = {(4, 4): 8, (10, 10): 20, (4, 10): 4 * 2 + 6}
    mean = (both[4, 4] + both[10, 10] + 2 * both[4, 10]) / 4
    assert uneven.seconds == pytest.approx(mean + 5, rel=0.05)


def test_processes_that_share_cores_slow_one_another_down():
    alone = system(engines=2, lag=1, learners=2, update=lambda tokens: 10.0)
    assert simulate(alone, [10.0], 40).seconds == pytest.approx(10, rel=0.05)
    # An engine is enough for two groups; with both and two learners four processes share two cores.
    assert simulate(
        system(engines=2, rows=2, lag=1, learners=2, cores=2, update=lambda tokens: 10.0), [10.0], 40
    ).seconds == pytest.approx(20, rel=0.05)
    # In step they never compute at once.
    assert simulate(
        system(engines=2, rows=2, lag=0, learners=2, cores=2, update=lambda tokens: 10.0), [10.0], 40
    ).seconds == pytest.approx(20, rel=0.05)


def test_a_failure_costs_what_was_lost_and_the_restart():
    calm = simulate(system(engines=4, batch=8), [10.0], 300)
    broken = simulate(system(engines=4, batch=8, engine_mtbf=500.0, engine_restart=50.0), [10.0], 300)
    assert calm.engine_failures == 0 < broken.engine_failures and broken.seconds > calm.seconds
    assert broken.tokens * broken.seconds == pytest.approx(calm.tokens * calm.seconds)  # nothing is dropped
    learner = simulate(system(learner_mtbf=300.0, learner_restart=40.0, save_every=4), [10.0], 300)
    plain = simulate(system(), [10.0], 300)
    lost = (learner.seconds - plain.seconds) * 300 / learner.learner_failures
    # The restart, half an update that is begun again, and one and a half updates since the last saved state.
    assert 25 < lost < 40 + 5 + 4 * 5


def test_the_same_seed_gives_the_same_figures():
    noisy = system(engines=3, lag=2, engine_mtbf=100.0, engine_restart=9.0)
    assert simulate(noisy, [3.0, 8.0], 20, seed=4) == simulate(noisy, [3.0, 8.0], 20, seed=4)
    assert simulate(noisy, [3.0, 8.0], 20, seed=4) != simulate(noisy, [3.0, 8.0], 20, seed=5)


def test_groups_go_to_the_engine_with_the_fewest_rows():
    shared = simulate(system(engines=4, rows=99, batch=8, step=lambda rows: float(rows)), [10.0], 5)
    assert shared.seconds == pytest.approx(10 * 4 + 5) and shared.engine_busy == pytest.approx(40 / 45)
