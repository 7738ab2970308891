"""Kill r1kit at any moment and damage any file of a run: the result is the same, or an error says why.

    python benchmarks/chaos.py             200 kills, 2,000 mutations, and all system calls of a save and of a
                                           hand-over, with 1 and 2 processes
    python benchmarks/chaos.py --quick     a part of it, for every change (.ci/run)
    python benchmarks/chaos.py --only mutations --case 17 --seed 3       one case again
    python benchmarks/chaos.py --only fsdp --only ray --kills 12 --mutations 60

Kills (kills.py): random signals to a run of a recipe with every kind of stage, and disks that are full.
Moments (world.py): the run is continued from copies of its folder. Mutations (mutations.py): every file of a
run is damaged, then read. Calls (calls.py): kills and disk errors at every system call. fsdp: kills of a run
whose learners are shared out over two processes, and damage to its states, of which each process writes a
part. ray: kills of a run on a Ray cluster of two learners and two engines (clusters.py); its states are those
of the others. fsdp and ray get a tenth of all kills and a twentieth of all mutations, alone all of them.
``--seed`` chooses the cases, ``--keep`` a folder for the runs, used again by the next call. Do not change
r1kit's source meanwhile. The last line is ``wrong: N``; exit code 1 where N is not 0."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from chaos.calls import disturb
from chaos.kills import random_kills
from chaos.page import note
from chaos.runs import Tally, import_everything, print_totals
from chaos.series import mutations, tallies
from chaos.targets import numbers_of
from chaos.world import SEEDS, World, prepare

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("kills", "mutations", "calls", "fsdp", "ray")
SHARE_OF_SEVERAL = 0.05  # of the mutations, with several processes: each attempt starts them
SHARE_OF_KILLS = 0.1  # on fsdp and on Ray, where other parts are done too
STATES = ("states: manifests", "states: tensors", "states: texts")


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="random kills, over all --processes")
    parser.add_argument("--mutations", type=int, default=2000, help="damaged files, over all --processes")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="of the runs")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="cases at a time")
    parser.add_argument("--seed", type=int, default=0, help="chooses kills and mutations")
    parser.add_argument("--every", type=int, default=1, help="take every n-th system call of a hand-over")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part only (repeatable)")
    parser.add_argument("--case", type=int, help="the mutation of this number only")
    parser.add_argument("--kind", action="append", help="mutations of this kind of file only (repeatable)")
    parser.add_argument("--until-wrong", action="store_true", help="no mutation after one that is wrong")
    parser.add_argument("--moment", help="continue this moment only, without damage")
    parser.add_argument("--round", type=int, help="the round of kills of this number only")
    parser.add_argument("--quick", action="store_true", help="150 mutations and 8 kills of 1 process")
    parser.add_argument("--no-foreign", action="store_true", help="no files of a run with another seed")
    parser.add_argument("--keep", type=Path, help="a folder for all runs; what it has is used again")
    parser.add_argument("--write", action="store_true", help="write the table of docs/reliability.md")
    options = parser.parse_args(words)
    if options.quick:
        options.kills, options.mutations, options.processes = 8, 150, [1]
    options.only = options.only or (["kills", "mutations"] if options.quick else list(PARTS))
    return options


def mutate(world: World, folder: Path, options: argparse.Namespace, count: int) -> list[Tally]:
    """So many mutations of a world, or the case or moment that is asked for. Where learners are shared out
    only their states are damaged; the other files are as everywhere."""
    kinds = options.kind or (None if world.kind == "local" else list(STATES))
    numbers = numbers_of(world, count, kinds) if options.case is None else [options.case]
    first = world.kind == "local" and world.processes == 1
    moments = [moment for moment in world.moments() if moment.working and (first or options.moment)]
    if options.case is not None or options.kind:
        moments = []
    if options.moment is not None:
        numbers, moments = [], [moment for moment in moments if moment.name == options.moment]
    if options.case is not None or options.moment is not None or options.kind:
        shutil.rmtree(folder, ignore_errors=True)
    workers = min(options.workers, max(1, len(numbers) + len(moments)))
    found = mutations(world, folder, numbers, options.seed, workers, moments, options.until_wrong)
    return tallies(found, world)


def made(folder: Path, processes: int, kind: str, seeds: int) -> World:
    """A world of this kind, with the runs of so many seeds."""
    began = time.monotonic()
    world = prepare(folder, processes, SEEDS[:seeds], kind)
    print(f"{world.label}: prepared in {time.monotonic() - began:.0f} s", flush=True)
    return world


def kill(world: World, folder: Path, options: argparse.Namespace, kills: int) -> Tally:
    """So many random kills of a world, or the round that is asked for."""
    shutil.rmtree(folder, ignore_errors=True)
    return random_kills(world, folder, kills, options.seed, options.round)


def on_local(folder: Path, options: argparse.Namespace) -> list[Tally]:
    """Kills and mutations with each number of processes."""
    found: list[Tally] = []
    for processes in options.processes:
        world = made(folder / f"world_{processes}", processes, "local", 1 if options.no_foreign else 2)
        if "mutations" in options.only:
            share = 1 - SHARE_OF_SEVERAL if processes == 1 else SHARE_OF_SEVERAL
            count = round(options.mutations * (share if len(options.processes) > 1 else 1))
            found += mutate(world, folder / f"mutations_{processes}", options, count)
        if "kills" in options.only:
            kills = -(-options.kills // len(options.processes))
            found.append(kill(world, folder / f"kills_{processes}", options, kills))
    return found


def on_several(folder: Path, kind: str, options: argparse.Namespace) -> list[Tally]:
    """Kills, and on fsdp mutations, with two processes of a runtime of this kind."""
    alone = not set(options.only) & {"kills", "mutations", "calls"}
    kills = options.kills if alone else round(options.kills * SHARE_OF_KILLS)
    count = options.mutations if alone else round(options.mutations * SHARE_OF_SEVERAL)
    seeds = 2 if kind == "fsdp" and not options.no_foreign else 1
    world = made(folder / f"world_{kind}", 2, kind, seeds)
    found: list[Tally] = []
    if kind == "fsdp" and options.round is None:
        found += mutate(world, folder / f"mutations_{kind}", options, count)
    if options.case is None and options.moment is None and kills:
        found.append(kill(world, folder / f"kills_{kind}", options, kills))
    return found


def examine(folder: Path, options: argparse.Namespace) -> list[Tally]:
    """Do every part; return the counts."""
    found: list[Tally] = []
    if {"kills", "mutations", "calls"} & set(options.only):
        found += on_local(folder, options)
    for kind in ("fsdp", "ray"):
        if kind in options.only:
            found += on_several(folder, kind, options)
    if "calls" in options.only:
        model = folder / f"world_{options.processes[0]}/moments/0/finished/stages/pretrain/model"
        shutil.rmtree(folder / "calls", ignore_errors=True)
        found += disturb(model, folder / "calls", options.every)
    return found


def main() -> None:
    options = options_of()
    began = time.monotonic()
    import_everything()
    # Not TemporaryDirectory: a forked attempt would remove it as it ends.
    folder = (options.keep or Path(tempfile.mkdtemp(prefix="chaos-"))).absolute()
    found = examine(folder, options)
    wrong = print_totals(found)
    seconds = time.monotonic() - began
    if options.write:
        note(found, seconds, options.seed, ROOT / "docs/reliability.md")
    if not options.keep and not wrong:
        shutil.rmtree(folder, ignore_errors=True)
    elif wrong:
        print(f"kept: {folder}")
    print(f"took {seconds / 60:.1f} minutes")
    print(f"wrong: {wrong}")
    sys.exit(min(1, wrong))


if __name__ == "__main__":
    main()
