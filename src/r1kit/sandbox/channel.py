"""Messages to and from one job, and the limit on its time.

A job's processor time counts, so a busy machine changes no verdict. A job that is asleep when its time has
passed by the clock has used it up.
"""

import contextlib
import select
import socket
import time
from collections.abc import Callable

from r1kit.sandbox.codec import LARGEST_MESSAGE, CodecError
from r1kit.sandbox.zygote_handle import WorkerLost, ZygoteHandle, readable, ready

SECOND_LOOK_SECONDS, WORKED_SECONDS = 0.1, 0.001


class Channel:
    """A stream of messages to and from a job, with a deadline on every wait."""

    def __init__(self, zygote: ZygoteHandle) -> None:
        self.zygote = zygote
        self.ours, self.theirs = socket.socketpair()
        self.buffer = bytearray()
        self.confined = False

    def __enter__(self) -> "Channel":
        return self

    def __exit__(self, *_: object) -> None:
        self.ours.close()
        self.theirs.close()

    def close_job_end(self) -> None:
        """Close the job's end in this process, once the job has it."""
        self.theirs.close()

    def send(self, *messages: bytes) -> None:
        """Send messages. A job that does not read them loses them; its silence then runs into its limit."""
        rest = memoryview(b"".join(len(message).to_bytes(4, "big") + message for message in messages))
        deadline = time.monotonic() + 5.0
        with contextlib.suppress(OSError):
            while rest and ready(self.ours, select.POLLOUT, deadline - time.monotonic()):
                rest = rest[self.ours.send(rest, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) :]

    def receive(self, job: int, seconds: float, used: float = 0.0, judge: int | None = None) -> bytes | None:
        """Receive a message of a job that may use ``seconds`` of processor time more than ``used``; None: its
        time is over.

        If the message comes from a ``judge`` that calls the job, the job does not count as asleep while the
        judge works. Raises EOFError when the job has closed the channel or ended, CodecError for what is no
        message, WorkerLost for a job that could not be confined and so has run nothing."""
        if not self.confined:
            try:
                greeting = self._next(TimeLimit(self.zygote, job, seconds, used, judge))
            except EOFError:
                greeting = None
            self._note_confined(greeting == b"")
        return self._next(TimeLimit(self.zygote, job, seconds, used, judge))

    def check_confined(self) -> None:
        """Raise WorkerLost if a job that has ended could not be confined. For jobs that send nothing else."""
        if not self.confined:
            try:
                greeting = self.ours.recv(4, socket.MSG_DONTWAIT) if readable(self.ours, 0) else b""
            except OSError:  # it was killed before it had read what was sent to it
                greeting = b""
            self._note_confined(greeting == bytes(4))

    def _note_confined(self, confined: bool) -> None:
        self.confined = confined
        if not confined:
            raise WorkerLost("the job could not be confined")

    def _next(self, limit: "TimeLimit") -> bytes | None:
        deadline = time.monotonic() + limit.seconds
        while (message := self._take_message()) is None:
            if readable(self.ours, deadline - time.monotonic()):
                self._read_piece()
            else:
                left = limit.remaining()
                if left <= 0:
                    return None
                deadline = time.monotonic() + left
        return message

    def _take_message(self) -> bytes | None:
        """The first whole message of the buffer; None if there is none yet."""
        need = self._needed()
        if need > LARGEST_MESSAGE + 4:
            raise CodecError(f"a message of {need} bytes; {LARGEST_MESSAGE} are allowed")
        if len(self.buffer) < need:
            return None
        message = bytes(self.buffer[4:need])
        del self.buffer[:need]
        return message

    def _needed(self) -> int:
        """Bytes of the first message with its length, as far as known."""
        return 4 if len(self.buffer) < 4 else 4 + int.from_bytes(self.buffer[:4], "big")

    def _read_piece(self) -> None:
        try:
            piece = self.ours.recv(1 << 16 if self._needed() < 1 << 16 else 1 << 20, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            raise EOFError("the job has closed its channel")
        self.buffer += piece


class TimeLimit:
    """When the time of a job is over: ``seconds`` of processor time more than ``used``.

    On a busy machine the job gets up to ``patience`` seconds by the clock. A job that is asleep when
    ``seconds`` have passed by the clock, and has done nothing by the second look, is stopped then."""

    def __init__(
        self,
        zygote: ZygoteHandle,
        job: int,
        seconds: float,
        used: float = 0.0,
        judge: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.zygote = zygote
        self.jobs = (job,) if judge is None else (job, judge)
        self.seconds = seconds
        self.used = used
        self.clock = clock
        self.begun = clock()
        self.times_asleep: list[float] = []  # processor times at a first look that found all asleep

    def remaining(self) -> float:
        """How many seconds to wait until the next look; 0 when the time is over."""
        usages = [self.zygote.usage(job) for job in self.jobs]
        times = [used for used, _ in usages]
        passed = self.clock() - self.begun
        left = min(self.seconds - (times[0] - self.used), patience(self.seconds) - passed)
        if left <= 0:
            return 0.0
        if passed < self.seconds or not all(asleep for _, asleep in usages):
            self.times_asleep = []
            return max(left, 0.01)
        if self.times_asleep and self._worked(times) < WORKED_SECONDS:
            return 0.0
        self.times_asleep = times
        return SECOND_LOOK_SECONDS

    def _worked(self, times: list[float]) -> float:
        """The most processor time that one of the jobs has used since the first look."""
        return max(now - then for now, then in zip(times, self.times_asleep, strict=True))


def patience(seconds: float) -> float:
    """How long a job with ``seconds`` of processor time may take by the clock if it is awake."""
    return 4 * seconds + 1
