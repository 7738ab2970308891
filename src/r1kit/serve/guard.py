"""What every request has to pass before it is read: the name of the host, the page that sent it, the token,
and its size. A page of another site in the user's browser can reach this machine's ports, also under a name
of its own that it lets point here; it cannot choose the headers Host and Origin.

This file speaks ASGI and imports no framework. The log has method, path and status of a request, and nothing
that it carries."""

import asyncio
import hmac
import ipaddress
import json
import os
import socket
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any

from r1kit.serve.errors import CLIENT_GONE, ApiError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "r1kit_token"
_LOCAL = frozenset(("localhost", "127.0.0.1", "::1"))


@dataclass(frozen=True, slots=True)
class Access:
    """Who may send requests: to the address ``host``, with ``token`` unless it is empty."""

    host: str = "127.0.0.1"
    token: str = ""

    def check(self, headers: dict[str, str]) -> None:
        """Raise ApiError for a request that may not be answered."""
        host = headers.get("host", "")
        if not self._is_ours(host_name(host)):
            raise ApiError(403, "this server does not answer to that name (header Host)", code="bad_host")
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            raise ApiError(403, "pages of other sites may not ask (header Origin)", code="bad_origin")
        if self.token and not hmac.compare_digest(_carried(headers).encode(), self.token.encode()):
            raise ApiError(
                401, "this request lacks the server's token: Authorization: Bearer TOKEN", code="bad_token"
            )

    def _is_ours(self, name: str) -> bool:
        if name in _LOCAL or name == self.host.lower():
            return True
        # Only a name can be made to point here by another site, an address cannot.
        return not is_loopback(self.host) and (_is_address(name) or name == socket.gethostname().lower())


def host_name(header: str) -> str:
    """The host of a header Host, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower() if header.count(":") == 1 else header.lower()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _carried(headers: dict[str, str]) -> str:
    """The token of a request, from its header or cookie."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return cookie.value if cookie else ""


class Guard:
    """The application ``app`` for requests that pass. ``paths`` are those that a log line may have; ``log``
    gets a line for each request, and ``count`` its path, status and seconds."""

    def __init__(
        self, app: App, access: Access, largest_body: int, paths: frozenset[str],
        log: Callable[[str], None], count: Callable[[str, int, float], None],
    ) -> None:  # fmt: skip
        self._app, self._access, self._largest = app, access, largest_body
        self._paths, self._log, self._count = paths, log, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:  # there are no web sockets
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun, status = time.perf_counter(), 0

        async def noted(sent: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = sent.get("status", status)
            await send(sent)

        try:
            self._check(scope)
            await self._app(scope, receive, noted)
        except ApiError as error:
            await send_error(error, noted)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # a boundary: the server goes on
            self._log(_where(error))
            if not status:
                await send_error(ApiError(500, "an error of the server; its log says where"), noted)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "(other)"
            seconds = time.perf_counter() - begun
            self._count(path, status, seconds)
            method = scope["method"] if scope["method"] in ("GET", "POST") else "(other)"
            self._log(f"{method} {path} {status or 'gone'} {seconds:.3f} s")

    def _check(self, scope: Scope) -> None:
        headers: dict[str, str] = {}
        for key, value in scope["headers"]:
            name = key.decode("latin-1").lower()
            if name in ("host", "origin", "content-length") and name in headers:
                raise ApiError(400, f"the header {name} is there twice")
            headers[name] = value.decode("latin-1")
        self._access.check(headers)
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length[:20]) > self._largest:
            raise too_large(self._largest)


def too_large(most: int) -> ApiError:
    """The error for a body that is too large."""
    return ApiError(413, f"the body has more than {most} bytes", code="body_too_large")


async def read_body(receive: Receive, most: int, seconds: float) -> bytes:
    """The body of a request. Raises ApiError for one that is too large or too slow."""
    content = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                got = await receive()
                if got["type"] != "http.request":
                    raise ApiError(CLIENT_GONE, "the client has gone")
                content += got.get("body", b"")
                if len(content) > most:
                    raise too_large(most)
                if not got.get("more_body"):
                    return bytes(content)
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {seconds:g} s") from None


async def send_error(error: ApiError, send: Send) -> None:
    """Send an error as the whole answer, and close the connection: the rest of the body is not read."""
    body = json.dumps(error.body()).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **{key.lower(): value for key, value in error.headers.items()},
    }
    if error.status in (403, 408, 413):
        headers["connection"] = "close"
    pairs = [(key.encode(), value.encode()) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _where(error: Exception) -> str:
    """An unexpected error for the log: its kind and place. Its text may have words of a request in it."""
    if os.environ.get("R1KIT_DEBUG"):
        return "".join(traceback.format_exception(error)).rstrip()
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "?"
    return f"unexpected {type(error).__name__} at {place} (R1KIT_DEBUG=1 shows more)"
