"""Training state on disk: whole or not at all, and what continues from it is bit for bit what would have come anyway."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_world import Spied, learner_config, random_rows, same_weights

from r1kit.config import R1kitError
from r1kit.train import checkpoint
from r1kit.train.learner import Learner
from r1kit.train.objectives import CrossEntropy


def steps(learner: Learner, first: int, last: int) -> None:
    for step in range(first, last):
        learner.update(random_rows(4, seed=step), CrossEntropy(mtp_weight=0.3), 1.0 - step / 10)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_three_steps_and_three_more_after_a_restore_equal_six_bit_for_bit(kind: str, tmp_path: Path) -> None:
    config = learner_config(kind=kind, weight_decay=0.1, learning_rate=3e-3)
    straight, first, second = Spied(config), Spied(config), Spied(config, seed=9)
    steps(straight.learner, 0, 6)
    steps(first.learner, 0, 3)
    first.learner.save(tmp_path, {"step": 3})
    assert second.learner.restore(tmp_path)["step"] == 3
    assert same_weights(first.model, second.model) and second.learner.version == 3
    steps(second.learner, 3, 6)
    assert same_weights(straight.model, second.model)


def test_tied_weights_are_stored_once_and_nothing_is_left_out(tmp_path: Path) -> None:
    spied = Spied(learner_config(kind="muon"))
    steps(spied.learner, 0, 1)
    spied.learner.save(tmp_path, {"step": 1})
    stored = load_file(tmp_path / checkpoint.FILE)
    weights = {name for name in stored if name.startswith("model.")}
    assert weights == {f"model.{name}" for name, _ in spied.model.named_parameters()} | {f"model.{name}" for name, _ in spied.model.named_buffers()}
    assert "model.lm_head.weight" not in weights and any("e_score_correction_bias" in name for name in weights)
    assert len(stored) - len(weights) == sum(len(state) for optimizer in spied.learner.optimizers for state in optimizer.state.values())


def test_a_save_that_fails_leaves_the_state_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spied, again = Spied(), Spied(seed=9)
    steps(spied.learner, 0, 1)
    spied.learner.save(tmp_path, {"step": 1})
    kept = (tmp_path / checkpoint.FILE).read_bytes()

    def torn(_tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", torn)
    with pytest.raises(OSError, match="No space"):
        spied.learner.save(tmp_path, {"step": 2})
    assert (tmp_path / checkpoint.FILE).read_bytes() == kept
    assert again.learner.restore(tmp_path)["step"] == 1


def test_the_progress_is_read_without_the_tensors(tmp_path: Path) -> None:
    assert not checkpoint.exists(tmp_path)
    checkpoint.save(tmp_path, torch.nn.Linear(2, 2), [], {"step": 7, "version": 7})
    assert checkpoint.exists(tmp_path) and checkpoint.progress_of(tmp_path / checkpoint.FILE) == {"step": 7, "version": 7}
    checkpoint.discard(tmp_path)
    checkpoint.discard(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("other", [torch.nn.Linear(3, 2), torch.nn.Linear(2, 2, bias=False)])
def test_the_state_of_another_model_is_refused(other: torch.nn.Module, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, torch.nn.Linear(2, 2), [], {"step": 1})
    before = {name: p.clone() for name, p in other.named_parameters()}
    with pytest.raises(R1kitError, match="belongs to another model"):
        checkpoint.restore(tmp_path, other, [])
    assert all(torch.equal(p, before[name]) for name, p in other.named_parameters())
