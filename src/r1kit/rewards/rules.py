"""The rule-based rewards of the paper: accuracy, format, language.

Accuracy and format have equal weights [DeepSeek-R1, eq. 4]; the language-consistency reward is added directly
during R1's RL [eq. 7, 8]. There is also a reward for visible steps."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from r1kit.chat import is_visible, parse
from r1kit.config import ConfigError
from r1kit.language import language_share
from r1kit.rewards.reward import CheckingTask, Explained, Failed, Reward, places_by_task
from r1kit.types import Rollout, Verdict
from r1kit.watchdog import deadline

_STEPS = re.compile(
    r"^\s*(?:\d{1,2}[.)]|[-*])\s|\bstep \d+\b|\b(?:first|second|third|next|then|finally)(?:ly)?,"
    r"|首先|其次|然后|接着|最后|第[一二三四五六七八九十]步",
    re.IGNORECASE | re.MULTILINE,
)


def format_reward(text: str, *, empty_thought: bool = False) -> float:
    """Return 1.0 for exactly one ``<think>..</think>`` followed by a non-empty answer and nothing outside,
    else 0.0.

    The answer may be bare or in one ``<answer>..</answer>``; no further tag of the template may occur
    anywhere. This is ``r1kit.chat.parse``, which also takes answer and thinking out of a completion. A
    thought without a visible character earns 0.0, unless ``empty_thought``."""
    parsed = parse(text)
    return float(parsed is not None and (empty_thought or is_visible(parsed[0])))


def accuracy(tasks: Mapping[str, CheckingTask]) -> Reward:
    """Make the accuracy reward: the verdict of the rollout's task on its answer, 1 or 0; None where only a
    judge can score it.

    A rollout that did not follow the template has no answer and is wrong. Source: DeepSeek-R1, section 2.2.
    """

    def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
        values: list[float | None] = [None] * len(rollouts)
        for name, places in places_by_task(rollouts).items():
            if name not in tasks:
                raise ConfigError(
                    f"rollouts of task {name!r} cannot be checked: the accuracy reward knows "
                    f"{', '.join(tasks) or 'no task'}"
                )
            checked = [rollouts[place] for place in places]
            for place, verdict in zip(places, check_all(tasks[name], checked), strict=True):
                values[place] = _reward_of(name, verdict)
        return values

    return reward


def _reward_of(task: str, verdict: Verdict) -> float | None:
    """The verdict as a reward, with its reason where it has one."""
    if verdict.outcome == "failed":
        return Failed(f"{task}: {verdict.reason}")
    value = verdict.reward
    return value if value is None or not verdict.reason else Explained(value, verdict.reason)


def check_all(task: CheckingTask, rollouts: Sequence[Rollout]) -> list[Verdict]:
    """Judge the answers of rollouts of one task; failed checks are tried once more."""
    verdicts = _check(task, rollouts)
    again = [place for place, verdict in enumerate(verdicts) if verdict.outcome == "failed"]
    for place, verdict in zip(
        again, _check(task, [rollouts[place] for place in again]) if again else (), strict=True
    ):
        verdicts[place] = verdict
    return verdicts


def _check(task: CheckingTask, rollouts: Sequence[Rollout]) -> list[Verdict]:
    """Judge the answers of rollouts of one task, as a batch where the task offers ``check_batch``."""
    problems, answers = [rollout.problem for rollout in rollouts], [rollout.answer for rollout in rollouts]
    check_batch = getattr(task, "check_batch", None)
    with deadline(
        f"task {task.name!r} did not return for {len(rollouts)} answers; give its check a time limit"
    ):
        if check_batch is not None:
            return list(check_batch(problems, answers))
        return [task.check(problem, answer) for problem, answer in zip(problems, answers, strict=True)]


def format_(tasks: Mapping[str, CheckingTask], *, empty_thought: bool = False) -> Reward:
    """Make the format reward: 1 where the rollout follows the template and ended by itself, else 0.

    A thought without a visible character earns 0, unless ``empty_thought``: otherwise RL could drop the
    thinking at no cost."""

    def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
        return [
            float(
                rollout.answer is not None
                and rollout.completion.finish == "stop"
                and (empty_thought or is_visible(rollout.thinking or ""))
            )
            for rollout in rollouts
        ]

    return reward


def language(tasks: Mapping[str, CheckingTask]) -> Reward:
    """Make the language-consistency reward: the share of the thinking's words in the problem's language
    [DeepSeek-R1, eq. 7].

    It is 0 without thinking. For a thinking without words ("3 + 4 = 7") eq. 7 is 0 / 0; here it is the mean
    of the thinkings with words in its group, so that it neither gains nor loses against them, and 1 where
    none of the group has words."""

    def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
        shares = [language_share(rollout.thinking or "", rollout.problem.language) for rollout in rollouts]
        known: dict[tuple[str, int], list[float]] = defaultdict(list)
        for rollout, share in zip(rollouts, shares, strict=True):
            if share is not None:
                known[rollout.group_key].append(share)
        neutral = {key: sum(found) / len(found) for key, found in known.items()}
        return [
            share
            if share is not None
            else is_visible(rollout.thinking or "") * neutral.get(rollout.group_key, 1.0)
            for rollout, share in zip(rollouts, shares, strict=True)
        ]

    return reward


def reasoning_steps(tasks: Mapping[str, CheckingTask], *, steps: int = 3) -> Reward:
    """Make the reward for visible steps: numbered lines, "Step 2", "First, ...", 首先; full at ``steps`` of
    them, within the thinking."""

    def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
        return [min(1.0, len(_STEPS.findall(rollout.thinking or "")) / steps) for rollout in rollouts]

    return reward
