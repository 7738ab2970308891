"""vLLM as an engine, in an interpreter and a process of its own, because its packages clash with r1kit's.

    runtime:
      engine: {kind: vllm, python: /opt/vllm/bin/python}

Token ids go in; the sampled ids and their log-probabilities come out. vllm_server.py is the other side. The
weights of a hand-over are written to a private folder, a bucket at a time, as a model folder that vLLM reads.
Then vLLM loads it in place (``reload: in_place``), or a new process starts with it (``restart``).

What vLLM 0.32 needs on a CPU to compute what r1kit computes (docs/scale.md has the measurements):

    tied head     tensors of its own: loading in place renews the embedding and not the head, and
                  deepseek_v3 ignores that they are tied
    deepseek_v3   MLA switched off unless the latent cache has 512 + 64 numbers; no custom ops, since its
                  rotary embedding is wrong when executed eagerly; ``topk_method`` in config.json
    experts       a restart for every load: loading in place leaves wrong weights without an error

Random numbers are vLLM's own, one seed for each rollout. They give the same completions again where its
numbers are reproducible, which it does not promise."""

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from torch import Tensor

from r1kit.config import InputError, R1kitError
from r1kit.engine import STREAM, TRAIN, Done
from r1kit.engine.connected import ConnectedConfig
from r1kit.engine.random_draws import default_seeds
from r1kit.engine.requests import FULL, STOP, Requests, require_possible
from r1kit.engine.vllm_folder import counted, link_model, needs_head, write_bucket
from r1kit.engine.vllm_process import VLLMProcess
from r1kit.files import hash_text
from r1kit.model.config import ModelConfig
from r1kit.model.config_json import read_config
from r1kit.model.fingerprint import Fingerprint
from r1kit.tokenizer import Tokenizer
from r1kit.types import Completion, Sampling

PYTHON = "R1KIT_VLLM_PYTHON"  # the variable that names vLLM's interpreter where the recipe does not
LATENT_CACHE = 576  # kv_lora_rank + qk_rope_head_dim that vLLM's latent attention computes everywhere


class VLLMConfig(ConnectedConfig):
    """``python``: vLLM's interpreter (where it is empty: the environment variable R1KIT_VLLM_PYTHON).
    ``dtype`` and ``eager`` (no compilation) are vLLM's; so are the numbers of GPUs that share each layer's
    matrices (``tensor_parallel``) and whether they share whole experts instead (``expert_parallel``).
    ``memory``: the share of a GPU's memory that vLLM takes; ``cache_gib``: of the cache on a CPU, with
    ``threads`` threads. ``reload``: how new weights are loaded; auto restarts where there are experts on a
    CPU. ``custom_ops``: vLLM's own kernels; auto is none on a CPU. ``options`` go to vllm.LLM as they are.
    ``start_s`` and ``deadline_s``: how long a start, and any other call, may take."""

    kind: Literal["vllm"] = "vllm"  # vLLM, in an interpreter of its own
    python: str = ""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    device: Literal["cpu", "cuda"] = "cpu"  # where vLLM computes
    tensor_parallel: int = Field(1, ge=1)
    expert_parallel: bool = False
    memory: float = Field(0.85, gt=0, le=1)
    cache_gib: int = Field(1, ge=1)
    threads: int = Field(1, ge=1)
    eager: bool = True
    custom_ops: Literal["auto", "none", "all"] = "auto"
    reload: Literal["auto", "in_place", "restart"] = "auto"
    options: dict[str, Any] = {}
    start_s: float = Field(600.0, gt=0)
    deadline_s: float = Field(1800.0, gt=0)

    def connect(self, model: Path) -> "VLLMEngine":
        return VLLMEngine(self, model)

    def interpreter(self) -> str:
        return self.python or os.environ.get(PYTHON, "")

    def input_errors(self) -> Iterator[InputError]:
        if not self.interpreter():
            yield ("python",), f"name vLLM's interpreter here, or in the environment variable {PYTHON}"
        elif shutil.which(self.interpreter()) is None:
            yield ("python",), f"{self.interpreter()}: no such program; name vLLM's interpreter"

    def identity(self) -> str:
        return f"vllm {hash_text(self.model_dump_json())[:16]}"

    def arguments(self, shape: ModelConfig) -> dict[str, Any]:
        """The arguments of vllm.LLM, without the model's folder."""
        operations = {"auto": ["none"] if self.device == "cpu" else None, "none": ["none"], "all": ["all"]}
        chosen = operations[self.custom_ops]
        return {
            "skip_tokenizer_init": True,
            "dtype": self.dtype,
            "enforce_eager": self.eager,
            "max_model_len": shape.max_positions,
            "tensor_parallel_size": self.tensor_parallel,
            "enable_expert_parallel": self.expert_parallel,
            "logprobs_mode": "processed_logprobs",  # divided by the temperature, as r1kit's are
            **({} if self.device == "cpu" else {"gpu_memory_utilization": self.memory}),
            **({} if chosen is None else {"compilation_config": {"custom_ops": chosen}}),
            **self.options,
        }

    def environment(self, shape: ModelConfig) -> dict[str, str]:
        """Variables that vLLM reads."""
        variables = {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "HF_HUB_OFFLINE": "1",
        }
        if self.device == "cpu":
            variables |= {
                "VLLM_CPU_KVCACHE_SPACE": str(self.cache_gib),
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                "OMP_NUM_THREADS": str(self.threads),
            }
        latent = (shape.kv_rank or 0) + (shape.rope_dim or 0)
        if shape.family == "deepseek_v3" and latent != LATENT_CACHE:
            variables["VLLM_MLA_DISABLE"] = "1"
        return variables


