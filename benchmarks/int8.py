"""Sampling in 8 bits against bfloat16: two engines on the same weights in one process take turns.

    python benchmarks/int8.py [--model models/SmolLM2-135M-Instruct] [--rounds 3] [--rows 1 16 64]

Prompts of 64 drawn tokens, of which 8 rows each share one, and completions of 64 tokens, one thread. A rate
is tokens by processor second; a ratio is computed within a round, its median is given with the least and
the most. The memory is what the process grew by when the engine packed its copy of the weights and sampled
with one row. ``7m`` and ``30m`` as --model are random weights of the sizes of docs/performance.md."""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from r1kit.engine.native import NativeEngine
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import load_pretrained
from r1kit.types import Sampling

SIZES = {"7m": (256, 6, 4, 4096), "30m": (512, 8, 8, 8192)}  # width, layers, heads, vocabulary
PROMPT, TOKENS, GROUP = 64, 64, 8


def model_of(name: str) -> LanguageModel:
    if name not in SIZES:
        return load_pretrained(Path(name)).eval()
    width, layers, heads, vocabulary = SIZES[name]
    config = ModelConfig(
        family="qwen3", vocab_size=vocabulary, width=width, layers=layers, heads=heads, kv_heads=heads // 2,
        head_dim=64, ffn_width=3 * width, max_positions=4096,
    )  # fmt: skip
    return LanguageModel(config).eval()


def resident() -> float:
    """Megabytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def rate(engine: NativeEngine, rows: int) -> float:
    """Tokens by processor second."""
    drawn, group = np.random.default_rng(0), min(rows, GROUP)
    prompts = [drawn.integers(5, 4000, PROMPT) for _ in range(rows // group)]
    before = time.process_time()
    found = engine.generate(prompts, Sampling(max_tokens=TOKENS, n=group, seed=1))
    return sum(len(c.token_ids) for group in found for c in group) / (time.process_time() - before)


def main(words: Sequence[str] | None = None) -> None:
    line = argparse.ArgumentParser(description=__doc__)
    line.add_argument("--model", default="models/SmolLM2-135M-Instruct")
    line.add_argument("--rounds", type=int, default=3)
    line.add_argument("--rows", type=int, nargs="*", default=[1, 16, 64])
    arguments = line.parse_args(words)
    torch.set_num_threads(1)
    model, engines = model_of(arguments.model), {}
    sum(float(tensor.sum()) for tensor in model.state_dict().values())  # weights that are mapped are read now
    for precision in ("bfloat16", "int8"):
        before = resident()
        engines[precision] = NativeEngine(model, [], precision=precision)
        rate(engines[precision], 1)
        print(f"{precision}: {resident() - before:,.0f} MB")
    print("| rows | bf16 tok/CPU-s | int8 tok/CPU-s | ratio |\n|---:|---:|---:|---:|")
    for rows in arguments.rows:
        pairs = [tuple(rate(engine, rows) for engine in engines.values()) for _ in range(arguments.rounds)]
        ratios = [eight / half for half, eight in pairs]
        half, eight = (statistics.median(rates) for rates in zip(*pairs, strict=True))
        ratio = f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f}..{max(ratios):.2f})"
        print(f"| {rows} | {half:,.0f} | {eight:,.0f} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
