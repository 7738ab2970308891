"""One copy of weights and moments for all processes: what they learn, save and resume is what separate copies
do, bit for bit."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import Summing, learner_config, model, model_directory, random_rows, same_weights
from torch import Tensor

from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.train.learner import Learner
from r1kit.train.objectives import CrossEntropy
from r1kit.train.shared_state import deal
from r1kit.types import Row

CONFIG = learner_config(learning_rate=1e-2, weight_decay=0.1)


class Two:
    """Two learners in two threads, whose sums meet in ``reduce``."""

    def __init__(self, file: str = "", seed: int = 1) -> None:
        self._barrier, self._given = threading.Barrier(2), [torch.zeros(0), torch.zeros(0)]
        self.learners = [
            Learner(model(seed), CONFIG, Summing(self._reduce(rank), rank, 2), file) for rank in range(2)
        ]

    def _reduce(self, rank: int) -> Callable[[Tensor], Tensor]:
        def add(flat: Tensor) -> Tensor:
            self._given[rank] = flat.clone()
            self._barrier.wait()
            total = self._given[0] + self._given[1]
            self._barrier.wait()
            return total

        return add

    def each(self, work: Callable[[int, Learner], Any]) -> None:
        threads = [
            threading.Thread(target=work, args=(rank, learner)) for rank, learner in enumerate(self.learners)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def steps(self, first: int, last: int) -> None:
        for step in range(first, last):
            rows: list[Row] = random_rows(6, seed=step)

            def update(rank: int, learner: Any, rows: list[Row] = rows) -> object:
                return learner.update(rows[rank::2], CrossEntropy(), 1.0)

            self.each(update)


def test_two_processes_on_one_copy_learn_what_two_copies_learn(tmp_path: Path) -> None:
    apart, together = Two(), Two(str(tmp_path / "weights"))
    for pair in (apart, together):
        pair.steps(0, 4)
    assert same_weights(together.learners[0].model, apart.learners[0].model)
    assert same_weights(together.learners[1].model, apart.learners[0].model)
    for name, parameter in together.learners[0].model.named_parameters():
        other = dict(together.learners[1].model.named_parameters())[name]
        parameter.data.flatten()[0] += 1  # what one writes the other reads
        assert torch.equal(parameter, other), name
    assert together.learners[0].version == 4


def test_a_state_saved_by_one_process_resumes_bit_for_bit(tmp_path: Path) -> None:
    straight, first = Two(str(tmp_path / "a")), Two(str(tmp_path / "b"))
    straight.steps(0, 5)
    first.steps(0, 2)
    first.learners[0].save(tmp_path, {"step": 2})
    for file in (str(tmp_path / "c"), ""):
        second = Two(file, seed=9)
        second.each(lambda rank, learner: learner.restore(tmp_path))
        second.steps(2, 5)
        assert same_weights(second.learners[0].model, straight.learners[0].model)


def test_a_learner_that_never_steps_has_no_moments(tmp_path: Path) -> None:
    pair = Two(str(tmp_path / "weights"))
    pair.learners[0].save(tmp_path, {"step": 0})
    assert not any(optimizer.state for learner in pair.learners for optimizer in learner.optimizers)
    (file,) = (tmp_path / "train_state").rglob("state.safetensors")
    weights = sum(p.nbytes for p in pair.learners[0].parameters)
    assert weights <= file.stat().st_size < 1.2 * weights + 20_000


@pytest.mark.parametrize("counts", [[5, 1, 1, 3], [1], [2, 2, 2, 2, 2], list(range(1, 40))])
def test_parts_have_about_the_same_sum_and_every_index_once(counts: list[int]) -> None:
    dealt = deal(counts, 2)
    assert sorted(index for part in dealt for index in part) == list(range(len(counts)))
    sums = [sum(counts[index] for index in part) for part in dealt]
    assert abs(sums[0] - sums[1]) <= max(counts)


def test_processes_map_one_copy_and_release_it(tmp_path: Path) -> None:
    folder = model_directory(tmp_path / "base")
    earlier = Path("/proc/self/maps").read_text().count("memfd:r1kit-weights")  # of other tests
    runtime = LocalRuntime(LocalConfig(processes=2, engine_precision="float32"))
    learner = runtime.learner(folder, CONFIG)
    learner.update(random_rows(6), CrossEntropy(), 1.0)
    pids = [process.pid for process in runtime.processes]
    mapped = "memfd:r1kit-weights"
    assert all(mapped in Path(f"/proc/{pid}/maps").read_text() for pid in ("self", *pids))
    runtime.release(learner)
    assert not any(mapped in Path(f"/proc/{pid}/maps").read_text() for pid in pids)
    assert Path("/proc/self/maps").read_text().count(mapped) <= earlier
    muon = runtime.learner(folder, learner_config(kind="muon"))
    assert Path("/proc/self/maps").read_text().count(mapped) <= earlier
    runtime.release(muon)
    runtime.close()
