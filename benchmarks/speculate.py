"""Tokens tried ahead against one at a time: engines on the same weights in one process take turns.

    python benchmarks/speculate.py [--model models/SmolLM2-135M-Instruct] [--tokens 96] [--rounds 3]

Greedy and drawn (temperature 0.7) completions of three kinds of conversation: one that asks to repeat a text
of its own, one that asks to change a word of it, one that asks a question. A rate is tokens by processor
second, a ratio is computed within a round, its median is given with the least and the most. The completions
are compared bit by bit."""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from r1kit.engine.native import NativeEngine
from r1kit.model.huggingface import load_pretrained
from r1kit.stages.models import PromptStyle
from r1kit.types import Problem, Sampling

TEXT = (
    "The harbour office keeps a list of every boat. A boat that arrives is written down with its name, its "
    "length and the hour. A boat that leaves is crossed out, and its berth is given to the next boat that "
    "waits. On Sundays the list is copied into a book, and the old list is thrown away."
)
ASKED = {
    "repeats the text": f"Repeat this text word for word.\n\n{TEXT}",
    "changes a word": f"Write this text again, with the word ship in the place of boat.\n\n{TEXT}",
    "answers a question": "Why is the sky blue during the day and red in the evening?",
}
TRIED = (0, 2, 5, 11)


def completed(engine: NativeEngine, prompt: np.ndarray, sampling: Sampling) -> tuple[float, bytes]:
    """Tokens by processor second, and all bits of the completions."""
    before = time.process_time()
    (group,) = engine.generate([prompt], sampling, [1])
    rate = sum(len(c.token_ids) for c in group) / (time.process_time() - before)
    return rate, b"".join(c.token_ids.tobytes() + c.logprobs.tobytes() for c in group)


def main(words: Sequence[str] | None = None) -> None:
    line = argparse.ArgumentParser(description=__doc__)
    line.add_argument("--model", type=Path, default=Path("models/SmolLM2-135M-Instruct"))
    line.add_argument("--precision", default="bfloat16")
    line.add_argument("--tokens", type=int, default=96)
    line.add_argument("--rounds", type=int, default=3)
    line.add_argument("--rows", type=int, nargs="*", default=[1, 2, 4])
    line.add_argument("--tried", type=int, nargs="*", default=list(TRIED))
    given = line.parse_args(words)
    torch.set_num_threads(1)
    chat = PromptStyle().chat(given.model)
    model = load_pretrained(given.model).eval()
    engines = {
        tried: NativeEngine(model, chat.tokenizer.end_ids, precision=given.precision, speculate=tried)
        for tried in given.tried
    }
    print("| completion | temperature | rows | tried | tok/CPU-s | ratio |\n|---|---:|---:|---:|---:|---:|")
    for title, text in ASKED.items():
        prompt = chat.prompt_ids(Problem("", "", text, None))
        for temperature in (0.0, 0.7):
            for rows in given.rows:
                sampling = Sampling(rows, temperature, max_tokens=given.tokens)
                rounds = [
                    {tried: completed(engine, prompt, sampling) for tried, engine in engines.items()}
                    for _ in range(given.rounds)
                ]
                assert len({found for each in rounds for _, found in each.values()}) == 1
                for tried in engines:
                    rate = statistics.median(each[tried][0] for each in rounds)
                    ratios = [each[tried][0] / each[given.tried[0]][0] for each in rounds]
                    ratio = f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f}..{max(ratios):.2f})"
                    print(
                        f"| {title} | {temperature:g} | {rows} | {tried} | {rate:,.0f} | {ratio} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
