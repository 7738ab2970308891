"""``r1kit prove``: has a stage's RL taught its model the task? Trains controls from the same start, measures
all models on the same held-out problems, and gives a verdict (figures/proof.py).

The controls are stages of a run of their own, with the configuration, seed and start of the stage, so an
interrupted proof continues:

    coin_1, coin_2      each rollout's reward is a coin
    format_only         the rewards without those that check the answer
    wrong_labels        accuracy by the gold answers of other problems
    rejection_sampling  not RL: SFT of the start on its own right samples, as many as RL has sampled

The first four cannot teach the task. The last can: it does not decide the verdict, it says what RL is worth.
Nothing is trained for swapped prompts: the trained model is asked another question than is checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from r1kit.config import ConfigError
from r1kit.figures import to_json
from r1kit.figures.proof import Against, Proof, against, prove
from r1kit.files import make_folder, write_whole
from r1kit.recipe.layers import Layers
from r1kit.recipe.recipe import build
from r1kit.records import FinishedStage, find_model, find_stage_with_model
from r1kit.report.run import read_recipe
from r1kit.runs.execute import run
from r1kit.runtime import start
from r1kit.runtime.local import LocalConfig
from r1kit.stages.models import PromptStyle, prompt_style_of
from r1kit.stages.problem_scores import held_out_problems, score_problems, swapped
from r1kit.stages.stage import with_located_tasks
from r1kit.tasks import load_tasks
from r1kit.types import Sampling

PROVABLE = ("r1_zero", "reasoning_rl")
ALGORITHMS = ("grpo", "ppo", "rl")
# Rewards that depend on whether the answer is right; so may code of the user's own (a name with ":").
CHECKING = ("accuracy", "cosine", "length", "noisy_accuracy", "speed", "judge")
COINS = ("coin_1", "coin_2")
SAMPLED, REJECTION = "rejection_samples", "rejection_sampling"


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict, the comparison with rejection sampling, and how it was measured. ``steps`` of the stage
    and of its controls."""

    proof: Proof
    rejection: Against
    stage: str
    problems: int
    samples: int
    steps: int
    control_steps: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """The stage to prove: its record, the folder of the model that it began with, and the block of its
    algorithm."""

    stage: FinishedStage
    init: Path
    algorithm: str

    @property
    def config(self) -> Mapping[str, Any]:
        """That of the stage, with the paths of files that other stages have written."""
        stages = self.stage.folder.resolve().parent
        config: Mapping[str, Any] = with_located_tasks(
            self.stage.record.config, lambda reference: stages / reference[1:]
        )
        return config

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of the algorithm."""
        settings: Mapping[str, Any] = self.config[self.algorithm]
        return settings


def find_subject(run_dir: Path, stage: str) -> Subject:
    """The finished stage of that name. Raises ConfigError where there is none, or it is no RL on tasks."""
    found = find_stage_with_model(run_dir, stage)
    if found.kind not in PROVABLE:
        raise ConfigError(
            f"{run_dir}: stage {stage!r} is of the kind {found.kind}; prove takes {' or '.join(PROVABLE)}"
        )
    config = found.record.config
    algorithm = next((name for name in ALGORITHMS if config.get(name) is not None), None)
    if algorithm is None:
        raise ConfigError(f"{found.folder}: its record names no algorithm ({', '.join(ALGORITHMS)})")
    init = str(config["init"])
    start_from = find_model(run_dir, init[1:]) if init.startswith("@") else find_model(Path(init))
    return Subject(found, start_from.resolve(), algorithm)


def control_stages(subject: Subject, steps: int | None) -> list[dict[str, Any]]:
    """The stages of the run of controls, as a recipe has them. ``steps``: updates of each, by default as many
    as the stage has made."""
    config, settings = dict(subject.config), dict(subject.settings)
    rewards: dict[str, Any] = dict(config["rewards"])
    updates = settings["steps"] if steps is None else min(steps, settings["steps"])
    common = config | {
        "init": str(subject.init),
        "seed_of": config.get("seed_of") or subject.stage.name,
        subject.algorithm: settings | {"steps": updates},
        "preflight": "off",
        "watch": None,
    }
    blind = {name: entry for name, entry in rewards.items() if name not in CHECKING and ":" not in name}
    stages = [
        common | {"name": name, "rewards": {"coin": {"weight": 1.0, "seed": number}}}
        for number, name in enumerate(COINS)
    ]
    stages.append(common | {"name": "format_only", "rewards": blind or {"format": 1.0}})
    if "accuracy" in rewards:
        wrong = {"wrong_labels": rewards["accuracy"]} | blind
        stages.append(common | {"name": "wrong_labels", "rewards": wrong})
    return [*stages, *_rejection(subject, updates)]


def _rejection(subject: Subject, updates: int) -> list[dict[str, Any]]:
    """Rejection sampling from the start, and SFT of the start on what was right."""
    config, settings = subject.config, subject.settings
    samples = {
        "stage": "rejection_sampling",
        "name": SAMPLED,
        "init": str(subject.init),
        "tasks": config["tasks"],
        "problems": updates * settings["problems"],
        "samples": settings["group"],
        "purity": 0.0,
        "max_tokens": settings["max_tokens"],
        "talk": config["talk"],
    }
    tuned = {
        "stage": "sft",
        "name": REJECTION,
        "init": str(subject.init),
        "data": [f"@{SAMPLED}/data.jsonl"],
        "allow_empty": True,  # a base may have no right sample
        "talk": config["talk"],
        "learner": config["learner"],
    }
    return [samples, tuned]


def train_controls(
    subject: Subject, run_dir: Path, out: Path, steps: int | None, console: Console
) -> dict[str, Path]:
    """Train every control that is not done yet; the models by name."""
    recipe = read_recipe(run_dir / "recipe.yaml")
    data = {
        "name": "controls",
        "seed": recipe.get("seed", 0),
        "runtime": recipe.get("runtime", {"kind": "local"}),
        "out": str(out),
        "stages": control_stages(subject, steps),
    }
    layers = Layers(data, source=f"controls of {subject.stage.name}")
    run(build(layers), command="r1kit prove RUN --stage STAGE", console=console)
    names = [stage["name"] for stage in data["stages"] if stage["name"] != SAMPLED]
    return {name: find_stage_with_model(out, name).model for name in names}


def prove_stage(
    run_dir: Path,
    stage: str,
    out: Path,
    console: Console,
    limit: int = 100,
    n: int = 8,
    steps: int | None = None,
) -> Result:
    """Train the controls of a stage in ``out``, measure them on at most ``limit`` held-out problems of each
    task with ``n`` samples, and decide. Writes proof.json and proof.md. Raises ConfigError."""
    subject = find_subject(run_dir, stage)
    controls = train_controls(subject, run_dir, out, steps, console)
    rejection = controls.pop(REJECTION)
    coins = [controls.pop(name) for name in COINS]
    runtime = start(LocalConfig.parse({"processes": 1}, "runtime"))
    try:
        measure = Measure(subject, limit, n, runtime)
        trained, blind = measure(subject.stage.model), measure(subject.stage.model, swap=True)
        proof = prove(
            trained,
            measure(subject.init),
            [measure(model) for model in coins],
            {name: measure(model) for name, model in controls.items()},
            blind,
        )
        compared = against(REJECTION, trained, measure(rejection))
    finally:
        runtime.close()
    made = subject.settings["steps"]
    given = made if steps is None else min(steps, made)
    notes: tuple[str, ...] = (
        () if given == made else (f"The controls made {given} updates, the stage {made}.",)
    )
    if "accuracy" not in subject.config["rewards"]:
        notes += ("No reward is called accuracy, so there is no control with wrong labels.",)
    result = Result(proof, compared, stage, len(trained), n, made, given, notes)
    make_folder(out)
    write_whole(out / "proof.json", to_json(result))
    write_whole(out / "proof.md", "\n".join(in_words(result)) + "\n")
    return result


class Measure:
    """Measures models of one stage: the share of right answers of each held-out problem of its tasks."""

    def __init__(self, subject: Subject, limit: int, n: int, runtime: Any) -> None:
        self._tasks = load_tasks(subject.config["tasks"])
        self._problems = held_out_problems(self._tasks, limit)
        settings = subject.settings
        self._sampling = Sampling(n, settings["temperature"], max_tokens=settings["max_tokens"])
        self._style = PromptStyle.parse(subject.config["talk"], "talk")
        self._runtime = runtime

    def __call__(self, model: Path, swap: bool = False) -> list[float]:
        """Each problem's share of right answers; ``swap``: when the question of another is asked."""
        engine = self._runtime.engine(model)
        chat = prompt_style_of(model, self._style).chat(model)
        asked = swapped(self._problems) if swap else ()
        scored = score_problems(engine, chat, self._tasks, self._problems, self._sampling, asked=asked)
        self._runtime.release(engine)
        return [float(row.measures["right"] or 0.0) for row in scored]


