"""Some phases behind: what the engine samples while the learner learns is what the weights of so many phases
before would have sampled, to the last bit."""

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_world import (
    full_logprobs,
    learner_config,
    logged,
    model,
    model_directory,
    quiet_log,
    same_weights,
    tokenizer,
)
from torch import Tensor
from waiting import LIMIT_S, wait_until

from r1kit.chat import Chat
from r1kit.config import ConfigError, R1kitError
from r1kit.data.curriculum import CurriculumConfig
from r1kit.data.mixture import Mixture
from r1kit.engine.native import NativeEngine
from r1kit.model.decoder import LanguageModel
from r1kit.rewards import WeightedReward
from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.seeds import derive_seed
from r1kit.tasks import load_tasks
from r1kit.train.grpo import GRPO, GRPOConfig
from r1kit.train.learner import Learner, Metrics
from r1kit.train.rl_loop import deal, train
from r1kit.train.rollouts import Policy, Watch
from r1kit.types import Rollout, Row, Sampling

pytestmark = pytest.mark.slow

SHAPE: dict[str, Any] = {
    "steps": 6,
    "problems": 2,
    "group": 3,
    "max_tokens": 5,
    "beta": 0.0,
    "epsilon": 0.2,
    "aggregation": "token",
    "updates_per_rollout": 1,
    "correction": "truncate",
    "off_policy": 1,
    "save_every": 1,
    "gap_alarm": 1e-3,
}
MATRIX: dict[str, dict[str, Any]] = {
    "an update a phase": {},
    "dynamic sampling": {"updates_per_rollout": 2, "dynamic_sampling": 2, "reward": "coarse"},
    "a curriculum saved seldom": {
        "save_every": 4,
        "curriculum": CurriculumConfig(easy=0.9, hard=0.0, rest=1),
        "reward": "coarse",
    },
    "the sequence mask": {"updates_per_rollout": 2, "correction": "sequence_mask", "correction_delta": 0.02},
    "a reference that follows": {
        "updates_per_rollout": 2,
        "save_every": 2,
        "beta": 0.1,
        "reference_refresh": 3,
        "correction": "sequence",
    },
    "two phases behind": {"off_policy": 2, "save_every": 2},
    "four phases behind, with a curriculum": {
        "off_policy": 4,
        "curriculum": CurriculumConfig(easy=0.9, hard=0.0, rest=1),
        "reward": "coarse",
        "dynamic_sampling": 1,
    },
}


class KilledError(Exception):
    pass


class Mortal(Learner):
    left = -1  # updates until it dies
    before: Callable[[Sequence[Row]], None] = staticmethod(lambda rows: None)  # called with an update's rows

    def update(self, rows: Sequence[Row], objective: object, scale: float) -> Metrics:
        if self.left == 0:
            raise KilledError
        self.left -= 1
        self.before(rows)
        return super().update(rows, objective, scale)  # type: ignore[arg-type]


def fine(rollouts: Sequence[Rollout]) -> list[float | None]:
    return [float(np.mean(r.completion.token_ids % 2 == 0)) for r in rollouts]


def coarse(rollouts: Sequence[Rollout]) -> list[float | None]:
    return [float(r.completion.token_ids[0] % 2 == 0) for r in rollouts]


def configured(settings: Mapping[str, Any]) -> GRPOConfig:
    return GRPOConfig(**{**SHAPE, **{name: value for name, value in settings.items() if name != "reward"}})


def problems(config: GRPOConfig) -> Mixture:
    return Mixture(
        load_tasks({"chain": {"weight": 2, "size": 9}, "mul": {"weight": 1, "size": 5}}),
        "train",
        5,
        curriculum=config.curriculum,
    )


def rewards(settings: Mapping[str, Any]) -> list[WeightedReward]:
    return [WeightedReward("accuracy", 1.0, coarse if settings.get("reward") == "coarse" else fine)]


def learners(config: GRPOConfig) -> tuple[Mortal, Learner | None, Learner]:
    own = learner_config(context=96, learning_rate=1e-2)
    return (
        Mortal(model(init_std=0.05), own),
        Learner(model(init_std=0.05), own) if config.beta else None,
        Learner(model(init_std=0.05), own),
    )


def keepers(config: GRPOConfig) -> tuple[Learner, ...]:
    own = learner_config(context=96, learning_rate=1e-2)
    wanted = config.off_policy if config.off_policy > 1 else 0
    return tuple(Learner(model(init_std=0.05), own) for _ in range(wanted))


def engine_of(model: LanguageModel) -> NativeEngine:
    return NativeEngine(model, [tokenizer().eos_id])


