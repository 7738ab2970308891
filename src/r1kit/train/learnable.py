"""Whether an RL training has anything to learn from: one set of rules for the pre-flight (preflight.py), for
the phases of a running training, and for the cause that is logged with a silent phase.

    teaches(group)   some rollout of it earned more than another that it is compared with
    k of n           groups that teach, of all

A training cannot learn where k is next to nothing; then ``cause`` says why. Groups are drawn independently,
the rollouts of one group are not, so every threshold counts groups:

    k <= n / 32      hopeless, if n >= 16. With k = 0 of n the true share is below 1 - 0.05^(1/n) with 95 %
                     confidence (Clopper-Pearson): 17 % of groups at n = 16, 9 % at 32, 4.6 % at 64.
    k <  n / 8       doubtful: fewer than one group in eight teaches.
    else             learnable, with doubts where one reward outranks accuracy, where half of the completions
                     are cut off, or where no rollout is right.

docs/preflight.md explains the thresholds."""

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

from r1kit.data.curriculum import CORRECTNESS
from r1kit.health import CUT, FEW, PATIENCE
from r1kit.rewards import FAILURE_LIMIT, WeightedReward
from r1kit.train.rollouts import Phase, RolloutConfig, teaches
from r1kit.types import Rollout, Score

Compared = Literal["groups", "parts", "phase"]

RARE = 1 / 32  # of the groups teach: hopeless; below FEW (r1kit.health) it is doubtful
ENOUGH = 16  # groups, below which nothing is called hopeless
MOSTLY_CUT = 0.9  # of the completions: the cause; from CUT (r1kit.health) on it is doubtful
WITHOUT_FORMAT = 0.05  # of the completions follow the template at most, where the format is the cause
NEARLY_ALL = 0.9  # of the groups all right, or all of one text
MIXED, OUTRANKED = 8, 1 / 3  # groups with right and wrong answers; of them not better when right
READ = ("accuracy", "format")  # rewards that need a completion to follow the template


@dataclass(frozen=True, slots=True)
class Evidence:
    """Counts over the groups of one or more phases; evidence is added with ``+``.

    ``uneven`` groups teach; ``attempted`` ones have rollouts that the accuracy reward judged, in ``solved``
    ones one at least was right, in ``mastered`` ones all. In ``same`` groups all texts are equal. ``mixed``
    groups have right and wrong rollouts, and in ``outranked`` ones of them the wrong ones earn as much on
    average. ``gaps``: by reward, the sum over mixed groups of what the wrong rollouts have more than the
    right ones. Of the rollouts some were ``cut`` off, ``followed`` the template, were ``judged``, ``right``,
    ``failed`` to be scored, or were ``scored`` by a reward at least. ``names``: the rewards."""

    groups: int = 0
    uneven: int = 0
    attempted: int = 0
    solved: int = 0
    mastered: int = 0
    same: int = 0
    mixed: int = 0
    outranked: int = 0
    rollouts: int = 0
    cut: int = 0
    followed: int = 0
    judged: int = 0
    right: int = 0
    failed: int = 0
    scored: int = 0
    gaps: Mapping[str, float] = field(default_factory=dict)
    names: frozenset[str] = frozenset()

    def __add__(self, other: "Evidence") -> "Evidence":
        counts = {one.name: getattr(self, one.name) + getattr(other, one.name) for one in _COUNTS}
        gaps = {n: self.gaps.get(n, 0.0) + other.gaps.get(n, 0.0) for n in {*self.gaps, *other.gaps}}
        return Evidence(**counts, gaps=gaps, names=self.names | other.names)

    def share(self, part: int, whole: int) -> float:
        """part / whole; 0 of nothing."""
        return part / whole if whole else 0.0


