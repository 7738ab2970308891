"""The zygote: a confined Python with its modules loaded, which is forked once per job.

It starts with an almost empty environment and holds no test, answer or program: a job gets those through a
channel of its own. It carries out orders from its command channel, each a JSON object in one message; file
descriptors come as ancillary data, in the order that the role expects:

    {"do": "spawn", "id": 7, "role": "functions", "memory": bytes, "seconds": n}
    {"do": "kill", "id": 7}
    {"do": "time", "id": 7}         asks for the processor time of a job
    {"do": "usage", "id": 7}        asks for its processor time and whether it is asleep

It reports what it measures itself, so no job can forge a report:

    {"id": 7, "exit": wait status, "seconds": processor time, "ordered": killed as ordered}    at a job's end
    {"id": 7, "time": processor time so far, "asleep": none of its threads can run}            as an answer

A role is one of job_roles.ROLES, or one of the services that the zygote was started with: trusted functions,
imported before it confines itself. No job can reach the command channel, so no program chooses a role.

The end of the command channel ends the zygote and all its jobs. A job's first message, on the first of its
descriptors, is empty and means that it is confined. Before that it has received nothing and runs nothing.
"""

import array
import functools
import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1kit.sandbox import confine, kernel
from r1kit.sandbox.codec import write_message
from r1kit.sandbox.job_roles import ROLES, Channels, serve
from r1kit.sandbox.scratch import WATCH_SECONDS, Folders

# The modules that programs import most: loaded once here, they cost a job nothing.
PRELOADED = (
    "abc",
    "array",
    "ast",
    "bisect",
    "calendar",
    "cmath",
    "collections",
    "copy",
    "dataclasses",
    "datetime",
    "decimal",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "io",
    "itertools",
    "json",
    "math",
    "numbers",
    "operator",
    "queue",
    "random",
    "re",
    "statistics",
    "string",
    "struct",
    "textwrap",
    "threading",
    "time",
    "traceback",
    "types",
    "typing",
    "unittest",
)
FIRST_DESCRIPTOR = 3
CONFINED = b""


class Zygote:
    """The supervisor of the jobs of one processor core. ``services`` are the roles besides ROLES."""

    def __init__(
        self,
        commands: socket.socket,
        tier: str,
        scratch: str,
        folders: str,
        visible: Sequence[str],
        lock: int | None,
        services: Mapping[str, Callable[[Channels], None]],
    ) -> None:
        self.commands = commands
        self.roles = {**ROLES, **services}
        self.tier = tier
        self.scratch = scratch
        self.folders = Folders(folders) if folders else None  # one a job, where a job has no /tmp of its own
        self.visible = visible
        self.lock = lock  # a descriptor of the zygote's own pid namespace
        self.limits = confine.Limits(threads=tier == "namespaces")
        self.filter = kernel.SeccompFilter() if tier != "unsafe-subprocess" else None
        self.jobs: dict[int, tuple[int, int]] = {}  # pidfd -> (job, pid)
        self.killed: set[int] = set()  # jobs that were alive when they were killed as ordered
        self.poll = select.poll()
        self.poll.register(commands, select.POLLIN)

    def run(self) -> None:
        """Serve until the command channel ends."""
        while True:
            pause = WATCH_SECONDS * 1000 if self.folders and self.jobs else None
            for descriptor, _ in self.poll.poll(pause):
                if descriptor in self.jobs:
                    self.report_end(descriptor)
                elif not self.obey():
                    return
            self.kill_writers()

    def kill_writers(self) -> None:
        """Kill the jobs whose folders hold too much. It counts as ordered: their programs did it."""
        for job in self.folders.too_full() if self.folders else ():
            for number, pid in self.jobs.values():
                if number == job:
                    self.killed.add(job)
                    os.kill(pid, signal.SIGKILL)

    def obey(self) -> bool:
        """Carry out one order; False at the end of the channel."""
        line, ancillary, _, _ = self.commands.recvmsg(4096, socket.CMSG_SPACE(8 * 4))
        if not line:
            return False
        descriptors = array.array("i")
        for _, _, content in ancillary:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        order: dict[str, Any] = json.loads(line)
        if order["do"] == "spawn":
            self.spawn(order, list(descriptors))
            for descriptor in descriptors:
                os.close(descriptor)
        else:
            self.control(order)
        return True

    def spawn(self, order: dict[str, Any], descriptors: list[int]) -> None:
        """Fork a job; in the child this never returns."""
        if self.tier == "namespaces" and self.lock is not None:
            # Only a process inside its own pid namespace may create another one for its next child.
            kernel.join(self.lock, kernel.CLONE_NEWPID)
            kernel.unshare(kernel.CLONE_NEWPID)
        parent = os.getpid()
        if self.folders:
            self.folders.make(order["id"])
        pid = kernel.fork()
        if pid == 0:
            self.become_job(order, descriptors, parent)
        pidfd = os.pidfd_open(pid)
        self.jobs[pidfd] = (order["id"], pid)
        self.poll.register(pidfd, select.POLLIN)

    def become_job(self, order: dict[str, Any], descriptors: list[int], parent: int) -> None:
        """Confine this process, report it, and carry out the role."""
        try:
            kernel.die_with_parent()
            # A pid namespace ends with its zygote in any case.
            if self.tier != "namespaces" and os.getppid() != parent:
                os._exit(120)
            channels = _arrange(descriptors)
            if self.folders:
                os.chdir(self.folders.path(order["id"]))
            if self.tier == "landlock" and self.folders:
                confine.confine_with_landlock(self.visible, self.folders.path(order["id"]))
            self.limits.impose(order["memory"], order["seconds"])
            if self.tier == "namespaces":
                confine.confine_in_namespaces(self.scratch)
            if self.filter is not None:
                self.filter.install()
            write_message(channels[0], CONFINED)
        except BaseException:
            os._exit(120)
        try:
            self.roles[order["role"]](channels)
        except BaseException:
            os._exit(121)
        finally:
            os._exit(0)

    def control(self, order: dict[str, Any]) -> None:
        """Kill a job or report its processor time; a job that has ended needs neither."""
        for pidfd, (job, pid) in self.jobs.items():
            if job != order["id"]:
                continue
            if order["do"] == "kill":
                if os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    self.killed.add(job)
                os.kill(pid, signal.SIGKILL)
            else:
                self.report(
                    id=job, time=processor_seconds(pid), asleep=order["do"] == "usage" and is_asleep(pid)
                )

    def report_end(self, pidfd: int) -> None:
        """Reap a job and report how it ended."""
        self.poll.unregister(pidfd)
        job, pid = self.jobs.pop(pidfd)
        os.close(pidfd)
        _, status, usage = os.wait4(pid, 0)
        if self.folders:
            self.folders.remove(job)
        self.report(id=job, exit=status, seconds=usage.ru_utime + usage.ru_stime, ordered=job in self.killed)
        self.killed.discard(job)

    def report(self, **fields: float) -> None:
        """Send one report. If the other side is gone, the next poll finds out."""
        try:
            self.commands.send(json.dumps(fields).encode())
        except OSError:
            return


