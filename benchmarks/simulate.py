"""How many engines for a learner, which lag, and what failures cost, at 64 to 2,048 GPUs.

    python benchmarks/simulate.py [--updates 12] [--lags 0,1,4] [--figure FILE.svg] [--out FILE]

The system is R1-Zero of the paper: 32 questions of 16 completions an update, 6,554 tokens on average (a fifth
of 32,768) and none longer. "In turns" is one set of GPUs that samples 16 updates' completions at once, as in
the paper, and then learns; else engines and learner have GPUs of their own, in whole nodes, and the best of
some splits is shown. Rates are those of ``r1kit plan`` (planning/machines.py, planning/world.py), and the
simulation is planning/simulation.py. Lengths have one of two shapes: as measured in the RL of
recipes/mini.yaml, or with the long tail of a log-normal distribution, which is an assumption.

Failures are rare within the simulated time. So some are forced, the seconds that one costs are multiplied by
how often GPUs fail (Llama 3 405B's training), and those two shares of the time are added."""

import argparse
import functools
import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path
from statistics import NormalDist

from r1kit.planning.learners import LearnerFacts
from r1kit.planning.machines import NODE, GPUs
from r1kit.planning.memory import Memory
from r1kit.planning.operations import forward_operations, training_operations
from r1kit.planning.plan import PhaseCost
from r1kit.planning.rates import fleet_of
from r1kit.planning.shapes import Shape, shape_of_keys
from r1kit.planning.sharding import even_cut, layout_of
from r1kit.planning.simulation import Outcome, System, simulate
from r1kit.planning.world import handed_over, sent_by

GROUP, BATCH = 16, 32
PHASE = 16  # updates that learn from one phase of sampling, in turns
FORCED = 6  # failures of engines, and of the learner, in a simulation
MEAN, LONGEST = 6554.0, 32_768.0
# Lengths of 1,280 completions in the last phases of mini's r1_zero (2026-11-27), as shares of their mean.
MEASURED = (
    0.129, 0.6, 0.665, 0.708, 0.729, 0.772, 0.815, 0.858, 0.922, 0.965, 1.008, 1.094, 1.158, 1.265, 1.587,
    1.737, 2.273,
)  # fmt: skip
SPREAD = 0.8  # of the log-normal distribution
FACTS = LearnerFacts(context=36_864, lines=1, checkpointing=True)
# Llama 3 405B (2407.21783, section 3.3.4): 419 unexpected interruptions in 54 days on 16,384 GPUs.
GPU_SECONDS_BETWEEN_FAILURES = 16_384 * 54 * 86_400 / 419
ENGINE_RESTART, LEARNER_RESTART, SAVE_EVERY = 300.0, 600.0, 16  # assumptions; in seconds and updates
SHARES = (1 / 8, 1 / 4, 1 / 2)  # of the GPUs that learn
MODELS = {"qwen2.5-32b": (64, 128, 256), "v3-671b": (512, 1024, 2048)}


def lengths_of(kind: str) -> list[float]:
    """Lengths in tokens of one of the two shapes, with mean ``MEAN`` before the longest are cut."""
    if kind == "measured":
        pairs = itertools.pairwise(MEASURED)
        shares = [low + (high - low) * place / 8 for low, high in pairs for place in range(8)]
    else:
        normal = NormalDist(-SPREAD * SPREAD / 2, SPREAD)
        shares = [2.718281828 ** normal.inv_cdf((place + 0.5) / 256) for place in range(256)]
    mean = sum(shares) / len(shares)
    return [min(LONGEST, share / mean * MEAN) for share in shares]


