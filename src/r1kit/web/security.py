"""Who may ask the pages: a gate in front of every request and every web socket.

By default only this machine can connect, and a page of another site that the same browser has open must not
read a run through it: the Host has to be this machine (a foreign name that resolves to it is refused), and an
Origin has to be the page's own. Where the pages are for other machines (``--host``), every request needs the
token that was printed, as a cookie, as "Authorization: Bearer", or once as ?token=, which sets the cookie.

Answers carry a policy that lets the browser load nothing from elsewhere."""

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

LOCAL = frozenset(("127.0.0.1", "localhost", "::1"))
COOKIE = "r1kit_ui"
LARGEST_BODY = 1 << 20  # bytes; the pages send clicks and short texts
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
        b"form-action 'self'; frame-ancestors 'none'",
    ),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


def is_local(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    return host in LOCAL


def new_token() -> str:
    return secrets.token_urlsafe(24)


class Gate:
    """An ASGI application in front of another one. ``hosts`` are the names that this machine is asked by, and
    ``token`` is what every request has to carry; without one the connection has to be local."""

    def __init__(self, app: App, hosts: frozenset[str] = LOCAL, token: str | None = None) -> None:
        self.app, self.hosts, self.token = app, hosts, token

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refused = self.refusal(scope)
        if refused is not None:
            await _refuse(scope, send, *refused)
        elif scope["type"] == "http" and self._brings_token(scope):
            await self._welcome(scope, send)
        else:
            await self.app(scope, _bounded(receive), _with_headers(send))

    def refusal(self, scope: Message) -> tuple[int, str] | None:
        """Status and reason why a request is refused; None where it may pass."""
        headers = _headers_of(scope)
        host = headers.get("host", "")
        if self.token is None and _name_of(host) not in self.hosts:
            return 403, "this Host is not served; open http://127.0.0.1"
        if "origin" in headers and urlsplit(headers["origin"]).netloc.lower() != host.lower():
            return 403, "requests from other sites are not served"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > LARGEST_BODY:
            return 413, "the request is too large"
        if self.token is not None and not (self._has_token(headers) or self._brings_token(scope)):
            return 401, "open the address with the token that r1kit ui printed"
        return None

    def _has_token(self, headers: dict[str, str]) -> bool:
        given = [headers.get("authorization", "").removeprefix("Bearer ")]
        for cookie in headers.get("cookie", "").split(";"):
            name, _, value = cookie.strip().partition("=")
            given += [value] if name == COOKIE else []
        return any(self._is_token(one) for one in given)

    def _brings_token(self, scope: Message) -> bool:
        query = parse_qs(bytes(scope.get("query_string", b"")).decode("latin-1"))
        return any(self._is_token(one) for one in query.get("token", []))

    def _is_token(self, given: str) -> bool:
        return self.token is not None and secrets.compare_digest(given.encode(), self.token.encode())

    async def _welcome(self, scope: Message, send: Send) -> None:
        """Keep the token in a cookie, and take it out of the address."""
        path = "/" + str(scope.get("path", "/")).lstrip("/")
        cookie = f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/"
        headers = [(b"location", path.encode("latin-1", "ignore")), (b"set-cookie", cookie.encode())]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def _headers_of(scope: Message) -> dict[str, str]:
    """The headers by name; a Host or Origin that is given twice is none."""
    found: dict[str, str] = {}
    for name, value in scope.get("headers", []):
        key = bytes(name).decode("latin-1").lower()
        text = bytes(value).decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _name_of(host: str) -> str:
    """The name of a Host without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _bounded(receive: Receive) -> Receive:
    """Of a body without a stated length only the largest there may be is read; then its sender is gone."""
    left = LARGEST_BODY

    async def receiving() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b"")) if message["type"] == "http.request" else 0
        return message if left >= 0 else {"type": "http.disconnect"}

    return receiving


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
        await send(message)

    return sending


async def _refuse(scope: Message, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})
