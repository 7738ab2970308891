"""Run on this machine: in one process, or in several that hold equal replicas and share the rows of every
update and the prompts of every rollout.

A small model's matrix products are too small for two threads, so two processes with one thread each share the
rows instead. The parent is rank 0 and does its share of the work. The others wait for commands on a pipe and
exit when it closes. Gradients, expert loads and statistics are added in one flat tensor per update
(memory_group.py), in an order that does not depend on timing, so the replicas stay equal bit for bit."""

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field

from r1kit.config import InputError, R1kitError
from r1kit.engine import Engine, compiled
from r1kit.engine.compiled import MOST_TRIED
from r1kit.engine.connected import ConnectedConfig
from r1kit.engine.native import Precision
from r1kit.engine.settings import NATIVE, EngineChoice, identity
from r1kit.model import compile_kernels, fused
from r1kit.model.ancestry import dtype_of
from r1kit.model.compile_kernels import SharedKernels
from r1kit.model.fingerprint import Fingerprint
from r1kit.model.huggingface import save_pretrained
from r1kit.records import ADAPTER
from r1kit.runtime import process_group, torchrun
from r1kit.runtime.connected import ConnectedEngines
from r1kit.runtime.export import export
from r1kit.runtime.memory_group import share_memory
from r1kit.runtime.proxies import EngineProxy, LearnerProxy
from r1kit.runtime.replica import Replica
from r1kit.runtime.runtime import RuntimeConfig
from r1kit.sandbox.kernel import die_with_parent
from r1kit.terminal import guard
from r1kit.train.dealing import deal, deal_rows
from r1kit.train.group import ALONE, Group
from r1kit.train.learner import Learner, LearnerConfig, LearnerProtocol, shares_state
from r1kit.train.lora import save_adapters
from r1kit.types import Row
from r1kit.user_code import loaded_files
from r1kit.watchdog import HungError, deadline, print_stacks, print_stacks_on_request

POLL_S = 0.1  # how often a waiting process reports that it is alive

# With these variables a library chooses other instructions, and so rounds differently.
_STEERING = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
)


class LocalConfig(RuntimeConfig):
    """``processes`` replicas on the CPU (0: one per core, at most 4), each with ``threads`` threads. A GPU
    takes one process. ``engine``: native, file.py:Name of a ``MakeEngine``, or a mapping with kind: vllm or
    endpoint (engine/settings.py). ``deadline_s``: how long the processes wait for one of them before the call
    fails, and how long a hand-over may take."""

    kind: Literal["local"] = "local"  # processes of this machine
    engine: EngineChoice = NATIVE
    device: str = "cpu"  # cpu or cuda
    processes: int = Field(0, ge=0)
    threads: int = Field(1, ge=1)
    batch_rows: int = Field(512, ge=1)  # rollouts that an engine samples at once
    engine_precision: Precision = "bfloat16"  # of the engine's weights
    speculate: int = Field(
        0, ge=0, le=MOST_TRIED
    )  # tokens that each of few rollouts tries ahead; same results
    deadline_s: float = Field(1800.0, gt=0)

    def start(self) -> "LocalRuntime":
        return LocalRuntime(self)

    def indifferent(self) -> tuple[str, ...]:
        return ("deadline_s", "speculate")

    def replica(self, group: Group) -> Replica:
        """What a process of this runtime holds."""
        return Replica(self, group)

    def group_of_one(self) -> Group:
        """The group of a runtime with one process."""
        return ALONE

    def backend(self) -> str:
        """What carries the sums over processes."""
        return "gloo"

    def torchrun_place(self) -> torchrun.Place | None:
        """Where torchrun has put this process, if this runtime uses the processes that it starts."""
        return None

    def row_shares(self) -> list[int]:
        """Which share of an update's rows each process computes."""
        return list(range(self.resolved_processes()))

    def resolved_processes(self) -> int:
        if self.device != "cpu":
            return 1
        return self.processes or min(4, os.cpu_count() or 1)

    def input_errors(self) -> Iterator[InputError]:
        """Why the device cannot be used on this machine, and what the engine lacks."""
        if (reason := device_error(self.device)) is not None:
            yield ("device",), reason
        if isinstance(self.engine, ConnectedConfig):
            yield from ((("engine", *path), reason) for path, reason in self.engine.input_errors())
        elif self.engine_precision == "int8" and (reason := int8_error(self.device)) is not None:
            yield ("engine_precision",), reason

    def kernels(self) -> dict[str, str]:
        """What a result's last bits depend on: name and hash of r1kit's compiled kernels (or "PyTorch"), of
        the file of an engine outside r1kit, and environment variables that change how libraries compute."""
        named = {name: os.environ[name] for name in _STEERING if name in os.environ}
        for user, source in (("engine", compiled.SOURCE), ("learner", fused.SOURCE)):
            found = compile_kernels.in_use(source)[0] if self.device == "cpu" else None
            named[user] = f"{found.name} {found.sha256}" if found else "PyTorch (r1kit doctor says why)"
        if self.engine != NATIVE:
            named["engine"] = identity(self.engine)
        return named

    def kernel_notes(self) -> list[str]:
        """Which of r1kit's kernels do not run on this processor, and why."""
        sources = {"engine": compiled.SOURCE, "learner": fused.SOURCE} if self.device == "cpu" else {}
        reasons = {user: compile_kernels.in_use(source)[1] for user, source in sources.items()}
        return [
            f"{user}: PyTorch instead of r1kit's kernels, several times slower: {' '.join(why.split())[:300]}"
            for user, why in reasons.items()
            if why
        ]