def update_seconds(shape: Shape, learners: int, tokens: float) -> float:
    """Seconds of an update on so many GPUs: the longer of computing and traffic; one pass of a reference."""
    fleet = fleet_of(f"h800:{learners}")
    operations = training_operations(shape, tokens, MEAN, again=True) + forward_operations(
        shape, tokens, MEAN
    )
    config = shape.config
    assert config is not None
    layers = (config.moe_layers, shape.active_experts * shape.width)
    layout = layout_of(shape.experts, learners)
    sharded = even_cut(shape.parameters, shape.expert_parameters, layers, layout)
    positions = min(float(FACTS.context), max(LONGEST, tokens / (learners // NODE)))
    phase = PhaseCost(
        "learning", "", tokens, operations, 0.0, Memory(), 1.0, passes=1.0, positions=positions, facts=FACTS,
        shape=shape,
    )  # fmt: skip
    computing = operations / (learners * fleet.gpu.operations * fleet.compute_share)
    return max(computing, sent_by(phase, sharded, fleet).seconds)


def system_of(shape: Shape, gpus: int, learners: int, lag: int) -> System:
    """Engines on all GPUs but ``learners`` (0: all GPUs do both, in turns, and an update is a phase's 16)."""
    fleet = fleet_of(f"h800:{gpus - learners}")
    machine = GPUs(fleet)
    size = machine.engine_size(shape)
    times = 1 if learners else PHASE
    return System(
        engines=max(1, fleet.count // size), rows=4096, group=GROUP, batch=BATCH * times, lag=lag,
        step=functools.cache(lambda rows: machine.step_seconds(shape, rows, MEAN / 2, size)),
        update=lambda tokens: times * update_seconds(shape, learners or gpus, tokens / times),
        handover=handed_over(shape, fleet)[1], engine_restart=ENGINE_RESTART, learner_restart=LEARNER_RESTART,
        save_every=SAVE_EVERY // times,
    )  # fmt: skip


def lost_share(system: System, lengths: list[float], updates: int, gpus: int, learners: int) -> float:
    """The share of the time that failures cost, by forced ones."""
    # So far apart that the learner is back long before it fails again.
    apart, pace = 5 * LEARNER_RESTART, simulate(system, lengths, updates).seconds
    updates = max(updates, round(FORCED * apart / pace))
    calm = simulate(system, lengths, updates)
    whole, share = calm.seconds * updates, 0.0
    size = (gpus - learners) / system.engines
    engines = simulate(replace(system, engine_mtbf=whole * system.engines / FORCED), lengths, updates)
    if engines.engine_failures:
        each = (engines.seconds - calm.seconds) * updates / engines.engine_failures
        share += each * system.engines * size / GPU_SECONDS_BETWEEN_FAILURES
    learner = simulate(replace(system, learner_mtbf=apart), lengths, updates)
    if learner.learner_failures:
        each = (learner.seconds - calm.seconds) * updates / learner.learner_failures
        share += each * (learners or gpus) / GPU_SECONDS_BETWEEN_FAILURES
    return share


def fits(shape: Shape, learners: int) -> bool:
    """Whether 18 bytes for each parameter (weights, gradients, moments, a bfloat16 copy) take at most two
    thirds of the learner's memory."""
    return 18 * shape.parameters <= learners * 80e9 * 2 / 3


def study(model: str, gpus: int, kind: str, lags: list[int], updates: int) -> list[dict[str, object]]:
    """For each lag the best split, and the same GPUs in turns."""
    shape, lengths = shape_of_keys({"preset": model}, None), lengths_of(kind)
    phases = max(2, updates // PHASE)
    rows = [("in turns", 0, 0, simulate(system_of(shape, gpus, 0, 0), lengths, phases))]
    for lag in lags:
        splits: list[tuple[int, Outcome]] = []
        for share in SHARES:
            learners = max(NODE, int(gpus * share) // NODE * NODE)
            if fits(shape, learners):
                splits.append((learners, simulate(system_of(shape, gpus, learners, lag), lengths, updates)))
        if splits:
            rows.append(("apart", *_fastest(splits, lag)))
    found = []
    for how, learners, lag, outcome in rows:
        system = system_of(shape, gpus, learners, lag)
        times = 1 if learners else PHASE
        outcome = replace(
            outcome, seconds=outcome.seconds / times, staleness=outcome.staleness + (times - 1) / 2
        )
        failing = lost_share(system, lengths, updates if learners else phases, gpus, learners)
        found.append(
            {
                "model": model, "gpus": gpus, "lengths": kind, "how": how, "learner gpus": learners or gpus,
                "engines": system.engines, "lag": lag, "gpu hours": outcome.seconds * gpus / 3600,
                "failing": failing, **asdict(outcome),
            }
        )  # fmt: skip
    return found


def _fastest(splits: list[tuple[int, Outcome]], lag: int) -> tuple[int, int, Outcome]:
    learners, best = min(splits, key=lambda split: split[1].seconds)
    return learners, lag, best


def as_table(rows: list[dict[str, object]], head: bool = True) -> str:
    """The rows in Markdown."""
    names = ["model", "GPUs", "lengths", "how", "learn", "engines", "lag", "s/update", "GPU h/update",
            "learner busy", "engines busy", "stale", "failures"]  # fmt: skip
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)] if head else []
    for row in rows:
        cells = [
            row["model"],
            row["gpus"],
            row["lengths"],
            row["how"],
            row["learner gpus"],
            row["engines"],
            row["lag"],
        ]
        cells += [f"{row['seconds']:.0f}", f"{row['gpu hours']:.1f}", f"{row['learner_busy']:.0%}"]
        cells += [f"{row['engine_busy']:.0%}", f"{row['staleness']:.1f}", f"{row['failing']:+.1%}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


WIDTH, HEIGHT = 680, 300  # of the figure
LEFT, TOP, BASE = 56.0, 40.0, 240.0  # where its axes are
BAR, GAP = 26.0, 18.0  # from bar to bar, and between groups
# The same in a dark page; a rule of a style sheet goes before an attribute.
DARK = (
    '<style>@media(prefers-color-scheme:dark){rect[fill="#ffffff"]{fill:#15171b}text{fill:#e4e3df}'
    'line{stroke:#353941}line[stroke="#333333"]{stroke:#e4e3df}}</style>'
)


def as_figure(rows: list[dict[str, object]]) -> str:
    """GPU hours of an update by lag as bars, one group for each number of GPUs, as SVG."""
    rows = [row for row in rows if row["lengths"] == "measured"]
    most = max(float(str(row["gpu hours"])) for row in rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        'font-size="11">',
        DARK,
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        '<text x="10" y="18" font-size="13">R1-Zero, an update of 512 completions of 6,554 tokens on '
        "average</text>",
        *_y_axis(most),
    ]
    x, last = LEFT + 8, None
    for row in rows:
        here = (row["model"], row["gpus"])
        if here != last:
            x += GAP if last else 0
            parts.append(f'<text x="{x:.0f}" y="{BASE + 30:.0f}">{row["model"]}</text>')
            parts.append(f'<text x="{x:.0f}" y="{BASE + 44:.0f}">{int(str(row["gpus"])):,} GPUs</text>')
            last = here
        parts += _bar(row, x, most)
        x += BAR
    return "\n".join([*parts, "</svg>\n"])


def _y_axis(most: float) -> list[str]:
    """A line, its ticks with their numbers, and its title."""
    step = next(step for step in (0.5, 1, 2, 5, 10, 20, 50, 100) if most / step <= 5)
    parts = [
        f'<text transform="translate(14 {(TOP + BASE) / 2:.0f}) rotate(-90)" text-anchor="middle">'
        "GPU hours of an update</text>",
        f'<line x1="{LEFT:.0f}" y1="{TOP:.0f}" x2="{LEFT:.0f}" y2="{BASE:.0f}" stroke="#333333"/>',
    ]
    for tick in range(int(most / step) + 1):
        y = BASE - (BASE - TOP) * tick * step / most
        parts.append(
            f'<line x1="{LEFT:.0f}" y1="{y:.1f}" x2="{WIDTH - 10}" y2="{y:.1f}" stroke="#dddddd"/>'
            f'<text x="{LEFT - 6:.0f}" y="{y + 4:.1f}" text-anchor="end">{tick * step:g}</text>'
        )
    return parts


def _bar(row: dict[str, object], x: float, most: float) -> list[str]:
    """A bar with its number above and its lag below."""
    hours = float(str(row["gpu hours"]))
    top = BASE - (BASE - TOP) * hours / most
    label = "in turns" if row["how"] == "in turns" else f"lag {row['lag']}"
    colour = "#888888" if row["how"] == "in turns" else "#2a6fbb"
    middle = x + (BAR - 4) / 2
    return [
        f'<rect x="{x:.0f}" y="{top:.0f}" width="{BAR - 4:.0f}" height="{BASE - top:.0f}" fill="{colour}">'
        f"<title>{row['gpus']} GPUs, {label}: {hours:.1f}</title></rect>",
        f'<text x="{middle:.0f}" y="{top - 3:.0f}" font-size="8" text-anchor="middle">{hours:.1f}</text>',
        f'<text x="{middle:.0f}" y="{BASE + 12:.0f}" font-size="8" text-anchor="middle">'
        f"{label.replace('in turns', 'turns')}</text>",
    ]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--updates", type=int, default=12)
    options.add_argument("--lags", default="0,1,4")
    options.add_argument("--figure", type=Path)
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    lags, rows = [int(lag) for lag in given.lags.split(",")], []
    for model, worlds in MODELS.items():
        for gpus in worlds:
            for kind in ("measured", "long tail"):
                found = study(model, gpus, kind, lags, given.updates)
                print(as_table(found, head=not rows), flush=True)
                rows += found
    if given.figure:
        given.figure.write_text(as_figure(rows), encoding="utf-8")
    if given.out:
        given.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
