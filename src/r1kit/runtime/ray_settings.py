"""The keys of ``runtime: {kind: ray, ...}``; ray.py starts what they describe."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Literal

from pydantic import Field, field_validator

from r1kit.config import InputError
from r1kit.engine.compiled import MOST_TRIED
from r1kit.engine.connected import ConnectedConfig
from r1kit.engine.native import Precision
from r1kit.engine.settings import NATIVE, EngineChoice
from r1kit.runtime.local import LocalConfig, device_error, int8_error
from r1kit.runtime.runtime import RuntimeConfig


class RaySettings(RuntimeConfig):
    """``learners`` processes that learn together and ``engines`` processes that sample. ``address``: local
    starts a cluster on this machine, HOST:PORT connects to one that runs (docs/scale.md says how it is
    secured). ``restarts``: how often a stage continues on a new cluster when a learner was lost.
    ``deadline_s``: how long one call of a process may take. The other keys are those of runtime/local.py, for
    each process."""

    kind: Literal["ray"] = "ray"  # a Ray cluster
    learners: int = Field(1, ge=1)
    engines: int = Field(1, ge=1)
    address: str = "local"
    restarts: int = Field(3, ge=0)
    engine: EngineChoice = NATIVE  # as in runtime/local.py
    device: str = "cpu"  # cpu or cuda
    threads: int = Field(1, ge=1)  # of each process
    batch_rows: int = Field(512, ge=1)  # rollouts that an engine samples at once
    engine_precision: Precision = "bfloat16"  # of the engines' weights
    speculate: int = Field(0, ge=0, le=MOST_TRIED)  # as in runtime/local.py
    deadline_s: float = Field(1800.0, gt=0)

    @field_validator("address")
    @classmethod
    def _address_is_one(cls, address: str) -> str:
        host, colon, port = address.rpartition(":")
        if address != "local" and not (host and colon and port.isdigit()):
            raise ValueError(f"{address!r} is no address: write local, or HOST:PORT of a cluster that runs")
        return address

    def resolved_processes(self) -> int:
        return self.learners

    def indifferent(self) -> tuple[str, ...]:
        return ("deadline_s", "engines", "address", "restarts", "speculate")

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
        if (
            self.engine_precision == "int8"
            and self.address == "local"
            and not isinstance(self.engine, ConnectedConfig)
            and (reason := int8_error(self.device)) is not None
        ):
            yield ("engine_precision",), reason

    def kernels(self) -> dict[str, str]:
        return self._process().kernels()

    def kernel_notes(self) -> list[str]:
        return self._process().kernel_notes()

    def _process(self) -> LocalConfig:
        return LocalConfig(engine=self.engine, device=self.device, processes=1)
