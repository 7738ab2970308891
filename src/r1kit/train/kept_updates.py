"""Updates of an RL training that are kept, so that ``r1kit why`` can replay them.

    updates/step_00000030/update.json           the step, its seed, the algorithm, the weights of the rewards
    updates/step_00000030/rollouts.jsonl        a line for each rollout of the update, as in samples/
    updates/step_00000030/rollouts.safetensors  their token ids and log-probabilities, as they were sampled
    updates/step_00000030/train_state/          the state before the update (checkpoint.py)

A training keeps a few updates, spread evenly over its steps, and those that the recipe lists. The state
before step 0 is the model that the stage starts from, so it is not written again. The states of one training
take a bounded space; an update whose state would exceed it is kept without one, and then only its rewards
and advantages can be computed again. An update of more than MOST_TOKENS tokens is not kept.

Keeping reads the policy and changes nothing in it. Where the disk refuses, the training goes on without."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from r1kit.config import Config, R1kitError
from r1kit.files import remove_tree, write_whole
from r1kit.log import Log
from r1kit.marks import FileMark, mark_damages, mark_file
from r1kit.records import KEPT, UPDATE_MARKS, UPDATES, DamageError, read_typed, sealed_text
from r1kit.train.checkpoint import MANIFEST, StateError, damage_of, state_of
from r1kit.train.learner import LearnerConfig, LearnerProtocol
from r1kit.train.rollouts import Phase, Policy, record
from r1kit.types import Completion, Problem, Rollout, Score

REFERENCE = "reference"  # its name in a state
MOST_TOKENS = 4_000_000  # of an update, prompts included
_NOTE = "update.json"
_LINES = "rollouts.jsonl"
_ARRAYS = "rollouts.safetensors"
_BRING_BACK = "This is a part of the stage's result. Bring back a copy, or redo the stage with --from."
_FIX = "The update cannot be replayed; another one, or another run, can."


class KeepConfig(Config):
    """Which updates of a training ``r1kit why`` can replay: ``updates`` of them spread evenly over the steps
    (0: none), and those of the steps ``at``. Their states take at most ``megabytes``."""

    updates: int = Field(default=4, ge=0)
    at: tuple[int, ...] = ()
    megabytes: int = Field(default=100, ge=0)

    def steps(self, steps: int) -> list[int]:
        """The steps that are kept of a training of so many."""
        last, most = steps - 1, min(self.updates, steps)
        spread = {round(place * last / max(1, most - 1)) for place in range(most)}
        return sorted(spread | {step for step in self.at if 0 <= step < steps})

    def with_state(self, steps: int, state_bytes: int) -> set[int]:
        """The steps whose state is kept too, where one takes so many bytes: those of ``at`` first, then the
        latest. Step 0 needs none."""
        chosen = [step for step in self.steps(steps) if step]
        by_rank = sorted(chosen, key=lambda step: (step not in self.at, -step))
        return {0, *by_rank[: self.megabytes * 1_000_000 // max(1, state_bytes)]}


class _Note(Config):
    """The content of update.json. ``reference``: where the reference's weights are: "" (there is none),
    "init" (the model that the stage starts from) or "state". ``groups``: rollouts of each group; ``files``:
    the marks of the files with the rollouts."""

    step: int
    seed: int
    algorithm: dict[str, object]
    weights: dict[str, float]
    groups: tuple[int, ...]
    whole_phase: bool
    has_state: bool
    state_bytes: int
    reference: str = ""
    files: dict[str, FileMark] = {}


class _Marks(Config):
    """The marks of the notes of the updates that an unfinished training has kept, by step."""

    notes: dict[int, FileMark] = {}


@dataclass(frozen=True, slots=True)
class KeptUpdate:
    """One kept update. ``part``: the rollouts with their scores. ``whole_phase``: the phase has no other
    update. ``has_state``: the weights before it are known; where not, a state would take ``state_bytes``."""

    folder: Path
    step: int
    seed: int
    algorithm: Mapping[str, object]
    weights: Mapping[str, float]
    part: Phase
    whole_phase: bool
    has_state: bool
    state_bytes: int
    reference: str


@dataclass
class UpdateKeeper:
    """Keeps updates of one training in its folder ``out``. ``state_bytes``: the size of one state."""

    out: Path
    config: KeepConfig
    algorithm: Config
    weights: Mapping[str, float]
    steps: int
    state_bytes: int
    log: Log
    _stopped: bool = field(default=False, init=False)

    def keep(self, step: int, seed: int, part: object, policy: Policy, phase: Phase, refresh: int) -> None:
        """Keep the update of ``step``, which is about to be made from ``part``, if it is one of the chosen.
        ``refresh``: after so many steps the policy becomes the reference (0: never)."""
        if self._stopped or step not in self.config.steps(self.steps) or not isinstance(part, Phase):
            return
        if sum(_tokens(rollout) for group in part.groups for rollout in group) > MOST_TOKENS:
            return
        folder = self.out / UPDATES / f"step_{step:08d}"
        try:
            self.log.check_place()
            if folder.exists():
                remove_tree(folder)
            folder.mkdir(parents=True)
            _write_rollouts(folder, part)
            moved = policy.reference is not None and bool(refresh) and step >= refresh
            has_state = step in self.config.with_state(self.steps, self.state_bytes)
            if has_state and step:
                others: dict[str, LearnerProtocol] = {REFERENCE: policy.reference} if moved else {}  # type: ignore[dict-item]
                policy.learner.save(folder, {"step": step, "drawn": 0}, {}, others)
            names = [_LINES, _ARRAYS]
            if has_state and step:  # a result, the same in every folder, so the state has no owner
                names.append((state_of(folder, step) / MANIFEST).relative_to(folder).as_posix())
            note = _Note(
                step=step,
                seed=seed,
                algorithm=self.algorithm.model_dump(mode="json"),
                weights=dict(self.weights),
                groups=tuple(len(group) for group in part.groups),
                whole_phase=len(part.groups) == len(phase.groups),
                has_state=has_state,
                state_bytes=self.state_bytes,
                reference="" if policy.reference is None else "state" if moved else "init",
                files={name: mark_file(folder / name) for name in names},
            )
            write_whole(folder / _NOTE, sealed_text(note.model_dump(mode="json")))
            self._mark(step, folder)
        except (OSError, SafetensorError, StateError) as error:
            self._stopped = True
            reason = getattr(error, "strerror", None) or error
            self.log.info(f"warning: {folder}: not kept for r1kit why: {reason}; the training goes on")

    def check(self, start: int) -> None:
        """Check what an earlier attempt of the training kept before step ``start``: it becomes a part of the
        result. Raises DamageError naming what is not as it was written."""
        marks = read_typed(_Marks, self._marks_file, _BRING_BACK)
        for step, mark in (marks.notes if marks is not None else {}).items():
            if step < start:
                _require_whole(self.out / UPDATES / f"step_{step:08d}", mark)

    @property
    def _marks_file(self) -> Path:
        return self.out / KEPT / UPDATE_MARKS

    def _mark(self, step: int, folder: Path) -> None:
        """Note that the update of a step is whole."""
        known = read_typed(_Marks, self._marks_file, _BRING_BACK) or _Marks()
        marks = _Marks(notes={**known.notes, step: mark_file(folder / _NOTE)})
        self._marks_file.parent.mkdir(exist_ok=True)
        write_whole(self._marks_file, sealed_text(marks.model_dump(mode="json")))


def kept_steps(out: Path) -> list[int]:
    """The steps whose updates a stage's folder has."""
    found = []
    for note in (out / UPDATES).glob(f"step_*/{_NOTE}"):
        number = note.parent.name.removeprefix("step_")
        found += [int(number)] if number.isdecimal() else []
    return sorted(found)


