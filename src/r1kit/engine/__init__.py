"""Sampling: prompt ids go in, completions with the log-probabilities of the sampled tokens come out.

An engine holds a copy of the policy and a version number of its weights; a learner hands it new weights with
``load``. Everything that needs completions (reinforcement learning, data, evaluation, chat) gets them from an
engine, so replacing the engine replaces it everywhere. A recipe names an engine outside r1kit as
``runtime: {engine: my_engine.py:Name}`` (``MakeEngine``)."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from r1kit.model.decoder import LanguageModel
from r1kit.model.fingerprint import Fingerprint
from r1kit.types import Completion, Sampling
from r1kit.user_code import Shape, takes

Done = Callable[[dict[int, list[Completion]]], None]  # prompt's place -> its completions


class Engine(Protocol):
    """What samples completions."""

    def generate(
        self, prompts: Sequence[np.ndarray], sampling: Sampling,
        seeds: Sequence[int] | None = None, done: Done | None = None,
    ) -> list[list[Completion]]:  # fmt: skip
        """Complete every prompt ([T] token ids) ``sampling.n`` times; the result keeps the order of the
        prompts.

        ``seeds`` has one number per prompt and fixes that prompt's completions whatever is sampled with it;
        without it the seeds derive from ``sampling.seed`` and the prompt's place. ``done`` is called from
        time to time with the prompts completed since the last call, perhaps none; each prompt is reported
        once. An exception from it ends the sampling. Raises R1kitError for a prompt that does not fit the
        model."""
        ...

    def stream(self, prompt: np.ndarray, sampling: Sampling, seed: int) -> Iterator[int]:
        """Yield the token ids of one completion as they are sampled, the end token included."""
        ...

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Load new weights; later completions have this ``version``. If the weights are the tensors of the
        engine's own model, nothing is copied."""
        ...

    def examine(self, token_ids: np.ndarray, temperature: float) -> list[Fingerprint]:
        """Fingerprints of each process's weights and hidden states on a text [T], for the agreement gate;
        empty if the engine cannot be examined."""
        ...


# Of a model, and the token ids that end a completion.
MakeEngine = Callable[[LanguageModel, Sequence[int]], Engine]


def _makes_engines(found: type) -> bool:
    methods = ("generate", "stream", "load", "examine")
    return all(inspect.isfunction(getattr(found, name, None)) for name in methods) and takes(
        found, "model", "stop_ids"
    )


ENGINE = Shape(
    "an engine",
    "a class with generate, stream, load and examine, made of a model and the ids that end a completion, or "
    "a function (model, stop_ids) that makes one",
    functions=(("model", "stop_ids"), ("model", "end_ids")),
    is_class=_makes_engines,
)
