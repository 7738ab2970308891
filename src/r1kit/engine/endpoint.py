"""A server that speaks OpenAI's protocol as an engine, for stages that sample and do not train on
log-probabilities: rejection sampling, a teacher's answers, judges.

    runtime:
      engine: {kind: endpoint, url: "http://127.0.0.1:8000/v1", model: deepseek-r1, key_env: MY_KEY}

Requests go to ``/completions``, with the prompt as text; vLLM's and SGLang's servers answer them. The key
follows the rules of endpoints.py. The answer is text: its token ids are those of the tokenizer of the
stage's own model, and it has no log-probabilities (they are NaN). So such an engine follows no learner, and a
stage that trains on them refuses it. Its weights are the server's, whichever model the stage names."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator
from torch import Tensor

from r1kit.addresses import read_address
from r1kit.config import R1kitError
from r1kit.endpoints import DEFAULT_KEY, ask, check_variable
from r1kit.engine import Done
from r1kit.engine.connected import ConnectedConfig
from r1kit.engine.random_draws import default_seeds
from r1kit.engine.requests import FULL, STOP, Requests, require_possible
from r1kit.model.config_json import read_config
from r1kit.model.fingerprint import Fingerprint
from r1kit.tokenizer import Tokenizer
from r1kit.types import Completion, Sampling

POLL_S = 0.1  # how often a waiting call reports that it is alive


class EndpointConfig(ConnectedConfig):
    """``url``: the server's address, as far as ``/v1``. ``model``: the model's name there. ``key_env``: the
    environment variable that holds the key. ``parallel`` requests are made at once, each of which may take
    ``seconds``, and is made ``attempts`` times."""

    kind: Literal["endpoint"] = "endpoint"  # an OpenAI-compatible server
    url: str
    model: str
    key_env: str = DEFAULT_KEY
    parallel: int = Field(8, ge=1)
    seconds: float = Field(600.0, gt=0)
    attempts: int = Field(3, ge=1)

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        read_address(url)
        return url

    @field_validator("key_env")
    @classmethod
    def _is_a_variable(cls, variable: str) -> str:
        check_variable(variable)
        return variable

    def connect(self, model: Path) -> "EndpointEngine":
        return EndpointEngine(self, model)

    def identity(self) -> str:
        return f"endpoint {self.url} {self.model}"


class EndpointEngine:
    """Samples from the server; ``model`` is the folder of the stage's tokenizer."""

    def __init__(self, config: EndpointConfig, model: Path) -> None:
        self.config, self.can = config, frozenset[str]()
        self.shape, self.tokenizer = read_config(model), Tokenizer.load(model)
        self.version = 0
        self._aborted = threading.Event()

    def generate(
        self, prompts: Sequence[np.ndarray], sampling: Sampling,
        seeds: Sequence[int] | None = None, done: Done | None = None,
    ) -> list[list[Completion]]:  # fmt: skip
        """Complete every prompt ``sampling.n`` times; see Engine.generate. Raises R1kitError where a request
        got no answer: that is not an empty completion."""
        require_possible(prompts, sampling, self.shape.max_positions, self.shape.vocab_size)
        seeds = list(seeds) if seeds is not None else default_seeds(sampling.seed, len(prompts))
        requests = Requests(prompts, sampling, seeds, (0, 0), self.tokenizer.decode_all)
        self._aborted.clear()
        pool = ThreadPoolExecutor(self.config.parallel)
        try:
            waiting = {
                pool.submit(self._ask, requests, rollout): rollout
                for rollout in range(len(requests.finished_R))
            }
            self._collect(requests, waiting, done)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return requests.completions(self.version)

    def stream(self, prompt: np.ndarray, sampling: Sampling, seed: int) -> Iterator[int]:
        raise R1kitError("engine: endpoint does not stream; use engine: native for a conversation")

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        raise R1kitError(
            "engine: endpoint samples from the server's own weights and cannot load others: use engine: "
            "native or vllm for training"
        )

    def examine(self, token_ids: np.ndarray, temperature: float) -> list[Fingerprint]:
        return []

    def health(self, timeout_s: float) -> str:
        """Whether it completes one token."""
        body = {"model": self.config.model, "prompt": "1", "max_tokens": 1}
        try:
            ask(self.config.url, "completions", body, self.config.key_env, timeout_s, attempts=1)
        except R1kitError as error:
            return str(error)
        return ""

    def abort(self) -> None:
        self._aborted.set()

    def close(self) -> None:
        self.abort()

    def _collect(
        self, requests: Requests, waiting: dict[Future[tuple[str, str]], int], done: Done | None
    ) -> None:
        while waiting:
            ended, _ = wait(waiting, POLL_S, FIRST_COMPLETED)
            for future in ended:
                self._write(requests, waiting.pop(future), *future.result())
            if self._aborted.is_set():
                raise R1kitError("the sampling was aborted; the same command continues the run")
            if done is not None:
                done(requests.completed(self.version))

    def _ask(self, requests: Requests, rollout: int) -> tuple[str, str]:
        sampling, prompt = requests.sampling, requests.prompts[rollout // requests.sampling.n]
        start = self.tokenizer.start_ids
        if len(start) and np.array_equal(prompt[: len(start)], start):
            prompt = prompt[len(start) :]  # the server puts its own in front of a text
        filters = {"top_k": sampling.top_k, "min_p": sampling.min_p}
        body: dict[str, Any] = {
            "model": self.config.model,
            "prompt": self.tokenizer.decode_all(prompt),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": int(requests.keys_R[rollout] >> np.uint64(33)),  # 31 bits, which every server takes
            **{name: value for name, value in filters.items() if value},
        }
        config = self.config
        return ask(config.url, "completions", body, config.key_env, config.seconds, config.attempts)

    def _write(self, requests: Requests, rollout: int, text: str, ended: str) -> None:
        """The text as token ids, with the end token where the server says that the model ended."""
        ids = self.tokenizer.encode(text)
        if ended != "length":
            ids = np.append(ids, np.int32(self.tokenizer.eos_id))
        kept = ids[: requests.sampling.max_tokens]
        requests.tokens_RT[rollout, : len(kept)] = kept
        requests.logprobs_RT[rollout, : len(kept)] = np.nan
        requests.lengths_R[rollout] = len(kept)
        requests.finished_R[rollout] = STOP if ended != "length" and len(kept) == len(ids) else FULL
        if requests.sampling.stop:
            requests.cut_at_strings([rollout])
