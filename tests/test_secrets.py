"""Endpoints, keys and sockets: where a key may go, what is shown and written of it, and who can connect."""

import contextlib
import io
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from r1kit.addresses import read_address, without_secrets, word_without_secrets
from r1kit.commands.cli import app
from r1kit.config import ConfigError, R1kitError
from r1kit.endpoints import complete_chat
from r1kit.recipe.recipe import load, resolved
from r1kit.recipe.uses import sends_of
from r1kit.runs.execute import run
from r1kit.runs.provenance import environment
from r1kit.runtime.local import LocalConfig
from r1kit.runtime.process_group import INTERFACE

KEY = "sk-secret-123"
GOOD = json.dumps({"choices": [{"message": {"content": "fine"}}]}).encode()
Answer = Callable[[BaseHTTPRequestHandler], None]


@contextlib.contextmanager
def server(answer: Answer) -> Iterator[tuple[int, list[tuple[str, str, str | None]]]]:
    """A server on the loopback that notes (method, path, Authorization) of every request."""
    seen: list[tuple[str, str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            seen.append((self.command, self.path, self.headers["Authorization"]))
            answer(self)

        def do_GET(self) -> None:
            seen.append((self.command, self.path, self.headers["Authorization"]))
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield running.server_port, seen
    finally:
        running.shutdown()
        running.server_close()


def says(status: int, body: bytes = GOOD, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("place", ["http://localhost:{0}/steal", "//localhost:{0}/steal", "/other", ""])
def test_no_redirect_is_followed_and_the_key_stays(status: int, place: str) -> None:
    with server(says(200)) as (other, stolen):
        target = place.format(other)
        with server(says(status, Location=target)) as (port, seen), pytest.raises(R1kitError) as raised:
            complete_chat(f"http://127.0.0.1:{port}/v1", {}, "MY_KEY", 5)
    assert stolen == []
    assert seen == [("POST", "/v1/chat/completions", f"Bearer {KEY}")]  # once, and to the named host
    said = str(raised.value)
    assert f"HTTP {status}: http://127.0.0.1:{port} redirects to {target or 'nowhere'!r}" in said
    assert "redirects are not followed" in said and KEY not in said


def test_a_page_that_refreshes_to_another_is_no_reply() -> None:
    with server(says(200)) as (other, stolen):
        page = f'<meta http-equiv="refresh" content="0; url=http://localhost:{other}/">'.encode()
        refreshes = says(200, page, Refresh=f"0; url=http://localhost:{other}/")
        with server(refreshes) as (port, _), pytest.raises(R1kitError, match="no answer"):
            complete_chat(f"http://127.0.0.1:{port}", {}, "MY_KEY", 5, attempts=1)
    assert stolen == []


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(says(200)) as (proxy, stolen), server(says(200)) as (port, seen):
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        assert complete_chat(f"http://127.0.0.1:{port}/v1", {}, "MY_KEY", 5) == "fine"
        assert complete_chat(f"HTTP://LOCALHOST:{port}/v1/", {}, "NOT_SET", 5) == "fine"
    assert stolen == []
    assert [authorization for *_, authorization in seen] == [f"Bearer {KEY}", None]


def test_a_key_that_an_endpoint_sends_back_is_cut() -> None:
    body = json.dumps({"choices": [{"message": {"content": f"you sent {KEY}"}}]}).encode()
    with server(says(200, body)) as (port, _):
        assert complete_chat(f"http://127.0.0.1:{port}", {}, "MY_KEY", 5) == "you sent ***"

    def refuses(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(401, f"bad key {KEY}")
        handler.end_headers()

    with server(refuses) as (port, seen), pytest.raises(R1kitError) as raised:
        complete_chat(f"http://127.0.0.1:{port}", {}, "MY_KEY", 5)
    assert "HTTP Error 401: 'bad key ***'" in str(raised.value) and len(seen) == 1


@pytest.mark.parametrize(
    "value", [f"{KEY}\r\nX-Other: 1", f"{KEY}\n", f" {KEY}", "schlüssel", "a\x00b"[:1] + "\x7f"]
)
def test_a_key_that_no_header_can_hold_is_refused_before_anything_is_sent(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", value)
    with server(says(200)) as (port, seen), pytest.raises(ConfigError) as raised:
        complete_chat(f"http://127.0.0.1:{port}", {}, "MY_KEY", 5)
    assert "the key in the environment variable MY_KEY has a line break, a space or" in str(raised.value)
    assert seen == [] and KEY not in str(raised.value)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("file:///etc/passwd", "file: is not allowed, only http and https are"),
        ("FILE:///etc/passwd", "file: is not allowed"),
        ("ftp://host/v1", "ftp: is not allowed"),
        ("data:application/json,{}", "no spaces, control"),
        ("data:text/plain,x", "data: is not allowed"),
        ("unix:///run/s.sock", "unix: is not allowed"),
        ("http+unix://%2Frun/v1", "only http and https are"),
        ("//host/v1", "it has no scheme"),
        ("my-judge", "no address of an endpoint"),
        ("http://", "no address of an endpoint"),
        ("http:///v1", "no address of an endpoint"),
        ("http://host:99999/v1", "no address of an endpoint"),
        ("http://host:0/v1", "no address of an endpoint"),
        ("http://host:port/v1", "no address of an endpoint"),
        ("http://[::1/v1", "no address of an endpoint"),
        ("http://[fe80::1%25eth0]/v1", "no address of an endpoint"),
        ("http://127.0.0.1@evil.com/v1", "has a user name or password in it"),
        ("http://me:pass-word@host/v1", "http://***@host/v1 has a user name or password in it"),
        ("http://me:pa@ss-word@host/v1", "http://***@host/v1 has a user name or password in it"),
        ("http://host/v1?api_key=pass-word", "http://host/v1 is followed by a query"),
        ("http://host/v1#pass-word", "is followed by a query"),
        ("http://exämple.com/v1", "letters outside ASCII"),
        ("http://ⓛocalhost/v1", "letters outside ASCII"),
        ("http://evil.com\\@host/v1", "backslashes"),
        ("ht\ttp://host/v1", "control characters"),
        ("http://host/v1\r\nX: 1", "control characters"),
        ("http://host /v1", "no spaces"),
    ],
)
def test_an_address_that_is_no_endpoint_is_refused_without_its_secrets(address: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_address(address)
    assert message in str(raised.value) and "ss-word" not in str(raised.value)


@pytest.mark.parametrize(
    ("address", "origin", "local"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000", True),
        ("http://127.8.9.1/v1", "http://127.8.9.1:80", True),
        ("HTTP://LocalHost/v1", "http://localhost:80", True),
        ("http://[::1]:8000/v1", "http://[::1]:8000", True),
        ("http://[::ffff:127.0.0.1]/v1", "http://[::ffff:127.0.0.1]:80", True),
        ("http://localhost.evil.com/v1", "http://localhost.evil.com:80", False),
        ("http://127.0.0.1.evil.com/v1", "http://127.0.0.1.evil.com:80", False),
        ("http://0.0.0.0/v1", "http://0.0.0.0:80", False),
        ("http://2130706433/v1", "http://2130706433:80", False),
        ("http://[::2]/v1", "http://[::2]:80", False),
        ("https://xn--exmple-cua.com", "https://xn--exmple-cua.com:443", False),
    ],
)
def test_the_origin_of_an_endpoint_and_whether_it_is_this_machine(
    address: str, origin: str, local: bool
) -> None:
    found = read_address(address)
    assert (found.origin, found.is_local) == (origin, local)


def test_a_warning_where_a_key_goes_to_another_machine_in_the_clear() -> None:
    def warnings(endpoint: str, variable: str) -> str:
        block = {"endpoint": endpoint, "model": "m", "key_variable": variable}
        (sent,) = sends_of({"stages": [{"stage": "x", "rewards": {"judge": block}}]})
        return sent.warning()

    assert "the key in $MY_KEY goes to http://judge.example:80 without encryption" in warnings(
        "http://judge.example/v1", "MY_KEY"
    )
    assert "without encryption" in warnings("http://localhost.evil.com/v1", "MY_KEY")
    assert warnings("https://judge.example/v1", "MY_KEY") == ""
    assert warnings("http://[::1]:8000/v1", "MY_KEY") == ""
    assert warnings("http://judge.example/v1", "NOT_SET") == ""


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("see http://me:word@host/x now", "see http://***@host/x now"),
        ("HTTPS://me:w@rd@host", "HTTPS://***@host"),
        ("postgres://me:wo/rd@host/db", "postgres://***@host/db"),
        ("https://host/?auth[token]=word&a=1", "https://host/?auth[token]=***&a=1"),
        ("https://host/?q=1%26token=word", "https://host/?q=1%26token=***"),
        ("sent Authorization: Bearer word-of-a-key, then", "sent Authorization: Bearer ***, then"),
        ("the key sk-proj-0123456789abcdef0123 is bad", "the key *** is bad"),
        (f"at {'hf_' + 'aB3' * 12}.", "at ***."),
        ("sk-learn-pipeline-of-configurations", "sk-learn-pipeline-of-configurations"),
        ("task-0123456789abcdef0123456789 of the bearer", "task-0123456789abcdef0123456789 of the bearer"),
        ("http://word@host", "http://***@host"),
        ("https://host/v1?api_key=word&n=2", "https://host/v1?api_key=***&n=2"),
        ("https://host/v1?n=2&X-Amz-Signature=word", "https://host/v1?n=2&X-Amz-Signature=***"),
        ("https://host/v1?access_token=word#top", "https://host/v1?access_token=***#top"),
        ("https://host/v1?n=2&max_tokens=5", "https://host/v1?n=2&max_tokens=5"),
        ("http://host:8000/a@b and me@host", "http://host:8000/a@b and me@host"),
        ("data/train.jsonl @stage a:b", "data/train.jsonl @stage a:b"),
    ],
)
def test_passwords_and_keys_in_addresses_are_cut_and_nothing_else(text: str, cut: str) -> None:
    assert without_secrets(text) == cut


def test_the_value_of_an_override_that_is_a_secret_is_cut() -> None:
    assert word_without_secrets("stages.x.judge.api_key=word") == "stages.x.judge.api_key=***"
    for word, cut in (
        ("a.pass_phrase=word", "a.pass_phrase=***"),
        ("rewards.judge={key: word, weight: 1}", "rewards.judge={key: ***, weight: 1}"),
        ('a={"Authorization": "Bearer word"}', 'a={"Authorization": ***}'),
        ("a=[{weight: 1, api_key: word}]", "a=[{weight: 1, api_key: ***}]"),
        ("tasks={monkey: 1, keyword: 2, tokens: 3}", "tasks={monkey: 1, keyword: 2, tokens: 3}"),
    ):
        assert word_without_secrets(word) == cut
    assert word_without_secrets("stages.x.max_tokens=5") == "stages.x.max_tokens=5"
    assert word_without_secrets("stages.x.tokenizer=word") == "stages.x.tokenizer=word"


JUDGED = """
name: judged
runtime: {{kind: local, processes: 1}}
stages:
  - stage: "own.py:Own"
    name: own
    address: "{address}"
    judge: {{endpoint: "{endpoint}", model: m, key_variable: MY_KEY}}
"""
OWN = """
from r1kit.stages.stage import Stage
class Own(Stage):
    stage: str = "own.py:Own"
    address: str = ""
    judge: dict[str, str] = {}
    def run(self, ctx):
        if "fail" in self.address:
            raise ValueError(self.address)
        (ctx.out / "report.json").write_text("{}")
"""


def test_the_files_of_a_run_have_no_secret_and_name_where_the_key_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["r1kit", "run", "stages.own.address=http://me:pass-word@host"])
    (tmp_path / "own.py").write_text(OWN)
    for number, end in enumerate(("", "fail")):
        address = f"http://me:pass-word@host/{end}?token=pass-word"
        (tmp_path / "r.yaml").write_text(JUDGED.format(address=address, endpoint="http://judge.example/v1"))
        recipe = load("r.yaml", [f"out=runs/{number}"])
        console = Console(file=io.StringIO(), width=200)
        with contextlib.suppress(R1kitError):
            run(recipe, console=console, command="r1kit run")
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        words = "sends texts to http://judge.example/v1 (model m) with the key in $MY_KEY"
        assert shown.count(words) == 1 and shown.index(words) < shown.index("own: begins")
        assert shown.count("goes to http://judge.example:80 without encryption") == 1
        written = [file for file in (tmp_path / "runs" / str(number)).rglob("*") if file.is_file()]
        texts = [file.read_text(errors="replace") for file in written] + [shown]
        assert {"recipe.yaml", "env.json", "stage.json"} <= {file.name for file in written}
        assert not any("pass-word" in text or KEY in text for text in texts)
    assert any(file.parent.name == "logs" for file in written)  # of the stage that failed
    sends = json.loads((tmp_path / "runs/0/env.json").read_text())["sends"]
    assert sends[0]["key_variable"] == "MY_KEY" and sends[0]["endpoint"] == "http://judge.example/v1"


def test_an_endpoint_with_a_password_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "r.yaml").write_text(JUDGED.format(address="", endpoint="http://me:pass-word@host/v1"))
    for arguments in (
        ["run", "r.yaml"],
        ["show", "r.yaml"],
        ["plan", "r.yaml"],
        ["run", "r.yaml", "--dry-run"],
    ):
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, ConfigError), arguments
        assert "pass-word" not in str(result.exception) + result.output
        assert str(result.exception).startswith(
            "r.yaml:8: stages.own.judge.endpoint: http://***@host/v1 has a"
        )
    with pytest.raises(ConfigError) as raised:
        load("r.yaml", ["stages.own.judge.endpoint=https://me:pass-word@host/v1"])
    assert "***@host" in str(raised.value) and "pass-word" not in str(raised.value)
    assert not (tmp_path / "runs").exists()


