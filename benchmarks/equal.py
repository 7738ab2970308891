"""Whether two runtimes learn the same, stage by stage: learners that are shared out over two processes and
one process, and a Ray cluster and learners that are shared out.

    python benchmarks/equal.py                                  every kind below
    python benchmarks/equal.py --only dense --keep runs/equal   one kind; its runs are kept, and used again

Each kind is a recipe that runs on both, every stage after the other, so that a difference goes on into the
stages that follow. Everything is computed in
float32, Muon's iteration included: in bfloat16, the default, it rounds each number to 8 bits, and a sum whose
last bit differs can then change an update by 0.4 %. ``--rounded`` keeps the bfloat16 of Muon, to see that.

The table has the largest difference of each stage over all logged numbers but times: absolute below 1,
relative above. Exit code 1 where one is above ``--most``."""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

MOST = 1e-5  # the largest difference that counts as equal

NANO = """\
extends: {root}/recipes/nano.yaml
stages:
  pretrain:
    learner: &muon
      {{context: 160, lines: 26, precision: float32, head: float32,
       optimizer: {{kind: muon, learning_rate: 3e-3, muon_precision: {muon}}}}}
  r1_zero: {{learner: &exact {{precision: float32, head: float32}}}}
  cold_start: {{learner: *exact}}
  reasoning_rl: {{learner: *exact}}
  sft: {{learner: *exact}}
  reward_models: {{learner: *exact}}
  alignment_rl: {{learner: *exact}}
  student_base: {{learner: *muon}}
  distill: {{learner: *exact}}
"""
DENSE = """\
    model: &small
      {{preset: student, width: 64, layers: 2, heads: 4, kv_heads: 2, head_dim: 16, ffn_width: 128}}
    training: {{mtp_weight: 0.0}}
  student_base: {{model: *small, learner: *muon}}
"""
EVERY_STAGE = """\
extends: {root}/benchmarks/chaos/recipe/every_stage.yaml
stages:
  pretrain: {{learner: &exact {{precision: float32, head: float32}}}}
  r1_zero: {{learner: *exact}}
  cold_start: {{learner: *exact}}
  reasoning_rl: {{learner: *exact}}
  sft: {{learner: *exact}}
  reward_models: {{learner: *exact}}
  dpo: {{learner: *exact}}
  alignment_rl: {{learner: *exact}}
  student_base: {{learner: *exact}}
  distill: {{learner: *exact}}
"""


ONE = "{kind: local, processes: 1, engine_precision: float32}"
TWO = "{kind: fsdp, learners: 2, engine_precision: float32}"
EXPERTS = "{kind: fsdp, learners: 2, expert_parallel: 2, engine_precision: float32}"
HEADS = "{kind: fsdp, learners: 2, tensor_parallel: 2, engine_precision: float32}"
REPLICAS = "{kind: local, processes: 2, engine_precision: float32}"
RAY = "{kind: ray, learners: 2, engines: 2, engine_precision: float32}"


@dataclass(frozen=True)
class Kind:
    """A recipe, and the two runtimes that are compared."""

    recipe: str
    two: str
    one: str = ONE


_DENSE = NANO.replace("  student_base: {{learner: *muon}}\n", "").replace(
    "  r1_zero:", f"{DENSE}  r1_zero:", 1
)
KINDS: Mapping[str, Kind] = {
    "dense": Kind(_DENSE, TWO),
    "experts": Kind(NANO, TWO),
    "experts shared out": Kind(NANO, EXPERTS),
    "heads shared out": Kind(_DENSE, HEADS),
    # RL stages that learn, a critic, DPO, a lag, the student's own samples
    "every stage": Kind(EVERY_STAGE, TWO),
    "Ray and fsdp": Kind(NANO, RAY, TWO),
    "Ray and replicas": Kind(NANO, RAY, REPLICAS),
    "Ray, every stage": Kind(EVERY_STAGE, RAY, TWO),
}


