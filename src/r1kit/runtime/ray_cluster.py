"""The connection of a run to a Ray cluster: the only file that imports ray."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.config import R1kitError
from r1kit.model import compile_kernels
from r1kit.model.compile_kernels import SharedKernels
from r1kit.runtime.ray_actors import Answer, Start
from r1kit.runtime.ray_session import Session, keeping_signals, prepare
from r1kit.watchdog import print_stacks

if TYPE_CHECKING:
    from r1kit.runtime.ray_settings import RaySettings

POLL_S = 0.1  # how often a waiting call reports that it is alive
START_S = 300.0  # for a process to start
STARTS = 5  # of a local cluster, where Ray gives up


class Cluster:
    """The connection of this process to a Ray cluster, from its making to ``close``; for ``address: local``
    the cluster itself."""

    def __init__(self, config: "RaySettings") -> None:
        self.config = config
        self.session: Session | None = None
        self._connected = False
        for left in reversed(range(STARTS if config.address == "local" else 1)):
            try:
                self._connect()
                break
            except BaseException as error:
                self.close()
                if isinstance(error, R1kitError) or not isinstance(error, Exception):
                    raise
                if not left:
                    raise R1kitError(
                        f"runtime.address: {config.address}: Ray did not start or answer: {error}"
                    ) from error
        shares = config.device == "cpu" and self.session is not None
        kernels: list[SharedKernels] = compile_kernels.shared() if shares else []
        self._start = Start(Path.cwd(), kernels)

    def _connect(self) -> None:
        self.session = Session() if self.config.address == "local" else None
        prepare(self.session.token if self.session else None)
        import ray

        self.ray: Any = ray
        if ray.is_initialized():
            raise R1kitError(
                "this process is connected to a Ray cluster already, and a run needs one of its own: end the "
                "other run or call ray.shutdown() first"
            )
        self._connected = True
        with keeping_signals():
            if self.session is not None:
                self._begin_local(self.session)
            else:
                self.ray.init(address=self.config.address, log_to_driver=False, logging_level="ERROR")

    def _begin_local(self, session: Session) -> None:
        """Start a cluster on this machine. Ray gives it 30 seconds, too few on a busy one."""
        self.config.kernels()  # compiled here, once, where the cache does not have them
        with session.variables():
            self.ray.init(
                address="local",
                num_cpus=self.config.learners + self.config.engines,
                num_gpus=None if self.config.device != "cpu" else 0,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                _temp_dir=str(session.work),
            )

    def actor(self, kind: type, *arguments: Any) -> Any:
        """Begin to start a process that holds a ``kind``."""
        gpus = {"num_gpus": 1} if self.config.device != "cpu" else {}
        remote = self.ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0, **gpus)(kind)
        return remote.remote(*arguments, self._start)

    def actor_on(self, node: str, kind: type, *arguments: Any) -> Any:
        """Begin to start a process on a node that needs no share of its processors: it waits for others
        most of the time."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        place = NodeAffinitySchedulingStrategy(node, soft=False)
        remote = self.ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy=place)(kind)
        return remote.remote(*arguments, self._start)

    def nodes(self) -> list[str]:
        """The ids of the nodes that are up, the driver's own first."""
        own = self.ray.get_runtime_context().get_node_id()
        others = sorted(one["NodeID"] for one in self.ray.nodes() if one["Alive"] and one["NodeID"] != own)
        return [own, *others]

    def answer(self, ref: Any, limit_s: float) -> Answer:
        """The answer of a process: ("lost", why) where the process has died or does not answer in time."""
        try:
            found: Answer = self.ray.get(ref, timeout=limit_s)
            return found
        except self.ray.exceptions.GetTimeoutError:
            return "lost", f"it has not answered for {limit_s:g} s"
        except self.ray.exceptions.RayError as error:
            return "lost", " ".join(str(error).split())[:300]

    def ready(self, refs: Sequence[Any], seconds: float = POLL_S) -> list[Any]:
        """Those of which the answer is there, after at most so many seconds; none are fetched."""
        if not refs:
            return []
        found, _ = self.ray.wait(list(refs), num_returns=1, timeout=seconds, fetch_local=False)
        return list(found)

    def end(self, actor: Any, pid: int) -> None:
        """End a process at once, also one that is stopped."""
        if not self._connected:
            return
        with contextlib.suppress(Exception):  # Ray may have lost it itself
            self.ray.kill(actor, no_restart=True)
        if self.session and pid:  # a stopped process does not hear Ray
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def stacks(self, pid: int, what: str) -> None:
        """Print what this process and, on this machine, the process that it waits for are doing."""
        print_stacks(what)
        if self.session is None or not pid:
            return
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGUSR1)
            time.sleep(1.0)  # for the stacks to be written
        for file in self.session.work.glob(f"session_*/logs/worker-*-{pid}.err"):
            sys.stderr.write("".join(file.read_text(errors="replace").splitlines(keepends=True)[-60:]))

    def close(self) -> None:
        if self._connected:
            self._connected = False
            with contextlib.suppress(Exception), keeping_signals():
                self.ray.shutdown()
        if self.session is not None:
            self.session.close()
            self.session = None
