"""The health of a training in plain words: one table of rules for the terminal during ``run``, ``r1kit
watch``, the board and the report.

A rule reads the rows of metrics.jsonl of one training (a stage, or a part of it), one after the other. It
fires where its condition has been met in ``patience`` rows in a row that measure its metric. Each rule says
what that means and what to change. A value is compared with what came before it (``History``):

    first     mean of the first FIRST values           usual, spread   moving mean, moving mean deviation
    best      the highest value so far

Some conditions are known to the training itself more exactly than its rows show, group by group: it prints
those warnings (train/learnable.py, train/agreement_gate.py, stages/hacking_watch.py), with the thresholds of
this module, and ``printed`` is false here."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from r1kit.figures import SILENT, SILENT_CAUSES

Row = Mapping[str, Any]

FEW = 1 / 8  # of the groups teach: fewer are too few
CUT = 0.5  # of the completions are cut off: too many
PATIENCE = 3  # phases at least, before a running training is judged
GAP = 0.05  # mean difference of log-probabilities of engine and learner: more is a fault

FIRST = 5  # values that the first mean is taken over
COLLAPSED = 0.1  # of the first entropy is left
LONGER = 2.0  # times the first length, where completions are cut off too
CUT_WHILE_LONGER = 0.1  # of the completions
FAILING = 0.01  # of the rollouts could not be judged; at 0.05 the run stops (rewards/scoring.py)
UNEVEN = 2.0  # the busiest expert's load over the mean, minus 1
SPIKE, HIGHER, MEMORY = 8.0, 1.5, 20  # deviations, times the usual loss, rows that the moving mean spans
FELL = 3.0  # standard errors by which the accuracy on held-out problems is below its best
QUIET_S, QUIET_STEPS = 600.0, 10.0  # nothing new: so many seconds at least, so many times a usual step
PHASE = ("reward/", "completions/", "sampling/")  # metrics of a phase, the same in the rows of its updates
MOST_SPANS = 20  # of one rule that are listed for one training


@dataclass(slots=True)
class History:
    """What came before a value of one metric (see the top of the module); changed by ``add``."""

    count: int = 0
    first: float = 0.0
    usual: float = 0.0
    spread: float = 0.0
    best: float = -math.inf
    best_error: float = 0.0

    def add(self, value: float, error: float = 0.0) -> None:
        if self.count < FIRST:
            self.first += (value - self.first) / (self.count + 1)
        share = 1 / min(self.count + 1, MEMORY)
        if self.count:
            self.spread += (abs(value - self.usual) - self.spread) * share
        self.usual += (value - self.usual) * share
        if value > self.best:
            self.best, self.best_error = value, error
        self.count += 1


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: the ``metric`` that it reads and that it is drawn on, its ``title``, what it ``means``, the
    ``change`` to try, and ``is_met`` of a row, its value and what came before. ``grave``: nothing useful is
    learned while it lasts. ``printed``: the terminal prints it from the rows."""

    name: str
    metric: str
    title: str
    means: str
    change: str
    is_met: Callable[[Row, float, History], bool]
    patience: int = 1
    grave: bool = False
    printed: bool = True


@dataclass(frozen=True, slots=True)
class Sign:
    """A rule that fired: in which training, from which step to which (both included), and what was seen at
    the first of them. ``change`` is the rule's, or one for the cause that the rows name."""

    rule: Rule
    stage: str
    part: str
    step: int
    until: int
    seen: str
    change: str

    def in_words(self) -> str:
        """One sentence for the terminal."""
        return f"step {self.step}: {self.rule.title}: {self.seen}. {self.rule.means} Try: {self.change}"


def _same_reward(row: Row, value: float, _: History) -> bool:
    """All groups are equal only where the training says so: some algorithms compare beyond the group."""
    return value > 1.0 - FEW and (value < 1.0 or _silent_cause(row) is not None)


def _collapsed(_: Row, value: float, history: History) -> bool:
    return history.count >= FIRST and value < COLLAPSED * history.first


def _longer(row: Row, value: float, history: History) -> bool:
    cut = number(row.get("completions/clipped_ratio")) or 0.0
    return history.count >= FIRST and value > LONGER * history.first and cut > CUT_WHILE_LONGER


