"""One line of the comparison at a time: make the model, start the sides on the same cores, measure them in
turn, keep the results."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import r1kit
from bench.limits import Peaks, Span, decode_limit, learn_limit
from bench.models import FIRST_WORD, NEVER, make, prompt_text, words
from bench.peers import PEERS, PeerError, python_of, versions
from bench.race import START_SECONDS, Measured, Side, SideError, Spread, race
from bench.results import Results, stamp
from bench.work import LARGE_MODEL, LONE, SHAPES, Size, Work, ending_chance, learner_rows, prompts
from r1kit.model.config import ModelConfig
from r1kit.model.products import half_is_slow
from r1kit.tokenizer import ASSISTANT, BOS, EOS, PAD, SPECIALS, USER

SOURCE = Path(r1kit.__file__).parents[1]
TOP_OPERATIONS = 10
# The number that is varied, and its values; the others stay fixed. Rows are prompts x group.
GROWTH: dict[str, tuple[int, ...]] = {
    "new_tokens": (64, 128, 256, 512, 1024),
    "rows": (8, 32, 64, 128, 256),
    "group": (1, 4, 16, 64),
    "vocabulary": (1024, 4096, 32_768, 151_936),
}


class Bench:
    """The folders, the size and the cores of one run of the command."""

    def __init__(self, out: Path, peers: Path, size: Size, cores: Sequence[int], results: Results) -> None:
        self.out, self.peers, self.size, self.cores, self.results = out, peers, size, list(cores), results
        self.seed = int(time.time()) % 100_000
        for name in ("models", "logs"):
            (out / name).mkdir(parents=True, exist_ok=True)

    def limits(self) -> None:
        """Measure the machine's peaks."""
        with _Sides() as sides:
            side = sides.start("limits", Path(sys.executable), "side_limits.py", self.cores[-1:], self.out)
            side.ask({})
            reply = side.ask({})
        self.results.content["peaks"] = reply
        self.results.save()
        bf16, fp32, stream = (reply[name] / 1e9 for name in ("bf16", "fp32", "stream"))
        print(f"peaks of one core: bf16 {bf16:.0f} GFLOP/s, fp32 {fp32:.0f}, memory {stream:.1f} GB/s")

    def compare(self, work: Work) -> None:
        """Measure r1kit against the peers of ``work`` and keep the ratios; for a side that cannot run, keep
        the reason."""
        if work.cores > len(self.cores):
            return self._note(
                work,
                {},
                dict.fromkeys(work.peers, f"{len(self.cores)} of {work.cores} cores are available"),
                {},
            )
        try:
            self._note(work, *self._raced(work))
        except SideError as error:
            self._note(work, {}, dict.fromkeys(work.peers, str(error)), {})

    def _raced(self, work: Work) -> tuple[dict[str, list[Measured]], dict[str, str], dict[str, Any]]:
        spec = self.spec(work, work.sized(self.size))
        missing: dict[str, str] = {}
        load = os.getloadavg()[0]
        with _Sides() as sides:
            own = self._start_own(sides, work.cores, spec)
            for peer in work.peers:
                try:
                    if peer == "hf_bf16" and not spec["half"]:
                        raise PeerError("without bfloat16 instructions float32 weights are quicker")
                    self._start_peer(sides, peer, work.cores, spec)
                except (SideError, PeerError) as error:
                    missing[peer] = str(error)
            measured, failed = race(sides.running, self.size.repeats, self.seed)
            more: dict[str, Any] = {"load": round(load, 2), **(self._profile(own) if work.cores == 1 else {})}
        config = ModelConfig.parse(SHAPES[work.model], f"shape {work.model}")
        if work.cores == 1 and work.precision == "bfloat16":  # the limit is that of products in bfloat16
            more["limit"] = self._limit(work, config, measured["r1kit"][-1])
        return measured, missing | failed, more

    def growth(self) -> None:
        """Measure how r1kit's cost grows with length, rows, group and vocabulary, on the smallest dense
        model."""
        for name, values in GROWTH.items():
            for value in values if not self.results.content["quick"] else values[:2]:
                size = _changed(self.size, name, value)
                found: dict[str, Any] = {}
                for kind in ("rollout", "learner"):
                    if kind == "learner" and name in ("rows", "group"):
                        continue
                    spec = self.spec(
                        Work(kind, "7m", "uniform", ()), size, value if name == "vocabulary" else None
                    )
                    with _Sides() as sides:
                        side = self._start_own(sides, 1, spec)
                        side.measure({"seed": self.seed})
                        done = [
                            side.measure({"seed": self.seed + 1 + i}) for i in range(min(2, size.repeats))
                        ]
                    found[kind] = {
                        "rate": max(each.rate(1) for each in done),
                        "peak_mb": max(each.peak_mb for each in done),
                    }
                self.results.content["growth"].setdefault(name, {})[str(value)] = found
                self.results.save()
                said = [
                    f"{kind} {each['rate']:.0f} tok/CPU-s, {each['peak_mb']:.0f} MB"
                    for kind, each in found.items()
                ]
                print(f"growth {name} {value}: {', '.join(said)}")

    def lone(self) -> None:
        """Measure how fast a single row is decoded, and compute the limit of reading weights and cache from
        memory."""
        for name, (shape, new_tokens) in LONE.items():
            quick = self.results.content["quick"]
            size = replace(
                self.size, problems=1, group=1, new_tokens=self.size.new_tokens if quick else new_tokens
            )
            config = ModelConfig.parse(shape, f"shape {name}")
            spec = self._spec(Work("rollout", name, "uniform", ()), size, config)
            with _Sides() as sides:
                side = self._start_own(sides, 1, spec)
                side.measure({"seed": self.seed})
                rates = [side.measure({"seed": self.seed + 1 + i}).rate(1) for i in range(size.repeats)]
            limit = decode_limit(
                config, Peaks(**self.results.content["peaks"]), size.prompt_tokens, [size.new_tokens]
            )
            spread = Spread.of(rates)
            self.results.content["lone"][name] = {"rate": spread.json(), "limit": limit, **stamp()}
            self.results.save()
            print(
                f"lone {name}: {spread.median:.0f} tok/CPU-s ({spread.least:.0f}..{spread.most:.0f}), "
                f"{spread.median / limit:.2f} of the limit"
            )

    def spec(self, work: Work, size: Size, vocabulary: int | None = None) -> dict[str, Any]:
        """The order that every side gets: the model's folder, prompts as ids and as text, the learner's rows,
        lengths."""
        shape = SHAPES[work.model] | ({"vocab_size": vocabulary} if vocabulary else {})
        return self._spec(work, size, ModelConfig.parse(shape, f"shape {work.model}"))

    def _spec(self, work: Work, size: Size, config: ModelConfig) -> dict[str, Any]:
        chance = NEVER if work.lengths == "uniform" or work.kind == "learner" else ending_chance(size)
        name = f"{work.model}-{config.vocab_size}-{f'{chance:.5f}' if chance > NEVER else 'endless'}"
        folder = make(self.out / "models" / name, config, chance)
        chosen = prompts(size, config.vocab_size, FIRST_WORD)
        bos, user, assistant, eos, pad = (SPECIALS.index(token) for token in (BOS, USER, ASSISTANT, EOS, PAD))
        ids = [[bos, user, *prompt, assistant] for prompt in chosen]
        rows = (
            learner_rows(size, work.lengths, config.vocab_size, FIRST_WORD) if work.kind == "learner" else []
        )
        return {
            "kind": work.kind, "lengths": work.lengths, "cores": work.cores, "folder": str(folder),
            "scratch": str(self.out / "scratch"), "prompts": ids,
            "words": [words(prompt) for prompt in chosen],
            "texts": [prompt_text(prompt) for prompt in chosen], "group": size.group,
            "new_tokens": size.new_tokens, "eos": eos, "pad": pad, "rows": rows, "half": not half_is_slow(),
            "head": "mixed" if work.model == LARGE_MODEL else "bfloat16",
            "precision": work.precision,
        }  # fmt: skip

    def _start_own(self, sides: "_Sides", cores: int, spec: Mapping[str, Any]) -> Side:
        side = sides.start("r1kit", Path(sys.executable), "side_r1kit.py", self.cores[-cores:], self.out, 1)
        try:
            side.ask(spec, START_SECONDS)
        except SideError as error:
            raise SideError(f"r1kit: {error}") from None
        return side

    def _start_peer(self, sides: "_Sides", name: str, cores: int, spec: Mapping[str, Any]) -> None:
        peer = PEERS[name]
        python = python_of(peer, self.peers)
        self.results.content["peers"][name] = versions(peer, python)
        side = sides.start(name, python, peer.script, self.cores[-cores:], self.out)
        try:
            side.ask({**spec, "side": name}, START_SECONDS)
        except SideError:
            sides.running.pop(name).close()
            raise

    def _profile(self, side: Side) -> dict[str, Any]:
        """The operations that take most of r1kit's time, as shares of one step's time by the clock."""
        reply = side.ask({"seed": self.seed, "profile": True})
        operations = sorted(reply["operations"].items(), key=lambda pair: -pair[1])[:TOP_OPERATIONS]
        return {"operations": {name: seconds / reply["seconds"] for name, seconds in operations}}

    def _limit(self, work: Work, config: ModelConfig, last: Measured) -> float:
        peaks, size = Peaks(**self.results.content["peaks"]), work.sized(self.size)
        if work.kind == "learner":
            rows = learner_rows(size, work.lengths, config.vocab_size, FIRST_WORD)
            return learn_limit(config, peaks, [Span(0, len(row) - 1, len(row) - 1) for row in rows])
        lengths: list[int] = last.reply["lengths"]
        decode = decode_limit(config, peaks, size.prompt_tokens, lengths)
        if work.kind == "rollout":
            return decode
        prompt = size.prompt_tokens
        spans = [Span(0, prompt, 0)] * size.problems + [
            Span(prompt, prompt + length - 1, length) for length in lengths
        ]
        return 1 / (1 / decode + 1 / learn_limit(config, peaks, spans))

    def _note(
        self,
        work: Work,
        measured: Mapping[str, Sequence[Measured]],
        missing: Mapping[str, str],
        more: Mapping[str, Any],
    ) -> None:
        if measured:
            self.results.add(work, measured, missing, more)
        else:
            self.results.content["missing"] |= {work.ratio_name(peer): missing[peer] for peer in work.peers}
            self.results.save()
        for peer in work.peers:
            name = work.ratio_name(peer)
            spread = self.results.content["spreads"].get(name)
            if peer in missing or spread is None:
                print(f"{name}: absent: {missing.get(peer, 'not measured')}")
            else:
                own, other = (
                    Spread.of([each.rate(work.cores) for each in measured[side]]).median
                    for side in ("r1kit", peer)
                )
                print(
                    f"{name}: {spread['median']:.2f} ({spread['least']:.2f}..{spread['most']:.2f}); "
                    f"{own:.0f} to {other:.0f} tok/s"
                )


class _Sides:
    """The running sides; all are closed at the end, also after an error."""

    def __init__(self) -> None:
        self.running: dict[str, Side] = {}

    def __enter__(self) -> "_Sides":
        return self

    def __exit__(self, *error: object) -> None:
        for side in self.running.values():
            side.close()

    def start(
        self,
        name: str,
        python: Path,
        script: str,
        cores: Sequence[int],
        out: Path,
        threads: int | None = None,
    ) -> Side:
        """Start a side in its own process. Only r1kit's own side can import r1kit."""
        paths = [SOURCE] if python == Path(sys.executable) else []
        self.running[name] = Side(
            python, script, cores, out / "logs" / f"{name}.log", paths, threads or len(cores)
        )
        return self.running[name]


def _changed(size: Size, name: str, value: int) -> Size:
    if name == "new_tokens":
        return replace(size, new_tokens=value)
    if name == "rows":
        return replace(size, problems=max(1, value // size.group))
    if name == "group":
        return replace(size, problems=max(1, size.rows // value), group=value)
    return size