class VLLMEngine:
    """An engine and a ``Receiver`` (hand_over.py). ``model`` is the folder that it starts from."""

    def __init__(self, config: VLLMConfig, model: Path) -> None:
        self.config, self.can = config, frozenset({STREAM, TRAIN})
        self.shape, self.tokenizer = read_config(model), Tokenizer.load(model)
        self.version = 0
        self.private = Path(tempfile.mkdtemp(prefix="r1kit-vllm-"))
        self._head = needs_head(self.shape, config.device)
        self.current = link_model(model, self.private / "start", self.shape, self._head)
        self.incoming: Path | None = None
        self._taken, self._written = (0, 0), (0, 0)  # tensors and bytes, as they came and as vLLM reads them
        self._process: VLLMProcess | None = None
        self._starting = threading.Lock()
        self._turn = threading.Condition()
        self._sampling, self._paused = 0, False

    def generate(
        self, prompts: Sequence[np.ndarray], sampling: Sampling,
        seeds: Sequence[int] | None = None, done: Done | None = None,
    ) -> list[list[Completion]]:  # fmt: skip
        """Complete every prompt ``sampling.n`` times; see Engine.generate. With top-k, top-p or min-p the
        log-probabilities are those after these filters, and not to be trained on."""
        if sampling.experts:
            raise R1kitError("vLLM does not report which experts it chose: set replay_experts: false")
        require_possible(prompts, sampling, self.shape.max_positions, self.shape.vocab_size)
        seeds = list(seeds) if seeds is not None else default_seeds(sampling.seed, len(prompts))
        requests = Requests(prompts, sampling, seeds, (0, 0), self.tokenizer.decode_all)
        with self._taking_a_turn():
            version = self._sample(requests, done) if len(prompts) else self.version
        return requests.completions(version)

    def stream(self, prompt: np.ndarray, sampling: Sampling, seed: int) -> Iterator[int]:
        """Yield the tokens of one completion, all of which are sampled first."""
        yield from self.generate([prompt], replace(sampling, n=1), [seed])[0][0].token_ids.tolist()

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Load weights under the names of the model's folder."""
        self.pause()
        try:
            self.receive(weights)
            self.apply(version)
        finally:
            self.resume()

    def pause(self) -> None:
        with self._turn:
            self._paused = True
            self._turn.wait_for(lambda: self._sampling == 0)

    def receive(self, bucket: Mapping[str, Tensor]) -> None:
        if self.incoming is None:
            self.incoming = Path(tempfile.mkdtemp(prefix="weights-", dir=self.private))
            self._taken, self._written = (0, 0), (0, 0)
        file = self.incoming / f"bucket-{self._taken[0]:06d}.safetensors"
        self._written = counted(self._written, write_bucket(bucket, file, self._head, self.config.dtype))
        self._taken = counted(self._taken, bucket)

    def apply(self, version: int) -> None:
        if self.incoming is None:
            raise R1kitError("no weights were received")
        folder = self.incoming
        shutil.copyfile(self.current / "config.json", folder / "config.json")
        try:
            if self._process is None or self._restarts():
                self.abort()
                self._start(folder, version)
            else:
                self._running().load(folder, version, self.config.deadline_s)
        except BaseException:
            self.abort()  # what it holds now is unknown
            raise
        before, self.current, self.incoming = self.current, folder, None
        shutil.rmtree(before, ignore_errors=True)
        self.version = version

    def received(self) -> tuple[int, int]:
        """What was received, where the process has exactly what was written of it; else what it has."""
        holds = self._running().holds
        return self._taken if holds == self._written else holds

    def resume(self) -> None:
        if self.incoming is not None:
            shutil.rmtree(self.incoming, ignore_errors=True)
            self.incoming = None
        with self._turn:
            self._paused = False
            self._turn.notify_all()

    def examine(self, token_ids: np.ndarray, temperature: float) -> list[Fingerprint]:
        return []

    def health(self, timeout_s: float) -> str:
        process = self._process
        return process.health(timeout_s) if process is not None else ""

    def abort(self) -> None:
        """End the process. The next call starts one with the weights that were loaded last."""
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def close(self) -> None:
        self.abort()
        shutil.rmtree(self.private, ignore_errors=True)

    def _sample(self, requests: Requests, done: Done | None) -> int:
        """Have the process sample, and write what it reports into ``requests``; return its version."""
        process, sampling = self._running(), requests.sampling
        arrays: dict[str, np.ndarray] = {
            "tokens": np.concatenate(requests.prompts),
            "lengths": np.array([len(prompt) for prompt in requests.prompts], dtype=np.int64),
            "seeds": (requests.keys_R >> np.uint64(1)).astype(np.int64),
        }
        content = {
            "do": "generate", "n": sampling.n, "temperature": sampling.temperature, "top_p": sampling.top_p,
            "top_k": sampling.top_k, "min_p": sampling.min_p, "max_tokens": sampling.max_tokens,
            "stop_ids": list(self.tokenizer.end_ids), "version": process.version,
        }  # fmt: skip
        for answer, found in process.ask(content, save_arrays(arrays), self.config.deadline_s):
            if "completed" in answer:
                self._write(requests, answer["completed"], load_arrays(found))
            if done is not None:
                done(requests.completed(process.version))
        return process.version

    def _write(self, requests: Requests, places: list[int], found: Mapping[str, np.ndarray]) -> None:
        if not np.isfinite(found["logprobs"]).all():
            raise R1kitError(
                "vLLM's log-probabilities are not finite: the weights have diverged, or it computes this "
                "model wrongly"
            )
        n, begin = requests.sampling.n, 0
        rollouts = [place * n + index for place in places for index in range(n)]
        for rollout, length, stopped in zip(rollouts, found["lengths"], found["stopped"], strict=True):
            end = begin + int(length)
            requests.tokens_RT[rollout, :length] = found["tokens"][begin:end]
            requests.logprobs_RT[rollout, :length] = found["logprobs"][begin:end]
            requests.lengths_R[rollout] = length
            requests.finished_R[rollout] = STOP if stopped else FULL
            begin = end
        if requests.sampling.stop:
            requests.cut_at_strings(rollouts)

    @contextmanager
    def _taking_a_turn(self) -> Iterator[None]:
        """Sample while no weights are being loaded."""
        with self._turn:
            self._turn.wait_for(lambda: not self._paused)
            self._sampling += 1
        try:
            yield
        finally:
            with self._turn:
                self._sampling -= 1
                self._turn.notify_all()

    def _restarts(self) -> bool:
        if self.config.reload != "auto":
            return self.config.reload == "restart"
        return self.config.device == "cpu" and bool(self.shape.experts)

    def _running(self) -> VLLMProcess:
        with self._starting:
            return self._process or self._start(self.current, self.version)

    def _start(self, folder: Path, version: int) -> VLLMProcess:
        settings = {
            "version": version,
            "llm": {"model": str(folder), **self.config.arguments(self.shape)},
        }
        program, variables = self.config.interpreter(), self.config.environment(self.shape)
        self._process = VLLMProcess(program, self.private, settings, variables, self.config.start_s)
        return self._process
