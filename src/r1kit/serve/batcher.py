"""One thread decodes; requests of other threads wait in a bounded queue, join the running batch between
tokens, and leave it when they have ended or their client has gone."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from r1kit.config import R1kitError
from r1kit.engine.live import Asked, Drawn, LiveBatch
from r1kit.engine.requests import LIVE

# The kernels return after about this many seconds of this thread's work, and after at most this many tokens a
# rollout, so that others can join and tokens are sent: a call for every token of a fast model would cost more
# than the token. Time in which other processes have the processor does not count, or a busy machine would pay
# for more calls.
_SECONDS_AT_ONCE, _MOST_STEPS = 0.03, 16
_MOST_WAIT = 60  # seconds of a Retry-After

News = Drawn | R1kitError


class QueueFullError(R1kitError):
    """Too many rollouts wait; ``retry_after`` seconds may be enough."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"{waiting} completions wait already; try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass(eq=False, slots=True)
class Ticket:
    """A rollout that waits or runs. ``deliver`` gets what it draws, until it is dropped; it is called in the
    thread that ``Batcher.post`` calls things in."""

    asked: Asked
    deliver: Callable[[News], None]
    begun: float = 0.0
    dropped: bool = False
    ended: bool = False


class Batcher:
    """The running batch. ``open_batch`` makes one in the decoding thread; ``post`` runs a function in the
    thread that asks; at most ``queue`` rollouts wait, besides those for which a row is free."""

    def __init__(
        self, open_batch: Callable[[], LiveBatch], rows: int, queue: int,
        post: Callable[[Callable[[], None]], None],
    ) -> None:  # fmt: skip
        self._open_batch, self._rows, self._queue, self._post = open_batch, rows, queue, post
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._running: dict[int, Ticket] = {}
        self._joining: list[Ticket] = []  # neither waiting nor running yet
        self._closed = False
        self._batch: LiveBatch | None = None
        self._reused_before = 0
        self._step_seconds = _SECONDS_AT_ONCE
        self._row_seconds = 1.0
        self.tokens, self.prompt_tokens = 0, 0  # in all
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rollouts that wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Rollouts in the batch."""
        return len(self._running)

    @property
    def alive(self) -> bool:
        """Whether the decoding thread runs."""
        return self._thread.is_alive()

    @property
    def reused(self) -> int:
        """Prompt tokens that were known from an earlier prompt, in all."""
        return self._reused_before + (self._batch.reused if self._batch else 0)

    def submit(self, asked: Sequence[Asked], deliver: Callable[[int, News], None]) -> list[Ticket]:
        """Let rollouts wait for the batch; ``deliver`` gets each one's place in ``asked`` and its news.
        Raises QueueFullError."""

        def to(place: int) -> Callable[[News], None]:
            return lambda news: deliver(place, news)

        tickets = [Ticket(one, to(place)) for place, one in enumerate(asked)]
        with self._changed:
            waiting = len(self._waiting)
            taken = len(self._running) + len(self._joining)
            if waiting + len(asked) > self._queue + self._rows - taken:
                seconds = self._row_seconds * (waiting + len(asked)) / self._rows
                raise QueueFullError(waiting, min(_MOST_WAIT, max(1, math.ceil(seconds))))
            self._waiting.extend(tickets)
            self._changed.notify()
        return tickets

    def drop(self, tickets: Iterable[Ticket]) -> None:
        """Let rollouts leave; those that have ended are left alone."""
        tickets = [ticket for ticket in tickets if not ticket.ended]
        if not tickets:
            return
        with self._changed:
            for ticket in tickets:
                ticket.dropped = True
            self._waiting = deque(ticket for ticket in self._waiting if not ticket.dropped)
            self._changed.notify()

    def close(self) -> None:
        """End the thread; what waits or runs gets an error."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        while self._wait():
            try:
                self._turn()
            except (
                R1kitError
            ) as error:  # the model's numbers, or the memory: the batch is lost, not the server
                self._fail(error)
            except Exception as error:  # whatever the engine raises: those who wait must not wait for ever
                self._fail(R1kitError(f"the engine failed: {type(error).__name__}: {error}"))
        self._fail(R1kitError("the server is shutting down"))

    def _wait(self) -> bool:
        """Wait until there is work; return False when there is none to come."""
        with self._changed:
            while not (self._waiting or self._running or self._closed):
                self._changed.wait()
            return not self._closed

    def _turn(self) -> None:
        """Let rollouts leave and join, then draw some tokens for all."""
        if self._batch is None:
            self._batch = self._open_batch()
        batch = self._batch
        self._leave(batch, [place for place, ticket in self._running.items() if ticket.dropped])
        self._join(batch)
        if not self._running:
            return
        steps = max(1, min(_MOST_STEPS, round(_SECONDS_AT_ONCE / max(self._step_seconds, 1e-6))))
        begun = time.thread_time()
        batch.step(steps)
        self._step_seconds += 0.2 * ((time.thread_time() - begun) / steps - self._step_seconds)
        self._collect(batch, list(self._running))

    def _join(self, batch: LiveBatch) -> None:
        """Let those that wait join, as many as fit: at once, so that their prompts are computed together."""
        with self._changed:
            first = list(islice(self._waiting, self._rows))
            self._joining = first[: batch.fitting([ticket.asked for ticket in first])]
            for _ in self._joining:
                self._waiting.popleft()
        if not self._joining:
            return
        now = time.perf_counter()
        places = batch.join([ticket.asked for ticket in self._joining])
        with self._changed:
            self._running.update(zip(places, self._joining, strict=True))
            joined, self._joining = self._joining, []
        for ticket in joined:
            ticket.begun = now
            self.prompt_tokens += len(ticket.asked.prompt)

    def _collect(self, batch: LiveBatch, places: Sequence[int]) -> None:
        """Deliver what was drawn; let those leave that have ended."""
        news: list[tuple[Ticket, News]] = []
        ended = []
        for place in places:
            drawn, ticket = batch.drawn(place), self._running[place]
            if len(drawn.token_ids) or drawn.state != LIVE:
                news.append((ticket, drawn))
            if drawn.state != LIVE:
                ended.append(place)
                self._row_seconds += 0.1 * (time.perf_counter() - ticket.begun - self._row_seconds)
        self.tokens += sum(len(drawn.token_ids) for _, drawn in news if isinstance(drawn, Drawn))
        self._leave(batch, ended)
        self._send(news)

    def _leave(self, batch: LiveBatch, places: Sequence[int]) -> None:
        if places:
            batch.leave(places)
            for place in places:
                del self._running[place]

    def _fail(self, error: R1kitError) -> None:
        """Give everything that waits or runs an error, and forget the batch."""
        with self._changed:
            lost = [*self._running.values(), *self._joining, *self._waiting]
            self._waiting.clear()
        self._joining = []
        self._running.clear()
        if self._batch is not None:
            self._reused_before += self._batch.reused
            self._batch.close()
            self._batch = None
        self._send([(ticket, error) for ticket in lost])

    def _send(self, news: Sequence[tuple[Ticket, News]]) -> None:
        def deliver() -> None:
            for ticket, one in news:
                ticket.ended = ticket.ended or not isinstance(one, Drawn) or one.state != LIVE
                if not ticket.dropped:
                    ticket.deliver(one)

        if news:
            self._post(deliver)
