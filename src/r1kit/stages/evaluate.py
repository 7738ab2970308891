"""Evaluation of every stage's model on held-out problems: the paper's Table 3 in miniature.

pass@1 is the mean over n samples of a problem, strict: exact format, ended by itself, correct. Its standard
error is over problems (the n samples of one problem are not independent). cons@n asks whether the most
frequent answer is right (ties: the answer that came first). The protocol stands beside every number; the
defaults are the training distribution, temperature 1 and no top-p, as the prototypes were measured."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from r1kit.chat import Chat
from r1kit.config import R1kitError
from r1kit.engine import Engine
from r1kit.language import language_share
from r1kit.rewards import FAILURE_LIMIT, check_all
from r1kit.seeds import derive_seed
from r1kit.stages.models import PromptStyle, model_of, prompt_style_of
from r1kit.stages.recipe_names import TaskSpec, log_tasks
from r1kit.stages.results import report
from r1kit.stages.sampling import sample
from r1kit.stages.stage import Context, Stage
from r1kit.tasks import load_tasks
from r1kit.tasks.miniature.general import General, gold_score
from r1kit.tasks.miniature.worked_solutions import read_steps, rechecks, takes_back
from r1kit.tasks.task import Task, vote_key
from r1kit.types import Problem, Rollout, Sampling

VoteKey = Callable[[str], str | None]
COMPARED = ("pass@1", "pass@1_stderr", "format", "language", "length", "general", "general_stderr")
NO_THINKING = "<think></think>"  # forced direct answers: the completion begins after an empty thinking


class Evaluate(Stage):
    """``models``: name -> "@stage". ``problems`` per task x ``n`` samples each; ``examples`` problems are
    shown with every model's text."""

    writes: ClassVar[tuple[str, ...]] = ("report.json",)

    stage: Literal["evaluate"] = "evaluate"
    models: dict[str, str]
    tasks: TaskSpec = {"reasoning": 1.0}
    problems: int = Field(52, ge=1)
    n: int = Field(16, ge=1)
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 112
    direct: list[str] = []  # models that are also measured with forced direct answers
    general: bool = True
    examples: int = Field(3, ge=0)
    controls: dict[str, list[str]] = {}  # what is compared: title -> names among ``models``
    talk: PromptStyle = PromptStyle()

    def run(self, ctx: Context) -> None:
        found: dict[str, Any] = {}
        examples: list[dict[str, Any]] = []
        log_tasks(ctx, load_tasks(self.tasks))
        for number, (name, reference) in enumerate(self.models.items()):
            model = model_of(ctx.path(reference))
            engine = ctx.runtime.engine(model)
            found[name], groups = self.measure(
                engine, prompt_style_of(model, self.talk).chat(model), direct=name in self.direct
            )
            ctx.runtime.release(engine)
            _add_examples(examples, name, groups, self.examples)
            headline = {"accuracy": found[name]["pass@1"], "completions/mean_length": found[name]["length"]}
            ctx.log.step(number, len(self.models), headline)
        headlines = {
            name: {key: figures[key] for key in COMPARED if key in figures} for name, figures in found.items()
        }
        compared = {
            title: {name: headlines[name] for name in names} for title, names in self.controls.items()
        }
        report(ctx, models=found, examples=examples, controls=compared)

    def measure(self, engine: Engine, chat: Chat, direct: bool) -> tuple[dict[str, Any], list[list[Rollout]]]:
        """The figures of one model, and its rollouts. Every model gets the same problems and seeds."""
        tasks = {name: task for name, (task, _) in load_tasks(self.tasks).items()}
        problems = [
            problem for task in tasks.values() for problem in task.problems("held_out")[: self.problems]
        ]
        sampling = Sampling(self.n, self.temperature, self.top_p, self.max_tokens)
        groups = sample(engine, chat, problems, sampling, derive_seed(0, "evaluate"))
        figures = summarise(groups, tasks)
        figures["protocol"] = {
            "problems": len(problems), "n": self.n, "temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens,
        }  # fmt: skip
        if direct:
            forced = sample(
                engine,
                chat,
                problems,
                Sampling(4, self.temperature, self.top_p, self.max_tokens),
                derive_seed(0, "direct"),
                NO_THINKING,
            )
            figures["direct"] = summarise(forced, tasks)["pass@1"]
        if self.general:
            figures |= self._general(engine, chat)
        return figures, groups

    def _general(self, engine: Engine, chat: Chat) -> dict[str, Any]:
        sampling = Sampling(4, self.temperature, self.top_p, self.max_tokens)
        groups = sample(engine, chat, General().problems("held_out"), sampling, derive_seed(0, "general"))
        by_kind: dict[str, list[float]] = defaultdict(list)
        for group in groups:
            by_kind[group[0].problem.columns["kind"]].append(
                float(np.mean([gold_score(r.problem, r.answer) for r in group]))
            )
        scores = [score for kind in by_kind.values() for score in kind]
        return {
            "general": float(np.mean(scores)),
            "general_stderr": _stderr(scores),
            "general_kinds": {kind: float(np.mean(values)) for kind, values in by_kind.items()},
        }


