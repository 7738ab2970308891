"""Requests to an OpenAI-compatible endpoint.

A request goes to the host that the recipe names and to no other: http or https only, no redirect is followed,
proxies in the environment are not used, and the certificate of an https host is checked. The key comes from
an environment variable, is sent in a header, and is cut from every error and reply."""

import contextlib
import http.client
import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from r1kit.addresses import CUT, Address, read_address, without_secrets
from r1kit.config import ConfigError, R1kitError

LONGEST_REPLY = 1 << 20  # bytes
FEWEST_HIDDEN = 4  # characters of a key, from which on it is cut from messages
DEFAULT_KEY = "OPENAI_API_KEY"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_AGAIN = (408, 429)  # of the 4xx: a later attempt may succeed


class _RefusedError(Exception):
    """The endpoint answered, and asking again would not help."""


def complete_chat(
    endpoint: str, body: Mapping[str, Any], key_variable: str, seconds: float, attempts: int = 3
) -> str:
    """Send a conversation to an OpenAI-compatible endpoint and return the reply's text; see ``ask``."""
    text, _ = ask(endpoint, "chat/completions", body, key_variable, seconds, attempts)
    return text


def chat_asker(
    endpoint: str, settings: Mapping[str, Any], key_variable: str, seconds: float, parallel: int
) -> Callable[[Sequence[str]], list[str | R1kitError]]:
    """A function that sends each question as a conversation of its own, so many at a time, with these further
    keys of the request; it returns the replies, and an error in the place of each that failed."""
    read_address(endpoint)

    def ask_one(question: str) -> str | R1kitError:
        body = {**settings, "messages": [{"role": "user", "content": question}]}
        try:
            return complete_chat(endpoint, body, key_variable, seconds)
        except R1kitError as error:
            return error

    def ask_all(questions: Sequence[str]) -> list[str | R1kitError]:
        with ThreadPoolExecutor(parallel) as threads:
            return list(threads.map(ask_one, questions))

    return ask_all


def ask(
    endpoint: str,
    path: Literal["chat/completions", "completions"],
    body: Mapping[str, Any],
    key_variable: str,
    seconds: float,
    attempts: int = 3,
) -> tuple[str, str]:
    """Send a request to an OpenAI-compatible endpoint and return the text of its answer, and why it ended
    ("" where that is not said). Raises R1kitError after ``attempts`` failures, ConfigError for an address or
    a key that cannot be used.

    ``seconds`` is the time limit of one attempt; a request that the endpoint rejects (HTTP 3xx, or 4xx other
    than 408 and 429) is not repeated."""
    address, key = read_address(endpoint), read_key(key_variable)
    content = json.dumps(body).encode()
    trouble = ""
    for attempt in range(attempts):
        try:
            text, ended = _content(_send(address, path, content, key, seconds))
            return _hidden(text, key), ended
        except _RefusedError as error:
            trouble = str(error)
            break
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            RecursionError,
            http.client.HTTPException,
        ) as error:
            trouble = f"{type(error).__name__}: {error}"
            if attempt + 1 < attempts:
                time.sleep(0.2 * 2**attempt)
    raise R1kitError(
        f"{endpoint}: no answer ({_hidden(without_secrets(trouble), key)}); is the server up, and are the "
        "model's name and the key right?"
    )


def check_variable(variable: str) -> None:
    """Raise ConfigError where this is no name of an environment variable. It may be a key that was written in
    its place, so it is not shown."""
    if not _VARIABLE.fullmatch(variable):
        raise ConfigError(
            "key_variable: write the name of an environment variable, such as OPENAI_API_KEY; the key itself "
            "does not belong into a recipe"
        )


def read_key(variable: str) -> str:
    """The key in an environment variable, empty where it is not set. Raises ConfigError for a name that is
    none, and for a key that no header can hold; the error does not show the key."""
    check_variable(variable)
    key = os.environ.get(variable, "")
    if not key.isascii() or any(not "!" <= character <= "~" for character in key):
        raise ConfigError(
            f"the key in the environment variable {variable} has a line break, a space or another character "
            "that no key has; set it again"
        )
    return key


def _hidden(text: str, key: str) -> str:
    return text.replace(key, CUT) if len(key) >= FEWEST_HIDDEN else text


def _send(address: Address, path: str, content: bytes, key: str, seconds: float) -> bytes:
    """One request and its reply, complete within ``seconds`` however slowly its bytes arrive, those of the
    headers too, and at most ``LONGEST_REPLY`` long."""
    deadline = time.monotonic() + seconds
    connection = _connect(address, seconds)
    # The library's own limit is for each piece: a byte every second keeps to it for ever.
    end = threading.Timer(seconds, _cut, [connection])
    end.daemon = True
    end.start()
    headers = {"Content-Type": "application/json", "Connection": "close", "User-Agent": "r1kit"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    try:
        connection.request("POST", f"{address.path.rstrip('/')}/{path}", content, headers)
        response = connection.getresponse()
        _check_status(response, address)
        received = bytearray()
        while piece := response.read1(1 << 16):
            received += piece
            if len(received) > LONGEST_REPLY:
                raise ValueError(f"a reply of more than {LONGEST_REPLY} bytes")
            _check_time(deadline, seconds)
        _check_time(deadline, seconds)
    except (OSError, http.client.HTTPException):
        _check_time(deadline, seconds)
        raise
    finally:
        end.cancel()
        connection.close()
    return bytes(received)


def _check_time(deadline: float, seconds: float) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"no whole reply within {seconds:g} s")


def _cut(connection: http.client.HTTPConnection) -> None:
    """End what a request waits for."""
    if (open_socket := connection.sock) is not None:
        with contextlib.suppress(OSError):
            open_socket.shutdown(socket.SHUT_RDWR)


def _connect(address: Address, seconds: float) -> http.client.HTTPConnection:
    if address.scheme == "http":
        return http.client.HTTPConnection(address.host, address.port, timeout=seconds)
    context = ssl.create_default_context()
    return http.client.HTTPSConnection(address.host, address.port, timeout=seconds, context=context)


def _check_status(response: http.client.HTTPResponse, address: Address) -> None:
    status = response.status
    if 300 <= status < 400:
        place = without_secrets(response.getheader("Location") or "nowhere")
        raise _RefusedError(
            f"HTTP {status}: {address.origin} redirects to {place!r:.200}, and redirects are not followed: "
            "the key would go there; write that address into the recipe if you trust it"
        )
    if 400 <= status < 500 and status not in _AGAIN:
        raise _RefusedError(f"HTTP Error {status}: {response.reason!r:.200}")
    if status != 200:
        raise OSError(f"HTTP Error {status}: {response.reason!r:.200}")


def _content(received: bytes) -> tuple[str, str]:
    """The text of a reply's first choice, and why it ended."""
    choice = json.loads(received)["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    if not isinstance(text, str):
        raise TypeError("the reply has no text")
    return text, str(choice.get("finish_reason") or "")
