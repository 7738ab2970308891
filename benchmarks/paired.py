"""Stages of several seeds measured on the same problems, for pages that compare them problem by problem
(findings.py, ablation.py).

What was measured is kept in the run's folder, ``measured/NAME.json``, with the hash of the model and the
settings, so a command that is interrupted continues, and a stage that was trained again is measured again."""

import argparse
import gc
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from program_measures import HELD_OUT, score_programs
from rich.console import Console
from tree_search import search

from r1kit.config import ConfigError
from r1kit.figures.statistics import PairedTest, paired_test, rank_correlation
from r1kit.files import hash_file, write_whole
from r1kit.marks import hash_tree
from r1kit.recipe.layers import Layers, read_layers
from r1kit.recipe.recipe import build
from r1kit.records import find_stage_with_model, stage_folder
from r1kit.rewards import load_rewards, score
from r1kit.runs.execute import run
from r1kit.runtime import start
from r1kit.runtime.local import LocalConfig
from r1kit.seeds import derive_seed
from r1kit.stages.models import PromptStyle, ShownExample, prompt_style_of
from r1kit.stages.problem_scores import Scored, held_out_problems, score_groups, score_problems
from r1kit.stages.sampling import sample
from r1kit.tasks import load_tasks
from r1kit.tasks.habits import load_habits
from r1kit.types import Sampling
from r1kit.user_code import Shape, load_name

RUN = Path("runs/findings")  # of all recipes and seeds
BASES = ("base", "program_base")  # the stages that all seeds have in common
TASKS = {"chain": 1.0, "mul": 1.0, "eq": 1.0}
PROBLEMS = 100  # of each task
GENERAL = 100  # general prompts
SAMPLES = 8  # of each problem
LONGEST = 96  # tokens of a response

# How a stage is sampled, by what stands after the @ in its name.
DECODINGS: Mapping[str, Sampling] = {
    "": Sampling(n=SAMPLES, max_tokens=LONGEST),
    "cool": Sampling(n=SAMPLES, temperature=0.6, top_p=0.95, max_tokens=LONGEST),
    "greedy": Sampling(n=1, temperature=0.0, max_tokens=LONGEST),
    "shown": Sampling(n=SAMPLES, max_tokens=LONGEST),
    "searched": Sampling(n=1, max_tokens=LONGEST),  # tree_search.py, guided by the model of steps
    "general": Sampling(n=4, max_tokens=112),
    "programs": Sampling(n=SAMPLES, max_tokens=LONGEST),
}
EXAMPLES = (
    ShownExample(
        prompt="Compute 12+35-8.",
        completion="<think>start with 12+35=47, then 47-8=39, so 39</think><answer>39</answer>",
    ),
    ShownExample(
        prompt="Compute 7*8+9.",
        completion="<think>start with 7*8=56, then 56+9=65, so 65</think><answer>65</answer>",
    ),
)
PROCESS = Path(__file__).parents[1] / "recipes" / "findings" / "process_reward.py"
step_score = load_name(
    f"{PROCESS}:step_score", Shape("a score of a text", "a function (text)", functions=(("text",),))
)
LEVELS = (2.0, 4.0)  # steps of the easiest and of the hardest problems


def add_options(parser: argparse.ArgumentParser, seeds: int, page: Path) -> None:
    """The options of the commands that train paired arms and write a page: --seeds, --page, --out."""
    parser.add_argument("--seeds", type=int, default=seeds, help="how many, from 0 on")
    parser.add_argument(
        "--page", action="store_true", help="train nothing, write the page from what there is"
    )
    parser.add_argument("--out", type=Path, default=page)


def stage_of(name: str, seed: int) -> str:
    """What a stage of a recipe is called for a seed: a base is the same for all, and seed 0 has the
    recipe's own names."""
    return name if seed == 0 or name in BASES else f"{name}_{seed}"