def run_training(
    out: Path,
    settings: Mapping[str, Any],
    left: int = -1,
    before: Callable[[Mortal, Sequence[Row]], None] | None = None,
    engine: Callable[[LanguageModel], NativeEngine] = engine_of,
    watch: Watch | None = None,
) -> Mortal:
    out.mkdir(exist_ok=True)
    config = configured(settings)
    learner, reference, lagged = learners(config)
    learner.left = left
    if before is not None:
        learner.before = lambda rows: before(learner, rows)
    policy = Policy(learner, engine(lagged.model), Chat(tokenizer()), reference, lagged, kept=keepers(config))
    train(GRPO(config, policy, rewards(settings)), problems(config), 7, quiet_log(out), out, watch)
    return learner


@dataclass(frozen=True)
class Straight:
    """An undisturbed training: its folder, its learner, and a copy of the folder at each update, which is
    what a kill leaves there."""

    out: Path
    learner: Mortal
    killed: list[Path]


@pytest.fixture(scope="module", params=MATRIX)
def straight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    folder, killed = tmp_path_factory.mktemp("straight"), list[Path]()

    def copy(learner: Mortal, rows: Sequence[Row]) -> None:
        killed.append(folder / f"killed_{len(killed)}")
        shutil.copytree(folder / "out", killed[-1])

    learner = run_training(folder / "out", MATRIX[request.param], before=copy)
    assert len(killed) == SHAPE["steps"]
    return Straight(folder / "out", learner, killed)


@pytest.fixture
def name(straight: Straight, request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["straight"])


def test_it_is_the_sequential_loop_that_samples_with_the_weights_of_before(
    name: str, straight: Straight
) -> None:
    """The loop by hand: one thing after the other, weights kept as copies, every phase sampled after the
    updates of the one before it."""
    settings = MATRIX[name]
    config = configured(settings)

    learner, reference, lagged = learners(config)
    engine = engine_of(lagged.model)
    policy, mixture = Policy(learner, engine, Chat(tokenizer()), reference), problems(config)
    each = config.updates_per_rollout
    texts: list[str] = []
    algorithm = GRPO(config, policy, rewards(settings))
    versions: dict[int, dict[str, Tensor]] = {}
    for first in range(0, config.steps, each):
        versions[first] = {weight: tensor.clone() for weight, tensor in learner.weights().items()}
        sampler = max(0, first - config.off_policy * each)
        engine.load(versions[sampler], sampler)
        phase = algorithm.collect(mixture, derive_seed(7, "rollout", first))
        texts += [rollout.text for group in phase.groups for rollout in group]
        deals = deal(len(phase.groups), config, derive_seed(7, "split", first))
        parts, _ = algorithm.prepare(phase, deals)
        for number, part in enumerate(parts):
            step = first + number
            if reference is not None and step and step % config.reference_refresh == 0:
                reference.copy_from(learner)
            algorithm.learn(part, step, derive_seed(7, "tokens", step))
    assert same_weights(straight.learner.model, learner.model)
    assert [line["text"] for line in logged(straight.out) if "text" in line] == texts


def test_a_training_killed_at_every_step_ends_with_the_same_bytes(name: str, straight: Straight) -> None:
    for step, out in list(enumerate(straight.killed))[1:]:  # before the first step nothing is there yet
        resumed = run_training(out, MATRIX[name])
        assert same_weights(straight.learner.model, resumed.model), f"killed before step {step}"
        assert logged(out) == logged(straight.out), f"killed before step {step}"


def test_a_training_that_an_error_ended_continues_with_the_same_bytes(tmp_path: Path) -> None:
    straight = run_training(tmp_path / "straight", {})
    with pytest.raises(KilledError):
        run_training(tmp_path / "ended", {}, left=3)
    assert same_weights(straight.model, run_training(tmp_path / "ended", {}).model)
    assert logged(tmp_path / "ended") == logged(tmp_path / "straight")


def logprobs(weights: LanguageModel, row: Row) -> np.ndarray:
    """Log-probabilities of a row's sampled tokens by a pass over this row alone."""
    with torch.no_grad():
        found: np.ndarray = full_logprobs(weights, row).numpy()
    return found[row.mask[1:]]


