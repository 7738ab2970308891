"""What a GPU does with r1kit, in one prepared script: `make gpu`.

    python benchmarks/gpu.py [--device cuda] [--model FOLDER] [--out FOLDER] [--tiny] [--page FILE]
                             [--only shapes|steps] [--minutes M]

Random weights of the shapes of Qwen2.5-0.5B and -1.5B are sampled from and trained; nothing is downloaded.

    decoding   completions of 128 tokens after a prompt of 128, in 1, 16, 64 and 256 rows: tokens per second,
               and the bytes that a step reads (all weights and every row's cache) per second
    learning   updates on rows of 1,024 tokens, with layers as they are and compiled: tokens per second, and
               the share of the data sheet's bfloat16 operations that is reached (MFU)
    agreement  the gap between the log-probabilities that the engine noted and those of the learner
    steps      ten steps of R1-Zero on the model of `make real`, where its folder is there

Each line is measured after one warm-up, is written at once, and is left out once the time is used up
(--minutes). With --tiny and --device cpu the same code runs in seconds on models of no use, which is how it
is tested without a GPU; its figures mean nothing, and the page is left alone."""

import argparse
import functools
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from r1kit.engine.native import NativeEngine
from r1kit.model.compiled_layers import compiler_of
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.planning.operations import bytes_per_step, training_operations
from r1kit.planning.rates import fleet_here
from r1kit.planning.shapes import shape_of
from r1kit.train.learner import Learner, LearnerConfig
from r1kit.train.objectives import CrossEntropy
from r1kit.types import Row, Sampling

QWEN2 = {"family": "qwen2", "vocab_size": 151_936, "head_dim": 64, "kv_heads": 2, "max_positions": 4096,
         "tie_embeddings": True, "init_std": 0.02}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "0.5b": {**QWEN2, "width": 896, "layers": 24, "heads": 14, "ffn_width": 4864},
    "1.5b": {**QWEN2, "width": 1536, "layers": 28, "heads": 12, "head_dim": 128, "ffn_width": 8960},
}
TINY = {"tiny": {**QWEN2, "vocab_size": 320, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2,
                 "head_dim": 16, "ffn_width": 64, "max_positions": 256}}  # fmt: skip
