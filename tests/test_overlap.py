"""Rewards are computed while others are still being sampled, and the scores are the same."""

import math
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from small_world import model, model_directory, tokenizer
from waiting import LIMIT_S

from r1kit import watchdog
from r1kit.chat import Chat
from r1kit.config import ConfigError
from r1kit.data.mixture import Mixture
from r1kit.engine import Done
from r1kit.engine.native import NativeEngine
from r1kit.rewards import Failure, TooManyFailuresError, WeightedReward, load_rewards, score, scoring
from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.tasks import load_tasks
from r1kit.train.rollouts import Phase, Policy, RolloutConfig, collect
from r1kit.train.worker_thread import WorkerThread
from r1kit.types import Completion, Problem, Rollout, Sampling, Verdict
from r1kit.watchdog import HungError

CONFIG = RolloutConfig(problems=6, group=3, updates_per_rollout=1, max_tokens=8)


def completion(seed: int) -> Completion:
    tokens = np.random.default_rng(seed).integers(10, 300, 1 + seed % 7).astype(np.int32)
    return Completion(tokens, np.full(len(tokens), -1.0, dtype=np.float32), "stop")


@dataclass
class Scripted:
    """An engine whose completions are those of the seeds, reported in the order and the portions of ``plan``;
    ``between`` is called between them."""

    plan: Sequence[Sequence[int]] = ()
    between: Callable[[int], None] = lambda portion: None
    ended: bool = False

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
        done: Done | None = None,
    ) -> list[list[Completion]]:
        assert seeds is not None and done is not None
        groups = [[completion(seed % 1000 + index) for index in range(sampling.n)] for seed in seeds]
        for number, portion in enumerate(self.plan):
            done({place: groups[place] for place in portion})
            self.between(number)
            done({})
        self.ended = True
        return groups

    def stream(self, prompt: np.ndarray, sampling: Sampling, seed: int) -> Iterator[int]:
        raise NotImplementedError

    def load(self, weights: Any, version: int) -> None:
        raise NotImplementedError


def phase(engine: Any, rewards: Sequence[WeightedReward], config: RolloutConfig = CONFIG) -> Phase:
    mixture = Mixture(load_tasks({"chain": {"weight": 1, "size": 40}}), "train", 5)
    return collect(Policy(None, engine, Chat(tokenizer())), mixture, rewards, config, 3)  # type: ignore[arg-type]


def said(phase: Phase) -> Any:
    """All of a phase, with nan made comparable, and tracebacks by their last line."""
    texts = [[rollout.text for rollout in group] for group in phase.groups]
    scores = [[(str(score.total), dict(score.parts)) for score in scores] for scores in phase.scores_PG]
    failures = [
        (one.problem, one.index, one.reward, one.detail.strip().splitlines()[-1]) for one in phase.failures
    ]
    return texts, scores, failures


@dataclass
class Spy:
    """A reward that remembers what it was asked, and when: before the engine had ended, or after."""

    function: Callable[[Sequence[Rollout]], list[float | None]]
    engine: Scripted | None = None
    calls: list[list[tuple[str, int]]] = field(default_factory=list)
    early: list[bool] = field(default_factory=list)
    threads: set[threading.Thread] = field(default_factory=set)

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        self.calls.append([(rollout.problem.id, rollout.index) for rollout in rollouts])
        self.early.append(self.engine is not None and not self.engine.ended)
        self.threads.add(threading.current_thread())
        return self.function(rollouts)


class Agreeable:
    """A task in which every answer is right."""

    name = "chain"

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        return Verdict("correct")


def length_in_group(rollouts: Sequence[Rollout]) -> list[float | None]:
    """A reward that compares within groups, does not apply to some, and is nan for one."""
    longest: dict[str, int] = {}
    for rollout in rollouts:
        longest[rollout.problem.id] = max(
            longest.get(rollout.problem.id, 0), len(rollout.completion.token_ids)
        )
    values: list[float | None] = [len(r.completion.token_ids) / longest[r.problem.id] for r in rollouts]
    return [None if r.index == 2 else value for r, value in zip(rollouts, values, strict=True)]


def raises_at(problem: str, index: int) -> Callable[[Sequence[Rollout]], list[float | None]]:
    def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
        if any((r.problem.id, r.index) == (problem, index) for r in rollouts):
            raise ZeroDivisionError("this one")
        return length_in_group(rollouts)

    return reward


