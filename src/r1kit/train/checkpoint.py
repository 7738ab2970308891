"""Training state on disk: weights, optimizer tensors and progress, each save a folder that is there whole or
not at all. No pickle.

    train_state/step_00000040/state.safetensors  the learner's tensors; NAME.safetensors: another learner's
    train_state/step_00000040/manifest.json      progress, owner, part, SHA-256 of every file and of itself

A state is written under a temporary name, flushed to the disk and renamed; older states are removed only
after that. Before a state is loaded its files are checked against the manifest, so training never continues
from a torn, truncated, altered, missing or foreign file. The newest undamaged state is loaded. Later steps
are a function of it, so a damaged newer state costs time but changes no result. Policy, reference and critic
are files of one state, so they belong to the same step.

A state records its owner, which is one hash for the identity and the setting of the stage that saved it, and
the part of the run that its folder is (records.part_of): a stage may train several models. A reader passes
the ``owners`` that it accepts: the stage's own and those accepted by --allow-change (none given: any). A
state in the folder of another part, or of another step, is refused."""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from r1kit.config import R1kitError
from r1kit.files import (
    hash_file,
    hash_text,
    make_folder,
    remove_at_once,
    remove_tree,
    rename_whole,
    write_whole,
)
from r1kit.records import STATES, part_of

FILE = "state.safetensors"
MANIFEST = "manifest.json"
FOLDER = STATES
_DAMAGED = "damaged_"
_KEYS = ("progress", "owner", "part", "files")

Learned = tuple[nn.Module, Sequence[torch.optim.Optimizer]]


class StateError(R1kitError):
    """The training state cannot be written, or no written state is undamaged."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Which states are kept: the newest ``last`` (at least two, in case one is damaged) and those of every
    ``every``-th step (0: none)."""

    last: int = 2
    every: int = 0

    def __post_init__(self) -> None:
        if self.last < 2:
            raise ValueError(
                f"keep.last: {self.last} state would leave nothing if it is damaged; keep at least 2"
            )


def save(
    directory: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    progress: Mapping[str, int],
    keep: Keep | None = None,
    texts: Mapping[str, str] = {},
    others: Mapping[str, Learned] = {},
    owners: Sequence[str] = (),
) -> None:
    """Write the state of step ``progress["step"]`` atomically, then remove the states that ``keep`` does not
    keep. ``texts`` are further files of the state, by name; ``others`` further models with their optimizers.
    The state belongs to the first of ``owners``.

    Raises StateError where the disk refuses; the states before it are then as they were.
    """
    temporary = temporary_of(directory, progress["step"])
    try:
        begin(temporary)
        tensors = {FILE: (model, optimizers), **{file_of(name): other for name, other in others.items()}}
        for name, learned in tensors.items():
            save_file(_tensors(*learned), temporary / name, metadata=_base(learned[0]))
        marks = {name: mark_of(temporary / name) for name in tensors}
        finish(directory, temporary, progress, texts, marks, owners)
    except Exception as error:  # a boundary: safetensors raises its own errors for a full disk
        raise could_not_write(directory, progress["step"], error) from error
    let_go(directory, keep or Keep())


def temporary_of(directory: Path, step: int) -> Path:
    """The folder in which the state of a step is written, before it gets its own name."""
    return directory / FOLDER / f".{_folder_name(step)}.tmp"


def begin(temporary: Path) -> None:
    """Make the folder for a new state, and remove what earlier saves have left."""
    make_folder(temporary.parent)
    for stale in temporary.parent.glob(".*.tmp"):
        remove_tree(stale)
    temporary.mkdir()


def finish(
    directory: Path, temporary: Path, progress: Mapping[str, int], texts: Mapping[str, str],
    marks: Mapping[str, Mapping[str, Any]], owners: Sequence[str],
) -> None:  # fmt: skip
    """Add the ``texts`` and the manifest to files of tensors with these ``marks``, and give the folder the
    name of its step."""
    for name, text in texts.items():
        write_whole(temporary / name, text)
    files = {**marks, **{name: mark_of(temporary / name) for name in texts}}
    owner = {"owner": next(iter(owners), None), "part": part_of(directory)}
    write_whole(temporary / MANIFEST, _text({"progress": dict(progress), **owner, "files": files}))
    final = directory / FOLDER / _folder_name(progress["step"])
    if final.exists():  # the same step was saved before
        remove_at_once(final)
    rename_whole(temporary, final)


