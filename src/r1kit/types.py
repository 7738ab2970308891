"""What flows through r1kit: problem -> completion -> rollout -> score -> row -> batch.

Every type is frozen and complete from birth; nothing is filled in later. Results are keyed by id, never by
position.

Shape letters, one legend for the whole project:

    B rows          T token positions   N flattened tokens   V vocabulary
    D model width   H heads             K key dim per head   R rope dim      C KV latent
    E experts       A active experts    F expert width       S cached positions
    P problems per step                 G rollouts per problem

So ``logprobs_BT`` is a [rows, positions] tensor and ``rewards_PG`` a [problems, rollouts] one.
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
    which reach reward functions by name, as TRL hands them over."""

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

    Logits are divided by ``temperature`` (0 takes the likeliest token). Of what is then possible, ``top_k``
    keeps the k likeliest tokens (0: all), ``top_p`` of those the fewest that reach this share of their mass,
    ``min_p`` of those the ones at least this share as likely as the likeliest. ``stop`` are strings that end
    a completion too; ``experts`` asks for the record of the experts chosen."""

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
    """What an engine returns: token ids [T] (what ended it included) and log-probabilities [T] of the sampled
    tokens.

    The log-probabilities are float32 and those of the logits divided by the sampling's temperature, before
    top-k, top-p and min-p: what a learner recomputes that divides its logits by the same temperature. At
    temperature 0 they are those at temperature 1. ``version`` is the version of the weights that sampled it.
    ``experts``, if asked for, are the experts of the tokens that were fed, the prompt's and all but the last
    of the completion's: [prompt + T - 1, sparse layers, A], uint8 (int16 above 256 experts), in no order
    within a token."""

    token_ids: np.ndarray
    logprobs: np.ndarray
    finish: Finish
    version: int = 0
    experts: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    """The completion of a problem, parsed. ``thinking`` and ``answer`` are None where the template was not
    followed.

    ``index`` is the rollout's place in its group; (problem.id, index) names it.
    """

    problem: Problem
    index: int
    prompt_ids: np.ndarray
    completion: Completion
    text: str
    thinking: str | None
    answer: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A checker's judgement. Only ``correct`` and ``wrong`` may become a reward; ``failed`` is our own fault,
    never the model's."""

    outcome: Outcome
    reason: str = ""
    seconds: float = 0.0
    tests: tuple[str, ...] = ()

    @property
    def reward(self) -> float | None:
        """1.0 for correct, 0.0 for wrong, None for what cannot be judged."""
        return {"correct": 1.0, "wrong": 0.0}.get(self.outcome)


@dataclass(frozen=True, slots=True)
class Score:
    """The weighted total of a rollout's rewards and its parts; a part is None where it does not apply."""

    total: float
    parts: Mapping[str, float | None]


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

    ``temperature`` is the one that the tokens were sampled at: logits are divided by it before any
    log-probability. ``experts`` [T - 1, sparse layers, A] are the experts to take for every token but the
    last (Completion.experts; -1: the model's own choice). ``name`` says in messages which row it is, for
    instance "problem/rollout"."""

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