@pytest.mark.parametrize("each", [1, 2])
def test_each_token_is_weighed_by_how_much_likelier_it_has_become(tmp_path: Path, each: int) -> None:
    """min(pi_old / mu, cap) / tokens, with pi_old and mu computed by hand: the weights before the phase's
    first update, and those one phase earlier. With one update a phase the loss weighs (test_corrections.py),
    and the rows have mu."""
    history: list[LanguageModel] = []
    ratios: list[np.ndarray] = []

    def look(learner: Mortal, rows: Sequence[Row]) -> None:
        history.append(model(init_std=0.05))
        history[-1].load_state_dict(learner.model.state_dict())
        first = (len(history) - 1) // each * each
        sampler = history[max(0, first - each)]
        for row in rows:
            old_T, sampled_T = logprobs(history[first], row), logprobs(sampler, row)
            ratios.append(np.exp(old_T - sampled_T))
            assert row.old_logprobs is not None
            np.testing.assert_allclose(
                row.old_logprobs[row.mask], sampled_T if each == 1 else old_T, atol=2e-4
            )
            weights = np.broadcast_to(np.asarray(row.weight), row.mask.shape)[row.mask]
            factors = np.ones_like(old_T) if each == 1 else np.minimum(ratios[-1], 1.05)
            weight = float(np.median(weights / factors))
            np.testing.assert_allclose(weights, weight * factors, rtol=2e-4)
            assert 1 / (6 * 5) * 0.999 < weight <= 1 / 6  # one over the update's tokens

    run_training(tmp_path, {"correction_cap": 1.05, "updates_per_rollout": each}, before=look)
    lagging = np.concatenate(ratios[1:])
    assert (
        lagging.max() > 1.05 and lagging.min() < 0.95
    )  # there was something to weigh, and something to cut off


def test_the_gap_grows_by_the_lag_and_is_not_taken_for_a_broken_engine(tmp_path: Path) -> None:
    run_training(tmp_path, {})
    metrics = [row for row in logged(tmp_path) if "policy/loss" in row]
    lag, rounding = (
        [row[f"sampling/{name}"] for row in metrics] for name in ("logp_gap_mean", "rounding_mean")
    )
    assert lag[0] < 1e-4 and all(
        gap > 10 * SHAPE["gap_alarm"] for gap in lag[1:]
    )  # the first phase is sampled by the weights that learn from it
    assert all(gap < 1e-4 for gap in rounding)


class Deaf(NativeEngine):
    """An engine on weights of its own that notes a version and takes no weights."""

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        self.version = version


class Stuck(NativeEngine):
    """An engine that takes weights and never notes their version after the gate."""

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        self.version = min(version, 1)


def test_an_engine_that_is_not_handed_the_weights_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(R1kitError, match="3 updates in a row: the engine samples from other weights"):
        run_training(
            tmp_path / "deaf", {}, engine=lambda lagged: Deaf(model(init_std=0.05), [tokenizer().eos_id])
        )
    with pytest.raises(R1kitError, match="version 2 of the weights was to sample come from version 1"):
        run_training(tmp_path / "stuck", {}, engine=lambda lagged: Stuck(lagged, [tokenizer().eos_id]))


def test_the_next_phase_is_sampled_while_this_one_is_learned_from(tmp_path: Path) -> None:
    """Every update but the last waits until the engine has begun to sample what comes next; one after the
    other, that would wait for ever."""
    begun = threading.Semaphore(0)

    class Reports(NativeEngine):
        def generate(self, *arguments: Any, **rest: Any) -> Any:
            begun.release()
            return super().generate(*arguments, **rest)

    steps = iter(range(6))

    def wait(learner: Mortal, rows: Sequence[Row]) -> None:
        step = next(steps)
        for _ in range({0: 2, 5: 0}.get(step, 1)):  # the first phase is sampled before anything is learned
            assert begun.acquire(timeout=LIMIT_S), "the next phase is not sampled"

    run_training(
        tmp_path,
        {"gate_problems": 0},
        before=wait,
        engine=lambda lagged: Reports(lagged, [tokenizer().eos_id]),
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt, KilledError])
def test_what_stops_the_learning_stops_the_sampling_and_leaves_no_thread(
    error: type[BaseException], tmp_path: Path
) -> None:
    before = set(threading.enumerate())

    def stop(learner: Mortal, rows: Sequence[Row]) -> None:
        raise error

    with pytest.raises(error):
        run_training(tmp_path, {"max_tokens": 60, "group": 16}, before=stop)
    assert set(threading.enumerate()) == before


def test_a_reward_that_stops_the_run_does_so_once_what_was_before_is_saved(tmp_path: Path) -> None:
    config = configured({})
    learner, _, lagged = learners(config)
    calls = iter(range(6))

    def breaks(rollouts: Sequence[Rollout]) -> list[float | None]:
        if next(calls) == 2:
            raise ConfigError("rewards: this cannot be scored")
        return fine(rollouts)

    policy = Policy(learner, engine_of(lagged.model), Chat(tokenizer()), None, lagged)
    with pytest.raises(ConfigError, match="this cannot be scored"):
        algorithm = GRPO(config, policy, [WeightedReward("accuracy", 1.0, breaks)])
        train(algorithm, problems(config), 7, quiet_log(tmp_path), tmp_path)
    assert [row["step"] for row in logged(tmp_path) if "policy/loss" in row] == [0, 1]


