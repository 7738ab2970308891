"""The server as OpenAI's client and lm-eval use it, and as others abuse it. One nano model for all tests."""

import contextlib
import http.client
import io
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_world import learner_config, model_directory, tokenizer

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from abuse import odd_bodies

from r1kit.model.huggingface import load_pretrained
from r1kit.stages.models import PromptStyle
from r1kit.train.learner import Learner
from r1kit.types import Row, Sampling

openai = pytest.importorskip("openai", reason="needs the extra dev (openai)")
pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

from r1kit.serve.app import make_server  # noqa: E402
from r1kit.serve.guard import Access  # noqa: E402
from r1kit.serve.served import Limits, Served  # noqa: E402

LIMITS = Limits(context=160, rows=4, queue=60, memory=1 << 24, body=100_000, seconds=60, patience=1.0)
MODEL = "nano/test"


class Running:
    """A server in a thread."""

    def __init__(self, served: Served, access: Access) -> None:
        self.lines: list[str] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.server = make_server(served, access, self.port, self.lines.append)
        self.thread = threading.Thread(target=self.server.run)

    def __enter__(self) -> "Running":
        self.thread.start()
        while not self.server.started and self.thread.is_alive():
            time.sleep(0.01)
        assert self.thread.is_alive()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join()

    def client(self, key: str = "none") -> Any:
        return openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, max_retries=0, timeout=60
        )

    def ask(self, path: str, body: object = None, **headers: str) -> tuple[int, dict, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        connection.request("GET" if content is None else "POST", path, content, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        found = json.loads(text) if answer.getheader("content-type") == "application/json" else {"text": text}
        return answer.status, found, dict(answer.headers)

    def metric(self, name: str) -> float:
        lines = self.ask("/metrics")[1]["text"].decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("model"))


def served(folder: Path, **style: object) -> Served:
    sampling = Sampling(temperature=1.0, max_tokens=16)
    return Served.load(folder, MODEL, sampling, LIMITS, PromptStyle(**style) if style else None, "float32")


@pytest.fixture(scope="module")
def world(folder: Path) -> Iterator[Running]:
    with Running(served(folder), Access()) as running:
        yield running


CHAT = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "What is 3 + 4?"}],
    "seed": 5,
    "max_tokens": 20,
}


def test_a_chat_is_what_the_engine_samples(world: Running, folder: Path) -> None:
    mine = served(folder)
    ids = mine.chat.turn_ids([("user", "What is 3 + 4?")])
    sampling = Sampling(n=3, temperature=0.8, top_p=0.9, top_k=50, max_tokens=20)
    expected = mine.engine.generate([ids], sampling, [5])[0]
    answer = world.client().chat.completions.create(
        **CHAT, n=3, temperature=0.8, top_p=0.9, extra_body={"top_k": 50}, logprobs=True, top_logprobs=2
    )
    for choice, completion in zip(answer.choices, expected, strict=True):
        rows = choice.logprobs.content
        assert choice.message.content == tokenizer().decode(completion.token_ids)
        assert [row.logprob for row in rows] == pytest.approx(completion.logprobs.tolist(), abs=1e-6)
        assert choice.finish_reason == completion.finish
        assert all(len(row.top_logprobs) == 2 for row in rows)
    assert answer.usage.prompt_tokens == len(ids)
    assert answer.usage.completion_tokens == sum(len(one.token_ids) for one in expected)


