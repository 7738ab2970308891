"""How often ``r1kit prove`` is wrong, on both sides:

    python benchmarks/proofs.py --count 40                         # trainings by a coin
    python benchmarks/proofs.py --run runs/mini --seeds 1,2,3,4    # R1-Zero again, with other seeds

The first trains by a coin from the base of the findings, and judges each training as if it were the one to
prove. Training number i is compared with the base, with the trainings i + 1 and i + 2 as the two coins, and
with the arm ``coin`` of the findings, whose reward is a coin and the format, as a further control. All are
stages of runs/findings.

The second trains the stage r1_zero of a finished run again, from the same base, and proves each. Its stages
are those of RUN-seeds, next to the run. Both commands continue where they were interrupted."""

import argparse
import json
import os
import resource
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paired import BASES, RUN, values
from rich.console import Console

from r1kit.commands.prove import Result, prove_stage
from r1kit.config import R1kitError
from r1kit.console import make_console
from r1kit.figures.proof import Proof, prove
from r1kit.recipe.layers import Layers, read_layers
from r1kit.recipe.recipe import build
from r1kit.records import find_model, find_stage_with_model
from r1kit.runs.execute import run

RECIPE = Path("recipes/findings/pure-rl.yaml")
ZERO = "r1_zero"


def null_stages(coin: Mapping[str, Any], count: int, steps: int) -> list[dict[str, Any]]:
    """``count`` trainings by a coin, each with rollouts and coins of its own."""
    grpo = {**coin["grpo"], "steps": steps}
    return [
        {**coin, "name": f"null_{n}", "seed_of": f"null_{n}", "rewards": {"coin": {"seed": n}}, "grpo": grpo}
        for n in range(count)
    ]


def train_nulls(count: int, steps: int, console: Console) -> None:
    """Train the base, the arm ``coin`` and the trainings by a coin that are not done yet."""
    layers = read_layers(RECIPE, [f"out={json.dumps(str(RUN))}"])
    kept = [stage for stage in layers.data["stages"] if stage.get("name") in (*BASES, "coin")]
    data = {**layers.data, "stages": [*kept, *null_stages(kept[-1], count, steps)]}
    run(build(Layers(data, source=str(RECIPE))), command="python benchmarks/proofs.py", console=console)


def judge_all(count: int) -> list[Proof]:
    """The verdict on each training by a coin."""
    base, format_coin = right_of("base"), right_of("coin")
    nulls = [right_of(f"null_{n}") for n in range(count)]
    return [
        prove(own, base, [nulls[(n + 1) % count], nulls[(n + 2) % count]], {"coin and format": format_coin})
        for n, own in enumerate(nulls)
    ]


def right_of(stage: str) -> list[float]:
    """Each held-out problem's share of right answers. Raises R1kitError for a stage that has not finished."""
    found = values(f"{stage}.right", 0)
    if found is None:
        raise R1kitError(f"{RUN}: stage {stage} has not finished")
    return list(found.by_problem.values())


def seed_stages(run_dir: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """The run's R1-Zero once for each seed, from the same base: what differs is the seed of its problems and
    rollouts. Raises ConfigError where the run has no such stage."""
    config = find_stage_with_model(run_dir, ZERO).record.config
    init = str(config["init"])
    base = find_model(run_dir, init[1:]) if init.startswith("@") else find_model(Path(init))
    common = {**config, "init": str(base.resolve())}
    return [{**common, "name": f"{ZERO}_{seed}", "seed_of": f"{ZERO}_{seed}"} for seed in seeds]


def prove_seeds(run_dir: Path, seeds: Sequence[int], steps: int, console: Console) -> list[Result]:
    """Train R1-Zero with each seed and prove it; controls make ``steps`` updates."""
    out = run_dir.with_name(f"{run_dir.name}-seeds")
    stages = seed_stages(run_dir, seeds)
    data = {
        "name": "seeds",
        "runtime": {"kind": "local", "engine": "native", "processes": 1},
        "out": str(out),
        "stages": stages,
    }
    layers = Layers(data, source=f"seeds of {run_dir}")
    run(build(layers), command="python benchmarks/proofs.py --run RUN --seeds SEEDS", console=console)
    return [
        prove_stage(out, stage["name"], out.with_name(f"{out.name}-{stage['name']}"), console, steps=steps)
        for stage in stages
    ]


def spent() -> str:
    """The processor time of this command, and the load of the machine as it ends."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(one.ru_utime + one.ru_stime for one in used)
    return f"{seconds:.0f} seconds of processor time, load {os.getloadavg()[0]:.1f}"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=40, help="trainings by a coin")
    parser.add_argument("--run", type=Path, help="prove R1-Zero of this finished run with other seeds")
    parser.add_argument("--seeds", default="1,2,3,4", help="with --run")
    parser.add_argument("--steps", type=int, default=12, help="updates of a training by a coin, or a control")
    given = parser.parse_args(words)
    console = make_console()
    try:
        if given.run is not None:
            seeds = [int(seed) for seed in given.seeds.split(",")]
            results = prove_seeds(given.run, seeds, given.steps, console)
            found = {result.stage: result.proof for result in results}
        else:
            train_nulls(given.count, given.steps, console)
            found = {f"null_{number}": proof for number, proof in enumerate(judge_all(given.count))}
    except (R1kitError, OSError) as error:
        sys.exit(f"proofs: {error}")
    for name, proof in found.items():
        print(
            f"{name}: {proof.verdict} (p = {proof.p_value:.4f}): pass@1 {proof.trained:.3f}; {proof.reason}"
        )
    print(dict(Counter(proof.verdict for proof in found.values())), spent())


if __name__ == "__main__":
    main()
