"""Time to quality: how much processor time R1-Zero takes until the model is right on so many held-out
problems, by r1kit's recipe and by TRL's GRPOTrainer.

    python benchmarks/race.py [--base FOLDER] [--seeds 0 1 2] [--target 0.8] [--resume] [--minutes 8]
    python benchmarks/race.py --course real --out runs/race-real   # SmolLM2 on the task of recipes/real.yaml
    python benchmarks/race.py --ways       # before all: how TRL computes an update, and what each way costs
    python benchmarks/race.py --tries      # first: TRL's settings, one after another, on the first seed
    python benchmarks/race.py --page       # only docs/performance.md again, from what was measured

The base model is recipes/mini.yaml's (runs/mini/stages/pretrain/model). Base, problems and their order,
rewards, held-out problems and target are the same; each side has one core to itself, one after the other.
Every 768 rollouts (with the real model, 192) a side writes its weights and waits, and this process measures
pass@1 with r1kit's engine, in the same way for every side. Counted are the processor seconds of a side's
whole tree of processes, and the seconds of the clock, without start-up, without writing the weights and
without measuring them. A side ends at the first measurement that is not below the target, or where it has
used --times as many processor seconds as r1kit on the same seed.

Results are in OUT/race.json, which each measurement of a side joins when it is complete; a file of another
base, target or machine is refused. ``--resume`` leaves out what is in it for the same settings; with
``--minutes`` nothing further begins after so many minutes, so the same command, repeated, measures everything
in parts."""

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from bench.peers import PEERS, PeerError, python_of, versions
from bench.race import START_SECONDS, Side, SideError
from bench.results import machine, stamp
from race_page import IN_8_BITS, write_page
from race_work import COURSES, Setting, stage_of

import r1kit
from r1kit.config import R1kitError
from r1kit.files import hash_file, write_whole
from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.stages.evaluate import Evaluate

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
SOURCE = Path(r1kit.__file__).parents[1]
TIMES = 20.0
SIDES = ("r1kit", "trl", "r1kit as trl", IN_8_BITS)
LONG = 100_000.0  # processor seconds: the budget of a side that no other limits
ANSWER_SECONDS = 4 * 3600.0  # by the clock, for the updates between two measurements: the machine may be busy
CORRECTED = "stages.r1_zero.grpo.correction=truncate"  # the side with rollouts in 8 bits
SAME = Setting()
# What is tried in TRL, by name. The first is r1kit's recipe in TRL's words.
MINI_SETTINGS: dict[str, Setting] = {
    "as in the recipe": SAME,
    "TRL's own scaling of rewards": replace(SAME, scale_rewards="group"),
    "larger steps": replace(SAME, learning_rate=1e-3),
    "half the batch": replace(SAME, problems=16, steps=200),
    "twice the batch": replace(SAME, problems=64, steps=60),
    "pairs": replace(SAME, problems=64, group=2),
    "groups of 8": replace(SAME, problems=16, group=8, steps=120),
    "groups of 8, twice the batch": replace(SAME, group=8, steps=60),
    "smaller steps of one size": replace(SAME, learning_rate=2e-4, schedule="constant", steps=200),
}
# The same updates, computed in the quickest ways of two kinds of processors: without bfloat16 instructions,
# and with them.
GROUPED = "{}, experts grouped"
GROUPED_BF16 = "{}, experts grouped, bf16 weights"
GROUPED_AUTOCAST = "{}, experts grouped, bf16 autocast"
QUICK_WAYS: dict[str, dict[str, Any]] = {
    GROUPED: {"experts": "grouped_mm"},
    GROUPED_BF16: {"experts": "grouped_mm", "dtype": "bfloat16"},
    GROUPED_AUTOCAST: {"experts": "grouped_mm", "autocast": True},
}
MINI_TRIES: dict[str, Setting] = MINI_SETTINGS | {
    title.format(name): replace(setting, **way)
    for title, way in QUICK_WAYS.items()
    for name, setting in MINI_SETTINGS.items()
}