PLANS = [[], [range(6)], [[0], [1], [2], [3], [4], [5]], [[5, 0], [], [3], [1, 2]], [[4], [2, 3]]]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("broken", [False, True])
def test_scores_and_failures_do_not_depend_on_when_a_group_was_complete(
    plan: list[list[int]], broken: bool
) -> None:
    """Against all rollouts scored at once when the sampling has ended, which is what a reward that may not be
    asked early still sees."""
    names = [
        problem.id
        for problem in Mixture(load_tasks({"chain": {"weight": 1, "size": 40}}), "train", 5).draw(6)
    ]
    function = raises_at(names[3], 1) if broken else length_in_group
    rewards = [
        WeightedReward("mine", 1.0, lambda rs: [float(r.index) for r in rs]),
        WeightedReward("compared", 0.5, function, early=True),
    ]
    found = phase(Scripted(plan), rewards)
    failures: list[Failure] = []
    expected = score([rollout for group in found.groups for rollout in group], rewards, failures)
    grouped = [expected[place : place + 3] for place in range(0, 18, 3)]
    assert said(found) == said(Phase(found.groups, grouped, 6, 1, failures=failures))
    assert [group[0].problem.id for group in found.groups] == names
    assert len(found.failures) == int(broken) and (
        not broken or "ZeroDivisionError: this one" in found.failures[0].detail
    )


@pytest.mark.parametrize("plan", [[], [range(6)], [[0], [1], [2], [3], [4], [5]], [[5, 0], [3]]])
def test_groups_of_one_problem_are_scored_apart_whenever_they_were_complete(plan: list[list[int]]) -> None:
    """A data set of two problems, drawn three times in a phase of six groups: group numbers are places in the
    phase, and the length reward compares ten pairs of rollouts of equal problems group by group."""
    mixture = Mixture(load_tasks({"chain": {"weight": 1, "size": 2}}), "train", 5)
    rewards = load_rewards({"length": 1.0}, [Agreeable()])
    policy = Policy(None, Scripted(plan), Chat(tokenizer()))  # type: ignore[arg-type]
    found = collect(policy, mixture, rewards, CONFIG, 3)
    assert len({group[0].problem.id for group in found.groups}) == 2
    assert [[r.key for r in group] for group in found.groups] == [
        [(group[0].problem.id, number, index) for index in range(3)]
        for number, group in enumerate(found.groups)
    ]
    for group, scores in zip(found.groups, found.scores_PG, strict=True):
        lengths = [len(r.completion.token_ids) for r in group]
        spread = max(lengths) - min(lengths)
        expected = [0.5 - (n - min(lengths)) / spread if spread else 0.0 for n in lengths]
        assert [one.total for one in scores] == pytest.approx(expected)
    assert any(scores[0].total != scores[1].total for scores in found.scores_PG)


def test_groups_of_later_rounds_of_dynamic_sampling_have_numbers_of_their_own() -> None:
    """Rounds of 6, then what is missing: a number is the place among all that was drawn for the phase."""
    config = CONFIG.model_copy(update={"dynamic_sampling": 3})
    seen: list[list[int]] = []

    def even(rollouts: Sequence[Rollout]) -> list[float | None]:
        seen.append([r.group for r in rollouts if r.index == 0])
        return [float(r.index == 0 and r.group % 3 == 0) for r in rollouts]

    found = phase(Scripted(), [WeightedReward("even", 1.0, even)], config)
    assert seen == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9], [10, 11], [12, 13]]
    assert [group[0].group for group in found.groups] == [0, 3, 6, 9, 12, 1]
    assert found.drawn == 14


def test_a_reward_of_ones_own_sees_all_rollouts_at_once_in_order_and_an_early_one_whole_groups() -> None:
    engine = Scripted([[4], [1, 3], [0, 2]])
    own, early = Spy(length_in_group, engine), Spy(length_in_group, engine)
    asked = threading.Semaphore(0)
    engine.between = lambda portion: (
        None if asked.acquire(timeout=LIMIT_S) else pytest.fail("the reward was not called")
    )

    def function(rollouts: Sequence[Rollout]) -> list[float | None]:
        try:
            return early(rollouts)
        finally:
            asked.release()

    found = phase(
        engine, [WeightedReward("own", 1.0, own), WeightedReward("early", 1.0, function, early=True)]
    )
    everything = [(rollout.problem.id, rollout.index) for group in found.groups for rollout in group]
    assert own.calls == [everything] and own.early == [False]
    places = {name: place for place, name in enumerate(dict.fromkeys(problem for problem, _ in everything))}
    assert [sorted({places[problem] for problem, _ in call}) for call in early.calls] == [
        [4],
        [1, 3],
        [0, 2],
        [5],
    ]
    assert early.early == [True, True, True, False]  # the engine was still at work, and waited for none of it
    assert sorted(one for call in early.calls for one in call) == sorted(everything)
    assert own.threads | early.threads == {
        threading.main_thread()
    }  # signals and time-outs work there as they ever did


