"""How often ``r1kit prove`` is wrong, on both sides:

    python benchmarks/proofs.py --count 40                         # trainings by a coin
    python benchmarks/proofs.py --base runs/mini                   # the same from the base of a finished run
    python benchmarks/proofs.py --run runs/mini --seeds 1,2,3,4    # R1-Zero again, with other seeds

The first trains by a coin from the small base of recipes/proofs.yaml, and judges each training as if it were
the one to prove: training number i is compared with the base, with the trainings i + 1 and i + 2 as the two
coins, with a training by a coin and the format as a further control, and with itself under swapped prompts.
All are stages of runs/proofs, or, with --base RUN, of RUN-coins next to the run.

The second trains the stage r1_zero of a finished run again, from the same base, and proves each. Its stages
are those of RUN-seeds, next to the run. Both commands continue where they were interrupted."""

import argparse
import json
import os
import resource
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from r1kit.commands.prove import Measure, Result, find_subject, prove_stage
from r1kit.config import R1kitError
from r1kit.console import make_console
from r1kit.figures.proof import Proof, prove
from r1kit.recipe.layers import Layers, read_layers
from r1kit.recipe.recipe import build
from r1kit.records import find_model, find_stage_with_model
from r1kit.runs.execute import run
from r1kit.runtime import start
from r1kit.runtime.local import LocalConfig

RECIPE = Path("recipes/proofs.yaml")
RUN = Path("runs/proofs")
FORMAT = "format"  # the stage of the recipe whose reward is a coin and the format
PROBLEMS, SAMPLES = 100, 4  # held-out problems, and responses to each
ZERO = "r1_zero"


def null_stages(coin: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """``count`` trainings by a coin, each with rollouts and coins of its own."""
    return [
        {**coin, "name": f"null_{n}", "seed_of": f"null_{n}", "rewards": {"coin": {"seed": n}}}
        for n in range(count)
    ]


def train_nulls(count: int, console: Console, out: Path, base: Path | None = None) -> None:
    """Train the base, unless a model is given, the control and the trainings by a coin that are not done."""
    layers = read_layers(RECIPE, [f"out={json.dumps(str(out))}"])
    pretrain, coin, by_format = layers.data["stages"]
    if base is not None:
        coin, by_format = ({**stage, "init": str(base)} for stage in (coin, by_format))
    kept = [by_format] if base else [pretrain, by_format]
    data = {**layers.data, "stages": [*kept, *null_stages(coin, count)]}
    run(build(Layers(data, source=str(RECIPE))), command="python benchmarks/proofs.py", console=console)


@dataclass(frozen=True, slots=True)
class Measured:
    """Each held-out problem's share of right answers: of the base, of the control by a coin and the format,
    of each training by a coin, and of each under swapped prompts."""

    base: Sequence[float]
    format: Sequence[float]
    nulls: Sequence[Sequence[float]]
    swapped: Sequence[Sequence[float]]


def measure_nulls(count: int, out: Path) -> Measured:
    """Measure all models on the same problems."""
    models = [find_stage_with_model(out, f"null_{n}").model for n in range(count)]
    subject = find_subject(out, "null_0")
    runtime = start(LocalConfig.parse({"processes": 1}, "runtime"))
    try:
        measure = Measure(subject, PROBLEMS, SAMPLES, runtime)
        return Measured(
            measure(subject.init),
            measure(find_stage_with_model(out, FORMAT).model),
            [measure(model) for model in models],
            [measure(model, swap=True) for model in models],
        )
    finally:
        runtime.close()


def judge_all(found: Measured) -> list[Proof]:
    """The verdict on each training by a coin."""
    nulls, count = found.nulls, len(found.nulls)
    return [
        prove(
            own,
            found.base,
            [nulls[(n + 1) % count], nulls[(n + 2) % count]],
            {"coin and format": found.format},
            found.swapped[n],
        )
        for n, own in enumerate(nulls)
    ]


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
    parser.add_argument("--base", type=Path, help="train by a coin from the base of this finished run")
    parser.add_argument("--run", type=Path, help="prove R1-Zero of this finished run with other seeds")
    parser.add_argument("--seeds", default="1,2,3,4", help="with --run")
    parser.add_argument("--steps", type=int, default=20, help="updates of each control, with --run")
    given = parser.parse_args(words)
    console = make_console()
    try:
        if given.run is not None:
            seeds = [int(seed) for seed in given.seeds.split(",")]
            results = prove_seeds(given.run, seeds, given.steps, console)
            found = {result.stage: result.proof for result in results}
        else:
            own = given.base is None
            out = RUN if own else given.base.with_name(f"{given.base.name}-coins")
            train_nulls(
                given.count, console, out, None if own else find_model(given.base, "pretrain").resolve()
            )
            judged = judge_all(measure_nulls(given.count, out))
            found = {f"null_{number}": proof for number, proof in enumerate(judged)}
    except (R1kitError, OSError) as error:
        sys.exit(f"proofs: {error}")
    for name, proof in found.items():
        print(
            f"{name}: {proof.verdict} (p = {proof.p_value:.4f}): pass@1 {proof.trained:.3f}; {proof.reason}"
        )
    print(f"base: pass@1 {next(iter(found.values())).comparisons[0].other:.3f}")
    print(dict(Counter(proof.verdict for proof in found.values())), spent())


if __name__ == "__main__":
    main()
