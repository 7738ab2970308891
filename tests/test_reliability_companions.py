"""Policy, reference and critic are of one step: where a file of the newest state is damaged, all of them come
from the one before."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_world import learner_config, logged, model, quiet_log, same_weights, tokenizer

from r1kit.chat import Chat
from r1kit.data.mixture import Mixture
from r1kit.engine.native import NativeEngine
from r1kit.rewards import WeightedReward
from r1kit.tasks import load_tasks
from r1kit.train import checkpoint
from r1kit.train.grpo import GRPO, GRPOConfig
from r1kit.train.learner import Learner
from r1kit.train.ppo import PPO, PPOConfig
from r1kit.train.rl_loop import train
from r1kit.train.rollouts import Policy
from r1kit.types import Rollout

pytestmark = pytest.mark.slow

STEPS, STOPPED = (
    8,
    6,
)  # the reference moves at steps 3 and 6 (GRPO), 4 (PPO), so that states have references of their own
FILES = {
    "grpo": ["state.safetensors", "reference.safetensors", "manifest.json"],
    "ppo": ["state.safetensors", "reference.safetensors", "critic.safetensors", "manifest.json"],
}
DAMAGES: dict[str, Callable[[Path], object]] = {
    "torn": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "emptied": lambda file: file.write_bytes(b""),
    "flipped": lambda file: file.write_bytes(
        file.read_bytes()[:-20] + bytes([file.read_bytes()[-20] ^ 4]) + file.read_bytes()[-19:]
    ),
    "removed": lambda file: file.unlink(),
}


class StoppedError(Exception):
    pass


class Mortal(Learner):
    stops = False

    def save(self, directory: Path, progress: Any, *rest: Any) -> None:
        super().save(directory, progress, *rest)
        if self.stops and progress["step"] == STOPPED:
            raise StoppedError


def even(rollouts: Sequence[Rollout]) -> list[float | None]:
    return [float(np.mean(r.completion.token_ids % 2 == 0)) for r in rollouts]


def run_training(algorithm: str, out: Path, stops: bool = False) -> list[Learner]:
    out.mkdir(exist_ok=True)
    settings = learner_config(context=96, learning_rate=1e-2)
    learner, reference = Mortal(model(init_std=0.05), settings), Learner(model(init_std=0.05), settings)
    learner.stops = stops
    policy = Policy(learner, NativeEngine(learner.model, [tokenizer().eos_id]), Chat(tokenizer()), reference)
    mixture = Mixture(load_tasks({"chain": {"weight": 1, "size": 40}}), "train", 5)
    shape = {
        "steps": STEPS,
        "problems": 2,
        "group": 2,
        "max_tokens": 4,
        "beta": 0.1,
        "save_every": 1,
        "gate_problems": 0,
    }
    rewards = [WeightedReward("even", 1.0, even)]
    if algorithm == "grpo":
        config = GRPOConfig(updates_per_rollout=1, reference_refresh=3, **shape)
        train(GRPO(config, policy, rewards), mixture, 7, quiet_log(out), out)
        return [learner, reference]
    critic = Learner(model(init_std=0.05, scalar_head=True), settings)
    ppo_config = PPOConfig(updates_per_rollout=2, reference_refresh=2, **shape)
    train(PPO(ppo_config, policy, rewards, critic), mixture, 7, quiet_log(out), out)
    return [learner, reference, critic]


@pytest.fixture(scope="module")
def straight(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[list[Learner], list[dict[str, Any]]]]:
    found = {}
    for algorithm in FILES:
        out = tmp_path_factory.mktemp(algorithm)
        found[algorithm] = (run_training(algorithm, out), logged(out))
    return found


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a training of each algorithm that ended when a state was saved."""
    found = {}
    for algorithm in FILES:
        found[algorithm] = tmp_path_factory.mktemp(algorithm)
        with pytest.raises(StoppedError):
            run_training(algorithm, found[algorithm], stops=True)
    return found


@pytest.mark.parametrize(
    ("algorithm", "file"), [(algorithm, file) for algorithm, files in FILES.items() for file in files]
)
@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_file_of_the_newest_state_takes_all_of_them_one_state_back(
    algorithm: str, file: str, how: str, straight: Any, stopped: Any, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(stopped[algorithm], tmp_path, dirs_exist_ok=True)
    newest = max((tmp_path / checkpoint.FOLDER).glob("step_*"))
    assert sorted(found.name for found in newest.iterdir()) == sorted(FILES[algorithm])
    DAMAGES[how](newest / file)
    capsys.readouterr()
    resumed, (wanted, rows) = run_training(algorithm, tmp_path), straight[algorithm]
    said = capsys.readouterr().err
    assert (
        said.count("warning") == 1
        and f"{newest.name}/{file}" in said
        and "Continuing from the older step_0000000" in said
    )
    assert all(
        same_weights(one.model, other.model) and one.version == other.version
        for one, other in zip(wanted, resumed, strict=True)
    )
    assert logged(tmp_path) == rows


def test_where_every_state_has_lost_its_reference_the_training_says_which_and_stops(
    stopped: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(stopped["grpo"], tmp_path, dirs_exist_ok=True)
    for file in tmp_path.rglob("reference.safetensors"):
        file.unlink()
    with pytest.raises(
        checkpoint.StateError,
        match=r"(?s)no saved state.*step_00000006/reference.*missing.*step_00000005/reference.*missing",
    ):
        run_training("grpo", tmp_path)


def test_a_state_that_was_saved_without_a_reference_is_no_state_with_one(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, torch.nn.Linear(2, 2), [], {"step": 1})
    with pytest.raises(
        checkpoint.StateError, match=r"step_00000001 was saved without reference\.safetensors"
    ):
        checkpoint.restore(tmp_path, torch.nn.Linear(2, 2), [], "reference")
