"""The models of a run that can be talked with: those of its finished stages.

A model is loaded when it is first asked, in a thread of its own, and runs as ``r1kit serve`` runs it: one
batch (engine/live.py) that answers join and leave between tokens. At most ``most`` are loaded; the one that
was used longest ago makes place for another, unless it is answering."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil  # type: ignore[import-untyped]

from r1kit.config import R1kitError
from r1kit.records import PREFERRED_KINDS, DamageError, check_model, is_model, stage_folders
from r1kit.serve.answering import start_batcher
from r1kit.serve.batcher import Batcher
from r1kit.serve.errors import ApiError
from r1kit.serve.served import Limits, Served
from r1kit.types import Sampling

MOST_LOADED = 4  # models in memory
LIMITS = Limits(rows=8, queue=16, memory=1 << 29, seconds=600.0)  # of each
SAMPLING = Sampling(temperature=0.6, max_tokens=1024)  # where the page gives nothing; as r1kit chat
# What a stage's model is called in the paper and its figures.
TITLES = {
    "pretrain": "base",
    "r1_zero": "R1-Zero",
    "cold_start": "cold start",
    "reasoning_rl": "reasoning RL",
    "sft": "SFT",
    "alignment_rl": "R1",
    "distill": "student",
}
_MEMORY = 3  # times the size of its files that a model may need: float32 for files of 16 bits, and a copy
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Talker:
    """A model that can be asked: the stage that made it, of what kind, its folder, and when it finished,
    which changes when the stage is made again."""

    stage: str
    kind: str
    folder: Path
    finished: float

    @property
    def title(self) -> str:
        """Its stage, with what the paper calls such a model."""
        title = TITLES.get(self.kind)
        return f"{self.stage} ({title})" if title else self.stage


def talkers(run_dir: Path) -> list[Talker]:
    """The models of a run's finished stages, in the order in which they finished. A stage with a damaged
    record, and a model that is a link out of the run's folder, are left out."""
    found = []
    top = run_dir.resolve()
    for place in stage_folders(run_dir):
        model = place.final / "model"
        try:
            record = place.finished()
        except DamageError:
            continue
        if record is not None and is_model(model) and model.resolve().is_relative_to(top):
            found.append(Talker(place.name, record.stage, model, record.finished or 0.0))
    return sorted(found, key=lambda one: one.finished)


def main_result(found: list[Talker]) -> Talker | None:
    """The model that is meant where none is named: as ``r1kit chat RUN`` chooses."""
    by_preference = [one for kind in PREFERRED_KINDS for one in reversed(found) if one.kind == kind]
    return next(iter(by_preference or found[::-1]), None)


@dataclass(slots=True)
class Loaded:
    """A model in memory with its batch, and a thread for its texts: its tokenizer cannot do two things at
    once."""

    served: Served
    batcher: Batcher
    texts: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    async def in_texts(self, work: Callable[..., T], *given: object) -> T:
        """What ``work`` returns in the thread for texts."""
        return await asyncio.get_running_loop().run_in_executor(self.texts, work, *given)

    def close(self) -> None:
        """End the batch. Blocks until its thread has ended."""
        self.batcher.close()
        self.texts.shutdown(wait=False)


@dataclass(slots=True)
class _Place:
    """A place for a model: the loading, and how many use it."""

    loading: "asyncio.Task[Loaded]"
    users: int = 0


class ModelPool:
    """Loaded models. Used in one event loop."""

    def __init__(self, most: int = MOST_LOADED, load: Callable[[Talker], Served] | None = None) -> None:
        self._most, self._load = most, load or load_served
        self._places: OrderedDict[Talker, _Place] = OrderedDict()  # the one used longest ago first
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="r1kit-ui-models")

    @property
    def loaded(self) -> list[Talker]:
        """The models that are in memory or being loaded."""
        return list(self._places)

    @property
    def answers(self) -> int:
        """Answers that wait or run, of all models."""
        ready = [one.loading for one in self._places.values() if one.loading.done()]
        batchers = [one.result().batcher for one in ready if not one.cancelled() and one.exception() is None]
        return sum(one.running + one.waiting for one in batchers)

    @asynccontextmanager
    async def using(self, talker: Talker) -> AsyncIterator[Loaded]:
        """The model, loaded, which stays as long as this lasts. Raises ApiError where too many models are in
        use, and R1kitError for one that cannot be loaded."""
        place = self._place(talker)
        place.users += 1
        try:
            # Others may wait for the same loading: it goes on where this one gives up.
            yield await asyncio.shield(place.loading)
        finally:
            place.users -= 1
            failed = place.loading.done() and (place.loading.cancelled() or place.loading.exception())
            if failed and self._places.get(talker) is place:
                del self._places[talker]

    def _place(self, talker: Talker) -> _Place:
        if talker not in self._places:
            if len(self._places) >= self._most:
                self._free_a_place()
            self._places[talker] = _Place(asyncio.ensure_future(self._loaded(talker)))
        self._places.move_to_end(talker)
        return self._places[talker]

    def _free_a_place(self) -> None:
        idle = next((one for one, place in self._places.items() if place.users == 0), None)
        if idle is None:
            raise ApiError(429, f"{self._most} models are answering; stop one, or ask again later")
        self._close(self._places.pop(idle))

    async def _loaded(self, talker: Talker) -> Loaded:
        loop = asyncio.get_running_loop()
        served = await loop.run_in_executor(self._loader, self._load, talker)
        return Loaded(served, start_batcher(served, loop))

    def _close(self, place: _Place) -> None:
        """Close a model in the loading thread: the next one is loaded when its memory is free."""

        def closed(loading: "asyncio.Task[Loaded]") -> None:
            if not loading.cancelled() and loading.exception() is None:
                self._loader.submit(loading.result().close)

        place.loading.add_done_callback(closed)

    async def close(self) -> None:
        """Close all models."""
        while self._places:
            self._close(self._places.popitem()[1])
        await asyncio.sleep(0)  # for the callbacks
        await asyncio.to_thread(self._loader.shutdown)


def load_served(talker: Talker) -> Served:
    """Read a model as it was written, prompted as it was trained. Raises R1kitError."""
    check_model(talker.folder)
    size = sum(file.stat().st_size for file in talker.folder.iterdir() if file.is_file())
    free = psutil.virtual_memory().available
    if _MEMORY * size > free:
        raise R1kitError(
            f"{talker.folder}: a model of {size / 1e9:.1f} GB may need {_MEMORY * size / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free; r1kit serve loads it without this check"
        )
    return Served.load(talker.folder, talker.stage, SAMPLING, LIMITS)
