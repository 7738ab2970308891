"""The client of a vLLM engine against a process that is none (fake_vllm.py): protocol, weights, faults. What
vLLM itself computes is in tests/with_vllm/."""

import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import fake_vllm
import numpy as np
import psutil
import pytest
import torch
from forked import Forked
from safetensors.torch import load_file
from small_world import learner_config, model, model_directory
from waiting import LIMIT_S, wait_until

from r1kit.config import R1kitError
from r1kit.engine.hand_over import hand_over
from r1kit.engine.vllm import VLLMConfig, VLLMEngine
from r1kit.model.huggingface import load_pretrained
from r1kit.train.learner import Learner
from r1kit.types import Sampling
from r1kit.watchdog import HungError

pytestmark = pytest.mark.slow

PROMPTS = [np.array([10 * number, 5], dtype=np.int32) for number in range(1, 4)]
SAMPLING = Sampling(n=3, max_tokens=4)
QWEN = {
    "preset": "student",
    "vocab_size": 320,
    "width": 32,
    "layers": 1,
    "heads": 2,
    "head_dim": 16,
    "ffn_width": 32,
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(fake_vllm.program(tmp_path_factory.mktemp("vllm")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("model"), **QWEN)


@pytest.fixture
def engine(program: str, folder: Path) -> Iterator[VLLMEngine]:
    made = VLLMConfig(python=program, dtype="float32", deadline_s=60.0).connect(folder)
    yield made
    made.close()


def servers() -> list[psutil.Process]:
    found = []
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):  # of other tests
            if "vllm_server.py" in " ".join(one.cmdline()):
                found.append(one)
    return found


def test_ids_go_in_and_ids_with_logprobs_come_out_in_order(engine: VLLMEngine) -> None:
    reported: dict[int, int] = {}

    def done(completed: dict[int, list[object]]) -> None:
        for place, group in completed.items():
            assert place not in reported
            reported[place] = len(group)

    groups = engine.generate(PROMPTS, SAMPLING, [7, 8, 9], done)  # type: ignore[arg-type]
    assert reported == {0: 3, 1: 3, 2: 3}
    lengths = set()
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for one in group:
            ids = one.token_ids.tolist()
            assert ids == ([*range(prompt[0], prompt[0] + len(ids) - 1), 2] if one.finish == "stop" else ids)
            assert ids[0] == prompt[0] and one.logprobs.tolist() == [-float(token) for token in ids]
            assert one.finish == ("stop" if ids[-1] == 2 else "length") and one.version == 0
            lengths.add(len(ids))
    assert len(lengths) > 1
    (alone,) = engine.generate(PROMPTS[1:2], SAMPLING, [8])  # a prompt's seed, not its place, counts
    assert [one.token_ids.tolist() for one in alone] == [one.token_ids.tolist() for one in groups[1]]
    assert list(engine.stream(PROMPTS[1], SAMPLING, 8)) == groups[1][0].token_ids.tolist()
    assert engine.can == {"stream", "train"} and engine.health(30.0) == ""
    with pytest.raises(R1kitError, match="replay_experts: false"):
        engine.generate(PROMPTS, Sampling(experts=True))


@pytest.mark.parametrize("reload", ["in_place", "restart"])
def test_new_weights_arrive_whole_under_disk_names_and_old_ones_are_removed(
    program: str, folder: Path, reload: str
) -> None:
    engine = VLLMConfig(python=program, dtype="float32", reload=reload).connect(folder)
    try:
        learner = Learner(load_pretrained(folder), learner_config())
        with torch.no_grad():
            learner.model.norm.weight.add_(1.0)
        hand_over(learner.named_weights, engine, 0, 60.0)  # the first start is with these weights
        first = engine.generate(PROMPTS[:1], SAMPLING, [1])[0][0]
        (process,) = servers()
        hand_over(learner.named_weights, engine, 5, 60.0, bucket_bytes=10_000)
        assert engine.version == 5 and first.version == 0
        assert engine.generate(PROMPTS[:1], SAMPLING, [1])[0][0].version == 5
        assert (servers() == [process]) == (reload == "in_place")
        (written,) = Path(engine.private).glob("weights-*")
        buckets = sorted(written.glob("bucket-*.safetensors"))
        assert len(buckets) > 1 and (written / "config.json").is_file()
        found = {name: tensor for file in buckets for name, tensor in load_file(file).items()}
        assert learner.model.config.tie_embeddings  # so the embedding is written as the head, too
        expected = dict(learner.named_weights())
        expected["lm_head.weight"] = expected["model.embed_tokens.weight"]
        assert '"tie_word_embeddings": false' in (written / "config.json").read_text()
        assert found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in found)
        hand_over(learner.named_weights, engine, 6, 60.0)
        assert len(list(Path(engine.private).glob("weights-*"))) == 1
        assert oct(Path(engine.private).stat().st_mode & 0o777) == "0o700"
    finally:
        engine.close()
    assert servers() == [] and not Path(engine.private).exists()


