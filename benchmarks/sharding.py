"""What it saves and costs to share a learner out: memory and seconds of a few steps of R1-Zero.

    python benchmarks/sharding.py models/SmolLM2-135M-Instruct
    python benchmarks/sharding.py MODEL --only "shared out" --steps 4

The recipe is recipes/real.yaml with few and short completions. An update computes one line of 640 tokens at a
time whatever the number of completions, so its memory is the recipe's own. Memory is the proportional set
size (Linux): a page that n processes share counts 1/n in each. The two processes of the local runtime share
weights and moments that way, so the comparison with "replicas" uses processes that hold their own, as
learners on two machines do."""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
LOOK_S = 0.5

RECIPE = """\
extends: {root}/recipes/real.yaml
stages:
  r1_zero:
    init: {model}
    rewards: {{"{root}/benchmarks/chaos/recipe/odd.py:odd": 1.0}}  # with a spread in every group
    grpo: {{steps: {steps}, problems: {problems}, group: 4, max_tokens: 16, save_every: 1000}}
  evaluate: null
"""
OWN_MEMORY = (
    "import sys\nfrom r1kit.commands.cli import main\nimport r1kit.runtime.local as local\n"
    "local.shares_state = lambda config: False\n"
    "if __name__ == '__main__':\n    main()\n"
)
FSDP = "runtime={{kind: fsdp, learners: 2, batch_rows: 64{keys}}}"
# The runtime of each kind, other words of the command, and whether its processes share weights and moments.
KINDS: Mapping[str, tuple[str, tuple[str, ...], bool]] = {
    "replicas": ("runtime={kind: local, processes: 2, batch_rows: 64}", (), False),
    "replicas on one copy": ("runtime={kind: local, processes: 2, batch_rows: 64}", (), True),
    "shared out": (FSDP.format(keys=""), (), True),
    "shared out, layers recomputed": (
        FSDP.format(keys=""),
        ("stages.r1_zero.learner.gradient_checkpointing=true",),
        True,
    ),
    "shared out, bfloat16 gathered": (FSDP.format(keys=", gather: bfloat16"), (), True),
}


@dataclass(frozen=True)
class Measured:
    """Of one run: the largest memory of any process and of all together in MB, the median seconds of an
    update and of sampling after the first step, and the norms of the gradients, which show that the runs did
    the same."""

    largest_mb: float
    all_mb: float
    update_s: float
    rollout_s: float
    norms: tuple[float, ...]


def proportional_mb(pid: int) -> float:
    """The proportional set size of a process in MB; 0 where it has ended."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024 / 1e6
    return 0.0


def watched(process: "subprocess.Popen[str]") -> tuple[float, float]:
    """Wait for a process; the largest memory of it or of one of its children, and of all together."""
    largest = together = 0.0
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            own = psutil.Process(process.pid)
            sizes = [proportional_mb(one.pid) for one in (own, *own.children(recursive=True))]
            largest, together = max(largest, *sizes), max(together, sum(sizes))
        time.sleep(LOOK_S)
    return largest, together


def measure(kind: str, folder: Path, model: Path, steps: int, problems: int) -> Measured:
    """Run the recipe with a kind of runtime. Raises SystemExit where it fails."""
    runtime, words, shares = KINDS[kind]
    folder.mkdir(parents=True)
    recipe, program = folder / "recipe.yaml", folder / "replicas.py"
    recipe.write_text(RECIPE.format(root=ROOT, model=model, steps=steps, problems=problems), encoding="utf-8")
    program.write_text(OWN_MEMORY, encoding="utf-8")
    command = [sys.executable, *(("-m", "r1kit") if shares else (str(program),)), "run", str(recipe)]
    command += [runtime, *words, "--out", str(folder / "run")]
    with (folder / "output.txt").open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True)
        largest, together = watched(process)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{(folder / 'output.txt').read_text()[-2000:]}")
    rows = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "optim/grad_norm" in row]
    if len(rows) < steps:
        raise SystemExit(f"{kind}: {len(rows)} of {steps} steps had an update; choose more --problems")
    update, rollout = (
        statistics.median(row[f"time/{what}"] for row in rows[1:]) for what in ("update", "rollout")
    )
    return Measured(largest, together, update, rollout, tuple(row["optim/grad_norm"] for row in rows))


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder of a model of Hugging Face's format")
    parser.add_argument("--only", choices=KINDS, action="append", help="this kind only (repeatable)")
    parser.add_argument("--steps", type=int, default=3, help="steps of R1-Zero; times leave the first out")
    parser.add_argument("--problems", type=int, default=2, help="problems of a step, of 4 completions each")
    options = parser.parse_args(words)
    print("| kind | largest process, MB | both, MB | update, s | sampling, s | norms of the gradient |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="sharding-") as folder:
        for number, kind in enumerate(options.only or KINDS):
            place = Path(folder) / str(number)
            found = measure(kind, place, options.model.absolute(), options.steps, options.problems)
            norms = ", ".join(f"{norm:.5g}" for norm in found.norms)
            print(
                f"| {kind} | {found.largest_mb:,.0f} | {found.all_mb:,.0f} | {found.update_s:.1f} | "
                f"{found.rollout_s:.1f} | {norms} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