def seeded(stages: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The stages of a recipe for one seed: names, references and the names of their seeds as ``stage_of``
    says. A stage's seed is a hash of that name, so every seed has rollouts of its own."""

    def renamed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: renamed(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [renamed(inner) for inner in value]
        if isinstance(value, str) and value.startswith("@"):
            name, slash, rest = value[1:].partition("/")
            return f"@{stage_of(name, seed)}{slash}{rest}"
        return value

    found = []
    for stage in stages:
        name = str(stage.get("name") or stage["stage"])
        own = {**renamed(stage), "name": stage_of(name, seed)}
        if stage.get("seed_of"):
            own["seed_of"] = stage_of(str(stage["seed_of"]), seed)
        found.append(own)
    return found


def train(recipe: Path, seed: int, console: Console) -> None:
    """Run every stage of a recipe that is not done yet, for one seed."""
    layers = read_layers(recipe, [f"out={json.dumps(str(RUN))}"])
    data = {**layers.data, "stages": seeded(layers.data["stages"], seed)}
    run(build(Layers(data, source=str(recipe))), command=f"r1kit run {recipe}", console=console)
    gc.collect()


def is_done(stage: str) -> bool:
    """Whether the stage has finished."""
    return stage_folder(RUN, stage).finished() is not None


@dataclass(frozen=True, slots=True)
class Values:
    """One measure of one model of one seed: a value for each problem that has one, with its difficulty."""

    by_problem: Mapping[str, float]
    difficulty: Mapping[str, float | None]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.by_problem.values())


def values(name: str, seed: int) -> Values | None:
    """The values of ``model@decoding.measure`` of one seed, measured where that has not been done; None where
    the stage has not finished. Raises ConfigError for a measure or a decoding that does not exist."""
    model, _, measure = name.rpartition(".")
    stage, _, decoding = model.partition("@")
    if measure == "general":
        decoding = "general"
    if decoding not in DECODINGS:
        raise ConfigError(f"{name}: no decoding {decoding!r}; known: {', '.join(filter(None, DECODINGS))}")
    stage = stage_of(stage, seed)
    if not is_done(stage):
        return None
    rows = _measured(stage, decoding)
    if measure not in rows[0].measures:
        raise ConfigError(f"{name}: no measure {measure!r}; known: {', '.join(rows[0].measures)}")
    found = {row.problem: value for row in rows if (value := row.measures[measure]) is not None}
    return Values(found, {row.problem: row.difficulty for row in rows})


def _measured(stage: str, decoding: str) -> list[Scored]:
    """The rows of a model, from the disk where they are of this model and these settings."""
    model = find_stage_with_model(RUN, stage).model
    file = RUN / "measured" / f"{stage}{'@' if decoding else ''}{decoding}.json"
    wanted = {
        "model": hash_tree(model),
        "sampling": asdict(DECODINGS[decoding]),
        "tasks": TASKS,
        "problems": PROBLEMS,
        "general": GENERAL,
        "examples": [example.model_dump() for example in EXAMPLES] if decoding == "shown" else [],
        "programs": hash_file(HELD_OUT) if decoding == "programs" else "",
    }
    wanted = json.loads(json.dumps(wanted))
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["settings"] == wanted:
            return [Scored(**row) for row in kept["rows"]]
    rows = _sampled(model, decoding)
    file.parent.mkdir(exist_ok=True)
    write_whole(file, json.dumps({"settings": wanted, "rows": [asdict(row) for row in rows]}))
    return rows


def _sampled(model: Path, decoding: str) -> list[Scored]:
    style = prompt_style_of(model, PromptStyle())
    if decoding == "shown":
        style = style.model_copy(update={"examples": EXAMPLES})
    runtime = start(LocalConfig.parse({"processes": 1}, "runtime"))
    try:
        engine, chat = runtime.engine(model), style.chat(model)
        if decoding == "general":
            return _general(engine, chat)
        if decoding == "programs":
            return score_programs(engine, chat, DECODINGS[decoding], PROBLEMS)
        tasks = load_tasks(TASKS)
        problems = held_out_problems(tasks, PROBLEMS)
        habits, further = load_habits("worked_solutions"), {"step_score": step_score}
        if decoding == "searched":
            groups = [[one] for one in search(engine, chat, problems, step_score)]
            return score_groups(groups, tasks, habits, further)
        sampling = DECODINGS[decoding]
        return score_problems(engine, chat, tasks, problems, sampling, habits, further=further)
    finally:
        runtime.close()


def _general(engine: Any, chat: Any) -> list[Scored]:
    """The gold score of general prompts; a response that has none counts as 0."""
    prompts = load_tasks({"general": 1.0})
    problems = held_out_problems(prompts, GENERAL)
    groups = sample(engine, chat, problems, DECODINGS["general"], derive_seed(0, "general"))
    rewards = load_rewards({"gold_score": 1.0}, {name: task for name, (task, _) in prompts.items()})
    found = []
    for group in groups:
        scores = [one.total for one in score(group, rewards)]
        known = [value for value in scores if not np.isnan(value)]
        measures = {"general": float(np.mean(known)) if known else 0.0}
        found.append(Scored(group[0].problem.id, None, len(group), measures))
    return found


@dataclass(frozen=True, slots=True)
class Difference:
    """One value minus another over several seeds: the difference of each seed, and the test over problems of
    the differences averaged over seeds."""

    seeds: Sequence[float]
    test: PairedTest

    @property
    def one_sign(self) -> bool:
        """Whether all seeds have the sign of the mean."""
        return all(one * self.test.difference > 0 for one in self.seeds)


def difference(pairs: Sequence[tuple[Values, Values]]) -> Difference:
    """Compare two values, given for each seed. Problems that have both values in every seed count."""
    shared = sorted(set.intersection(*(set(a.by_problem) & set(b.by_problem) for a, b in pairs)))
    if not shared:
        raise ConfigError("two values that are compared have no problem in common")
    gaps = np.array([[a.by_problem[name] - b.by_problem[name] for name in shared] for a, b in pairs])
    mean = gaps.mean(0).tolist()
    return Difference(gaps.mean(1).tolist(), paired_test(mean, [0.0] * len(mean)))


@dataclass(frozen=True, slots=True)
class Trend:
    """A quantity of each seed, such as a correlation, with the 95 % interval of its mean over seeds."""

    seeds: Sequence[float]
    interval: tuple[float, float]

    @property
    def holds(self) -> bool:
        """Positive in every seed, interval included."""
        return min(self.seeds) > 0 and self.interval[0] > 0


def more_on_hard(pairs: Sequence[tuple[Values, Values]], draws: int = 2000) -> Trend:
    """The mean difference on the hardest problems minus that on the easiest."""
    easy, hard = (_gaps_at(pairs, level) for level in LEVELS)
    rng = np.random.default_rng(0)
    drawn = [
        hard.mean(0)[rng.integers(hard.shape[1], size=hard.shape[1])].mean()
        - easy.mean(0)[rng.integers(easy.shape[1], size=easy.shape[1])].mean()
        for _ in range(draws)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Trend((hard.mean(1) - easy.mean(1)).tolist(), (float(low), float(high)))


def _gaps_at(pairs: Sequence[tuple[Values, Values]], level: float) -> np.ndarray:
    names = [
        name
        for name, steps in pairs[0][0].difficulty.items()
        if steps == level and all(name in a.by_problem and name in b.by_problem for a, b in pairs)
    ]
    if not names:
        raise ConfigError(f"there are no held-out problems of {level:g} steps")
    return np.array([[a.by_problem[name] - b.by_problem[name] for name in names] for a, b in pairs])


def rises(found: Sequence[Values], draws: int = 2000) -> Trend:
    """Spearman's correlation of a value with the number of steps of its problem."""
    names = sorted(set.intersection(*(set(one.by_problem) for one in found)))
    steps = [float(found[0].difficulty[name] or 0.0) for name in names]
    series = [[one.by_problem[name] for name in names] for one in found]
    mean = np.mean(series, 0)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(draws):
        chosen = rng.integers(len(names), size=len(names))
        drawn.append(rank_correlation(mean[chosen].tolist(), np.array(steps)[chosen].tolist()) or 0.0)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Trend([rank_correlation(one, steps) or 0.0 for one in series], (float(low), float(high)))
