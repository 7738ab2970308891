"""Decoding in PyTorch: for any device, and for machines without the kernels.

A prompt is computed once and its cache row is copied to all its rollouts. Finished rows leave the batch, and
waiting rollouts take their places."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from r1kit.engine.random_draws import draw, uniforms
from r1kit.engine.requests import FULL, LIVE, STOP, Requests
from r1kit.model.attention import Cache
from r1kit.model.decoder import LanguageModel
from r1kit.model.experts import Gate

# Removing finished rows copies the cache, so it waits until a tenth of the batch has finished.
COMPACT_BELOW = 0.9
# Admitting rollouts costs a pass over their prompts and another copy, so it waits until a quarter of the
# places is free.
ADMIT_BELOW = 0.75
# Rows of a batch, and lengths of prompts, are padded to a multiple of this: CPU libraries compile a product
# per shape, so few shapes are faster.
ROW_STEP = 16


@dataclass(slots=True)
class _Rows:
    """The rollouts being decoded, one per cache row, with the logits of the next token of each."""

    cache: Cache
    logits_BV: Tensor
    rollouts_B: np.ndarray
    running_B: np.ndarray

    def __len__(self) -> int:
        return len(self.rollouts_B)

    def keep(self, index_B: np.ndarray) -> "_Rows":
        index = torch.from_numpy(index_B).to(self.logits_BV.device)
        return _Rows(
            self.cache.select(index), self.logits_BV[index], self.rollouts_B[index_B], self.running_B[index_B]
        )

    def joined(self, other: "_Rows") -> "_Rows":
        return _Rows(
            self.cache.joined(other.cache),
            torch.cat((self.logits_BV, other.logits_BV)),
            np.concatenate((self.rollouts_B, other.rollouts_B)),
            np.concatenate((self.running_B, other.running_B)),
        )


class TorchDecoder:
    """Decodes with ``model`` itself; ``precision`` is that of the matrix products."""

    def __init__(self, model: LanguageModel, stop_ids: np.ndarray, precision: str, batch_rows: int) -> None:
        self.model, self.stop_ids, self.precision, self.batch_rows = model, stop_ids, precision, batch_rows
        self.device = next(model.parameters()).device

    def complete(self, requests: Requests, pause: Callable[[], None]) -> None:
        """Finish every rollout; call ``pause`` after every token."""
        with self._inference():
            waiting_R = _by_prompt_length(requests)
            rows: _Rows | None = None
            while rows or len(waiting_R):
                if len(waiting_R) and (rows is None or len(rows) <= ADMIT_BELOW * self.batch_rows):
                    free = self.batch_rows - (len(rows) if rows else 0)
                    admitted, waiting_R = self._prefill(requests, waiting_R[:free]), waiting_R[free:]
                    rows = rows.joined(admitted) if rows else admitted
                assert rows is not None
                rows = self._advance(requests, rows, self._sample(requests, rows))
                pause()

    def stream(self, requests: Requests) -> Iterator[int]:
        """Yield the tokens of the only rollout."""
        with self._inference():
            rows: _Rows | None = self._prefill(requests, np.zeros(1, dtype=np.int64))
        while rows:
            with self._inference():
                tokens_B = self._sample(requests, rows)
            yield int(tokens_B[0])
            with self._inference():
                rows = self._advance(requests, rows, tokens_B)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        training = self.model.training
        self.model.eval()
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"),
            ):
                yield
        finally:
            self.model.train(training)

    def _prefill(self, requests: Requests, rollouts_B: np.ndarray) -> _Rows:
        """Compute each prompt of these rollouts once and copy its cache row to all of them."""
        prompts_P, prompt_B = np.unique(rollouts_B // requests.sampling.n, return_inverse=True)
        lengths_P = np.array([len(requests.prompts[prompt]) for prompt in prompts_P])
        tokens_PT = np.zeros(
            (len(prompts_P), min(-(-lengths_P.max() // ROW_STEP) * ROW_STEP, requests.longest)),
            dtype=np.int64,
        )
        for row, prompt in enumerate(prompts_P):
            tokens_PT[row, : lengths_P[row]] = requests.prompts[prompt]
        cache = self.model.new_cache(len(prompts_P), requests.longest, dtype=getattr(torch, self.precision))
        with self._choices(requests) as chosen:
            hidden_PTD = self.model(self._tensor(tokens_PT), cache=cache).hidden_BTD
        if requests.prompt_experts is not None:
            experts_PTLA = np.stack(chosen, axis=1).reshape(*tokens_PT.shape, len(chosen), -1)
            for row, prompt in enumerate(prompts_P):
                requests.prompt_experts[prompt][:] = experts_PTLA[row, : lengths_P[row]]
        # Padding behind a shorter prompt does not count: later tokens overwrite it.
        cache.lengths_B = self._tensor(lengths_P)
        last_PD = hidden_PTD[torch.arange(len(prompts_P), device=hidden_PTD.device), cache.lengths_B - 1]
        rows = _Rows(cache, self.model.logits(last_PD), prompts_P, np.ones(len(prompts_P), dtype=bool)).keep(
            prompt_B
        )
        rows.rollouts_B = rollouts_B
        return rows

    def _sample(self, requests: Requests, rows: _Rows) -> Tensor:
        """Draw the next token of every row, [B]; record those of the running rows."""
        rollouts_B = rows.rollouts_B
        numbers_B = self._tensor(uniforms(requests.keys_R[rollouts_B], requests.lengths_R[rollouts_B]))
        tokens_B, logprobs_B = draw(rows.logits_BV, numbers_B, requests.sampling)
        running = np.flatnonzero(rows.running_B)
        rollouts, tokens = rollouts_B[running], tokens_B.cpu().numpy()[running]
        places = requests.lengths_R[rollouts]
        requests.tokens_RT[rollouts, places] = tokens
        requests.logprobs_RT[rollouts, places] = logprobs_B.cpu().numpy()[running]
        requests.lengths_R[rollouts] += 1
        stopped = (tokens[:, None] == self.stop_ids).any(1)
        full = requests.lengths_R[rollouts] == requests.sampling.max_tokens
        requests.finished_R[rollouts] = np.where(stopped, STOP, np.where(full, FULL, LIVE))
        if requests.sampling.stop:
            requests.cut_at_strings(rollouts)
        rows.running_B[running] = requests.finished_R[rollouts] == LIVE
        return tokens_B

    def _advance(self, requests: Requests, rows: _Rows, tokens_B: Tensor) -> _Rows | None:
        """Feed the drawn tokens to the model; return the rows with their next logits, or None when all have
        finished."""
        running = np.flatnonzero(rows.running_B)
        if not len(running):
            return None
        # Some finished rows stay to fill the batch up to a multiple of ROW_STEP; the cache is copied only if
        # it becomes clearly smaller.
        kept = np.concatenate((running, np.flatnonzero(~rows.running_B)[: -len(running) % ROW_STEP]))
        if len(kept) <= COMPACT_BELOW * len(rows):
            tokens_B = tokens_B[self._tensor(kept)]
            rows = rows.keep(kept)
        if len(running) < len(rows):
            # A finished row stays at length 0, where it neither overflows nor makes the others' attention
            # longer.
            rows.cache.lengths_B = rows.cache.lengths_B.masked_fill(self._tensor(~rows.running_B), 0)
        with self._choices(requests) as chosen:
            hidden_B1D = self.model(tokens_B[:, None], cache=rows.cache).hidden_BTD
        if requests.experts_RTLA is not None:
            rollouts = rows.rollouts_B[rows.running_B]
            requests.experts_RTLA[rollouts, requests.lengths_R[rollouts] - 1] = np.stack(chosen, axis=1)[
                rows.running_B
            ]
        rows.logits_BV = self.model.logits(hidden_B1D[:, 0])
        return rows

    @contextmanager
    def _choices(self, requests: Requests) -> Iterator[list[np.ndarray]]:
        """Collect the experts that the gates choose: one array [N, A] for each layer with experts; nothing
        unless ``sampling.experts``."""
        chosen: list[np.ndarray] = []
        gates = (
            [module for module in self.model.layers.modules() if isinstance(module, Gate)]
            if requests.sampling.experts
            else []
        )
        hooks = [
            gate.register_forward_hook(
                lambda _gate, _inputs, outputs: chosen.append(outputs[1].cpu().numpy())
            )
            for gate in gates
        ]
        try:
            yield chosen
        finally:
            for hook in hooks:
                hook.remove()

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)


def _by_prompt_length(requests: Requests) -> np.ndarray:
    """The rollouts in the order of their prompts' lengths, so that prompts computed together need little
    padding."""
    by_length_P = np.argsort([len(prompt) for prompt in requests.prompts], kind="stable")
    return (by_length_P[:, None] * requests.sampling.n + np.arange(requests.sampling.n)).reshape(-1)
