"""Reinforcement learning that is killed at every one of its steps, for save intervals that are aligned with
nothing, with and without a curriculum: always the same bytes."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_world import learner_config, logged, model, quiet_log, same_weights, tokenizer

from r1kit.chat import Chat
from r1kit.data.mixture import STATE, Mixture
from r1kit.engine.native import NativeEngine
from r1kit.interruption import Interruption
from r1kit.rewards import WeightedReward
from r1kit.tasks import load_tasks
from r1kit.train import checkpoint
from r1kit.train.grpo import GRPO, GRPOConfig
from r1kit.train.learner import Learner, Metrics
from r1kit.train.rl_loop import train
from r1kit.train.rollouts import Policy
from r1kit.types import Rollout

pytestmark = pytest.mark.slow

STEPS = 6
MATRIX: dict[str, dict[str, Any]] = {
    "a save in the middle of nothing": {"save_every": 2, "updates_per_rollout": 3},
    "accumulation over lines": {"save_every": 1, "updates_per_rollout": 2, "lines": 1},
    "a save seldom": {"save_every": 4, "updates_per_rollout": 1},
    "dynamic sampling": {
        "save_every": 1,
        "updates_per_rollout": 2,
        "dynamic_sampling": 2,
        "reward": "coarse",
    },
    "a reference that follows": {
        "save_every": 1,
        "updates_per_rollout": 2,
        "beta": 0.1,
        "reference_refresh": 3,
    },
    "Muon": {"save_every": 3, "updates_per_rollout": 1, "kind": "muon"},
}
CURRICULUM = {"curriculum": {"easy": 0.6, "hard": 0.0, "rest": 1}}


class KilledError(Exception):
    pass


class Mortal(Learner):
    left = -1  # updates until it dies
    before: Callable[[], object] = staticmethod(int)  # called before each update

    def update(self, rows: object, objective: object, scale: float) -> Metrics:
        self.before()
        if self.left == 0:
            raise KilledError
        self.left -= 1
        return super().update(rows, objective, scale)  # type: ignore[arg-type]


def fine(rollouts: Sequence[Rollout]) -> list[float | None]:
    return [float(np.mean(r.completion.token_ids % 2 == 0)) for r in rollouts]


def coarse(rollouts: Sequence[Rollout]) -> list[float | None]:
    return [float(r.completion.token_ids[0] % 16 == 0) for r in rollouts]


def even_start(rollouts: Sequence[Rollout]) -> list[float | None]:
    return [float(r.completion.token_ids[0] % 2 == 0) for r in rollouts]


def run_training(
    out: Path,
    settings: dict[str, Any],
    left: int = -1,
    interruption: Interruption | None = None,
    before: Callable[[], object] = int,
) -> Mortal:
    out.mkdir(exist_ok=True)
    shape = {
        "steps": STEPS,
        "problems": 2,
        "group": 3,
        "max_tokens": 4,
        "beta": 0.0,
        "epsilon": 0.2,
        "gate_problems": 0,
    }
    own = {name: value for name, value in settings.items() if name not in ("lines", "kind", "reward")}
    config = GRPOConfig(**{**shape, **own})
    learner_settings = learner_config(
        context=96, lines=settings.get("lines", 4), learning_rate=1e-2, kind=settings.get("kind", "adamw")
    )
    learner = Mortal(model(init_std=0.05), learner_settings)
    learner.left, learner.before = left, before
    reference = Learner(model(init_std=0.05), learner_settings) if config.beta else None
    policy = Policy(learner, NativeEngine(learner.model, [tokenizer().eos_id]), Chat(tokenizer()), reference)
    size = 4 if config.curriculum else 40  # so that problems have a next time
    tasks = load_tasks({"chain": {"weight": 2, "size": size}, "mul": {"weight": 1, "size": size}})
    mixture = Mixture(tasks, "train", 5, curriculum=config.curriculum)
    rewards = [WeightedReward("even", 1.0, coarse if settings.get("reward") == "coarse" else fine)]
    if config.curriculum:
        rewards.append(WeightedReward("accuracy", 0.5, even_start))
    log = quiet_log(out)
    log.interruption = interruption or log.interruption
    train(GRPO(config, policy, rewards), mixture, 7, log, out)
    return learner


@pytest.mark.parametrize("curriculum", [{}, CURRICULUM], ids=["all problems", "a curriculum"])
@pytest.mark.parametrize("name", MATRIX)
def test_a_training_killed_at_every_step_ends_with_the_same_bytes(
    name: str, curriculum: dict[str, Any], tmp_path: Path
) -> None:
    """What a kill leaves at each step is copied from one training."""
    settings, killed = MATRIX[name] | curriculum, list[Path]()

    def copy() -> None:
        killed.append(tmp_path / f"killed_{len(killed)}")
        shutil.copytree(tmp_path / "straight", killed[-1])

    straight = run_training(tmp_path / "straight", settings, before=copy)
    if curriculum:
        assert any(row.get("curriculum/resting") for row in logged(tmp_path / "straight"))
    assert len(killed) == STEPS
    for step, out in list(enumerate(killed))[1:]:  # before the first step nothing is there yet
        resumed = run_training(out, settings)
        assert same_weights(straight.model, resumed.model), f"killed before step {step}"
        assert logged(out) == logged(tmp_path / "straight"), f"killed before step {step}"


def test_a_training_killed_at_every_one_of_its_attempts_ends_with_the_same_bytes(tmp_path: Path) -> None:
    settings = MATRIX["accumulation over lines"]
    straight = run_training(tmp_path / "straight", settings)
    for _ in range(STEPS // 2 - 1):  # each gets two steps further
        with pytest.raises(KilledError):
            run_training(tmp_path / "killed", settings, left=2)
    assert same_weights(straight.model, run_training(tmp_path / "killed", settings).model)
    assert logged(tmp_path / "killed") == logged(tmp_path / "straight")


def test_a_training_that_is_asked_to_stop_saves_at_the_end_of_its_phase(tmp_path: Path) -> None:
    settings = MATRIX["a save seldom"] | {"updates_per_rollout": 2}
    straight, asked = run_training(tmp_path / "straight", settings), Interruption()
    asked.asked = True
    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path / "stopped", settings, interruption=asked)
    assert (
        checkpoint.progress_of(tmp_path / "stopped")["step"] == 2
    )  # long before the first save that the recipe asks for
    assert same_weights(straight.model, run_training(tmp_path / "stopped", settings).model)
    assert logged(tmp_path / "stopped") == logged(tmp_path / "straight")


@pytest.mark.parametrize("damage", ["flipped", "missing", "emptied"])
def test_a_damaged_curriculum_makes_its_state_damaged_and_the_one_before_is_taken(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"save_every": 1, "updates_per_rollout": 1} | CURRICULUM
    straight = run_training(tmp_path / "straight", settings)
    with pytest.raises(KilledError):
        run_training(tmp_path / "killed", settings, left=5)
    file = tmp_path / "killed" / checkpoint.FOLDER / "step_00000005" / STATE
    text = file.read_text()
    if damage == "missing":
        file.unlink()
    else:
        file.write_text(text.replace('"epoch": ', '"epoch": 1', 1) if damage == "flipped" else "")
    capsys.readouterr()
    resumed = run_training(tmp_path / "killed", settings)
    assert STATE in (said := capsys.readouterr().err) and "Continuing from the older step_00000004" in said
    assert same_weights(straight.model, resumed.model) and logged(tmp_path / "killed") == logged(
        tmp_path / "straight"
    )


def test_a_state_that_was_saved_without_a_curriculum_is_not_continued_with_one(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run_training(tmp_path, MATRIX["accumulation over lines"], left=3)
    with pytest.raises(checkpoint.StateError, match=rf"saved without {STATE}"):
        run_training(tmp_path, MATRIX["accumulation over lines"] | CURRICULUM)
