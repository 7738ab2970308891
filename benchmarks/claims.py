"""What the miniature has to show, as numbers of a run and bounds, and whether finished runs show it."""

import operator
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from measured import DASH, Finished, minus, over, spread

HOLDS, ON_AVERAGE, FAILS, NOT_MEASURED = (
    "**holds**",
    "**holds on average only**",
    "**does not hold**",
    "not measured",
)
RL_MODELS = ("r1_zero", "reasoning_rl", "alignment_rl")


@dataclass(frozen=True, slots=True)
class Claim:
    """Something to show: a number of each run, and on which side of the bound it must lie."""

    text: str
    measure: Callable[[Finished], float | None]
    sign: Literal["≥", "≤", ">", "<"]
    bound: float
    digits: int = 3

    def met(self, value: float) -> bool:
        """Whether a number lies on the right side."""
        return bool(
            {"≥": operator.ge, "≤": operator.le, ">": operator.gt, "<": operator.lt}[self.sign](
                value, self.bound
            )
        )

    def judged(self, runs: Sequence[Finished]) -> tuple[str, str]:
        """(what was measured, the verdict): it holds where every run meets it, and on average only where the
        mean does and not every run."""
        values = [value for run in runs if (value := self.measure(run)) is not None]
        if not values:
            return DASH, NOT_MEASURED
        met = sum(map(self.met, values))
        verdict = HOLDS if met == len(values) else ON_AVERAGE if self.met(statistics.fmean(values)) else FAILS
        return spread(values, self.digits), verdict + (
            f" ({met} of {len(values)})" if len(values) > 1 else ""
        )

    def failed(self, runs: Sequence[Finished]) -> bool:
        """Whether it was measured and does not hold in the mean."""
        return self.judged(runs)[1].startswith(FAILS)

    def holds_on_average(self, runs: Sequence[Finished]) -> bool:
        """Whether it holds in the mean and not in every run."""
        return self.judged(runs)[1].startswith(ON_AVERAGE)


def _gain(metric: str, later: str, earlier: str) -> Callable[[Finished], float | None]:
    return lambda run: minus(run.figure(later, metric), run.figure(earlier, metric))


def _vote_gain(model: str) -> Callable[[Finished], float | None]:
    return lambda run: minus(run.figure(model, "cons@n"), run.figure(model, "pass@1"))


def _ratio(metric: str, later: str, earlier: str) -> Callable[[Finished], float | None]:
    return lambda run: over(run.figure(later, metric), run.figure(earlier, metric))


def _control_gain(metric: str, one: str, other: str) -> Callable[[Finished], float | None]:
    return lambda run: minus(run.control(one, metric), run.control(other, metric))


def _accuracy_apart(run: Finished) -> float | None:
    apart = minus(run.control("language", "pass@1"), run.control("no_language", "pass@1"))
    return None if apart is None else abs(apart)


def _direct_share(model: str) -> Callable[[Finished], float | None]:
    return lambda run: over(run.figure(model, "direct"), run.figure(model, "pass@1"))


def _change(stage: str, metric: str) -> Callable[[Finished], float | None]:
    """How much a watched curve changed from its first to its last point."""

    def measure(run: Finished) -> float | None:
        curve = run.curve(stage, metric)
        return curve[-1][1] - curve[0][1] if len(curve) > 1 else None

    return measure


def best_student_rl(run: Finished) -> str | None:
    """The student trained by RL that came out best. It is chosen on the problems that it is judged by, which
    favours RL."""
    names = [name for name in run.controls if name.startswith("student_rl")]
    return max(names, key=lambda name: run.control(name, "pass@1") or 0.0, default=None)


def _distilled_over_rl(run: Finished) -> float | None:
    best = best_student_rl(run)
    return over(run.control("distill", "pass@1"), run.control(best, "pass@1")) if best else None


def _rl_compute(run: Finished) -> float | None:
    best = best_student_rl(run)
    return over(run.seconds(run.controls[best].stage), run.seconds("distill")) if best else None


CLAIMS = (
    Claim("the base model solves few problems: pass@1", lambda run: run.figure("base", "pass@1"), "≤", 0.25),
    Claim("R1-Zero's pass@1", lambda run: run.figure("r1_zero", "pass@1"), "≥", 0.80),
    Claim("R1-Zero's pass@1, the first goal", lambda run: run.figure("r1_zero", "pass@1"), "≥", 0.90),
    Claim("reasoning RL's pass@1", lambda run: run.figure("reasoning_rl", "pass@1"), "≥", 0.80),
    Claim("pass@1 of SFT from the base", lambda run: run.figure("sft", "pass@1"), "≥", 0.80),
    Claim(
        "the final model keeps R1-Zero's accuracy: difference in pass@1",
        _gain("pass@1", "alignment_rl", "r1_zero"),
        "≥",
        -0.02,
    ),
    *(
        Claim(f"the majority beats one sample: {name}, majority minus pass@1", _vote_gain(name), "≥", 0.05)
        for name in RL_MODELS
    ),
    Claim(
        "R1-Zero's responses are longer than the base's: ratio",
        _ratio("length", "r1_zero", "base"),
        "≥",
        1.5,
        digits=2,
    ),
    Claim("R1-Zero mixes languages: consistency", lambda run: run.figure("r1_zero", "language"), "≤", 0.7),
    Claim(
        "the final model follows the format better than R1-Zero: difference",
        _gain("format", "alignment_rl", "r1_zero"),
        ">",
        0.0,
    ),
    Claim(
        "it keeps to one language better: difference", _gain("language", "alignment_rl", "r1_zero"), ">", 0.0
    ),
    Claim(
        "it answers general prompts better: difference", _gain("general", "alignment_rl", "r1_zero"), ">", 0.0
    ),
    *(
        Claim(
            f"answering at once is far below thinking: {name}, direct over pass@1",
            _direct_share(name),
            "≤",
            0.5,
        )
        for name in RL_MODELS
    ),
    Claim("seconds of all stages", lambda run: run.recipe_seconds(), "≤", 900.0, digits=0),
    Claim("megabytes of memory at most", lambda run: run.recipe_peak_mb(), "≤", 4000.0, digits=0),
)

CONTROL_CLAIMS = (
    Claim(
        "language consistency with the language reward",
        lambda run: run.control("language", "language"),
        "≥",
        0.95,
    ),
    Claim("how much lower it is without", _control_gain("language", "language", "no_language"), "≥", 0.05),
    Claim("at nearly equal accuracy: difference in pass@1, either way", _accuracy_apart, "≤", 0.03),
    Claim(
        "a coin as reward does not help: pass@1 minus the base's",
        _control_gain("pass@1", "random_reward", "base"),
        "≤",
        0.02,
    ),
    Claim(
        "a reward model alone, for too long: change of its own score",
        _change("hacking", "watch/judges"),
        ">",
        0.0,
    ),
    Claim("and of the held-out gold score", _change("hacking", "watch/gold"), "<", 0.0),
    Claim(
        "the distilled student against the best by RL: ratio of pass@1",
        _distilled_over_rl,
        "≥",
        2.0,
        digits=2,
    ),
    Claim("RL had at least as much time: seconds over distillation's", _rl_compute, "≥", 1.0, digits=2),
)
