"""What one model does on each held-out problem, so that models can be compared problem by problem.

A row of a ``Scored`` is a problem, its values are means over the samples of that problem. Two models that
were measured with the same settings have the same problems in the same order and the same seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from r1kit.chat import Chat
from r1kit.config import R1kitError
from r1kit.engine import Engine
from r1kit.figures.benchmark_analysis import is_loop
from r1kit.language import language_share
from r1kit.seeds import derive_seed
from r1kit.stages.model_figures import consensus
from r1kit.stages.sampling import correct, sample
from r1kit.tasks.task import Task, vote_key
from r1kit.types import Problem, Rollout, Sampling

REFLECTIONS = ("recheck", "step_back")  # the habits that count as reflection


@dataclass(frozen=True, slots=True)
class Scored:
    """One problem: its difficulty (None where its task gives none), and its measures by name (None where
    nothing could be measured): ``right``, ``majority``, ``format``, ``language``, ``length``, ``reflects``,
    ``repeats`` and ``cut``. ``samples`` is how many there were."""

    problem: str
    difficulty: float | None
    samples: int
    measures: Mapping[str, float | None]


def held_out_problems(tasks: Mapping[str, tuple[Task, float]], limit: int) -> list[Problem]:
    """At most ``limit`` held-out problems of each task, in the tasks' order. Raises R1kitError where there
    is none."""
    found = [problem for task, _ in tasks.values() for problem in task.problems("held_out")[:limit]]
    if not found:
        raise R1kitError(
            f"{', '.join(tasks) or 'no task'}: there are no held-out problems to measure on; name a task "
            "that has some"
        )
    return found


def swapped(problems: Sequence[Problem]) -> list[Problem]:
    """For each problem another one of its task, a turn by half of the task's problems, so that each prompt is
    shown once. A problem that is alone in its task stays."""
    by_task: dict[str, list[int]] = {}
    for place, problem in enumerate(problems):
        by_task.setdefault(problem.task, []).append(place)
    found = list(problems)
    for places in by_task.values():
        half = len(places) // 2
        for place, other in zip(places, [*places[half:], *places[:half]], strict=True):
            found[place] = problems[other]
    return found


def score_problems(
    engine: Engine,
    chat: Chat,
    tasks: Mapping[str, tuple[Task, float]],
    problems: Sequence[Problem],
    sampling: Sampling,
    habits: Mapping[str, Callable[[str], bool]] = {},
    asked: Sequence[Problem] = (),
    further: Mapping[str, Callable[[str], float]] = {},
) -> list[Scored]:
    """Sample ``sampling.n`` responses to each problem and measure them. Problems and seeds do not depend on
    the model. ``asked`` are the problems whose prompts are shown in place of theirs, in the same order: the
    responses are still checked against ``problems``. ``further``: see ``score_groups``."""
    groups = sample(engine, chat, asked or problems, sampling, derive_seed(0, "evaluate"))
    if asked:
        groups = [
            [replace(rollout, problem=problem) for rollout in group]
            for problem, group in zip(problems, groups, strict=True)
        ]
    return score_groups(groups, tasks, habits, further)


def score_groups(
    groups: Sequence[Sequence[Rollout]],
    tasks: Mapping[str, tuple[Task, float]],
    habits: Mapping[str, Callable[[str], bool]] = {},
    further: Mapping[str, Callable[[str], float]] = {},
) -> list[Scored]:
    """Measure responses that have been sampled, one group a problem. ``further`` are measures of a text, by
    name."""
    right = correct(groups, tasks)
    return [
        _scored(group, {r.index for r in own}, tasks[group[0].problem.task][0], habits, further)
        for group, own in zip(groups, right, strict=True)
    ]


def _scored(
    group: Sequence[Rollout],
    right: set[int],
    task: Task,
    habits: Mapping[str, Callable[[str], bool]],
    further: Mapping[str, Callable[[str], float]],
) -> Scored:
    key: Callable[[str], str | None] = getattr(task, "vote_key", vote_key)
    outcomes = [float(rollout.index in right) for rollout in group]
    shares = [
        share
        for rollout in group
        if rollout.thinking
        and (share := language_share(rollout.thinking, rollout.problem.language)) is not None
    ]
    reflecting = [test for name, test in habits.items() if name in REFLECTIONS]
    measures: dict[str, float | None] = {
        "right": _mean(outcomes),
        "majority": consensus(group, outcomes, key),
        "format": _mean([r.answer is not None for r in group]),
        "language": _mean(shares) if shares else None,
        "length": _mean([len(r.completion.token_ids) for r in group]),
        "reflects": _mean([any(test(r.thinking or "") for test in reflecting) for r in group]),
        "repeats": _mean([is_loop(r.text) for r in group]),
        "cut": _mean([r.completion.finish == "length" for r in group]),
    }
    measures |= {name: _mean([of(r.text) for r in group]) for name, of in further.items()}
    problem = group[0].problem
    return Scored(problem.id, problem.difficulty, len(group), measures)


def _mean(values: Sequence[float | bool]) -> float:
    return float(np.mean(values))
