"""What the lessons share: the run that they continue, how a rollout and a curve are printed, and how an
exercise is graded."""

import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import r1kit
from r1kit.seeds import derive_seed
from r1kit.tasks import load_tasks

HERE = Path(__file__).parent
TINY = os.environ.get("R1KIT_LESSON") == "tiny"  # every lesson in seconds, learning next to nothing
FOLDER = Path(os.environ.get("R1KIT_LESSON_RUNS", HERE.parents[1] / "runs"))
RUN = FOLDER / ("lessons-tiny" if TINY else "lessons")  # the run's folder: `r1kit ui runs/lessons` shows it

# The order of the recipe. Every stage reads only stages before it.
STAGES = (
    "pretrain", "r1_zero", "cold_start", "reasoning_rl", "rejection_sampling", "sft", "reward_models",
    "alignment_rl", "student_base", "distill", "evaluate",
)  # fmt: skip


def run_stages(*needed: str, changes: Iterable[str] = (), folder: Path = RUN) -> Path:
    """Run those stages of the lessons' recipe that are not finished yet; return the run's folder."""
    left_out = [f"stages.{stage}=null" for stage in reversed(STAGES) if stage not in needed]
    recipe = r1kit.load(
        HERE / ("tiny.yaml" if TINY else "lessons.yaml"), [*left_out, *changes, f"out={folder}"]
    )
    r1kit.run(recipe, show_rollouts=0)
    return folder


def rows_of(run: Path, stage: str, name: str) -> list[float]:
    """A metric of a stage, step by step."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row[name] for row in rows if row["stage"] == stage and row.get(name) is not None]


def held_out(count: int, name: str = "reasoning") -> tuple[list[r1kit.Problem], Mapping[str, r1kit.Task]]:
    """The first ``count`` held-out problems, one of each task in turn, and the tasks that check them."""
    tasks = {key: task for key, (task, _) in load_tasks({name: 1.0}).items()}
    splits = [task.problems("held_out") for task in tasks.values()]
    count = min(count, 4) if TINY else count
    turns = [split[turn] for turn in range(count) for split in splits if turn < len(split)]
    return turns[:count], tasks


def sample(
    model: Path, problems: Sequence[r1kit.Problem], n: int = 4, max_tokens: int = 112, seed: int = 0
) -> list[list[r1kit.Rollout]]:
    """``n`` rollouts of each problem from the model in that folder, at temperature 1."""
    tokenizer = r1kit.Tokenizer.load(model)
    chat = r1kit.Chat(tokenizer)
    engine = r1kit.NativeEngine(r1kit.load_pretrained(model), tokenizer.end_ids)
    prompts = [chat.prompt_ids(problem) for problem in problems]
    sampling = r1kit.Sampling(n=n, max_tokens=16 if TINY else max_tokens)
    seeds = [derive_seed(seed, problem.id) for problem in problems]
    completions = engine.generate(prompts, sampling, seeds)
    return [chat.rollouts(*found) for found in zip(problems, prompts, completions, strict=True)]


def is_right(rollout: r1kit.Rollout, tasks: Mapping[str, r1kit.Task]) -> bool:
    """Whether the answer of a rollout passes the check of its task."""
    return tasks[rollout.problem.task].check(rollout.problem, rollout.answer).outcome == "correct"


def show(rollouts: Sequence[r1kit.Rollout], values: Sequence[object] = (), most: int = 3) -> None:
    """Print the first rollouts, each with its value if there are values."""
    for place, rollout in enumerate(rollouts[:most]):
        value = f"[{values[place]}] " if len(values) else ""
        print(f"  {value}{rollout.problem.prompt!r}\n      -> {rollout.text!r}")


def sparkline(values: Sequence[float], width: int = 50) -> str:
    """A curve in one line: means over equal parts, from the least to the greatest."""
    parts = min(width, len(values))
    edges = [round(part * len(values) / parts) for part in range(parts + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    least, span = min(means), (max(means) - min(means)) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(8 * (mean - least) / span))] for mean in means)


def print_curve(name: str, values: Sequence[float]) -> None:
    """Print a curve with its first and last value; of a stage that had nothing to train on there is none."""
    if values:
        print(f"{name:28} {values[0]:7.2f} {sparkline(values, 40)} {values[-1]:7.2f}")
    else:
        print(f"{name:28} nothing was measured")


def grade(check: Callable[[Any], None], answer: Any) -> None:
    """Check the reader's ``answer``. Prints what to do while it is unfinished; raises AssertionError with a
    hint where it is wrong."""
    try:
        check(answer)
    except NotImplementedError as todo:
        print(f"Exercise, not done yet: {todo}")
    else:
        print(f"Right: {answer.__name__} passes {check.__name__}.")
