"""What it would cost if the learner's forward pass had the bits of the engine.

    python benchmarks/equality.py [--models 7m 30m models/SmolLM2-135M-Instruct] [--rounds 3]

A way to that is a forward pass of the learner through the engine's kernels. They give a token the same bits
whatever else is decoded; the first column asks whether they also do where what precedes it is a prompt: how
many tokens of greedy completions were compared, how many have other bits, and the largest difference of their
log-probabilities. The next columns compare speeds, in turns, one thread, bfloat16, in positions a processor
second: ``learner``, the learner's forward pass; ``kernels``, the kernels' pass over prompts, slowed down by
the share of the head, which that pass computes for the last position only; ``update``, a whole update. The
price is how much longer an update would take with the kernels' pass in the place of its own forward pass, if
nothing else changed. It leaves out that the backward pass needs what lies between layers, which the kernels
do not keep. ``gap`` is the difference of engine and learner as they are, mean and most."""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from int8 import model_of

from r1kit.engine.native import NativeEngine
from r1kit.model.decoder import LanguageModel
from r1kit.train.learner import Learner, LearnerConfig
from r1kit.train.objectives import CrossEntropy
from r1kit.train.supervised import text_row, weighted
from r1kit.types import Sampling

ROWS, POSITIONS = 8, 256
COMPARED = 24  # tokens of a greedy completion


def head_share(model: LanguageModel) -> float:
    """The head's share of the operations of a position, without attention."""
    head = model.lm_head.weight.numel()
    rest = sum(p.numel() for p in model.parameters()) - model.embed_tokens.weight.numel()
    tied = model.lm_head.weight is model.embed_tokens.weight
    return head / (rest + (head if tied else 0))


def seconds(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def differing(engine: NativeEngine, vocabulary: int) -> tuple[int, int, float]:
    """How many tokens were compared, how many have other bits when what precedes them is a prompt, and the
    largest difference."""
    drawn = np.random.default_rng(1)
    prompts = [drawn.integers(5, vocabulary, 20 + 3 * i).astype(np.int32) for i in range(ROWS)]
    greedy = Sampling(max_tokens=COMPARED, temperature=0.0)
    found = [one for (one,) in engine.generate(prompts, greedy)]
    longer = [
        np.concatenate([prompt, one.token_ids[:k]]).astype(np.int32)
        for prompt, one in zip(prompts, found, strict=True)
        for k in range(len(one.token_ids))
    ]
    again = [one for (one,) in engine.generate(longer, Sampling(max_tokens=1, temperature=0.0))]
    before = [float(logprob) for one in found for logprob in one.logprobs]
    off = [abs(a - float(b.logprobs[0])) for a, b in zip(before, again, strict=True)]
    return len(before), sum(one > 0 for one in off), max(off)


def gap(engine: NativeEngine, learner: Learner, vocabulary: int) -> tuple[float, float]:
    """The mean and the largest difference of sampled tokens' log-probabilities, engine against learner."""
    prompt = np.random.default_rng(2).integers(5, vocabulary, 32).astype(np.int32)
    (sampled,) = engine.generate([prompt], Sampling(max_tokens=64, n=ROWS, seed=1))
    rows = [text_row(np.concatenate([prompt, one.token_ids]).astype(np.int32)) for one in sampled]
    off = [
        np.abs(found[len(prompt) :] - one.logprobs)
        for found, one in zip(learner.logprobs(rows), sampled, strict=True)
    ]
    return float(np.mean(np.concatenate(off))), float(np.max(np.concatenate(off)))


def rates(model: LanguageModel, rounds: int) -> tuple[list[dict[str, float]], tuple[float, float]]:
    """Positions a processor second, round by round; and the gap before the first update."""
    drawn, vocabulary = np.random.default_rng(0), model.config.vocab_size
    ids = [drawn.integers(5, vocabulary, POSITIONS).astype(np.int32) for _ in range(ROWS)]
    engine = NativeEngine(model, [-1], "bfloat16")
    keys = {"context": POSITIONS, "lines": 2, "head": "mixed", "optimizer": {"learning_rate": 1e-7}}
    learner = Learner(model, LearnerConfig.parse(keys, "the benchmark"))
    made = [text_row(one) for one in ids]
    work: dict[str, Callable[[], object]] = {
        "kernels": lambda: engine.generate(ids, Sampling(max_tokens=1)),
        "learner": lambda: learner.logprobs(made),
        "update": lambda: learner.update(weighted(made), CrossEntropy(), 1e-7),
    }
    engine.generate(ids[:1], Sampling(max_tokens=1))
    found, before = [], gap(engine, learner, vocabulary)
    for number in range(rounds + 1):
        taken = {name: seconds(one) for name, one in work.items() if name != "update"}
        taken["update"] = seconds(work["update"])
        engine.generate(ids[0][None, :8], Sampling(max_tokens=1))  # packs the new weights, untimed
        if number:  # the first round pays for allocations
            found.append({name: ROWS * POSITIONS / value for name, value in taken.items()})
            found[-1]["kernels"] *= 1 - head_share(model)
    return found, before


def main(words: Sequence[str] | None = None) -> None:
    line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    line.add_argument("--models", nargs="+", default=["7m", "30m", "models/SmolLM2-135M-Instruct"])
    line.add_argument("--rounds", type=int, default=3)
    given = line.parse_args(words)
    torch.set_num_threads(1)
    print("| model | compared, other bits, most | gap | learner | kernels | update | price |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in given.models:
        model = model_of(name)
        compared, other, most = differing(NativeEngine(model, [-1], "bfloat16"), model.config.vocab_size)
        found, (mean, largest) = rates(model, given.rounds)
        prices = sorted(one["update"] * (1 / one["kernels"] - 1 / one["learner"]) for one in found)
        middle = {key: statistics.median(one[key] for one in found) for key in found[0]}
        rated = " | ".join(f"{middle[key]:,.0f}" for key in ("learner", "kernels", "update"))
        price = f"{statistics.median(prices):+.0%} ({prices[0]:+.0%}..{prices[-1]:+.0%})"
        bits, apart = f"{compared}, {other}, {most:.1e}", f"{mean:.1e}, {largest:.1e}"
        print(f"| {name.rpartition('/')[2]} | {bits} | {apart} | {rated} | {price} |", flush=True)


if __name__ == "__main__":
    main()
