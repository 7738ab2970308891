"""How far `r1kit plan` is off: six runs are planned, run, and compared in memory and time.

    python benchmarks/plan.py [--model FOLDER] [--out FOLDER] [--only NAME,...] [--table]

nano and mini's first stages need nothing; the others need a real model's folder (SmolLM2-135M-Instruct). A
run is planned before it starts, with the machine's measured rates; afterwards it is planned again with the
mean lengths and the numbers of rows that it had, because these are assumptions and not what is tested here.
Results are kept in FOLDER/NAME.json, so that a second call makes only what is missing; --table plans finished
runs again and prints docs/plan.md's table."""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from r1kit.planning.former import Former, former_run
from r1kit.planning.plan import Assumptions, machine_of, plan_recipe
from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import build
from r1kit.records import stage_folder

ROOT = Path(__file__).parents[1]
PROMPT_TOKENS = {"nano": 24, "mini-2": 24, "grpo-1": 60, "grpo-2": 60, "sft": 40, "distil": 60}


def recipes(model: str, out: Path) -> dict[str, dict[str, Any]]:
    """The six runs: a recipe's file with overrides, or a recipe as data."""
    talk = {"template": "model"}
    answer = {**talk, "opening": "<think>So:</think>"}
    learner = {"context": 256, "lines": 2, "optimizer": {"kind": "adamw", "learning_rate": 1e-5}}
    grpo = {"steps": 2, "problems": 4, "group": 8, "updates_per_rollout": 1, "max_tokens": 48, "beta": 0.0,
            "gate_problems": 0}  # fmt: skip
    zero = {"stage": "r1_zero", "init": model, "tasks": {"chain": 1.0}, "talk": talk, "grpo": grpo,
            "rewards": {f"{out / 'vary.py'}:odd": 1.0}, "learner": learner}  # fmt: skip
    tuning = {"epochs": 1, "batch_tokens": 1024}
    sft = {"stage": "sft", "init": model, "data": [str(out / "traces.jsonl")], "talk": talk,
           "training": tuning, "learner": learner}  # fmt: skip
    distil = {"stage": "distill", "student": model, "teacher": model, "tasks": {}, "talk": answer,
              "general": str(out / "prompts.jsonl"), "problems": 12, "samples": 2, "max_tokens": 64,
              "training": tuning, "learner": learner}  # fmt: skip
    small = ["stages.pretrain.tokens=600000", "stages.r1_zero.grpo.steps=12"]
    return {
        "nano": {"extends": str(ROOT / "recipes/nano.yaml")},
        "mini-2": {"extends": str(ROOT / "recipes/mini.yaml"), "_overrides": small, "_first": 2},
        "grpo-1": {"runtime": {"kind": "local", "processes": 1}, "stages": [zero]},
        "grpo-2": {"runtime": {"kind": "local", "processes": 2}, "stages": [zero]},
        "sft": {"runtime": {"kind": "local", "processes": 1}, "stages": [sft]},
        "distil": {"runtime": {"kind": "local", "processes": 1}, "stages": [distil]},
    }


# A reward that differs between any two completions, so that every rollout is trained on.
REWARD = """\
def odd(completions, completion_ids):
    return [sum(i % 2 for i in ids) / len(ids) for ids in completion_ids]
"""


def write_data(out: Path) -> None:
    """Sums as traces and as prompts, and a reward."""
    (out / "vary.py").write_text(REWARD)
    sums = [(a, b) for a in range(10, 50) for b in range(2, 8)]
    rows = [
        {"prompt": f"What is {a} + {b}?", "completion": f"<think>{a} + {b} = {a + b}</think>It is {a + b}."}
        for a, b in sums
    ]
    (out / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:120]))
    asked = [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows[120:132]]
    (out / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))