def in_words(result: Result) -> list[str]:
    """The result as lines of Markdown."""
    proof = result.proof
    lines = [
        f"**{result.stage}: {proof.verdict}** (p {_chance(proof.p_value, '= ')}): {proof.reason}.",
        "",
        f"pass@1 {proof.trained:.3f} on {result.problems} held-out problems, {result.samples} samples each.",
        "",
        "| compared with | its pass@1 | difference (points) | 95 % interval | p of being better |",
        "|---|---:|---:|---:|---:|",
        *(_row(one) for one in proof.comparisons),
        _row(result.rejection, " (not part of the verdict)"),
        "",
        f"A coin as reward changed the base by up to {100 * proof.drift:.1f} points.",
    ]
    return [*lines, *result.notes]


def _row(one: Against, said: str = "") -> str:
    low, high = one.test.interval
    return (
        f"| {one.name.replace('_', ' ')}{said} | {one.other:.3f} | {100 * one.test.difference:+.1f} | "
        f"{100 * low:+.1f} to {100 * high:+.1f} | {_chance(one.p_value)} |"
    )


def _chance(p_value: float, sign: str = "") -> str:
    """A p-value with four digits; below what 10,000 drawn signs can say, as a bound."""
    return f"{sign}{p_value:.4f}" if p_value >= 1e-4 else "< 0.0001"
