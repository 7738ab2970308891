"""A Ray cluster on this machine: what two learners and two engines do is what two processes of the local
runtime do, also where engines die, stop or fail."""

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_world import learner_config, model_directory, random_rows
from waiting import LIMIT_S

from r1kit.config import ConfigError, R1kitError
from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.runtime.ray import RayConfig, RayRuntime
from r1kit.runtime.ray_actors import buckets, pack, unpack
from r1kit.runtime.ray_group import require_equal
from r1kit.runtime.ray_sandbox import Sandboxes
from r1kit.sandbox import Job, nodes, run_jobs
from r1kit.train import checkpoint
from r1kit.train.objectives import CrossEntropy
from r1kit.types import Completion, Sampling

CONFIG = learner_config(learning_rate=1e-2)
SAMPLING = Sampling(n=3, max_tokens=12)

# An engine that does what a file says, once, in the middle of sampling: the process that removes the file.
ENGINE = """
import os, signal
from pathlib import Path
from typing import Any
from r1kit.engine.native import NativeEngine

ORDER = Path({order!r})


class Trouble(NativeEngine):
    def __init__(self, model, stop_ids):
        super().__init__(model, stop_ids)

    def generate(self, prompts, sampling, seeds=None, done=None):
        def disturbed(completed):
            try:
                order = ORDER.read_text()
                ORDER.unlink()
            except FileNotFoundError:
                return
            if order == "raise":
                raise ZeroDivisionError("the engine's own fault")
            os.kill(os.getpid(), getattr(signal, order))
        return super().generate(prompts, sampling, seeds, disturbed)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return model_directory(folder / "model")


@pytest.fixture(scope="module")
def ray(folder: Path) -> Iterator[RayRuntime]:
    (folder / "trouble.py").write_text(ENGINE.format(order=str(folder / "order")))
    engine = f"{folder / 'trouble.py'}:Trouble"
    runtime = RayConfig(learners=2, engines=2, engine=engine, engine_precision="float32").start()
    yield runtime
    runtime.close()


def tokens(groups: Sequence[Sequence[Completion]]) -> list[tuple[list[int], bytes, int]]:
    return [
        (one.token_ids.tolist(), one.logprobs.tobytes(), one.version) for group in groups for one in group
    ]


@pytest.mark.slow
def test_learners_and_engines_do_what_those_of_two_local_processes_do(
    ray: RayRuntime, model: Path, two: LocalRuntime, tmp_path: Path
) -> None:
    """Bit by bit: updates, log-probabilities, hand-over, completions, states and exports."""
    rows, objective, prompts = random_rows(13), CrossEntropy(mtp_weight=0.3), prompts_of(13)
    runtimes: list[Any] = [ray, two]
    learners = [runtime.learner(model, CONFIG) for runtime in runtimes]
    engines = [runtime.engine_of(learner) for runtime, learner in zip(runtimes, learners, strict=True)]
    for version in range(1, 3):
        first, second = (learner.update(rows, objective, 1.0) for learner in learners)
        assert first == second and first["grad_norm"] > 0
        ray.hand_over(learners[0], engines[0], version)
        engines[1].load(learners[1].weights(), version)
        found, wanted = (tokens(engine.generate(prompts, SAMPLING)) for engine in engines)
        assert found == wanted and {seen for _, _, seen in found} == {version}
    for one, other in zip(*(learner.logprobs(rows) for learner in learners), strict=True):
        np.testing.assert_array_equal(one, other)
    weights, wanted_weights = (learner.weights() for learner in learners)
    assert list(weights) == list(wanted_weights)
    name = max(weights, key=lambda one: wanted_weights[one].numel())
    assert torch.equal(weights[name], wanted_weights[name]) and "another" not in weights
    states = []
    for name, learner in zip("ab", learners, strict=True):
        learner.save(tmp_path / name, {"step": 2}, {"text": "kept"}, {"reference": learner})
        states.append(load_file(checkpoint.find(tmp_path / name) / checkpoint.FILE))
    assert states[0].keys() == states[1].keys() and len(states[0]) > 10
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    for learner in learners:
        learner.update(random_rows(5, seed=1), objective, 1.0)
        assert learner.restore(tmp_path / "b")["step"] == 2
    assert learners[0].update(rows, objective, 1.0) == learners[1].update(rows, objective, 1.0)
    for runtime, learner, name in zip(runtimes, learners, "ab", strict=True):
        runtime.export(learner, tmp_path / f"model-{name}")
    files = [(tmp_path / f"model-{name}/model.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1] != (model / "model.safetensors").read_bytes()
    ray.release(learners[0], engines[0])


def prompts_of(count: int) -> list[np.ndarray]:
    return [row.token_ids[:3] for row in random_rows(count, seed=4)]


@pytest.mark.slow
@pytest.mark.parametrize("order", ["SIGKILL", "SIGSTOP", "raise"])
def test_an_engine_that_is_lost_while_it_samples_changes_no_byte(
    ray: RayRuntime, model: Path, folder: Path, order: str, capfd: pytest.CaptureFixture[str]
) -> None:
    engine, prompts, seeds = ray.engine(model), prompts_of(16), list(range(16))
    wanted = tokens(engine.generate(prompts, SAMPLING, seeds))
    before = [member.pid for member in ray.pool.members]
    (folder / "order").write_text(order)
    ray.pool.config = ray.pool.config.model_copy(update={"deadline_s": 8.0 if order == "SIGSTOP" else 600.0})
    reported: dict[int, list[Completion]] = {}
    found = engine.generate(prompts, SAMPLING, seeds, reported.update)
    ray.pool.config = ray.pool.config.model_copy(update={"deadline_s": 600.0})
    assert not (folder / "order").exists()
    assert tokens(found) == wanted == tokens([reported[place] for place in range(16)])
    assert "was lost" in capfd.readouterr().err
    assert tokens(engine.generate(prompts, SAMPLING, seeds)) == wanted
    assert engine.health(LIMIT_S) == ""  # waits for the new process
    after = [member.pid for member in ray.pool.members]
    lost = [pid for pid in before if pid not in after]
    assert lost and 0 not in after
    for pid in lost:  # a stopped process, too, is gone
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    ray.release(engine)


@pytest.mark.slow
def test_what_is_wrong_with_a_prompt_is_said_and_replaces_no_engine(ray: RayRuntime, model: Path) -> None:
    engine = ray.engine(model)
    before = [member.actor for member in ray.pool.members]
    with pytest.raises(R1kitError, match="prompt 0 is empty"):
        engine.generate([np.zeros(0, dtype=np.int32)], SAMPLING, [1])
    assert [member.actor for member in ray.pool.members] == before
    with pytest.raises(R1kitError, match="2 prompts came with 1 seeds"):
        engine.generate(prompts_of(2), SAMPLING, [1])
    with pytest.raises(R1kitError, match="only the engine of a learner follows"):
        ray.hand_over(ray.learner(model, CONFIG), engine, 1)
    assert engine.generate([], SAMPLING, []) == []
    assert list(engine.stream(prompts_of(1)[0], Sampling(n=1, max_tokens=5), 7)) == (
        engine.generate(prompts_of(1), Sampling(n=1, max_tokens=5), [7])[0][0].token_ids.tolist()
    )
    ray.release(engine)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 4)])
def test_a_tensor_is_the_same_after_the_store(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.randn(shape) * 3).to(dtype)
    again = unpack(pack(tensor))
    assert again.dtype == dtype and again.shape == tensor.shape and torch.equal(again, tensor)
    across = torch.arange(6.0).reshape(2, 3).T.to(dtype)
    assert torch.equal(unpack(pack(across)), across)


def test_buckets_hold_every_tensor_once_and_no_more_than_they_may() -> None:
    weights = {f"w{number}": torch.zeros(number + 1) for number in range(9)} | {"large": torch.zeros(50)}
    found = buckets(weights.items(), 40)
    assert [name for bucket in found for name in bucket] == list(weights)
    for bucket in found:
        size = sum(packed.content.nbytes for packed in bucket.values())
        assert size <= 40 or list(bucket) == ["large"]
    assert len(found) < len(weights)
    assert buckets([], 40) == []


def test_a_recipe_says_where_the_cluster_is() -> None:
    assert (
        RayConfig.parse({"kind": "ray", "learners": 2, "address": "10.0.0.1:6379"}, "runtime").learners == 2
    )
    for address in ("10.0.0.1", "auto", ":6379", "host:port"):
        with pytest.raises(ConfigError, match="is no address: write local, or HOST:PORT"):
            RayConfig.parse({"kind": "ray", "address": address}, "runtime")
    with pytest.raises(ConfigError, match="unknown engine 'nativ'"):
        RayConfig.parse({"kind": "ray", "engine": "nativ"}, "runtime")
    assert RayConfig(learners=3, engines=5).resolved_processes() == 3
    assert RayConfig().kernels() == LocalConfig().kernels()


def test_processes_of_other_versions_are_refused() -> None:
    same = {"python": "3.11.7", "torch": "2.13.0"}
    require_equal([("a", same), ("b", dict(same))])
    with pytest.raises(R1kitError, match=r"torch is 2\.12\.0 on b, 2\.13\.0 on a: install the same"):
        require_equal([("a", same), ("a", same), ("b", {**same, "torch": "2.12.0"})])
    with pytest.raises(R1kitError, match="ray is None on b"):
        require_equal([("a", {**same, "ray": "2.60.0"}), ("b", same)])


def test_programs_are_judged_on_a_node_and_here_where_it_is_lost(
    ray: RayRuntime, capfd: pytest.CaptureFixture[str]
) -> None:
    """The only node of this cluster is the driver's own, which otherwise gets no second sandbox."""
    assert ray.sandboxes.nodes == []
    tests = [{"args": [2], "expected": 4}]
    jobs = [Job(f"def f(x):\n    return x * {n}", tests, "function", "f") for n in (2, 3, 2, 5, 2, 2)]
    wanted = ["correct", "wrong", "correct", "wrong", "correct", "correct"]
    found = Sandboxes(ray.cluster, ray.config, ray.cluster.nodes()[:1])
    try:
        (node,) = found.nodes
        assert node.size >= 1
        answered = node.begin(jobs)()
        assert answered is not None and [verdict.outcome for verdict in answered] == wanted
        assert [verdict.outcome for verdict in run_jobs(jobs)] == wanted and found.nodes == nodes.registered()
        ray.cluster.end(node.actor, 0)
        assert [verdict.outcome for verdict in run_jobs(jobs)] == wanted
        assert "a node's sandbox was lost" in capfd.readouterr().err and nodes.registered() == []
    finally:
        found.close()