def test_two_processes_take_turns_and_sample_the_same(tmp_path: Path) -> None:
    """Helpers do one thing at a time: the next phase is sampled before or after an update, whichever comes
    first, and nothing depends on it."""
    directory = model_directory(tmp_path / "model")
    config = configured({"steps": 3})
    runtime = LocalRuntime(LocalConfig(processes=2, engine_precision="float32"))
    try:
        texts = []
        for name in ("a", "b"):
            own = learner_config(context=96, learning_rate=1e-2)
            learner, lagged = runtime.learner(directory, own), runtime.learner(directory, own)
            policy = Policy(learner, runtime.engine_of(lagged), Chat(tokenizer()), None, lagged)
            (tmp_path / name).mkdir()
            algorithm = GRPO(config, policy, rewards({}))
            train(algorithm, problems(config), 7, quiet_log(tmp_path / name), tmp_path / name)
            texts.append(logged(tmp_path / name))
        assert texts[0] == texts[1] and len(texts[0]) > 3
    finally:
        runtime.close()


def test_the_engine_is_up_to_the_lag_ahead_and_no_further(tmp_path: Path) -> None:
    """Update s waits until phases up to s + 3 were begun, and at no update one beyond that is."""
    begun: list[int] = []
    updates: list[int] = []

    class Counts(NativeEngine):
        def generate(self, *arguments: Any, **rest: Any) -> Any:
            begun.append(len(updates))
            return super().generate(*arguments, **rest)

    def wait(learner: Mortal, rows: Sequence[Row]) -> None:
        step = len(updates)
        wait_until(lambda: len(begun) >= min(6, step + 3), f"{step + 3} phases are begun at update {step}")
        updates.append(step)

    run_training(
        tmp_path,
        {"gate_problems": 0, "off_policy": 2},
        before=wait,
        engine=lambda lagged: Counts(lagged, [tokenizer().eos_id]),
    )
    assert len(begun) == 6
    assert all(done >= phase - 2 for phase, done in enumerate(begun)), begun  # never with weights to come


@pytest.mark.parametrize("lag", [1, 3])
def test_a_measurement_sees_the_learners_weights_and_changes_nothing(lag: int, tmp_path: Path) -> None:
    """Of a training that samples ahead: at every step the engine has the weights of that step, and the phases
    are sampled as if nothing were measured."""
    seen: list[tuple[int, int, bytes]] = []
    prompt = np.arange(3, 9, dtype=np.int32)

    def watch(policy: Policy, step: int) -> Metrics:
        found = policy.engine.generate([prompt], Sampling(n=1, max_tokens=4), [3])[0][0]
        alone = NativeEngine(model(init_std=0.05), [tokenizer().eos_id])
        alone.load(policy.learner.weights(), step)
        expected = alone.generate([prompt], Sampling(n=1, max_tokens=4), [3])[0][0]
        seen.append((step, found.version, found.logprobs.tobytes()))
        assert found.logprobs.tobytes() == expected.logprobs.tobytes()
        return {}

    watched = run_training(tmp_path / "watched", {"off_policy": lag}, watch=watch)
    assert [(step, version) for step, version, _ in seen] == [(step, step) for step in range(7)]
    assert len({found for _, _, found in seen}) == 7
    assert same_weights(watched.model, run_training(tmp_path / "alone", {"off_policy": lag}).model)


def test_a_lag_without_a_correction_is_refused() -> None:
    with pytest.raises(ConfigError, match="add correction: truncate"):
        GRPOConfig.parse({"off_policy": 1}, "grpo")
    with pytest.raises(ConfigError, match="less than or equal to 8"):
        GRPOConfig.parse({"off_policy": 9, "correction": "truncate"}, "grpo")


def test_a_policy_has_lagged_weights_exactly_where_they_are_used(tmp_path: Path) -> None:
    config = configured({})
    learner, _, _ = learners(config)
    policy = Policy(learner, engine_of(learner.model), Chat(tokenizer()))
    with pytest.raises(
        ConfigError, match="off_policy: 1 with no lagged learner and 0 kept ones: give Policy one"
    ):
        train(GRPO(config, policy, rewards({})), problems(config), 7, quiet_log(tmp_path), tmp_path)
    config = configured({"off_policy": 2})
    policy = Policy(learner, engine_of(learner.model), Chat(tokenizer()), None, learners(config)[2])
    with pytest.raises(
        ConfigError, match="off_policy: 2 with a lagged learner and 0 kept ones: give Policy one and 2"
    ):
        train(GRPO(config, policy, rewards({})), problems(config), 7, quiet_log(tmp_path), tmp_path)
