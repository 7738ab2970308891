"""``r1kit why``: replay one update of an RL training and show what it did to the rollouts of a problem.

It reads what the training has kept (train/kept_updates.py), makes the update again in this process, and
compares the numbers with those that the run has logged. It changes nothing in the run."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from r1kit.config import ConfigError, nearest
from r1kit.health import number
from r1kit.jsonl import read_jsonl
from r1kit.log import last_question
from r1kit.log_files import METRICS, SAMPLES, whole_rows
from r1kit.marks import mark_damages
from r1kit.model.huggingface import load_pretrained
from r1kit.model.sources import resolve_model
from r1kit.records import UPDATES, DamageError, StageRecord, stage_folder, stage_folders
from r1kit.tokenizer import Tokenizer
from r1kit.train import checkpoint
from r1kit.train.grpo import GRPOConfig
from r1kit.train.kept_updates import REFERENCE, KeptUpdate, kept_steps, read_update
from r1kit.train.learner import Learner, LearnerConfig
from r1kit.train.optimizers import OptimizerConfig
from r1kit.train.replay import Replay, Replayed, advantages_of, known_metrics, replay
from r1kit.train.rollouts import Policy

ROUNDING = 1e-4  # relative difference of a number that was computed in another order
TOP_TOKENS = 5  # of a rollout, in the terminal
LISTED = 12  # steps or problems in an error

Verdict = Literal["equal", "equal to rounding", "differs"]


@dataclass(frozen=True, slots=True)
class Compared:
    """A number of the update as the run has logged it, and as it was computed again."""

    name: str
    logged: float
    found: float

    @property
    def verdict(self) -> Verdict:
        if self.logged == self.found:
            return "equal"
        near = math.isclose(self.logged, self.found, rel_tol=ROUNDING, abs_tol=1e-9)
        return "equal to rounding" if near else "differs"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is shown of an update: the rollouts of one problem, with the texts of their tokens, and the share
    of every group in the gradient. Without ``has_gradient`` the weights before the update are not known."""

    run: str
    stage: str
    step: int
    steps: int
    has_gradient: bool
    compared: Sequence[Compared]
    rollouts: Sequence[Replayed]
    pieces: Sequence[Sequence[str]]
    shares: Sequence[tuple[str, int, float]]
    exact_norm: float
    notes: Sequence[str]

    @property
    def problem(self) -> Any:
        return self.rollouts[0].rollout.problem


def explain(run_dir: Path, stage: str | None, step: int | None, problem: str | None) -> Explanation:
    """Replay an update. Without ``stage`` or ``step`` there must be only one to choose, without ``problem``
    it is the one with the largest share of the gradient. Raises ConfigError naming what is there, and
    DamageError where it is not as it was written."""
    name, record, out = _stage(run_dir, stage)
    step = _step(run_dir, name, out, step)
    if record.finished is not None:
        prefix = f"{UPDATES}/step_{step:08d}/"
        marks = {file: mark for file, mark in record.outputs.items() if file.startswith(prefix)}
        if damages := list(mark_damages(out, marks, "the stage")):
            raise DamageError("\n".join([*damages, "Choose another step, or redo the stage with --from."]))
    update = read_update(out, step)
    config = GRPOConfig.parse(update.algorithm, str(update.folder))
    if problem is not None:
        problem = _problem(update, problem)
    init = _init(run_dir, record)
    found = _replay(update, config, record, init, out)
    groups = _rows_only(update, config) if found is None else found.groups
    shares = [(group[0].rollout.problem.id, group[0].rollout.group, _share(group)) for group in groups]
    if problem is None:
        problem = max(shares, key=lambda one: abs(one[2]))[0]
    chosen = [one for group in groups if group[0].rollout.problem.id == problem for one in group]
    tokenizer = Tokenizer.load(init)
    logged = _logged(run_dir, name, step)
    metrics = known_metrics(update) if found is None else found.metrics
    return Explanation(
        run=run_dir.name,
        stage=name,
        step=step,
        steps=config.steps,
        has_gradient=found is not None,
        compared=[
            *(Compared(key, value, metrics[key]) for key, value in logged.items() if key in metrics),
            *_compared_advantages(run_dir, name, step, config, chosen),
        ],
        rollouts=chosen,
        pieces=[tokenizer.pieces(one.rollout.completion.token_ids) for one in chosen],
        shares=sorted(shares, key=lambda one: -abs(one[2])),
        exact_norm=0.0 if found is None else found.exact_norm,
        notes=list(_notes(update, config, record, found)),
    )


