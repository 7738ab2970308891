"""A hand-over is one operation: whatever hangs, dies or answers an error in one of its steps ends within the
deadline with an error that names the step, and the next hand-over works."""

import threading
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from small_world import learner_config, model, model_directory, random_rows
from torch import Tensor

from r1kit.config import ConfigError, R1kitError
from r1kit.engine import ALL, Receiver
from r1kit.engine.hand_over import buckets, hand_over
from r1kit.engine.native import NativeEngine
from r1kit.engine.own import completed
from r1kit.model.huggingface import load_pretrained, save_pretrained
from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.train.hand_over import require_trainable
from r1kit.train.learner import Learner
from r1kit.train.objectives import CrossEntropy
from r1kit.types import Sampling
from r1kit.watchdog import HungError

STEPS = {
    "pause": "ended what it was sampling",
    "gather": "the learner gathered",
    "stream": "the weights went to the engine",
    "load": "the engine loaded",
    "check": "asked what it had loaded",
}
WEIGHTS = [(f"w{number}", torch.full((4,), float(number))) for number in range(6)]  # of 16 bytes each


class Elsewhere:
    """A receiver that does ``fault`` once, in the step ``faulty``; a sleeping step ends when it is
    aborted."""

    can = ALL

    def __init__(self, faulty: str = "", fault: str = "") -> None:
        self.faulty, self.fault, self.version = faulty, fault, 0
        self.calls: list[str] = []
        self.weights: dict[str, Tensor] = {}
        self.incoming: dict[str, Tensor] = {}
        self.sampling = True
        self.awake = threading.Event()

    def step(self, name: str) -> None:
        self.calls.append(name)
        if name != self.faulty:
            return
        fault, self.fault = self.fault, ""
        if fault.startswith("sleeps"):
            self.awake.wait(60)
        if fault == "sleeps":
            raise EOFError("aborted")
        if fault == "dies":
            raise EOFError("the connection ended")
        if fault == "answers an error":
            raise R1kitError("out of memory")

    def gathered(self) -> Iterator[tuple[str, Tensor]]:
        yield from WEIGHTS[:3]
        self.step("gather")
        yield from WEIGHTS[3:]

    def pause(self) -> None:
        self.sampling = False
        self.step("pause")

    def receive(self, bucket: Mapping[str, Tensor]) -> None:
        self.step("stream")
        self.incoming |= {name: tensor.clone() for name, tensor in bucket.items()}

    def apply(self, version: int) -> None:
        self.step("load")
        self.weights, self.version = self.incoming, version

    def received(self) -> tuple[int, int]:
        self.step("check")
        return len(self.weights), sum(tensor.nbytes for tensor in self.weights.values())

    def resume(self) -> None:
        self.incoming, self.sampling = {}, True

    def abort(self) -> None:
        self.calls.append("abort")
        self.awake.set()


@pytest.mark.parametrize("fault", ["sleeps", "dies", "answers an error"])
@pytest.mark.parametrize("step", STEPS)
def test_a_fault_in_any_step_is_named_and_the_next_hand_over_works(step: str, fault: str) -> None:
    engine = Elsewhere(step, fault)
    raised = HungError if fault == "sleeps" else R1kitError
    with pytest.raises(raised) as caught:
        hand_over(engine.gathered, engine, 1, 1.0, bucket_bytes=32)
    assert STEPS[step] in str(caught.value) and "version 1" in str(caught.value)
    assert isinstance(caught.value, HungError) == (fault == "sleeps")
    reason = {"dies": "EOFError: the connection ended", "answers an error": "out of memory"}
    assert reason.get(fault, "within 1 s") in str(caught.value)
    assert engine.sampling and "abort" in engine.calls
    assert (engine.version == 1) == (step == "check")  # stamped when the weights are in, and not before
    hand_over(engine.gathered, engine, 2, 30.0, bucket_bytes=32)
    assert engine.version == 2 and engine.sampling
    assert {name: tensor.tolist() for name, tensor in engine.weights.items()} == {
        name: tensor.tolist() for name, tensor in WEIGHTS
    }


