"""A language small enough to go through all of it: every sequence of a tabular policy, its probability, and
batches that hold them all.

Three tokens, of which 0 ends, at most three long: 15 sequences over 7 prefixes. A policy is logits [7, 3] in
float64. A loss on the batch of all sequences, each weighed by its probability under the policy that sampled,
*is* the expectation of that loss."""

import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from r1kit.train.objectives import Predictions
from r1kit.train.packing import Batch
from r1kit.train.policy_loss import PolicyLoss

VOCABULARY, LONGEST = 3, 3
PREFIXES = [prefix for length in range(LONGEST) for prefix in itertools.product((1, 2), repeat=length)]
SEQUENCES = [
    (*prefix, token)
    for prefix in PREFIXES
    for token in range(VOCABULARY)
    if token == 0 or len(prefix) == LONGEST - 1
]
LENGTHS = torch.tensor([float(len(sequence)) for sequence in SEQUENCES], dtype=torch.float64)
PLACES = [
    (row, t) for row, sequence in enumerate(SEQUENCES) for t in range(len(sequence))
]  # every token of every sequence
ROWS = torch.tensor([row for row, _ in PLACES])
CONTEXTS = torch.tensor([PREFIXES.index(SEQUENCES[row][:t]) for row, t in PLACES])
TOKENS = torch.tensor([SEQUENCES[row][t] for row, t in PLACES])


def logits(seed: int, near: Tensor | None = None, distance: float = 1.0) -> Tensor:
    """Random logits [7, 3] in float64; those of ``near`` moved by ``distance``."""
    noise = torch.randn(
        len(PREFIXES), VOCABULARY, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return noise if near is None else near + distance * noise


def token_logprobs(theta: Tensor) -> Tensor:
    """log pi [N] of every token of every sequence, in the order of PLACES."""
    return theta.log_softmax(-1)[CONTEXTS, TOKENS]


def row_sum(values_N: Tensor) -> Tensor:
    """By sequence [15]."""
    return torch.zeros(len(SEQUENCES), dtype=torch.float64).index_add(0, ROWS, values_N)


def by_sequence(theta: Tensor) -> list[list[float]]:
    """log pi of each sequence's tokens, as plain numbers."""
    logprobs = iter(token_logprobs(theta).tolist())
    return [[next(logprobs) for _ in sequence] for sequence in SEQUENCES]


def sequence_probabilities(theta: Tensor) -> Tensor:
    """pi(o) [15], which sums to 1."""
    return row_sum(token_logprobs(theta)).exp()


@functools.cache
def places_of(drawn: Sequence[int]) -> tuple[Tensor, Tensor]:
    """For rows that are the sequences ``drawn`` (a tuple or range, with repetition): where each token stands
    in PLACES [N], and its row [N]."""
    starts, lengths = np.cumsum([0, *(len(sequence) for sequence in SEQUENCES)]), LENGTHS.long().numpy()
    rows = np.repeat(np.arange(len(drawn)), lengths[list(drawn)])
    firsts = np.cumsum([0, *lengths[list(drawn)]])[:-1]
    return torch.from_numpy(
        starts[list(drawn)][rows] + np.arange(len(rows)) - firsts[rows]
    ), torch.from_numpy(rows)


def lines(values_N: Tensor, padding: float = 0) -> Tensor:
    """Tokens one after the other in lines of 12; the last positions are padding."""
    return torch.nn.functional.pad(values_N, (0, -(len(values_N) % -12)), value=padding).view(-1, 12)


def batch_of(
    drawn: Sequence[int],
    old: Tensor,
    ref: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    penalties_N: Tensor | None = None,
) -> Batch:
    """The sequences ``drawn`` as rows sampled from ``old``, in float64; advantages, weights and penalties are
    a token's."""
    places_N, rows_N = places_of(drawn)
    named = {
        "mask_BT": lines(torch.ones_like(rows_N)).bool(),
        "rows_BT": lines(rows_N, -1),
        "weights_BT": lines(weights_N, 7.0),  # where nothing is trained a weight must not matter
        "advantages_BT": lines(advantages_N, 1.0),
        "old_logprobs_BT": lines(token_logprobs(old).detach()[places_N]),
        "ref_logprobs_BT": lines(token_logprobs(ref).detach()[places_N]),
        "penalties_BT": lines(torch.zeros_like(weights_N) if penalties_N is None else penalties_N),
    }
    return Batch(**{name: named.get(name, lines(TOKENS[places_N])) for name in Batch.__slots__})


def expected_gradient(
    loss: PolicyLoss, theta: Tensor, batch: Batch, drawn: Sequence[int] = range(len(SEQUENCES))
) -> Tensor:
    """The gradient [7, 3] of ``loss`` on ``batch`` by the policy's logits."""
    theta, (places_N, _) = theta.detach().requires_grad_(), places_of(drawn)
    entropy_N = torch.distributions.Categorical(logits=theta).entropy()[CONTEXTS[places_N]]
    predictions = Predictions(lines(token_logprobs(theta)[places_N]), lines(entropy_N))
    return torch.autograd.grad(loss(predictions, batch)[0], theta)[0]


def differences(function: Callable[[Tensor], float], theta: Tensor, step: float = 1e-5) -> Tensor:
    """The gradient of ``function`` by central differences."""
    gradient = torch.zeros_like(theta)
    for place in np.ndindex(*theta.shape):
        moved = torch.zeros_like(theta)
        moved[place] = step
        gradient[place] = (function(theta + moved) - function(theta - moved)) / (2 * step)
    return gradient
