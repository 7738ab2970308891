"""What the options of the fsdp runtime change in results and in memory, and what a hand-over needs: two
processes, a random model of 45M parameters (qwen3, float32).

    python benchmarks/fsdp_memory.py

Memory is the proportional set size (Linux) in MB, looked at every 20 ms. Of an update: the largest of any
process, in the third of three updates. Of a hand-over: how much all processes together, Ray's and its store
included, grow above what they held before it; and without gradients and activations, since no update is under
way."""

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from sharding import proportional_mb

from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import save_pretrained
from r1kit.runtime.fsdp import FsdpConfig
from r1kit.runtime.ray import RayConfig
from r1kit.tokenizer import Tokenizer
from r1kit.train.learner import LearnerConfig
from r1kit.train.objectives import CrossEntropy
from r1kit.types import Row, Sampling

LOOK_S = 0.02
MODEL = ModelConfig(
    family="qwen3", vocab_size=32_000, width=512, layers=8, heads=8, kv_heads=4, head_dim=64, ffn_width=1536,
    max_positions=1024, tie_embeddings=True,
)  # fmt: skip
OPTIONS: dict[str, tuple[dict[str, Any], bool]] = {
    "float32 gathered": ({}, False),
    "layers recomputed (learner.gradient_checkpointing)": ({}, True),
    "offload": ({"offload": True}, False),
    "gather: bfloat16": ({"gather": "bfloat16"}, False),
}


@dataclass
class Watch:
    """The largest memory of one process and of all together while this lasts."""

    largest: float = 0.0
    together: float = 0.0
    _end: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        sizes = [proportional_mb(one.pid) for one in family()]
        self.largest, self.together = max(self.largest, *sizes), max(self.together, sum(sizes))

    def run(self) -> None:
        while not self._end.wait(LOOK_S):
            self.look()


def family() -> list[psutil.Process]:
    """This process and all that descend from it."""
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    watch = Watch()
    watch.look()
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch._end.set()
        thread.join()


def rows(seed: int) -> list[Row]:
    """Eight rows of 250 random tokens, of which all but the first are learned."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(8):
        mask, zeros = np.ones(250, dtype=bool), np.zeros(250, dtype=np.float32)
        mask[0] = False
        tokens = rng.integers(5, MODEL.vocab_size, 250).astype(np.int32)
        found.append(Row(tokens, mask, 1 / 2000, 1.0, zeros, zeros))
    return found


def updates(model: Path, keys: dict[str, Any], recomputes: bool) -> tuple[list[dict[str, float]], float]:
    """The metrics of three updates, and the memory of the third."""
    config = LearnerConfig(context=256, lines=4, precision="float32", gradient_checkpointing=recomputes)
    runtime = FsdpConfig(learners=2, **keys).start()
    try:
        learner = runtime.learner(model, config)
        found = [learner.update(rows(step), CrossEntropy(), 1.0) for step in range(2)]
        with watched() as watch:
            found.append(learner.update(rows(2), CrossEntropy(), 1.0))
    finally:
        runtime.close()
    return found, watch.largest


def hand_over(model: Path, start: Callable[[], Any]) -> list[float]:
    """What two hand-overs need above what is held before: the first one after an update, the second one of
    an engine that has sampled."""
    runtime, needed = start(), []
    try:
        learner = runtime.learner(model, LearnerConfig(context=256, lines=4, precision="float32"))
        engine = runtime.engine_of(learner)
        prompts = [row.token_ids[:20] for row in rows(0)]
        runtime.hand_over(learner, engine, 1)
        engine.generate(prompts, Sampling(n=1, max_tokens=4, seed=1))
        learner.update(rows(0), CrossEntropy(), 1.0)
        for version in (2, 3):
            time.sleep(0.5)
            before = sum(proportional_mb(one.pid) for one in family())
            with watched() as watch:
                runtime.hand_over(learner, engine, version)
            needed.append(watch.together - before)
            engine.generate(prompts, Sampling(n=1, max_tokens=4, seed=1))
    finally:
        runtime.close()
    return needed


def apart(found: Sequence[dict[str, float]], plain: Sequence[dict[str, float]]) -> float:
    """The largest relative difference of all metrics."""
    return max(
        abs(one[name] - other[name]) / max(1e-12, abs(other[name]))
        for one, other in zip(found, plain, strict=True)
        for name in other
    )


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="fsdp-memory-") as folder:
        model = Path(folder) / "model"
        network = LanguageModel(MODEL, seed=1)
        megabytes = sum(one.numel() for one in network.parameters()) * 4 / 1e6
        save_pretrained(network, model)
        Tokenizer.train(["a few words to learn from"] * 50, 300).save(model)
        del network
        print(f"the model: {megabytes:.0f} MB\n")
        print("| option | largest difference of a metric | largest process in an update, MB |\n|---|---|---|")
        plain: list[dict[str, float]] = []
        for name, (keys, recomputes) in OPTIONS.items():
            found, size = updates(model, keys, recomputes)
            plain = plain or found
            print(f"| {name} | {apart(found, plain):.1e} | {size:,.0f} |", flush=True)
        print("\n| hand-over | all processes above before, MB: after an update, again |\n|---|---|")
        for title, start in (
            ("fsdp, 2 learners", FsdpConfig(learners=2).start),
            ("Ray, 1 learner, 1 engine", RayConfig(learners=1, engines=1).start),
        ):
            needed = ", ".join(f"{one:,.0f}" for one in hand_over(model, start))
            print(f"| {title} | {needed} |", flush=True)


if __name__ == "__main__":
    main()