def summarise(groups: Sequence[Sequence[Rollout]], tasks: Mapping[str, Task]) -> dict[str, Any]:
    """All figures of groups of rollouts on checkable problems."""
    verdicts = _verdicts(groups, tasks)
    right = [np.array([verdicts[r.problem.id, r.index] for r in group], dtype=float) for group in groups]
    keys = {name: getattr(task, "vote_key", vote_key) for name, task in tasks.items()}
    figures = _headline(groups, right, keys)
    by_task: dict[str, list[int]] = defaultdict(list)
    by_difficulty: dict[str, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        by_task[group[0].problem.task].append(place)
        by_difficulty[f"{group[0].problem.difficulty or 0:g}"].append(place)
    figures["tasks"] = {
        name: _headline([groups[i] for i in own], [right[i] for i in own], keys)
        for name, own in by_task.items()
    }
    figures["by_difficulty"] = {
        level: {
            "pass@1": float(np.mean([right[i].mean() for i in own])),
            "length": _length([groups[i] for i in own]),
            "n": len(own),
        }
        for level, own in sorted(by_difficulty.items(), key=lambda item: float(item[0]))
    }
    return figures | _habits([r for group in groups for r in group], verdicts)


def consensus(group: Sequence[Rollout], right: Sequence[float], key: VoteKey = vote_key) -> float:
    """1.0 if the most frequent answer of the group is right; answers with the same ``key`` are counted
    together. Answers that did not follow the template have no vote."""
    keys = [None if r.answer is None else key(r.answer) for r in group]
    votes = Counter(key for key in keys if key is not None)
    if not votes:
        return 0.0
    winner = max(votes, key=lambda key: (votes[key], -keys.index(key)))
    return float(right[keys.index(winner)])


def _headline(
    groups: Sequence[Sequence[Rollout]], right: Sequence[np.ndarray], keys: Mapping[str, VoteKey]
) -> dict[str, Any]:
    n = len(groups[0])
    rollouts = [r for group in groups for r in group]
    thinkings = [(r.thinking, r.problem.language) for r in rollouts if r.thinking]
    shares = [
        share for thinking, language in thinkings if (share := language_share(thinking, language)) is not None
    ]
    means = [float(values.mean()) for values in right]
    votes = [
        consensus(group, values.tolist(), keys[group[0].problem.task])
        for group, values in zip(groups, right, strict=True)
    ]
    return {
        "pass@1": float(np.mean(means)),
        "pass@1_stderr": _stderr(means),
        f"pass@{n}": float(np.mean([values.max() for values in right])),
        f"cons@{n}": float(np.mean(votes)),
        "format": float(np.mean([r.answer is not None for r in rollouts])),
        "language": float(np.mean(shares)) if shares else 0.0,
        "length": _length(groups),
        "n": len(groups),
    }


def _habits(rollouts: Sequence[Rollout], verdicts: Mapping[tuple[str, int], bool]) -> dict[str, float]:
    """How the model thinks: shares of rollouts that work the problem out, re-check a result, take a step
    back; and how those fare."""
    worked = [r for r in rollouts if read_steps(r.thinking or "")]
    checked = [r for r in rollouts if rechecks(r.thinking or "")]
    back = [r for r in rollouts if takes_back(r.thinking or "")]

    def accuracy(chosen: Sequence[Rollout]) -> float:
        return float(np.mean([verdicts[r.problem.id, r.index] for r in chosen])) if chosen else float("nan")

    habits = {"worked": worked, "recheck": checked, "wait": back}
    figures = {f"{name}_share": len(chosen) / len(rollouts) for name, chosen in habits.items()}
    figures |= {f"{name}_accuracy": accuracy(chosen) for name, chosen in habits.items() if chosen}
    if worked:
        figures["worked_length"] = float(np.mean([len(r.completion.token_ids) for r in worked]))
    cut = [r.completion.finish == "length" for r in rollouts]
    return figures | {"truncated": float(np.mean(cut))}


def _verdicts(groups: Sequence[Sequence[Rollout]], tasks: Mapping[str, Task]) -> dict[tuple[str, int], bool]:
    found: dict[tuple[str, int], bool] = {}
    for name, task in tasks.items():
        own = [r for group in groups for r in group if r.problem.task == name]
        verdicts = check_all(task, own)
        failed = [verdict for verdict in verdicts if verdict.outcome == "failed"]
        if len(failed) > max(1, FAILURE_LIMIT * len(own)):  # it would pass for the model's own mistakes
            why = f"{failed[0].reason or 'no reason given'}; mend the checker, then run again"
            raise R1kitError(
                f"task {name}: {len(failed)} of {len(own)} answers could not be judged (limit "
                f"{FAILURE_LIMIT:.0%}): {why}"
            )
        for rollout, verdict in zip(own, verdicts, strict=True):
            found[rollout.problem.id, rollout.index] = verdict.outcome == "correct"
    return found


def _length(groups: Sequence[Sequence[Rollout]]) -> float:
    return float(np.mean([len(r.completion.token_ids) for group in groups for r in group]))


def _stderr(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _add_examples(
    examples: list[dict[str, Any]], model: str, groups: Sequence[Sequence[Rollout]], count: int
) -> None:
    """The first sample of the same problems for every model: one each of the last ``count`` tasks, not chosen
    by outcome."""
    shown: dict[str, Sequence[Rollout]] = {}
    for group in groups:
        shown.setdefault(group[0].problem.task, group)
    for place, group in enumerate(list(shown.values())[-count:] if count else []):
        problem: Problem = group[0].problem
        if place == len(examples):
            examples.append(
                {"problem": problem.prompt, "answer": problem.answer, "task": problem.task, "outputs": {}}
            )
        examples[place]["outputs"][model] = group[0].text


def evaluate_directory(runtime: Any, model: Path, stage: Evaluate) -> dict[str, Any]:
    """The figures of one model directory: what ``r1kit eval`` prints."""
    engine = runtime.engine(model)
    figures, _ = stage.measure(engine, stage.talk.chat(model), direct=True)
    runtime.release(engine)
    return figures
