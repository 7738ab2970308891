"""What one process of a runtime holds: its learners and engines, by handle.

A runtime calls the methods of its replicas, in this process or through a pipe, in the same order in every
process (proxies.py, local.py)."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from r1kit.config import R1kitError
from r1kit.engine.connected import ConnectedConfig
from r1kit.engine.native import Precision
from r1kit.engine.settings import make_engine
from r1kit.memory import keep_memory, return_memory
from r1kit.model.decoder import LanguageModel
from r1kit.model.foreign import ForeignModel
from r1kit.model.huggingface import load_pretrained
from r1kit.tokenizer import Tokenizer
from r1kit.train.group import Group
from r1kit.train.learner import Learner, LearnerConfig, kept_in
from r1kit.types import Completion, Sampling
from r1kit.user_code import load_file

LARGEST = ("update", "save", "sample")  # calls that take the most memory
LARGE = 1 << 28  # bytes of weights from which clearing memory again costs little of a call


class ReplicaConfig(Protocol):
    """What a replica needs of a runtime's configuration (local.py: LocalConfig)."""

    @property
    def threads(self) -> int: ...

    @property
    def device(self) -> str: ...

    @property
    def engine(self) -> str | ConnectedConfig: ...

    @property
    def engine_precision(self) -> Precision: ...

    @property
    def batch_rows(self) -> int: ...

    @property
    def speculate(self) -> int: ...


def _bytes(thing: Any) -> int:
    """Of the weights of a learner or an engine; 0 where its model is not in this process."""
    model = getattr(thing, "model", None)
    return sum(some.nbytes for some in model.parameters()) if isinstance(model, LanguageModel) else 0


class Replica:
    """The learners and engines of one process, by handle. Every process makes the same ones in the same
    order."""

    collective = False  # whether all processes take part in whatever reads a learner's weights

    def __init__(self, config: ReplicaConfig, group: Group) -> None:
        torch.set_num_threads(config.threads)
        # oneDNN caches compiled products, one per shape, of half a megabyte each. R1-Zero of the miniature
        # meets about 600; with 256 of them its updates take a twentieth longer, and a process 240 MB less.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
        keep_memory()
        self.config, self.group = config, group
        self.things: dict[int, Any] = {}
        self._sources: dict[int, Path] = {}  # of learners: the folders of their models
        self._last: tuple[int, str] | None = None  # the call before
        self.report: Callable[[Any], None] = lambda what: None  # called with results while a call lasts

    def make_learner(
        self, handle: int, model: Path, config: LearnerConfig, scalar_head: bool, shared_file: str = ""
    ) -> None:
        loaded = self._model(model, config)
        if isinstance(loaded, ForeignModel) and (config.lora or config.gradient_checkpointing):
            raise R1kitError(
                f"{model}: learner.lora and learner.gradient_checkpointing work on r1kit's own network, and "
                "this model runs through transformers' class; leave them out"
            )
        self.things[handle] = Learner(
            with_scalar_head(loaded) if scalar_head else loaded, config, self.group, shared_file
        )
        self._sources[handle] = model

    def _model(self, folder: Path, config: LearnerConfig) -> LanguageModel:
        """The model of a folder. Learners with adapters on one model share its weights, which do not
        change."""
        for handle, source in self._sources.items():
            learner = self.things[handle]
            if (
                source == folder
                and config.lora
                and learner.config.lora
                and learner.kept_in == kept_in(config)
            ):
                return twin(learner.model)
        return load_pretrained(folder, self.config.device)

    def make_engine(self, handle: int, model: Path, dtype: torch.dtype | None = None) -> None:
        """An engine on the model in a folder, in the folder's precision or in another one."""
        self._engine(handle, load_pretrained(model, self.config.device).to(dtype), Tokenizer.load(model))

    def make_engine_of(self, handle: int, learner: int, source: Path) -> None:
        self._engine(handle, self.things[learner].model, Tokenizer.load(source))

    def call(self, handle: int, method: str, *arguments: Any) -> Any:
        self._before(handle, method)
        return getattr(self.things[handle], method)(*arguments)

    def sample(
        self, handle: int, prompts: Sequence[np.ndarray], sampling: Sampling, seeds: Sequence[int]
    ) -> None:
        """Complete prompts, and report completed ones by index. Completions that the engine did not report
        are reported at the end."""
        self._before(handle, "sample")
        reported: set[int] = set()

        def done(completed: dict[int, list[Completion]]) -> None:
            reported.update(completed)
            self.report(completed)

        groups = self.things[handle].generate(prompts, sampling, seeds, done)
        self.report({place: group for place, group in enumerate(groups) if place not in reported})

    def copy_weights(self, target: int, source: int) -> None:
        self.things[target].model.load_state_dict(self.things[source].model.state_dict())

    def follow(self, student: int, teacher: int) -> None:
        self.things[student].follow(self.things[teacher])

    def load_weights(self, handle: int, learner: int, version: int) -> None:
        self.things[handle].load(self.things[learner].weights(), version)

    def import_files(self, files: Sequence[str]) -> None:
        """Import the user's files that the parent has imported, because its messages may contain objects of
        their classes."""
        for file in files:
            load_file(Path(file))

    def drop(self, handle: int) -> None:
        thing = self.things.pop(handle)
        close = getattr(thing, "close", None)  # engines have it, learners do not
        if close is not None:
            close()
        self._sources.pop(handle, None)
        del thing, close
        return_memory()

    def _before(self, handle: int, method: str) -> None:
        """Return memory where a call that takes much follows another one: an update cannot use what sampling
        left between tensors, nor sampling what an update left. Updates in a row use the same memory."""
        if method in LARGEST and self._last != (handle, method) and _bytes(self.things[handle]) >= LARGE:
            return_memory()
        self._last = (handle, method)

    def _engine(self, handle: int, model: LanguageModel, tokenizer: Tokenizer) -> None:
        config = self.config
        assert isinstance(config.engine, str)  # a connected engine is in no replica (connected.py)
        self.things[handle] = make_engine(
            config.engine, model, tokenizer, config.engine_precision, config.batch_rows, config.speculate
        )


def with_scalar_head(model: LanguageModel) -> LanguageModel:
    """The model with one more output per position, a number; unchanged if it has that already."""
    if model.config.scalar_head:
        return model
    if isinstance(model, ForeignModel):
        return model.with_scalar_head()
    widened = LanguageModel(model.config.model_copy(update={"scalar_head": True})).to(model.device)
    _share(model, widened)
    return widened


def twin(model: LanguageModel) -> LanguageModel:
    """Another model on the same tensors, without adapters and a value head."""
    with torch.device("meta"):
        other = LanguageModel(model.config.model_copy(update={"scalar_head": False}))
    other.base = model.base
    _share(model, other)
    return other


def _share(model: LanguageModel, other: LanguageModel) -> None:
    """Give ``other`` the tensors of ``model`` where it has the same weights."""
    other.load_state_dict(model.state_dict(), strict=False, assign=True)
    if model.config.tie_embeddings:
        other.lm_head.weight = other.embed_tokens.weight
    for parameter in other.parameters():
        parameter.requires_grad_(True)
