"""Whatever parts engine and learner is caught before the first update, and the message names it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_world import full_logprobs, learner_config, model, model_directory, quiet_log, tokenizer
from torch import Tensor

from r1kit.chat import Chat
from r1kit.config import R1kitError
from r1kit.data.mixture import Mixture
from r1kit.engine import Done
from r1kit.engine.native import NativeEngine
from r1kit.model.fingerprint import Fingerprint
from r1kit.rewards import WeightedReward
from r1kit.runtime.local import LocalRuntime
from r1kit.tasks import load_tasks
from r1kit.train.agreement_gate import ENOUGH, GapAlarm, GateConfig, check, sample, sample_enough
from r1kit.train.diagnose import gaps
from r1kit.train.grpo import GRPO, GRPOConfig
from r1kit.train.hand_over import HandOver, load_weights
from r1kit.train.learner import Learner
from r1kit.train.objectives import CrossEntropy
from r1kit.train.optimizers import OptimizerConfig
from r1kit.train.rl_loop import train
from r1kit.train.rollouts import Policy
from r1kit.types import Completion, Problem, Rollout, Row, Sampling

PROBLEMS = [Problem(f"p{i}", "sums", f"What is {i} + {i}?", str(2 * i)) for i in range(4)]
FINE = GateConfig(gate_mean=1e-4, gate_max=0.05)
SHAPE = {"layers": 3}


class Faulty(NativeEngine):
    """An engine with weights of its own that takes new ones through ``sync``, and reads every prompt through
    ``ask``."""

    def __init__(
        self,
        sync: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
        ask: Callable[[np.ndarray], np.ndarray] = np.array,
    ) -> None:
        super().__init__(model(seed=1, **SHAPE), [tokenizer().eos_id], kernels=False)
        self.sync, self.ask = sync, ask

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        super().load(self.sync({name: tensor.clone() for name, tensor in weights.items()}), version)

    def generate(
        self, prompts: Sequence[np.ndarray], sampling: Sampling, seeds: Sequence[int] | None = None,
        done: Done | None = None,
    ) -> list[list[Completion]]:  # fmt: skip
        return super().generate([self.ask(prompt) for prompt in prompts], sampling, seeds, done)


@dataclass
class Two:
    learner: Learner
    engine: NativeEngine
    chat: Chat
    hand_over: HandOver = load_weights


def two(engine: NativeEngine | None = None) -> Two:
    """A learner whose weights are not those that the engine began with."""
    return Two(Learner(model(seed=2, **SHAPE), learner_config(320, 2)), engine or Faulty(), Chat(tokenizer()))


def logged(sides: Two, temperature: float = 1.0, config: GateConfig = FINE) -> str:
    with pytest.raises(
        R1kitError, match="engine and learner do not agree, so training does not start"
    ) as error:
        check(
            sides,
            PROBLEMS,
            Sampling(max_tokens=24, temperature=temperature),
            seed=3,
            version=5,
            config=config,
        )
    return str(error.value)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kernels", [False, None])
def test_sides_that_agree_pass_at_every_temperature(temperature: float, kernels: bool | None) -> None:
    engine = Faulty()
    engine.kernels = kernels
    metrics = check(
        two(engine),
        PROBLEMS,
        Sampling(max_tokens=24, temperature=temperature),
        seed=3,
        version=5,
        config=FINE,
    )
    assert metrics["gate/tokens"] >= 4 and metrics["gate/gap_mean"] < 1e-5 and metrics["gate/gap_max"] < 1e-4


def test_the_gap_is_that_of_all_sampled_tokens_by_hand() -> None:
    sides = two()
    metrics = check(sides, PROBLEMS, Sampling(max_tokens=24, temperature=0.7), seed=3, version=5, config=FINE)
    probes = sample_enough(sides, PROBLEMS, Sampling(max_tokens=24, temperature=0.7), seed=3)
    count = sum(len(probe.completion.token_ids) for probe in probes)
    assert metrics["gate/tokens"] == count >= ENOUGH
    once = sample(sides, PROBLEMS, Sampling(max_tokens=24, temperature=0.7), seed=3)
    assert sum(len(probe.completion.token_ids) for probe in once) < ENOUGH and len(
        {tuple(p.completion.token_ids) for p in probes}
    ) > len(once)
    shifted = [
        replace(p, completion=replace(p.completion, logprobs=p.completion.logprobs + 0.25)) for p in probes
    ]
    assert gaps(sides.learner, shifted).mean() == pytest.approx(0.25, abs=1e-5)


@pytest.mark.parametrize(("tokens", "passes"), [(2, True), (3, False)])
def test_two_of_512_tokens_may_be_far_off_and_no_more(tokens: int, passes: bool) -> None:
    """In bfloat16 rounding now and then sends a token to another expert."""
    sides = two()
    honest = sides.engine.generate
    off = [tokens]

    def generate(*given: Any, **named: Any) -> list[list[Completion]]:
        groups = honest(*given, **named)
        for completion in (completion for group in groups for completion in group):
            shifted = min(off[0], len(completion.logprobs))
            completion.logprobs[:shifted] -= 2.0
            off[0] -= shifted
        return groups

    sides.engine.generate = generate  # type: ignore[method-assign]
    config = GateConfig(gate_mean=0.02, gate_max=1.0)
    ask = partial(check, sides, PROBLEMS, Sampling(max_tokens=24, temperature=0.7), 3, 5, config)
    if passes:
        found = ask()
        assert found["gate/tokens"] < 600 and found["gate/gap_max"] == pytest.approx(2.0, abs=1e-3)
    else:
        with pytest.raises(R1kitError, match="gate_max 1 for all but 2 of them"):
            ask()


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Leave a tensor as the engine's first weights had it."""
    old = model(seed=1, **SHAPE).state_dict()[name]
    return lambda weights: {**weights, name: old}