def could_not_write(directory: Path, step: int, error: Exception | str) -> StateError:
    """The error of a state that could not be written; what there is of it is removed."""
    shutil.rmtree(temporary_of(directory, step), ignore_errors=True)
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    final = directory / FOLDER / _folder_name(step)
    return StateError(f"{final}: the state could not be written: {why}; free space or repair the disk")


def exists(directory: Path) -> bool:
    """Whether a state was ever saved, damaged or not."""
    return bool(_saved(directory))


def discard(directory: Path) -> None:
    """Remove all states, once the stage has its result."""
    if (directory / FOLDER).exists():
        remove_at_once(directory / FOLDER)


def find(directory: Path, owners: Sequence[str] = ()) -> Path:
    """The newest state that is whole and belongs to one of ``owners``. Damaged ones above it are renamed,
    with a warning; raises StateError where none is whole."""
    found, damages = _newest_whole(directory, owners)
    if found is None:
        listed = "\n  ".join(damages) or "there is none"
        raise StateError(
            f"{directory / FOLDER}: no saved state can be trusted:\n  {listed}\nBring back a copy, or "
            "redo the stage with --from"
        )
    if damages:
        print(
            f"r1kit: warning: {'; '.join(damages)}. Continuing from the older {found.name}, which is whole",
            file=sys.stderr,
        )
    for state in _saved(directory):
        if state > found:
            shutil.rmtree(state.with_name(_DAMAGED + state.name), ignore_errors=True)
            state.rename(state.with_name(_DAMAGED + state.name))
    return found


def file_of(name: str) -> str:
    """The file of a learner's tensors; the policy's where there is no name."""
    return f"{name}.safetensors" if name else FILE


def restore(
    directory: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    name: str = "",
    owners: Sequence[str] = (),
) -> dict[str, int]:
    """Load the newest whole state into the model and its optimizers, or what was saved with it under a
    name; return the progress. Raises StateError as ``find``, and where the state is another model's."""
    state = find(directory, owners)
    file = _part(state, file_of(name))
    tensors = load_file(file)
    own = _own(model)
    found = {
        name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")
    }
    if set(found) != set(own) or any(found[name].shape != own[name].shape for name in own):
        raise StateError(
            f"{file} belongs to another model; delete {state.name}, or run the stage again with --from"
        )
    _require_base(file, model)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(found[name])
    for number, optimizer in enumerate(optimizers):
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            parts = name.split(".")
            if parts[0] == "optimizer" and int(parts[1]) == number:
                moments.setdefault(int(parts[2]), {})[parts[3]] = tensor
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress_in(state)


def read(directory: Path, step: int, name: str) -> str:
    """Read a text file of the undamaged state of a step. Raises StateError where the state was saved without
    it."""
    return _part(directory / FOLDER / _folder_name(step), name).read_text(encoding="utf-8")


def progress_of(directory: Path, owners: Sequence[str] = ()) -> dict[str, int]:
    """The progress of the newest whole state, without loading its tensors. Raises StateError where none is
    whole."""
    found, damages = _newest_whole(directory, owners)
    if found is None:
        raise StateError(
            f"{directory / FOLDER}: no saved state can be trusted: {'; '.join(damages) or 'there is none'}"
        )
    return progress_in(found)


def damage_of(state: Path, owners: Sequence[str] = ()) -> str | None:
    """What is wrong with a state's folder, None where it is whole and belongs to one of ``owners``."""
    try:
        text = (state / MANIFEST).read_text(encoding="utf-8")
        own: dict[str, Any] = {key: json.loads(text)[key] for key in _KEYS}
        if text != _text(own):
            return f"{state / MANIFEST}: its content is not what was written"
        for name, mark in own["files"].items():
            if not (state / name).is_file():
                return f"{state / name}: missing"
            if (size := (state / name).stat().st_size) != mark["bytes"]:
                return f"{state / name}: {size} bytes, {mark['bytes']} were written"
            if hash_file(state / name) != mark["sha256"]:
                return f"{state / name}: its SHA-256 is not that of what was written"
    except FileNotFoundError:
        return f"{state / MANIFEST}: missing"
    except OSError as error:
        return f"{state}: cannot be read: {error.strerror or error}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{state / MANIFEST}: not the JSON that was written"
    return _foreign(state, own, owners)