def processor_seconds(pid: int) -> float:
    """Processor time of a process, by its kernel clock (see clock_getcpuclockid(3))."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def is_asleep(pid: int) -> bool:
    """Whether every thread of a process waits for something; False if that cannot be read (see
    proc_pid_stat(5))."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/stat", "rb") as file:
                if file.read().rpartition(b")")[2].split()[0] not in (b"S", b"T"):
                    return False
    except OSError:
        return False
    return True


def load_service(service: str) -> Callable[..., Any]:
    """Import "package.module:function", call the module's ``warm_up``, and return the function."""
    module_name, _, name = service.partition(":")
    module = importlib.import_module(module_name)
    module.warm_up()
    function: Callable[..., Any] = getattr(module, name)
    return function


def _arrange(descriptors: list[int]) -> list[int]:
    """Move the job's descriptors to 3, 4, ... and close all others."""
    high = [
        os.dup2(descriptor, 100 + place, inheritable=False) for place, descriptor in enumerate(descriptors)
    ]
    for place, descriptor in enumerate(high):
        os.dup2(descriptor, FIRST_DESCRIPTOR + place, inheritable=False)
    os.closerange(FIRST_DESCRIPTOR + len(high), 256)
    return [FIRST_DESCRIPTOR + place for place in range(len(high))]


def main(channel: int, tier: str, visible: Sequence[str], services: Sequence[str], folders: str) -> None:
    """Load modules and services, confine this process, report success or the reason why not, and serve."""
    commands = socket.socket(fileno=channel)
    for module in PRELOADED:
        importlib.import_module(module)
    roles = {service: functools.partial(serve, load_service(service)) for service in services}
    sys.dont_write_bytecode = True
    lock: int | None = None
    try:
        if tier == "namespaces":
            lock = confine.enter_namespaces(visible)
        elif tier == "landlock":
            confine.enter_landlock(visible)
        if tier != "unsafe-subprocess":
            kernel.renounce_privileges()
    except OSError as error:
        commands.send(json.dumps({"refused": str(error)}).encode())
        return
    nowhere = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    zygote = Zygote(commands, tier, confine.scratch_folder(visible), folders, visible, lock, roles)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    random.seed(0)  # every program begins with the same state
    gc.collect()
    gc.freeze()
    commands.send(json.dumps({"ready": tier}).encode())
    zygote.run()