def test_a_prefix_cache_that_stays_fails_the_hand_over_and_the_engine_keeps_its_weights(
    engine: VLLMEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = Learner(load_pretrained(folder), learner_config())
    monkeypatch.setenv("VLLM_FAKE_CACHE", "stays")
    assert engine.generate(PROMPTS[:1], SAMPLING, [1])[0][0].version == 0
    with pytest.raises(
        R1kitError, match=r"while the engine loaded the weights: .* prefix cache of the older"
    ):
        hand_over(learner.named_weights, engine, 5, 60.0)
    assert engine.version == 0
    assert engine.generate(PROMPTS[:1], SAMPLING, [1])[0][0].version == 0
    monkeypatch.delenv("VLLM_FAKE_CACHE")
    engine.abort()
    hand_over(learner.named_weights, engine, 6, 60.0)
    assert engine.generate(PROMPTS[:1], SAMPLING, [1])[0][0].version == 6


@pytest.mark.parametrize(
    ("token", "raised", "message"),
    [
        (97, HungError, r"no answer to 'generate' within 2 s"),
        (98, R1kitError, r"process has ended \(exit code -9\); the same command continues"),
        (99, R1kitError, r"ValueError: a fault of the engine"),
    ],
)
def test_a_fault_amid_sampling_is_an_error_and_never_an_empty_completion(
    engine: VLLMEngine, token: int, raised: type[R1kitError], message: str
) -> None:
    engine.config = engine.config.model_copy(update={"deadline_s": 2.0})
    with pytest.raises(raised, match=message):
        engine.generate([PROMPTS[0], np.array([token], dtype=np.int32)], SAMPLING, [1, 2])
    engine.abort()
    engine.config = engine.config.model_copy(update={"deadline_s": 60.0})
    assert len(engine.generate(PROMPTS, SAMPLING, [1, 2, 3])) == 3


def test_a_stopped_process_ends_at_the_deadline_and_the_next_hand_over_starts_another(
    engine: VLLMEngine, folder: Path
) -> None:
    learner = Learner(load_pretrained(folder), learner_config())
    engine.generate(PROMPTS, SAMPLING, [1, 2, 3])
    (process,) = servers()
    process.send_signal(signal.SIGSTOP)
    assert "no answer to 'health' within 0.5 s" in engine.health(0.5)
    with pytest.raises(HungError, match="while the engine loaded the weights"):
        hand_over(learner.named_weights, engine, 1, 2.0)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    hand_over(learner.named_weights, engine, 2, 60.0)
    assert engine.generate(PROMPTS[:1], SAMPLING, [1])[0][0].version == 2


def test_sampling_waits_while_weights_are_loaded_and_loading_waits_for_sampling(engine: VLLMEngine) -> None:
    engine.generate(PROMPTS, SAMPLING, [1, 2, 3])
    engine.pause()
    ended = threading.Event()

    def sample() -> None:
        engine.generate(PROMPTS, SAMPLING, [1, 2, 3])
        ended.set()

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    assert not ended.wait(0.5)
    engine.resume()
    assert ended.wait(LIMIT_S)

    def paused(_completed: object) -> None:
        other = threading.Thread(target=engine.pause, daemon=True)
        other.start()
        other.join(0.2)
        waited.append(other.is_alive())

    waited: list[bool] = []
    engine.generate(PROMPTS[:1], SAMPLING, [1], paused)
    assert waited and all(waited)


def test_a_model_that_does_not_start_shows_the_log(program: str, folder: Path) -> None:
    engine = VLLMConfig(python=program).connect(folder)
    (engine.current / "unreadable").write_text("")
    try:
        with pytest.raises(R1kitError, match=r"(?s)exit code 1.*RuntimeError: cannot read this model"):
            engine.generate(PROMPTS, SAMPLING)
        with pytest.raises(R1kitError, match="process has ended"):
            engine.config = engine.config.model_copy(update={"python": sys.executable})
            engine.generate(PROMPTS, SAMPLING)
    finally:
        engine.close()


def test_it_ends_with_its_parent_and_leaves_nothing(program: str, folder: Path, forked: Forked) -> None:
    code = (
        "import os, signal, sys, numpy as np, psutil\n"
        "from pathlib import Path\n"
        "from r1kit.engine.vllm import VLLMConfig\nfrom r1kit.types import Sampling\n"
        f"engine = VLLMConfig(python={program!r}).connect(Path({str(folder)!r}))\n"
        "engine.generate([np.array([3, 4])], Sampling(max_tokens=2), [1])\n"
        "(child,) = psutil.Process().children()\n"
        "secrets = [name for name in child.environ() if 'KEY' in name or 'TOKEN' in name]\n"
        "print(child.pid, secrets, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with tempfile.TemporaryDirectory() as short:  # a socket's path has a limit
        keys = {"OPENAI_API_KEY": "sk-1234", "HF_TOKEN": "hf-1234"}
        ended = forked.run("-c", code, environment={**os.environ, "TMPDIR": short, **keys})
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        number, _, secrets = ended.stdout.partition(" ")
        assert secrets.strip() == "[]"
        wait_until(lambda: not psutil.pid_exists(int(number)), "the process has ended")
        assert not list(Path(short).glob("r1kit-vllm-*"))


def test_deepseeks_conditions_are_met(program: str, tmp_path: Path) -> None:
    """A head of its own where it is tied, no MLA but for 512 + 64, and no custom ops on a CPU."""
    directory = model_directory(tmp_path / "nano")
    small, config = model(), VLLMConfig(python=program)
    assert small.config.tie_embeddings and config.environment(small.config)["VLLM_MLA_DISABLE"] == "1"
    fits = small.config.model_copy(update={"kv_rank": 512, "rope_dim": 64})
    assert "VLLM_MLA_DISABLE" not in config.environment(fits)
    assert config.arguments(fits)["compilation_config"] == {"custom_ops": ["none"]}
    assert "compilation_config" not in config.model_copy(update={"device": "cuda"}).arguments(fits)
    engine = config.connect(directory)
    try:
        content = (engine.current / "config.json").read_text()
        assert '"topk_method": "noaux_tc"' in content and '"tie_word_embeddings": false' in content
        head = load_file(engine.current / "head.safetensors")["lm_head.weight"]
        embedding = load_file(directory / "model.safetensors")["model.embed_tokens.weight"]
        assert torch.equal(head, embedding)
        engine.receive({"model.embed_tokens.weight": embedding + 1})
        (file,) = engine.incoming.glob("*")  # type: ignore[union-attr]
        assert load_file(file)["lm_head.weight"].dtype == torch.bfloat16
    finally:
        engine.close()
