"""Bring a learner's weights to an engine that has weights of its own, as one operation with one deadline.

    pause    the engine ends what it is sampling, and begins no more
    gather   the learner yields its weights under the names of a model folder, a bucket at a time
    stream   the engine receives the bucket
    load     the engine loads what it received, forgets what older weights computed, then takes the version
    check    the engine says what it has loaded: the version, and how many tensors and bytes
    resume   in any case

The steps run in a thread of their own, because each of them may wait for another process. When the deadline
passes, or a step fails, the engine is asked to abort and the error names the step. A thread that wakes up
after that does no further step. The next hand-over begins at the first step.

At no time is more than one bucket held in addition to the model."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from torch import Tensor

from r1kit.config import R1kitError
from r1kit.engine import Engine, Receiver
from r1kit.watchdog import HungError, print_stacks

BUCKET_BYTES = 1 << 28
GRACE_S = 30.0  # for an engine to abort, and then to resume, after a failure

_DOING = {
    "pause": "the engine ended what it was sampling",
    "gather": "the learner gathered its weights",
    "stream": "the weights went to the engine",
    "load": "the engine loaded the weights",
    "check": "the engine was asked what it had loaded",
    "resume": "the engine was to sample again",
}

Named = Iterable[tuple[str, Tensor]]


class ReceivingEngine(Engine, Receiver, Protocol):
    """An engine with weights of its own."""


class _GivenUpError(Exception):
    """The hand-over has ended without this thread."""


class _Steps:
    """Which step is being done. ``give_up`` ends the hand-over: no further step begins."""

    def __init__(self) -> None:
        self.name = "pause"
        self._given_up = False

    def begin(self, name: str) -> None:
        if self._given_up:
            raise _GivenUpError
        self.name = name

    def give_up(self) -> None:
        self._given_up = True


def buckets(named: Named, bucket_bytes: int = BUCKET_BYTES) -> Iterator[dict[str, Tensor]]:
    """The tensors in groups of at most ``bucket_bytes``; a larger tensor is a group of its own."""
    bucket: dict[str, Tensor] = {}
    filled = 0
    for name, tensor in named:
        if bucket and filled + tensor.nbytes > bucket_bytes:
            yield bucket
            bucket, filled = {}, 0
        bucket[name] = tensor
        filled += tensor.nbytes
    if bucket:
        yield bucket


def hand_over(
    gather: Callable[[], Named],
    engine: ReceivingEngine,
    version: int,
    deadline_s: float,
    bucket_bytes: int = BUCKET_BYTES,
) -> None:
    """Bring the weights that ``gather`` yields to ``engine``, which then has ``version``.

    Raises HungError naming the step that was not done within ``deadline_s`` seconds, and R1kitError naming
    the one that failed. The engine then samples again with the weights that it had, if it still has any."""
    steps = _Steps()
    try:
        _in_a_thread(
            lambda: _carry_out(steps, gather, engine, version, bucket_bytes),
            deadline_s,
            lambda: f"hand-over of version {version} to the engine, while {_DOING[steps.name]}",
        )
    except BaseException as error:
        steps.give_up()
        for repair in (engine.abort, engine.resume):
            with contextlib.suppress(Exception):  # the first error is the one to raise
                _in_a_thread(repair, GRACE_S, lambda: "the engine after a hand-over that failed")
        if isinstance(error, HungError) or not isinstance(error, Exception):
            raise
        raise _failed(error, steps.name, version) from error
    steps.begin("resume")
    try:
        _in_a_thread(
            engine.resume, GRACE_S, lambda: f"hand-over of version {version}, while {_DOING['resume']}"
        )
    except HungError:
        raise
    except Exception as error:
        raise _failed(error, "resume", version) from error


def _carry_out(
    steps: _Steps, gather: Callable[[], Named], engine: ReceivingEngine, version: int, bucket_bytes: int
) -> None:
    with contextlib.suppress(_GivenUpError):
        engine.pause()
        sent = [0, 0]
        steps.begin("gather")
        for bucket in buckets(gather(), bucket_bytes):
            steps.begin("stream")
            sent = [sent[0] + len(bucket), sent[1] + sum(tensor.nbytes for tensor in bucket.values())]
            engine.receive(bucket)
            del bucket  # before the next one is gathered
            steps.begin("gather")
        steps.begin("load")
        engine.apply(version)
        steps.begin("check")
        tensors, size = engine.received()
        if (tensors, size) != tuple(sent):
            raise R1kitError(
                f"the engine loaded {tensors} tensors of {size} bytes, and {sent[0]} of {sent[1]} were sent"
            )
        if engine.version != version:
            raise R1kitError(f"the engine says that it has version {engine.version}, not {version}")


def _failed(error: Exception, step: str, version: int) -> R1kitError:
    why = str(error) if isinstance(error, R1kitError) else f"{type(error).__name__}: {error}"
    return R1kitError(f"the hand-over of version {version} to the engine failed while {_DOING[step]}: {why}")


def _in_a_thread(call: Callable[[], None], seconds: float, what: Callable[[], str]) -> None:
    """Call and wait; raise what it raises. Raises HungError where it takes longer than ``seconds``; the
    thread is then left behind."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, name="hand-over", daemon=True)
    thread.start()
    end = time.monotonic() + seconds
    while thread.is_alive() and (left := end - time.monotonic()) > 0:
        thread.join(min(left, 1.0))  # short waits: a signal is handled between them
    if thread.is_alive():
        print_stacks(what())
        raise HungError(
            f"{what()}: not done within {seconds:g} s (stacks above); the same command continues the run"
        )
    if raised:
        raise raised[0]