_COUNTS = [one for one in fields(Evidence) if one.name not in ("gaps", "names")]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a training: ``kind`` (a name of SILENT_CAUSES or DOUBTS), what was ``seen``, and the
    ``change`` to try. ``hopeless``: nothing can be learned as it is."""

    kind: str
    hopeless: bool
    seen: str
    change: str

    def in_words(self) -> str:
        return f"{self.kind.replace('_', ' ')}: {self.seen}. Try: {self.change}"


@dataclass(frozen=True, slots=True)
class Setting:
    """What a finding's change refers to: where the algorithm's keys stand in the stage ("grpo"), its
    configuration, and the weight of each reward."""

    key: str
    config: RolloutConfig
    weights: Mapping[str, float]


def setting_of(key: str, config: RolloutConfig, rewards: Sequence[WeightedReward]) -> Setting:
    """The setting of a training by ``config`` on ``rewards``."""
    return Setting(key, config, {reward.name: reward.weight for reward in rewards})


def gather(phase: Phase, compared: Compared, overlong_filter: bool) -> Evidence:
    """The evidence of one phase with scores.

    ``compared``: rollouts by their totals within their "groups", by each of the "parts" of their rewards
    there, or with the whole "phase"; ``overlong_filter``: those that were cut off are not trained on."""
    totals = Counter(
        score.total for scores in phase.scores_PG for score in scores if score.total == score.total
    )
    usual = totals.most_common(1)[0][0] if compared == "phase" and totals else None
    evidence = Evidence()
    for group, scores in zip(phase.groups, phase.scores_PG, strict=True):
        trained = not (overlong_filter and all(map(is_cut, group)))
        evidence += _of_group(group, scores, trained and _differ(scores, compared, usual))
    return evidence


def is_cut(rollout: Rollout) -> bool:
    """Whether a completion was cut off at max_tokens."""
    return rollout.completion.finish == "length"


def _differ(scores: Sequence[Score], compared: Compared, usual: float | None) -> bool:
    """Whether a group teaches. Compared with the whole phase it does where a total is not the usual one."""
    totals = [score.total for score in scores]
    if compared == "phase":
        return any(total != usual for total in totals if not math.isnan(total))
    if compared == "groups":
        return teaches(totals)
    return any(
        teaches([value for score in scores if (value := score.parts.get(name)) is not None])
        for name in scores[0].parts
    )


def _of_group(group: Sequence[Rollout], scores: Sequence[Score], uneven: bool) -> Evidence:
    sound = [score for score in scores if not math.isnan(score.total)]
    judged = [score for score in sound if score.parts.get(CORRECTNESS) is not None]
    right = [score for score in judged if (score.parts[CORRECTNESS] or 0.0) >= 1.0]
    wrong = [score for score in judged if (score.parts[CORRECTNESS] or 0.0) < 1.0]
    mixed = bool(right and wrong)
    return Evidence(
        groups=1,
        uneven=int(uneven),
        attempted=int(bool(judged)),
        solved=int(bool(right)),
        mastered=int(bool(judged) and not wrong),
        same=int(len(group) > 1 and len({rollout.text for rollout in group}) == 1),
        mixed=int(mixed),
        outranked=int(mixed and _mean([s.total for s in wrong]) >= _mean([s.total for s in right])),
        rollouts=len(group),
        cut=sum(map(is_cut, group)),
        followed=sum(rollout.answer is not None for rollout in group),
        judged=len(judged),
        right=len(right),
        failed=len(scores) - len(sound),
        scored=sum(any(value is not None for value in score.parts.values()) for score in sound),
        gaps={name: _gap(name, right, wrong) for name in scores[0].parts} if mixed else {},
        names=frozenset(scores[0].parts) if scores else frozenset(),
    )


def _gap(name: str, right: Sequence[Score], wrong: Sequence[Score]) -> float:
    """By how much the wrong rollouts of a group have more of a reward than the right ones, on average."""
    means = [
        _mean([value for score in scores if (value := score.parts.get(name)) is not None])
        for scores in (wrong, right)
    ]
    return means[0] - means[1]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def cause(evidence: Evidence) -> str:
    """Why few or no groups teach: a name of SILENT_CAUSES."""
    e = evidence
    if not e.names:
        return "no_rewards"
    if e.failed == e.rollouts:
        return "failed"
    if not e.scored:
        return "not_applicable"
    if e.cut >= MOSTLY_CUT * e.rollouts:
        return "cut_off"
    if e.names.intersection(READ) and e.followed <= WITHOUT_FORMAT * e.rollouts:
        return "format"
    if e.attempted and e.mastered >= NEARLY_ALL * e.attempted:
        return "too_easy"
    if e.same >= NEARLY_ALL * e.groups:
        return "same_text"
    if e.attempted and e.solved <= FEW * e.attempted:
        return "too_hard"
    return "equal"


def silent_cause(phase: Phase, compared: Compared, overlong_filter: bool) -> str | None:
    """Why a phase teaches nothing; None where it teaches something, or where the algorithm has no scores."""
    if not any(phase.scores_PG):
        return None
    evidence = gather(phase, compared, overlong_filter)
    return None if evidence.uneven else cause(evidence)


def find(evidence: Evidence, setting: Setting) -> list[Finding]:
    """Everything that is wrong, the hopeless first; empty where the training can learn."""
    e = evidence
    if e.failed > max(1, FAILURE_LIMIT * e.rollouts):
        return [_finding("failed", True, e, setting)]
    found = []
    if e.uneven < FEW * e.groups or not e.groups:
        hopeless = e.groups >= ENOUGH and e.uneven <= RARE * e.groups
        kind = cause(e) if e.groups else "undecided"
        found.append(_finding(kind, hopeless or kind in ("no_rewards", "not_applicable"), e, setting))
    elif e.attempted >= ENOUGH and not e.solved:
        found.append(_unsolved(e, setting))
    if e.cut >= CUT * e.rollouts and all(one.kind != "cut_off" for one in found):
        found.append(_finding("cut_off", False, e, setting))
    if e.mixed >= MIXED and e.outranked > OUTRANKED * e.mixed:
        found.append(_finding("dominated", False, e, setting))
    return found


def _unsolved(e: Evidence, setting: Setting) -> Finding:
    """Rollouts differ in other rewards, and none is right. That may come with the template, unless next to
    none is followed, or most are already."""
    if e.names.intersection(READ) and e.followed <= WITHOUT_FORMAT * e.rollouts:
        return _finding("format", not e.followed, e, setting)
    return _finding("too_hard", e.followed >= CUT * e.rollouts, e, setting)


def _finding(kind: str, hopeless: bool, evidence: Evidence, setting: Setting) -> Finding:
    return Finding(kind, hopeless, _seen(kind, evidence), _change(kind, evidence, setting))


def _seen(kind: str, e: Evidence) -> str:
    """What was counted, in words."""
    few = f"{e.uneven} of {e.groups} groups teach (95 %: below {upper_bound(e.uneven, e.groups):.0%} of them)"
    return {
        "no_rewards": "the stage has no rewards",
        "not_applicable": f"no reward applied to any of {e.rollouts} rollouts (all were None)",
        "failed": f"{e.failed} of {e.rollouts} rollouts could not be judged",
        "cut_off": f"{e.cut} of {e.rollouts} completions were cut off at max_tokens",
        "format": f"{e.followed} of {e.rollouts} completions followed the template; {few}",
        "too_easy": f"all rollouts were right in {e.mastered} of {e.attempted} groups; {few}",
        "too_hard": f"{e.right} of {e.judged} rollouts were right, in {e.solved} of {e.attempted} groups",
        "same_text": f"all rollouts were the same text in {e.same} of {e.groups} groups; {few}",
        "equal": f"rollouts that are compared with one another earned the same; {few}",
        "dominated": (
            f"in {e.outranked} of {e.mixed} groups with right and wrong rollouts the wrong ones earn as much"
        ),
        "undecided": "no group was complete in time",
    }[kind]


def _change(kind: str, e: Evidence, setting: Setting) -> str:
    """The change to try: which key, which value."""
    key, config = setting.key, setting.config
    if kind == "cut_off":
        longer = f"{key}.max_tokens: {2 * config.max_tokens} (now {config.max_tokens})"
        return f'{longer}, or make the model stop: talk.stop: ["</answer>"], or talk.examples'
    if kind == "format":
        return (
            'talk.opening: "<think>", talk.examples with two or three worked examples, or talk.template: '
            "model where the model has a template of its own"
        )
    if kind == "too_easy":
        return f"harder problems under tasks, or {key}.curriculum: {{easy: 1.0}}, which lets solved ones rest"
    if kind == "too_hard":
        return f"easier problems under tasks, talk.examples, a fine-tuned init{_larger_group(e, setting)}"
    if kind == "same_text":
        higher = max(1.0, round(config.temperature * 1.5, 2))
        return f"{key}.temperature: {higher:g} (now {config.temperature:g})"
    if kind == "dominated":
        return _lower_weight(e, setting)
    return {
        "no_rewards": "rewards: {accuracy: 1.0, format: 0.1}",
        "not_applicable": (
            f"other rewards than {', '.join(sorted(e.names))}: these return None for all rollouts of the "
            "tasks; accuracy needs problems with answers"
        ),
        "failed": "repair the reward or checker that the failure above names; more than "
        f"{FAILURE_LIMIT:.0%} of failures stop the training",
        "equal": f"a reward that differs within a group (now: {', '.join(sorted(e.names))})",
        "undecided": f"a smaller {key}.max_tokens (now {config.max_tokens}), or preflight: off",
    }[kind]


def _larger_group(e: Evidence, setting: Setting) -> str:
    """The size at which half of the groups would have a right rollout, if that is at most 64."""
    rate = e.share(e.right, e.judged)
    if not 0.0 < rate < 1.0:
        return ""
    size = math.ceil(math.log(0.5) / math.log(1.0 - rate))
    return f", or {setting.key}.group: {size}" if setting.config.group < size <= 64 else ""


def _lower_weight(e: Evidence, setting: Setting) -> str:
    """The weight at which the reward that favours wrong rollouts most costs half of what accuracy gives."""
    gains = {
        name: setting.weights.get(name, 0.0) * gap for name, gap in e.gaps.items() if name != CORRECTNESS
    }
    worst = max(gains, key=lambda name: gains[name], default=None)
    accuracy = setting.weights.get(CORRECTNESS, 0.0)
    if worst is None or gains[worst] <= 0 or not accuracy:
        return f"a larger weight of {CORRECTNESS} under rewards (now {accuracy:g})"
    weight = 0.5 * accuracy * e.mixed / e.gaps[worst]
    now = setting.weights[worst]
    if weight >= now:
        return f"a larger weight of {CORRECTNESS} under rewards (now {accuracy:g})"
    return f"rewards.{worst}: {weight:.1g} (now {now:g}): wrong rollouts have more of it than right ones"


def upper_bound(count: int, whole: int, confidence: float = 0.95) -> float:
    """The one-sided upper bound of a share of which ``count`` of ``whole`` were seen (Clopper-Pearson): the
    share at which so few or fewer have the probability 1 - confidence."""
    if count >= whole:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        chance = sum(math.comb(whole, i) * middle**i * (1 - middle) ** (whole - i) for i in range(count + 1))
        low, high = (middle, high) if chance > 1 - confidence else (low, middle)
    return high


class LearningAlarm:
    """Judges a running training by its last phases: as many as have ENOUGH groups together, PATIENCE at
    least. Every kind of finding is reported once."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._phases: deque[Evidence] = deque()
        self._said: set[str] = set()

    def feed(self, step: int, evidence: Evidence) -> list[str]:
        """The new warnings after the phase that begins at ``step``."""
        phases = self._phases
        phases.append(evidence)
        while len(phases) > PATIENCE and sum(one.groups for one in phases) - phases[0].groups >= ENOUGH:
            phases.popleft()
        if len(phases) < PATIENCE or sum(one.groups for one in phases) < ENOUGH:
            return []
        found = find(sum(phases, Evidence()), self._setting)
        new = [one for one in found if one.kind not in self._said]
        self._said |= {one.kind for one in new}
        return [
            f"step {step}: the last {len(phases)} phases "
            f"{'teach nothing' if one.hopeless else 'teach little'}: {one.in_words()}"
            for one in new
        ]