def in_words(found: Explanation) -> Iterator[str]:
    """The explanation for a terminal, line by line."""
    problem = found.problem
    yield f"{found.run}: {found.stage}, step {found.step} of {found.steps}, problem {problem.id}"
    yield from (f"  {line}" for line in last_question(problem.prompt).splitlines())
    yield from [f"  right answer: {problem.answer}"] if problem.answer is not None else []
    yield ""
    yield f"{'number of this update':<30}{'in the run':>14}{'computed again':>16}"
    for one in found.compared:
        yield f"{one.name:<30}{one.logged:>14.6g}{one.found:>16.6g}  {one.verdict}"
    yield ""
    yield from _rollout_lines(found)
    if found.has_gradient:
        yield ""
        yield from _token_lines(found)
        yield ""
        shown = ", ".join(f"{name} {share:+.1%}" for name, _, share in found.shares[:LISTED])
        more = len(found.shares) - LISTED
        yield f"share of the gradient by problem: {shown}{f' and {more} more' if more > 0 else ''}"
    yield from (f"note: {note}" for note in found.notes)


def clipped_share(one: Replayed) -> float:
    """The share of a rollout's tokens whose gradient the bound cuts."""
    return float(one.clipped_T.mean()) if len(one.clipped_T) else 0.0


def _rollout_lines(found: Explanation) -> Iterator[str]:
    gradient = f"{'clipped':>9}{'share':>9}{'log p before':>14}{'after':>10}{'times':>8}"
    parts = list(dict.fromkeys(name for one in found.rollouts for name in one.score.parts))
    heads = "".join(f"{short(name)[:10]:>11}" for name in parts)
    yield f"rollout{'reward':>9}{heads}{'advantage':>11}{'tokens':>8}{gradient if found.has_gradient else ''}"
    for one in found.rollouts:
        values = "".join(f"{_shown(one.score.parts.get(name)):>11}" for name in parts)
        line = f"{one.rollout.index:>7}{one.score.total:>9.3g}{values}{_shown(one.advantage, '+.3g'):>11}"
        line += f"{len(one.sampled_T):>8}"
        if found.has_gradient:
            before, after = float(one.before_T.sum()), float(one.after_T.sum())
            line += (
                f"{clipped_share(one):>9.0%}{float(one.share_T.sum()):>+9.1%}{before:>14.3f}{after:>10.3f}"
            )
            line += f"{times(after - before):>8}"
        yield line


def _token_lines(found: Explanation) -> Iterator[str]:
    yield "tokens with the largest shares of the gradient (log-probability before -> after):"
    for one, texts in zip(found.rollouts, found.pieces, strict=True):
        if not one.trained:
            yield f"  rollout {one.rollout.index}: not trained on, its advantage is zero"
            continue
        order = np.argsort(-np.abs(one.share_T), kind="stable")[:TOP_TOKENS]
        yield f"  rollout {one.rollout.index}: " + ", ".join(
            f"{texts[place]!r} {one.share_T[place]:+.2%} "
            f"({one.before_T[place]:.2f} -> {one.after_T[place]:.2f})"
            for place in order.tolist()
        )


def times(difference: float) -> str:
    """By what a completion's probability was multiplied, from the difference of its log-probabilities."""
    return f"{math.exp(difference):.3g}" if abs(difference) < 30 else f"e^{difference:+.0f}"


def short(reward: str) -> str:
    """The name of a reward for the head of a column: that of a function without its file."""
    return reward.rpartition(":")[2]


def _shown(value: float | None, form: str = ".3g") -> str:
    return "-" if value is None or math.isnan(value) else f"{value:{form}}"


