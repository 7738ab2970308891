"""Processes that torchrun has started, on one machine or on several: who this one is, and how they find each
other.

torchrun starts the same command everywhere. The process of rank 0 runs the recipe; each other one connects to
it, answers its calls (local.py) and ends with it. Where rank 0 listens, and the key without which it takes no
connection, are in torchrun's own store. Neither that store nor the calls are encrypted: the network between
the machines must be private."""

import atexit
import functools
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Client, Connection, Listener

import torch.distributed as dist

from r1kit.config import ConfigError, R1kitError

LEADER, ENDED = "r1kit/leader", "ended"


@dataclass(frozen=True, slots=True)
class Place:
    """This process is ``rank`` of ``size``; the first one's machine is at ``address``."""

    rank: int
    size: int
    address: str

    @property
    def on_one_machine(self) -> bool:
        return self.address in ("localhost", "127.0.0.1", "::1")

    def store(self, deadline_s: float) -> dist.Store:
        """The store of torchrun, in which the processes meet."""
        return _store(self.rank, self.size, deadline_s)


@functools.cache
def _store(rank: int, size: int, deadline_s: float) -> dist.Store:
    found: dist.Store = next(dist.rendezvous("env://", rank, size, timeout=timedelta(seconds=deadline_s)))[0]
    return found


def place() -> Place | None:
    """Where torchrun has put this process; None where it has not started it. Raises ConfigError where only a
    part of its variables is there."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    given = [os.environ.get(name, "") for name in names]
    if not any(given[:2]):
        return None
    if not all(given) or not (given[0].isdigit() and given[1].isdigit()):
        raise ConfigError(
            f"the environment has {', '.join(f'{n}={v!r}' for n, v in zip(names, given, strict=True))}: all "
            "four are needed; start the command with torchrun, or unset RANK and WORLD_SIZE"
        )
    return Place(int(given[0]), int(given[1]), given[2])


def listen(found: Place, store: dist.Store, deadline_s: float) -> Sequence[Connection]:
    """As rank 0: the connections of ranks 1 and above. Raises R1kitError after the deadline."""
    key = secrets.token_bytes(32)
    with Listener((found.address, 0), backlog=found.size, authkey=key) as listener:
        store.set(LEADER, json.dumps([*listener.address[:2], key.hex()]))
        listener._listener._socket.settimeout(deadline_s)  # type: ignore[attr-defined]
        connections: dict[int, Connection] = {}
        while len(connections) < found.size - 1:
            try:
                connection = listener.accept()
            except TimeoutError:
                missing = [str(rank) for rank in range(1, found.size) if rank not in connections]
                raise R1kitError(
                    f"ranks {', '.join(missing)} have not connected within {deadline_s:g} s: look at their "
                    "output, and check that their machines reach this one"
                ) from None
            connections[int(connection.recv())] = connection
    return [connections[rank] for rank in range(1, found.size)]


def connect(found: Place, store: dist.Store) -> Connection | None:
    """As another rank: the connection to rank 0; None where that has ended without work."""
    found_there = json.loads(store.get(LEADER))
    if found_there == ENDED:
        return None
    address, port, key = found_there
    connection: Connection = Client((address, port), authkey=bytes.fromhex(key))
    connection.send(found.rank)
    return connection


def end_others(store: dist.Store) -> None:
    """As rank 0: let the others end if this process ends before it has listened."""

    def end() -> None:
        if not store.check([LEADER]):
            store.set(LEADER, json.dumps(ENDED))

    atexit.register(end)