# recipes/real.yaml in TRL's words, with half of its problems an update. 8 rows at once took the least time
# in benchmarks/bench.py.
REAL = Setting(
    1e-5, "constant", steps=120, problems=4, group=12, micro_rows=8, experts="", warmup=2,
)  # fmt: skip
REAL_TRIES: dict[str, Setting] = {
    "as in the course": REAL,
    "larger steps": replace(REAL, learning_rate=2e-5),
    "the recipe's batch": replace(REAL, problems=8, steps=60),
    "16 rows at once": replace(REAL, micro_rows=16),
    "as in the course, bf16 autocast": replace(REAL, autocast=True),
    "as in the course, bf16 weights": replace(REAL, dtype="bfloat16"),
}
TRIES = {"mini": MINI_TRIES, "real": REAL_TRIES}

# How TRL may compute one update of the first of these, by name: what is quickest is written into Setting. The
# third way of computing experts, batched_mm, copies the weights of two experts for each token: some GB here.
MINI_WAYS: dict[str, Setting] = {
    "float32, experts one by one, 32 rows at once": SAME,
    "experts grouped": replace(SAME, experts="grouped_mm"),
    "64 rows at once": replace(SAME, micro_rows=64),
    "16 rows at once": replace(SAME, micro_rows=16),
    "bf16 autocast": replace(SAME, autocast=True),
    "bf16 weights": replace(SAME, dtype="bfloat16"),
    "experts grouped, bf16 autocast": replace(SAME, experts="grouped_mm", autocast=True),
    "experts grouped, bf16 weights": replace(SAME, experts="grouped_mm", dtype="bfloat16"),
    "experts grouped, bf16 weights, 64 rows at once": replace(
        SAME, experts="grouped_mm", dtype="bfloat16", micro_rows=64
    ),
    "continuous batching": replace(SAME, batching="continuous"),
}
REAL_WAYS: dict[str, Setting] = {
    "float32, 8 rows at once": REAL,
    "16 rows at once": replace(REAL, micro_rows=16),
    "4 rows at once": replace(REAL, micro_rows=4),
    "bf16 autocast": replace(REAL, autocast=True),
    "bf16 weights": replace(REAL, dtype="bfloat16"),
}
WAYS = {"mini": MINI_WAYS, "real": REAL_WAYS}


class Judge:
    """pass@1 on the held-out problems of the recipe's tasks."""

    def __init__(self, base: Path, course: str) -> None:
        stage, on = stage_of(base, course=course), COURSES[course]
        grpo = stage.algorithm
        self.talk = stage.talk
        self.stage = Evaluate(
            models={}, tasks=dict(stage.tasks), problems=on.held_out, n=on.samples,
            max_tokens=grpo.max_tokens, temperature=grpo.temperature, talk=stage.talk,
        )  # fmt: skip
        self.held_out = self.stage.load_held_out()
        self.runtime = LocalRuntime(LocalConfig(processes=1, threads=1))

    def pass_1(self, folder: Path) -> float:
        engine, chat = self.runtime.engine(folder), self.talk.chat(folder)
        found, _ = self.stage.measure(engine, chat, self.held_out, direct=False)
        self.runtime.release(engine)
        return found.overall.pass_1


