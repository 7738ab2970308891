"""Replaying an update: shares of the gradient against autograd token by token and finite differences, numbers
against what the training logged."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_world import full_logprobs, learner_config, model, model_directory, quiet_log, tokenizer
from torch import Tensor

from r1kit.chat import Chat
from r1kit.commands.why import Compared, explain, in_words
from r1kit.commands.why_page import MOST_BYTES, page
from r1kit.config import ConfigError
from r1kit.data.mixture import Mixture
from r1kit.engine.native import NativeEngine
from r1kit.model.decoder import LanguageModel
from r1kit.records import DamageError, StageRecord, mark_outputs, stage_folder
from r1kit.rewards import WeightedReward
from r1kit.tasks import load_tasks
from r1kit.train.grpo import GRPO, GRPOConfig, rows_of
from r1kit.train.kept_updates import (
    KeepConfig,
    KeptUpdate,
    UpdateKeeper,
    kept_steps,
    read_update,
    state_bytes,
)
from r1kit.train.learner import Learner, LearnerConfig
from r1kit.train.replay import replay
from r1kit.train.rl_loop import train
from r1kit.train.rollouts import Phase, Policy
from r1kit.types import Completion, Problem, Rollout, Row, Score

EXACT = LearnerConfig(context=64, lines=4, precision="float64", head="float32")
KEYS: dict[str, Any] = {
    "problems": 2,
    "group": 4,
    "max_tokens": 12,
    "steps": 6,
    "save_every": 1,
    "updates_per_rollout": 1,
    "reference_refresh": 3,
}


def sampled_group(policy: LanguageModel, number: int, rewards: Sequence[float], far: float) -> Any:
    """Rollouts of random tokens, whose probabilities of sampling differ from the policy's by up to
    ``far``."""
    rng = np.random.default_rng(number)
    asked = Problem(f"p{number}", "chain", "?", "1")
    rollouts = []
    for index, _ in enumerate(rewards):
        prompt = rng.integers(5, 300, 3).astype(np.int32)
        ids = rng.integers(5, 300, int(rng.integers(2, 6))).astype(np.int32)
        row = Row(np.concatenate([prompt, ids]), np.ones(3 + len(ids), dtype=bool), 1.0)
        with torch.no_grad():
            own_T = full_logprobs(policy, row)[2:].numpy()
        old_T = (own_T + rng.uniform(-far, far, len(ids))).astype(np.float32)
        rollouts.append(Rollout(asked, index, prompt, Completion(ids, old_T, "stop"), "", None, None, number))
    return rollouts, [Score(reward, {"accuracy": reward}) for reward in rewards]


def update_of(policy: LanguageModel, config: GRPOConfig, far: float) -> KeptUpdate:
    groups = [sampled_group(policy, 1, (1.0, 0.0, 0.0), far), sampled_group(policy, 2, (0.0, 1.0, 0.5), far)]
    part = Phase([rollouts for rollouts, _ in groups], [scores for _, scores in groups], 2, 1)
    return KeptUpdate(Path(), 0, 3, {}, {"accuracy": 1.0}, part, True, True, 0, "init")


def entropies(policy: LanguageModel, row: Row) -> Tensor:
    tokens_BT = torch.from_numpy(row.token_ids.astype(np.int64))[None]
    logs_TV = policy.logits(policy(tokens_BT[:, :-1]).hidden_BTD)[0].log_softmax(-1)
    return -(logs_TV.exp() * logs_TV).sum(-1)


def token_losses(policy: LanguageModel, rows: Sequence[Row], config: GRPOConfig) -> list[list[Tensor]]:
    """GRPO's loss (2402.03300, eq. 3) written out, token by token, for each row."""
    found = []
    for row in rows:
        logprobs_T, entropy_T = full_logprobs(policy, row), entropies(policy, row)
        terms = []
        for place in np.nonzero(row.mask)[0].tolist():
            assert row.old_logprobs is not None
            advantage, own = float(row.advantage), logprobs_T[place - 1]
            ratio = torch.exp(own - float(row.old_logprobs[place]))
            bounded = ratio.clamp(1 - config.epsilon, 1 + config.epsilon)
            loss = -torch.minimum(ratio * advantage, bounded * advantage)
            if row.ref_logprobs is not None:
                log_ref = float(row.ref_logprobs[place]) - own
                loss = loss + config.beta * (torch.exp(log_ref) - log_ref - 1)
            loss = loss - config.entropy_bonus * entropy_T[place - 1]
            terms.append(loss * float(np.float32(row.weight)))
        found.append(terms)
    return found


