"""GRPO against hand computation, finite differences, and enumeration of a tiny vocabulary."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import KilledError, Mortal, Spied, learner_config, model, quiet_log, same_weights, tokenizer
from torch import Tensor

from r1kit.chat import Chat
from r1kit.config import ConfigError
from r1kit.data.mixture import Mixture
from r1kit.engine.native import NativeEngine
from r1kit.rewards import Failure, WeightedReward
from r1kit.tasks import load_tasks
from r1kit.train import checkpoint
from r1kit.train.advantage_rows import Recomputed, make_rows, policy_row
from r1kit.train.grpo import GRPO, GRPOConfig
from r1kit.train.learner import Learner
from r1kit.train.packing import pack
from r1kit.train.policy_loss import PolicyLoss, PolicyLossConfig
from r1kit.train.rl_loop import train
from r1kit.train.rollouts import Phase, Policy, collect, describe, judge, records
from r1kit.types import Completion, Problem, Rollout, Score

NAN = float("nan")


def make_group(
    problem: str, rewards: Sequence[float], lengths: Sequence[int]
) -> tuple[list[Rollout], list[Score]]:
    asked = Problem(problem, "chain", "?", "1")
    rollouts = []
    for index, length in enumerate(lengths):
        completion = Completion(
            np.arange(10, 10 + length, dtype=np.int32), np.full(length, -1.5, dtype=np.float32), "stop"
        )
        rollouts.append(
            Rollout(asked, index, np.array([1, 2, 3], dtype=np.int32), completion, "", None, None)
        )
    return rollouts, [Score(reward, {"accuracy": reward}) for reward in rewards]


def test_groups_without_variance_are_left_out_but_still_count_in_the_normalisation() -> None:
    even, same = make_group("even", [1, 1], [4, 6])
    uneven, differ = make_group("uneven", [1, 0], [2, 8])
    for aggregation, expected in (
        ("token", [1 / 20] * 2),
        ("rollout", [1 / 8, 1 / 32]),
        ("constant", [1 / 40] * 2),
    ):
        config = GRPOConfig(beta=0.0, advantage="group_mean", aggregation=aggregation, max_tokens=10)
        rows = make_rows(Phase([even, uneven], [same, differ], 2, 1), config, {}, Recomputed(), 0)
        assert [row.advantage for row in rows] == [0.5, -0.5]
        assert [row.weight for row in rows] == pytest.approx(expected)
    blank = [np.zeros(3 + n, dtype=np.float32) for n in (4, 6, 2, 8)]
    with_penalty = make_rows(
        Phase([even, uneven], [same, differ], 2, 1), GRPOConfig(beta=0.1), {}, Recomputed(blank), 0
    )
    assert [row.advantage for row in with_penalty][:2] == [0, 0] and len(with_penalty) == 4


def test_a_rollout_that_could_not_be_judged_is_never_trained_on() -> None:
    group, scores = make_group("p", [1, NAN, 0], [2, 3, 4])
    references = [np.zeros(3 + n, dtype=np.float32) for n in (2, 3, 4)]
    for beta in (0.0, 0.1):
        rows = make_rows(Phase([group], [scores], 1, 1), GRPOConfig(beta=beta), {}, Recomputed(references), 0)
        assert [len(row.token_ids) for row in rows] == [5, 7]


def test_a_policy_row_is_the_prompt_and_the_very_ids_that_were_sampled() -> None:
    rollout = make_group("p", [1], [4])[0][0]
    row = policy_row(rollout, 0.5, 0.25)
    assert (
        row.token_ids.tolist() == [1, 2, 3, 10, 11, 12, 13] and row.mask.tolist() == [False] * 3 + [True] * 4
    )
    assert row.old_logprobs is not None and row.old_logprobs.tolist() == [0] * 3 + [-1.5] * 4
    assert (row.advantage, row.weight) == (0.5, 0.25)


def test_the_description_counts_groups_that_teach_nothing() -> None:
    groups, scores = zip(
        *(make_group(f"p{i}", rewards, [2, 4]) for i, rewards in enumerate(([1, 1], [1, 0], [NAN, 0]))),
        strict=True,
    )
    found = describe(Phase(list(groups), list(scores), 3, 1))
    assert found["reward/mean"] == pytest.approx(3 / 5) and found["reward/zero_std_groups"] == pytest.approx(
        2 / 3
    )
    assert found["completions/mean_length"] == 3 and found["completions/max_length"] == 4


def test_the_entropy_in_the_log_is_that_of_the_whole_distribution() -> None:
    spied = Spied()
    rollouts, _ = make_group("p", [1, 0], [5, 9])
    rows = [
        policy_row(rollout, advantage=advantage, weight=0.1)
        for rollout, advantage in zip(rollouts, (0.5, -0.5), strict=True)
    ]
    expected = 0.0
    for row in rows:
        with torch.no_grad():
            logits_TV = spied.model.logits(
                spied.model(torch.from_numpy(row.token_ids[:-1].astype(np.int64))[None]).hidden_BTD
            )[0]
        expected += float(
            torch.distributions.Categorical(logits=logits_TV[torch.from_numpy(row.mask[1:])]).entropy().sum()
        )
    assert spied.learner.update(rows, PolicyLoss(PolicyLossConfig()), 0.0)["entropy"] == pytest.approx(
        expected, rel=1e-4
    )


def even_ids(rollouts: Sequence[Rollout]) -> list[float | None]:
    return [float(np.mean(r.completion.token_ids % 2 == 0)) for r in rollouts]


class RemoteEngine(NativeEngine):
    """An engine with weights of its own, as on another machine: it follows the learner only through
    ``load``."""

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        super().load({name: tensor.clone() for name, tensor in weights.items()}, version)


def run_training(config: GRPOConfig, out: Path, dies_at: int = -1) -> Mortal:
    out.mkdir(exist_ok=True)
    settings = learner_config(context=96, learning_rate=1e-2)
    learner = Mortal(model(init_std=0.05), settings)
    learner.dies_at = dies_at
    engine = RemoteEngine(model(init_std=0.05), [tokenizer().eos_id])
    reference = Learner(model(init_std=0.05), settings) if config.beta else None
    policy = Policy(learner, engine, Chat(tokenizer()), reference)
    mixture = Mixture(load_tasks({"chain": {"weight": 1, "size": 40}}), "train", 5)
    algorithm = GRPO(config, policy, [WeightedReward("even", 1.0, even_ids)])
    train(algorithm, mixture, 7, quiet_log(out), out)
    return learner


@pytest.mark.slow
@pytest.mark.parametrize(("beta", "refills"), [(0.0, 0), (0.1, 0), (0.0, 2)])
def test_a_training_that_was_killed_continues_bit_for_bit(beta: float, refills: int, tmp_path: Path) -> None:
    """The reference is refreshed twice: what a resumed training compares with must be what it was. With
    dynamic sampling the problems that come next depend on how many were drawn."""
    shape = {
        "problems": 2,
        "group": 3,
        "max_tokens": 6,
        "updates_per_rollout": 2,
        "reference_refresh": 3,
        "save_every": 1,
    }
    config = GRPOConfig(steps=8, beta=beta, epsilon=0.2, dynamic_sampling=refills, **shape)
    straight = run_training(config, tmp_path / "a")
    with pytest.raises(KilledError):
        run_training(config, tmp_path / "b", dies_at=5)
    assert checkpoint.progress_of(tmp_path / "b")["step"] == 4
    resumed = run_training(config, tmp_path / "b")
    assert same_weights(straight.model, resumed.model) and resumed.version == 8
    checkpoint.discard(tmp_path / "b")
    assert not list((tmp_path / "b").glob("reference_*"))


def is_chinese(rollouts: Sequence[Rollout]) -> list[float | None]:
    """A reward that differs within the groups of Chinese problems, and within no others."""
    return [float(r.index == 0 and r.problem.language == "zh") for r in rollouts]


@pytest.mark.parametrize("refills", [0, 1, 40])
def test_dynamic_sampling_draws_until_groups_can_teach_and_fills_up_with_even_ones(refills: int) -> None:
    stream = Mixture(load_tasks({"chain": {"weight": 1, "size": 40}}), "train", 5)
    asked, rounds = [problem.language == "zh" for problem in stream.draw(6)], 1
    while refills and rounds <= refills and sum(asked) < 6:
        asked += [problem.language == "zh" for problem in stream.draw(6 - sum(asked))]
        rounds += 1
    rounds_and_drawn = (rounds, len(asked))
    expected = sorted(asked, reverse=True)[:6] if refills else asked
    config = GRPOConfig(problems=3, updates_per_rollout=2, group=2, max_tokens=3, dynamic_sampling=refills)
    policy = Policy(
        Learner(model(), learner_config()), NativeEngine(model(), [tokenizer().eos_id]), Chat(tokenizer())
    )
    mixture = Mixture(load_tasks({"chain": {"weight": 1, "size": 40}}), "train", 5)
    phase = collect(policy, mixture, [WeightedReward("chinese", 1.0, is_chinese)], config, 3)
    teaching = [scores[0].total != scores[1].total for scores in phase.scores_PG]
    assert teaching == expected and (phase.rounds, phase.drawn) == rounds_and_drawn
    assert (
        len({group[0].problem.id for group in phase.groups}) == 6
    )  # the stream goes on: nothing is asked twice within an epoch


def test_a_reward_that_raises_leaves_its_traceback_with_the_rollout() -> None:
    def breaks(rollouts: Sequence[Rollout]) -> list[float | None]:
        if any(r.problem.id == "chain/b" and r.index == 1 for r in rollouts):
            raise ZeroDivisionError("a reward of the user's")
        return [1.0] * len(rollouts)

    groups = [make_group(f"chain/{name}", [0] * 30, [3] * 30)[0] for name in "ab"]
    failures: list[Failure] = []
    scores_PG = judge(groups, [WeightedReward("mine", 1.0, breaks)], failures)
    phase = Phase(groups, scores_PG, 2, 1, failures=failures)
    lines = records(phase, 4)
    assert (
        len(lines) == 5
        and [line["index"] for line in lines] == [0, 1, 2, 3, 1]
        and "failures" not in lines[0]
    )
    assert "ZeroDivisionError: a reward of the user's" in lines[-1]["failures"]["mine"]  # type: ignore[index]
    assert describe(phase)["reward/failed"] == pytest.approx(1 / 60)


def test_a_failure_is_recorded_with_its_own_rollout_where_a_problem_was_drawn_twice() -> None:
    def breaks(rollouts: Sequence[Rollout]) -> list[float | None]:
        return [NAN if (r.group, r.index) == (1, 0) else 1.0 for r in rollouts]

    groups = [
        [replace(rollout, group=number) for rollout in make_group("p", [0] * 20, [3] * 20)[0]]
        for number in range(2)
    ]
    failures: list[Failure] = []
    scores_PG = judge(groups, [WeightedReward("mine", 1.0, breaks)], failures)
    phase = Phase(groups, scores_PG, 2, 1, failures=failures)
    lines = records(phase, 20)
    assert [(line["group"], line["index"]) for line in lines] == [*((0, i) for i in range(20)), (1, 0)]
    assert [place for place, line in enumerate(lines) if "failures" in line] == [20]
    assert describe(phase)["reward/failed"] == 1 / 40


def test_scale_rl_is_its_papers_advantage_and_average() -> None:
    """Four groups of 8, of which 7, 1, 8 and 0 are right (2510.13786, section 4): A / A_std over the groups
    with 0 < mean < 1, and an average over these groups, each over its tokens."""
    lengths = [[2 + (3 * g + i) % 5 for i in range(8)] for g in range(4)]
    rights = [[1] * 7 + [0], [1] + [0] * 7, [1] * 8, [0] * 8]
    made = [make_group(f"p{g}", rights[g], lengths[g]) for g in range(4)]
    phase = Phase([rollouts for rollouts, _ in made], [scores for _, scores in made], 4, 1)
    config = GRPOConfig(algorithm="scale_rl", max_tokens=10)
    rows = make_rows(phase, config, {}, Recomputed(), 0)
    kept = [
        (reward - np.mean(rights[g]), g, lengths[g][i]) for g in (0, 1) for i, reward in enumerate(rights[g])
    ]
    spread = np.std([advantage for advantage, _, _ in kept], ddof=1)
    assert [row.advantage for row in rows] == pytest.approx([a / spread for a, _, _ in kept], rel=1e-3)
    assert rows[0].advantage == pytest.approx(0.366, abs=5e-4)
    assert [row.weight for row in rows] == pytest.approx([1 / (2 * sum(lengths[g])) for _, g, _ in kept])
    assert [len(row.token_ids) - 3 for row in rows] == [n for _, _, n in kept]
    # Counted in, the even groups halve the weights and widen nothing but the deviation: .526.
    unfiltered = GRPOConfig(algorithm="scale_rl", max_tokens=10, even_filter=False)
    all_rows = make_rows(phase, unfiltered, {}, Recomputed(), 0)
    assert all_rows[0].advantage == pytest.approx(0.526, abs=5e-4)
    assert all_rows[0].weight == pytest.approx(rows[0].weight / 2)
    # The deviation of rewards over all groups, TRL's scale_rewards: batch, is another estimator: .246.
    rewards = GRPOConfig(algorithm="scale_rl", max_tokens=10, advantage="batch_std", even_filter=False)
    assert make_rows(phase, rewards, {}, Recomputed(), 0)[0].advantage == pytest.approx(0.246, abs=5e-4)


def test_without_even_groups_what_belongs_to_the_others_stays_with_them() -> None:
    """References, entropies and the learner's log-probabilities are in the order of all rollouts."""
    even, same = make_group("even", [1, NAN, 1], [4, 6, 2])
    uneven, differ = make_group("uneven", [1, 0], [2, 3])
    seen = Recomputed(
        [np.full(3 + n, level, dtype=np.float32) for level, n in enumerate((4, 6, 2, 2, 3))],
        [np.full(3 + n, 10.0 + level, dtype=np.float32) for level, n in enumerate((4, 6, 2, 2, 3))],
    )
    old_PG = [[np.full(3 + n, -1.5, dtype=np.float32) for n in lengths] for lengths in ((4, 6, 2), (2, 3))]
    phase = Phase([even, uneven], [same, differ], 2, 1, old_PG=old_PG)
    config = GRPOConfig(beta=0.1, even_filter=True, tokens="entropy", tokens_share=0.6, correction="truncate")
    rows = make_rows(phase, config, {}, seen, 0)
    assert [len(row.token_ids) for row in rows] == [5, 6]
    assert [float(row.ref_logprobs[0]) for row in rows] == [3, 4]  # type: ignore[index]
    learning = [np.asarray(row.advantage)[row.mask] != 0 for row in rows]
    assert not learning[0].any() and learning[1].all()  # entropies of 14 and of 13: three of five tokens
    assert make_rows(Phase([even], [same], 1, 1), config, {}, Recomputed(seen.references[:3]), 0) == []


