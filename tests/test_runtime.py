"""Where it runs: two processes do what one does, and whatever goes wrong in one of them is said at once."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker, spawn
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from forked import Forked
from safetensors.torch import load_file
from small_world import learner_config, model_directory, random_rows
from torch import Tensor
from transformers import AutoModelForCausalLM
from waiting import wait_until

from r1kit.config import ConfigError, R1kitError
from r1kit.model import compile_kernels
from r1kit.model.compile_kernels import SharedKernels
from r1kit.runtime import config_class, start
from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.runtime.replica import with_scalar_head
from r1kit.train import checkpoint
from r1kit.train.objectives import CrossEntropy, Predictions
from r1kit.train.packing import Batch
from r1kit.types import Sampling
from r1kit.watchdog import HungError

pytestmark = pytest.mark.slow

CONFIG = learner_config(learning_rate=1e-2)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("model"))


@pytest.fixture
def one() -> Iterator[LocalRuntime]:
    runtime = LocalRuntime(LocalConfig(processes=1, engine_precision="float32"))
    yield runtime
    runtime.close()


def saved(learner: object, folder: Path) -> dict[str, Tensor]:
    learner.save(folder, {"step": 1})  # type: ignore[attr-defined]
    return load_file(checkpoint.find(folder) / checkpoint.FILE)


def test_twoprocesses_do_what_one_does(
    directory: Path, one: LocalRuntime, two: LocalRuntime, tmp_path: Path
) -> None:
    """One start of two processes for all of it: gradients, log-probabilities, rollouts, resumption."""
    rows, objective = random_rows(13), CrossEntropy(mtp_weight=0.3)
    alone, shared = (runtime.learner(directory, CONFIG) for runtime in (one, two))
    expected, metrics = alone.update(rows, objective, 1.0), shared.update(rows, objective, 1.0)
    assert metrics == pytest.approx(expected, rel=1e-5)
    # After one AdamW step the first moment is a tenth of the gradient.
    first, second = saved(alone, tmp_path / "one"), saved(shared, tmp_path / "two")
    largest = max(float(first[name].abs().max()) for name in first if name.endswith("exp_avg"))
    for name in first:
        if name.endswith("exp_avg"):
            assert float((first[name] - second[name]).abs().max()) < 1e-5 * largest, name

    shared.copy_from(two.learner(directory, CONFIG))
    alone.copy_from(one.learner(directory, CONFIG))
    for found, wanted in zip(shared.logprobs(rows), alone.logprobs(rows), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)

    prompts = [row.token_ids[:5] for row in rows]
    sampling = Sampling(n=3, max_tokens=8, seed=3)
    assert sampled(two.engine(directory).generate(prompts, sampling)) == sampled(
        one.engine(directory).generate(prompts, sampling)
    )

    for learner in (shared, alone):
        assert learner.restore(tmp_path / "two")["step"] == 1
    for step in range(
        2
    ):  # the replicas are still equal: each one's share of the log-probabilities is that of the same model
        shared.update(random_rows(6, seed=step), objective, 1.0)
        alone.update(random_rows(6, seed=step), objective, 1.0)
    for found, wanted in zip(shared.logprobs(rows), alone.logprobs(rows), strict=True):
        np.testing.assert_allclose(found, wanted, atol=5e-3)
    replicas = two.everywhere("call", [(shared.handle, "logprobs", rows)] * 2)
    for found, wanted in zip(*replicas, strict=True):
        np.testing.assert_array_equal(found, wanted)


def sampled(groups: object) -> list[list[list[int]]]:
    return [[completion.token_ids.tolist() for completion in group] for group in groups]  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Breaks(CrossEntropy):
    """A loss that fails in every process but the one of this id."""

    spared: int = 0

    def __call__(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if os.getpid() != self.spared:
            raise ZeroDivisionError("the helper's own fault")
        return super().__call__(predictions, batch)


def test_a_failure_in_a_helper_is_raised_here(directory: Path, two: LocalRuntime) -> None:
    learner = two.learner(directory, CONFIG)
    with pytest.raises(R1kitError, match="the helper's own fault"):
        learner.update(random_rows(4), Breaks(spared=os.getpid()), 1.0)
    two.close()


def test_a_failure_here_does_not_wait_for_the_helper(directory: Path, two: LocalRuntime) -> None:
    learner = two.learner(directory, CONFIG)
    with pytest.raises(ZeroDivisionError):
        learner.update(random_rows(4), Breaks(spared=two.processes[0].pid), 1.0)
    two.close()


def test_a_helper_that_was_killed_is_reported_with_what_to_do(directory: Path, two: LocalRuntime) -> None:
    learner = two.learner(directory, CONFIG)
    os.kill(two.processes[0].pid, signal.SIGKILL)
    two.processes[0].join()
    with pytest.raises(R1kitError, match=r"process 1 of this run has died .* the same command continues"):
        learner.update(random_rows(4), CrossEntropy(), 1.0)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_work_is_dealt_once_and_evenly(size: int) -> None:
    class Sized:
        pass

    runtime = Sized()
    runtime.size = size  # type: ignore[attr-defined]
    lengths = np.random.default_rng(0).integers(1, 100, 40).tolist()
    dealt = LocalRuntime.shared(runtime, lengths)  # type: ignore[arg-type]
    assert sorted(i for own in dealt for i in own) == list(range(40))
    loads = [sum(lengths[i] for i in own) for own in dealt]
    assert max(loads) - min(loads) <= max(lengths)


def test_the_engine_of_a_learner_follows_its_updates(directory: Path, one: LocalRuntime) -> None:
    learner = one.learner(directory, CONFIG)
    follower, fixed = one.engine_of(learner), one.engine(directory)
    prompts, greedy = [row.token_ids[:6] for row in random_rows(6)], Sampling(max_tokens=6, temperature=0.0)
    assert sampled(follower.generate(prompts, greedy)) == sampled(fixed.generate(prompts, greedy))
    for step in range(3):
        learner.update(random_rows(6, seed=step), CrossEntropy(), 1.0)
    follower.load(learner.weights(), 3)
    completions = follower.generate(prompts, greedy)
    assert sampled(completions) != sampled(fixed.generate(prompts, greedy)) and completions[0][0].version == 3
    with pytest.raises(R1kitError, match="only the engine of a learner follows"):
        fixed.load(learner.weights(), 1)


def test_an_export_is_whole_and_replaces_what_was_there(
    directory: Path, one: LocalRuntime, tmp_path: Path
) -> None:
    learner = one.learner(directory, CONFIG)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/stale.safetensors").write_text("left by an attempt that was killed")
    learner.update(random_rows(4), CrossEntropy(), 1.0)
    one.export(learner, tmp_path / "model")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"] and not (
        tmp_path / "model/stale.safetensors"
    ).exists()
    tokens_BT = torch.from_numpy(random_rows(1)[0].token_ids.astype(np.int64))[None]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    ours = one.replica.things[learner.handle].model.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(tokens_BT).logits, ours.logits(ours(tokens_BT).hidden_BTD), atol=1e-4, rtol=1e-4
        )


def test_a_scalar_head_is_added_once_and_leaves_the_rest_alone(one: LocalRuntime, directory: Path) -> None:
    learner = one.learner(directory, CONFIG, scalar_head=True)
    model = one.replica.things[learner.handle].model
    assert model.config.scalar_head and with_scalar_head(model) is model
    plain = one.replica.things[one.learner(directory, CONFIG).handle].model
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in plain.state_dict().items())
    one.release(learner)
    assert learner.handle not in one.replica.things


def test_a_recipe_names_its_runtime() -> None:
    runtime = start(config_class("local")(processes=1))  # type: ignore[call-arg]
    assert runtime.size == 1  # type: ignore[attr-defined]
    runtime.close()
    assert (
        LocalConfig(processes=0).resolved_processes() in range(1, 5)
        and LocalConfig(processes=7, device="cuda").resolved_processes() == 1
    )
    with pytest.raises(ConfigError, match="runtime: unknown kind 'lcoal': did you mean 'local'"):
        config_class("lcoal")


@dataclass(frozen=True)
class Hangs(CrossEntropy):
    """A loss that never comes back in any process but the one of this id."""

    spared: int = 0

    def __call__(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if os.getpid() != self.spared:
            time.sleep(1e6)
        return super().__call__(predictions, batch)


def test_a_helper_that_hangs_is_named_with_its_stacks_and_ended(
    directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runtime = LocalRuntime(LocalConfig(processes=2))
    helper = psutil.Process(runtime.processes[0].pid)
    learner = runtime.learner(directory, CONFIG)
    runtime.config = runtime.config.model_copy(update={"deadline_s": 3.0})
    hanging = (learner.handle, "update", random_rows(4), Hangs(spared=os.getpid()), 1.0)
    with pytest.raises(
        HungError,
        match=r"process 1 of this run has not done its share of 'call' for 3 s .* the same command continues",
    ):
        runtime.everywhere("call", [(learner.handle, "weights"), hanging])
    runtime.close()
    assert not helper.is_running() or helper.status() == psutil.STATUS_ZOMBIE
    printed = capfd.readouterr().err
    assert "still waiting: process 1 of this run" in printed
    assert (
        "test_runtime.py" in printed and "in __call__" in printed
    )  # the helper's stack names the line that it hangs in


def test_a_helper_that_dies_on_its_way_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    start = LocalRuntime.start_helpers

    def started(self: LocalRuntime, place: str) -> list[SharedKernels]:
        kernels = start(self, place)
        self.processes[0].kill()
        return kernels

    monkeypatch.setattr(LocalRuntime, "start_helpers", started)
    with pytest.raises(
        R1kitError, match=r"process 1 of this run has died .* the same command continues the run"
    ):
        LocalRuntime(LocalConfig(processes=2))


@pytest.mark.timeout(60)
def test_a_helper_that_dies_before_it_reads_anything_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With more than a pipe holds in its arguments, the start itself would wait for ever."""
    long = SharedKernels(Path("long.cpp"), "long", bytes(1 << 22))
    monkeypatch.setattr(compile_kernels, "shared", lambda: [long])
    resource_tracker.ensure_running()  # a process of Python's own, which stays
    python = spawn.get_executable()
    spawn.set_executable("/bin/false")
    try:
        with pytest.raises(R1kitError, match=r"process 1 of this run has died"):
            LocalRuntime(LocalConfig(processes=2))
    finally:
        spawn.set_executable(python)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_script_without_a_guard_says_what_is_missing(tmp_path: Path, forked: Forked) -> None:
    recipe = Path(__file__).parents[1] / "recipes/nano.yaml"
    script = tmp_path / "mine.py"
    script.write_text(
        f"import r1kit\nr1kit.run(r1kit.load({str(recipe)!r}, "
        f"['runtime.processes=2', 'out=\"{tmp_path}/run\"']))\n"
    )
    done = forked.run(script)
    assert done.returncode == 1
    assert "Each process imports mine.py at its start" in done.stderr and "__main__" in done.stderr


def test_a_helper_ends_with_its_parent_and_nothing_is_left(tmp_path: Path, forked: Forked) -> None:
    code = (
        "import os, signal\nfrom r1kit.runtime.local import LocalConfig, LocalRuntime\n"
        "if __name__ == '__main__':\n"
        "    runtime = LocalRuntime(LocalConfig(processes=2))\n"
        "    print(runtime.processes[0].pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "parent.py").write_text(code)
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    ended = forked.run(tmp_path / "parent.py", environment=environment)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    wait_until(lambda: not psutil.pid_exists(int(ended.stdout)), "the helper has ended")
    assert not list((tmp_path / "temporary").iterdir())