def test_a_stream_has_the_same_text_and_usage(world: Running) -> None:
    whole = world.client().chat.completions.create(**CHAT, n=2)
    texts, finish, usage = ["", ""], ["", ""], None
    for chunk in world.client().chat.completions.create(
        **CHAT, n=2, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finish[choice.index] = choice.finish_reason or finish[choice.index]
    assert texts == [choice.message.content for choice in whole.choices] and all(texts)
    assert finish == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage


def test_a_seed_gives_the_same_text_alone_and_among_others(world: Running) -> None:
    alone = world.client().chat.completions.create(**{**CHAT, "max_tokens": 60}).choices[0].message.content
    found: list[str] = []

    def ask(seed: int, tokens: int) -> None:
        body = {**CHAT, "seed": seed, "max_tokens": tokens}
        answer = world.ask("/v1/chat/completions", body)[1]
        if seed == CHAT["seed"]:
            found.append(answer["choices"][0]["message"]["content"])

    threads = [threading.Thread(target=ask, args=(seed, 60)) for seed in (1, 5, 2, 5, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone, alone]


def test_a_stop_text_ends_the_answer_and_is_not_in_it(world: Running) -> None:
    client = world.client()
    text = client.completions.create(model=MODEL, prompt="The sum", seed=3, max_tokens=40).choices[0].text
    stop = text[10:13]
    answer = client.completions.create(
        model=MODEL, prompt="The sum", seed=3, max_tokens=40, stop=[stop, "\ufdd0"]
    )
    assert answer.choices[0].text == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop" and answer.usage.completion_tokens < 40
    streamed = client.completions.create(
        model=MODEL, prompt="The sum", seed=3, max_tokens=40, stop=stop, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text


def test_echoed_log_probabilities_are_the_learners(world: Running, folder: Path) -> None:
    """As lm-eval's local-completions asks for the likelihood of a continuation, a prompt of ids each."""
    prompts = [[*tokenizer().encode(text).tolist()] for text in ("One and two are three", "The cat 12")]
    body = {"model": MODEL, "prompt": prompts, "temperature": 0, "max_tokens": 1, "logprobs": 1, "echo": True}
    status, answer, _ = world.ask("/v1/completions", {**body, "seed": 1234})
    assert status == 200
    learner = Learner(load_pretrained(folder), learner_config(context=160))
    for prompt, choice in zip(prompts, sorted(answer["choices"], key=lambda one: one["index"]), strict=True):
        found = choice["logprobs"]
        mask = np.arange(len(prompt)) > 0
        row = Row(np.array(prompt, dtype=np.int32), mask, 1.0)
        expected = learner.logprobs([row])[0]
        assert found["token_logprobs"][0] is None and len(found["token_logprobs"]) == len(prompt) + 1
        np.testing.assert_allclose(found["token_logprobs"][1:-1], expected[mask], atol=2e-5)
        for token, value, top in zip(
            *(found[key][1:] for key in ("tokens", "token_logprobs", "top_logprobs")), strict=True
        ):
            assert top[token] == value and max(top.values()) >= value
        assert choice["text"].startswith(tokenizer().decode_all(prompt))


def test_thinking_comes_apart_and_can_be_off(folder: Path) -> None:
    mine = served(folder, opening="<think>\n")
    prompt = mine.chat.turn_ids([("user", "What is 3 + 4?")])
    with Running(mine, Access()) as world:
        client = world.client()
        for seed in range(5, 9):
            sampling = Sampling(temperature=1.0, max_tokens=40)
            ids = mine.engine.generate([prompt], sampling, [seed])[0][0].token_ids.tolist()
            end = tokenizer().id("</think>")
            thought = ids[: ids.index(end)] if end in ids else ids
            answer = client.chat.completions.create(**{**CHAT, "seed": seed, "max_tokens": 40})
            message = answer.choices[0].message
            assert message.reasoning_content == message.reasoning == tokenizer().decode(thought).strip()
            assert message.content == tokenizer().decode(ids[len(thought) + 1 :]).lstrip()
            counted = answer.usage.completion_tokens_details.reasoning_tokens
            assert counted == min(len(thought) + 1, len([one for one in ids if one != tokenizer().eos_id]))
        off = client.chat.completions.create(
            **CHAT, extra_body={"chat_template_kwargs": {"enable_thinking": False}}
        )
        assert off.choices[0].message.content and off.choices[0].message.reasoning_content is None
        assert off.usage.completion_tokens_details.reasoning_tokens == 0
        assert off.usage.prompt_tokens > answer.usage.prompt_tokens


def test_tokens_models_health_and_metrics(world: Running) -> None:
    ids = world.ask("/tokenize", {"prompt": "12 + 3"})[1]["tokens"]
    assert ids == [*tokenizer().start_ids.tolist(), *tokenizer().encode("12 + 3").tolist()]
    assert world.ask("/detokenize", {"tokens": ids[1:]})[1] == {"prompt": "12 + 3"}
    assert [model.id for model in world.client().models.list()] == [MODEL]
    assert world.ask("/health")[:2] == (200, {"status": "ok"})
    before = world.metric("r1kit_tokens_total")
    world.ask("/v1/completions", {"prompt": "a", "max_tokens": 3, "seed": 2})
    assert 1 <= world.metric("r1kit_tokens_total") - before <= 3


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"temprature": 1}, "temprature"),
        ({"temperature": 3}, "temperature"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"messages": [{"role": "user", "content": "x" * 9000}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
    ],
)
def test_what_there_is_not_is_refused_with_its_key(world: Running, change: dict, param: str) -> None:
    status, answer, _ = world.ask("/v1/chat/completions", {**CHAT, **change})
    assert status == 400 and answer["error"]["param"] == param
    assert param in answer["error"]["message"] and answer["error"]["type"] == "invalid_request_error"


def test_values_that_ask_for_nothing_are_accepted(world: Running) -> None:
    more = {
        "response_format": {"type": "text"},
        "presence_penalty": 0,
        "tools": [],
        "user": "me",
        "logit_bias": None,
    }
    assert world.ask("/v1/chat/completions", {**CHAT, **more})[0] == 200
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        world.client().chat.completions.create(**{**CHAT, "model": "other"})


def test_odd_bodies_are_refused_or_answered(world: Running) -> None:
    seen: set[int] = set()
    for path, content in odd_bodies(200):
        status, answer, _ = world.ask(path, content)
        seen.add(status)
        assert status == 200 or (400 <= status < 500 and answer["error"]["message"]), (status, content)
    assert seen >= {200, 400} and world.ask("/health")[0] == 200
    assert not [line for line in world.lines if "unexpected" in line]


def test_a_method_that_a_path_does_not_have_is_named(world: Running) -> None:
    assert world.ask("/v1/completions")[0] == world.ask("/health", {"a": 1})[0] == 405
    status, answer, _ = world.ask("/v1/complete", {"prompt": "a"})
    assert status == 404 and "/v1/models" in answer["error"]["message"]


def test_a_stream_that_fails_before_its_first_piece_has_a_status(folder: Path) -> None:
    mine = served(folder)
    with Running(mine, Access()) as world:
        with torch.no_grad():
            for parameter in mine.model.parameters():
                parameter.fill_(float("nan"))
        for stream in (False, True):
            status, answer, _ = world.ask("/v1/chat/completions", {**CHAT, "stream": stream})
            assert status == 500 and "diverged" in answer["error"]["message"]
        assert world.ask("/health")[0] == 200


def test_of_many_requests_at_once_each_ends_or_gets_429(world: Running) -> None:
    """Of 160 at most four run and sixty wait."""
    found: list[tuple[int, int]] = []

    def ask(seed: int) -> None:
        status, answer, headers = world.ask("/v1/chat/completions", {**CHAT, "max_tokens": 100, "seed": seed})
        found.append((status, len(answer["choices"]) if status == 200 else int(headers["retry-after"])))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(160)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 160 and {status for status, _ in found} <= {200, 429}
    assert min(count for _, count in found) >= 1 and sum(status == 200 for status, _ in found) >= 64
    assert world.metric("r1kit_running") == world.metric("r1kit_waiting") == 0


def test_clients_that_leave_free_their_places(world: Running) -> None:
    body = json.dumps({"prompt": "a", "max_tokens": 150, "seed": 1, "stream": True}).encode()
    for _ in range(12):  # three times as many as there are rows
        connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=60)
        connection.request("POST", "/v1/completions", body)
        assert connection.getresponse().read(1)
        connection.sock.close()
        connection.close()
    for _ in range(1500):
        if not world.metric("r1kit_running") and not world.metric("r1kit_waiting"):
            return
        time.sleep(0.02)
    pytest.fail("clients that have left still hold places")


