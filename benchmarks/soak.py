"""Does memory grow? A nano run with 2,000 steps of pretraining and 2,000 of reinforcement learning; its
memory and open files are measured every 100 steps.

    python benchmarks/soak.py [--steps 2000]

Memory means the anonymous and shared pages of the run's process, the smallest of several measurements, so
that what one step needs for a moment does not count. Pages of libraries are left out, because the share of a
process depends on who else has them loaded. The sandbox's workers are left out too: they start with the first
program, one a core. Exits with 1 if memory at the end is more than 2 % above that after 200 steps, or if more
files are open."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = 0.02
RECIPE = """\
extends: {nano}
runtime: {{processes: 1}}
stages:
  pretrain: {{tokens: {tokens}, training: {{batch_tokens: 256, save_every: 50}}, learner: {{lines: 2}}}}
  r1_zero:
    rewards: {{'{reward}': 1.0}}
    grpo: {{steps: {steps}, problems: 2, group: 2, max_tokens: 12, updates_per_rollout: 1, save_every: 50}}
{without}
"""
REWARD = (
    "def odd(completions, completion_ids):\n    return [sum(i % 2 for i in ids) / len(ids) for ids in "
    "completion_ids]\n"
)
OTHERS = (
    "cold_start",
    "reasoning_rl",
    "rejection_sampling",
    "sft",
    "reward_models",
    "alignment_rl",
    "student_base",
    "distill",
    "evaluate",
)


def held(process: psutil.Process) -> tuple[float, int]:
    """Memory in MB and the number of open files, now."""
    return own_memory(process.pid) / 1e6, len(process.open_files())


def own_memory(pid: int) -> int:
    """Bytes in pages that belong to no file."""
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return 1024 * sum(int(words[1]) for words in lines if words[0] in ("Pss_Anon:", "Pss_Shmem:"))


def smallest(process: psutil.Process) -> tuple[float, int]:
    """The smallest of ten measurements."""
    measured = []
    for _ in range(10):
        measured.append(held(process))
        time.sleep(0.05)
    return min(memory for memory, _ in measured), min(files for _, files in measured)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2000)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        (folder / "reward.py").write_text(REWARD)
        without = "\n".join(f"  {stage}: null" for stage in OTHERS)
        text = RECIPE.format(
            nano=ROOT / "recipes/nano.yaml",
            tokens=256 * steps,
            steps=steps,
            reward=f"{folder}/reward.py:odd",
            without=without,
        )
        (folder / "soak.yaml").write_text(text)
        command = [
            sys.executable,
            "-m",
            "r1kit",
            "run",
            str(folder / "soak.yaml"),
            "--out",
            str(folder / "run"),
        ]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}
        )
        found = watch(
            psutil.Process(process.pid),
            folder / "run/metrics.jsonl",
            {*range(100, steps - 20, 100), steps - 20},
        )
        if process.wait() != 0:
            raise SystemExit("the run failed")
    sys.exit(report(found, steps))


def watch(
    process: psutil.Process, metrics: Path, wanted: set[int]
) -> dict[tuple[str, int], tuple[float, int]]:
    """Memory and open files of the process when a stage's log reaches one of the wanted steps."""
    found: dict[tuple[str, int], tuple[float, int]] = {}
    read = 0
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.02)
        lines = metrics.read_bytes()[read:].splitlines(keepends=True) if metrics.exists() else []
        for line in lines:
            if not line.endswith(b"\n"):
                break
            read += len(line)
            row = json.loads(line)
            if row["step"] in wanted:
                found[row["stage"], row["step"]] = smallest(process)
    return found


def report(found: dict[tuple[str, int], tuple[float, int]], steps: int) -> int:
    """Print the measurements; return 1 if memory or open files have grown, else 0."""
    code = 0
    for stage in ("pretrain", "r1_zero"):
        series = [f"{step}:{memory:.1f}" for (name, step), (memory, _) in found.items() if name == stage]
        print(f"{stage}: {' '.join(series)} MB")
        (early, early_files), (late, late_files) = found[stage, 200], found[stage, steps - 20]
        growth = late / early - 1
        grown = growth > ALLOWED or late_files > early_files
        code = code or int(grown)
        memory = f"{early:.1f} MB after 200 steps, {late:.1f} MB after {steps - 20} ({growth:+.1%})"
        print(f"{stage}: {memory}; files {early_files}, {late_files}: {'GROWN' if grown else 'steady'}")
    return code


if __name__ == "__main__":
    main()
