"""Tree search at sampling time, guided by a value of what is written so far: the paper's second unsuccessful
attempt in its simplest form, a beam over steps.

From each of ``beams`` beginnings of a response, ``branches`` continuations are sampled up to the end of a
step; the ``beams`` best of all by their value go on. A response that has ended stays in the comparison. The
best one at the end is the answer. ``beams * branches`` continuations of each step cost about as many tokens
as that many whole responses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from r1kit.chat import Chat
from r1kit.engine import Engine
from r1kit.seeds import derive_seed
from r1kit.types import Completion, Problem, Rollout, Sampling

STEP_ENDS = (", ", "，")
STEP_TOKENS = 32  # of one step at most
ROUNDS = 12  # steps of a response at most


@dataclass(frozen=True, slots=True)
class Node:
    """The beginning of a response: its tokens, its value, and whether it has ended."""

    token_ids: np.ndarray
    value: float
    ended: bool


def search(
    engine: Engine,
    chat: Chat,
    problems: Sequence[Problem],
    value: Callable[[str], float],
    beams: int = 2,
    branches: int = 4,
    seed: int = 0,
) -> list[Rollout]:
    """The response found for each problem. ``value`` judges the text of a beginning; equal values keep the
    order in which they were sampled."""
    start = Node(np.zeros(0, dtype=np.int32), 0.0, False)
    trees: list[list[Node]] = [[start] for _ in problems]
    prompts = [chat.prompt_ids(problem) for problem in problems]
    for number in range(ROUNDS):
        open_nodes = [(place, node) for place, tree in enumerate(trees) for node in tree if not node.ended]
        if not open_nodes:
            break
        grown = _grow(engine, chat, prompts, problems, open_nodes, branches, derive_seed(seed, number))
        pools: list[list[Node]] = [[node for node in tree if node.ended] for tree in trees]
        for place, ids, ended in grown:
            text = chat.tokenizer.decode(ids)
            pools[place].append(Node(ids, value(text), ended))
        trees = [sorted(pool, key=lambda node: -node.value)[:beams] for pool in pools]
    return [
        _rollout(chat, problem, prompt, tree, number)
        for number, (problem, prompt, tree) in enumerate(zip(problems, prompts, trees, strict=True))
    ]


def _grow(
    engine: Engine,
    chat: Chat,
    prompts: Sequence[np.ndarray],
    problems: Sequence[Problem],
    nodes: Sequence[tuple[int, Node]],
    branches: int,
    seed: int,
) -> list[tuple[int, np.ndarray, bool]]:
    """Continue every beginning by one step, ``branches`` times: (problem's place, tokens, has ended)."""
    sampling = Sampling(n=branches, max_tokens=STEP_TOKENS, stop=STEP_ENDS)
    begun = [np.concatenate([prompts[place], node.token_ids]) for place, node in nodes]
    seeds = [derive_seed(seed, problems[place].id, index) for index, (place, _) in enumerate(nodes)]
    groups = engine.generate(begun, sampling, seeds)
    ends = set(chat.tokenizer.end_ids)
    return [
        (
            place,
            np.concatenate([node.token_ids, one.token_ids]).astype(np.int32),
            bool(len(one.token_ids)) and int(one.token_ids[-1]) in ends,
        )
        for (place, node), group in zip(nodes, groups, strict=True)
        for one in group
    ]


def _rollout(chat: Chat, problem: Problem, prompt: np.ndarray, tree: Sequence[Node], number: int) -> Rollout:
    """The best beginning that has ended, else the best one, cut off."""
    best = next((node for node in tree if node.ended), tree[0])
    logprobs = np.zeros(len(best.token_ids), dtype=np.float32)
    completion = Completion(best.token_ids, logprobs, "stop" if best.ended else "length")
    return replace(chat.rollouts(problem, prompt, [completion])[0], group=number)