def test_reinforce_pp_has_a_reward_to_go_for_every_token() -> None:
    """Paper eq. 8, by hand: rewards 1 and 0, four tokens each, and 0.125 of divergence at the third token of
    the first. To go: [.875 .875 .875 1 | 0 0 0 0]; minus the mean over tokens, divided by their deviation."""
    group, scores = make_group("p", [1, 0], [4, 4])
    references = [np.zeros(7, dtype=np.float32) for _ in range(2)]
    for reference in references:
        reference[3:] = -1.5  # as the engine
    references[0][5] -= 0.125 / 0.5
    config = GRPOConfig(algorithm="reinforce_pp", beta=0.5)
    rows = make_rows(Phase([group], [scores], 1, 1), config, {}, Recomputed(references), 0)
    found = [np.asarray(row.advantage) for row in rows]
    assert [array.shape for array in found] == [(7,), (7,)] and not any(array[:3].any() for array in found)
    assert found[0][3:] == pytest.approx([0.868, 0.868, 0.868, 1.125], abs=1e-3)
    assert found[1][3:] == pytest.approx([-0.932] * 4, abs=1e-3)
    whole = make_rows(  # where the learner computed the old policy's log-probabilities, they count
        Phase([group], [scores], 1, 1, old_PG=[references]),
        GRPOConfig(algorithm="reinforce_pp", beta=0.5, correction="truncate"),
        {},
        Recomputed(references),
        0,
    )
    no_divergence = 0.5 / (np.sqrt(8 * 0.25 / 7) + 1e-4)
    assert np.asarray(whole[0].advantage)[3:] == pytest.approx([no_divergence] * 4, rel=1e-5)