def test_too_many_failures_stop_the_phase_as_they_do_without_overlap() -> None:
    def never(rollouts: Sequence[Rollout]) -> list[float | None]:
        return [math.nan] * len(rollouts)

    with pytest.raises(
        TooManyFailuresError, match=r"18 of 18 rollouts could not be judged .* of reward 'never' on problem"
    ):
        phase(Scripted([[0], [1, 2]]), [WeightedReward("never", 1.0, never, early=True)])


@pytest.mark.parametrize("error", [KeyboardInterrupt, ConfigError])
def test_what_stops_the_scoring_stops_the_sampling_and_leaves_no_thread(error: type[BaseException]) -> None:
    before = set(threading.enumerate())
    engine = Scripted([[0]] + [[]] * 10_000, lambda portion: time.sleep(0.01))

    def stopped(rollouts: Sequence[Rollout]) -> list[float | None]:
        raise error("enough")

    with pytest.raises(error, match="enough"):
        phase(engine, [WeightedReward("mine", 1.0, stopped, early=True)])
    assert not engine.ended and set(threading.enumerate()) == before


def test_what_the_engine_raises_arrives_here() -> None:
    before = set(threading.enumerate())

    def breaks(portion: int) -> None:
        raise ZeroDivisionError("the engine's own fault")

    with pytest.raises(ZeroDivisionError, match="the engine's own fault"):
        phase(Scripted([[0]], breaks), [WeightedReward("mine", 1.0, length_in_group, early=True)])
    assert set(threading.enumerate()) == before


def test_a_signal_interrupts_a_reward_that_is_asked_early() -> None:
    engine = Scripted([[0]] + [[]] * 10_000, lambda portion: time.sleep(0.01))

    def slow(rollouts: Sequence[Rollout]) -> list[float | None]:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        time.sleep(LIMIT_S)
        returned.append(True)
        return length_in_group(rollouts)

    returned: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        phase(engine, [WeightedReward("mine", 1.0, slow, early=True)])
    assert not returned and not engine.ended


def test_a_reward_that_hangs_is_named_also_where_it_is_asked_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "deadline", lambda what: watchdog.deadline(what, 0.3))

    def hangs(rollouts: Sequence[Rollout]) -> list[float | None]:
        time.sleep(LIMIT_S)
        return []

    with pytest.raises(HungError, match="reward 'mine' has not returned for 3 rollouts"):
        phase(
            Scripted([[0]] + [[]] * 10_000, lambda portion: time.sleep(0.01)),
            [WeightedReward("mine", 1.0, hangs, early=True)],
        )


