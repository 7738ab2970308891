"""Learners that are shared out over two processes learn what one process learns, states can be restored by
any number of processes, and a process that dies or stops ends the run with a clear error."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from small_world import VOCABULARY, learner_config, model_directory, random_rows, tokenizer
from torch import Tensor
from waiting import LIMIT_S

from r1kit.config import ConfigError, R1kitError
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import load_pretrained, save_pretrained
from r1kit.runtime import config_class
from r1kit.runtime.fsdp import FsdpConfig
from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.runtime.proxies import LearnerProxy
from r1kit.train import checkpoint
from r1kit.train.learner import LearnerConfig
from r1kit.train.objectives import CrossEntropy, Predictions
from r1kit.train.packing import Batch, blank
from r1kit.train.regions import Grid
from r1kit.types import Row, Sampling

pytestmark = pytest.mark.slow

DENSE = ModelConfig(
    family="qwen3", vocab_size=VOCABULARY, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffn_width=48,
    tie_embeddings=True, init_std=0.15, max_positions=512,
)  # fmt: skip
QWEN_EXPERTS = {"family": "qwen3_moe", "experts": 4, "active_experts": 2, "expert_width": 24}
EXACT_MUON = learner_config(
    learning_rate=1e-3, kind="muon", muon_learning_rate=0.01, muon_precision="float32"
)
BOTH_LOSSES = CrossEntropy(mtp_weight=0.3, balance_weight=0.01)


@contextlib.contextmanager
def started(learners: int = 2, deadline_s: float = 300.0, **keys: object) -> Iterator[LocalRuntime]:
    """A runtime of this kind. A process can be in one group at a time, so there is never more than one."""
    config = FsdpConfig(learners=learners, engine_precision="float32", deadline_s=deadline_s, **keys)  # type: ignore[arg-type]
    runtime = config.start()
    try:
        yield runtime
    finally:
        runtime.close()


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Experts, latent attention, multi-token prediction, tied embeddings."""
    return model_directory(tmp_path_factory.mktemp("sparse"))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tied embeddings, norms of each head, fewer heads of keys than of queries."""
    folder = tmp_path_factory.mktemp("dense")
    save_pretrained(LanguageModel(DENSE, seed=1), folder)
    tokenizer().save(folder)
    return folder


@pytest.fixture(scope="module")
def one() -> Iterator[LocalRuntime]:
    runtime = LocalRuntime(LocalConfig(processes=1, engine_precision="float32"))
    yield runtime
    runtime.close()


def same_updates(
    ours: LearnerProxy, theirs: LearnerProxy, rows: list[Row], objective: CrossEntropy, steps: int = 2
) -> None:
    """Updates whose metrics are equal but for rounding, and the same policy afterwards."""
    for step in range(steps):
        expected = theirs.update(rows[step:], objective, 1.0)
        assert ours.update(rows[step:], objective, 1.0) == pytest.approx(expected, rel=1e-5)
    for found, wanted in zip(ours.logprobs(rows), theirs.logprobs(rows), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-3)  # AdamW magnifies rounding near zero


@dataclass(frozen=True)
class Diverging(CrossEntropy):
    """Cross-entropy, and the divergence from a teacher."""

    def __call__(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, statistics = super().__call__(predictions, batch)
        assert predictions.divergence_BT is not None
        return loss + (predictions.divergence_BT * batch.weights_BT).sum(), statistics


@pytest.fixture(scope="class")
def two() -> Iterator[LocalRuntime]:
    with started() as runtime:
        yield runtime


class TestTwoProcesses:
    def test_a_dense_model_learns_the_same(self, one: LocalRuntime, two: LocalRuntime, dense: Path) -> None:
        ours, theirs = (runtime.learner(dense, learner_config(learning_rate=1e-3)) for runtime in (two, one))
        same_updates(ours, theirs, random_rows(9), CrossEntropy())

    def test_experts_and_multi_token_prediction_learn_the_same(
        self, one: LocalRuntime, two: LocalRuntime, sparse: Path
    ) -> None:
        config = learner_config(learning_rate=1e-3).model_copy(update={"bias_rate": 0.001})
        ours, theirs = (runtime.learner(sparse, config) for runtime in (two, one))
        same_updates(ours, theirs, random_rows(13), BOTH_LOSSES)
        name = "layers.1.mlp.gate.e_score_correction_bias"
        assert torch.equal(ours.weights()[name], theirs.weights()[name])
        assert float(ours.weights()[name].abs().sum()) > 0

    @pytest.mark.parametrize("kind", ["muon", "adamw"])
    def test_processes_with_few_rows_or_none_take_part(
        self, one: LocalRuntime, two: LocalRuntime, sparse: Path, kind: str
    ) -> None:
        """One row, and rows of which one process packs three batches and the other fewer."""
        config = learner_config(24, 1, learning_rate=1e-3, kind=kind, muon_learning_rate=1e-3)
        ours, theirs = (runtime.learner(sparse, config) for runtime in (two, one))
        for rows in (random_rows(1), random_rows(5, longest=25)):
            same_updates(ours, theirs, rows, BOTH_LOSSES, steps=1)

    @pytest.mark.parametrize("kind", ["sparse", "dense"])
    def test_muon_in_float32_learns_the_same_for_many_updates(
        self, one: LocalRuntime, two: LocalRuntime, kind: str, request: pytest.FixtureRequest
    ) -> None:
        """Muon gives small directions as much weight as large ones, and so does it to their rounding."""
        ours, theirs = (runtime.learner(request.getfixturevalue(kind), EXACT_MUON) for runtime in (two, one))
        same_updates(ours, theirs, random_rows(19), BOTH_LOSSES if kind == "sparse" else CrossEntropy(), 8)

    def test_recomputing_layers_changes_nothing(self, two: LocalRuntime, sparse: Path) -> None:
        plain = learner_config(learning_rate=1e-3)
        recomputed = plain.model_copy(update={"gradient_checkpointing": True})
        ours, theirs = (two.learner(sparse, config) for config in (recomputed, plain))
        for step in range(2):  # the loads of the experts are among the metrics
            rows = random_rows(9, seed=step)
            assert ours.update(rows, BOTH_LOSSES, 1.0) == theirs.update(rows, BOTH_LOSSES, 1.0)

    def test_values_entropies_and_a_teacher(self, one: LocalRuntime, two: LocalRuntime, sparse: Path) -> None:
        rows, config = random_rows(7), learner_config(learning_rate=1e-3)
        ours, theirs = (runtime.learner(sparse, config, scalar_head=True) for runtime in (two, one))
        for method in ("values", "entropies"):
            pairs = zip(getattr(ours, method)(rows), getattr(theirs, method)(rows), strict=True)
            for found, wanted in pairs:
                np.testing.assert_allclose(found, wanted, atol=2e-5)
        for runtime, learner in ((two, ours), (one, theirs)):
            teacher = runtime.learner(sparse, config)
            teacher.update(rows, CrossEntropy(), 30.0)
            learner.follow(teacher)
        same_updates(ours, theirs, rows, Diverging())
        reference = two.learner(sparse, config)
        reference.copy_from(two.learner(sparse, config))
        first, second = ours.examine(rows[0].token_ids, 1.0)
        assert first.marks == second.marks and len(first.marks) == len(theirs.weights())

    def test_its_engine_samples_from_the_newest_weights_and_its_export_is_whole(
        self, one: LocalRuntime, two: LocalRuntime, sparse: Path, tmp_path: Path
    ) -> None:
        ours, theirs = (runtime.learner(sparse, learner_config(learning_rate=1e-3)) for runtime in (two, one))
        engines = two.engine_of(ours), one.engine_of(theirs)
        for step in range(2):
            prompts = [row.token_ids[:5] for row in random_rows(6)]
            found, wanted = (
                engine.generate(prompts, Sampling(n=2, max_tokens=6, seed=3)) for engine in engines
            )
            for group, expected in zip(found, wanted, strict=True):
                for completion, other in zip(group, expected, strict=True):
                    assert completion.token_ids.tolist() == other.token_ids.tolist()
                    assert completion.version == step
                    np.testing.assert_allclose(completion.logprobs, other.logprobs, atol=1e-4)
            for learner, engine in zip((ours, theirs), engines, strict=True):
                learner.update(random_rows(9), CrossEntropy(), 1.0)
                engine.load(learner.weights(), step + 1)
        two.export(ours, tmp_path / "model")
        exported, weights = load_pretrained(tmp_path / "model").state_dict(), ours.weights()
        assert set(exported) == set(weights)
        assert all(torch.equal(tensor, weights[name]) for name, tensor in exported.items())

    def test_the_rows_at_fault_are_named(self, two: LocalRuntime, sparse: Path) -> None:
        rows = [replace(row, name=f"p{place}") for place, row in enumerate(random_rows(5))]
        rows[1], rows[4] = replace(rows[1], weight=float("nan")), replace(rows[4], weight=float("inf"))
        learner = two.learner(sparse, learner_config())
        assert learner.update(rows, CrossEntropy(), 1.0)["skipped"] == 1
        named = learner.fault().rpartition("rows: ")[2]
        assert sorted(named.split(", ")) == ["p1", "p4"]
        assert learner.update(rows[2:4], CrossEntropy(), 1.0)["skipped"] == 0


def whole_state(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the newest state, put together from the table of its parts; each number is in one."""
    state, found = checkpoint.find(folder), {}
    table = json.loads((state / "state.parts.json").read_text())
    for name, tensor in table["tensors"].items():
        whole, seen = torch.zeros(tensor["shape"]), torch.zeros(tensor["shape"])
        for part in tensor["parts"]:
            ranges = tuple(slice(o, o + n) for o, n in zip(part["offset"], part["size"], strict=True))
            with safe_open(state / part["file"], framework="pt") as file:
                whole[ranges] = file.get_tensor(name)
            seen[ranges] += 1
        assert bool((seen == 1).all()), name
        found[name] = whole
    return found