def flat_gradient(loss: Tensor, weights: Sequence[Tensor]) -> Tensor:
    found = torch.autograd.grad(loss, list(weights), retain_graph=True, allow_unused=True)
    zeros = [torch.zeros_like(weight) for weight in weights]
    return torch.cat(
        [(zero if one is None else one).flatten() for one, zero in zip(found, zeros, strict=True)]
    )


@pytest.mark.parametrize(
    "keys",
    [{}, {"beta": 0.3}, {"entropy_bonus": 0.2}, {"beta": 0.3, "entropy_bonus": 0.2, "aggregation": "token"}],
)
def test_shares_are_those_of_autograd_token_by_token(keys: dict[str, Any]) -> None:
    config = GRPOConfig(**{**KEYS, "beta": 0.0, "epsilon": 0.2, **keys})
    plain = model().double()
    reference = Learner(model(seed=2), EXACT) if config.beta else None
    policy = Policy(Learner(model(), EXACT), None, None, reference)  # type: ignore[arg-type]
    update = update_of(plain, config, far=0.5)
    rows = rows_of(policy, update.part, config, update.weights, update.seed)
    weights = [weight for weight in plain.parameters() if weight.requires_grad]
    terms = token_losses(plain, rows, config)
    own = [[flat_gradient(loss, weights) for loss in of_row] for of_row in terms]
    whole = torch.stack([g for of_row in own for g in of_row]).sum(0)
    expected = {
        row.name: [float(g @ whole / (whole @ whole)) for g in of_row]
        for row, of_row in zip(rows, own, strict=True)
    }
    found = replay(policy, Learner(model(), EXACT), update, config)
    assert found.exact_norm == pytest.approx(float(whole.norm()), rel=1e-6)
    clipped = 0
    for one in (one for group in found.groups for one in group):
        name = "/".join(map(str, one.rollout.key))
        assert one.trained == (name in expected)
        assert one.share_T == pytest.approx(expected.get(name, [0.0] * len(one.share_T)), abs=2e-6)
        clipped += int(one.clipped_T.sum())
    assert sum(float(one.share_T.sum()) for group in found.groups for one in group) == pytest.approx(
        1.0, abs=1e-5
    )
    assert clipped  # so the bound is tested too


def test_a_share_is_what_a_step_along_the_gradient_changes() -> None:
    config = GRPOConfig(**{**KEYS, "beta": 0.0, "epsilon": 0.2})
    plain = model().double()
    policy = Policy(Learner(model(), EXACT), None, None)  # type: ignore[arg-type]
    update = update_of(plain, config, far=0.05)
    rows = rows_of(policy, update.part, config, update.weights, update.seed)
    weights = [weight for weight in plain.parameters() if weight.requires_grad]
    loss = torch.stack([term for of_row in token_losses(plain, rows, config) for term in of_row]).sum()
    gradient = flat_gradient(loss, weights)
    norm, start = float(gradient.norm()), 0
    changes = []
    for sign in (1, -1):
        moved, start = model().double(), 0
        with torch.no_grad():
            for weight in (weight for weight in moved.parameters() if weight.requires_grad):
                size = weight.numel()
                weight.add_(gradient[start : start + size].view_as(weight), alpha=sign * 1e-4 / norm)
                start += size
        changes.append([float(term.detach()) for term in token_losses(moved, rows, config)[0]])
    slopes = (np.array(changes[0]) - np.array(changes[1])) / 2e-4
    found = replay(policy, Learner(model(), EXACT), update, config)
    shares = {"/".join(map(str, one.rollout.key)): one.share_T for group in found.groups for one in group}
    assert shares[rows[0].name] == pytest.approx(slopes / norm, rel=1e-3, abs=1e-7)


