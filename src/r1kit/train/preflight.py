"""The pre-flight: before an RL training starts, sample some groups as it would, score them, and say whether
anything can be learned (learnable.py has the rules).

At most ROLLOUTS rollouts are sampled, in two rounds, and not more than the whole training will sample. The
time is bounded too: a short probe measures the speed, and a round is as large as fits into what is left of
SECONDS. Where not even FEWEST groups fit, completions are cut short, and the pre-flight says so. No engine is
ever interrupted, because a runtime of several processes cannot go on after that.

Problems come from a stream with a seed of its own, and an engine's completions are a function of their seeds,
so a training's results do not depend on its pre-flight."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from r1kit.chat import Chat
from r1kit.config import R1kitError
from r1kit.data.mixture import Mixture
from r1kit.engine import Engine
from r1kit.figures import PREFLIGHT
from r1kit.health import CUT
from r1kit.rewards import Failure, TooManyFailuresError, WeightedReward
from r1kit.seeds import derive_seed
from r1kit.train.learnable import ENOUGH, Evidence, Finding, Setting, find, gather, is_cut, setting_of
from r1kit.train.learner import Metrics
from r1kit.train.rl_loop import RLConfig
from r1kit.train.rollouts import Phase, judge
from r1kit.train.template_faults import what_parser_saw
from r1kit.types import Problem, Rollout, Sampling

Mode = Literal["stop", "warn", "off"]

ROLLOUTS = 256
SECONDS = 30.0
MARGIN = 0.6  # of the time is planned with, because later tokens and other machines' loads are slower
LAST_MARGIN = 0.9  # of the time, where it must suffice for FEWEST groups
FEWEST = 4  # groups, for which completions are cut short rather than leaving out groups
PROBE_TOKENS = 16
SHOWN = 3  # rollouts as text


class NothingToLearnError(R1kitError):
    """The pre-flight of a stage with ``preflight: stop`` found that nothing can be learned."""


@dataclass(frozen=True, slots=True)
class Preflight:
    """What the pre-flight found. ``shown``: rollouts as text, each with what the parser saw; ``failure``: the
    first failure of a reward; ``shortened``: the tokens at which completions were cut short, None where the
    training's own limit held."""

    evidence: Evidence
    findings: Sequence[Finding]
    shown: Sequence[str]
    failure: str
    shortened: int | None
    seconds: float

    @property
    def hopeless(self) -> bool:
        """Whether nothing can be learned."""
        return any(finding.hopeless for finding in self.findings)

    @property
    def verdict(self) -> str:
        """One word or two: "learnable", or the kind of the first finding."""
        return self.findings[0].kind.replace("_", " ") if self.findings else "learnable"

    def lines(self) -> list[str]:
        """The verdict for readers: figures, findings with the change to try, and rollouts as text where
        completions are what is wrong."""
        e = self.evidence
        figures = [
            f"{e.uneven} of {e.groups} groups teach",
            *([f"{e.right / e.judged:.0%} right"] if e.judged else []),
            f"template followed {e.share(e.followed, e.rollouts):.0%}",
            f"cut off {e.share(e.cut, e.rollouts):.0%}",
        ]
        judged = "hopeless, " if self.hopeless else "doubtful, " if self.findings else ""
        head = f"preflight: {judged}{self.verdict}: {', '.join(figures)} ({e.rollouts} rollouts)"
        lines = [head, *(f"warning: preflight: {finding.in_words()}" for finding in self.findings)]
        if self.shortened is not None:
            lines.append(
                f"preflight: completions were cut at {self.shortened} tokens to take {SECONDS:.0f} s"
            )
        if self.failure:
            lines.append(f"preflight: the first failure: {self.failure}")
        return lines + ([*self.shown] if self.findings else [])

    def metrics(self) -> Metrics:
        """The figures for the first row of the training's metrics."""
        e = self.evidence
        found = {
            "preflight/rollouts": float(e.rollouts),
            "preflight/groups": float(e.groups),
            "preflight/uneven": e.share(e.uneven, e.groups),
            "preflight/solved": e.share(e.solved, e.attempted),
            "preflight/right": e.share(e.right, e.judged),
            "preflight/format": e.share(e.followed, e.rollouts),
            "preflight/cut_off": e.share(e.cut, e.rollouts),
            "preflight/hopeless": float(self.hopeless),
        }
        return found | {PREFLIGHT + "found/" + finding.kind: 1.0 for finding in self.findings}


