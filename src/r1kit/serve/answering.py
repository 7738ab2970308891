"""A request from its prompts to its answer, whole or as a stream."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from r1kit.engine.live import Asked, Drawn, LiveBatch, ended
from r1kit.serve.batcher import Batcher, News, QueueFullError, Ticket
from r1kit.serve.bodies import Body, ChatBody, CompletionBody
from r1kit.serve.errors import CLIENT_GONE, ApiError
from r1kit.serve.served import Scored, Served, finish_of, tops_of, wants_logprobs
from r1kit.serve.shapes import (
    Choice,
    Json,
    Step,
    Usage,
    chat_logprobs,
    delta,
    first_of,
    message,
    text_logprobs,
)
from r1kit.serve.text import merged


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's ids, the text that its completions have begun with, and its own log-probabilities where they
    are wanted."""

    ids: np.ndarray
    begun: str = ""
    scored: Scored | None = None
    echo: bool = False


class Answering:
    """The completions of one request, waiting or running from the start on. Raises ApiError where the queue
    is full; ``close`` gives back what it holds."""

    def __init__(
        self, served: Served, batcher: Batcher, body: Body, prompts: Sequence[Prompt], most_tops: int,
        on_first: Callable[[float], None],
    ) -> None:  # fmt: skip
        self.served, self.batcher, self.body, self.prompts = served, batcher, body, prompts
        self._n = body.n or 1
        self.seed = secrets.randbits(64) if body.seed is None else body.seed
        self._begun, self._on_first = time.perf_counter(), on_first  # gets the seconds to the first token
        self._has_token = False
        self._news: list[tuple[int, News]] = []
        self._awaited: asyncio.Future[None] | None = None  # of who waits for news
        self.is_left = False  # whether the client has gone
        self.is_complete = False  # whether ``events`` has given the last
        self._writers = [served.writer(body, prompt.begun) for prompt in prompts for _ in range(self._n)]
        self._tops = tops_of(body)
        served.check_tops(self._tops, most_tops)
        self._tickets = self._submitted()
        self._head: Json = {
            "id": f"{'chatcmpl' if self.is_chat else 'cmpl'}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": served.name,
        }

    def _submitted(self) -> list[Ticket]:
        if self.body.max_tokens == 0 and isinstance(self.body, CompletionBody) and self.body.echo:
            return []  # only the prompts' log-probabilities are wanted
        asked: list[Asked] = []
        for prompt in self.prompts:
            asked += self.served.asked(prompt.ids, self.body, self.seed, self._tops)
        most = self.served.limits.rows + self.served.limits.queue
        if len(asked) > most:
            raise ApiError(400, f"n: at most {most} completions in one request", "n")
        try:
            return self.batcher.submit(asked, self._deliver)
        except QueueFullError as error:
            raise ApiError(429, str(error), code="queue_full", retry_after=error.retry_after) from None

    @property
    def is_chat(self) -> bool:
        """Whether it is a conversation."""
        return isinstance(self.body, ChatBody)

    def close(self) -> None:
        """Leave the queue and the batch."""
        self.batcher.drop(self._tickets)

    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(
            sum(len(prompt.ids) for prompt in self.prompts),
            sum(writer.tokens for writer in self._writers),
            sum(writer.reasoning_tokens for writer in self._writers),
        )

    def _deliver(self, place: int, news: News) -> None:
        self._news.append((place, news))
        self._wake()

    def _wake(self) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)

    def leave(self) -> None:
        """The client has gone: nothing more comes."""
        self.is_left = True
        self._wake()

    async def steps(self) -> AsyncGenerator[Step, None]:
        """What the choices get, as it comes. Raises ApiError where the engine fails."""
        async with aclosing(self._rounds()) as rounds:
            async for steps in rounds:
                for step in steps:
                    yield step

    async def _rounds(self) -> AsyncGenerator[list[Step], None]:
        """The steps that come at a time. Raises ApiError where the engine fails or the client has gone."""
        begun = [(index, writer.start()) for index, writer in enumerate(self._writers)]
        if any(parts for _, parts in begun):
            yield [Step(index, parts) for index, parts in begun if parts]
        left = set(range(len(self._tickets)))
        while left:
            found = []
            for index, news in await self._taken():
                if not isinstance(news, Drawn):
                    raise ApiError(500, str(news), code="engine_failed")
                if index in left:
                    found.append(self._step(index, news))
                    if found[-1].finish is not None:
                        left.remove(index)
            yield found

    async def _taken(self) -> list[tuple[int, News]]:
        """The news, once there are some."""
        if not self._news and not self.is_left:
            self._awaited = asyncio.get_running_loop().create_future()
            await self._awaited
        if self.is_left:
            raise ApiError(CLIENT_GONE, "the client has gone")
        if not self._has_token:
            self._on_first(time.perf_counter() - self._begun)
            self._has_token = True
        news, self._news = self._news, []
        return news

    def _step(self, index: int, drawn: Drawn) -> Step:
        writer = self._writers[index]
        taken, parts = writer.write(drawn.token_ids.tolist())
        if writer.finish is None and (state := ended(drawn.state)) is not None:
            parts = parts + writer.end(finish_of(state))
        elif writer.finish is not None and ended(drawn.state) is None:
            self.batcher.drop([self._tickets[index]])
        return Step(index, merged(parts), first_of(drawn, taken), writer.finish)

    async def whole(self) -> Json:
        """The whole answer."""
        choices = [Choice() for _ in self._writers]
        async for step in self.steps():
            choices[step.index].add(step)
        return {
            **self._head,
            "object": "chat.completion" if self.is_chat else "text_completion",
            "choices": [self._choice(index, choice) for index, choice in enumerate(choices)],
            "usage": self.usage().as_dict(),
        }

    def _choice(self, index: int, choice: Choice) -> Json:
        tokenizer, wanted = self.served.tokenizer, wants_logprobs(self.body)
        found: Json = {"index": index, "finish_reason": choice.finish or "length", "logprobs": None}
        if self.is_chat:
            logprobs = chat_logprobs(tokenizer, choice.drawn) if wanted else None
            return found | {"message": message(choice), "logprobs": logprobs}
        prompt = self.prompts[index // self._n]
        if wanted:
            ids = prompt.ids if prompt.echo else None
            found["logprobs"] = text_logprobs(tokenizer, ids, prompt.scored, choice.drawn, self._tops)
        echoed = tokenizer.decode_all(prompt.ids) if prompt.echo else ""
        return found | {"text": echoed + choice.texts["content"]}

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events, those that come together in one piece."""
        wanted = wants_logprobs(self.body)
        left, piece = len(self._tickets), b""
        if self.is_chat:
            for index in range(len(self._writers)):
                piece += self._event([self._piece(index, {"role": "assistant", "content": ""}, None, None)])
        async with aclosing(self._rounds()) as rounds:
            async for steps in rounds:
                for step in steps:
                    if step.parts or step.finish or (step.drawn is not None and wanted):
                        piece += self._event([self._streamed(step)])
                    left -= step.finish is not None
                if left and piece:
                    yield piece
                    piece = b""
        if self.body.stream_options is not None and self.body.stream_options.include_usage:
            piece += self._event([], usage=self.usage().as_dict())
        self.is_complete = True
        yield piece + b"data: [DONE]\n\n"

    def _streamed(self, step: Step) -> Json:
        tokenizer, drawn = self.served.tokenizer, [step.drawn] if step.drawn is not None else []
        wanted = wants_logprobs(self.body) and drawn
        if self.is_chat:
            logprobs = chat_logprobs(tokenizer, drawn) if wanted else None
            return self._piece(step.index, delta(step.parts), logprobs, step.finish)
        logprobs = text_logprobs(tokenizer, None, None, drawn, self._tops) if wanted else None
        text = "".join(text for _, text in step.parts)
        return {"index": step.index, "text": text, "logprobs": logprobs, "finish_reason": step.finish}

    @staticmethod
    def _piece(index: int, added: Json, logprobs: Json | None, finish: str | None) -> Json:
        return {"index": index, "delta": added, "logprobs": logprobs, "finish_reason": finish}

    def _event(self, choices: list[Json], **more: Json) -> bytes:
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        return event({**self._head, "object": kind, "choices": choices, **more})


def start_batcher(served: Served, loop: asyncio.AbstractEventLoop) -> Batcher:
    """Start the running batch of a model, whose news reach this event loop."""
    limits = served.limits

    def opened() -> LiveBatch:
        return served.engine.open(limits.rows, served.context, limits.memory)

    def post(call: Callable[[], None]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(call)

    return Batcher(opened, limits.rows, limits.queue, post)


def event(content: Json) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"
