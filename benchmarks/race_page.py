"""Write a race's part of docs/performance.md between its marks; every number there is computed."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.page import DASH, replace_marked, table
from race_work import COURSES, Setting

MARKS = {"mini": "race", "real": "race-real"}
IN_8_BITS = "r1kit in 8 bits"
TITLES = {
    "r1kit": "r1kit", "trl": "TRL's GRPOTrainer", "r1kit as trl": "r1kit, TRL's setting",
    IN_8_BITS: "r1kit, rollouts in 8 bits",
}  # fmt: skip
# Whose time is divided by whose.
COMPARED = (("trl", "r1kit"), ("trl", IN_8_BITS), ("r1kit as trl", "r1kit"), (IN_8_BITS, "r1kit"))


def compose(content: Mapping[str, Any], settings: Mapping[str, Setting], course: str = "mini") -> str:
    """The text between the marks."""
    runs: Mapping[str, Any] = content["runs"]
    if not runs:
        return "Not measured yet."
    parts = [_machine(content, course), runs_table(runs), ratios_line(runs, course)]
    if content.get("ways"):
        parts.append(_ways(content["ways"]))
    if content["tries"]:
        parts += [_tried(content), tries_table(content["tries"], settings)]
    return "\n\n".join(part for part in parts if part)


def _machine(content: Mapping[str, Any], course: str) -> str:
    found = [*content["runs"].values(), *content["tries"].values()]
    dates, revisions = (
        sorted({each["date"] for each in found}),
        dict.fromkeys(each["revision"] for each in found),
    )
    loads, machine = [each["load"] for each in found], content["machine"]
    peers = ", ".join(f"{name} {version}" for name, version in sorted(content["peers"].items()))
    when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    return (
        f"Measured {when} on {machine['processor']}, one core for a side; {peers}; source revision "
        f"{', '.join(revisions)}. Load average when a measurement began: "
        f"{min(loads):.1f} to {max(loads):.1f}. Target: pass@1 of {content['target']:g} on held-out "
        f"problems, measured every {COURSES[course].check_rollouts} rollouts."
    )


def runs_table(runs: Mapping[str, Any]) -> str:
    """A row for each side and seed."""
    rows = []
    for title in TITLES:
        for seed, found in _of(runs, title).items():
            rows.append([f"{TITLES[title]}, seed {seed}", *_cells(found), f"{found['peak_mb']:,}"])
    header = [
        "side",
        "updates",
        "tokens sampled",
        "CPU-seconds",
        "an update",
        "by the clock, s",
        "pass@1",
        "peak MB",
    ]
    return table(header, rows)


def _cells(found: Mapping[str, Any]) -> list[str]:
    """Updates, tokens, processor seconds in all and for an update, seconds of the clock and pass@1 at the
    target, or where the side was cut off or interrupted."""
    if not found["points"]:
        return [DASH, DASH, f"failed: {found.get('failed', '')}", DASH, DASH, DASH]
    end, sampled = found["points"][-1], sum(point["tokens"] for point in found["points"])
    cpu = f"{end['cpu_s']:,.0f}" if found["reached"] else f"not reached within {end['cpu_s']:,.0f}"
    each, wall = f"{end['cpu_s'] / end['step']:.1f}", f"{end['wall_s']:,.0f}"
    return [str(end["step"]), f"{sampled:,}", cpu, each, wall, f"{end['pass_1']:.3f}"]


def _of(runs: Mapping[str, Any], title: str) -> dict[str, Any]:
    """The runs of a side, by seed."""
    named = {key.rpartition("/")[::2]: found for key, found in runs.items()}
    return {seed: found for (name, seed), found in sorted(named.items()) if name == title}


def ratios(runs: Mapping[str, Any], title: str, key: str, to: str = "r1kit") -> tuple[list[float], bool]:
    """How many times the time of the side ``to`` the side ``title`` took, seed by seed, where both were
    measured; and whether it reached the target in all of them (if not, its time to the end of its budget
    counts, which is too little)."""
    own, other = _of(runs, to), _of(runs, title)
    both = [
        seed
        for seed in own
        if own[seed]["reached"] and other.get(seed, {}).get("points")
    ]  # fmt: skip
    found = [other[seed]["points"][-1][key] / own[seed]["reached"][key] for seed in both]
    return found, all(other[seed]["reached"] for seed in both)


def ratios_line(runs: Mapping[str, Any], course: str = "mini") -> str:
    """The ratios as sentences."""
    lines = []
    for title, to in COMPARED:
        said = []
        for key, unit in (("cpu_s", "processor time"), ("wall_s", "time by the clock")):
            found, complete = ratios(runs, title, key, to)
            if found:
                least = "" if complete else "at least "
                spread = f"{least}**{statistics.median(found):.1f}** ({min(found):.1f}..{max(found):.1f})"
                said.append(f"{spread} times the {unit}")
        if said:
            count = len(ratios(runs, title, "cpu_s", to)[0])
            ending = f" to the target, {count} seed{'s' if count != 1 else ''}"
            wanted = f"; wanted {COURSES[course].goal:g}" if title == "trl" else ""
            lines.append(f"{TITLES[title]} took {' and '.join(said)} of *{TITLES[to]}*{ending}{wanted}.")
    return "\n".join(f"- {line}" for line in lines)


def _ways(ways: Mapping[str, Any]) -> str:
    """What an update costs TRL by the way in which it is computed."""
    said = ", ".join(
        f"{name} {f'{seconds:.1f}' if seconds else 'not possible'}"
        for name, seconds in ways.items()
        if name != "stamp"
    )
    return f"Processor seconds of TRL's first update, by the way in which it is computed: {said}."


def _tried(content: Mapping[str, Any]) -> str:
    chosen = content.get("chosen")
    ending = f" The race above has the setting *{chosen}*." if chosen else ""
    return (
        "What was tried in TRL on one seed, each as long as the best of the others needed, or up to the "
        f"budget.{ending}"
    )


def tries_table(tried: Mapping[str, Any], settings: Mapping[str, Setting]) -> str:
    """A row for each setting."""
    rows = []
    for name in settings:
        if name in tried:
            own: Mapping[str, Any] = tried[name]["setting"]
            words = (
                f"learning rate {own['learning_rate']:g}, {own['schedule']} over {own['steps']} updates, "
                f"warm-up {own['warmup']}, loss `{own['loss']}`, "
                f"scale_rewards `{own['scale_rewards']}`, epsilon_high {own['epsilon_high']:g}, "
                f"{own['problems']} x {own['group']}, micro-batch {own['micro_rows']}, {_numbers(own)}, "
                f"experts `{own['experts']}`, {own['batching']}"
            )
            cells = _cells(tried[name])
            rows.append([name, words, cells[0], cells[2], cells[3], cells[5]])
    return table(["setting", "in full", "updates", "CPU-seconds", "an update", "pass@1"], rows)


def _numbers(own: Mapping[str, Any]) -> str:
    return f"{own['dtype']} weights" + (" under bf16 autocast" if own["autocast"] else "")


def write_page(
    file: Path, content: Mapping[str, Any], settings: Mapping[str, Setting], course: str = "mini"
) -> Path:
    """Write the figures between the page's marks; raise R1kitError unless it has exactly one pair of them."""
    mark, text = MARKS[course], compose(content, settings, course)
    return replace_marked(file, f"<!-- {mark} -->", f"<!-- /{mark} -->", text)