def write_recipe(name: str, content: dict[str, Any], out: Path) -> tuple[Path, list[str]]:
    content = dict(content)
    overrides = [*content.pop("_overrides", []), f"out={out / name}"]
    first = content.pop("_first", None)
    if first:
        names = [stage.name for stage in build(read_layers(Path(content["extends"]), [])).stages]
        content["stages"] = dict.fromkeys(names[first:])
    file = out / f"{name}.yaml"
    file.write_text(json.dumps({"name": name, **content}))
    return file, overrides


def execute(name: str, file: Path, overrides: list[str], out: Path) -> float:
    """Plan and run; the seconds that were planned before, with lengths of half of max_tokens."""
    shutil.rmtree(out / name, ignore_errors=True)
    recipe = build(read_layers(file, overrides))
    before = plan_recipe(recipe, machine_of(recipe, None), Assumptions(prompt=PROMPT_TOKENS[name]))
    subprocess.run([sys.executable, "-m", "r1kit", "run", str(file), *overrides], check=True)
    return sum(plan.seconds or 0.0 for plan in before)


def compare(name: str, file: Path, overrides: list[str], out: Path, before: float) -> dict[str, Any]:
    """The figures of a finished run, and those planned with its lengths."""
    recipe = build(read_layers(file, overrides))
    records = [stage_folder(recipe.run_dir, stage.name).finished() for stage in recipe.stages]
    logged = (recipe.run_dir / "metrics.jsonl").is_file()
    former = former_run(recipe.run_dir) if logged else Former()
    elsewhere = build(read_layers(file, [*overrides, f"out={out / 'nowhere'}"]))
    assumed = Assumptions(prompt=PROMPT_TOKENS[name], lengths=former.lengths, rows=former.rows)
    after = plan_recipe(elsewhere, machine_of(elsewhere, None), assumed)
    stages = [
        {
            "stage": record.name,
            "mb": record.peak_rss_mb,
            "s": record.seconds,
            "planned_mb": plan.memory_mb,
            "planned_s": plan.seconds,
            "phases": [
                {"kind": phase.kind, "s": phase.seconds, **parts_mb(phase.memory)} for phase in plan.phases
            ],
        }
        for record, plan in zip(records, after, strict=True)
        if record is not None
    ]
    return {
        "mb": max(float(str(stage["mb"])) for stage in stages),
        "planned_mb": max(plan.memory_mb or 0.0 for plan in after),
        "s": sum(stage["s"] for stage in stages if stage["planned_s"] is not None),
        "planned_s": sum(plan.seconds or 0.0 for plan in after),
        "planned_before_s": before,
        "stages": stages,
    }


def parts_mb(memory: Any) -> dict[str, int]:
    return {part: round(getattr(memory, part) / 1e6) for part in memory.__slots__}


def table(results: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| run | memory planned | measured | off | time planned | measured | off | planned before |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, r in results.items():
        off = [f"{r[f'planned_{key}'] / r[key] - 1:+.0%}" for key in ("mb", "s")]
        lines.append(
            f"| {name} | {r['planned_mb']:,.0f} MB | {r['mb']:,.0f} MB | {off[0]} | {r['planned_s']:.0f} s | "
            f"{r['s']:.0f} s | {off[1]} | {r['planned_before_s']:.0f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--out", type=Path, default=Path("runs/plan"))
    parser.add_argument("--only", default="")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    write_data(out)
    wanted = recipes(given.model, out)
    for name in [name for name in given.only.split(",") if name] or list(wanted):
        result = out / f"{name}.json"
        if given.table != result.is_file() and not given.only:
            continue  # the table needs a finished run; a run is not repeated
        recipe = write_recipe(name, wanted[name], out)
        if given.table:
            before = json.loads(result.read_text())["planned_before_s"]
        else:
            before = execute(name, *recipe, out)
        result.write_text(json.dumps(compare(name, *recipe, out, before), indent=1))
    made = [name for name in wanted if (out / f"{name}.json").is_file()]
    print(table({name: json.loads((out / f"{name}.json").read_text()) for name in made}))


if __name__ == "__main__":
    main()
