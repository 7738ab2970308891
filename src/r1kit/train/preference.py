"""Reward models: pairwise (Bradley-Terry) and pointwise, and how they score rollouts.

    pairwise   L = -log sigmoid(v_chosen - v_rejected)              (helpfulness, on the summary only)
    pointwise  L = -[y log sigmoid(v) + (1-y) log(1-sigmoid(v))]    (safety, on the whole response)

v is the scalar head's value after the end token (DeepSeek-R1, Nature version, section 3.1). The gradient is
computed in two passes. The first computes the values without gradient, and from them the slopes dL/dv. The
second differentiates sum(slope x v). By the chain rule this is the exact gradient, and chosen and rejected
need not be in one batch or process."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from torch import Tensor

from r1kit.chat import Chat
from r1kit.seeds import derive_seed
from r1kit.train.learner import LearnerProtocol, Metrics
from r1kit.train.objectives import Needs, Predictions
from r1kit.train.packing import Batch
from r1kit.types import Labelled, Preference, Problem, Rollout, Row


@dataclass(frozen=True, slots=True)
class SlopeLoss:
    """sum(advantage x value) at the marked positions, where ``advantage`` is the slope dL/dv."""

    needs: ClassVar[Needs] = Needs(values=True)

    def __call__(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert predictions.values_BT is not None
        return (predictions.values_BT * batch.advantages_BT * batch.mask_BT).sum(), {}


def value_row(prompt_ids: np.ndarray, response_ids: np.ndarray) -> Row:
    """A row whose value is read after the response's end token. One more token is appended, because the last
    token of a row is a target only and has no position."""
    token_ids = np.concatenate([prompt_ids, response_ids, response_ids[-1:]]).astype(np.int32)
    mask = np.zeros(len(token_ids), dtype=bool)
    mask[-1] = True
    return Row(token_ids, mask, 1.0)


def read_values(learner: LearnerProtocol, rows: Sequence[Row]) -> np.ndarray:
    """The value [rows] of each ``value_row``."""
    return np.array([values[-2] for values in learner.values(rows)], dtype=np.float64)


def sigmoid(values: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-v)) without overflow."""
    found: np.ndarray = np.exp(-np.logaddexp(0.0, -values))
    return found