def pace(
    side: Any,
    judge: Any,
    steps: int,
    rows: int,
    most: int,
    target: float,
    budget: float,
    folder: Path,
    note: Callable[[dict[str, Any]], None] = lambda found: None,
) -> dict[str, Any]:
    """Let a side train, ``steps`` updates of ``rows`` rollouts at a time and ``most`` at most, until its
    model reaches ``target`` or it has used ``budget`` processor seconds. Return the points of its curve,
    where it reached the target, and the budget. ``note`` gets the same after each point, with what was used
    so far as the budget."""
    points: list[dict[str, Any]] = []
    cpu_s = wall_s = peak_mb = 0.0
    reached = None
    while reached is None and cpu_s < budget and len(points) < most // steps:
        done = side.measure({"steps": steps, "rows": rows, "folder": str(folder)}, ANSWER_SECONDS)
        saving = done.reply["saving"]
        cpu_s, wall_s = cpu_s + done.cpu_s - saving["cpu_s"], wall_s + done.wall_s - saving["wall_s"]
        peak_mb = max(peak_mb, done.peak_mb)
        point = {
            "step": done.reply["step"], "cpu_s": round(cpu_s, 2), "wall_s": round(wall_s, 2),
            "tokens": done.tokens, "right": done.reply["right"], "pass_1": judge.pass_1(folder),
        }  # fmt: skip
        points.append(point)
        print("  step {step}: {cpu_s:.0f} CPU-s, training {right:.3f}, held out {pass_1:.3f}".format(**point))
        reached = point if point["pass_1"] >= target else None
        note({"points": points, "reached": reached, "peak_mb": round(peak_mb), "budget": point["cpu_s"]})
    return {"points": points, "reached": reached, "peak_mb": round(peak_mb), "budget": budget}