def test_reinforce_pp_counts_tokens_and_leaves_out_what_was_not_judged() -> None:
    """Without a divergence in the reward all tokens of a rollout share one value; mean and deviation are over
    the 2 + 6 tokens that were judged: (1 - .25) / sqrt((2 x .5625 + 6 x .0625) / 7)."""
    group, scores = make_group("p", [1, 0, NAN], [2, 6, 9])
    config = GRPOConfig(algorithm="reinforce_pp", beta=0.0)
    rows = make_rows(Phase([group], [scores], 1, 1), config, {}, Recomputed(), 0)
    deviation = np.sqrt((2 * 0.75**2 + 6 * 0.25**2) / 7) + 1e-4
    assert [np.unique(np.asarray(row.advantage)[row.mask]).tolist() for row in rows] == [
        pytest.approx([0.75 / deviation]),
        pytest.approx([-0.25 / deviation]),
    ]


def test_what_was_not_judged_counts_in_the_normalisation_and_what_was_cut_does_not() -> None:
    """Four rollouts of ten tokens, one with reward nan: a token weighs 1/40, as without the failure. With the
    overlong filter a cut one's ten tokens do not count: 1/30."""
    group, scores = make_group("p", [1, NAN, 0, 0], [10] * 4)
    config = GRPOConfig(algorithm="dapo", group=4)
    rows = make_rows(Phase([group], [scores], 1, 1), config, {}, Recomputed(), 0)
    assert [row.weight for row in rows] == pytest.approx([1 / 40] * 3)
    cut = replace(group[3], completion=replace(group[3].completion, finish="length"))
    filtered = GRPOConfig(algorithm="dapo", group=4, overlong_filter=True)
    rows = make_rows(Phase([[*group[:3], cut]], [scores], 1, 1), filtered, {}, Recomputed(), 0)
    assert [row.weight for row in rows] == pytest.approx([1 / 30] * 2)


