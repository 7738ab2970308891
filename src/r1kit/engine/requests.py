"""The rollouts of one call, R = prompts x n, and the tokens sampled so far: written by either decoder, read
as completions.

Stop strings are searched in the decoded text, every few tokens. A rollout does not depend on its neighbours,
so cutting off tokens sampled beyond the stop string changes nothing else."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from r1kit.config import R1kitError
from r1kit.engine.random_draws import rollout_keys
from r1kit.types import Completion, Sampling

Decode = Callable[[Sequence[int]], str]

LIVE, STOP, FULL = 0, 1, 2


class Requests:
    """Rollout r is number r % n of prompt r // n. ``finished_R`` is LIVE, STOP or FULL; ``choices`` is the
    shape [L, A] of a token's chosen experts."""

    def __init__(
        self,
        prompts: Sequence[np.ndarray],
        sampling: Sampling,
        seeds: Sequence[int],
        choices: tuple[int, int],
        decode: Decode | None,
    ) -> None:
        rollouts = len(prompts) * sampling.n
        self.prompts = [np.ascontiguousarray(prompt, dtype=np.int32) for prompt in prompts]
        self.sampling = sampling
        self.decode = decode
        self.keys_R = rollout_keys(seeds, sampling.n).reshape(-1)
        self.tokens_RT = np.zeros((rollouts, sampling.max_tokens), dtype=np.int32)
        self.logprobs_RT = np.zeros((rollouts, sampling.max_tokens), dtype=np.float32)
        self.lengths_R = np.zeros(rollouts, dtype=np.int32)
        self.finished_R = np.zeros(rollouts, dtype=np.int8)
        self.experts_RTLA = (
            np.zeros((rollouts, sampling.max_tokens, *choices), dtype=np.int16) if sampling.experts else None
        )
        self.prompt_experts = (
            [np.zeros((len(prompt), *choices), dtype=np.int16) for prompt in prompts]
            if sampling.experts
            else None
        )
        self.searched_R = np.zeros(rollouts, dtype=np.int32)
        self._groups: dict[int, list[Completion]] = {}

    @property
    def longest(self) -> int:
        """The most positions that a rollout may take."""
        return max((len(prompt) for prompt in self.prompts), default=0) + self.sampling.max_tokens

    def cut_at_strings(self, rollouts: Iterable[int]) -> list[int]:
        """Shorten the rollouts that contain a stop string to the token that completes it; return those, which
        are now finished."""
        ended = []
        for rollout in rollouts:
            end = self._string_end(rollout)
            self.searched_R[rollout] = self.lengths_R[rollout]
            if end is not None:
                self.lengths_R[rollout] = end
                self.finished_R[rollout] = STOP
                ended.append(rollout)
        return ended

    def _string_end(self, rollout: int) -> int | None:
        assert self.decode is not None
        tokens_T = self.tokens_RT[rollout]
        searched, length = int(self.searched_R[rollout]), int(self.lengths_R[rollout])
        # A character has at most four tokens, so a string that began earlier would have been found before.
        first = max(0, searched - 4 * max(map(len, self.sampling.stop)))
        if not self._has_stop(tokens_T[first:length]):
            return None
        return next(
            end
            for end in range(searched + 1, length + 1)
            if end == length or self._has_stop(tokens_T[first:end])
        )

    def _has_stop(self, tokens_T: np.ndarray) -> bool:
        assert self.decode is not None
        text = self.decode(tokens_T.tolist())
        return any(string in text for string in self.sampling.stop)

    def completed(self, version: int) -> dict[int, list[Completion]]:
        """The completions, by the prompt's place, of prompts that have been completed since the last call."""
        ended_P = (self.finished_R.reshape(len(self.prompts), self.sampling.n) != LIVE).all(1)
        fresh = [place for place in np.flatnonzero(ended_P).tolist() if place not in self._groups]
        found = {place: self._group(place, version) for place in fresh}
        self._groups |= found
        return found

    def completions(self, version: int) -> list[list[Completion]]:
        """Every prompt's completions, in order."""
        self.completed(version)
        return [self._groups[place] for place in range(len(self.prompts))]

    def _group(self, place: int, version: int) -> list[Completion]:
        n = self.sampling.n
        return [self._completion(rollout, version) for rollout in range(place * n, (place + 1) * n)]

    def _completion(self, rollout: int, version: int) -> Completion:
        length = self.lengths_R[rollout]
        return Completion(
            token_ids=self.tokens_RT[rollout, :length].copy(),
            logprobs=self.logprobs_RT[rollout, :length].copy(),
            finish="stop" if self.finished_R[rollout] == STOP else "length",
            version=version,
            experts=self._experts(rollout, length),
        )

    def _experts(self, rollout: int, length: int) -> np.ndarray | None:
        if self.experts_RTLA is None or self.prompt_experts is None:
            return None
        chosen = np.concatenate(
            (self.prompt_experts[rollout // self.sampling.n], self.experts_RTLA[rollout, : length - 1])
        )
        return chosen.astype(np.uint8) if chosen.max(initial=0) < 256 else chosen


def require_possible(
    prompts: Sequence[np.ndarray], sampling: Sampling, limit: int, vocabulary: int | None
) -> None:
    """Raise R1kitError for a sampling that has no meaning, and for a prompt that does not fit a model of
    ``limit`` positions and ``vocabulary`` tokens (None: not looked at)."""
    if sampling.n < 1 or sampling.max_tokens < 1 or sampling.temperature < 0 or not 0 < sampling.top_p <= 1:
        raise R1kitError(
            f"{sampling}: n and max_tokens must be at least 1, temperature at least 0 and top_p in (0, 1]"
        )
    if sampling.top_k < 0 or not 0 <= sampling.min_p <= 1:
        raise R1kitError(f"{sampling}: top_k must be at least 0 and min_p in [0, 1]")
    for place, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise R1kitError(
                f"prompt {place} is empty: give it at least one token, for instance the start token"
            )
        if len(prompt) + sampling.max_tokens > limit:
            raise R1kitError(
                f"prompt {place} has {len(prompt)} tokens; with max_tokens {sampling.max_tokens} "
                f"that exceeds the model's {limit} "
                "positions: shorten the prompt, lower max_tokens or train the model with a larger "
                "max_positions"
            )
        if vocabulary is not None and not 0 <= np.min(prompt) <= np.max(prompt) < vocabulary:
            raise R1kitError(
                f"prompt {place} has a token id outside the model's vocabulary of {vocabulary}: was "
                "it made by another tokenizer?"
            )
