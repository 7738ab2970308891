"""Training state on disk: whole or not at all, and what continues from it is bit for bit what would have come
anyway."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_world import Spied, learner_config, random_rows, same_weights

from r1kit.config import R1kitError
from r1kit.train import checkpoint
from r1kit.train.checkpoint import Keep, StateError
from r1kit.train.learner import Learner
from r1kit.train.objectives import CrossEntropy


def steps(learner: Learner, first: int, last: int) -> None:
    for step in range(first, last):
        learner.update(random_rows(4, seed=step), CrossEntropy(mtp_weight=0.3), 1.0 - step / 10)


def linear(value: float = 0.0) -> torch.nn.Module:
    layer = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(layer.weight, value)
    torch.nn.init.constant_(layer.bias, value)
    return layer


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / checkpoint.FOLDER).iterdir())


def newest(directory: Path) -> Path:
    return max((directory / checkpoint.FOLDER).glob("step_*"))


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
    stored = load_file(checkpoint.find(tmp_path) / checkpoint.FILE)
    weights = {name for name in stored if name.startswith("model.")}
    assert weights == {f"model.{name}" for name, _ in spied.model.named_parameters()} | {
        f"model.{name}" for name, _ in spied.model.named_buffers()
    }
    assert "model.lm_head.weight" not in weights and any(
        "e_score_correction_bias" in name for name in weights
    )
    assert len(stored) - len(weights) == sum(
        len(state) for optimizer in spied.learner.optimizers for state in optimizer.state.values()
    )


def test_a_save_that_fails_leaves_the_states_before_it_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spied, again = Spied(), Spied(seed=9)
    steps(spied.learner, 0, 1)
    spied.learner.save(tmp_path, {"step": 1})

    def torn(_tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", torn)
    with pytest.raises(
        StateError,
        match=r"step_00000002: the state could not be written: No space left on device; free space",
    ):
        spied.learner.save(tmp_path, {"step": 2})
    assert names(tmp_path) == ["step_00000001"] and again.learner.restore(tmp_path)["step"] == 1


def test_the_progress_is_read_without_the_tensors_and_a_stage_with_its_result_keeps_nothing(
    tmp_path: Path,
) -> None:
    assert not checkpoint.exists(tmp_path)
    checkpoint.save(tmp_path, linear(), [], {"step": 7, "version": 7})
    assert checkpoint.exists(tmp_path) and checkpoint.progress_of(tmp_path) == {"step": 7, "version": 7}
    checkpoint.discard(tmp_path)
    checkpoint.discard(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(StateError, match="no saved state can be trusted: there is none"):
        checkpoint.progress_of(tmp_path)


@pytest.mark.parametrize("other", [torch.nn.Linear(3, 2), torch.nn.Linear(2, 2, bias=False)])
def test_the_state_of_another_model_is_refused(other: torch.nn.Module, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, linear(), [], {"step": 1})
    before = {name: p.clone() for name, p in other.named_parameters()}
    with pytest.raises(R1kitError, match="belongs to another model"):
        checkpoint.restore(tmp_path, other, [])
    assert all(torch.equal(p, before[name]) for name, p in other.named_parameters())


def test_two_states_are_kept_and_every_hundredth(tmp_path: Path) -> None:
    for step in (50, 100, 150, 200, 250):
        checkpoint.save(tmp_path, linear(), [], {"step": step}, Keep(every=100))
    assert names(tmp_path) == ["step_00000100", "step_00000200", "step_00000250"]
    checkpoint.save(tmp_path, linear(), [], {"step": 300}, Keep(last=3))
    assert names(tmp_path) == ["step_00000200", "step_00000250", "step_00000300"]
    with pytest.raises(ValueError, match=r"keep\.last: 1 state would leave nothing if it is damaged"):
        Keep(last=1)


def test_the_older_state_goes_only_when_the_newer_one_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, linear(), [], {"step": step})

    def cut(_folder: Path, _name: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "rename_whole", cut)
        with pytest.raises(StateError, match="Input/output error"):
            checkpoint.save(tmp_path, linear(), [], {"step": 3})
    assert names(tmp_path) == ["step_00000001", "step_00000002"]


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(bytes(content))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "torn": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "one byte short": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "emptied": lambda file: file.write_bytes(b""),
    "first bit flipped": lambda file: flip(file, 0),
    "a bit in the middle flipped": lambda file: flip(file, file.stat().st_size * 4),
    "last byte flipped": lambda file: flip(file, file.stat().st_size * 8 - 9),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"x"),
    "missing": lambda file: file.unlink(),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
}


@pytest.mark.parametrize("file", [checkpoint.FILE, checkpoint.MANIFEST])
@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_newest_state_is_passed_over_with_one_warning(
    file: str, how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (3, 6):
        checkpoint.save(tmp_path, linear(step), [], {"step": step})
    DAMAGES[how](newest(tmp_path) / file)
    found = linear()
    assert checkpoint.restore(tmp_path, found, []) == {"step": 3}
    assert torch.equal(found.weight, torch.full((2, 2), 3.0))  # type: ignore[arg-type]
    warning = capsys.readouterr().err
    assert (
        warning.count("warning") == 1
        and f"step_00000006/{file}" in warning
        and "Continuing from the older step_00000003" in warning
    )
    assert names(tmp_path) == ["damaged_step_00000006", "step_00000003"]
    checkpoint.restore(tmp_path, found, [])
    assert capsys.readouterr().err == ""
    checkpoint.save(tmp_path, linear(6), [], {"step": 6})
    assert checkpoint.progress_of(tmp_path) == {"step": 6} and "step_00000003" in names(tmp_path)


@pytest.mark.parametrize("place", range(0, 100, 7))
def test_any_flipped_bit_of_a_manifest_is_noticed(place: int, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, linear(), [], {"step": 3, "version": 3})
    manifest = newest(tmp_path) / checkpoint.MANIFEST
    flip(manifest, manifest.stat().st_size * 8 * place // 100)
    with pytest.raises(StateError, match=r"manifest\.json"):
        checkpoint.progress_of(tmp_path)


def test_where_no_state_is_whole_nothing_is_loaded_or_moved(tmp_path: Path) -> None:
    for step in (3, 6):
        checkpoint.save(tmp_path, linear(step), [], {"step": step})
    for state in (tmp_path / checkpoint.FOLDER).iterdir():
        DAMAGES["torn"](state / checkpoint.FILE)
    found = linear(1.0)
    with pytest.raises(
        StateError, match=r"(?s)no saved state can be trusted:.*step_00000006.*bytes.*step_00000003.*--from"
    ):
        checkpoint.restore(tmp_path, found, [])
    assert torch.equal(found.weight, torch.ones(2, 2)) and checkpoint.exists(tmp_path)  # type: ignore[arg-type]
    assert names(tmp_path) == ["step_00000003", "step_00000006"]


def test_the_state_of_another_run_is_not_taken(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    for folder, owner in ((mine, "a"), (theirs, "b")):
        checkpoint.save(folder, linear(), [], {"step": 5}, owners=(owner, "the one before"))
    shutil.copytree(theirs, mine, dirs_exist_ok=True)
    for read in (
        lambda owners: checkpoint.restore(mine, linear(), [], owners=owners),
        lambda owners: checkpoint.progress_of(mine, owners),
    ):
        for owners in (("a",), ("the one before", "a")):
            with pytest.raises(StateError, match="belongs to another run or to another configuration"):
                read(owners)
        assert read(("b",)) == read(("a", "b")) == read(()) == {"step": 5}


def saved_in(run: Path, part: str, step: int = 5, owner: str = "a") -> Path:
    """The folder of a part of a stage's, with a saved state."""
    stage, _, inner = part.partition("/")
    folder = run / "stages" / f"{stage}.partial" / inner
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save(folder, linear(step), [], {"step": step}, owners=(owner,))
    return folder


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ("distill/sft", "distill", r"it belongs to part sft of stage distill, not to stage distill$"),
        ("distill", "distill/sft", r"it belongs to stage distill, not to part sft of stage distill$"),
        (
            "judges/helpful",
            "judges/safety",
            r"part helpful of stage judges, not to part safety of stage judges",
        ),
        ("zero", "reasoning", r"it belongs to stage zero, not to stage reasoning$"),
    ],
)
def test_a_state_of_another_part_or_stage_is_refused_with_both_names(
    source: str, target: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even where both have one owner, as the parts of a stage do."""
    here, there = saved_in(tmp_path, target), saved_in(tmp_path, source, 9)
    moved = here / checkpoint.FOLDER / "step_00000009"
    shutil.copytree(newest(there), moved)
    assert re.search(says, checkpoint.damage_of(moved, ("a",)) or "")
    assert checkpoint.damage_of(moved, ()) and checkpoint.damage_of(newest(there), ("a",)) is None
    found = linear()
    assert checkpoint.restore(here, found, [], owners=("a",)) == {"step": 5}  # its own, with a warning
    assert "it belongs to" in capsys.readouterr().err
    assert torch.equal(found.weight, torch.full((2, 2), 5.0))  # type: ignore[arg-type]
    shutil.rmtree(here / checkpoint.FOLDER)
    shutil.copytree(there / checkpoint.FOLDER, here / checkpoint.FOLDER)
    with pytest.raises(StateError, match=r"(?s)no saved state can be trusted:.*it belongs to.*--from"):
        checkpoint.restore(here, found, [], owners=("a",))


def test_a_run_that_was_moved_goes_on(tmp_path: Path) -> None:
    saved_in(tmp_path / "one", "distill/sft")
    (tmp_path / "one").rename(tmp_path / "other")
    here = tmp_path / "other/stages/distill.partial/sft"
    assert checkpoint.progress_of(here, ("a",)) == {"step": 5}


def test_a_state_in_the_folder_of_another_step_is_refused(tmp_path: Path) -> None:
    here = saved_in(tmp_path, "zero", 3)
    newest(here).rename(here / checkpoint.FOLDER / "step_00000009")
    with pytest.raises(StateError, match=r"it is the state of step 3, in the folder of another step"):
        checkpoint.progress_of(here, ("a",))


@pytest.mark.parametrize("file", [checkpoint.FILE, checkpoint.MANIFEST])
def test_a_file_of_another_states_folder_is_noticed(file: str, tmp_path: Path) -> None:
    for step in (6, 9):
        checkpoint.save(tmp_path, linear(step), [], {"step": step}, owners=("a",))
    six, nine = sorted((tmp_path / checkpoint.FOLDER).iterdir())
    shutil.copy(six / file, nine / file)
    assert checkpoint.damage_of(nine, ("a",)) and checkpoint.progress_of(tmp_path, ("a",)) == {"step": 6}


def test_leftovers_of_a_killed_save_are_no_state_and_go_with_the_next_one(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, linear(), [], {"step": 1})
    shutil.copytree(newest(tmp_path), tmp_path / checkpoint.FOLDER / ".step_00000002.tmp")
    assert checkpoint.progress_of(tmp_path) == {"step": 1}
    checkpoint.save(tmp_path, linear(), [], {"step": 3})
    assert names(tmp_path) == ["step_00000001", "step_00000003"]


def test_states_that_are_discarded_are_never_half_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, linear(), [], {"step": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(OSError, match=r"Input/output error.*train_state"):
            checkpoint.discard(tmp_path)
    assert not checkpoint.exists(tmp_path)  # what is left has another name
    checkpoint.save(tmp_path, linear(), [], {"step": 1})
    checkpoint.discard(tmp_path)
    assert not list(tmp_path.iterdir())
