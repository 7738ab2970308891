"""What the processes of a Ray cluster hold for r1kit: a learner of the group, or an engine of the pool. Both
are plain classes around a ``Replica``; ray.py makes actors of them.

An answer is ("result", what) or ("error", the error). So an error arrives as itself, and what Ray reports is
the loss of a process."""

import os
import platform
import signal
import socket
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from r1kit.config import R1kitError
from r1kit.engine.connected import ConnectedConfig
from r1kit.files import hash_file, hash_text
from r1kit.model import compile_kernels
from r1kit.model.ancestry import dtype_of
from r1kit.model.compile_kernels import SharedKernels
from r1kit.model.huggingface import save_pretrained
from r1kit.records import ADAPTER
from r1kit.runtime import process_group
from r1kit.runtime.connected import ConnectedEngines
from r1kit.runtime.export import export
from r1kit.runtime.replica import Replica, ReplicaConfig
from r1kit.terminal import guard
from r1kit.train.group import ALONE
from r1kit.train.learner import LearnerConfig, kept_in
from r1kit.train.lora import save_adapters
from r1kit.types import Completion, Sampling
from r1kit.watchdog import print_stacks_on_request

PACKAGES = ("numpy", "ray", "safetensors", "torch", "transformers")

Answer = tuple[str, Any]


@dataclass(frozen=True, slots=True)
class Packed:
    """A tensor's bytes [N] uint8, with its dtype's name and its shape."""

    dtype: str
    shape: tuple[int, ...]
    content: np.ndarray


Bucket = dict[str, Packed]  # tensors by name


@dataclass(frozen=True, slots=True)
class Place:
    """Where the learners of a group meet: a file on one machine, or a store that the first of them keeps."""

    file: str = ""
    host: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Start:
    """What every process of a cluster begins with: the driver's current folder, in which a recipe's names of
    code are looked up, and its kernels, so that all run the same bytes (empty: each loads its own)."""

    folder: Path
    kernels: Sequence[SharedKernels]


class LearnerActor:
    """One learner process of the group."""

    def __init__(self, config: ReplicaConfig, rank: int, size: int, start: Start) -> None:
        begin(start)
        self.config, self.rank, self.size = config, rank, size
        self.replica = Replica(config, ALONE)
        self._store: Any = None
        self._buckets: list[Bucket] = []
        self._own: dict[str, Callable[..., Any]] = {
            "facts": facts, "open": self._open, "join": self._join, "save": self._save,
            "export": self._export, "publish": self._publish, "weight": self._weight,
            "weight_names": self._weight_names,
        }  # fmt: skip

    def do(self, method: str, *arguments: Any) -> Answer:
        """Call one of this class's own methods by name, or one of the replica's."""
        return answer(self._own.get(method) or getattr(self.replica, method), arguments)

    def bucket(self, number: int) -> Answer:
        """One of the buckets that ``publish`` made, which are kept here no longer."""
        found = "result", self._buckets[number]
        self._buckets[number] = {}
        return found

    def _open(self) -> Place:
        """Listen at a port that the system chooses, and keep it: the others of the group connect to it."""
        host = socket.gethostbyname(socket.gethostname())
        self._store = dist.TCPStore(host, 0, self.size, is_master=True, wait_for_workers=False)
        return Place(host=host, port=self._store.port)

    def _join(self, place: Place, deadline_s: float) -> None:
        """Join the group, if it has more than one process. Waits for the others."""
        if self.size == 1:
            return
        store = self._store or (
            dist.FileStore(place.file, self.size)
            if place.file
            else dist.TCPStore(place.host, place.port, self.size, is_master=False)
        )
        backend = "gloo" if self.config.device == "cpu" else "cpu:gloo,cuda:nccl"
        self.replica.group = process_group.join(
            store, self.rank, self.size, deadline_s, backend, loopback=bool(place.file)
        )

    def _save(
        self, handle: int, directory: Path, progress: Mapping[str, int], texts: Mapping[str, str],
        others: Mapping[str, int], owners: Sequence[str],
    ) -> None:  # fmt: skip
        things = self.replica.things
        learned = {name: things[other] for name, other in others.items()}
        things[handle].save(directory, progress, texts, learned, owners)

    def _export(self, handle: int, source: Path, directory: Path) -> None:
        learner = self.replica.things[handle]

        def write(folder: Path) -> None:
            save_pretrained(learner.model, folder, dtype=dtype_of(source))
            if learner.config.lora is not None:
                save_adapters(learner.model, learner.config.lora, folder / ADAPTER, str(source))

        export(source, directory, write)

    def _weight_names(self, handle: int) -> list[str]:
        return list(self.replica.things[handle].weights())

    def _weight(self, handle: int, name: str) -> Tensor:
        tensor: Tensor = self.replica.things[handle].weights()[name]
        return tensor.detach().cpu()

    def _publish(self, handle: int, bucket_bytes: int) -> int:
        """Sort a learner's weights into buckets, and return how many there are. A connected engine gets them
        under the names of a model folder."""
        learner = self.replica.things[handle]
        connected = isinstance(self.config.engine, ConnectedConfig)
        named = learner.named_weights() if connected else learner.weights().items()
        self._buckets = buckets(named, bucket_bytes)
        return len(self._buckets)


