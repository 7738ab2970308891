"""Sampling: prompt ids go in, completions with the log-probabilities of the sampled tokens come out.

An engine holds a copy of the policy and a version number of its weights; a learner's weights reach it by the
runtime's ``hand_over``. Everything that needs completions (reinforcement learning, data, evaluation, chat)
gets them from an engine, so replacing the engine replaces it everywhere. A recipe says
``runtime: {engine: native}``, names an engine outside r1kit, ``my_engine.py:Name`` (``MakeEngine``; own.py
adds the methods that it lacks), or gives a mapping: ``{kind: vllm, python: PATH}`` (settings.py)."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from r1kit.model.decoder import LanguageModel
from r1kit.model.fingerprint import Fingerprint
from r1kit.types import Completion, Sampling
from r1kit.user_code import Shape, takes

Done = Callable[[dict[int, list[Completion]]], None]  # prompt's place -> its completions

# What an engine may be able to do (``Engine.can``):
STREAM = "stream"  # yield one completion token by token
EXAMINE = "examine"  # show fingerprints of its weights and hidden states
SEEDS = "seeds"  # a prompt's completions depend on its seed alone, bit by bit, not on what is sampled with it
TRAIN = "train"  # its log-probabilities, without top-k, top-p and min-p, may be trained on
ALL = frozenset({STREAM, EXAMINE, SEEDS, TRAIN})


class Engine(Protocol):
    """What samples completions."""

    @property
    def can(self) -> frozenset[str]:
        """Which of the things named above it can do."""
        ...

    @property
    def version(self) -> int:
        """The version of the weights that it has loaded: changed when a load is complete, and not before."""
        ...

    def generate(
        self, prompts: Sequence[np.ndarray], sampling: Sampling,
        seeds: Sequence[int] | None = None, done: Done | None = None,
    ) -> list[list[Completion]]:  # fmt: skip
        """Complete every prompt ([T] token ids) ``sampling.n`` times; the result keeps the order of the
        prompts.

        ``seeds`` has one number per prompt and fixes that prompt's completions whatever is sampled with it
        (``SEEDS``); without it the seeds derive from ``sampling.seed`` and the prompt's place. ``done`` is
        called from time to time with the prompts completed since the last call, perhaps none; each prompt is
        reported once. An exception from it ends the sampling. Raises R1kitError for a prompt that does not
        fit the model."""
        ...

    def stream(self, prompt: np.ndarray, sampling: Sampling, seed: int) -> Iterator[int]:
        """Yield the token ids of one completion as they are sampled, the end token included."""
        ...

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Load new weights; later completions have this ``version``. If the weights are the tensors of the
        engine's own model, nothing is copied. A ``Receiver`` takes them under the names of the model's
        folder."""
        ...

    def examine(self, token_ids: np.ndarray, temperature: float) -> list[Fingerprint]:
        """Fingerprints of each process's weights and hidden states on a text [T], for the agreement gate;
        empty if the engine cannot be examined."""
        ...

    def health(self, timeout_s: float) -> str:
        """Why it does not answer within ``timeout_s`` seconds; "" where it does."""
        ...

    def abort(self) -> None:
        """End what is being sampled or loaded, from another thread: those calls raise R1kitError. The engine
        can be used again afterwards."""
        ...

    def close(self) -> None:
        """Free what it holds. It is not used afterwards."""
        ...


@runtime_checkable
class Receiver(Protocol):
    """The part of an engine with weights of its own, in another process or on another machine, by which it
    gets new ones. hand_over.py calls the methods in this order. Between ``pause`` and ``resume`` it samples
    nothing; calls of ``generate`` wait."""

    def pause(self) -> None:
        """Wait until nothing is being sampled, and begin no more."""
        ...

    def receive(self, bucket: Mapping[str, Tensor]) -> None:
        """Take some of the weights, under the names of the model's folder. They are not kept here after the
        call."""
        ...

    def apply(self, version: int) -> None:
        """Load what was received, forget all that older weights computed (prefix caches), and only then take
        ``version``."""
        ...

    def received(self) -> tuple[int, int]:
        """How many tensors, and how many of their bytes, were in the last load."""
        ...

    def resume(self) -> None:
        """Sample again, also after a hand-over that failed. What a failed one left is dropped."""
        ...


# Of a model, and the token ids that end a completion.
MakeEngine = Callable[[LanguageModel, Sequence[int]], Engine]


def _makes_engines(found: type) -> bool:
    methods = ("generate", "load")
    return all(inspect.isfunction(getattr(found, name, None)) for name in methods) and takes(
        found, "model", "stop_ids"
    )


ENGINE = Shape(
    "an engine",
    "a class with generate and load, made of a model and the ids that end a completion, or a function "
    "(model, stop_ids) that makes one",
    functions=(("model", "stop_ids"), ("model", "end_ids")),
    is_class=_makes_engines,
)
