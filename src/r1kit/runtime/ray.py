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

Programs that rewards judge are shared out over the sandboxes of all nodes (ray_sandbox.py); everything else
of a reward is computed by the driver.

Every wait has a deadline. With ``address: local`` nothing listens outside this machine (ray_session.py)."""

from pathlib import Path

from r1kit.config import R1kitError
from r1kit.engine import Engine
from r1kit.runtime.ray_cluster import Cluster
from r1kit.runtime.ray_group import LearnerGroup
from r1kit.runtime.ray_learner import RayLearner
from r1kit.runtime.ray_pool import EnginePool, RayEngine
from r1kit.runtime.ray_sandbox import Sandboxes
from r1kit.runtime.ray_settings import RaySettings
from r1kit.train.learner import LearnerConfig, LearnerProtocol


class RayConfig(RaySettings):
    """The settings of a cluster, and the cluster that they start."""

    def start(self) -> "RayRuntime":
        return RayRuntime(self)


class RayRuntime:
    """The learners and engines of a cluster; stages use them through proxies."""

    def __init__(self, config: RayConfig) -> None:
        self.config, self.cluster = config, Cluster(config)
        self._handles = 0
        self.group, self.pool = LearnerGroup(self.cluster, config), EnginePool(self.cluster, config)
        _, *others = self.cluster.nodes()
        self.sandboxes = Sandboxes(self.cluster, config, others)

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
        self.sandboxes.close()
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
