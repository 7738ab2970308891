"""Supervised training: what is trained, in which order, and that an interruption changes nothing."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import (
    VOCABULARY,
    KilledError,
    Mortal,
    Spied,
    full_logprobs,
    learner_config,
    quiet_log,
    random_rows,
    same_weights,
)

from r1kit.train import checkpoint, supervised
from r1kit.train.objectives import CrossEntropy
from r1kit.train.optimizers import ScheduleConfig
from r1kit.train.supervised import (
    BatchRamp,
    SupervisedConfig,
    epochs_of,
    finetune,
    response_row,
    text_row,
    update_batches,
    weighted,
)
from r1kit.types import Row


def test_a_document_trains_all_but_its_first_token_and_a_response_all_of_its_own() -> None:
    assert text_row(np.array([5, 6, 7])).mask.tolist() == [False, True, True]
    row = response_row(np.array([5, 6]), np.array([7, 1]))
    assert row.token_ids.tolist() == [5, 6, 7, 1] and row.mask.tolist() == [False, False, True, True]


def test_the_loss_of_an_update_is_the_mean_over_its_trained_tokens() -> None:
    spied, rows = Spied(), random_rows(7)
    with torch.no_grad():
        logprobs = [full_logprobs(spied.model.train(), row)[torch.from_numpy(row.mask[1:])] for row in rows]
    spied.model.adjust_biases(0.0)
    metrics = spied.learner.update(weighted(rows), CrossEntropy(), 0.0)
    assert metrics["loss"] == pytest.approx(-float(torch.cat(logprobs).mean()), rel=1e-5)


def test_updates_take_every_row_in_order_until_they_are_full() -> None:
    rows = random_rows(20)
    batches = list(update_batches(iter(rows), repeat(50)))
    assert [row for batch in batches for row in batch] == rows
    for batch in batches[:-1]:
        lengths = [len(row.token_ids) for row in batch]
        assert sum(lengths) >= 50 > sum(lengths[:-1])
    assert list(update_batches(iter([]), repeat(50))) == []
    rising = list(update_batches(iter(rows), iter([20, 60, 1000])))
    assert sum(len(row.token_ids) for row in rising[0]) < 50 < sum(len(row.token_ids) for row in rising[1])


def test_a_ramp_raises_the_size_of_updates_in_proportion_to_the_tokens_before() -> None:
    ramped = SupervisedConfig(batch_tokens=100, ramp=BatchRamp(start=20, tokens=160))
    sizes = list(islice(ramped.sizes(), 20))
    for place, size in enumerate(sizes):  # the formula: start + (full - start) x tokens before / ramp
        assert size == round(20 + 80 * min(1.0, sum(sizes[:place]) / 160))
    assert sizes[:3] == [20, 30, 45] and sizes[-1] == 100
    for tokens in (1, 19, 20, 49, 50, 94, 95, 400, 1234):  # as many as are full, one at least
        totals = [sum(sizes[:count]) for count in range(1, 20)]
        steps = max(1, sum(total <= tokens for total in totals))
        assert ramped.updates_of(tokens) == (steps, totals[steps - 1])
    plain = SupervisedConfig(batch_tokens=100)
    assert [plain.updates_of(tokens) for tokens in (9, 399, 400)] == [(1, 100), (3, 300), (4, 400)]
    assert plain.updates_of(14_800_000_000_000) == (148_000_000_000, 14_800_000_000_000)


def test_an_epoch_takes_every_row_once_in_an_order_of_its_own() -> None:
    rows = random_rows(12)
    place = {id(row): i for i, row in enumerate(rows)}
    orders = np.array([place[id(row)] for row in epochs_of(rows, 3, 1)]).reshape(3, 12).tolist()
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert [place[id(row)] for row in epochs_of(rows, 1.25, 1)] == [*orders[0], *orders[1][:3]]
    assert [place[id(row)] for row in epochs_of(rows, 3, 2)] != [i for order in orders for i in order]


def _stream(start: int) -> Iterator[list[Row]]:
    return (random_rows(3, seed=step) for step in range(start, 1000))


CONFIG = SupervisedConfig(schedule=ScheduleConfig(kind="wsd", warmup=2), mtp_weight=0.3, mtp_every=2)
SAVING = CONFIG.model_copy(update={"save_every": 3})


def test_a_training_that_was_killed_continues_bit_for_bit(tmp_path: Path) -> None:
    optimizer = learner_config(kind="muon")
    straight, broken, resumed = (Mortal(Spied(optimizer, seed=seed).model, optimizer) for seed in (1, 1, 1))
    supervised.train(straight, _stream, 6, SAVING, quiet_log(tmp_path / "a"), _folder(tmp_path / "a"))
    broken.dies_at = 4
    with pytest.raises(KilledError):
        supervised.train(broken, _stream, 6, SAVING, quiet_log(tmp_path / "b"), _folder(tmp_path / "b"))
    assert checkpoint.progress_of(tmp_path / "b")["step"] == 3
    supervised.train(resumed, _stream, 6, SAVING, quiet_log(tmp_path / "b"), tmp_path / "b")
    assert same_weights(straight.model, resumed.model) and resumed.version == 6
    assert _losses(tmp_path / "a") == _losses(tmp_path / "b")


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _losses(run: Path) -> list[str]:
    return [line.split('"loss"')[1] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_schedule_and_the_multi_token_loss_follow_the_step(tmp_path: Path) -> None:
    class Recorder:
        seen: list[tuple[float, float]] = []

        def update(self, rows: Sequence[Row], objective: CrossEntropy, scale: float) -> Mapping[str, float]:
            self.seen.append((objective.needs.mtp_weight, scale))
            return {"nats": 8.0, "tokens": 4.0, "grad_norm": 1.0, "mtp": 1.0, "skipped": 0.0}

        def save(self, directory: Path, progress: Mapping[str, int]) -> None:
            raise AssertionError("six steps are not 200")

    recorder = Recorder()
    last = supervised.train(recorder, _stream, 6, CONFIG, quiet_log(tmp_path), tmp_path)  # type: ignore[arg-type]
    assert recorder.seen == [(0.3 * (step % 2 == 0), CONFIG.schedule.scale(step, 6)) for step in range(6)]
    assert last["loss"] == 2.0


@pytest.mark.slow
def test_fine_tuning_learns_its_responses_by_heart(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [response_row(rng.integers(0, VOCABULARY, 4), rng.integers(0, VOCABULARY, 5)) for _ in range(4)]
    spied = Spied(learner_config(learning_rate=1e-2), init_std=0.05)
    config = SupervisedConfig(epochs=60, batch_tokens=30)
    last = finetune(spied.learner, rows, config, 0, quiet_log(tmp_path), tmp_path)
    assert last["loss"] < 0.3 < np.log(VOCABULARY)
    assert finetune(spied.learner, [], config, 0, quiet_log(tmp_path), tmp_path) == {}