def even_ids(rollouts: Sequence[Rollout]) -> list[float | None]:
    return [float(np.mean(r.completion.token_ids % 2 == 0)) for r in rollouts]


def train_a_stage(run: Path, keep: KeepConfig | None, **keys: Any) -> None:
    """Train the stage ``zero`` of a run from the stage ``base``, as the stages do."""
    init = model_directory(run / "stages" / "base" / "model", init_std=0.05)
    config = GRPOConfig(**{**KEYS, "beta": 0.05, "epsilon": 0.2, "why": keep or KeepConfig(), **keys})
    settings = learner_config(context=96, learning_rate=1e-2)
    folder = stage_folder(run, "zero")
    record = StageRecord(
        stage="r1_zero",
        name="zero",
        config={"init": "@base", "learner": settings.model_dump(mode="json")},
        setting={"runtime": {"threads": torch.get_num_threads(), "processes": 1}},
    )
    folder.begin(record)
    learner, reference = (Learner(model(init_std=0.05), settings) for _ in range(2))
    engine = NativeEngine(learner.model, [tokenizer().eos_id])
    policy = Policy(learner, engine, Chat(tokenizer()), reference)
    mixture = Mixture(load_tasks({"chain": {"weight": 1, "size": 40}}), "train", 5)
    log = quiet_log(run, "zero")
    rewards = [WeightedReward("even", 1.0, even_ids)]
    size = state_bytes(init, settings)
    keeper = UpdateKeeper(folder.partial, config.why, config, {"even": 1.0}, config.steps, size, log)
    train(GRPO(config, policy, rewards), mixture, 7, log, folder.partial, keeper=keeper if keep else None)
    log.sync()
    learner.save(folder.partial, {"step": config.steps, "drawn": 0})
    finished = {"finished": 1.0, "outputs": mark_outputs(folder.partial)}
    folder.write(record.model_copy(update=finished))
    folder.finish()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("why") / "run"
    train_a_stage(folder, KeepConfig(updates=3, at=(4,)))
    return folder


@pytest.mark.parametrize("step", [0, 2, 4, 5])
def test_the_numbers_are_those_of_the_training(run: Path, step: int) -> None:
    found = explain(run, "zero", step, None)
    names = {one.name: one for one in found.compared}
    assert {
        "reward/mean", "policy/loss", "policy/kl_ref", "policy/clipped", "policy/entropy", "optim/grad_norm",
        "sampling/logp_gap_mean", "advantage of rollout 0",
    } <= names.keys()  # fmt: skip
    assert [one for one in found.compared if one.verdict != "equal"] == []
    assert names["optim/grad_norm"].logged > 0 and (names["policy/kl_ref"].logged > 1e-9) == (step != 0)
    assert found.exact_norm == pytest.approx(names["optim/grad_norm"].found, rel=1e-3)
    assert sum(share for _, _, share in found.shares) == pytest.approx(1.0, abs=1e-5)


def test_the_probabilities_after_an_update_are_those_before_the_next(run: Path) -> None:
    first, second = explain(run, "zero", 4, None), explain(run, "zero", 5, None)
    weights = []
    for step, kept in ((4, first), (5, second)):
        assert kept.step == step
        weights.append(read_update(run / "stages" / "zero", step))
    settings = learner_config(context=96, learning_rate=1e-2)
    learner = Learner(model(init_std=0.05), settings)
    learner.restore(weights[1].folder)
    for one in first.rollouts:
        row = Row(
            np.concatenate([one.rollout.prompt_ids, one.rollout.completion.token_ids]),
            np.arange(len(one.rollout.prompt_ids) + len(one.after_T)) >= len(one.rollout.prompt_ids),
            1.0,
        )
        assert learner.logprobs([row])[0][row.mask] == pytest.approx(one.after_T, abs=1e-5)
        assert not np.allclose(one.before_T, one.after_T, atol=1e-4)


