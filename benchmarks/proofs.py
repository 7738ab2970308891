"""How often ``r1kit prove`` is wrong: many trainings by a coin from the base of the findings, each judged as
if it were the training to prove.

    python benchmarks/proofs.py --count 40

Training number i is judged against the base, with the trainings i + 1 and i + 2 as the two coins and the arm
``coin`` of the findings, whose reward is a coin and the format, as a further control. All are stages of
runs/findings, so the command continues where it was interrupted."""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paired import RUN, values

from r1kit.config import R1kitError
from r1kit.console import make_console
from r1kit.figures.proof import Proof, prove
from r1kit.recipe.layers import Layers, read_layers
from r1kit.recipe.recipe import build
from r1kit.runs.execute import run

RECIPE = Path("recipes/findings/pure-rl.yaml")


def null_stages(coin: Mapping[str, Any], count: int, steps: int) -> list[dict[str, Any]]:
    """``count`` trainings by a coin, each with rollouts and coins of its own."""
    grpo = {**coin["grpo"], "steps": steps}
    return [
        {**coin, "name": f"null_{n}", "seed_of": f"null_{n}", "rewards": {"coin": {"seed": n}}, "grpo": grpo}
        for n in range(count)
    ]


def judge_all(count: int) -> list[Proof]:
    """The verdict on each training by a coin."""
    base, format_coin = _right("base"), _right("coin")
    nulls = [_right(f"null_{n}") for n in range(count)]
    return [
        prove(own, base, [nulls[(n + 1) % count], nulls[(n + 2) % count]], {"coin and format": format_coin})
        for n, own in enumerate(nulls)
    ]


def _right(stage: str) -> list[float]:
    found = values(f"{stage}.right", 0)
    if found is None:
        raise R1kitError(f"{RUN}: stage {stage} has not finished")
    return list(found.by_problem.values())


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=40, help="trainings")
    parser.add_argument("--steps", type=int, default=24, help="updates of each")
    given = parser.parse_args(words)
    try:
        layers = read_layers(RECIPE, [f'out="{RUN}"'])
        stages = layers.data["stages"]
        coin = next(stage for stage in stages if stage.get("name") == "coin")
        nulls = null_stages(coin, given.count, given.steps)
        recipe = build(Layers({**layers.data, "stages": [*stages, *nulls]}, source=str(RECIPE)))
        run(recipe, command="python benchmarks/proofs.py", console=make_console())
        found = judge_all(given.count)
    except (R1kitError, OSError) as error:
        sys.exit(f"proofs: {error}")
    for number, proof in enumerate(found):
        print(f"null_{number}: {proof.verdict} (p = {proof.p_value:.4f}): {proof.reason}")
    print(dict(Counter(proof.verdict for proof in found)))


if __name__ == "__main__":
    main()
