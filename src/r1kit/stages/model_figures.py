"""The figures of one model, computed from its rollouts on held-out problems.

With x_pi = 1 where sample i of problem p is right, n samples of each of P problems,

    pass@1 = mean_p mean_i x_pi,    its standard error = sd_p(mean_i x_pi) / sqrt(P),
    pass@n = mean_p max_i x_pi,
    pass@k = mean_p [1 - C(n - c_p, k) / C(n, k)],  c_p = sum_i x_pi      (unbiased: 2107.03374, eq. 1)

and cons@n is the share of problems whose most frequent answer is right."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from r1kit.config import R1kitError
from r1kit.figures import DifficultyScores, GeneralScores, Habit, ModelFigures, Scores
from r1kit.language import language_share
from r1kit.rewards import FAILURE_LIMIT, WeightedReward, check_all, score
from r1kit.tasks.habits import Habits
from r1kit.tasks.task import Task, vote_key
from r1kit.types import Rollout

VoteKey = Callable[[str], str | None]
GroupKeys = Callable[[Sequence[str]], Sequence[str | None]]
Groups = Sequence[Sequence[Rollout]]


def summarise(
    groups: Groups,
    tasks: Mapping[str, Task],
    habits: Habits | None = None,
    direct: float | None = None,
    general: GeneralScores | None = None,
) -> ModelFigures:
    """All figures of groups of rollouts on checkable problems; ``direct`` and ``general`` are handed on."""
    verdicts = _verdicts(groups, tasks)
    right = [np.array([verdicts[r.problem.id, r.index] for r in group], dtype=float) for group in groups]
    keys = {name: _group_keys(task) for name, task in tasks.items()}
    by_task: dict[str, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        by_task[group[0].problem.task].append(place)
    return ModelFigures(
        overall=_scores(groups, right, keys),
        tasks={
            name: _scores([groups[i] for i in own], [right[i] for i in own], keys)
            for name, own in by_task.items()
        },
        by_difficulty=_by_difficulty(groups, right),
        truncated=float(np.mean([r.completion.finish == "length" for group in groups for r in group])),
        habits=_count_habits([r for group in groups for r in group], verdicts, habits or {}),
        direct=direct,
        general=general,
        pass_k=_pass_k(right),
    )


def summarise_general(groups: Groups, scoring: Sequence[WeightedReward]) -> GeneralScores:
    """The mean score of each group, over all groups and by kind. Answers that no reward applies to are left
    out. Raises R1kitError where that leaves nothing."""
    flat = [rollout for group in groups for rollout in group]
    values = {
        (rollout.problem.id, rollout.index): scored.total
        for rollout, scored in zip(flat, score(flat, scoring), strict=True)
        if any(part is not None for part in scored.parts.values()) and not np.isnan(scored.total)
    }
    by_kind: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        own = [values[r.problem.id, r.index] for r in group if (r.problem.id, r.index) in values]
        if own:
            problem = group[0].problem
            by_kind[str(problem.columns.get("kind", problem.task))].append(float(np.mean(own)))
    if not by_kind:
        names = ", ".join(reward.name for reward in scoring)
        raise R1kitError(
            f"general.score: {names} gave no answer a score; name a reward that applies to prompts"
        )
    scores = [value for own in by_kind.values() for value in own]
    return GeneralScores(
        float(np.mean(scores)), _stderr(scores), {kind: float(np.mean(own)) for kind, own in by_kind.items()}
    )


def _group_keys(task: Task) -> GroupKeys:
    """How a task counts the answers of a group: its ``vote_keys``, else its ``vote_key`` for each."""
    of_one: VoteKey = getattr(task, "vote_key", vote_key)
    found: GroupKeys = getattr(task, "vote_keys", lambda answers: [of_one(answer) for answer in answers])
    return found


def consensus(group: Sequence[Rollout], right: Sequence[float], key: VoteKey = vote_key) -> float:
    """1.0 if the most frequent answer of the group is right; answers with the same ``key`` are counted
    together. Answers that did not follow the template have no vote."""
    return _consensus(group, right, lambda answers: [key(answer) for answer in answers])


def _consensus(group: Sequence[Rollout], right: Sequence[float], keys_of: GroupKeys) -> float:
    found = iter(keys_of([r.answer for r in group if r.answer is not None]))
    keys = [None if r.answer is None else next(found) for r in group]
    votes = Counter(key for key in keys if key is not None)
    if not votes:
        return 0.0
    winner = max(votes, key=lambda key: (votes[key], -keys.index(key)))
    return float(right[keys.index(winner)])


def _scores(groups: Groups, right: Sequence[np.ndarray], keys: Mapping[str, GroupKeys]) -> Scores:
    rollouts = [r for group in groups for r in group]
    thinkings = [(r.thinking, r.problem.language) for r in rollouts if r.thinking]
    shares = [
        share for thinking, language in thinkings if (share := language_share(thinking, language)) is not None
    ]
    means = [float(values.mean()) for values in right]
    votes = [
        _consensus(group, values.tolist(), keys[group[0].problem.task])
        for group, values in zip(groups, right, strict=True)
    ]
    return Scores(
        problems=len(groups),
        pass_1=float(np.mean(means)),
        pass_1_stderr=_stderr(means),
        pass_n=float(np.mean([values.max() for values in right])),
        cons_n=float(np.mean(votes)),
        format=float(np.mean([r.answer is not None for r in rollouts])),
        language=float(np.mean(shares)) if shares else None,
        length=_length(rollouts),
    )


def _pass_k(right: Sequence[np.ndarray]) -> dict[int, float]:
    """pass@k for k = 1, 2, 4 ... and the smallest number of samples of a problem."""
    most = min((len(values) for values in right), default=0)
    counts = [(len(values), int(values.sum())) for values in right]
    found = {}
    for k in sorted({1 << power for power in range(most.bit_length())} | {most} - {0}):
        missed = [math.comb(n - c, k) / math.comb(n, k) for n, c in counts]
        found[k] = float(1.0 - np.mean(missed))
    return found


def _by_difficulty(groups: Groups, right: Sequence[np.ndarray]) -> tuple[DifficultyScores, ...]:
    """The problems by their difficulty; those whose task gives them none are left out."""
    places: dict[float, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        if group[0].problem.difficulty is not None:
            places[group[0].problem.difficulty].append(place)
    return tuple(
        DifficultyScores(
            difficulty=float(level),
            problems=len(own),
            pass_1=float(np.mean([right[i].mean() for i in own])),
            length=_length([r for i in own for r in groups[i]]),
        )
        for level, own in sorted(places.items())
    )


def _count_habits(
    rollouts: Sequence[Rollout], verdicts: Mapping[tuple[str, int], bool], habits: Habits
) -> dict[str, Habit]:
    """How often the thinking shows each habit, and how the responses that show it fare."""
    found = {}
    for name, shows in habits.items():
        own = [r for r in rollouts if shows(r.thinking or "")]
        accuracy = float(np.mean([verdicts[r.problem.id, r.index] for r in own])) if own else None
        found[name] = Habit(len(own) / len(rollouts), accuracy, _length(own) if own else None)
    return found


def _verdicts(groups: Groups, tasks: Mapping[str, Task]) -> dict[tuple[str, int], bool]:
    found: dict[tuple[str, int], bool] = {}
    for name, task in tasks.items():
        own = [r for group in groups for r in group if r.problem.task == name]
        verdicts = check_all(task, own)
        failed = [verdict for verdict in verdicts if verdict.outcome == "failed"]
        if len(failed) > max(1, FAILURE_LIMIT * len(own)):  # they would count as the model's own mistakes
            raise R1kitError(
                f"task {name}: {len(failed)} of {len(own)} answers could not be judged (limit "
                f"{FAILURE_LIMIT:.0%}): {failed[0].reason or 'no reason given'}; fix the checker, then rerun"
            )
        for rollout, verdict in zip(own, verdicts, strict=True):
            found[rollout.problem.id, rollout.index] = verdict.outcome == "correct"
    return found


def _length(rollouts: Sequence[Rollout]) -> float:
    return float(np.mean([len(r.completion.token_ids) for r in rollouts]))


def _stderr(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
