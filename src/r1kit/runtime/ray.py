"""Run on a Ray cluster: a group of learners and a pool of engines, each process an actor.

    driver      this process: the loop, the rewards, the run's folder. It holds no model.
    learners    replicas that share the rows of every update, as in runtime/local.py
    engines     processes with weights of their own, which sample while the learners learn (grpo.off_policy)

Weights go from the first learner into Ray's object store, a bucket at a time, and from there to every engine;
the driver handles only references to them. The store keeps those of the newest version, so that an engine
that is replaced gets them again.

Prompts are dealt in whole groups, a few at a time, to whichever engine is free, and the later the fewer. A
prompt's completions depend on its seed and the weights, not on the engine that samples it or on its
neighbours, so an engine that dies, stops or fails is replaced and its prompts are sampled again: the same
bytes. No prompt is dropped because it takes long.

A learner that is lost ends the group, since its share of the sums is missing. The stage then continues from
its last saved state on a new cluster (runs/execute.py), at most ``restarts`` times.

Every wait has a deadline. With ``address: local`` nothing listens outside this machine (ray_session.py)."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from r1kit.config import InputError, R1kitError
from r1kit.engine import Engine
from r1kit.engine.connected import ConnectedConfig
from r1kit.engine.settings import NATIVE, EngineChoice
from r1kit.runtime.local import LocalConfig, device_error
from r1kit.runtime.ray_cluster import Cluster
from r1kit.runtime.ray_group import LearnerGroup
from r1kit.runtime.ray_learner import RayLearner
from r1kit.runtime.ray_pool import EnginePool, RayEngine
from r1kit.runtime.runtime import RuntimeConfig
from r1kit.train.learner import LearnerConfig, LearnerProtocol


class RayConfig(RuntimeConfig):
    """``learners`` processes that learn together and ``engines`` processes that sample. ``address``: local
    starts a cluster on this machine, HOST:PORT connects to one that runs (docs/scale.md says how it is
    secured). ``restarts``: how often a stage continues on a new cluster when a learner was lost.
    ``deadline_s``: how long one call of a process may take. The other keys are those of runtime/local.py, for
    each process."""

    kind: Literal["ray"] = "ray"
    learners: int = Field(1, ge=1)
    engines: int = Field(1, ge=1)
    address: str = "local"
    restarts: int = Field(3, ge=0)
    engine: EngineChoice = NATIVE
    device: str = "cpu"
    threads: int = Field(1, ge=1)
    batch_rows: int = Field(512, ge=1)
    engine_precision: Literal["float32", "bfloat16"] = "bfloat16"
    deadline_s: float = Field(1800.0, gt=0)

    @field_validator("address")
    @classmethod
    def _address_is_one(cls, address: str) -> str:
        host, colon, port = address.rpartition(":")
        if address != "local" and not (host and colon and port.isdigit()):
            raise ValueError(f"{address!r} is no address: write local, or HOST:PORT of a cluster that runs")
        return address

    def start(self) -> "RayRuntime":
        return RayRuntime(self)

    def resolved_processes(self) -> int:
        return self.learners

    def indifferent(self) -> tuple[str, ...]:
        return ("deadline_s", "engines", "address", "restarts")

    def most_restarts(self) -> int:
        return self.restarts

    def input_errors(self) -> Iterator[InputError]:
        """Ray is not installed, or the device cannot be used."""
        if find_spec("ray") is None:
            yield ("kind",), "ray is not installed: pip install 'r1kit[ray]', or use kind: local"
        if isinstance(self.engine, ConnectedConfig) and self.address == "local":
            yield from ((("engine", *path), reason) for path, reason in self.engine.input_errors())
        if self.address == "local" and (reason := device_error(self.device)) is not None:
            yield ("device",), reason

    def kernels(self) -> dict[str, str]:
        return self._process().kernels()

    def kernel_notes(self) -> list[str]:
        return self._process().kernel_notes()

    def _process(self) -> LocalConfig:
        return LocalConfig(engine=self.engine, device=self.device, processes=1)


class RayRuntime:
    """The learners and engines of a cluster; stages use them through proxies."""

    def __init__(self, config: RayConfig) -> None:
        self.config, self.cluster = config, Cluster(config)
        self._handles = 0
        self.group, self.pool = LearnerGroup(self.cluster, config), EnginePool(self.cluster, config)

    def learner(self, model: Path, config: LearnerConfig, scalar_head: bool = False) -> RayLearner:
        handle, folder = self._handle(), Path(model).absolute()
        self.group.everywhere("make_learner", [(handle, folder, config, scalar_head)] * self.group.size)
        return RayLearner(self.group, handle, folder, config)

    def engine_of(self, learner: LearnerProtocol) -> RayEngine:
        """An engine with weights of its own, which ``hand_over`` brings from the learner."""
        own, handle = self.own(learner), self._handle()
        self.pool.make(handle, "make_engine_like", own.source, own.config)
        return RayEngine(self.pool, handle, own)

    def engine(self, model: Path) -> RayEngine:
        handle = self._handle()
        self.pool.make(handle, "make_engine", Path(model).absolute())
        return RayEngine(self.pool, handle, None)

    def hand_over(
        self, learner: LearnerProtocol, engine: Engine, version: int, deadline_s: float | None = None
    ) -> None:
        """Bring a learner's weights to every process of the pool, through Ray's store; then the engine has
        ``version``. Raises R1kitError naming what failed."""
        own, limit_s = self.own(learner), deadline_s or self.config.deadline_s
        if not isinstance(engine, RayEngine) or engine.learner is None:
            raise R1kitError(
                "this engine samples from a finished model; only the engine of a learner follows its weights"
            )
        refs = self.group.publish(own.handle, limit_s)
        self.pool.load(engine.handle, version, refs, limit_s)
        engine.version = version

    def export(self, learner: LearnerProtocol, directory: Path) -> None:
        own = self.own(learner)
        self.group.first("export", own.handle, own.source, directory.absolute())

    def release(self, *things: LearnerProtocol | Engine) -> None:
        for thing in things:
            if isinstance(thing, RayEngine):
                self.pool.drop(thing.handle)
            else:
                self.group.everywhere("drop", [(self.own(thing).handle,)] * self.group.size)

    def close(self) -> None:
        self.group.close()
        self.pool.close()
        self.cluster.close()

    def own(self, learner: object) -> RayLearner:
        """Check that the learner belongs to this runtime. Raises R1kitError otherwise."""
        if not isinstance(learner, RayLearner) or learner.group is not self.group:
            raise R1kitError(f"{learner!r} is no learner of this runtime: make it with runtime.learner")
        return learner

    def _handle(self) -> int:
        self._handles += 1
        return self._handles