MARKS = ("<!-- gpu -->", "<!-- /gpu -->")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured: rows that are decoded at once, tokens of a prompt and of a completion, rows of
    an update and their tokens, and steps of R1-Zero."""

    rows: tuple[int, ...] = (1, 16, 64, 256)
    prompt: int = 128
    tokens: int = 128
    trained_rows: int = 16
    trained_tokens: int = 1024
    steps: int = 10


SMALL = Sizes((1, 4), 8, 6, 2, 32, 1)


@dataclass(slots=True)
class Session:
    """One run of this script: ``results`` are written to ``file`` after every line; ``deadline`` is when no
    further line begins."""

    device: torch.device
    sizes: Sizes
    file: Path
    deadline: float
    results: dict[str, Any] = field(default_factory=dict)

    def line(self, name: str, measure: Callable[[], Mapping[str, Any]]) -> None:
        if time.monotonic() > self.deadline:
            self.results[name] = {"missing": "no time was left"}
        else:
            try:
                self.results[name] = dict(measure())
            except torch.cuda.OutOfMemoryError:
                self.results[name] = {"missing": "the memory of this GPU is too small"}
            except Exception as error:  # the other lines are measured all the same
                traceback.print_exc()
                self.results[name] = {"missing": f"{type(error).__name__}: {error}"[:200]}
        self.file.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {self.results[name]}", flush=True)

    def seconds(self, work: Callable[[], object]) -> float:
        """Seconds of a second run, when everything is queued, compiled and allocated."""
        work()
        self._wait()
        began = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak_mb(self) -> float | None:
        """The most memory of the device since the last call."""
        if self.device.type != "cuda":
            return None
        found = torch.cuda.max_memory_allocated() / 1e6
        torch.cuda.reset_peak_memory_stats()
        return round(found)


def network(shape: Mapping[str, Any], device: torch.device) -> LanguageModel:
    with torch.device(device):
        return LanguageModel(ModelConfig.parse(dict(shape), "shape"), seed=0)


def decoding(session: Session, model: LanguageModel, rows: int) -> dict[str, Any]:
    sizes, shape = session.sizes, shape_of(model.config)
    engine = NativeEngine(model, [-1], precision="bfloat16", batch_rows=rows, slots=True)
    draw = np.random.default_rng(0)
    prompts = [draw.integers(0, model.config.vocab_size, sizes.prompt).astype(np.int32) for _ in range(rows)]
    sampling = Sampling(n=1, max_tokens=sizes.tokens)
    seconds = session.seconds(lambda: engine.generate(prompts, sampling))
    alone = session.seconds(lambda: engine.generate(prompts, Sampling(n=1, max_tokens=1)))
    step = max(1e-9, (seconds - alone) / max(1, sizes.tokens - 1))
    read = bytes_per_step(shape, rows, sizes.prompt + sizes.tokens / 2, 2.0)
    return {
        "tokens_per_s": round(rows / step, 1), "gb_per_s": round(read / step / 1e9, 1),
        "prompt_s": round(alone, 4), "peak_mb": session.peak_mb(),
    }  # fmt: skip


def trained_rows(sizes: Sizes, vocabulary: int) -> list[Row]:
    draw = np.random.default_rng(1)
    mask = np.ones(sizes.trained_tokens, dtype=bool)
    mask[0] = False
    weight = 1 / (sizes.trained_rows * (sizes.trained_tokens - 1))
    return [
        Row(draw.integers(0, vocabulary, sizes.trained_tokens).astype(np.int32), mask, weight)
        for _ in range(sizes.trained_rows)
    ]


def learner_of(session: Session, model: LanguageModel, **keys: Any) -> Learner:
    given = {"context": session.sizes.trained_tokens, "lines": 16, "head": "mixed", **keys}
    return Learner(model, LearnerConfig.parse(given, "learner"))


def learning(session: Session, learner: Learner) -> dict[str, Any]:
    sizes, config = session.sizes, learner.model.config
    rows = trained_rows(sizes, config.vocab_size)
    seconds = session.seconds(lambda: learner.update(rows, CrossEntropy(), 1e-3))
    tokens = sizes.trained_rows * sizes.trained_tokens
    operations = training_operations(
        shape_of(config), tokens, sizes.trained_tokens, learner.config.gradient_checkpointing
    )
    fleet = fleet_here()
    share = None if fleet is None else round(operations / seconds / fleet.gpu.operations, 3)
    return {
        "tokens_per_s": round(tokens / seconds, 1), "tflop_per_s": round(operations / seconds / 1e12, 3),
        "mfu": share, "peak_mb": session.peak_mb(),
    }  # fmt: skip


def agreement(session: Session, learner: Learner) -> dict[str, Any]:
    """How far the log-probabilities of engine and learner are apart for the tokens that were sampled."""
    model, sizes = learner.model, session.sizes
    engine = NativeEngine(model, [-1], precision="bfloat16", batch_rows=16, slots=True)
    prompts = [np.arange(1, sizes.prompt + 1, dtype=np.int32)]
    (group,) = engine.generate(prompts, Sampling(n=8, max_tokens=sizes.tokens))
    rows = []
    for completion in group:
        token_ids = np.concatenate((prompts[0], completion.token_ids))
        mask = np.arange(len(token_ids)) >= sizes.prompt
        rows.append(Row(token_ids, mask, 1.0))
    found = [one[sizes.prompt :] for one in learner.logprobs(rows)]
    gaps = np.abs(np.concatenate(found) - np.concatenate([one.logprobs for one in group]))
    return {"mean_gap": round(float(gaps.mean()), 5), "largest_gap": round(float(gaps.max()), 5)}


def zero_recipe(session: Session, model: Path, out: Path) -> Path:
    """R1-Zero on a released model with the task and prompts of recipes/real.yaml, on this device."""
    real = Path(__file__).parents[1] / "recipes/real.yaml"
    zero: dict[str, Any] = {
        "init": str(model), "grpo": {"steps": session.sizes.steps}, "learner": {"lines": 16}
    }  # fmt: skip
    stages = {"r1_zero": zero}
    if session.sizes is SMALL:
        zero |= {
            "talk": {"template": "model", "examples": [], "opening": ""}, "preflight": "off",
            "learner": {"context": 256, "lines": 2},
        }  # fmt: skip
        zero["grpo"] |= {"problems": 2, "group": 2, "max_tokens": 8, "gate_problems": 0}
    content = {
        "name": "gpu", "extends": str(real), "out": str(out / "zero"),
        "runtime": {"kind": "local", "device": str(session.device), "processes": 1},
        "stages": {**stages, "evaluate": None},
    }  # fmt: skip
    file = out / "zero.yaml"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def zero_steps(session: Session, model: Path, out: Path) -> dict[str, Any]:
    if not (model / "config.json").is_file():
        return {"missing": f"{model} is not there; make real gets it"}
    recipe = zero_recipe(session, model, out)
    command = [sys.executable, "-m", "r1kit", "run", str(recipe), "--fresh"]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"missing": f"r1kit run ended with {done.returncode}: {done.stderr[-300:]}"}
    seconds = time.perf_counter() - began
    logged = (out / "zero/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in logged]
    lengths = [row["completions/mean_length"] for row in rows if "completions/mean_length" in row]
    phases = {
        name: round(float(np.median([row[f"time/{name}"] for row in rows if f"time/{name}" in row])), 3)
        for name in ("rollout", "update")
    }
    return {
        "steps": len(lengths), "seconds": round(seconds, 1),
        "mean_length": round(float(np.mean(lengths)), 1), **phases,
    }  # fmt: skip


def measure_all(session: Session, shapes: Mapping[str, Mapping[str, Any]]) -> None:
    for name, shape in shapes.items():
        made = network(shape, session.device)
        for rows in session.sizes.rows:
            session.line(f"decoding/{name}/{rows}", functools.partial(decoding, session, made, rows))
        learner = learner_of(session, made)
        session.line(f"learning/{name}", functools.partial(learning, session, learner))
        session.line(f"agreement/{name}", functools.partial(agreement, session, learner))
        del learner
        if compiler_of(session.device) is not None:
            learner = learner_of(session, made, compiled=True)
            session.line(f"learning/{name}/compiled", functools.partial(learning, session, learner))
            del learner
        del made
        if session.device.type == "cuda":
            torch.cuda.empty_cache()


def table(results: Mapping[str, Any], machine: str) -> str:
    """The figures as the page shows them."""
    lines = [
        f"Measured on {machine}, {time.strftime('%Y-%m-%d')}, torch {torch.__version__}.", "",
        "| line | tokens/s | GB/s | TFLOP/s | MFU | gap, mean and largest | peak MB | remark |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]  # fmt: skip
    for name, found in results.items():
        gaps = [found.get("mean_gap"), found.get("largest_gap")]
        cells = [found.get(key) for key in ("tokens_per_s", "gb_per_s", "tflop_per_s", "mfu")]
        cells += ["" if gaps[0] is None else f"{gaps[0]} {gaps[1]}", found.get("peak_mb")]
        remark = found.get("missing") or (
            f"{found['steps']} in {found['seconds']} s with set-up; medians: rollouts {found['rollout']} s, "
            f"update {found['update']} s"
            if "steps" in found
            else ""
        )
        shown = ["" if cell is None else f"{cell}" for cell in (*cells, remark)]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def fill_page(page: Path, content: str) -> None:
    """Replace what is between the marks. Raises ValueError where the page has none."""
    before, found, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    _, closing, after = rest.partition(MARKS[1])
    if not (found and closing):
        raise ValueError(f"{page}: it has no part between {MARKS[0]} and {MARKS[1]}")
    page.write_text(f"{before}{MARKS[0]}\n{content}\n{MARKS[1]}{after}", encoding="utf-8")


def main() -> int:
    root = Path(__file__).parents[1]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", type=Path, default=root / "models/SmolLM2-135M-Instruct")
    parser.add_argument("--out", type=Path, default=root / "runs/gpu")
    parser.add_argument("--page", type=Path, default=root / "docs/performance.md")
    parser.add_argument("--tiny", action="store_true", help="small models and lengths, to try this script")
    parser.add_argument("--only", choices=("shapes", "steps"), help="this part only")
    parser.add_argument("--minutes", type=float, default=7.0, help="no line begins after this time")
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("gpu: PyTorch finds no GPU here, so nothing was measured; to try the script itself: "
              "python benchmarks/gpu.py --device cpu --tiny", file=sys.stderr)  # fmt: skip
        return 2
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    device, deadline = torch.device(given.device), time.monotonic() + 60 * given.minutes
    session = Session(device, SMALL if given.tiny else Sizes(), out / "gpu.json", deadline)
    if given.only != "steps":
        measure_all(session, TINY if given.tiny else SHAPES)
    if given.only != "shapes":
        session.line("steps", lambda: zero_steps(session, given.model.resolve(), out))
    if device.type == "cuda" and not given.tiny:
        fill_page(given.page, table(session.results, torch.cuda.get_device_name()))
    else:
        print(table(session.results, "no GPU: these figures mean nothing"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