def test_a_step_that_wakes_up_after_the_deadline_does_nothing_more() -> None:
    engine = Elsewhere("pause", "sleeps and goes on")
    with pytest.raises(HungError):
        hand_over(engine.gathered, engine, 1, 0.1)
    for thread in threading.enumerate():
        if thread.name == "hand-over":
            thread.join(30)
    assert engine.calls == ["pause", "abort"] and engine.version == 0


def test_an_engine_that_lost_a_tensor_or_keeps_its_version_is_found_out() -> None:
    class Loses(Elsewhere):
        def receive(self, bucket: Mapping[str, Tensor]) -> None:
            super().receive({name: tensor for name, tensor in bucket.items() if name != "w4"})

    class Stays(Elsewhere):
        def apply(self, version: int) -> None:
            super().apply(version - 1)

    for engine, reason in (
        (Loses(), "loaded 5 tensors of 80 bytes, and 6 of 96 were sent"),
        (Stays(), "says that it has version 4, not 5"),
    ):
        with pytest.raises(R1kitError, match=reason):
            hand_over(engine.gathered, engine, 5, 30.0)


def test_no_more_than_a_bucket_and_the_next_tensor_is_held_at_once() -> None:
    alive, most = [0], [0]

    def gone(size: int) -> None:
        alive[0] -= size

    def lazily() -> Iterator[tuple[str, Tensor]]:
        for number in range(40):
            tensor = torch.zeros(1000)
            alive[0] += tensor.nbytes
            most[0] = max(most[0], alive[0])
            weakref.finalize(tensor, gone, tensor.nbytes)
            yield f"w{number}", tensor
            del tensor

    class Keeps(Elsewhere):
        def receive(self, bucket: Mapping[str, Tensor]) -> None:
            self.incoming |= {name: torch.zeros(0) for name in bucket}

        def received(self) -> tuple[int, int]:
            return len(self.weights), 40 * 4000

    hand_over(lazily, Keeps(), 1, 30.0, bucket_bytes=20_000)
    assert 20_000 <= most[0] <= 20_000 + 2 * 4_000
    assert [len(bucket) for bucket in buckets(WEIGHTS, 40)] == [2, 2, 2]
    assert [len(bucket) for bucket in buckets(WEIGHTS, 1)] == [1] * 6  # a larger tensor is a bucket


def test_named_weights_are_those_of_the_folder(tmp_path: Path) -> None:
    """What is handed over loads as the exported folder does: experts apart, a tied head once."""
    from safetensors.torch import load_file

    learner = Learner(model(), learner_config())
    learner.update(random_rows(4), CrossEntropy(), 1.0)
    save_pretrained(learner.model, tmp_path)
    named = dict(learner.named_weights())
    written = load_file(tmp_path / "model.safetensors")
    assert named.keys() == written.keys()
    assert all(torch.equal(named[name], written[name]) for name in named)
    assert not any(tensor.requires_grad for tensor in named.values())
    assert load_pretrained(tmp_path).config == learner.model.config