def _stage(run_dir: Path, stage: str | None) -> tuple[str, StageRecord, Path]:
    """The name, the record and the folder of the stage that is meant."""
    if not run_dir.is_dir():
        raise ConfigError(f"{run_dir}: no such folder")
    there: dict[str, tuple[StageRecord, Path]] = {}
    for place in stage_folders(run_dir):
        if kept_steps(place.final) and (record := place.finished()) is not None:
            there[place.name] = record, place.final
        elif kept_steps(place.partial) and (record := place.begun()) is not None:
            there[place.name] = record, place.partial
    if not there:
        raise ConfigError(
            f"{run_dir}: no stage has kept an update. RL stages with grpo keep some while they train "
            "(grpo.why); this run has none, or was made by an older r1kit"
        )
    if stage is None and len(there) == 1:
        stage = next(iter(there))
    if stage not in there:
        listed = "\n  ".join(
            f"--stage {name} --step {_listed(kept_steps(out))}" for name, (_, out) in there.items()
        )
        asked = "name a stage" if stage is None else f"stage {stage!r} of {run_dir} has no kept update"
        hint = nearest(stage, there) if stage else None
        near = f" (did you mean {hint}?)" if hint else ""
        raise ConfigError(f"{asked}{near}. There are:\n  {listed}")
    return stage, *there[stage]


def _step(run_dir: Path, stage: str, out: Path, step: int | None) -> int:
    there = kept_steps(out)
    if step is None and len(there) == 1:
        return there[0]
    if step is None:
        raise ConfigError(f"name a step of {stage}: --step {_listed(there)}")
    if step not in there:
        near = min(there, key=lambda kept: abs(kept - step))
        raise ConfigError(
            f"step {step} of stage {stage!r} of {run_dir} was not kept, so it cannot be replayed. Kept are "
            f"{_listed(there)}; the nearest is --step {near}. To keep it in another run: grpo: {{why: {{at: "
            f"[{step}]}}}}"
        )
    return step


def _problem(update: KeptUpdate, problem: str) -> str:
    """The problem that is meant: its id, or the beginning of a single one."""
    ids = list(dict.fromkeys(group[0].problem.id for group in update.part.groups))
    if problem in ids:
        return problem
    begun = [name for name in ids if name.startswith(problem)] if problem else []
    if len(begun) == 1:
        return begun[0]
    more = len(ids) - 4 * LISTED
    listed = "\n  ".join([*ids[: 4 * LISTED], *([f"and {more} more"] if more > 0 else [])])
    raise ConfigError(
        f"step {update.step} has {'no' if not begun else str(len(begun))} problem{'s' if begun else ''} "
        f"{problem!r}. Its problems are:\n  {listed}"
    )


def _listed(steps: Sequence[int]) -> str:
    more = len(steps) - LISTED
    return ", ".join(map(str, steps[:LISTED])) + (f" and {more} more" if more > 0 else "")


def _init(run_dir: Path, record: StageRecord) -> Path:
    """The folder of the model that the stage started from. Raises ConfigError where it is not there."""
    reference = str(record.config.get("init", ""))
    if not reference.startswith("@"):
        return resolve_model(reference)
    name, _, inner = reference[1:].partition("/")
    folder = stage_folder(run_dir, name).final / inner
    found = folder / "model" if (folder / "model").is_dir() else folder
    if not (found / "config.json").is_file():
        raise ConfigError(
            f"{found}: the model that the stage started from is not there; it is needed to replay an update"
        )
    return found


def _replay(
    update: KeptUpdate, config: GRPOConfig, record: StageRecord, init: Path, out: Path
) -> Replay | None:
    """The update made again, in one process; None where the weights before it are not known."""
    restored = _state_folder(update, out)
    if restored is None:
        return None
    torch.set_num_threads(int(_runtime(record).get("threads", 1)))
    given = LearnerConfig.parse(record.config.get("learner", {}), f"stage {record.name}: learner")
    plain = {"precision": "float64", "weights": "float32", "head": "float32", "optimizer": OptimizerConfig()}
    learner, exact = (
        Learner(load_pretrained(init), given),
        Learner(load_pretrained(init), given.model_copy(update=plain)),
    )
    reference = Learner(load_pretrained(init), given) if update.reference else None
    if update.step:
        _require_one_file(restored, update.step)
        learner.restore(restored)
        if reference is not None and update.reference == "state":
            reference.restore(restored, REFERENCE)
    policy = Policy(learner, None, None, reference)  # type: ignore[arg-type]
    return replay(policy, exact, update, config)