@pytest.mark.parametrize("rule", ["all", "entropy", "clip_cov", "kl_cov"])
def test_an_empty_completion_takes_no_part_in_the_choice_of_tokens(rule: str) -> None:
    """An engine of one's own may return one. Its prompt's entropies (all zero) are not taken for its own."""
    group, scores = make_group("p", [1, 0, 0], [4, 0, 2])
    entropies = [np.concatenate([np.full(3, 9.0), np.arange(n)]).astype(np.float32) for n in (4, 0, 2)]
    config = GRPOConfig(beta=0.0, epsilon=0.2, tokens=rule, tokens_share=0.3)
    seen = Recomputed(entropies=entropies if rule == "entropy" else ())
    rows = make_rows(Phase([group], [scores], 1, 1), config, {}, seen, 0)
    assert [int(row.mask.sum()) for row in rows] == [4, 0, 2]
    if rule == "entropy":  # entropies 0 1 2 3 and 0 1: the 70 % quantile is 1.5
        assert [(np.asarray(row.advantage) != 0).tolist() for row in rows] == [
            [False] * 5 + [True, True],
            [False] * 3,
            [False] * 5,
        ]
    assert Spied().learner.update(rows, PolicyLoss(config), 1.0)["skipped"] == 0


def test_a_divergence_in_the_reward_is_taken_off_rollout_by_rollout() -> None:
    """Two groups: each rollout's own sum of log(pi_old / pi_ref) over its tokens, before groups are
    compared."""
    first, scores = make_group("a", [1, 0], [2, 4])
    second, others = make_group("b", [1, 1], [3, 5])
    references = [
        np.concatenate([np.zeros(3), np.full(n, level)]).astype(np.float32)
        for n, level in ((2, -2.5), (4, -1.5), (3, -1.0), (5, -3.0))
    ]
    config = GRPOConfig(beta=0.1, kl="k1", kl_in="reward", advantage="group_mean", aggregation="sequence")
    rows = make_rows(Phase([first, second], [scores, others], 2, 1), config, {}, Recomputed(references), 0)
    totals = [
        1 - 0.1 * 2 * 1.0,
        0.0,
        1 + 0.1 * 3 * 0.5,
        1 - 0.1 * 5 * 1.5,
    ]  # the engine says -1.5 for every token
    expected = [
        totals[0] - np.mean(totals[:2]),
        totals[1] - np.mean(totals[:2]),
        totals[2] - np.mean(totals[2:]),
        totals[3] - np.mean(totals[2:]),
    ]
    assert [row.advantage for row in rows] == pytest.approx(expected)