@dataclass(frozen=True)
class Difference:
    """Two values of a logged number that differ by ``size``."""

    size: float
    step: int
    name: str
    one: float
    two: float

    def __str__(self) -> str:
        return f"{self.size:.1e} | {self.name}, step {self.step}: {self.one:.7g}, {self.two:.7g}"


def logged(run: Path) -> Iterator[tuple[tuple[str, int, str], float]]:
    """Every logged number of a run but times, by stage, step and name."""
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for name, value in row.items():
            is_time = name == "time" or name.startswith("time/")
            if isinstance(value, int | float) and name != "step" and not is_time:
                yield (row["stage"], row.get("step", -1), name), float(value)


def size_of(one: float, two: float) -> float:
    """How far apart two numbers are: absolute below 1, relative above; infinite where one is missing."""
    if one == two or (math.isnan(one) and math.isnan(two)):
        return 0.0
    found = abs(one - two) / max(1.0, abs(one), abs(two))
    return math.inf if math.isnan(found) else found


def largest(one: Path, two: Path) -> dict[str, tuple[int, Difference]]:
    """How many numbers each stage has logged, and the one that differs most."""
    first, second = dict(logged(one)), dict(logged(two))
    found: dict[str, list[Difference]] = {}
    for stage, step, name in {**first, **second}:
        pair = (first.get((stage, step, name), math.nan), second.get((stage, step, name), math.nan))
        missing = ((stage, step, name) in first) != ((stage, step, name) in second)
        size = math.inf if missing else size_of(*pair)
        found.setdefault(stage, []).append(Difference(size, step, name, *pair))
    return {stage: (len(all_), max(all_, key=lambda one: one.size)) for stage, all_ in found.items()}


def run(recipe: Path, out: Path, runtime: str) -> None:
    """Run a recipe, or what is left of it. Raises SystemExit where it fails."""
    command = [sys.executable, "-m", "r1kit", "run", str(recipe), runtime, "--out", str(out)]
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=recipe.parent, env=environment, check=False
    )
    if ended.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{ended.stdout[-1500:]}{ended.stderr[-1500:]}")


def compare(kind: Kind, folder: Path, muon: str) -> dict[str, tuple[int, Difference]]:
    """Run a kind in both ways; the largest difference of each stage."""
    from chaos.world import RECIPE, write_data

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "odd.py").write_text((RECIPE / "odd.py").read_text(encoding="utf-8"), encoding="utf-8")
    write_data(folder)
    recipe = folder / "recipe.yaml"
    recipe.write_text(kind.recipe.format(root=ROOT, muon=muon), encoding="utf-8")
    run(recipe, folder / "one", f"runtime={kind.one}")
    run(recipe, folder / "two", f"runtime={kind.two}")
    return largest(folder / "one", folder / "two")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=KINDS, action="append", help="this kind only (repeatable)")
    parser.add_argument("--keep", type=Path, help="a folder for all runs; what it has is used again")
    parser.add_argument("--most", type=float, default=MOST, help="the largest difference that is allowed")
    parser.add_argument("--rounded", action="store_true", help="Muon's iteration in bfloat16")
    options = parser.parse_args(words)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="equal-") as temporary:
        folder = (options.keep or Path(temporary)).absolute()
        print("| kind | stage | numbers | largest difference | where |\n|---|---|---|---|---|", flush=True)
        for name in options.only or KINDS:
            place = folder / name.replace(" ", "_")
            for stage, (count, found) in compare(
                KINDS[name], place, "bfloat16" if options.rounded else "float32"
            ).items():
                wrong += not found.size <= options.most
                where = found if found.size else "0 |"
                print(f"| {name} | {stage} | {count} | {where} |", flush=True)
    print(f"above {options.most:g}: {wrong}")
    sys.exit(min(1, wrong))


if __name__ == "__main__":
    main()