def _foreign(state: Path, own: Mapping[str, Any], owners: Sequence[str]) -> str | None:
    """Why a whole state does not belong where it is, None where it does."""
    part = part_of(state.parents[1])
    if own["part"] != part and (part or owners):
        return f"{state}: it belongs to {_named(own['part'])}, not to {_named(part)}"
    if owners and own["owner"] not in owners:
        return (
            f"{state}: it belongs to another run or to another configuration of this stage (owner "
            f"{str(own['owner'])[:12]}; this stage is {owners[0][:12]})"
        )
    if state.name != _folder_name(own["progress"]["step"]):
        return f"{state}: it is the state of step {own['progress']['step']}, in the folder of another step"
    return None


def _named(part: str) -> str:
    stage, _, inner = part.partition("/")
    return (f"part {inner} of stage {stage}" if inner else f"stage {stage}") if part else "no stage of a run"


def state_of(directory: Path, step: int) -> Path:
    """The folder of the state of a step."""
    return directory / FOLDER / _folder_name(step)


def _folder_name(step: int) -> str:
    return f"step_{step:08d}"


def _newest_whole(directory: Path, owners: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The newest whole state, and what is wrong with those above it."""
    damages: list[str] = []
    for state in _saved(directory):
        damage = damage_of(state, owners)
        if damage is None:
            return state, damages
        damages.append(damage)
    return None, damages


def _part(state: Path, name: str) -> Path:
    file = state / name
    if not file.is_file():
        raise StateError(
            f"{state} was saved without {name}: the recipe did not use it then; change the recipe back "
            "or run the stage again with --from"
        )
    return file


def _saved(directory: Path) -> list[Path]:
    """Folders of saved states, the newest first."""
    return sorted((directory / FOLDER).glob("step_*"), reverse=True)


def let_go(directory: Path, keep: Keep) -> None:
    """Remove the states that are no longer kept. A failure to remove is ignored: the new state is written
    already."""
    states = directory / FOLDER
    for state in sorted(states.glob("step_*"), reverse=True)[keep.last :]:
        if not (keep.every and int(state.name.removeprefix("step_")) % keep.every == 0):
            try:
                remove_at_once(state)
            except OSError as error:
                print(
                    f"r1kit: warning: {state}: the old state could not be removed: {error.strerror or error}",
                    file=sys.stderr,
                )


def progress_in(state: Path) -> dict[str, int]:
    """The progress of a state, by its folder."""
    progress: dict[str, int] = json.loads((state / MANIFEST).read_text(encoding="utf-8"))["progress"]
    return progress


def mark_of(file: Path) -> dict[str, Any]:
    """The hash and the size of a file, for a manifest."""
    return {"sha256": hash_file(file), "bytes": file.stat().st_size}


def _text(manifest: Mapping[str, Any]) -> str:
    """The text of a manifest file, with its own hash at the end."""
    return (
        json.dumps({**manifest, "sha256": hash_text(json.dumps(manifest, sort_keys=True))}, indent=1) + "\n"
    )


def _tensors(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in _own(model).items()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optimizer.{number}.{index}.{key}"] = torch.as_tensor(value).contiguous()
    return tensors


def _own(model: nn.Module) -> dict[str, Tensor]:
    """Trained parameters and buffers, each once (tied weights share one tensor). Where adapters are trained
    the weights below them are not part of the state, only their hash (``_base``)."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {**trained, **dict(model.named_buffers())}


def _base(model: nn.Module) -> dict[str, str] | None:
    """The hash of the weights that are not part of the state, where there are any."""
    base = getattr(model, "base", "")
    return {"base": base} if base else None


def _require_base(file: Path, model: nn.Module) -> None:
    """Raise StateError where a state's adapters were trained on other weights than the model's."""
    with safe_open(file, framework="pt") as opened:
        found = (opened.metadata() or {}).get("base", "")
    if found != getattr(model, "base", ""):
        raise StateError(
            f"{file} belongs to adapters on other weights than those of the model that the stage starts "
            "from; bring back that model, or run the stage again with --from"
        )