def test_only_the_tokens_of_highest_entropy_learn_and_the_learner_says_which() -> None:
    spied = Spied()
    rollouts, scores = make_group("p", [1, 0], [5, 9])
    config = GRPOConfig(beta=0.0, advantage="group_mean", tokens="entropy", tokens_share=0.25)
    entropies = spied.learner.entropies([policy_row(rollout) for rollout in rollouts])
    for rollout, entropy_T in zip(rollouts, entropies, strict=True):
        ids = np.concatenate([rollout.prompt_ids, rollout.completion.token_ids]).astype(np.int64)
        with torch.no_grad():
            logits_TV = spied.model.logits(spied.model(torch.from_numpy(ids[:-1])[None]).hidden_BTD)[0, 2:]
        expected_T = torch.distributions.Categorical(logits=logits_TV).entropy().numpy()
        np.testing.assert_allclose(entropy_T[3:], expected_T, rtol=1e-4)
        assert not entropy_T[:3].any()
    rows = make_rows(Phase([rollouts], [scores], 1, 1), config, {}, Recomputed(entropies=entropies), 0)
    least = np.sort(np.concatenate([entropy_T[3:] for entropy_T in entropies]))[
        -4
    ]  # the top quarter of 14 tokens: four
    for row, entropy_T, advantage in zip(rows, entropies, (0.5, -0.5), strict=True):
        assert np.asarray(row.advantage).tolist() == (advantage * (row.mask & (entropy_T >= least))).tolist()