ENGINE = """
import time
from r1kit.types import Completion

class Bare:
    sleeps = 0.0
    def __init__(self, model, stop_ids):
        self.made_of = model, stop_ids
    def generate(self, prompts, sampling, seeds=None, done=None):
        return [[] for _ in prompts]
    def load(self, weights, version):
        time.sleep(type(self).sleeps)
        self.version = version - LATE
LATE = 0
class Half:
    def __init__(self, model, stop_ids): ...
    def generate(self, prompts, sampling, seeds=None, done=None): ...
def half(model, stop_ids):
    return Half(model, stop_ids)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalRuntime]:
    (tmp_path / "bare.py").write_text(ENGINE)
    monkeypatch.chdir(tmp_path)
    runtime = LocalRuntime(LocalConfig(processes=1, engine="bare.py:Bare"))
    yield runtime
    runtime.close()


@pytest.mark.slow
def test_an_engine_of_ones_own_gets_what_it_lacks_and_a_hung_load_ends(
    own: LocalRuntime, tmp_path: Path
) -> None:
    learner = own.learner(model_directory(tmp_path / "model"), learner_config())
    engine = own.engine_of(learner)
    assert engine.can == {"seeds", "train"} and engine.examine([1, 2], 1.0) == []
    assert engine.health(1.0) == ""
    with pytest.raises(R1kitError, match=r"bare.py:Bare has no stream\(prompt, sampling, seed\)"):
        engine.stream([1], Sampling(), 0)
    with pytest.raises(R1kitError, match=r"bare.py:Bare has no abort\(\), which ends"):
        engine.abort()
    inner = own.replica.things[engine.handle].engine  # type: ignore[attr-defined]
    type(inner).sleeps = 60.0
    with pytest.raises(HungError, match=r"hand-over of version 3: the load of engine bare\.py:Bare"):
        own.hand_over(learner, engine, 3, deadline_s=0.3)
    type(inner).sleeps = 0.0
    own.hand_over(learner, engine, 4)
    assert engine.version == 4
    inner.load = lambda weights, version: None  # keeps its version
    with pytest.raises(R1kitError, match=r"says that it has version 4; take the version in load"):
        own.hand_over(learner, engine, 5)


def test_an_engine_without_a_needed_method_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bare.py").write_text(ENGINE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="another class; an engine is a class with generate and load"):
        LocalConfig.parse({"engine": "bare.py:Half"}, "runtime")
    half = type("Half", (), {"generate": print})
    with pytest.raises(R1kitError, match=r"bare\.py:half made an engine without load: add this method"):
        completed(half(), "bare.py:half")


def test_the_native_engine_shares_its_tensors_and_is_no_receiver() -> None:
    own = model()
    engine = NativeEngine(own, [0])
    engine.load(own.state_dict(), 7)
    assert engine.version == 7 and engine.can == ALL and not isinstance(engine, Receiver)


def test_an_aborted_sampling_ends_and_the_engine_goes_on() -> None:
    engine = NativeEngine(model(), [-1], kernels=False)
    prompts = [row.token_ids[:4] for row in random_rows(2)]
    sampling = Sampling(n=1, max_tokens=40)
    expected = engine.generate(prompts, sampling, [1, 2])

    def abort(_completed: object) -> None:
        engine.abort()

    with pytest.raises(R1kitError, match="aborted"):
        engine.generate(prompts, sampling, [1, 2], abort)
    again = engine.generate(prompts, sampling, [1, 2])
    assert [g[0].token_ids.tolist() for g in again] == [g[0].token_ids.tolist() for g in expected]


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ("natve", "unknown engine 'natve': did you mean 'native'"),
        ({"kind": "vlm"}, "unknown engine 'vlm': did you mean 'vllm'"),
        ({"python": "x"}, "write native, file.py:Name, or a mapping with kind"),
        ({"kind": "native", "dtype": "float32"}, "native has no key 'dtype'; write engine: native"),
        ({"kind": "vllm", "pyton": "x"}, "vllm: unknown key 'pyton': did you mean 'python'"),
        ({"kind": "endpoint", "url": "ftp://x", "model": "m"}, "endpoint: url: .*only http and https are"),
        ({"kind": "endpoint", "url": "http://h/v1", "model": "m", "key_env": "sk-12"}, "the key itself does"),
        (7, "write native, file.py:Name, or a mapping"),
    ],
)
def test_an_engine_that_is_none_is_refused_with_the_fix(given: object, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        LocalConfig.parse({"engine": given}, "runtime")


def test_an_engine_is_a_name_or_a_mapping() -> None:
    assert LocalConfig(engine={"kind": "native"}).engine == "native" == LocalConfig().engine
    given = {"kind": "vllm", "python": "/opt/vllm/bin/python", "tensor_parallel": 2}
    config = LocalConfig.parse({"engine": given}, "runtime")
    written = config.model_dump(mode="json")
    assert written["engine"] | given == written["engine"] and LocalConfig.parse(written, "again") == config
    assert config.kernels()["engine"].startswith("vllm ")
    (path, reason), *_ = config.input_errors()
    assert path == ("engine", "python") and "/opt/vllm/bin/python: no such program" in reason


def test_only_an_engine_with_log_probabilities_is_trained_on() -> None:
    engine = Elsewhere()
    require_trainable(engine)
    engine.can = frozenset({"stream", "seeds"})
    with pytest.raises(ConfigError, match="no log-probabilities to train on; use engine: native or vllm"):
        require_trainable(engine)
