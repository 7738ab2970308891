"""How far `r1kit plan` is off: six runs are planned, run, and compared in memory and time.

    python benchmarks/plan.py [--model FOLDER] [--out FOLDER] [--only NAME,...] [--run] [--table]

nano and mini's first stages need nothing; the others need a real model's folder (SmolLM2-135M-Instruct). A
run is planned twice with the machine's measured rates: as before it, and with the mean lengths and the
numbers of rows that it had, because these are assumptions and not what is tested here. A finished run is not
made again; --table only plans finished runs and prints docs/plan.md's table. --former RECIPE=FOLDER plans a
run of any recipe with what that folder shows, and compares stage by stage."""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from r1kit.planning.former import former_run
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


def execute(name: str, file: Path, overrides: list[str], out: Path) -> None:
    shutil.rmtree(out / name, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "r1kit", "run", str(file), *overrides], check=True)


def compare(file: Path, overrides: list[str], run: Path, prompt: int) -> dict[str, Any]:
    """The figures of a finished run, and those planned without and with its lengths and rows."""
    elsewhere = build(read_layers(file, [*overrides, f"out={run / 'nowhere'}"]))
    records = [stage_folder(run, stage.name).finished() for stage in elsewhere.stages]
    former, machine = former_run(run), machine_of(elsewhere, None)
    before = plan_recipe(elsewhere, machine, Assumptions(prompt=prompt))
    assumed = Assumptions(prompt=prompt, lengths=former.lengths, rows=former.rows)
    after = plan_recipe(elsewhere, machine, assumed)
    stages = [
        {
            "stage": record.name,
            "mb": record.peak_rss_mb,
            "s": record.seconds,
            "planned_mb": plan.memory_mb,
            "planned_s": plan.seconds,
            "phases": [
                {"kind": phase.kind, "purpose": phase.purpose, "s": phase.seconds, **parts_mb(phase.memory)}
                for phase in plan.phases
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
        "planned_before_s": sum(plan.seconds or 0.0 for plan in before),
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


def by_stage(found: dict[str, Any]) -> str:
    lines = ["| stage | memory planned | measured | time planned | measured |", "|---|---:|---:|---:|---:|"]
    for stage in found["stages"]:
        seconds = "-" if stage["planned_s"] is None else f"{stage['planned_s']:.0f} s"
        lines.append(
            f"| {stage['stage']} | {stage['planned_mb'] or 0.0:,.0f} MB | {stage['mb']:,.0f} MB | "
            f"{seconds} | {stage['s']:.0f} s |"
        )
    return "\n".join([*lines, table({"all": found}).splitlines()[-1]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--out", type=Path, default=Path("runs/plan"))
    parser.add_argument("--only", default="")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--run", action="store_true", help="only make the runs that are missing")
    parser.add_argument("--former", default="", metavar="RECIPE=FOLDER")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    given = parser.parse_args()
    if given.former:
        file, _, run = given.former.partition("=")
        print(by_stage(compare(Path(file), [], Path(run).resolve(), given.prompt_tokens)))
        return
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    write_data(out)
    wanted = recipes(given.model, out)
    for name in [name for name in given.only.split(",") if name] or list(wanted):
        file, overrides = write_recipe(name, wanted[name], out)
        finished = (out / name / "finished.json").is_file()
        if not given.table and not finished:
            execute(name, file, overrides, out)
        elif not finished:
            continue
        if not given.run:
            found = compare(file, overrides, out / name, PROMPT_TOKENS[name])
            (out / f"{name}.json").write_text(json.dumps(found, indent=1))
    made = [name for name in wanted if (out / f"{name}.json").is_file()]
    print(table({name: json.loads((out / f"{name}.json").read_text()) for name in made}))


if __name__ == "__main__":
    main()