def test_overlong_rollouts_count_in_their_group_but_are_not_learned_from() -> None:
    group, scores = make_group("p", [1, 0, 0], [4, 5, 6])
    cut = replace(group[2], completion=replace(group[2].completion, finish="length"))
    config = GRPOConfig(beta=0.0, advantage="group_mean", aggregation="token", overlong_filter=True)
    rows = make_rows(Phase([[group[0], group[1], cut]], [scores], 1, 1), config, {}, Recomputed(), 0)
    assert [row.advantage for row in rows] == pytest.approx([2 / 3, -1 / 3]) and [
        row.weight for row in rows
    ] == pytest.approx([1 / 9] * 2)
    assert make_rows(Phase([[cut, cut, cut]], [scores], 1, 1), config, {}, Recomputed(), 0) == []


def test_what_is_rewarded_becomes_more_frequent(tmp_path: Path) -> None:
    config = GRPOConfig(
        steps=18,
        problems=4,
        group=8,
        updates_per_rollout=1,
        max_tokens=4,
        beta=0.0,
        epsilon=0.2,
        advantage="group_mean",
        aggregation="token",
    )
    run_training(config, tmp_path)
    rewards = [
        float(line.split('"reward/mean": ')[1].split(",")[0])
        for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert len(rewards) == 18 and np.mean(rewards[:2]) < 0.65 < 0.85 < np.mean(rewards[-2:])


def test_the_defaults_are_the_papers_and_a_group_of_one_is_refused() -> None:
    paper = GRPOConfig()
    assert (paper.problems, paper.group, paper.updates_per_rollout, paper.beta, paper.reference_refresh) == (
        32,
        16,
        16,
        0.001,
        400,
    )
    assert (paper.steps, paper.max_tokens, paper.temperature, paper.aggregation, paper.advantage) == (
        10_400,
        32_768,
        1.0,
        "rollout",
        "group_std",
    )
    with pytest.raises(ConfigError, match="no other rollout to compare with"):
        GRPOConfig.parse({"group": 1}, "grpo")
    assert GRPOConfig.parse({"group": 1, "advantage": "reinforce_pp"}, "grpo").group == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"advantage": "pass_at_k", "group": 4, "beta": 0.0}, "every advantage would be zero"),
        ({"advantage": "gdpo", "kl": "k1", "kl_in": "reward"}, "never looks at their sum"),
        ({"algorithm": "gpro"}, "unknown algorithm 'gpro': known are grpo"),
    ],
)
def test_settings_that_would_teach_nothing_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GRPOConfig.parse(given, "grpo")