def test_a_tensor_that_was_not_copied_is_named() -> None:
    name = "layers.2.self_attn.kv_a_proj_with_mqa.weight"
    message = logged(two(Faulty(without(name))))
    assert (
        f"{name} differs (it was not copied, or comes from another version)" in message
        and "the engine (process 0)" in message
    )
    assert message.count("differs") == 1


def test_a_transposed_tensor_is_named() -> None:
    name = "layers.0.self_attn.o_proj.weight"
    assert two().learner.weights()[name].shape == (32, 32)
    assert f"{name} is transposed" in logged(
        two(Faulty(lambda weights: {**weights, name: weights[name].mT.contiguous()}))
    )


def test_weights_of_an_older_version_are_seen_even_where_they_change_little() -> None:
    def old(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor * 0.99 if tensor.dim() > 1 else tensor for name, tensor in weights.items()}

    message = logged(two(Faulty(old)), config=GateConfig(gate_mean=100.0, gate_max=100.0))
    assert (
        "the weights of the engine (process 0) are not the learner's" in message
        and "and " in message
        and "more" in message
    )


def test_swapped_layers_are_named_with_what_they_hold() -> None:
    def swap(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        names = {
            name: name.replace("layers.1.", "layers.x.")
            .replace("layers.2.", "layers.1.")
            .replace("layers.x.", "layers.2.")
            for name in weights
        }
        return {name: weights[source] for name, source in names.items()}

    message = logged(two(Faulty(swap)))
    assert "layers.1.mlp.experts.down_proj holds layers.2.mlp.experts.down_proj" in message


@pytest.mark.slow
def test_a_part_that_computes_something_else_with_the_same_weights_is_named() -> None:
    engine = Faulty()
    engine.model.layers[1].self_attn.scale *= 3.0
    message = logged(two(engine))
    assert "The weights agree, but layers.1.self_attn computes something else in the engine" in message
    engine = Faulty()
    engine.model.frequencies = engine.model.frequencies * 3
    assert "layers.0.self_attn computes something else" in logged(two(engine))


@pytest.mark.slow
def test_a_decoder_that_is_not_its_model_is_named() -> None:
    class Stubborn(Faulty):
        def generate(self, *arguments: object, **rest: object) -> list[list[Completion]]:
            groups = super().generate(*arguments, **rest)  # type: ignore[arg-type]
            return [[replace(one, logprobs=one.logprobs - 0.5) for one in group] for group in groups]

    assert "its kernels or its packed copy of the weights are wrong" in logged(two(Stubborn()))


@pytest.mark.slow
def test_a_prompt_in_another_template_is_named() -> None:
    texts = {problem.prompt: problem for problem in PROBLEMS}
    plain = Chat(tokenizer(), "r1_zero")

    def ask(prompt_ids: np.ndarray) -> np.ndarray:
        question = tokenizer().decode(prompt_ids)
        return plain.prompt_ids(texts[question])

    assert (
        "The completions follow from a prompt written with template 'r1_zero', but the rows hold the "
        "prompt of template 'chat'" in logged(two(Faulty(ask=ask)))
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ask", "found"),
    [
        (lambda ids: ids[1:], "without its first token"),
        (lambda ids: np.concatenate([[tokenizer().bos_id], ids]), "with two start tokens"),
        (lambda ids: np.concatenate([ids, tokenizer().encode("<think>\n")]), "that opens with '<think>\\n'"),
    ],
)
def test_a_prompt_with_other_tokens_at_its_ends_is_named(
    ask: Callable[[np.ndarray], np.ndarray], found: str
) -> None:
    assert found in logged(two(Faulty(ask=ask)))


def test_log_probabilities_at_another_temperature_are_named() -> None:
    class AtOne(Faulty):
        def generate(
            self, prompts: Sequence[np.ndarray], sampling: Sampling, seeds: Sequence[int] | None = None
        ) -> list[list[Completion]]:
            groups = super().generate(prompts, sampling, seeds)
            return [
                [self._again(prompt, one) for one in group]
                for prompt, group in zip(prompts, groups, strict=True)
            ]

        def _again(self, prompt: np.ndarray, one: Completion) -> Completion:
            row = Row(
                np.concatenate([prompt, one.token_ids]),
                np.ones(len(prompt) + len(one.token_ids), dtype=bool),
                1.0,
            )
            with torch.no_grad():
                return replace(one, logprobs=full_logprobs(self.model.eval(), row).numpy()[len(prompt) - 1 :])

    assert "The engine's log-probabilities are those at temperature 1, but it sampled at 0.5" in logged(
        two(AtOne()), temperature=0.5
    )


def test_a_stale_rollout_is_caught_by_its_version() -> None:
    class Late(Faulty):
        def load(self, weights: Mapping[str, Tensor], version: int) -> None:
            super().load(weights, version - 2)

    assert (
        "stale rollouts: they were sampled by version 3 of the weights, and the learner is at version 5"
        in logged(two(Late()))
    )


@pytest.mark.slow
def test_an_engine_that_cannot_be_examined_is_still_measured() -> None:
    class Closed:
        """Only what the Engine protocol asks for."""

        def __init__(self, engine: NativeEngine) -> None:
            self.generate, self.stream, self.load = engine.generate, engine.stream, engine.load

        def examine(self, token_ids: np.ndarray, temperature: float) -> list[Fingerprint]:
            return []

    good, bad = two(), two(Faulty(without("norm.weight")))
    bad.learner.model.norm.weight.data.fill_(2.0)
    for sides in (good, bad):
        sides.engine = Closed(sides.engine)  # type: ignore[assignment]
    assert check(good, PROBLEMS, Sampling(max_tokens=24), 3, 5, FINE)["gate/gap_max"] < 1e-4
    assert "were looked at as far as the engine shows them" in logged(bad)


@pytest.mark.slow
def test_of_a_long_completion_only_the_beginning_is_examined() -> None:
    sides, lengths = two(), []
    examine = sides.engine.examine
    sides.engine.examine = lambda ids, temperature: lengths.append(len(ids)) or examine(ids, temperature)  # type: ignore[method-assign, func-returns-value, assignment]
    problem = PROBLEMS[:1]
    check(sides, problem, Sampling(max_tokens=150), 11, 5, FINE)
    (probe,) = sample(sides, problem, Sampling(max_tokens=150), 11)
    assert len(probe.completion.token_ids) > 80 and lengths == [2]  # weights alone
    sides.engine.model.layers[1].self_attn.scale *= 3.0
    with pytest.raises(R1kitError, match=r"layers\.1\.self_attn computes something else"):
        check(sides, problem, Sampling(max_tokens=150), 11, 5, FINE)
    assert lengths[1:] == [2, len(probe.prompt_ids) + 64]


@pytest.mark.slow
def test_numbers_that_are_not_finite_do_not_pass() -> None:
    class Nan(Faulty):
        def generate(self, *arguments: object, **rest: object) -> list[list[Completion]]:
            groups = super().generate(*arguments, **rest)  # type: ignore[arg-type]
            return [[replace(one, logprobs=one.logprobs * np.nan) for one in group] for group in groups]

    assert "differ by nan on average" in logged(two(Nan()))


@pytest.mark.slow
def test_replicas_are_compared_too(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    runtime: LocalRuntime = request.getfixturevalue("two")  # not the function of this name
    directory = model_directory(tmp_path)
    apart = OptimizerConfig(kind="muon")  # with AdamW the processes have one copy of the weights
    learner = runtime.learner(directory, learner_config(200, 2).model_copy(update={"optimizer": apart}))
    sides = Two(learner, runtime.engine_of(learner), Chat(tokenizer()))  # type: ignore[arg-type]
    assert check(sides, PROBLEMS, Sampling(max_tokens=24), 3, 5, FINE)["gate/gap_max"] < 1e-4
    examined: list[Fingerprint] = learner.examine(np.arange(6), 1.0)
    assert len(examined) == 2 and examined[0].marks == examined[1].marks
    with torch.no_grad():
        learner.local().model.norm.weight.add_(1.0)  # one process's replica drifts away from the other's
    assert "the weights of the learner (process 1) are not the learner's: norm.weight differs" in logged(
        sides
    )


@pytest.mark.slow
def test_prompts_too_long_for_the_learner_are_passed_over_when_the_cause_is_sought() -> None:
    sides = two(Faulty(ask=lambda ids: ids[1:]))
    sides.learner.config = sides.learner.config.model_copy(
        update={"context": 60}
    )  # r1_zero's prompts have 260 tokens
    assert "without its first token" in logged(sides)
    sides.engine.ask = lambda ids: ids[::-1].copy()  # type: ignore[attr-defined]
    assert "its kernels or its packed copy" in logged(sides)


class Late(Faulty):
    """Takes the first weights, and later only their version."""

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        if version == 0:
            super().load(weights, version)
        self.version = version


def even_ids(rollouts: Sequence[Rollout]) -> list[float | None]:
    return [float(np.mean(rollout.completion.token_ids % 2)) for rollout in rollouts]


@pytest.mark.slow
@pytest.mark.parametrize("engine", [Late, Faulty])
def test_an_engine_that_is_right_at_first_and_damages_new_weights_is_stopped_after_its_first_load(
    engine: type[Faulty], tmp_path: Path
) -> None:
    """In the loop: before the first step it passes, and where no new weights are sampled nothing is said."""
    for steps, stops in ((1, False), (3, engine is Late)):
        out = tmp_path / f"{engine.__name__}-{steps}"
        out.mkdir()
        learner = Learner(model(seed=2, **SHAPE), learner_config(320, 2, learning_rate=2e-2))
        config = GRPOConfig(
            steps=steps, problems=2, group=4, max_tokens=24, updates_per_rollout=1, beta=0.0, save_every=9,
            **FINE.model_dump(),
        )  # fmt: skip
        policy = Policy(learner, engine(), Chat(tokenizer()))
        algorithm = GRPO(config, policy, [WeightedReward("even", 1.0, even_ids)])
        mixture = Mixture(load_tasks({"chain": {"weight": 1, "size": 40}}), "train", 5)
        if stops:
            with pytest.raises(R1kitError, match="agreed before training and do not agree on the first new"):
                train(algorithm, mixture, 7, quiet_log(out), out)
            assert learner.version == 1
        else:
            train(algorithm, mixture, 7, quiet_log(out), out)
            assert learner.version == steps


@pytest.mark.slow
def test_an_engine_that_stays_behind_its_learner_sets_off_the_alarm() -> None:
    sides, sampling = two(Late()), Sampling(max_tokens=24)
    sides.learner = Learner(model(seed=2, **SHAPE), learner_config(320, 2, learning_rate=2e-2))
    alarm = GapAlarm(GateConfig(gap_alarm=0.05, gap_patience=3))
    check(sides, PROBLEMS, sampling, 3, 0, FINE)
    seen = []
    with pytest.raises(R1kitError, match="3 updates in a row"):
        for step in range(10):
            sides.engine.load(sides.learner.weights(), step)
            probes = sample(sides, PROBLEMS, sampling, seed=step)
            seen.append(float(gaps(sides.learner, probes).mean()))
            alarm.feed(step, seen[-1])
            sides.learner.update([replace(probe.row, weight=0.01) for probe in probes], CrossEntropy(), 1.0)
    assert seen[0] < 1e-4 and min(seen[1:]) > 0.05 and len(seen) == 4


def test_the_alarm_warns_and_then_stops_unless_the_gap_closes() -> None:
    alarm = GapAlarm(GateConfig(gap_alarm=0.05, gap_patience=3))
    assert alarm.feed(0, 0.05) == ""
    assert (
        "step 1: engine and learner differ by 0.2 per token on fresh rollouts (gap_alarm 0.05)"
        in alarm.feed(1, 0.2)
    )
    assert alarm.feed(2, float("nan")) != ""
    assert alarm.feed(3, 0.01) == ""
    assert alarm.feed(4, 0.2) and alarm.feed(5, 0.2)
    with pytest.raises(
        R1kitError,
        match=r"step 6: .* 3 updates in a row: the engine samples from other weights than the learner has",
    ):
        alarm.feed(6, 0.2)