def test_keeping_updates_changes_no_number_and_no_weight(run: Path, tmp_path: Path) -> None:
    train_a_stage(tmp_path / "without", None)
    assert kept_steps(tmp_path / "without" / "stages" / "zero") == []
    rows = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (run, tmp_path / "without")
    ]
    for with_updates, without in zip(*rows, strict=True):
        timed = {name for name in with_updates if name.startswith("time")}
        assert {k: v for k, v in with_updates.items() if k not in timed} == {
            k: v for k, v in without.items() if k not in timed
        }
    states = [
        (folder / "stages/zero/train_state/step_00000006/state.safetensors").read_bytes()
        for folder in (run, tmp_path / "without")
    ]
    assert states[0] == states[1]


def test_an_error_lists_what_is_there(run: Path, tmp_path: Path) -> None:
    for asked, words in (
        (("zero", 3, None), ("0, 2, 4, 5", "nearest is --step 2", "at: [3]")),
        (("zero", None, None), ("0, 2, 4, 5",)),
        (("zer", 0, None), ("did you mean zero?", "--stage zero --step 0, 2, 4, 5")),
        (("zero", 0, "nothing"), ("'nothing'", "chain/")),
        (("zero", 0, "chain/"), ("2 problems",)),
    ):
        with pytest.raises(ConfigError) as error:
            explain(run, *asked)
        for word in words:
            assert word in str(error.value)
    for folder, match in ((tmp_path / "none", "no such folder"), (tmp_path, "no stage has kept an update")):
        with pytest.raises(ConfigError, match=match):
            explain(folder, None, None, None)
    whole = explain(run, None, 0, None).problem.id
    assert explain(run, "zero", 0, whole[:-1]).problem.id == whole


def test_a_damaged_file_is_named(run: Path, tmp_path: Path) -> None:
    for name in (
        "rollouts.jsonl",
        "rollouts.safetensors",
        "update.json",
        "train_state/step_00000002/state.safetensors",
    ):
        copy = tmp_path / name.replace("/", "-")
        shutil.copytree(run, copy)
        file = copy / "stages" / "zero" / "updates" / "step_00000002" / name
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        with pytest.raises(DamageError, match=name.rpartition("/")[2]):
            explain(copy, "zero", 2, None)
        if name.startswith("rollouts"):  # noticed before the stage has finished, too
            with pytest.raises(DamageError, match=name):
                read_update(copy / "stages" / "zero", 2)
        assert explain(copy, "zero", 0, None).step == 0


@pytest.mark.parametrize(
    "name", ["", "update.json", "rollouts.jsonl", "train_state/step_00000002/state.safetensors"]
)
def test_a_resumed_training_refuses_what_was_damaged_since(tmp_path: Path, name: str) -> None:
    config = GRPOConfig(**KEYS, why=KeepConfig(updates=2, at=(2,)))
    update = update_of(model().double(), config, far=0.1)
    learner = Learner(model(), EXACT)
    policy = Policy(learner, None, None)  # type: ignore[arg-type]
    log = quiet_log(tmp_path, "zero")
    keeper = UpdateKeeper(tmp_path, config.why, config, {}, 6, 1000, log)
    for step in (0, 1, 2):
        keeper.keep(step, 1, update.part, policy, update.part, 0)
    assert kept_steps(tmp_path) == [0, 2]
    keeper.check(6)
    damaged = tmp_path / "updates" / "step_00000002" / name
    if name:
        damaged.write_bytes(damaged.read_bytes()[:-3] + b"xyz")
    else:
        shutil.rmtree(damaged)
    keeper.check(2)  # the update of step 2 will be made and kept again
    with pytest.raises(DamageError, match="step_00000002"):
        keeper.check(3)