class Race:
    """One run of the command: folders, course, base, target, core, and the results so far."""

    def __init__(
        self, out: Path, peers: Path, base: Path, target: float, times: float, course: str = "mini"
    ) -> None:
        self.out, self.peers, self.base, self.target, self.times = out, peers, base, target, times
        self.course, self.tries = course, TRIES[course]
        self.core = sorted(os.sched_getaffinity(0))[-1:]
        self.file = out / "race.json"
        self.judge: Judge | None = None
        (out / "logs").mkdir(parents=True, exist_ok=True)
        place = machine() | {"cores": 1}  # a side has one, however many this command may use
        self.same = {"base": hash_file(base / "model.safetensors"), "target": target, "machine": place}
        self.content: dict[str, Any] = {**self.same, "runs": {}, "tries": {}, "peers": {}}
        if self.file.is_file():
            found = json.loads(self.file.read_text(encoding="utf-8"))
            if other := [key for key, value in self.same.items() if found.get(key) != value]:
                raise R1kitError(
                    f"{self.file}: these results have another {' and another '.join(other)}; give this race "
                    "a folder of its own (--out), or remove the file"
                )
            self.content = found

    def save(self) -> None:
        write_whole(self.file, json.dumps(self.content, indent=1, sort_keys=True) + "\n")

    def has(self, table: str, name: str, setting: Mapping[str, Any], budget: float) -> bool:
        """Whether a side was measured with this setting, to its end or with no smaller budget."""
        found = self.content[table].get(name)
        if found is None or found["setting"] != setting or "failed" in found:
            return False
        return found["reached"] is not None or found["budget"] >= budget

    def run(
        self, table: str, name: str, side: str, seed: int, setting: Setting | None, budget: float
    ) -> None:
        """Measure one side and keep what was found, or why it failed."""
        print(f"{name} (budget {budget:.0f} CPU-s)")
        about = {
            "side": side, "seed": seed, "setting": asdict(setting) if setting else {},
            "load": round(os.getloadavg()[0], 1), **stamp(),
        }  # fmt: skip

        def note(found: dict[str, Any]) -> None:
            """What an interrupted measurement leaves: how far it came."""
            self.content[table][name] = found | about
            self.save()

        try:
            found = self.paced(side, seed, setting, budget, note)
        except (SideError, PeerError) as error:
            found = {"points": [], "reached": None, "peak_mb": 0, "budget": budget, "failed": str(error)}
        note(found)
        end = found["reached"]
        print(f"{name}: {end['cpu_s']:.0f} CPU-s" if end else f"{name}: {found.get('failed', 'not reached')}")

    def paced(
        self,
        side: str,
        seed: int,
        setting: Setting | None,
        budget: float,
        note: Callable[[dict[str, Any]], None],
    ) -> dict[str, Any]:
        self.judge = self.judge or Judge(self.base, self.course)
        scratch = self.out / "scratch" / side
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        python = Path(sys.executable)
        if side == "trl":
            python = python_of(PEERS["trl_race"], self.peers)
            self.content["peers"] |= versions(PEERS["trl"], python)
        own_changes = setting.changes() if setting and side == "r1kit" else []
        own_changes += [CORRECTED] if side == IN_8_BITS else []
        grpo = stage_of(self.base, own_changes, self.course).grpo
        assert grpo is not None
        rows = setting.rows if setting else grpo.problems * grpo.group
        script = HERE / ("race_trl.py" if side == "trl" else "race_r1kit.py")
        running = Side(python, str(script), self.core, self.out / "logs" / f"{side}.log", [SOURCE], 1)
        try:
            work = str(scratch / "work")
            spec = {"base": str(self.base), "scratch": work, "seed": seed, "course": self.course}
            own = {"setting": asdict(setting)} if setting else {}
            precision = "int8" if side == IN_8_BITS else "bfloat16"
            given = own if side == "trl" else {"changes": own_changes, "engine_precision": precision}
            running.ask(spec | given, START_SECONDS)
            steps = max(1, COURSES[self.course].check_rollouts // rows)
            weights = scratch / "weights"
            most = setting.steps if setting else grpo.steps
            return pace(running, self.judge, steps, rows, most, self.target, budget, weights, note)
        finally:
            running.close()

    def ways(self, seed: int, updates: int = 1) -> None:
        """Measure each of WAYS, in one process of TRL's."""
        python = python_of(PEERS["trl_race"], self.peers)
        running = Side(
            python, str(HERE / "race_trl.py"), self.core, self.out / "logs" / "ways.log", [SOURCE], 1
        )
        scratch, ways = str(self.out / "scratch" / "ways"), WAYS[self.course]
        spec = {"base": str(self.base), "scratch": scratch, "seed": seed, "course": self.course}
        try:
            asked = {"ways": [asdict(way) for way in ways.values()], "updates": updates}
            seconds = running.ask(spec | asked, ANSWER_SECONDS)["seconds"]
        finally:
            running.close()
        self.content["ways"] = dict(zip(ways, seconds, strict=True)) | {"stamp": stamp()}
        self.save()
        for name, took in zip(ways, seconds, strict=True):
            print(f"{name}: {took:.1f} CPU-s an update" if took else f"{name}: not possible")

    def seconds(self, table: str, name: str) -> float:
        """The processor seconds that a measured side took to the target; infinite where it did not get
        there."""
        found = self.content[table].get(name) or {}
        return found["reached"]["cpu_s"] if found.get("reached") else math.inf

    def budget(self, seed: int) -> float:
        """The processor seconds that a side may use on a seed."""
        return min(LONG, self.times * self.seconds("runs", f"r1kit/{seed}"))

    def best(self) -> tuple[str, Setting]:
        """The setting that took the least time of those that were tried; the recipe's where none got
        there."""
        name = min(self.tries, key=lambda name: self.seconds("tries", name))
        reached = self.seconds("tries", name) < math.inf
        return (name, self.tries[name]) if reached else next(iter(self.tries.items()))


def tries(race: Race, seed: int, resume: bool, until: float, names: Sequence[str]) -> bool:
    """Try TRL's settings on one seed, each as long as the best so far, and at most --times as long as r1kit.
    Return whether all were tried. Raises R1kitError for a name that is no setting's."""
    if unknown := [name for name in names if name not in race.tries]:
        raise R1kitError(f"--tries {unknown[0]!r}: known are {', '.join(map(repr, race.tries))}")
    for name in names:
        setting = race.tries[name]
        others = (race.seconds("tries", other) for other in race.tries if other != name)
        budget = min(race.budget(seed), *others)
        if resume and race.has("tries", name, asdict(setting), budget):
            continue
        if time.monotonic() >= until:
            return False
        race.run("tries", name, "trl", seed, setting, budget)
    return True


def seeds(
    race: Race,
    wanted: Sequence[int],
    resume: bool,
    until: float,
    named: str | None = None,
    only: Sequence[str] = SIDES,
) -> bool:
    """r1kit, then TRL with the best setting or the ``named`` one, then r1kit with the same algorithm, then
    r1kit with rollouts in 8 bits, on each seed; of these sides ``only`` some. Return whether all was
    measured."""
    if named and named not in race.tries:
        raise R1kitError(f"--setting {named!r}: known are {', '.join(map(repr, race.tries))}")
    name, setting = (named, race.tries[named]) if named else race.best()
    for seed in wanted:
        sides: dict[str, tuple[str, Setting | None]] = {
            "r1kit": ("r1kit", None), "trl": ("trl", setting), "r1kit as trl": ("r1kit", setting),
            IN_8_BITS: (IN_8_BITS, None),
        }  # fmt: skip
        for title in only:
            side, own = sides[title]
            key = f"{title}/{seed}"
            budget = LONG if title == "r1kit" else race.budget(seed)
            if resume and race.has("runs", key, asdict(own) if own else {}, budget):
                continue
            if title == "trl" and race.content["tries"].get(name, {}).get("seed") == seed:
                race.content["runs"][key] = race.content["tries"][name]  # measured when it was tried
                continue
            if time.monotonic() >= until:
                return False
            race.run("runs", key, side, seed, own, budget)
    race.content["chosen"] = name
    race.save()
    return True


def command_line() -> argparse.ArgumentParser:
    line = argparse.ArgumentParser(description="Time to quality: r1kit's recipe and TRL's GRPOTrainer.")
    line.add_argument("--course", choices=list(COURSES), default="mini", help="what is raced on")
    line.add_argument("--base", type=Path, help="the model to begin with (the course's)")
    line.add_argument("--out", type=Path, default=Path("runs/race"), help="results, weights and logs")
    line.add_argument("--peers", type=Path, default=None, help="folder of TRL's environment (OUT)")
    line.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    line.add_argument("--target", type=float, help="pass@1 on held-out problems (the course's)")
    line.add_argument("--times", type=float, default=TIMES, help="TRL's budget, in r1kit's processor time")
    line.add_argument("--ways", action="store_true", help="measure how TRL computes an update")
    line.add_argument(
        "--tries", nargs="*", metavar="NAME", help="try TRL's settings, or some of them, on the first seed"
    )
    line.add_argument("--setting", metavar="NAME", help="TRL's setting (the best that was tried)")
    line.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="only some sides")
    line.add_argument("--resume", action="store_true", help="leave out what was measured")
    line.add_argument("--minutes", type=float, default=None, help="begin nothing after so many minutes")
    line.add_argument("--page", action="store_true", help="only write the page")
    return line


