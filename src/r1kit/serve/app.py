"""The application and its server: the only file that imports a web framework (the extra ``serve``)."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Router
from starlette.types import Receive, Scope, Send
from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from r1kit.serve.answering import Answering, Prompt, event, start_batcher
from r1kit.serve.batcher import Batcher
from r1kit.serve.bodies import Body, ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from r1kit.serve.errors import ApiError
from r1kit.serve.guard import Access, Guard, read_body
from r1kit.serve.served import Limits, Served, tops_of

POSTS = ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize")
GETS = ("/v1/models", "/health", "/metrics")
PATHS = frozenset((*POSTS, *GETS))
_GRACE = 5  # seconds that running answers have when the server stops
Log = Callable[[str], None]
T = TypeVar("T")


class Figures(Collector):
    """What ``/metrics`` shows."""

    def __init__(self, batcher: Callable[[], Batcher]) -> None:
        self._batcher = batcher
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._requests = Counter("r1kit_requests", "Requests", ["path", "status"], registry=self.registry)
        self._seconds = Histogram(
            "r1kit_request_seconds", "Time of a request", ["path"], registry=self.registry
        )
        self.first_token = Histogram(
            "r1kit_first_token_seconds", "To the first token", registry=self.registry
        )

    def collect(self) -> Iterator[Metric]:
        """The batch's own figures."""
        batcher = self._batcher()
        yield GaugeMetricFamily("r1kit_running", "Completions in the batch", batcher.running)
        yield GaugeMetricFamily("r1kit_waiting", "Completions that wait", batcher.waiting)
        yield CounterMetricFamily("r1kit_tokens", "Tokens sampled", batcher.tokens)
        yield CounterMetricFamily("r1kit_prompt_tokens", "Tokens of prompts", batcher.prompt_tokens)
        yield CounterMetricFamily("r1kit_reused_prompt_tokens", "Not computed again", batcher.reused)

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count a request; status 0: its client has gone."""
        self._requests.labels(path, str(status or "gone")).inc()
        self._seconds.labels(path).observe(seconds)


class Streamed(Response):
    """An answer that is sent as it comes, and given up when its client goes. It begins with the first piece,
    so that an error before it has its own status."""

    media_type = "text/event-stream"

    def __init__(self, answering: Answering, seconds: float) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._answering, self._seconds = answering, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        answering, started = self._answering, False
        try:
            with leaving(receive, answering.leave):
                async with asyncio.timeout(self._seconds), aclosing(answering.events()) as events:
                    async for piece in events:
                        if not started:
                            await self._start(send)
                            started = True
                        await self._send(send, piece, not answering.is_complete)
        except (ApiError, TimeoutError) as error:
            known = error if isinstance(error, ApiError) else cut_off(self._seconds)
            if not started:
                raise known from None
            await self._send(send, event(known.body()), False)
        finally:
            answering.close()

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

    @staticmethod
    async def _send(send: Send, piece: bytes, more: bool) -> None:
        await send({"type": "http.response.body", "body": piece, "more_body": more})


def cut_off(seconds: float) -> ApiError:
    """The error for an answer that takes too long."""
    return ApiError(504, f"cut off after {seconds:g} s; ask for a stream and for fewer tokens")


@contextmanager
def leaving(receive: Receive, left: Callable[[], None]) -> Iterator[None]:
    """Call ``left`` when the client goes."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            left()

    task = asyncio.ensure_future(_goes(receive))
    task.add_done_callback(ended)
    try:
        yield
    finally:
        task.cancel()