def _state_folder(update: KeptUpdate, out: Path) -> Path | None:
    """The folder with the state before an update: its own, or that of a stage which goes on and has just
    saved it."""
    if update.has_state:
        return update.folder
    saved = checkpoint.exists(out) and checkpoint.progress_of(out)["step"] == update.step
    return out if saved else None


def _require_one_file(folder: Path, step: int) -> None:
    """Raise ConfigError for a state that processes have written in parts."""
    state = checkpoint.state_of(folder, step)
    if (state / "state.parts.json").is_file():
        raise ConfigError(
            f"{state}: this state is in parts, as runtime fsdp writes it; r1kit why replays those of the "
            "runtimes local and ray, and step 0 of every run"
        )


def _rows_only(update: KeptUpdate, config: GRPOConfig) -> list[list[Replayed]]:
    """The rollouts with their advantages, without what needs the weights."""
    advantages = advantages_of(update.part, config, update.weights)
    found = []
    for group, scores, own in zip(update.part.groups, update.part.scores_PG, advantages, strict=True):
        rollouts = []
        for rollout, score, advantage in zip(group, scores, own, strict=True):
            none = np.zeros(len(rollout.completion.token_ids))
            sampled_T = rollout.completion.logprobs
            rollouts.append(
                Replayed(
                    rollout, score, advantage, bool(advantage), sampled_T, none, none, none, none, none,
                    none.astype(bool),
                )
            )  # fmt: skip
        found.append(rollouts)
    return found


def _share(group: Sequence[Replayed]) -> float:
    return float(sum(one.share_T.sum() for one in group))


def _logged(run_dir: Path, stage: str, step: int) -> dict[str, float]:
    """The numbers of a step that the run has logged."""
    rows = (row for _, row in whole_rows(run_dir / METRICS))
    own = [row for row in rows if row.get("stage") == stage and row.get("step") == step and "part" not in row]
    found = {
        name: number(value)
        for name, value in (own[-1] if own else {}).items()
        if "/" in name or name == "rows"
    }
    return {name: value for name, value in found.items() if value is not None}


def _compared_advantages(
    run_dir: Path, stage: str, step: int, config: GRPOConfig, chosen: Sequence[Replayed]
) -> list[Compared]:
    """The advantages that samples/ has of these rollouts."""
    first = step - step % config.updates_per_rollout
    file = run_dir / SAMPLES / stage / f"step_{first:06d}.jsonl"
    if not file.is_file():
        return []
    kept = {(row.get("problem"), row.get("group"), row.get("index")): row for _, row in read_jsonl(file)}
    found = []
    for one in chosen:
        rollout = one.rollout
        value = number(kept.get(rollout.key, {}).get("advantage"))
        if value is not None and one.advantage is not None:
            name = f"advantage of rollout {rollout.index}"
            found.append(Compared(name, value, round(one.advantage, 6)))
    return found


def _runtime(record: StageRecord) -> Mapping[str, Any]:
    found = record.setting.get("runtime", {})
    return found if isinstance(found, Mapping) else {}


def _notes(
    update: KeptUpdate, config: GRPOConfig, record: StageRecord, found: Replay | None
) -> Iterator[str]:
    if found is None:
        yield (
            f"the weights before this update were not kept: their state takes about "
            f"{update.state_bytes / 1e6:,.0f} MB and grpo.why.megabytes is {config.why.megabytes}; shown is "
            "what the rollouts determine. Step 0 needs no state"
        )
        return
    if (processes := int(_runtime(record).get("processes", 1))) > 1:
        yield f"the run added gradients over {processes} processes, so numbers are equal to rounding only"
    if not update.whole_phase:
        yield "the phase has further updates, so its rewards and lengths are not compared"
    if not found.metrics.get("rows"):
        yield "no rollout of this update has an advantage: nothing was learned from it"
        return
    yield (
        "a token's share is the part of its gradient along the update's whole gradient, in float64; all "
        "shares add up to 100 %, and below zero it pulls against the update"
    )