def test_rewards_that_leave_the_interpreter_are_early_and_ones_own_on_request(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def brevity(rollouts): return [0.0 for _ in rollouts]\n")
    rewards = load_rewards({"accuracy": 1, "format": 1, "speed": 1, f"{file}:brevity": 1.0}, {})
    assert [reward.early for reward in rewards] == [True, False, False, False]
    (mine,) = load_rewards({f"{file}:brevity": {"weight": 0.5, "early": True}}, {})
    assert mine.early and mine.weight == 0.5
    for wrong in ({"early": 1}, {"soon": True}):
        with pytest.raises(ConfigError, match="takes a weight, and early"):
            load_rewards({f"{file}:brevity": wrong}, {})


def test_a_worker_thread_that_waits_for_another_ends_when_it_is_stopped() -> None:
    before = set(threading.enumerate())
    asleep = threading.Event()

    def inner(hand_over: Callable[[int], None]) -> None:
        while True:
            time.sleep(0.01)
            hand_over(0)

    def outer(hand_over: Callable[[int], None]) -> None:
        with WorkerThread(inner, lambda: hand_over(0)) as work:
            asleep.set()
            work.result()

    with WorkerThread(outer):
        assert asleep.wait(LIMIT_S)
    assert set(threading.enumerate()) == before


@pytest.mark.slow
@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("stop", [(), ("e",)])
def test_the_engine_reports_each_prompt_once_and_what_it_returns(
    kernels: bool, stop: tuple[str, ...]
) -> None:
    engine = NativeEngine(
        model(), [tokenizer().eos_id], batch_rows=8, decode=tokenizer().decode, kernels=kernels
    )
    prompts = [np.arange(5, 5 + length) for length in (3, 9, 4, 6, 5, 8)]
    sampling = Sampling(n=3, max_tokens=40, stop=stop)
    reports: list[dict[int, list[Completion]]] = []
    groups = engine.generate(prompts, sampling, list(range(6)), reports.append)
    assert sorted(place for found in reports for place in found) == list(range(6))
    assert sum(map(bool, reports)) > 1  # not all at the end
    for report in reports:
        assert all(group is groups[place] for place, group in report.items())
    for found, expected in zip(groups, engine.generate(prompts, sampling, list(range(6))), strict=True):
        assert [one.token_ids.tolist() for one in found] == [one.token_ids.tolist() for one in expected]


def test_what_done_raises_ends_the_sampling() -> None:
    engine = NativeEngine(model(), [-1], batch_rows=2)
    calls = []

    def enough(found: dict[int, list[Completion]]) -> None:
        calls.append(found)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate([np.arange(5, 9)] * 8, Sampling(n=2, max_tokens=40), done=enough)
    assert len(calls) == 1


@pytest.fixture
def two() -> Iterator[LocalRuntime]:
    runtime = LocalRuntime(LocalConfig(processes=2, engine_precision="float32", batch_rows=4))
    yield runtime
    runtime.close()


@pytest.mark.slow
def test_helper_processes_report_theirs_meanwhile_and_can_be_stopped(
    two: LocalRuntime, tmp_path: Path
) -> None:
    engine = two.engine(model_directory(tmp_path))
    helper = psutil.Process(two.processes[0].pid)
    prompts = [np.arange(5, 5 + length) for length in (3, 9, 4, 6, 5, 8)]
    sampling = Sampling(n=4, max_tokens=60)
    reported: list[list[int]] = []
    engine.generate(prompts, sampling)  # what is made at first use is made

    def wait_for_the_helper(found: dict[int, list[Completion]]) -> None:
        if not reported:
            assert two.pipes[0].poll(LIMIT_S), "the helper reports nothing"
        reported.append(list(found))

    groups = engine.generate(prompts, sampling, list(range(6)), wait_for_the_helper)
    assert sorted(place for found in reported for place in found) == list(range(6))
    (_, theirs) = two.shared([len(prompt) for prompt in prompts])
    first = next(number for number, found in enumerate(reported) if set(found) & set(theirs))
    assert any(
        set(found) - set(theirs) for found in reported[first + 1 :]
    )  # before this process had done its own
    alone = NativeEngine(model(), [tokenizer().eos_id]).generate(prompts, sampling, list(range(6)))
    assert [[one.token_ids.tolist() for one in group] for group in groups] == [
        [one.token_ids.tolist() for one in group] for group in alone
    ]

    calls: list[int] = []

    def enough(found: dict[int, list[Completion]]) -> None:
        calls.append(len(found))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate(prompts * 200, sampling, done=enough)
    two.close()
    assert len(calls) == 1 and sum(calls) < 600
    assert not helper.is_running() or helper.status() == psutil.STATUS_ZOMBIE


def test_the_end_of_the_work_is_not_waited_for_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work ends some time after the last it hands over, while the other thread waits for more."""
    waits: list[float] = []

    class Watched(queue.SimpleQueue):  # type: ignore[type-arg]
        def get(self, block: bool = True, timeout: float | None = None) -> object:
            try:
                return super().get(block, 20.0)
            except queue.Empty:
                waits.append(20.0)
                raise

    monkeypatch.setattr(queue, "SimpleQueue", Watched)  # worker_thread.py takes it from there
    taken = threading.Event()

    def work(hand_over):  # type: ignore[no-untyped-def]
        hand_over(7)
        assert taken.wait(30)
        time.sleep(0.1)
        return "done"

    found = []
    with WorkerThread(work) as thread:
        for handed in thread:
            found += handed
            taken.set()
        assert list(thread) == [] and thread.result() == "done"
    assert found == [7] and waits == []