def _spiked(_: Row, value: float, history: History) -> bool:
    # The spread of a loss that hardly varies is no measure: at least 2 % of the loss.
    spread = max(history.spread, 0.02 * abs(history.usual))
    return (
        history.count >= MEMORY
        and value > history.usual + SPIKE * spread
        and value > HIGHER * history.usual > 0
    )


def _fell(row: Row, value: float, history: History) -> bool:
    error = math.hypot(number(row.get("watch/pass_1_stderr")) or 0.0, history.best_error)
    return history.count > 0 and error > 0 and history.best - value > FELL * error


RULES: tuple[Rule, ...] = (
    Rule(
        "same_reward",
        "reward/zero_std_groups",
        "Nearly every group has the same reward",
        "Rollouts of a group that all earn the same teach nothing.",
        "easier or harder problems, larger groups, or a reward that differs within a group",
        _same_reward,
        PATIENCE,
        grave=True,
        printed=False,
    ),
    Rule(
        "cut_off",
        "completions/clipped_ratio",
        "Most completions are cut off",
        "A completion that reaches max_tokens has no answer.",
        "a larger max_tokens, or a model that ends its answers (talk.stop, talk.examples)",
        lambda _, value, __: value >= CUT,
        PATIENCE,
        printed=False,
    ),
    Rule(
        "entropy_collapsed",
        "policy/entropy",
        "The entropy has collapsed",
        "The policy gives nearly the same text every time, so it finds nothing new.",
        "a lower learning rate, or a higher epsilon_high",
        _collapsed,
        PATIENCE,
    ),
    Rule(
        "length_exploding",
        "completions/mean_length",
        "Completions grow into max_tokens",
        "They are much longer than at the start, and more and more of them are cut off.",
        "a larger max_tokens, overlong_filter: true, or read some samples: repetition means a learning rate "
        "that is too high",
        _longer,
        PATIENCE,
    ),
    Rule(
        "verdicts_failing",
        "reward/failed",
        "Verdicts fail",
        "Rollouts that could not be judged are not trained on; above 5 % the run stops.",
        "read the failures in the samples, and fix the reward, its checker or its endpoint",
        lambda _, value, __: value > FAILING,
        2,
    ),
    Rule(
        "engine_and_learner_part",
        "sampling/logp_gap_mean",
        "Engine and learner differ",
        "What was sampled has other probabilities when it is trained on.",
        "runtime.engine_precision: float32 shows whether it is rounding; otherwise the engine has other "
        "weights than the learner",
        lambda row, value, _: value > GAP,
        PATIENCE,
        grave=True,
        printed=False,
    ),
    Rule(
        "reward_hacking",
        "watch/gold",
        "Reward model and gold score part",
        "The reward models' score rises while the score that is not rewarded falls.",
        "a smaller preference_share, fewer steps, or watch.stop_when_hacked: true",
        lambda row, _, __: bool(row.get("watch/alarm")),
        grave=True,
        printed=False,
    ),
    Rule(
        "held_out_falls",
        "watch/pass_1",
        "Accuracy on held-out problems falls",
        "It is below its best by more than the noise: the training problems are learned by heart, or the "
        "policy breaks.",
        "fewer steps, more problems, or a lower learning rate",
        _fell,
    ),
    Rule(
        "experts_uneven",
        "moe/max_violation",
        "One expert gets most tokens",
        f"The busiest expert has more than {1 + UNEVEN:g} times the mean load, so others are hardly used.",
        "a higher learner.bias_rate, or a larger training.balance_weight",
        lambda _, value, history: value > UNEVEN and history.count >= MEMORY,
        MEMORY,
    ),
    Rule(
        "loss_spike",
        "loss",
        "The loss spikes",
        "It is far above what it was in the rows before.",
        "a lower learning rate or a longer warm-up where it does not come down again; look at the rows of "
        "that step",
        _spiked,
    ),
    Rule(
        "update_skipped",
        "optim/skipped",
        "Updates are skipped",
        "The gradient was not finite, so the update was not applied.",
        "a lower learning rate",
        lambda _, value, __: value > 0,
        grave=True,
        printed=False,
    ),
)


