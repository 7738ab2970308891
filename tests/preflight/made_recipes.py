"""24 recipes for the pre-flight, each with the verdict that it should get: 8 broken on purpose, 8 hopeless, 8
fine. The model of a recipe is scripted (sampler.py), so what it can do is known and not guessed.

    PYTHONPATH=src:tests python -m preflight.made_recipes FOLDER

makes them, examines them, and prints verdicts and seconds."""

import io
import json
import random
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from rich.console import Console
from small_world import model_directory

from r1kit.commands.preflight import examine_recipe
from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import build
from r1kit.train.preflight import Preflight
from r1kit.user_code import imports

OWN = """
def constant(completions, **columns):
    return [0.5] * len(completions)

def inapplicable(completions, **columns):
    return [None] * len(completions)

def raises(completions, **columns):
    if any(len(text) % 2 for text in completions):
        raise ValueError("no judge at that address")
    return [1.0] * len(completions)
"""
BOTH = {"accuracy": 1.0, "format": 0.1}


@dataclass(frozen=True)
class Case:
    """A recipe: what its model does (sampler.py), its rewards and changes to its GRPO, and the verdict
    that is right: the first finding's kind (None: learnable) and whether that is hopeless."""

    sort: str
    name: str
    kind: str | None
    hopeless: bool
    behaviour: Mapping[str, Any]
    rewards: Mapping[str, float] = field(default_factory=lambda: dict(BOTH))
    rl: Mapping[str, Any] = field(default_factory=dict)
    algorithm: str = "grpo"


def _does(right: Any, style: str = "plain", **more: Any) -> dict[str, Any]:
    return {"right": right, "style": style, **more}


ONLY = {"accuracy": 1.0}
CASES = [
    # Broken: the model could learn, but something in the recipe is in its way.
    Case("broken", "cut_short", "cut_off", True, _does(0.5, words=30), rl={"max_tokens": 24}),
    Case("broken", "never_ends", "cut_off", True, _does(0.5, "never_ends")),
    Case("broken", "no_tags", "format", True, _does(0.5, "without_tags")),
    Case("broken", "goes_on", "format", True, _does(0.5, "goes_on")),
    Case("broken", "reward_raises", "failed", True, _does(0.5), {"own.py:raises": 1.0}),
    Case("broken", "reward_is_none", "not_applicable", True, _does(0.5), {"own.py:inapplicable": 1.0}),
    Case("broken", "reward_is_constant", "equal", True, _does(0.5), {"own.py:constant": 1.0}),
    Case(
        "broken", "language_outweighs", "dominated", False, _does(0.4, "right_in_chinese"),
        {"accuracy": 1.0, "language": 10.0},
    ),
    # Hopeless: nothing is broken, and this model on these problems has nothing to learn from.
    Case("hopeless", "never_right", "too_hard", True, _does(0.0)),
    Case("hopeless", "one_in_two_thousand", "too_hard", True, _does(0.0005)),
    Case("hopeless", "well_formed_and_wrong", "too_hard", True, _does(0.0, followed=0.7)),
    Case("hopeless", "always_right", "too_easy", True, _does(1.0)),
    Case("hopeless", "nearly_always_right", "too_easy", True, _does(0.9995)),
    Case("hopeless", "one_text", "same_text", True, _does(0.5, "fixed"), ONLY),
    Case("hopeless", "all_or_nothing", "equal", True, _does([1.0, 0.0]), ONLY),
    Case("hopeless", "ppo_never_right", "too_hard", True, _does(0.0), ONLY, algorithm="ppo"),
    # Fine.
    Case("fine", "a_third", None, False, _does(0.3)),
    Case("fine", "one_in_twenty", None, False, _does(0.05), ONLY, {"group": 16}),
    Case("fine", "most", None, False, _does(0.85)),
    Case("fine", "half_of_the_problems", None, False, _does([0.0, 0.5]), ONLY),
    Case("fine", "half_well_formed", None, False, _does(0.6, followed=0.5), {"accuracy": 1.0, "format": 0.5}),
    Case("fine", "format_first", None, False, _does(0.05, followed=0.4), {"accuracy": 1.0, "format": 0.5}),
    Case("fine", "ppo_one_in_ten", None, False, _does(0.1), ONLY, algorithm="ppo"),
    Case(
        "fine", "gdpo", None, False, _does(0.4, followed=0.8),
        {"accuracy": 1.0, "format": 1.0, "language": 1.0}, {"algorithm": "gdpo"},
    ),
]  # fmt: skip


def make(case: Case, folder: Path, init: Path) -> Path:
    """Write a case's recipe with all it names; return the recipe. ``init`` is a model's folder."""
    folder.mkdir(parents=True)
    shutil.copytree(init, folder / "init")
    shutil.copy(Path(__file__).parent / "sampler.py", folder / "sampler.py")
    (folder / "behaviour.json").write_text(json.dumps(dict(case.behaviour)))
    (folder / "own.py").write_text(OWN)
    rng = random.Random(case.name)
    sums = sorted({(rng.randrange(10, 100), rng.randrange(10, 100)) for _ in range(400)})
    rows = [{"prompt": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in sums]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rl = {"steps": 100, "problems": 8, "updates_per_rollout": 1, "max_tokens": 160, "beta": 0.0, "group": 8}
    rewards = {
        name.replace("own.py", str(folder / "own.py")): weight for name, weight in case.rewards.items()
    }
    stage = {
        "stage": "r1_zero",
        "init": str(folder / "init"),
        "tasks": {"sums": {"kind": "dataset", "train": str(folder / "sums.jsonl")}},
        "rewards": rewards,
        case.algorithm: rl | dict(case.rl),
        "learner": {"context": 400},
    }
    recipe = {
        "name": case.name,
        "out": str(folder / "run"),
        "runtime": {"processes": 1, "engine": f"{folder / 'sampler.py'}:Sampler"},
        "stages": [stage],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder / "recipe.yaml"


def examine(recipe: Path) -> tuple[Preflight, str]:
    """What ``r1kit preflight`` finds, and what it prints."""
    shown = io.StringIO()
    with imports(True):
        layers = read_layers(recipe, [])
        found = examine_recipe(build(layers), layers, None, Console(file=shown, width=1000))
    return found["r1_zero"], shown.getvalue()


def main(folder: Path) -> None:
    init = model_directory(folder / "init")
    right, slowest = 0, 0.0
    for case in CASES:
        found, _ = examine(make(case, folder / case.name, init))
        first = found.findings[0].kind if found.findings else None
        fits = (first, found.hopeless) == (case.kind, case.hopeless)
        right, slowest = right + fits, max(slowest, found.seconds)
        print(f"{'right' if fits else 'WRONG':<6}{case.sort:<10}{case.name:<24}{found.lines()[0]}")
    print(f"{right} of {len(CASES)} verdicts right; the slowest took {slowest:.1f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
