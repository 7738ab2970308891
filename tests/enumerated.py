"""A language small enough to go through all of it: every sequence of a tabular policy, its probability, and batches that hold them all.

Three tokens, of which 0 ends, at most three long: 15 sequences over 7 prefixes. A policy is logits [7, 3] in float64. A loss on the batch of
all sequences, each weighed by its probability under the policy that sampled, *is* the expectation of that loss.
"""

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from r1kit.train.objectives import Predictions
from r1kit.train.packing import Batch
from r1kit.train.policy_loss import PolicyLoss

VOCABULARY, LONGEST = 3, 3
PREFIXES = [prefix for length in range(LONGEST) for prefix in itertools.product((1, 2), repeat=length)]
SEQUENCES = [(*prefix, token) for prefix in PREFIXES for token in range(VOCABULARY) if token == 0 or len(prefix) == LONGEST - 1]
LENGTHS = torch.tensor([float(len(sequence)) for sequence in SEQUENCES], dtype=torch.float64)
PLACES = [(row, t) for row, sequence in enumerate(SEQUENCES) for t in range(len(sequence))]  # every token of every sequence
ROWS = torch.tensor([row for row, _ in PLACES])
CONTEXTS = torch.tensor([PREFIXES.index(SEQUENCES[row][:t]) for row, t in PLACES])
TOKENS = torch.tensor([SEQUENCES[row][t] for row, t in PLACES])


def logits(seed: int, near: Tensor | None = None, distance: float = 1.0) -> Tensor:
    """Random logits [7, 3] in float64; those of ``near`` moved by ``distance``."""
    noise = torch.randn(len(PREFIXES), VOCABULARY, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return noise if near is None else near + distance * noise


def token_logprobs(theta: Tensor) -> Tensor:
    """log pi [N] of every token of every sequence, in the order of PLACES."""
    return theta.log_softmax(-1)[CONTEXTS, TOKENS]


def row_sum(values_N: Tensor) -> Tensor:
    """By sequence [15]."""
    return torch.zeros(len(SEQUENCES), dtype=torch.float64).index_add(0, ROWS, values_N)


def sequence_probabilities(theta: Tensor) -> Tensor:
    """pi(o) [15], which sums to 1."""
    return row_sum(token_logprobs(theta)).exp()


def batch_of_all(old: Tensor, ref: Tensor, advantages_N: Tensor, weights_N: Tensor, penalties_N: Tensor | None = None) -> Batch:
    """Every sequence as a row, in lines of 12 positions, float64; the last positions are padding."""
    shape, blank = (-(-len(PLACES) // 12), 12), -(len(PLACES) % -12)

    def lines(values_N: Tensor, padding: float = 0) -> Tensor:
        return torch.nn.functional.pad(values_N, (0, blank), value=padding).view(shape)

    mask_BT = lines(torch.ones(len(PLACES), dtype=torch.int64)).bool()
    tokens_BT, rows_BT = lines(TOKENS), lines(ROWS, -1)
    penalties_BT = lines(torch.zeros(len(PLACES), dtype=torch.float64) if penalties_N is None else penalties_N)
    old_BT, ref_BT = lines(token_logprobs(old).detach()), lines(token_logprobs(ref).detach())
    named = {
        "mask_BT": mask_BT,
        "rows_BT": rows_BT,
        "weights_BT": lines(weights_N, 7.0),  # where nothing is trained a weight must not matter
        "advantages_BT": lines(advantages_N, 1.0),
        "old_logprobs_BT": old_BT,
        "ref_logprobs_BT": ref_BT,
        "penalties_BT": penalties_BT,
    }
    return Batch(**{name: named.get(name, tokens_BT) for name in Batch.__slots__})


def expected_gradient(loss: PolicyLoss, theta: Tensor, batch: Batch) -> Tensor:
    """The gradient [7, 3] of ``loss`` on ``batch`` by the policy's logits."""
    theta = theta.detach().requires_grad_()
    logprobs_BT = torch.nn.functional.pad(token_logprobs(theta), (0, batch.mask_BT.numel() - len(PLACES))).view_as(batch.mask_BT)
    entropy_N = torch.distributions.Categorical(logits=theta[CONTEXTS]).entropy()
    entropy_BT = torch.nn.functional.pad(entropy_N, (0, batch.mask_BT.numel() - len(PLACES))).view_as(batch.mask_BT)
    return torch.autograd.grad(loss(Predictions(logprobs_BT, entropy_BT), batch)[0], theta)[0]


def differences(function: Callable[[Tensor], float], theta: Tensor, step: float = 1e-5) -> Tensor:
    """The gradient of ``function`` by central differences."""
    gradient = torch.zeros_like(theta)
    for place in np.ndindex(*theta.shape):
        moved = torch.zeros_like(theta)
        moved[place] = step
        gradient[place] = (function(theta + moved) - function(theta - moved)) / (2 * step)
    return gradient
