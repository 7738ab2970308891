"""What kills.py needs to know of the processes of a Ray cluster: which of them compute, which session they
belong to, where they listen, and what is left of a session."""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

import psutil

SESSION = "R1KIT_RAY_SESSION"  # in the environment of each process: the session's folder


def actors(processes: Iterable[psutil.Process], kind: str) -> list[psutil.Process]:
    """The processes that hold an actor of this kind ("LearnerActor", "EngineActor", "": any). Ray writes it
    into the process's title."""
    return [process for process in processes if _title(process).startswith(f"ray::{kind or 'L'}")
            or (not kind and _title(process).startswith("ray::E"))]  # fmt: skip


def sessions_of(processes: Iterable[psutil.Process]) -> set[str]:
    """The folders of the Ray sessions that the processes belong to."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            found.add(process.environ().get(SESSION, ""))
    return found - {""}


def listening_outside(processes: Iterable[psutil.Process]) -> list[str]:
    """The processes that listen at an address other than this machine's own."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for one in process.net_connections(kind="inet"):
                if one.status == psutil.CONN_LISTEN and not is_own(one.laddr.ip):
                    found.append(f"{_title(process)[:60]} listens on {one.laddr.ip}:{one.laddr.port}")
    return found


def is_own(address: str) -> bool:
    """Whether only this machine reaches an address."""
    found = ip_address(address)
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def left_of(sessions: Iterable[str], seconds: float) -> list[str]:
    """The folders and processes of these sessions that are there after so many seconds."""
    wanted, end = set(sessions), time.monotonic() + seconds
    while left := [*_folders(wanted), *_processes(wanted)] if wanted else []:
        if time.monotonic() > end:
            break
        time.sleep(0.2)
    return left


def _folders(sessions: set[str]) -> Iterator[str]:
    return (folder for folder in sorted(sessions) if os.path.lexists(folder))


def _processes(sessions: set[str]) -> Iterator[str]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(SESSION, "") in sessions:
                yield f"process {process.pid} {_title(process)[:80]}"


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
