"""An OpenAI-compatible server as an engine: it samples for stages that do not train on the result, and is
refused where one would."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from small_world import learner_config, model_directory, tokenizer

from r1kit.config import ConfigError, R1kitError
from r1kit.engine.endpoint import EndpointConfig, EndpointEngine
from r1kit.runtime.local import LocalConfig
from r1kit.types import Sampling

SECRET = "sk-very-secret"
ANSWER = " 4 and then some"


class Server(ThreadingHTTPServer):
    """Answers a text; ``statuses`` are those of the next requests, 200 afterwards."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, dict[str, object]]] = []
        self.statuses: list[int] = []
        self.ended = "stop"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers["Authorization"], body))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        reply = {"choices": [{"text": ANSWER, "finish_reason": self.server.ended}]}
        content = json.dumps(reply if status == 200 else {"error": SECRET}).encode()
        self.send_response(status, f"because of {SECRET}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield serving
        serving.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("model"))


@pytest.fixture
def engine(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> EndpointEngine:
    monkeypatch.setenv("MY_KEY", SECRET)
    url = f"http://127.0.0.1:{server.server_port}/v1"
    return EndpointConfig(url=url, model="teacher", key_env="MY_KEY", attempts=2).connect(folder)


def prompts(*texts: str) -> list[np.ndarray]:
    start = tokenizer().start_ids
    return [np.concatenate([start, tokenizer().encode(text)]).astype(np.int32) for text in texts]


def test_a_prompt_goes_out_as_text_and_its_answer_comes_back_as_ids(
    engine: EndpointEngine, server: Server
) -> None:
    reported: list[int] = []
    sampling = Sampling(n=2, temperature=0.7, top_p=0.9, max_tokens=40)
    groups = engine.generate(prompts("What is 2 + 2?", "And 3?"), sampling, [1, 2], reported.extend)
    assert sorted(reported) == [0, 1] and [len(group) for group in groups] == [2, 2]
    eos = tokenizer().eos_id
    for one in [one for group in groups for one in group]:
        assert tokenizer().decode(one.token_ids) == ANSWER and one.token_ids[-1] == eos
        assert (
            one.finish == "stop" and np.isnan(one.logprobs).all() and len(one.logprobs) == len(one.token_ids)
        )
    assert sorted(str(body["prompt"]) for _, _, body in server.asked) == [
        "And 3?", "And 3?", "What is 2 + 2?", "What is 2 + 2?",
    ]  # fmt: skip
    path, key, body = server.asked[0]
    assert (path, key) == ("/v1/completions", f"Bearer {SECRET}")
    assert (body["model"], body["temperature"], body["top_p"], body["max_tokens"]) == (
        "teacher",
        0.7,
        0.9,
        40,
    )
    assert len({body["seed"] for _, _, body in server.asked}) == 4 and "top_k" not in body
    before = sorted(str(body["seed"]) for _, _, body in server.asked)
    server.asked.clear()
    engine.generate(prompts("What is 2 + 2?", "And 3?"), sampling, [1, 2])
    assert sorted(str(body["seed"]) for _, _, body in server.asked) == before


def test_a_cut_answer_is_one_of_full_length_and_a_stop_string_ends_it(
    engine: EndpointEngine, server: Server
) -> None:
    (cut,) = engine.generate(prompts("x"), Sampling(max_tokens=3), [1])[0]
    assert len(cut.token_ids) == 3 and cut.finish == "length"
    server.ended = "length"
    (cut,) = engine.generate(prompts("x"), Sampling(max_tokens=60), [1])[0]
    assert cut.finish == "length" and cut.token_ids[-1] != tokenizer().eos_id
    (stopped,) = engine.generate(prompts("x"), Sampling(max_tokens=60, stop=("and",)), [1])[0]
    assert stopped.finish == "stop" and tokenizer().decode(stopped.token_ids).startswith(" 4 and")
    assert len(stopped.token_ids) < len(cut.token_ids)


def test_a_server_that_fails_once_is_asked_again_and_one_that_refuses_is_an_error_without_the_key(
    engine: EndpointEngine, server: Server
) -> None:
    server.statuses = [503]
    assert engine.generate(prompts("x"), Sampling(), [1])[0][0].finish == "stop"
    assert len(server.asked) == 2 and engine.health(5.0) == ""
    for statuses in ([401], [500, 500]):
        server.statuses = list(statuses)
        with pytest.raises(R1kitError, match=r"no answer .*is the server up") as error:
            engine.generate(prompts("x"), Sampling(), [1])
        assert SECRET not in str(error.value)
    server.statuses = [401]
    assert "no answer" in engine.health(5.0)


@pytest.mark.slow
def test_no_training_follows_an_endpoint(server: Server, folder: Path) -> None:
    given = {"kind": "endpoint", "url": f"http://127.0.0.1:{server.server_port}/v1", "model": "m"}
    runtime = LocalConfig.parse({"engine": given, "processes": 1}, "runtime").start()
    try:
        learner = runtime.learner(folder, learner_config())
        with pytest.raises(ConfigError, match=r"endpoint samples from weights of its own .* native or vllm"):
            runtime.engine_of(learner)
        engine = runtime.engine(folder)
        assert len(engine.generate(prompts("x"), Sampling(n=2), [1])[0]) == 2
        with pytest.raises(R1kitError, match="samples from a finished model"):
            runtime.hand_over(learner, engine, 1)
        with pytest.raises(R1kitError, match="cannot load others"):
            engine.load({}, 1)
        with pytest.raises(R1kitError, match="does not stream"):
            engine.stream(prompts("x")[0], Sampling(), 1)
        runtime.release(engine)
    finally:
        runtime.close()