def test_a_training_goes_on_where_an_update_cannot_be_kept(tmp_path: Path) -> None:
    said: list[str] = []
    log = quiet_log(tmp_path, "zero")
    log.info = said.append  # type: ignore[method-assign, assignment]
    (tmp_path / "updates").write_text("a file in the place of the folder")
    config = GRPOConfig(**KEYS)
    keeper = UpdateKeeper(tmp_path, config.why, config, {}, 6, 1, log)
    update = update_of(model().double(), config, far=0.1)
    policy = Policy(Learner(model(), EXACT), None, None)  # type: ignore[arg-type]
    for step in (0, 2):
        keeper.keep(step, 1, update.part, policy, update.part, 0)
    assert len(said) == 1 and "the training goes on" in said[0]


def test_without_space_for_a_state_the_rewards_and_advantages_are_shown(tmp_path: Path) -> None:
    train_a_stage(tmp_path / "run", KeepConfig(updates=2, megabytes=0))
    last = explain(tmp_path / "run", "zero", 5, None)
    assert not last.has_gradient and any(one.name == "reward/mean" for one in last.compared)
    assert all(one.verdict == "equal" for one in last.compared) and last.rollouts[0].advantage is not None
    assert "were not kept" in "\n".join(in_words(last)) and "log p" not in "\n".join(in_words(last))
    assert "Their tokens" not in page(last)
    assert explain(tmp_path / "run", "zero", 0, None).has_gradient


def test_the_page_is_one_file_in_which_nothing_is_html(run: Path) -> None:
    found = explain(run, "zero", 2, None)
    hostile = "<script>alert(1)</script>"
    long = found.__class__(
        **{name: getattr(found, name) for name in found.__dataclass_fields__}
        | {"pieces": [[hostile] * len(texts) for texts in found.pieces], "notes": [hostile], "run": hostile}
    )
    text = page(long)
    assert "<script" not in text and "&lt;script&gt;" in text
    for word in ("http:", "https:", "src=", "url(", "@import", "<link"):
        assert word not in text
    assert len(text.encode()) <= MOST_BYTES
    assert "\n".join(in_words(found)).count("  equal") == len(found.compared)


def test_a_page_of_long_rollouts_stays_small(run: Path) -> None:
    found = explain(run, "zero", 2, None)
    one = found.rollouts[0]
    fields = {name: getattr(one, name) for name in one.__dataclass_fields__}
    grown = one.__class__(
        **{n: np.tile(v, 4000) if isinstance(v, np.ndarray) else v for n, v in fields.items()}
    )
    whole = found.__class__(
        **{name: getattr(found, name) for name in found.__dataclass_fields__}
        | {"rollouts": [grown] * 16, "pieces": [["汉" * 60] * len(grown.share_T)] * 16}
    )
    text = page(whole)
    assert len(text.encode()) <= MOST_BYTES and "more tokens" in text


@pytest.mark.parametrize(
    ("keep", "steps", "expected"),
    [
        (KeepConfig(), 90, [0, 30, 59, 89]),
        (KeepConfig(), 2, [0, 1]),
        (KeepConfig(updates=0), 90, []),
        (KeepConfig(updates=1, at=(37, 90, -1)), 90, [0, 37]),
        (KeepConfig(updates=0, at=(3,)), 4, [3]),
    ],
)
def test_updates_are_spread_over_the_training(keep: KeepConfig, steps: int, expected: list[int]) -> None:
    assert keep.steps(steps) == expected


def test_states_stay_within_their_space_those_asked_for_first() -> None:
    keep = KeepConfig(updates=4, at=(37,), megabytes=10)
    assert keep.with_state(90, 10_000_000) == {0, 37}
    assert keep.with_state(90, 5_000_000) == {0, 37, 89}
    assert keep.with_state(90, 10_000_001) == {0}


def test_numbers_are_compared_with_both_results() -> None:
    assert Compared("a", 1.0, 1.0).verdict == "equal"
    assert Compared("a", 1.0, 1.0 + 1e-7).verdict == "equal to rounding"
    assert Compared("a", 1.0, 1.01).verdict == "differs"
    assert Compared("a", 0.0, 1e-3).verdict == "differs" and not math.isnan(Compared("a", 0, 0).found)
