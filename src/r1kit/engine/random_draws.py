"""Random numbers that depend only on a rollout and a position in it, and tokens drawn with them.

Token t of rollout i of a prompt with seed s is the inverse of the cumulative distribution at a uniform number
that is a hash of (s, i, t). So a rollout does not depend on its neighbours, on the batch size or on the order
of decoding. ``kernels/drawing.h`` follows the same rule."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from r1kit.config import R1kitError
from r1kit.types import Sampling

DIVERGED = "the model's logits are not finite: its weights have diverged; restore an earlier checkpoint"


def mix(x: np.ndarray) -> np.ndarray:
    """Hash 64-bit integers one by one (the finaliser of splitmix64: Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def rollout_keys(seeds: Sequence[int], n: int) -> np.ndarray:
    """The key of every rollout's random numbers, uint64 [P, n], from the prompt's seed and the rollout's
    index."""
    seeds_P = np.array([seed % 2**64 for seed in seeds], dtype=np.uint64)
    return mix(mix(seeds_P)[:, None] ^ np.arange(n, dtype=np.uint64))


def rollout_key(seed: int, index: int) -> int:
    """One of ``rollout_keys``, without the time that arrays take."""
    return _mixed(_mixed(seed % 2**64) ^ index)


def _mixed(x: int) -> int:
    """``mix`` of one integer."""
    whole = 2**64 - 1
    x = (x + 0x9E3779B97F4A7C15) & whole
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & whole
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & whole
    return x ^ (x >> 31)


def default_seeds(seed: int, prompts: int) -> list[int]:
    """Derive one seed per prompt from the sampling's seed and the prompt's place."""
    return [int(key) for key in rollout_keys([seed], prompts)[0]]


def uniforms(keys_B: np.ndarray, steps_B: np.ndarray) -> np.ndarray:
    """float64 numbers [B] in [0, 1): one per rollout key and token position, always the same for both."""
    with np.errstate(over="ignore"):
        hashes_B = mix(keys_B + mix(steps_B.astype(np.uint64)))
    return (hashes_B >> np.uint64(11)) * 2.0**-53


def draw(logits_BV: Tensor, uniforms_B: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Draw one token per row: (token ids [B], log-probabilities [B] as in Completion).

    A token is the first in order of ids whose cumulative probability, among what the filters keep, exceeds
    the row's uniform number (float64). Raises R1kitError when the logits are not finite."""
    tokens_B, logprobs_B, finite = draw_unchecked(logits_BV, uniforms_B, sampling)
    if not finite:
        raise R1kitError(DIVERGED)
    return tokens_B, logprobs_B


def draw_unchecked(
    logits_BV: Tensor, uniforms_B: Tensor, sampling: Sampling, counted_B: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """``draw`` without waiting for the device: the third result is whether the logits of the rows in
    ``counted_B`` (None: of all) are finite. A token is always one of the vocabulary."""
    if sampling.temperature not in (0, 1):
        logits_BV = logits_BV / sampling.temperature
    normalisers_B = logits_BV.logsumexp(-1)
    finite_B = normalisers_B.isfinite()
    if sampling.temperature == 0:
        tokens_B = logits_BV.argmax(-1)
    else:
        cumulative_BV = _filtered(logits_BV.softmax(-1), sampling).cumsum(-1, dtype=torch.float64)
        tokens_B = torch.searchsorted(cumulative_BV, uniforms_B[:, None] * cumulative_BV[:, -1:], right=True)[
            :, 0
        ].clamp_(max=logits_BV.shape[1] - 1)  # of logits that are not finite nothing is found
    chosen_B = logits_BV.gather(1, tokens_B[:, None])[:, 0]
    finite = finite_B.all() if counted_B is None else (finite_B | ~counted_B).all()
    return tokens_B, chosen_B - normalisers_B, finite


def _filtered(probs_BV: Tensor, sampling: Sampling) -> Tensor:
    """The probabilities, zero where top-k, then top-p (Holtzman et al. 2020), then min-p (arXiv 2407.01082)
    remove a token. Of equal ones the lower id stays."""
    if sampling.top_k <= 0 and sampling.top_p >= 1 and sampling.min_p <= 0:
        return probs_BV
    sorted_BV, order_BV = probs_BV.sort(dim=-1, descending=True, stable=True)
    kept_BV = torch.ones_like(sorted_BV, dtype=torch.bool)
    if sampling.top_k > 0:
        kept_BV[:, sampling.top_k :] = False
    if sampling.top_p < 1:
        cumulative_BV = (sorted_BV * kept_BV).cumsum(-1, dtype=torch.float64)
        before_BV = cumulative_BV - sorted_BV
        kept_BV &= before_BV < sampling.top_p * cumulative_BV[:, -1:]
    kept_BV &= sorted_BV >= sampling.min_p * sorted_BV[:, :1]
    return torch.zeros_like(probs_BV).scatter_(1, order_BV, sorted_BV * kept_BV)