def pairwise_slopes(chosen_Y: np.ndarray, rejected_Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(dL/dv_chosen, dL/dv_rejected) of the mean Bradley-Terry loss."""
    slope = sigmoid(rejected_Y - chosen_Y) / len(chosen_Y)
    return -slope, slope


def pointwise_slopes(values_B: np.ndarray, labels_B: np.ndarray) -> np.ndarray:
    """dL/dv of the mean binary cross-entropy."""
    slopes_B: np.ndarray = (sigmoid(values_B) - labels_B) / len(values_B)
    return slopes_B


@dataclass(frozen=True, slots=True)
class RewardTraining:
    """How a reward model trains: ``epochs`` passes in mini-batches of ``batch``; rows have at most
    ``context`` tokens."""

    context: int
    batch: int
    epochs: int
    seed: int


def train_pairwise(
    learner: LearnerProtocol, chat: Chat, pairs: Sequence[Preference], how: RewardTraining
) -> list[Metrics]:
    """Bradley-Terry training on the responses' answers; metrics per step."""
    history = []
    for chosen in minibatches(len(pairs), how.batch, how.epochs, how.seed):
        rows = pair_rows(chat, [pairs[i] for i in chosen], how.context)
        values = read_values(learner, rows)
        slopes = pairwise_slopes(values[0::2], values[1::2])
        metrics = learner.update(_with_slopes(rows, np.stack(slopes, 1).reshape(-1)), SlopeLoss(), 1.0)
        margin = values[0::2] - values[1::2]
        loss = np.logaddexp(0, -margin).mean()
        history.append(_metrics(loss, (margin > 0).mean(), metrics))
    return history


def train_pointwise(
    learner: LearnerProtocol, chat: Chat, labelled: Sequence[Labelled], how: RewardTraining
) -> list[Metrics]:
    """Binary cross-entropy training; metrics per step."""
    history = []
    for chosen in minibatches(len(labelled), how.batch, how.epochs, how.seed):
        rows = [text_row(chat, labelled[i].problem, labelled[i].text, how.context) for i in chosen]
        labels = np.array([float(labelled[i].safe) for i in chosen])
        values = read_values(learner, rows)
        metrics = learner.update(_with_slopes(rows, pointwise_slopes(values, labels)), SlopeLoss(), 1.0)
        loss = np.logaddexp(0, np.where(labels > 0, -values, values)).mean()
        history.append(_metrics(loss, ((values > 0) == (labels > 0)).mean(), metrics))
    return history


def _metrics(loss: float, accuracy: float, update: Metrics) -> Metrics:
    return {"loss": float(loss), "accuracy": float(accuracy), "optim/grad_norm": update["grad_norm"]}


def pair_rows(chat: Chat, pairs: Sequence[Preference], context: int) -> list[Row]:
    """The rows of chosen and rejected answers, in turn."""
    return [
        text_row(chat, pair.problem, response.answer, context)
        for pair in pairs
        for response in (pair.chosen, pair.rejected)
    ]


def pair_accuracy(learner: LearnerProtocol, chat: Chat, pairs: Sequence[Preference], context: int) -> float:
    """How often the chosen answer has the higher value."""
    values = read_values(learner, pair_rows(chat, pairs, context))
    return float((values[0::2] > values[1::2]).mean())


def label_accuracy(learner: LearnerProtocol, chat: Chat, labelled: Sequence[Labelled], context: int) -> float:
    """How often a text's value is positive where it is labelled safe, and negative where it is not."""
    values = read_values(learner, [text_row(chat, one.problem, one.text, context) for one in labelled])
    return float(((values > 0) == np.array([one.safe for one in labelled])).mean())


@dataclass(frozen=True)
class RewardModel:
    """A trained judge. ``summary_only``: it reads the answer without the thinking, as the paper's helpfulness
    model does.

    Scores are sigmoid((v - mean) / std), so from 0 to 1 like the rule rewards; a rollout without an answer
    gets 0."""

    learner: LearnerProtocol
    chat: Chat
    context: int
    summary_only: bool
    mean: float
    std: float

    def scores(self, rollouts: Sequence[Rollout]) -> list[float]:
        answered = [place for place, r in enumerate(rollouts) if r.answer is not None]
        texts = [
            str(rollouts[place].answer) if self.summary_only else rollouts[place].text for place in answered
        ]
        values = read_values(
            self.learner,
            [
                text_row(self.chat, rollouts[place].problem, text, self.context)
                for place, text in zip(answered, texts, strict=True)
            ],
        )
        found = dict(zip(answered, sigmoid((values - self.mean) / self.std), strict=True))
        return [float(found.get(place, 0.0)) for place in range(len(rollouts))]


def text_row(chat: Chat, problem: Problem, text: str, context: int) -> Row:
    """The row of a prompt and a text. A text beyond ``context`` is cut, so that a very long rollout does not
    stop the run."""
    prompt_ids, response_ids = chat.prompt_ids(problem, opening=""), chat.response_ids(text)
    most = max(1, context - len(prompt_ids))
    if len(response_ids) > most:
        response_ids = np.concatenate([response_ids[: most - 1], response_ids[-1:]])
    return value_row(prompt_ids, response_ids)


def _with_slopes(rows: Sequence[Row], slopes: np.ndarray) -> list[Row]:
    return [replace(row, advantage=float(slope)) for row, slope in zip(rows, slopes, strict=True)]


def minibatches(count: int, batch: int, epochs: int, seed: int) -> list[np.ndarray]:
    """Indices of each mini-batch; every epoch has another order."""
    orders = [
        np.random.default_rng(derive_seed(seed, "epoch", epoch)).permutation(count) for epoch in range(epochs)
    ]
    return [order[start : start + batch] for order in orders for start in range(0, count, batch)]