def read_update(out: Path, step: int) -> KeptUpdate:
    """The kept update of a step. Raises DamageError where its files are not as they were written."""
    folder = out / UPDATES / f"step_{step:08d}"
    note = read_typed(_Note, folder / _NOTE, _FIX, tuple(_Note.model_fields))
    if note is None:
        raise DamageError(f"{folder / _NOTE}: missing\n{_FIX}")
    if damages := list(mark_damages(folder, note.files, "the training")):
        raise DamageError("\n".join([*damages, _FIX]))
    try:
        rows = [json.loads(line) for line in (folder / _LINES).read_text(encoding="utf-8").splitlines()]
        part = _read_rollouts(rows, load_file(folder / _ARRAYS), note.groups)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamageError(f"{folder}: the kept rollouts cannot be read: {error}\n{_FIX}") from None
    return KeptUpdate(
        folder, note.step, note.seed, note.algorithm, note.weights, part, note.whole_phase, note.has_state,
        note.state_bytes, note.reference,
    )  # fmt: skip


def _require_whole(folder: Path, mark: FileMark) -> None:
    """Raise DamageError where a kept update is not as it was written."""
    damages = list(mark_damages(folder, {_NOTE: mark}, "the training"))
    note = None if damages else read_typed(_Note, folder / _NOTE, _BRING_BACK)
    if note is not None:
        damages = list(mark_damages(folder, note.files, "the training"))
        if note.has_state and note.step and (damage := damage_of(state_of(folder, note.step))):
            damages.append(damage)
    if damages:
        raise DamageError("\n".join([*damages, _BRING_BACK]))


