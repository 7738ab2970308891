"""Who may talk: a real server of the pages, asked by hand."""

import base64
import http.client
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import pytest
from driving import served_pages
from talk_fakes import talking_run

from r1kit.web.security import LARGEST_BODY

pytest.importorskip("nicegui", reason="the extra ui is not installed (make ui)")

SOCKET = "/_nicegui_ws/socket.io/?EIO=4&transport="


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("pages")
    run = talking_run(folder / "run", "{mul: 1}")
    with served_pages([run], folder / "cache", folder / "log") as address:
        yield urlsplit(address).netloc
    assert "Traceback" not in (folder / "log").read_text()


def status(place: str, path: str = "/talk", body: bytes | None = None, **headers: str) -> int:
    with closing(http.client.HTTPConnection(place, timeout=120)) as connection:
        connection.request("GET" if body is None else "POST", path, body, {"Host": place, **headers})
        return connection.getresponse().status


def opened(place: str, **headers: str) -> tuple[socket.socket, int]:
    """A web socket of the page, and the status with which the server answers."""
    host, _, port = place.partition(":")
    made = socket.create_connection((host, int(port)), timeout=60)
    key = base64.b64encode(os.urandom(16)).decode()
    given = {
        "Host": place, "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": key,
        "Sec-WebSocket-Version": "13", **headers,
    }  # fmt: skip
    lines = [f"GET {SOCKET}websocket HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    made.sendall("\r\n".join([*lines, "", ""]).encode())
    return made, int(made.recv(4096).split()[1])


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({}, True),
        ({"Origin": "http://{place}"}, True),
        ({"Host": "evil"}, False),
        ({"Host": "evil.example:8470"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "https://{place}.evil.example"}, False),
    ],
)
def test_only_the_page_itself_may_ask_by_request_or_by_web_socket(
    place: str, headers: dict[str, str], passes: bool
) -> None:
    given = {name: value.format(place=place) for name, value in headers.items()}
    assert status(place, **given) == (200 if passes else 403)
    made, answer = opened(place, **given)
    made.close()
    assert (answer == 101) is passes


def test_oversized_messages_end_their_connection_and_nothing_else(place: str) -> None:
    made, answer = opened(place)
    assert answer == 101
    with closing(made):
        size = LARGEST_BODY + 1
        head = bytes([0x81, 0x80 | 127]) + struct.pack(">Q", size) + bytes(4)  # a text, masked with zeros
        try:
            made.sendall(head + b"4" * size)
            while made.recv(65536):
                pass
        except ConnectionError:
            pass
    assert status(place, SOCKET + "polling", body=b"4" * (LARGEST_BODY + 1)) == 413
    assert status(place) == 200


def test_a_body_without_a_length_is_not_read_to_its_end(place: str) -> None:
    host, _, port = place.partition(":")
    with closing(socket.create_connection((host, int(port)), timeout=60)) as made:
        made.sendall(
            f"POST {SOCKET}polling HTTP/1.1\r\nHost: {place}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        piece = b"10000\r\n" + b"4" * 0x10000 + b"\r\n"
        sent = 0
        try:
            while sent < 64 * LARGEST_BODY and not _has_answered(made):
                made.sendall(piece)
                sent += 0x10000
        except ConnectionError:
            pass
    assert sent < 64 * LARGEST_BODY
    assert status(place) == 200


def _has_answered(made: socket.socket) -> bool:
    made.setblocking(False)
    try:
        made.recv(1, socket.MSG_PEEK)
        return True
    except BlockingIOError:
        return False
    finally:
        made.settimeout(60)


@pytest.mark.parametrize(
    "path", ["/talk?run=../../etc", "/talk/../../etc/passwd", "/talk?run=%00", "/talk?run=" + "x" * 5000]
)
def test_odd_addresses_show_the_first_run_or_nothing(place: str, path: str) -> None:
    assert status(place, path) in (200, 404)
