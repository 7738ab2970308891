"""An engine outside r1kit, for recipes whose model is to behave in one certain way: it reads "A + B" in a
prompt and writes what ``behaviour.json`` in the same folder says, by chance from the seeds it is given. It is
copied into the folder of every made recipe.

    right        the chance that the sum is right; or [chance, chance] for even and odd A
    followed     the chance that the template is followed
    style        one of STYLES, how completions are written
    words        how many words of thinking there are"""

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r1kit.tokenizer import Tokenizer
from r1kit.types import Completion, Sampling

HERE = Path(__file__).parent
WORDS = ("so", "we", "add", "both", "and", "look", "at", "what", "is", "left", "then", "carry", "one", "over")


def thinking(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(count))


def plain(rng: random.Random, said: int, right: bool, words: int) -> str:
    return f"<think>{thinking(rng, words)}</think><answer>{said}</answer>"


def goes_on(rng: random.Random, said: int, right: bool, words: int) -> str:
    return f"{plain(rng, said, right, words)} User: How many apples are there? Assistant: {said}"


def without_tags(rng: random.Random, said: int, right: bool, words: int) -> str:
    return f"Sure! {thinking(rng, words)} The answer is {said}."


def never_ends(rng: random.Random, said: int, right: bool, words: int) -> str:
    return plain(rng, said, right, words) + thinking(rng, 400)


def fixed(rng: random.Random, said: int, right: bool, words: int) -> str:
    return f"<think>always the same</think><answer>{said}</answer>"


def right_in_chinese(rng: random.Random, said: int, right: bool, words: int) -> str:
    text = "我们先把两个数相加然后写下结果" if right else thinking(rng, words)
    return f"<think>{text}{rng.randrange(10)}</think><answer>{said}</answer>"


STYLES: dict[str, Callable[[random.Random, int, bool, int], str]] = {
    "plain": plain,
    "goes_on": goes_on,
    "without_tags": without_tags,
    "never_ends": never_ends,
    "fixed": fixed,
    "right_in_chinese": right_in_chinese,
}


class Sampler:
    """Writes as behaviour.json says."""

    def __init__(self, model: Any, stop_ids: Sequence[int]) -> None:
        self.tokenizer = Tokenizer.load(HERE / "init")
        self.behaviour = json.loads((HERE / "behaviour.json").read_text(encoding="utf-8"))
        self.version = 0

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
        done: Any = None,
    ) -> list[list[Completion]]:
        return [
            [self._write(prompt, random.Random(f"{seed}/{index}"), sampling) for index in range(sampling.n)]
            for prompt, seed in zip(prompts, seeds or range(len(prompts)), strict=True)
        ]

    def stream(self, prompt: np.ndarray, sampling: Sampling, seed: int) -> Iterator[int]:
        yield from self.generate([prompt], sampling, [seed])[0][0].token_ids.tolist()

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        self.version = version

    def examine(self, token_ids: np.ndarray, temperature: float) -> list[Any]:
        return []

    def _write(self, prompt: np.ndarray, rng: random.Random, sampling: Sampling) -> Completion:
        behaviour = self.behaviour
        found = re.search(r"(\d+) \+ (\d+)", self.tokenizer.decode(prompt))
        assert found is not None, "every prompt of these recipes has a sum"
        one, other = int(found[1]), int(found[2])
        rates = behaviour["right"]
        right = rng.random() < (rates[one % 2] if isinstance(rates, list) else rates)
        said = one + other if right else one + other + rng.randrange(1, 9)
        style = behaviour["style"] if rng.random() < behaviour.get("followed", 1.0) else "without_tags"
        if style == "fixed":
            said = one + other + one % 2  # by the problem, not by chance
        text = STYLES[style](rng, said, right, behaviour.get("words", 8))
        ids = np.append(self.tokenizer.encode(text), self.tokenizer.eos_id).astype(np.int32)
        cut = len(ids) > sampling.max_tokens
        ids = ids[: sampling.max_tokens]
        return Completion(ids, np.full(len(ids), -1.0, np.float32), "length" if cut else "stop", self.version)