def test_a_full_queue_says_when_to_come_again(world: Running) -> None:
    with contextlib.ExitStack() as stack:
        connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=60)
        stack.callback(connection.close)
        body = {"prompt": "a", "max_tokens": 150, "n": 64, "seed": 1, "stream": True}
        connection.request("POST", "/v1/completions", json.dumps(body).encode())
        connection.getresponse()  # four run, sixty wait
        status, answer, headers = world.ask("/v1/completions", {"prompt": "a", "n": 40, "max_tokens": 1})
    assert status == 429 and answer["error"]["type"] == "rate_limit_error"
    assert 1 <= int(headers["retry-after"]) <= 60
    many = {"prompt": ["a", "b"], "n": 33, "max_tokens": 1}  # more than ever run and wait
    assert world.ask("/v1/completions", many)[:2][0] == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:80"}, 403),
        ({"Host": "localhost:1"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:7", "Origin": "http://localhost:7"}, 200),
        ({"Host": "localhost:7", "Origin": "http://localhost:8"}, 403),
    ],
)
def test_other_names_and_pages_are_refused(world: Running, headers: dict[str, str], status: int) -> None:
    assert world.ask("/v1/models", **headers)[0] == status
    assert world.ask("/v1/completions", {"prompt": "a", "max_tokens": 1}, **headers)[0] == status