def int8_error(device: str) -> str | None:
    """Why the engine cannot sample in 8 bits here; None where it can."""
    reason = f"the device is {device}" if device != "cpu" else compile_kernels.in_use(compiled.SOURCE)[1]
    if not reason:
        return None
    return f"int8 needs r1kit's kernels, which do not run: {' '.join(reason.split())[:300]}; write bfloat16"


def device_error(name: str) -> str | None:
    """Why PyTorch cannot compute on the device of that name here, with the fix; None where it can."""
    otherwise = "or compute on the processor: runtime.device=cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        return f"{name!r} is no device that PyTorch knows; write cpu, cuda or cuda:0"
    if device.type == "cuda":
        if torch.version.cuda is None and torch.version.hip is None:
            return (
                f"{name}: this PyTorch ({torch.__version__}) was built without CUDA; install a build with it "
                f"(pip install torch, or from https://pytorch.org/get-started), {otherwise}"
            )
        if not torch.cuda.is_available():
            return f"{name}: PyTorch finds no GPU here; check that nvidia-smi lists one, {otherwise}"
        if (device.index or 0) >= (count := torch.cuda.device_count()):
            return f"{name}: this machine has {count} GPUs, cuda:0 to cuda:{count - 1}; name one of them"
        return None
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        reason = str(error).partition(". ")[0]
        return f"{name}: PyTorch cannot compute on it here ({reason}); write cpu or cuda"
    return None


