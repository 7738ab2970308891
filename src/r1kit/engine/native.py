"""Sampling in this process, in continuous batches.

On a CPU that the kernels support (model/compile_kernels.py) compiled.py decodes, on a GPU slot_decoder.py,
elsewhere torch_decoder.py; all draw the same tokens from the same seeds and logits. The log-probability of
each sampled token is recorded in float32: the old policy of GRPO's ratio (R1 paper eq. 1)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from r1kit.config import R1kitError
from r1kit.engine import ALL, Done
from r1kit.engine.compiled import MOST_TRIED, CompiledDecoder
from r1kit.engine.live import MOST_TOPS, CompiledBatch, LiveBatch, TorchBatch
from r1kit.engine.random_draws import default_seeds as default_seeds
from r1kit.engine.requests import Decode, Requests, require_possible
from r1kit.engine.slot_decoder import SlotDecoder
from r1kit.engine.torch_decoder import TorchDecoder
from r1kit.model.adapters import Weights
from r1kit.model.compile_kernels import KernelsUnavailableError
from r1kit.model.decoder import LanguageModel
from r1kit.model.fingerprint import Fingerprint, take_fingerprint
from r1kit.model.foreign import ForeignModel
from r1kit.types import Completion, Sampling

Precision = Literal["float32", "bfloat16", "int8"]


class NativeEngine:
    """The engine of one process.

    It samples from ``model`` itself: a learner that trains the same object need not hand over weights.
    ``stop_ids`` end a completion; ``batch_rows`` limits the rollouts decoded at once; ``precision`` is that
    of the matrix products (``int8`` needs the kernels), log-probabilities are always float32. ``decode``
    turns token ids into text, for stop strings. ``speculate``: the most tokens that each of few rollouts
    tries ahead (kernels/session.h); it changes no bit of a completion, and does nothing without the kernels.
    ``kernels``: False for PyTorch only, True to raise R1kitError if the kernels do not run, None to use them
    if they run. ``slots``: decode in slots on the CPU too, as on a GPU. ``lean``: the weights never change;
    once the kernels have their copy, weights that lie in a file take no memory (model/mapped.py). The number
    of threads is PyTorch's when the engine is first used."""

    can = ALL
    version = 0

    def __init__(
        self, model: LanguageModel, stop_ids: Sequence[int], precision: Precision = "float32",
        batch_rows: int = 256, decode: Decode | None = None, kernels: bool | None = None,
        slots: bool = False, speculate: int = 0, lean: bool = False,
    ) -> None:  # fmt: skip
        if not 0 <= speculate <= MOST_TRIED:
            raise R1kitError(f"speculate: {speculate} tokens; give 0 (off) to {MOST_TRIED}")
        self.model = model
        self.stop_ids = np.array(sorted(set(stop_ids)), dtype=np.int64)
        self.precision = precision
        self.batch_rows = batch_rows
        self.decode = decode
        self.kernels = kernels
        self.slots = slots
        self.speculate, self.lean = speculate, lean
        self._aborted = False
        self._chosen: CompiledDecoder | TorchDecoder | None = None
        self._slotted: SlotDecoder | None = None

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
        self._aborted = False

        def pause() -> None:
            if self._aborted:
                raise R1kitError("the sampling was aborted; the same command continues the run")
            if done is not None:
                done(requests.completed(self.version))

        if len(prompts):
            self._decoder_for(sampling).complete(requests, pause)
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
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.precision != "float32"):
            return [
                take_fingerprint(
                    self.model, token_ids, temperature, self.version, step_from=max(1, len(token_ids) - 64)
                )
            ]

    def health(self, timeout_s: float) -> str:
        """ "": it is in this process."""
        return ""

    def abort(self) -> None:
        """End a ``generate`` of another thread before its next token."""
        self._aborted = True

    def close(self) -> None:
        """Nothing to free: the model belongs to whoever made the engine."""

    def _requests(self, prompts: Sequence[np.ndarray], sampling: Sampling, seeds: Sequence[int]) -> Requests:
        config = self.model.config
        choices = (config.moe_layers, config.active_experts or 0) if sampling.experts else (0, 0)
        return Requests(prompts, sampling, seeds, choices, self.decode)

    def _decoder_for(self, sampling: Sampling) -> CompiledDecoder | SlotDecoder | TorchDecoder:
        """On a GPU the decoder with slots, except for what it cannot do: note experts, and models that run
        through transformers' class."""
        foreign = isinstance(self.model, ForeignModel)
        on_cpu = self.model.device.type == "cpu" and not self.slots
        if on_cpu or sampling.experts or foreign:
            return self._decoder()
        if self.precision == "int8":
            raise _no_int8(f"the model is on {self.model.device.type}")
        if self._slotted is None:
            self._slotted = SlotDecoder(self.model, self.stop_ids, self.precision, self.batch_rows)
        return self._slotted

    def _decoder(self) -> CompiledDecoder | TorchDecoder:
        if self._chosen is None:
            settings = (self.model, self.stop_ids, self.precision, self.batch_rows)
            try:
                if self.kernels is False and self.precision == "int8":
                    raise KernelsUnavailableError("kernels: False was asked for")
                self._chosen = (
                    TorchDecoder(*settings)
                    if self.kernels is False
                    else CompiledDecoder(*settings, self.speculate, self.lean)
                )
            except KernelsUnavailableError as error:
                if self.precision == "int8":
                    raise _no_int8(str(error)) from None
                if self.kernels:
                    raise
                self._chosen = TorchDecoder(*settings)
        return self._chosen

    def _check(self, prompts: Sequence[np.ndarray], sampling: Sampling) -> None:
        if sampling.stop and (self.decode is None or not all(sampling.stop)):
            raise R1kitError(
                f"stop strings {sampling.stop}: none may be empty, and the engine needs "
                "decode=tokenizer.decode to find them"
            )
        config = self.model.config
        require_possible(prompts, sampling, config.max_positions, getattr(config, "vocab_size", None))


def _no_int8(reason: str) -> R1kitError:
    return R1kitError(
        f"the engine samples in 8 bits through r1kit's own kernels only: {' '.join(reason.split())[:300]}; "
        "write runtime: {engine_precision: bfloat16}, or --precision bfloat16"
    )