def test_a_state_is_restored_bit_by_bit_by_any_number_of_processes(sparse: Path, tmp_path: Path) -> None:
    """Saved with experts shared out by two, restored and saved by one, and then by three."""
    states, metrics = [], []
    for number, keys in ((2, {"expert_parallel": 2}), (1, {}), (3, {})):
        with started(number, **keys) as runtime:
            learner = runtime.learner(sparse, learner_config(learning_rate=1e-2))
            if states:
                assert learner.restore(states[-1])["step"] == 1
            else:
                learner.update(random_rows(9), BOTH_LOSSES, 1.0)
            states.append(tmp_path / f"with_{number}")
            learner.save(states[-1], {"step": 1})
            metrics.append(learner.update(random_rows(5, seed=9), BOTH_LOSSES, 1.0))
    first, *others = (whole_state(state) for state in states)
    assert any(name.startswith("exp_avg_sq.") and float(tensor.max()) > 0 for name, tensor in first.items())
    for other in others:
        assert set(first) == set(other)
        assert all(torch.equal(tensor, other[name]) for name, tensor in first.items())
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-5)
    assert metrics[2] == pytest.approx(metrics[0], rel=1e-5)


def test_experts_shared_out_compute_what_whole_ones_compute(
    one: LocalRuntime, sparse: Path, tmp_path: Path
) -> None:
    rows, config = random_rows(9), learner_config(learning_rate=1e-3)
    with started() as runtime:
        expected = runtime.learner(sparse, config).logprobs(rows)
    with started(expert_parallel=2) as runtime:
        learner = runtime.learner(sparse, config)
        for found, wanted in zip(learner.logprobs(rows), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
        same_updates(learner, one.learner(sparse, config), rows, BOTH_LOSSES)
        ours, theirs = (place.learner(sparse, EXACT_MUON) for place in (runtime, one))
        same_updates(ours, theirs, random_rows(19), BOTH_LOSSES, 8)
        # Norms of heads, which every process computes whole; and a model that has no experts to share out.
        for family in ("qwen3_moe", "qwen3"):
            folder = tmp_path / family
            shape = DENSE.model_copy(update=QWEN_EXPERTS if family == "qwen3_moe" else {})
            save_pretrained(LanguageModel(shape, seed=2), folder)
            tokenizer().save(folder)
            ours, theirs = (place.learner(folder, config) for place in (runtime, one))
            same_updates(ours, theirs, rows, CrossEntropy())


def test_heads_shared_out_learn_the_same(one: LocalRuntime, dense: Path, sparse: Path) -> None:
    rows, config = random_rows(9), learner_config(learning_rate=1e-3, grad_clip=0.5)
    with started(tensor_parallel=2) as runtime:
        same_updates(runtime.learner(dense, config), one.learner(dense, config), rows, CrossEntropy())
        ours, theirs = (place.learner(dense, EXACT_MUON) for place in (runtime, one))
        same_updates(ours, theirs, random_rows(19), CrossEntropy(), 8)
        with pytest.raises(R1kitError, match=r"tensor_parallel is 2.*leave the key out"):
            runtime.learner(sparse, config)


def test_what_is_not_supported_is_refused(sparse: Path) -> None:
    config = LearnerConfig.parse({"lora": {"rank": 2}}, "learner")
    with started(1) as runtime, pytest.raises(R1kitError, match=r"learner\.lora.*kind: local"):
        runtime.learner(sparse, config)
    kind = config_class("fsdp")
    for keys in (
        {"learners": 3, "expert_parallel": 2},
        {"learners": 4, "expert_parallel": 2, "tensor_parallel": 2},
    ):
        with pytest.raises(ConfigError, match=r"no multiple|cannot be combined"):
            kind.parse({"kind": "fsdp", **keys}, "runtime")


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGKILL, "has died"), (signal.SIGSTOP, "has not done its share")]
)
def test_a_process_that_dies_or_stops_ends_the_call(
    sparse: Path, number: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline of torch's group is the runtime's. It is also that of the start, for which it has to be
    long; so it is shortened afterwards, in both."""
    join, deadlines = dist.init_process_group, []

    def joined(*arguments: Any, **keys: Any) -> None:
        deadlines.append(keys["timeout"])
        join(*arguments, **keys)

    monkeypatch.setattr(dist, "init_process_group", joined)
    with started(deadline_s=300.0) as runtime:
        assert deadlines == [timedelta(seconds=300)]
        learner = runtime.learner(sparse, learner_config())
        learner.update(random_rows(5), CrossEntropy(), 1.0)
        if number == signal.SIGSTOP:
            dist.group.WORLD.set_timeout(timedelta(seconds=3))
            runtime.config = runtime.config.model_copy(update={"deadline_s": 3.0})
        os.kill(runtime.processes[0].pid, number)
        with pytest.raises(R1kitError, match=rf"process 1 of this run {said}.*same command continues"):
            learner.update(random_rows(5), CrossEntropy(), 1.0)


@pytest.mark.parametrize(
    "starter", [[], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]], ids=str
)
def test_a_program_ends_as_others_do(sparse: Path, tmp_path: Path, starter: list[str]) -> None:
    """With processes of its own, and with those that torchrun has started."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom pathlib import Path\nfrom r1kit.runtime.fsdp import FsdpConfig\n"
        "from r1kit.train.learner import LearnerConfig\n"
        "if __name__ == '__main__':\n"
        "    config = FsdpConfig(learners=2)\n"
        "    config.follow()\n"
        "    runtime = config.start()\n"
        "    learner = runtime.learner(Path(sys.argv[1]), LearnerConfig())\n"
        "    print(len(learner.weights()['norm.weight']))\n"
        "    runtime.close()\n"
    )
    command = [sys.executable, *starter, str(program), str(sparse)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert ended.returncode == 0 and int(ended.stdout) > 0, ended.stderr
    assert "terminate called" not in ended.stderr


@pytest.mark.parametrize(
    "grid",
    [
        Grid(1),
        Grid(3),
        Grid(4, "expert", 2),
        Grid(4, "tensor", 2),
        Grid(2, "tensor", 2),
        Grid(8, "expert", 4),
    ],
)
def test_every_number_of_a_tensor_is_written_by_one_process(grid: Grid) -> None:
    shapes = {
        "embed_tokens.weight": (10, 6), "norm.weight": (6,), "layers.0.self_attn.q_proj.weight": (8, 6),
        "layers.0.self_attn.o_proj.weight": (6, 8), "layers.1.mlp.experts.down_proj": (8, 6, 4),
        "layers.1.input_layernorm.weight": (6,), "mtp_layers.0.mlp.experts.up_proj": (8, 4, 6),
        "value_head.weight": (1, 6),
    }  # fmt: skip
    for name, shape in shapes.items():
        held, written = torch.zeros(shape), torch.zeros(shape)
        for rank in range(grid.size):
            ranges = grid.region(name, shape, rank).ranges()
            held[ranges] += 1
            written[ranges] += grid.writes(name, rank)
        assert bool((held == grid.copies(name)).all()), name
        assert bool((written == 1).all()), name


def test_a_batch_without_rows_has_no_trained_and_no_counted_position() -> None:
    batch = blank()
    assert not batch.mask_BT.any() and not batch.segments_BT.any() and bool((batch.rows_BT == -1).all())