def state_bytes(model: Path, config: LearnerConfig) -> int:
    """About how many bytes a state of a learner on the model of this folder takes: each trained number with
    two moments, in float32."""
    shapes: list[list[int]] = []
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, framework="np") as opened:
            shapes += [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118
    if config.lora is None:
        return 12 * sum(int(np.prod(shape)) for shape in shapes)
    return 12 * config.lora.rank * sum(sum(shape) for shape in shapes if len(shape) == 2)


def _tokens(rollout: Rollout) -> int:
    return len(rollout.prompt_ids) + len(rollout.completion.token_ids)


def _write_rollouts(folder: Path, part: Phase) -> None:
    rollouts = [rollout for group in part.groups for rollout in group]
    scores = [score for group in part.scores_PG for score in group]
    lines = [record(rollout, score, {}) for rollout, score in zip(rollouts, scores, strict=True)]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_whole(folder / _LINES, text)
    arrays = {
        "prompt_lengths": np.array([len(one.prompt_ids) for one in rollouts], dtype=np.int64),
        "lengths": np.array([len(one.completion.token_ids) for one in rollouts], dtype=np.int64),
        "prompt_ids": _joined([one.prompt_ids for one in rollouts], np.int32),
        "token_ids": _joined([one.completion.token_ids for one in rollouts], np.int32),
        "logprobs": _joined([one.completion.logprobs for one in rollouts], np.float32),
    }
    if part.old_PG:
        arrays["old"] = _joined([old_T for group in part.old_PG for old_T in group], np.float32)
    experts = [one.completion.experts for one in rollouts]
    if rollouts and all(found is not None for found in experts):
        arrays["experts"] = np.concatenate([found for found in experts if found is not None])
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / _ARRAYS)


def _joined(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype)


def _read_rollouts(
    rows: Sequence[Mapping[str, object]], arrays: Mapping[str, np.ndarray], groups: Sequence[int]
) -> Phase:
    asked, sampled = arrays["prompt_lengths"], arrays["lengths"]
    prompts, ids = (_parted(arrays[name], by) for name, by in (("prompt_ids", asked), ("token_ids", sampled)))
    logprobs = _parted(arrays["logprobs"], sampled)
    old = _parted(arrays["old"], asked + sampled) if "old" in arrays else []
    absent: list[np.ndarray | None] = [None] * len(rows)
    experts = _parted(arrays["experts"], asked + sampled - 1) if "experts" in arrays else absent
    rollouts, scores = [], []
    for row, *of_row in zip(rows, prompts, ids, logprobs, experts, strict=True):
        rollouts.append(_rollout(row, *of_row))  # type: ignore[arg-type]
        scores.append(Score(float(row["reward"]), dict(row["parts"]), dict(row.get("reasons", {}))))  # type: ignore[arg-type, call-overload]
    if sum(groups) != len(rollouts):
        raise ValueError(f"{len(rollouts)} rollouts, in groups of {list(groups)}")
    ends = [0, *itertools.accumulate(groups)]
    spans = [slice(start, end) for start, end in itertools.pairwise(ends)]
    return Phase(
        [rollouts[span] for span in spans],
        [scores[span] for span in spans],
        len(groups),
        1,
        old_PG=[old[span] for span in spans] if old else (),
    )


def _parted(flat: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    if int(lengths.sum()) != len(flat):
        raise ValueError(f"{len(flat)} numbers, {int(lengths.sum())} were written")
    return np.split(flat, np.cumsum(lengths)[:-1]) if len(lengths) else []


def _rollout(
    row: Mapping[str, object], prompt_T: np.ndarray, ids_T: np.ndarray, logprobs_T: np.ndarray,
    experts: np.ndarray | None,
) -> Rollout:  # fmt: skip
    prompt, truth, answer = row["prompt"], row.get("truth"), row.get("answer")
    columns = {"messages": tuple(prompt[:-1])} if isinstance(prompt, list) else {}
    text = str(prompt[-1]["content"]) if isinstance(prompt, list) else str(prompt)
    problem = Problem(
        str(row["problem"]), str(row["task"]), text, None if truth is None else str(truth), columns=columns
    )
    finish = row["finish"]
    if finish not in ("stop", "length"):
        raise R1kitError(f"finish: {finish!r} is neither stop nor length")
    return Rollout(
        problem, int(str(row["index"])), prompt_T, Completion(ids_T, logprobs_T, finish, experts=experts),
        str(row["text"]), None, None if answer is None else str(answer), int(str(row["group"])),
    )  # fmt: skip
