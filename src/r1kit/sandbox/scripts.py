"""Run one script to its end in a zygote: what it reads and prints are files in memory.

Only what a job is given is in its files, and each job has files of its own: a program may write to the file
that is its standard input, so that file is never shown to another job."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from r1kit.sandbox.channel import Channel, TimeLimit
from r1kit.sandbox.codec import encode
from r1kit.sandbox.zygote_handle import Ended, WorkerLost, ZygoteHandle

BYTE_ORDER_MARK = "\ufeff"  # may begin a file, of a program or of an input; it is no part of the text
LARGEST_OUTPUT = 16 << 20
LARGEST_COMPLAINT = 2000


@dataclass(frozen=True, slots=True)
class Script:
    """A script to run in a ``role``, what it is given, and its limits: seconds of processor time (the kernel
    ends it at ``backstop_s``) and MB of memory."""

    role: str
    text: str
    inputs: Sequence[bytes]
    time_limit_s: float
    memory_limit_mb: int
    backstop_s: float


@dataclass(frozen=True, slots=True)
class Finished:
    """How a script ended, and what it wrote on standard output and standard error (their beginnings)."""

    ended: Ended
    in_time: bool
    output: bytes
    complaint: str


def run_to_end(script: Script, zygote: ZygoteHandle) -> Finished:
    """Run a script until it ends or its time is over. Raises WorkerLost."""
    with contextlib.ExitStack() as stack:
        written = [_memory_file(stack) for _ in range(2)]
        given = [_memory_file(stack, content) for content in script.inputs]
        channel = stack.enter_context(Channel(zygote))
        descriptors = [channel.theirs.fileno(), *written, *given]
        number = zygote.spawn(script.role, descriptors, script.memory_limit_mb, script.backstop_s)
        channel.close_job_end()
        channel.send(encode({"program": script.text}))
        in_time = _wait_for_end(zygote, number, script.time_limit_s)
        ended = zygote.kill(number)
        channel.check_confined()
        complaint = _contents(written[1], LARGEST_COMPLAINT).decode(errors="replace").strip()
        return Finished(ended, in_time, _contents(written[0], LARGEST_OUTPUT), complaint)


def _wait_for_end(zygote: ZygoteHandle, number: int, seconds: float) -> bool:
    """Wait for a job that reports only its end; False when its time is over."""
    limit = TimeLimit(zygote, number, seconds)
    wait = seconds
    while True:
        try:
            ended = zygote.wait(number, wait)
        except WorkerLost:
            if zygote.process.poll() is not None:
                raise
        else:
            zygote.ended[number] = ended
            return ended.seconds <= seconds
        wait = limit.remaining()
        if wait <= 0:
            return number in zygote.ended and zygote.ended[number].seconds <= seconds


def _memory_file(stack: contextlib.ExitStack, content: bytes = b"") -> int:
    descriptor = os.memfd_create("stream", os.MFD_CLOEXEC)
    stack.callback(os.close, descriptor)
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _contents(descriptor: int, limit: int) -> bytes:
    return os.pread(descriptor, min(os.fstat(descriptor).st_size, limit), 0)
