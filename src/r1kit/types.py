"""The data types of r1kit, in order: problem -> completion -> rollout -> score -> row -> batch.

Every type is frozen and complete when made. A group of rollouts has a number, its index in the phase that
sampled it, because one problem may be drawn twice. Rewards, failures and verdicts are stored by the rollout's
key, not by the problem's id.

Shape letters, one legend for the whole project; each letter has one meaning (tests/test_source.py). Digits in
a suffix are sizes.

    B lines of a batch (packed rows)    T token positions         N flattened tokens
    S segments of a line                X positions attended to   V vocabulary
    D model width                       H query heads             J key-value heads
    Q query heads per key-value head    K key dim per head        W value dim per head
    C key-value latent                  U rotated dim of a head   I rotated pairs (U = 2 I)
    E experts                           A active experts          F expert width
    M slots of tokens sorted by expert  L layers with experts
    P problems per step                 G rollouts per problem    R rollouts of all problems
    Y preference pairs                  Z points of a history (measurements, prefixes)
    O outcomes of an enumeration

So ``logprobs_BT`` is a [lines, positions] tensor and ``rewards_PG`` a [problems, rollouts] one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Finish = Literal["stop", "length"]
Outcome = Literal["correct", "wrong", "unverifiable", "failed"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to solve: bare text, without template.

    ``answer`` None means that only a judge can score it. ``columns`` carries the data set's other columns,
    which reach reward functions by name, as in TRL."""

    id: str
    task: str
    prompt: str
    answer: str | None
    language: str = "en"
    difficulty: float | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn: ``n`` per prompt, at most ``max_tokens`` each (the end token counts).

    Logits are divided by ``temperature`` (0 takes the likeliest token). Then ``top_k`` keeps the k likeliest
    tokens (0: all), ``top_p`` of those the fewest that reach this share of their mass, ``min_p`` of those the
    ones at least this share as likely as the likeliest. ``stop`` are strings that also end a completion;
    ``experts``: record the experts chosen."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 128
    seed: int = 0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    experts: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """The result of an engine: token ids [T], the end token included, and log-probabilities [T] of the
    sampled tokens.

    The log-probabilities are float32, from logits divided by the sampling's temperature, before top-k, top-p
    and min-p. A learner that divides its logits by the same temperature recomputes the same numbers. At
    temperature 0 they are the log-probabilities at temperature 1. ``version`` is the version of the weights
    that sampled it. ``experts``, if the sampling records them, are the experts chosen for every token except
    the last one: [prompt + T - 1, sparse layers, A], uint8 (int16 above 256 experts), unordered within a
    token."""

    token_ids: np.ndarray
    logprobs: np.ndarray
    finish: Finish
    version: int = 0
    experts: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    """The completion of a problem, parsed. ``thinking`` and ``answer`` are None where the template was not
    followed.

    ``group`` is the number of its group, unique in the phase or call that sampled it; ``index`` is the
    rollout's place in the group. The rollouts of a group have one problem, and two groups may have the same.
    """

    problem: Problem
    index: int
    prompt_ids: np.ndarray
    completion: Completion
    text: str
    thinking: str | None
    answer: str | None
    group: int = 0

    @property
    def group_key(self) -> tuple[str, int]:
        """Identifies the rollout's group."""
        return self.problem.id, self.group

    @property
    def key(self) -> tuple[str, int, int]:
        """Identifies this rollout among those of one phase."""
        return self.problem.id, self.group, self.index


@dataclass(frozen=True, slots=True)
class Verdict:
    """A checker's judgement. Only ``correct`` and ``wrong`` may become a reward; ``failed`` is a fault of the
    checker, not of the model.

    Of a program: ``seconds`` of processor time, ``tests`` one by one, ``wall_seconds`` by the clock, which a
    program that sleeps uses too."""

    outcome: Outcome
    reason: str = ""
    seconds: float = 0.0
    tests: tuple[str, ...] = ()
    wall_seconds: float = 0.0

    @property
    def reward(self) -> float | None:
        """1.0 for correct, 0.0 for wrong, None for what cannot be judged."""
        return {"correct": 1.0, "wrong": 0.0}.get(self.outcome)


@dataclass(frozen=True, slots=True)
class Score:
    """The weighted total of a rollout's rewards and its parts; a part is None where it does not apply.
    ``reasons``: why a part is what it is, where its checker says so; two scores with other reasons are
    equal."""

    total: float
    parts: Mapping[str, float | None]
    reasons: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response, thinking included, and the final answer in it: what a helpful reward model reads."""

    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class Preference:
    """Two responses to one prompt, the better one first."""

    problem: Problem
    chosen: Response
    rejected: Response


@dataclass(frozen=True, slots=True)
class Labelled:
    """A whole response and whether it is safe."""

    problem: Problem
    text: str
    safe: bool


@dataclass(frozen=True, slots=True)
class Row:
    """The one unit of training, for pretraining, SFT, RL and distillation alike.

    token_ids [T] int32; mask [T] bool: True where the token is to be predicted (its log-probability enters
    the loss); old_logprobs, ref_logprobs [T] float32, aligned with token_ids, zero where unused. ``weight``
    multiplies every trained token and carries the whole normalisation (GRPO: 1/(rows x length); SFT, DAPO:
    1/trained tokens), so a loss is a sum. ``weight``, ``advantage`` and ``penalty`` (the coefficient of |log
    ratio| in KL-Cov) are one number for the whole row, or [T] with one a token.

    ``temperature`` is the sampling temperature; logits are divided by it before log-probabilities are
    computed. ``experts`` [T - 1, sparse layers, A] are the experts to use for every token except the last
    (Completion.experts; -1: the model's own choice). ``name`` identifies the row in messages, for instance
    "problem/group/rollout".

    A row of masked language modelling is ``bidirectional``: every token attends to all of them. What its
    position t predicts is ``targets[t + 1]`` [T] int32, which is ``token_ids`` for all other rows. ``label``
    is the class of the whole row, -1 for none; the classification head reads it at the first position, and
    ``label_weight`` multiplies its loss."""

    token_ids: np.ndarray
    mask: np.ndarray
    weight: float | np.ndarray
    advantage: float | np.ndarray = 0.0
    old_logprobs: np.ndarray | None = None
    ref_logprobs: np.ndarray | None = None
    penalty: float | np.ndarray = 0.0
    temperature: float = 1.0
    experts: np.ndarray | None = None
    name: str = ""
    bidirectional: bool = False
    targets: np.ndarray | None = None
    label: int = -1
    label_weight: float = 0.0