async def _goes(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Service:
    """A served model with its batch and its two threads for work that takes long: texts to ids, and the
    log-probabilities of given texts."""

    def __init__(self, served: Served, log: Log) -> None:
        self.served, self.limits, self.log = served, served.limits, log
        self.figures = Figures(lambda: self.batcher)
        self._scoring = 0  # texts that wait for their log-probabilities

    @asynccontextmanager
    async def running(self, _app: Any = None) -> AsyncIterator[None]:
        """While the server runs."""
        with ThreadPoolExecutor(1) as self._texts, ThreadPoolExecutor(1) as self._scorer:
            self.most_tops = self.served.engine.most_tops
            self.batcher = start_batcher(self.served, asyncio.get_running_loop())
            try:
                yield
            finally:
                self.batcher.close()

    async def body(self, request: Request) -> bytes:
        """The body of a request."""
        return await read_body(request.receive, self.limits.body, self.limits.patience)

    async def chat(self, request: Request) -> Response:
        """``/v1/chat/completions``."""
        body = ChatBody.read(await self.body(request))
        self.served.check_name(body.model)
        turns = [one.turn() for one in body.messages]
        prompt = self.served.quick_prompt(turns, body.thinking)
        if prompt is None:
            prompt = await self._in(self._texts, self.served.chat_prompt, turns, body.thinking)
        ids, begun = prompt
        return await self._answered(request, body, [Prompt(ids, begun)])

    async def complete(self, request: Request) -> Response:
        """``/v1/completions``."""
        body = CompletionBody.read(await self.body(request))
        self.served.check_name(body.model)
        if body.echo and body.stream:
            raise ApiError(400, "echo: not with stream", "echo")
        ids = await self._in(self._texts, lambda: [self.served.text_prompt(one) for one in body.prompts])
        return await self._answered(request, body, await self._scored(body, ids))

    async def _scored(self, body: CompletionBody, prompts: Sequence[Any]) -> list[Prompt]:
        """The prompts, with their log-probabilities where they are echoed with them."""
        if not body.echo or body.logprobs is None:
            return [Prompt(ids, echo=body.echo) for ids in prompts]
        longest = max(map(len, prompts))
        if longest > self.served.context or min(map(len, prompts)) < 1:
            raise ApiError(
                400, f"prompt: 1 to {self.served.context} tokens", "prompt", "context_length_exceeded"
            )
        if self._scoring and self._scoring + len(prompts) > self.limits.queue:
            raise ApiError(429, f"{self._scoring} texts wait already", code="queue_full", retry_after=2)
        given = self.served.sampling.temperature if body.temperature is None else body.temperature
        self._scoring += len(prompts)
        try:
            return [
                Prompt(
                    ids, "", await self._in(self._scorer, self.served.score, ids, given, tops_of(body)), True
                )
                for ids in prompts
            ]
        finally:
            self._scoring -= len(prompts)

    async def _answered(self, request: Request, body: Body, prompts: Sequence[Prompt]) -> Response:
        answering = Answering(
            self.served, self.batcher, body, prompts, self.most_tops, self.figures.first_token.observe
        )
        if body.stream:
            return Streamed(answering, self.limits.seconds)
        try:
            with leaving(request.receive, answering.leave):
                async with asyncio.timeout(self.limits.seconds):
                    return JSONResponse(await answering.whole())
        except TimeoutError:
            raise cut_off(self.limits.seconds) from None
        finally:
            answering.close()

    async def tokenize(self, request: Request) -> Response:
        """``/tokenize``."""
        body = TokenizeBody.read(await self.body(request))
        self.served.check_name(body.model)

        def ids() -> list[int]:
            if body.messages:
                return list(self.served.chat_prompt([m.turn() for m in body.messages], None)[0].tolist())
            return list(self.served.text_prompt(body.prompt or "", body.add_special_tokens).tolist())

        found = await self._in(self._texts, ids)
        texts = [self.served.tokenizer.decode_all([one]) for one in found] if body.return_token_strs else None
        return JSONResponse(
            {"tokens": found, "count": len(found), "max_model_len": self.served.context, "token_strs": texts}
        )

    async def detokenize(self, request: Request) -> Response:
        """``/detokenize``."""
        body = DetokenizeBody.read(await self.body(request))
        self.served.check_name(body.model)
        ids = self.served.text_prompt(body.tokens)
        return JSONResponse({"prompt": self.served.tokenizer.decode_all(ids)})

    async def models(self, _request: Request) -> Response:
        """``/v1/models``."""
        served = self.served
        card = {
            "id": served.name, "object": "model", "created": 0, "owned_by": "r1kit",
            "max_model_len": served.context,
        }  # fmt: skip
        return JSONResponse({"object": "list", "data": [card]})

    async def health(self, _request: Request) -> Response:
        """``/health``."""
        alive = self.batcher.alive
        state = {"status": "ok" if alive else "the decoding thread has ended"}
        return JSONResponse(state, status_code=200 if alive else 503)

    async def metrics(self, _request: Request) -> Response:
        """``/metrics``."""
        return Response(generate_latest(self.figures.registry), media_type=CONTENT_TYPE_LATEST)

    async def _in(self, executor: Executor, work: Callable[..., T], *given: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(executor, work, *given)


class Paths:
    """Requests to their handlers by method and path; the beginning and end of the server to a router."""

    def __init__(self, service: Service) -> None:
        posts = (service.chat, service.complete, service.tokenize, service.detokenize)
        gets = (service.models, service.health, service.metrics)
        self._handlers = {
            **{("POST", path): handler for path, handler in zip(POSTS, posts, strict=True)},
            **{("GET", path): handler for path, handler in zip(GETS, gets, strict=True)},
        }
        self._router = Router(lifespan=service.running)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the server's life. Raises ApiError."""
        if scope["type"] == "lifespan":
            await self._router(scope, receive, send)
            return
        handler = self._handlers.get((scope["method"], scope["path"]))
        if handler is None:
            status, what = (405, "Method Not Allowed") if scope["path"] in PATHS else (404, "Not Found")
            raise ApiError(status, f"{what}: see /v1/models, and docs/serve.md for the rest")
        response = await handler(Request(scope, receive))
        await response(scope, receive, send)


def make_app(served: Served, access: Access, log: Log) -> Guard:
    """The guarded application that serves a model."""
    service = Service(served, log)
    return Guard(Paths(service), access, served.limits.body, PATHS, log, service.figures.count)


def patient_protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, which closes a connection whose request does not begin in time, and connections
    beyond the most that there may be."""

    class Patient(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._expect()
            if len(self.connections) > limits.connections:
                transport.close()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._expect()

        def on_headers_complete(self) -> None:
            self._stop()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _expect(self) -> None:
            self._stop()
            self._timer = self.loop.call_later(limits.patience, self.transport.close)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()

    return Patient


def make_server(served: Served, access: Access, port: int, log: Log) -> Server:
    """The server, which ``run`` starts."""
    app = make_app(served, access, log)
    return Server(
        Config(
            app,
            host=access.host,
            port=port,
            http=patient_protocol(served.limits),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(served.limits.patience),
            timeout_graceful_shutdown=_GRACE,
            backlog=served.limits.connections,
        )
    )


def log_to_stderr(line: str) -> None:
    """Write a line of the log."""
    print(line, file=sys.stderr, flush=True)
