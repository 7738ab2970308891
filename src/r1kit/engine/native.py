"""Sampling in this process, in continuous batches.

On a CPU that the kernels support (model/compile_kernels.py) compiled.py decodes, elsewhere torch_decoder.py;
both draw the same tokens from the same seeds and logits. The log-probability of each sampled token is
recorded in float32: the old policy of GRPO's ratio (R1 paper eq. 1)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from r1kit.config import R1kitError
from r1kit.engine import Done
from r1kit.engine.compiled import CompiledDecoder
from r1kit.engine.live import MOST_TOPS, CompiledBatch, LiveBatch, TorchBatch
from r1kit.engine.random_draws import default_seeds as default_seeds
from r1kit.engine.requests import Decode, Requests
from r1kit.engine.torch_decoder import TorchDecoder
from r1kit.model.adapters import Weights
from r1kit.model.compile_kernels import KernelsUnavailableError
from r1kit.model.decoder import LanguageModel
from r1kit.model.fingerprint import Fingerprint, take_fingerprint
from r1kit.types import Completion, Sampling

Precision = Literal["float32", "bfloat16"]


class NativeEngine:
    """The engine of one process.

    It samples from ``model`` itself: a learner that trains the same object need not hand over weights.
    ``stop_ids`` end a completion; ``batch_rows`` limits the rollouts decoded at once; ``precision`` is that
    of the matrix products, log-probabilities are always float32. ``decode`` turns token ids into text, for
    stop strings. ``kernels``: False for PyTorch only, True to raise R1kitError if the kernels do not run,
    None to use them if they run. The number of threads is PyTorch's when the engine is first used."""

    def __init__(
        self, model: LanguageModel, stop_ids: Sequence[int], precision: Precision = "float32",
        batch_rows: int = 256, decode: Decode | None = None, kernels: bool | None = None,
    ) -> None:  # fmt: skip
        self.model = model
        self.stop_ids = np.array(sorted(set(stop_ids)), dtype=np.int64)
        self.precision = precision
        self.batch_rows = batch_rows
        self.decode = decode
        self.kernels = kernels
        self.version = 0
        self._chosen: CompiledDecoder | TorchDecoder | None = None

    def generate(
        self, prompts: Sequence[np.ndarray], sampling: Sampling,
        seeds: Sequence[int] | None = None, done: Done | None = None,
    ) -> list[list[Completion]]:  # fmt: skip
        """Complete every prompt ``sampling.n`` times; see Engine.generate."""
        self._check(prompts, sampling)
        if seeds is None:
            seeds = default_seeds(sampling.seed, len(prompts))
        elif len(seeds) != len(prompts):
            raise R1kitError(f"{len(prompts)} prompts came with {len(seeds)} seeds: give one seed per prompt")
        requests = self._requests(prompts, sampling, seeds)
        if len(prompts):
            self._decoder().complete(
                requests, lambda: done(requests.completed(self.version)) if done else None
            )
        return requests.completions(self.version)

    def stream(self, prompt: np.ndarray, sampling: Sampling, seed: int) -> Iterator[int]:
        """Yield the tokens of one completion: those of ``generate([prompt], sampling, [seed])[0][0]``."""
        sampling = replace(sampling, n=1)
        self._check([prompt], sampling)
        return self._decoder().stream(self._requests([prompt], sampling, [seed]))

    def open(self, rows: int, positions: int, memory: int) -> LiveBatch:
        """A batch that rollouts join and leave while it runs, at most ``rows`` of at most ``positions``
        tokens with their prompt at a time, and ``memory`` bytes of keys and values (live.py). The weights are
        those of now."""
        decoder = self._decoder()
        if isinstance(decoder, TorchDecoder):
            return TorchBatch(decoder, rows)
        return CompiledBatch(decoder, rows, positions, memory)

    @property
    def most_tops(self) -> int:
        """How many of the likeliest tokens a batch can record with each token; 0 without the kernels."""
        return MOST_TOPS if isinstance(self._decoder(), CompiledDecoder) else 0

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Copy new weights into the model, unless they are the model's own tensors. Raises R1kitError naming
        the parameters that are missing, unknown or of another shape."""
        if isinstance(weights, Weights) and weights.model is self.model:
            self.version = version
            return
        own = self.model.state_dict()
        shared = own.keys() == weights.keys() and all(
            own[name].data_ptr() == tensor.data_ptr() for name, tensor in weights.items()
        )
        try:
            if not shared:
                self.model.load_state_dict(weights)
        except RuntimeError as error:
            raise R1kitError(
                f"the weights of version {version} do not belong to the engine's model: {error}"
            ) from None
        self.version = version

    def examine(self, token_ids: np.ndarray, temperature: float) -> list[Fingerprint]:
        """The fingerprint of the engine's model on a text [T], whose last 64 tokens are read one by one."""
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return [
                take_fingerprint(
                    self.model, token_ids, temperature, self.version, step_from=max(1, len(token_ids) - 64)
                )
            ]

    def _requests(self, prompts: Sequence[np.ndarray], sampling: Sampling, seeds: Sequence[int]) -> Requests:
        config = self.model.config
        choices = (config.moe_layers, config.active_experts or 0) if sampling.experts else (0, 0)
        return Requests(prompts, sampling, seeds, choices, self.decode)

    def _decoder(self) -> CompiledDecoder | TorchDecoder:
        if self._chosen is None:
            settings = (self.model, self.stop_ids, self.precision, self.batch_rows)
            try:
                self._chosen = (
                    TorchDecoder(*settings) if self.kernels is False else CompiledDecoder(*settings)
                )
            except KernelsUnavailableError:
                if self.kernels:
                    raise
                self._chosen = TorchDecoder(*settings)
        return self._chosen

    def _check(self, prompts: Sequence[np.ndarray], sampling: Sampling) -> None:
        if (
            sampling.n < 1
            or sampling.max_tokens < 1
            or sampling.temperature < 0
            or not 0 < sampling.top_p <= 1
        ):
            raise R1kitError(
                f"{sampling}: n and max_tokens must be at least 1, temperature at least 0 and top_p in (0, 1]"
            )
        if sampling.top_k < 0 or not 0 <= sampling.min_p <= 1:
            raise R1kitError(f"{sampling}: top_k must be at least 0 and min_p in [0, 1]")
        if sampling.stop and (self.decode is None or not all(sampling.stop)):
            raise R1kitError(
                f"stop strings {sampling.stop}: none may be empty, and the engine needs "
                "decode=tokenizer.decode to find them"
            )
        limit, vocabulary = self.model.config.max_positions, getattr(self.model.config, "vocab_size", None)
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
