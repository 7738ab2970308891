"""Sampling in this process: batched decoding with a key-value cache, in plain PyTorch.

A prompt is computed once and its cache rows are copied to the whole group. Rows that have finished are dropped from the batch, and
waiting rollouts take the freed places. What is recorded is the log-probability of each sampled token under the model itself, that is at
temperature 1 and before top-p, in float32: the old policy of GRPO's ratio (R1 paper eq. 1).

Randomness is counter-based. Token t of rollout i of a prompt with seed s is the inverse of the cumulative distribution at a uniform number
that is a hash of (s, i, t). So a rollout does not depend on its neighbours, on the batch size or on the order of the work, beyond the
rounding of matrix products of another shape.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from r1kit.config import R1kitError
from r1kit.model.attention import Cache
from r1kit.model.decoder import LanguageModel
from r1kit.types import Completion, Sampling

Precision = Literal["float32", "bfloat16"]

# Dropping finished rows copies the cache, so it waits until a tenth of the batch has finished.
COMPACT_BELOW = 0.9
# Letting waiting rollouts in costs a pass over their prompts and another copy, so it waits until a quarter of the places is free.
ADMIT_BELOW = 0.75
# Batches have a multiple of this many rows and prompts are padded to one: CPU libraries compile a product per shape, so few shapes pay.
ROW_STEP = 16


def mix(x: np.ndarray) -> np.ndarray:
    """Hash 64-bit integers one by one (the finaliser of splitmix64: Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def rollout_keys(seeds: Sequence[int], n: int) -> np.ndarray:
    """Give every rollout the key of its random numbers: uint64 [P, n] from the prompt's seed and the rollout's index."""
    seeds_P = np.array([seed % 2**64 for seed in seeds], dtype=np.uint64)
    return mix(mix(seeds_P)[:, None] ^ np.arange(n, dtype=np.uint64))


def default_seeds(seed: int, prompts: int) -> list[int]:
    """Derive one seed per prompt from the sampling's seed and the prompt's place."""
    return [int(key) for key in rollout_keys([seed], prompts)[0]]


def uniforms(keys_B: np.ndarray, steps_B: np.ndarray) -> np.ndarray:
    """Draw float64 numbers [B] in [0, 1): one per rollout key and token position, the same whenever it is asked again."""
    with np.errstate(over="ignore"):
        hashes_B = mix(keys_B + mix(steps_B.astype(np.uint64)))
    return (hashes_B >> np.uint64(11)) * 2.0**-53


def draw(logits_BV: Tensor, uniforms_B: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Draw one token per row: (token ids [B], log-probabilities [B] at temperature 1 before top-p).

    A token is the first whose cumulative probability exceeds the row's uniform number (float64). Temperature 0 takes the likeliest.
    Top-p keeps the likeliest tokens up to and including the one that reaches the mass (Holtzman et al. 2020). Raises R1kitError when the
    logits are not finite.
    """
    normalisers_B = logits_BV.logsumexp(-1)
    if not normalisers_B.isfinite().all():
        raise R1kitError("the model's logits are not finite: its weights have diverged; go back to an earlier checkpoint")
    if temperature == 0:
        tokens_B = logits_BV.argmax(-1)
    else:
        probs_BV = (logits_BV if temperature == 1 else logits_BV / temperature).softmax(-1)
        tokens_B = _invert(probs_BV, uniforms_B) if top_p >= 1 else _invert_nucleus(probs_BV, uniforms_B, top_p)
    chosen_B = logits_BV.gather(1, tokens_B[:, None])[:, 0]
    return tokens_B, chosen_B - normalisers_B


def _invert(probs_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    cumulative_BV = probs_BV.cumsum(-1, dtype=torch.float64)
    return torch.searchsorted(cumulative_BV, uniforms_B[:, None] * cumulative_BV[:, -1:], right=True)[:, 0]


def _invert_nucleus(probs_BV: Tensor, uniforms_B: Tensor, top_p: float) -> Tensor:
    sorted_BV, order_BV = probs_BV.sort(dim=-1, descending=True, stable=True)
    cumulative_BV = sorted_BV.cumsum(-1, dtype=torch.float64)
    kept_B1 = (cumulative_BV < top_p).sum(-1, keepdim=True).clamp_(max=probs_BV.shape[1] - 1)
    rank_B1 = torch.searchsorted(cumulative_BV, uniforms_B[:, None] * cumulative_BV.gather(1, kept_B1), right=True)
    return order_BV.gather(1, rank_B1)[:, 0]


class _Work:
    """One call's rollouts, R = prompts x n of them, and what has been sampled of each."""

    def __init__(self, prompts: Sequence[np.ndarray], sampling: Sampling, seeds: Sequence[int]) -> None:
        rollouts = len(prompts) * sampling.n
        self.prompts = prompts
        self.sampling = sampling
        self.keys_R = rollout_keys(seeds, sampling.n).reshape(-1)
        self.tokens_RT = np.zeros((rollouts, sampling.max_tokens), dtype=np.int32)
        self.logprobs_RT = np.zeros((rollouts, sampling.max_tokens), dtype=np.float32)
        self.lengths_R = np.zeros(rollouts, dtype=np.int64)
        self.stopped_R = np.zeros(rollouts, dtype=bool)
        self.cache_length = max((len(prompt) for prompt in prompts), default=0) + sampling.max_tokens

    def order_R(self) -> np.ndarray:
        """Name the rollouts in the order of their prompts' lengths, so that prompts computed together need little padding."""
        by_length_P = np.argsort([len(prompt) for prompt in self.prompts], kind="stable")
        return (by_length_P[:, None] * self.sampling.n + np.arange(self.sampling.n)).reshape(-1)

    def record(
        self, rollouts_B: np.ndarray, running_B: np.ndarray, tokens_B: np.ndarray, logprobs_B: np.ndarray, stop_ids: np.ndarray
    ) -> np.ndarray:
        """Append one token to every running rollout; return which rows [B] go on."""
        rollouts = rollouts_B[running_B]
        places = self.lengths_R[rollouts]
        self.tokens_RT[rollouts, places] = tokens_B[running_B]
        self.logprobs_RT[rollouts, places] = logprobs_B[running_B]
        self.lengths_R[rollouts] += 1
        stopped_B = running_B & (tokens_B[:, None] == stop_ids).any(1)
        self.stopped_R[rollouts_B[stopped_B]] = True
        going_on_B: np.ndarray = running_B & ~stopped_B & (self.lengths_R[rollouts_B] < self.sampling.max_tokens)
        return going_on_B

    def completion(self, rollout: int, version: int) -> Completion:
        length = self.lengths_R[rollout]
        return Completion(
            token_ids=self.tokens_RT[rollout, :length].copy(),
            logprobs=self.logprobs_RT[rollout, :length].copy(),
            finish="stop" if self.stopped_R[rollout] else "length",
            version=version,
        )


@dataclass(slots=True)
class _Rows:
    """The rollouts being decoded, one per cache row, with the logits of the token that each is to get next."""

    cache: Cache
    logits_BV: Tensor
    rollouts_B: np.ndarray
    running_B: np.ndarray

    def __len__(self) -> int:
        return len(self.rollouts_B)

    def keep(self, index_B: np.ndarray) -> "_Rows":
        index = torch.from_numpy(index_B).to(self.logits_BV.device)
        return _Rows(self.cache.select(index), self.logits_BV[index], self.rollouts_B[index_B], self.running_B[index_B])

    def joined(self, other: "_Rows") -> "_Rows":
        layers = [torch.cat(pair) for pair in zip(self.cache.layers, other.cache.layers, strict=True)]
        return _Rows(
            Cache(layers, torch.cat((self.cache.lengths_B, other.cache.lengths_B))),
            torch.cat((self.logits_BV, other.logits_BV)),
            np.concatenate((self.rollouts_B, other.rollouts_B)),
            np.concatenate((self.running_B, other.running_B)),
        )


class NativeEngine:
    """The engine of one process.

    It samples from ``model`` itself, so a learner that trains the same object has nothing to hand over. ``stop_ids`` end a completion;
    ``batch_rows`` bounds the rollouts decoded at once; ``precision`` is that of the matrix products, log-probabilities are always float32.
    """

    def __init__(self, model: LanguageModel, stop_ids: Sequence[int], precision: Precision = "float32", batch_rows: int = 256) -> None:
        self.model = model
        self.stop_ids = np.array(sorted(set(stop_ids)), dtype=np.int64)
        self.precision = precision
        self.batch_rows = batch_rows
        self.version = 0
        self.device = next(model.parameters()).device

    def generate(self, prompts: Sequence[np.ndarray], sampling: Sampling, seeds: Sequence[int] | None = None) -> list[list[Completion]]:
        """Complete every prompt ``sampling.n`` times; see Engine.generate."""
        self._check(prompts, sampling)
        if seeds is None:
            seeds = default_seeds(sampling.seed, len(prompts))
        elif len(seeds) != len(prompts):
            raise R1kitError(f"{len(prompts)} prompts came with {len(seeds)} seeds: give one seed per prompt")
        work = _Work(prompts, sampling, seeds)
        with self._inference():
            self._complete(work)
        groups = range(0, len(prompts) * sampling.n, sampling.n)
        return [[work.completion(rollout, self.version) for rollout in range(first, first + sampling.n)] for first in groups]

    def stream(self, prompt: np.ndarray, sampling: Sampling, seed: int) -> Iterator[int]:
        """Yield the tokens of one completion: those of ``generate([prompt], sampling, [seed])[0][0]``."""
        sampling = replace(sampling, n=1)
        self._check([prompt], sampling)
        return self._stream(_Work([prompt], sampling, [seed]))

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Copy new weights into the model. Raises R1kitError naming the parameters that are missing, unknown or of another shape."""
        try:
            self.model.load_state_dict(weights)
        except RuntimeError as error:
            raise R1kitError(f"the weights of version {version} do not belong to the engine's model: {error}") from None
        self.version = version

    def _check(self, prompts: Sequence[np.ndarray], sampling: Sampling) -> None:
        if sampling.n < 1 or sampling.max_tokens < 1 or sampling.temperature < 0 or not 0 < sampling.top_p <= 1:
            raise R1kitError(f"{sampling}: n and max_tokens must be at least 1, temperature at least 0 and top_p in (0, 1]")
        limit = self.model.config.max_positions
        for place, prompt in enumerate(prompts):
            if len(prompt) == 0:
                raise R1kitError(f"prompt {place} is empty: give it at least one token, for instance the start token")
            if len(prompt) + sampling.max_tokens > limit:
                raise R1kitError(
                    f"prompt {place} has {len(prompt)} tokens; with max_tokens {sampling.max_tokens} that exceeds the model's {limit} "
                    f"positions: shorten the prompt, lower max_tokens or train the model with a larger max_positions"
                )

    @contextmanager
    def _inference(self) -> Iterator[None]:
        training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                yield
        finally:
            self.model.train(training)

    def _complete(self, work: _Work) -> None:
        waiting_R = work.order_R()
        rows: _Rows | None = None
        while rows or len(waiting_R):
            if len(waiting_R) and (rows is None or len(rows) <= ADMIT_BELOW * self.batch_rows):
                free = self.batch_rows - (len(rows) if rows else 0)
                admitted, waiting_R = self._prefill(work, waiting_R[:free]), waiting_R[free:]
                rows = rows.joined(admitted) if rows else admitted
            assert rows is not None
            rows = self._advance(rows, self._sample(work, rows))

    def _stream(self, work: _Work) -> Iterator[int]:
        with self._inference():
            rows: _Rows | None = self._prefill(work, work.order_R())
        while rows:
            with self._inference():
                tokens_B = self._sample(work, rows)
            yield int(tokens_B[0])
            with self._inference():
                rows = self._advance(rows, tokens_B)

    def _prefill(self, work: _Work, rollouts_B: np.ndarray) -> _Rows:
        """Compute each prompt of these rollouts once and copy its cache row to all of them."""
        prompts_P, prompt_B = np.unique(rollouts_B // work.sampling.n, return_inverse=True)
        lengths_P = np.array([len(work.prompts[prompt]) for prompt in prompts_P])
        tokens_PT = np.zeros((len(prompts_P), min(-(-lengths_P.max() // ROW_STEP) * ROW_STEP, work.cache_length)), dtype=np.int64)
        for row, prompt in enumerate(prompts_P):
            tokens_PT[row, : lengths_P[row]] = work.prompts[prompt]
        cache = self.model.new_cache(len(prompts_P), work.cache_length, dtype=getattr(torch, self.precision))
        hidden_PTD = self.model(self._tensor(tokens_PT), cache=cache).hidden_BTD
        # The padding behind a shorter prompt is forgotten: later tokens overwrite it.
        cache.lengths_B = self._tensor(lengths_P)
        last_PD = hidden_PTD[torch.arange(len(prompts_P), device=hidden_PTD.device), cache.lengths_B - 1]
        rows = _Rows(cache, self.model.logits(last_PD), prompts_P, np.ones(len(prompts_P), dtype=bool)).keep(prompt_B)
        rows.rollouts_B = rollouts_B
        return rows

    def _sample(self, work: _Work, rows: _Rows) -> Tensor:
        """Draw the next token of every row and record those of the running ones; return them [B]."""
        sampling, rollouts_B = work.sampling, rows.rollouts_B
        numbers_B = self._tensor(uniforms(work.keys_R[rollouts_B], work.lengths_R[rollouts_B]))
        tokens_B, logprobs_B = draw(rows.logits_BV, numbers_B, sampling.temperature, sampling.top_p)
        rows.running_B = work.record(rollouts_B, rows.running_B, tokens_B.cpu().numpy(), logprobs_B.cpu().numpy(), self.stop_ids)
        return tokens_B

    def _advance(self, rows: _Rows, tokens_B: Tensor) -> _Rows | None:
        """Feed the drawn tokens to the model and return the rows that wait for the next one; None when all have finished."""
        running = np.flatnonzero(rows.running_B)
        if not len(running):
            return None
        # Some finished rows stay to fill a batch up to ROW_STEP; a cache is copied only when that makes it clearly smaller.
        kept = np.concatenate((running, np.flatnonzero(~rows.running_B)[: -len(running) % ROW_STEP]))
        if len(kept) <= COMPACT_BELOW * len(rows):
            tokens_B = tokens_B[self._tensor(kept)]
            rows = rows.keep(kept)
        if len(running) < len(rows):
            # A finished row idles at the start of its cache, where it neither overflows nor lengthens the others' attention.
            rows.cache.lengths_B = rows.cache.lengths_B.masked_fill(self._tensor(~rows.running_B), 0)
        hidden_B1D = self.model(tokens_B[:, None], cache=rows.cache).hidden_BTD
        rows.logits_BV = self.model.logits(hidden_B1D[:, 0])
        return rows

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)