class EngineActor:
    """One engine process of the pool, with weights of its own."""

    def __init__(self, config: ReplicaConfig, deadline_s: float, start: Start) -> None:
        begin(start)
        self._deadline_s = deadline_s
        self.replica = Replica(config, ALONE)
        choice = config.engine
        self._connected = ConnectedEngines(choice) if isinstance(choice, ConnectedConfig) else None
        self._own: dict[str, Callable[..., Any]] = {
            "facts": facts, "make_engine_like": self._make_engine_like, "make_engine": self._make_engine,
            "drop": self._drop, "sample": self._sample, "can": self._can,
        }  # fmt: skip

    def do(self, method: str, *arguments: Any) -> Answer:
        """Call one of this class's own methods by name, or one of the replica's."""
        return answer(self._own.get(method) or getattr(self.replica, method), arguments)

    def load(self, handle: int, version: int, *given: Answer) -> Answer:
        """Load the weights in ``given``, answers of ``LearnerActor.bucket`` that Ray's store holds."""
        return answer(self._load, (handle, version, [bucket for _, bucket in given]))

    def _load(self, handle: int, version: int, given: Sequence[Bucket]) -> int:
        """Return the version that the engine has afterwards."""
        weights = {name: unpack(packed) for bucket in given for name, packed in bucket.items()}
        engine = self.replica.things[handle]
        if self._connected is None:
            engine.load(weights, version)
        else:
            self._connected.hand_over(weights.items, engine, version, self._deadline_s)
        loaded: int = self.replica.things[handle].version
        return loaded

    def _can(self, handle: int) -> frozenset[str]:
        found: frozenset[str] = self.replica.things[handle].can
        return found

    def _make_engine_like(self, handle: int, model: Path, config: LearnerConfig) -> None:
        """An engine on the model in directory ``model``, in the precision of a learner of that
        configuration."""
        if self._connected is None:
            self.replica.make_engine(handle, model, kept_in(config))
        else:
            self.replica.things[handle] = self._connected.following(model)

    def _make_engine(self, handle: int, model: Path) -> None:
        if self._connected is None:
            self.replica.make_engine(handle, model)
        else:
            self.replica.things[handle] = self._connected.on(model)

    def _drop(self, handle: int) -> None:
        if self._connected is not None:
            self._connected.release(self.replica.things[handle])
        self.replica.drop(handle)

    def _sample(
        self, handle: int, prompts: Sequence[np.ndarray], sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Completion]]:
        found: list[list[Completion]] = self.replica.things[handle].generate(prompts, sampling, seeds)
        return found


def buckets(named: Iterable[tuple[str, Tensor]], bucket_bytes: int) -> list[Bucket]:
    """The tensors in groups of at most ``bucket_bytes``; a larger tensor is a group of its own."""
    found: list[Bucket] = []
    filled = bucket_bytes
    for name, tensor in named:
        if filled + tensor.nbytes > bucket_bytes or not found:
            found.append({})
            filled = 0
        found[-1][name] = pack(tensor)
        filled += tensor.nbytes
    return found


def pack(tensor: Tensor) -> Packed:
    """A tensor as bytes on the CPU, which all readers on a machine share where Ray's store holds them."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    content = flat.view(torch.uint8).numpy()
    return Packed(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), content)


def unpack(packed: Packed) -> Tensor:
    """The tensor, which shares the bytes: it must not be written to."""
    if not packed.content.size:
        return torch.zeros(packed.shape, dtype=getattr(torch, packed.dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's, that a tensor of the store is not writable
        flat = torch.from_numpy(packed.content)
    found: Tensor = flat.view(getattr(torch, packed.dtype)).reshape(packed.shape)
    return found


def facts() -> tuple[str, int, dict[str, str]]:
    """This process's host and number, and what has to be the same in all processes of a run."""
    versions = {"python": platform.python_version(), "r1kit's own code": _own_code()}
    for name in PACKAGES:
        versions[name] = metadata.version(name)
    return socket.gethostname(), os.getpid(), versions


def _own_code() -> str:
    package = Path(__file__).parents[1]
    files = sorted(file for file in package.rglob("*") if file.suffix in (".py", ".h", ".cpp"))
    return hash_text("".join(f"{file.relative_to(package)} {hash_file(file)}\n" for file in files))


def begin(start: Start) -> None:
    """What every process of a cluster does first."""
    os.chdir(start.folder)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what an interruption means
    guard()
    print_stacks_on_request()
    compile_kernels.adopt(start.kernels)


def answer(call: Callable[..., Any], arguments: Sequence[Any]) -> Answer:
    """Call something; the answer with its result or its error."""
    try:
        return "result", call(*arguments)
    except R1kitError as error:
        return "error", error
    except Exception:  # a boundary: the driver raises it again
        text = f"process {os.getpid()} on {socket.gethostname()}: {traceback.format_exc()}"
        return "broken", R1kitError(text)