def fly(
    engine: Engine,
    chat: Chat,
    mixture: Mixture,
    rewards: Sequence[WeightedReward],
    config: RLConfig,
    key: str,
    seed: int,
) -> Preflight:
    """Sample, score and judge. ``key``: where the algorithm's keys stand in the stage ("grpo"). Moves the
    ``mixture``, so give it one of its own."""
    began = time.perf_counter()
    group = min(config.group, ENOUGH)
    whole = min(ROLLOUTS, config.steps * config.problems * config.group)
    wanted = max(1, whole // group)
    sampling = Sampling(group, config.temperature, config.top_p, config.max_tokens, stop=chat.stop)
    speed = _Speed(engine, chat, mixture, sampling, seed)
    fitting = speed.groups(SECONDS * MARGIN, config.max_tokens)
    shortened = None
    fewest = min(FEWEST, wanted)
    if fitting < fewest:
        left = SECONDS * LAST_MARGIN - (time.perf_counter() - began)
        fitting, possible = fewest, speed.tokens(left, fewest)
        if possible < config.max_tokens:
            shortened, sampling = possible, replace(sampling, max_tokens=possible)
    evidence, groups, failures = Evidence(), list[list[Rollout]](), list[Failure]()
    while evidence.groups < wanted:
        spent = time.perf_counter() - began
        if evidence.groups:
            fitting = int((SECONDS - spent) * MARGIN / (spent / evidence.groups))
        count = min(fitting, wanted - evidence.groups, max(1, -(-wanted // 2)))
        if count < 1:
            break
        sampled = _sample(engine, chat, mixture.draw(count), sampling, seed, len(groups))
        groups += sampled
        evidence += _score(sampled, rewards, config, failures)
    findings = _findings(evidence, setting_of(key, config, rewards), shortened)
    return Preflight(
        evidence,
        findings,
        _as_text(groups),
        _last_line(failures[0].detail) if failures else "",
        shortened,
        time.perf_counter() - began,
    )


def _findings(evidence: Evidence, setting: Setting, shortened: int | None) -> list[Finding]:
    """As ``find``. Completions that were cut short say nothing: where they are many, nothing is decided."""
    if shortened is None or evidence.cut < CUT * evidence.rollouts:
        return find(evidence, setting)
    seen = f"{evidence.cut} of {evidence.rollouts} completions were longer than {shortened} tokens"
    change = f"a smaller {setting.key}.max_tokens (now {setting.config.max_tokens}), or preflight: off"
    return [Finding("undecided", False, seen, change)]


class _Speed:
    """How long the engine takes for FEWEST groups: ``prompts_s`` for their prompts and a first token,
    ``token_s`` for every further token of all completions. The first round may compile and does not count
    where the second one is faster. Larger rounds are faster for each group, so this errs on the safe side."""

    def __init__(self, engine: Engine, chat: Chat, mixture: Mixture, sampling: Sampling, seed: int) -> None:
        problems = mixture.first(FEWEST)
        times: list[float] = []
        for number, tokens in enumerate((1, 1, 1 + PROBE_TOKENS)):
            if number == 1 and times[0] > SECONDS / 15:
                continue  # a first round so slow is slow by itself, and a second one would cost as much
            brief = replace(sampling, max_tokens=min(tokens, sampling.max_tokens))
            began = time.perf_counter()
            _sample(engine, chat, problems, brief, derive_seed(seed, "speed", number), 0)
            times.append(time.perf_counter() - began)
        self.share = FEWEST / len(problems)
        self.prompts_s = min(times[:-1])
        self.token_s = max(times[-1] - self.prompts_s, 0.1 * times[-1], 1e-6) / PROBE_TOKENS

    def groups(self, seconds: float, max_tokens: int) -> int:
        """How many groups of completions of ``max_tokens`` fit."""
        return int(FEWEST * seconds / (self.share * (self.prompts_s + max_tokens * self.token_s)))

    def tokens(self, seconds: float, groups: int) -> int:
        """How many tokens the completions of so many groups may have."""
        fitting = (seconds * FEWEST / (groups * self.share) - self.prompts_s) / self.token_s
        return max(PROBE_TOKENS, int(fitting))


def _sample(
    engine: Engine, chat: Chat, problems: Sequence[Problem], sampling: Sampling, seed: int, first: int
) -> list[list[Rollout]]:
    """A group of rollouts for each problem, numbered from ``first``."""
    prompts = [chat.prompt_ids(problem) for problem in problems]
    seeds = [derive_seed(seed, first + place, problem.id) for place, problem in enumerate(problems)]
    return [
        chat.rollouts(problem, prompt, group, number=number)
        for number, (problem, prompt, group) in enumerate(
            zip(problems, prompts, engine.generate(prompts, sampling, seeds), strict=True), first
        )
    ]


def _score(
    groups: Sequence[list[Rollout]],
    rewards: Sequence[WeightedReward],
    config: RLConfig,
    failures: list[Failure],
) -> Evidence:
    """The evidence of some groups. Too many failures are counted here and stop the training where it meets
    them."""
    before = len(failures)
    try:
        scores_PG = judge(groups, rewards, failures)
    except TooManyFailuresError:
        rollouts = [rollout for group in groups for rollout in group]
        return Evidence(
            groups=len(groups),
            rollouts=len(rollouts),
            cut=sum(map(is_cut, rollouts)),
            followed=sum(rollout.answer is not None for rollout in rollouts),
            failed=len({failure.rollout for failure in failures[before:]}),
            names=frozenset(reward.name for reward in rewards),
        )
    phase = Phase(list(groups), scores_PG, len(groups), 1)
    return gather(phase, config.compared, getattr(config, "overlong_filter", False))


def _as_text(groups: Sequence[Sequence[Rollout]]) -> list[str]:
    """SHOWN rollouts of different groups, with what the parser saw in them, then how often it saw what."""
    chosen = [group[0] for group in groups[:SHOWN]]
    lines = [
        f"preflight: rollout {number}: {what_parser_saw(rollout)}: {rollout.text!r:.600}"
        for number, rollout in enumerate(chosen, 1)
    ]
    seen = Counter(what_parser_saw(rollout) for group in groups for rollout in group)
    counted = "; ".join(f"{count} {what}" for what, count in seen.most_common())
    return [*lines, f"preflight: the parser saw: {counted}"] if seen else []


def _last_line(detail: str) -> str:
    """The last line of a traceback or reason."""
    return detail.strip().splitlines()[-1] if detail.strip() else ""