def test_a_key_in_place_of_a_variables_name_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    text = JUDGED.format(address="", endpoint="https://host/v1").replace("MY_KEY", "sk-real-key")
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"r\.yaml:8: .*the name of an environment variable") as raised:
        load("r.yaml")
    assert "sk-real-key" not in str(raised.value)


def test_environment_records_the_command_line_without_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["r1kit", "a.endpoint=http://me:pass-word@host", "a.api_key=pass-word"])
    recorded = json.dumps(environment("r1kit run a=http://me:pass-word@host"))
    assert "pass-word" not in recorded and KEY not in recorded
    assert "a.endpoint=http://***@host" in recorded and "a.api_key=***" in recorded


def listeners() -> set[str]:
    """The addresses at which this process and its children listen, from /proc."""
    children = {os.getpid()}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = status.read_text().rpartition(")")[2].split()[1]
            if int(parent) in children:
                children.add(int(status.parent.name))
    inodes = set()
    for process in children:
        for handle in Path(f"/proc/{process}/fd").glob("*"):
            with contextlib.suppress(OSError):
                inodes.add(os.readlink(handle))
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        file = Path(f"/proc/net/{table}")
        for line in file.read_text().splitlines()[1:] if file.exists() else ():
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
                raw = bytes.fromhex(words[1].partition(":")[0])
                turned = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
                found.add(socket.inet_ntop(family, turned))
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")
def test_two_processes_listen_on_the_loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INTERFACE, raising=False)
    before = listeners()
    runtime = LocalConfig(processes=2).start()
    try:
        assert listeners() - before <= {"127.0.0.1"} and "127.0.0.1" in listeners()
        assert INTERFACE not in os.environ
    finally:
        runtime.close()


def public_interfaces() -> list[str]:
    import fcntl
    import struct

    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                address = fcntl.ioctl(probe.fileno(), 0x8915, struct.pack("256s", name.encode()))[20:24]
                if address[0] != 127:
                    found.append(name)
    return found


@pytest.mark.skipif(
    not Path("/proc/net/tcp").exists() or not public_interfaces(), reason="needs an interface that is not lo"
)
def test_the_interface_that_the_user_names_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INTERFACE, public_interfaces()[0])
    before = listeners()
    runtime = LocalConfig(processes=2).start()
    try:
        found = listeners() - before
        assert found and not any(address.startswith("127.") for address in found)
    finally:
        runtime.close()


def test_show_has_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "r.yaml").write_text(
        JUDGED.format(address="ftp://me:pass-word@host", endpoint="https://h/v1")
    )
    assert resolved(load("r.yaml"))["stages"][0]["address"] == "ftp://***@host"
    for words in (["show", "r.yaml"], ["show", "r.yaml", "--json"]):
        result = CliRunner().invoke(app, words)
        assert result.exception is None, result.exception
        said = result.output
        assert "ftp://***@host" in said and "pass-word" not in said and "MY_KEY" in said, said