def main(words: Sequence[str] | None = None) -> None:
    asked = command_line().parse_args(words)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    torch.set_num_threads(1)
    until = time.monotonic() + 60 * asked.minutes if asked.minutes is not None else math.inf
    course = COURSES[asked.course]
    base, target = asked.base or Path(course.base), asked.target or course.target
    try:
        if not (base / "model.safetensors").is_file():
            raise R1kitError(
                f"{base}: no model; `make mini` makes the miniature's, `python models/get.py` gets SmolLM2; "
                "or name one with --base"
            )
        out = asked.out.resolve()
        peers = (asked.peers or out).resolve()
        race = Race(out, peers, base.resolve(), target, asked.times, asked.course)
        done = asked.page or asked.ways
        if asked.ways:
            race.ways(asked.seeds[0])
        elif not asked.page and asked.tries is not None:
            first = asked.seeds[0]
            if not race.has("runs", f"r1kit/{first}", {}, LONG):
                race.run("runs", f"r1kit/{first}", "r1kit", first, None, LONG)
            done = tries(race, first, asked.resume, until, asked.tries or list(race.tries))
        elif not asked.page:
            done = seeds(race, asked.seeds, asked.resume, until, asked.setting, asked.sides)
        if not done:
            print("race: some is left: the same command with --resume continues")
        print(write_page(PAGE, race.content, race.tries, asked.course))
    except R1kitError as error:
        sys.exit(f"race: {error}")


if __name__ == "__main__":
    main()