def test_packed_rows_give_the_loss_of_the_equation(tmp_path: Path) -> None:
    """One update's loss by the equation on top of the module, token by token, from another model than the one
    that sampled."""
    spied = Spied()
    rollouts, scores = make_group("p", [1, 0, 0], [3, 5, 2])
    config = GRPOConfig(
        beta=0.05, epsilon=0.2, epsilon_high=0.28, advantage="group_mean", aggregation="rollout"
    )
    references = [
        np.concatenate([np.zeros(3), np.full(len(r.completion.token_ids), -4.0)]).astype(np.float32)
        for r in rollouts
    ]
    rows = make_rows(Phase([rollouts], [scores], 1, 1), config, {}, Recomputed(references), 0)
    expected = 0.0
    for row, advantage in zip(rows, (2 / 3, -1 / 3, -1 / 3), strict=True):
        with torch.no_grad():
            logits_TV = spied.model.logits(
                spied.model(torch.from_numpy(row.token_ids[:-1].astype(np.int64))[None]).hidden_BTD
            )[0]
        logprobs_T = (
            logits_TV.log_softmax(-1)[range(2, len(row.token_ids) - 1), row.token_ids[3:].astype(np.int64)]
            .double()
            .numpy()
        )
        ratio_T, log_ref_T = np.exp(logprobs_T + 1.5), -4.0 - logprobs_T
        gain_T = np.minimum(ratio_T * advantage, np.clip(ratio_T, 0.8, 1.28) * advantage)
        expected -= float(np.mean(gain_T - 0.05 * (np.exp(log_ref_T) - log_ref_T - 1))) / 3
    assert spied.learner.update(rows, PolicyLoss(config), 0.0)["loss"] == pytest.approx(expected, rel=1e-4)
    assert len(pack(rows, 64, 4)) == 1