class LocalRuntime:
    """Replicas in this process and its helper processes; stages use them through proxies."""

    def __init__(self, config: LocalConfig) -> None:
        self.config = config
        self.size = config.resolved_processes()
        self._row_shares = config.row_shares()
        self._handles = 0
        self.connected: ConnectedEngines | None = None
        self.pipes: list[Connection] = []
        self.processes: list[Any] = []
        self._failed = False
        self._turn = threading.Lock()  # a replica does one thing at a time
        self._answers: dict[int, tuple[str, Any]] = {}
        self._on_report: Callable[[int, Any], None] = _ignore
        self._imported: tuple[str, ...] = ()  # files of the user's that the helpers have imported
        if self.size == 1:
            group = config.group_of_one()
        else:
            with _meeting_place() as place:
                kernels = self.start_helpers(place)
                group = self._join_helpers(place, kernels)
        self.replica = config.replica(group)
        if isinstance(config.engine, ConnectedConfig):
            self.connected = ConnectedEngines(config.engine)

    def start_helpers(self, place: str) -> list[SharedKernels]:
        """Start the other processes, which meet at ``place``; each has a pipe to this one. Those that
        torchrun has started connect to this one instead. Return the kernels that they have to use."""
        if (found := self.config.torchrun_place()) is not None:
            deadline_s = self.config.deadline_s
            self.pipes = list(torchrun.listen(found, found.store(deadline_s), deadline_s))
            self.processes = [_Elsewhere()] * len(self.pipes)
            return []
        context = multiprocessing.get_context("spawn")
        self.config.kernels()  # compiled here, once, where the cache does not have them
        for rank in range(1, self.size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=serve, args=(rank, self.size, place, self.config, theirs), daemon=True
            )
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)
        return compile_kernels.shared() if self.config.device == "cpu" else []

    def _join_helpers(self, place: str, kernels: list[SharedKernels]) -> Group:
        """Make one group of all processes. A process that joins waits for the others, so none joins before
        all have reported that they run. They get the kernels only then: what a process is started with goes
        through a pipe that, once full, waits for ever for one that has died."""
        helpers = range(1, self.size)
        try:
            for rank in helpers:
                self._reply(rank, "start", _unguarded())
            for rank in helpers:
                self._send(rank, ("adopt", (kernels,)))
            group = _join_group(0, self.size, place, self.config)
            for rank in helpers:
                self._reply(rank, "join")
        except Exception:
            self._failed = True
            dead = [rank for rank in helpers if self.processes[rank - 1].exitcode is not None]
            self.close()
            if dead:
                raise _died(dead[0], _unguarded()) from None
            raise
        return group

    def learner(self, model: Path, config: LearnerConfig, scalar_head: bool = False) -> LearnerProxy:
        """A learner on the model in directory ``model``; with ``scalar_head`` a value head is added where it
        has none."""
        with self._shared_file(config) as file:
            handle = self._make("make_learner", Path(model), config, scalar_head, file)
        return LearnerProxy(self, handle, Path(model))

    @contextlib.contextmanager
    def _shared_file(self, config: LearnerConfig) -> Iterator[str]:
        """A file in memory that all processes can map, as long as this lasts; "" where none is needed or to
        be had. What is mapped stays until the last process unmaps it or ends."""
        possible = (
            self.size > 1
            and not self.replica.collective
            and self.config.device == "cpu"
            and hasattr(os, "memfd_create")
        )
        if not (possible and shares_state(config)):
            yield ""
        else:
            number = os.memfd_create("r1kit-weights")
            try:
                yield f"/proc/{os.getpid()}/fd/{number}"
            finally:
                os.close(number)

    def engine_of(self, learner: LearnerProtocol) -> Engine:
        """An engine on the learner's own weights: nothing is copied, every update is seen at once. A
        connected engine has weights of its own until a hand-over."""
        own = self.own(learner)
        if self.connected is not None:
            return self.connected.following(own.source)
        return EngineProxy(self, self._make("make_engine_of", own.handle, own.source), own)

    def engine(self, model: Path) -> Engine:
        if self.connected is not None:
            return self.connected.on(Path(model))
        return EngineProxy(self, self._make("make_engine", Path(model)), None)

    def hand_over(
        self, learner: LearnerProtocol, engine: Engine, version: int, deadline_s: float | None = None
    ) -> None:
        """Bring a learner's weights to an engine. An engine in the replicas loads those of the learner that
        it was made for, which r1kit's own shares with it: nothing is copied."""
        own, limit = self.own(learner), deadline_s or self.config.deadline_s
        if self.connected is not None:
            self.connected.hand_over(own.named_weights, engine, version, limit)
        elif self.config.engine == NATIVE:
            engine.load(learner.weights(), version)
        else:
            with deadline(f"hand-over of version {version}: the load of engine {self.config.engine}", limit):
                engine.load(learner.weights(), version)
        if engine.version != version:
            raise R1kitError(
                f"hand-over of version {version}: the engine {self.config.engine} says that it has version "
                f"{engine.version}; take the version in load(weights, version), when the weights are in place"
            )

    def own(self, learner: LearnerProtocol) -> LearnerProxy:
        """Check that the learner belongs to this runtime. Raises R1kitError otherwise."""
        if not isinstance(learner, LearnerProxy) or learner.runtime is not self:
            raise R1kitError(f"{learner!r} is no learner of this runtime: make it with runtime.learner")
        return learner

    def export(self, learner: LearnerProtocol, directory: Path) -> None:
        """Write the learner's model with its tokenizer as a Hugging Face directory, which is there whole or
        not at all: in the dtype of the model that it was loaded from, and with what it inherits from that."""
        own = self.own(learner)

        def write(folder: Path) -> None:
            local: Learner = self.replica.things[own.handle]
            if self.replica.collective:
                self.everywhere("export", [(own.handle, folder, dtype_of(own.source))] * self.size)
            else:
                save_pretrained(local.model, folder, dtype=dtype_of(own.source))
            if local.config.lora is not None:
                save_adapters(local.model, local.config.lora, folder / ADAPTER, str(own.source))

        export(own.source, directory, write)

    def release(self, *things: LearnerProtocol | Engine) -> None:
        for thing in things:
            if self.connected is not None and self.connected.holds(thing):
                self.connected.release(thing)
                continue
            if not isinstance(thing, LearnerProxy | EngineProxy):
                raise R1kitError(f"{thing!r} was not made by this runtime")
            self.everywhere("drop", [(thing.handle,)] * self.size)

    def close(self) -> None:
        if self.connected is not None:
            self.connected.close()
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(
                timeout=0.1 if self._failed else 10
            )  # after a failure it may wait forever in a sum over processes
            if process.is_alive():
                process.kill()
                process.join(timeout=10)
        if dist.is_initialized():
            dist.destroy_process_group()
        self.pipes, self.processes = [], []

    def everywhere(
        self,
        method: str,
        arguments: Sequence[tuple[Any, ...]],
        on_report: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        """Call ``method`` on every replica with its own arguments; results in rank order. Raises what a
        replica raised.

        ``on_report(rank, what)`` gets the reports of replicas during the call, and an empty report from time
        to time. An exception from it ends the call, after which the runtime can only be closed. Calls from
        several threads take turns."""
        with self._turn:
            self._answers, self._on_report = {}, on_report or _ignore
            self.replica.report = self._report
            try:
                self._import_new_files()
                for rank, own in enumerate(arguments[1:], 1):
                    self._send(rank, (method, own))
                results = [self._own(method, arguments[0])]
                return results + [self._reply(rank, method) for rank in range(1, self.size)]
            except BaseException:
                self._failed = True
                raise

    def _import_new_files(self) -> None:
        """Have the helpers import the user's files that were imported here since the last call."""
        if self.pipes and (files := loaded_files()) != self._imported:
            for rank in range(1, self.size):
                self._send(rank, ("import_files", (files,)))
            for rank in range(1, self.size):
                self._reply(rank, "import_files")
            self._imported = files

    def _report(self, what: Any) -> None:
        """Pass on a report of this process's replica, and the reports that have arrived from the others."""
        self._on_report(0, what)
        for rank, pipe in enumerate(self.pipes, 1):
            while rank not in self._answers and pipe.poll():
                self._receive(rank)

    def _receive(self, rank: int, hint: str = "") -> None:
        """Read one message of another process; ``hint``: what may have ended it."""
        try:
            kind, content = self.pipes[rank - 1].recv()
        except (EOFError, OSError):
            raise _died(rank, hint) from None
        if kind == "report":
            self._on_report(rank, content)
        else:
            self._answers[rank] = (kind, content)

    def _send(self, rank: int, command: tuple[str, tuple[Any, ...]]) -> None:
        try:
            self.pipes[rank - 1].send(command)
        except OSError:
            raise _died(rank) from None

    def _own(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """Do this process's share of a call. If a sum over processes fails because of an error in another
        process, that error is raised instead."""
        began = time.monotonic()
        try:
            return getattr(self.replica, method)(*arguments)
        except R1kitError:
            raise
        except Exception:
            for rank, pipe in enumerate(self.pipes, 1):
                if rank in self._answers or pipe.poll(1.0):
                    self._reply(rank, method)
                elif time.monotonic() - began > self.config.deadline_s:
                    raise self._hung(rank, method) from None
            raise

    def _reply(self, rank: int, method: str, hint: str = "") -> Any:
        deadline = time.monotonic() + self.config.deadline_s
        while rank not in self._answers:
            if self.pipes[rank - 1].poll(min(POLL_S, self.config.deadline_s)):
                self._receive(rank, hint)
            elif time.monotonic() > deadline:
                raise self._hung(rank, method)
            else:
                self._on_report(rank, {})
        kind, content = self._answers.pop(rank)
        if kind == "error":
            raise content
        return content

    def _hung(self, rank: int, method: str) -> R1kitError:
        """Print the stacks of the waiting and of the hung process, and make the error."""
        what = f"process {rank} of this run has not done its share of {method!r}"
        process = self.processes[rank - 1]
        print_stacks(what)
        if process.is_alive():
            os.kill(process.pid, signal.SIGUSR1)
            time.sleep(1.0)  # for the stacks to be printed before it is ended
        return HungError(
            f"{what} for {self.config.deadline_s:g} s (stacks above); the same command continues the run"
        )

    def shared(self, lengths: Sequence[int]) -> list[list[int]]:
        """Distribute indices to the replicas, longest first and back and forth, so that all have about the
        same work."""
        return deal(lengths, self.size)

    def shared_rows(self, rows: Sequence[Row], share: bool) -> list[list[int]]:
        """Rows of an update, by index, which some processes may compute together; ``share``: rows of one
        prompt share it."""
        dealt = deal_rows(rows, max(self._row_shares) + 1, share)
        return [dealt[share] for share in self._row_shares]

    def examine(self, handle: int, token_ids: np.ndarray, temperature: float) -> list[Fingerprint]:
        """Fingerprints of every replica's copy of a learner or an engine, in rank order."""
        found = self.everywhere("call", [(handle, "examine", token_ids, temperature)] * self.size)
        return [one for examinations in found for one in examinations]

    def _make(self, method: str, *arguments: Any) -> int:
        self._handles += 1
        self.everywhere(method, [(self._handles, *arguments)] * self.size)
        return self._handles


class _Elsewhere:
    """A process that torchrun has started and ends."""

    exitcode = None
    pid = 0

    def is_alive(self) -> bool:
        return False

    def join(self, timeout: float | None = None) -> None:
        pass


def serve(rank: int, size: int, place: str, config: LocalConfig, pipe: Connection) -> None:
    """The main loop of a helper process: join the group, then answer commands until the parent ends."""
    with contextlib.suppress(OSError):
        die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides what an interruption means
    guard()
    print_stacks_on_request()
    try:
        pipe.send(("result", None))
        _, (kernels,) = pipe.recv()
    except (EOFError, OSError):
        os._exit(0)
    compile_kernels.adopt(kernels)
    replica = config.replica(_join_group(rank, size, place, config))
    replica.report = lambda what: pipe.send(("report", what)) if what else None
    pipe.send(("result", None))
    while True:
        try:
            method, arguments = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)
        try:
            pipe.send(("result", getattr(replica, method)(*arguments)))
        except Exception as error:  # a boundary: the parent raises it again
            reported = (
                error
                if isinstance(error, R1kitError)
                else R1kitError(f"process {rank}: {traceback.format_exc()}")
            )
            with contextlib.suppress(OSError):
                pipe.send(("error", reported))
            if arguments[1:2] == ("update",) or replica.collective:
                os._exit(1)  # ends the sums in which other processes wait for this one


def _ignore(rank: int, what: Any) -> None:
    """The ``on_report`` of a call without one."""


def _died(rank: int, hint: str = "") -> R1kitError:
    return R1kitError(
        f"process {rank} of this run has died (out of memory, or killed); the same command continues the run"
        f"{hint}"
    )


def _unguarded() -> str:
    """What else may have ended a process at its start: each of them imports the script that was started."""
    script = Path(getattr(sys.modules["__main__"], "__file__", None) or "r1kit").name
    if script in ("r1kit", "__main__.py"):
        return ""
    return (
        f". Each process imports {script} at its start: there, calls of r1kit belong below "
        'if __name__ == "__main__":'
    )


@contextlib.contextmanager
def _meeting_place() -> Iterator[str]:
    """A file through which the processes of a group find each other. On Linux it is in memory only, so
    nothing is left behind when this process ends.

    There it stays open as long as this process lives: the group opens it again at the end, when another file
    could have its number."""
    if hasattr(os, "memfd_create"):
        yield f"/proc/{os.getpid()}/fd/{os.memfd_create('r1kit-group')}"
    else:
        with tempfile.TemporaryDirectory(prefix="r1kit-") as folder:
            yield os.path.join(folder, "group")


def _join_group(rank: int, size: int, place: str, config: LocalConfig) -> Group:
    found = config.torchrun_place()
    if found is not None:
        meeting = dist.PrefixStore("r1kit", found.store(config.deadline_s))
        backend, loopback = config.backend(), found.on_one_machine
        return process_group.join(meeting, rank, size, config.deadline_s, backend, loopback)
    store = dist.FileStore(place, size)
    group = process_group.join(store, rank, size, config.deadline_s, config.backend())
    if config.device != "cpu" or not hasattr(os, "memfd_create"):  # only Linux has it
        return group
    return share_memory(group, store)