@dataclass(slots=True)
class _Span:
    """Where a rule's condition is met: how many rows in a row, and the signs so far."""

    met: int = 0
    signs: list[Sign] = field(default_factory=list)


class HealthWatch:
    """Judges the rows of one training by RULES. ``feed`` them in their order."""

    def __init__(self, stage: str, part: str = "") -> None:
        self.stage, self.part = stage, part
        self._histories: dict[str, History] = {}
        self._spans = {rule.name: _Span() for rule in RULES}
        self._sampled: float | None = None

    def feed(self, row: Row) -> list[Sign]:
        """The rules that fire with this row, and did not with the row before."""
        found = []
        sampled = number(row.get("time/rollout"))
        same_phase = sampled is not None and sampled == self._sampled
        self._sampled = sampled
        for rule in RULES:
            value = number(row[rule.metric]) if rule.metric in row else None
            if value is None or not _is_measured(rule, row, same_phase):
                continue
            history = self._histories.setdefault(rule.metric, History())
            span = self._spans[rule.name]
            span.met = span.met + 1 if rule.is_met(row, value, history) else 0
            if span.met >= rule.patience and (sign := self._note(rule, span, row, value, history)):
                found.append(sign)
            history.add(value, number(row.get(f"{rule.metric}_stderr")) or 0.0)
        return found

    @property
    def signs(self) -> list[Sign]:
        """All that has fired so far, in the order of steps."""
        return sorted(
            (sign for span in self._spans.values() for sign in span.signs), key=lambda sign: sign.step
        )

    def _note(self, rule: Rule, span: _Span, row: Row, value: float, history: History) -> Sign | None:
        """Extend the last sign of a rule, or begin one and return it."""
        step = int(row.get("step", 0))
        if span.met > rule.patience and span.signs:
            last = span.signs[-1]
            span.signs[-1] = Sign(rule, last.stage, last.part, last.step, step, last.seen, last.change)
            return None
        if len(span.signs) >= MOST_SPANS:
            return None
        seen = f"{rule.metric} is {value:.3g}"
        if history.count >= FIRST:
            seen += f", in the first {FIRST} rows {history.first:.3g}"
        cause = _silent_cause(row) if rule.name == "same_reward" else None
        change = SILENT_CAUSES[cause] if cause is not None else rule.change
        span.signs.append(Sign(rule, self.stage, self.part, step, step, seen, change))
        return span.signs[-1]


def find_signs(rows: Iterable[Row]) -> list[Sign]:
    """All rules that fire on the rows of a run, training by training."""
    watches: dict[tuple[str, str], HealthWatch] = {}
    for row in rows:
        key = str(row.get("stage")), str(row.get("part", ""))
        watches.setdefault(key, HealthWatch(*key)).feed(row)
    return [sign for watch in watches.values() for sign in watch.signs]


def _is_measured(rule: Rule, row: Row, same_phase: bool) -> bool:
    """Whether the row has a new value: what a phase's rollouts were like stands in the rows of all its
    updates. Engine and learner have the same weights in the first of them only, and with lagged weights
    another metric has their difference."""
    if same_phase and rule.metric.startswith(PHASE):
        return False
    return rule.metric != "sampling/logp_gap_mean" or "sampling/rounding_mean" not in row


def quiet_seconds(newest: float, usual_step: float, now: float) -> float | None:
    """How long a run that goes on has logged nothing, where that is unusually long; None where it is not.
    ``newest``: when its last row or file was written, ``usual_step``: seconds between its last rows."""
    quiet = now - newest
    return quiet if quiet > max(QUIET_S, QUIET_STEPS * usual_step) else None


def number(value: Any) -> float | None:
    """The finite number; None for anything else, also for true and false."""
    if value.__class__ is float or value.__class__ is int:
        return float(value) if math.isfinite(value) else None
    return None


def _silent_cause(row: Row) -> str | None:
    """Why the phase of this row teaches nothing, a name of SILENT_CAUSES; None where it teaches."""
    return next((name for name in SILENT_CAUSES if row.get(SILENT + name)), None)