def test_a_large_body_is_refused_before_it_is_read(world: Running) -> None:
    for head in (b"Content-Length: 1000000000", b"Transfer-Encoding: chunked"):
        with socket.create_connection(("127.0.0.1", world.port), timeout=60) as client:
            client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n")
            if b"chunked" in head:
                client.sendall(b"30000\r\n" + b" " * 0x30000)
            assert client.recv(4096).startswith(b"HTTP/1.1 413")


def test_slow_connections_are_closed_and_do_no_harm(world: Running) -> None:
    starts = [
        b"",
        b"POST /v1/comp",
        b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
    ]
    with contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", world.port), timeout=60))
            for _ in range(60)
        ]
        for place, client in enumerate(slow):
            client.sendall(starts[place % 3])
        assert world.ask("/v1/completions", {"prompt": "a", "max_tokens": 1})[0] == 200
        answers = [io.BufferedReader(client.makefile("rb")).read() for client in slow]
    assert {answer[:12] for answer in answers} == {b"", b"HTTP/1.1 408"}


def test_another_host_needs_the_token_and_no_log_has_it(folder: Path) -> None:
    with Running(served(folder), Access("0.0.0.0", "a-secret-of-this-test")) as world:
        assert world.ask("/v1/models")[0] == world.ask("/health")[0] == 401
        assert world.ask("/v1/models", Authorization="Bearer a-secret-of-this-tesT")[0] == 401
        assert world.ask("/v1/models", Cookie="r1kit_token=a-secret-of-this-test")[0] == 200
        assert (
            world.ask("/v1/models", Host="evil.example", Authorization="Bearer a-secret-of-this-test")[0]
            == 403
        )
        key = "a-secret-of-this-test"
        assert world.client(key).chat.completions.create(**CHAT).choices[0].message.content
        world.ask("/v1/models?token=a-secret-of-this-test", Authorization=f"Bearer {key}")
        assert world.ask("/a-secret-of-this-test", Authorization=f"Bearer {key}")[0] == 404
    assert len(world.lines) > 5 and not [line for line in world.lines if key in line or "3 + 4" in line]
