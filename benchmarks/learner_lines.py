"""What an update costs with the prompts of recipes/real.yaml, by what rows share of their prompts, and by how
long a line is.

    python benchmarks/learner_lines.py [--rounds 3] [SETTING ...]

Eight groups of twelve completions of drawn tokens, 20 to 40 long, on models/SmolLM2-135M-Instruct, dealt to
two processes, of which one is measured. "before": rows are dealt by their lengths and share a prompt within
a line; "groups": whole groups are dealt, and a line holds a whole group; "examples": the worked examples
before all prompts stand once in a line, too; "recomputed": the same with gradient_checkpointing. The number
is learner.context. Each setting has a process of its own; they take turns on one core. A figure is the
median of the rounds, least and most in brackets: processor seconds of an update. The memory is the most
that the setting's process had, with weights, gradients and moments of its own (in a run the two processes
share weights and moments)."""

import argparse
import multiprocessing
import resource
import statistics
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from r1kit import load
from r1kit.memory import keep_memory
from r1kit.model.huggingface import load_pretrained
from r1kit.stages.r1_zero import R1Zero
from r1kit.tasks import load_tasks
from r1kit.train import packing
from r1kit.train.dealing import deal, deal_rows
from r1kit.train.learner import Learner
from r1kit.train.policy_loss import PolicyLoss
from r1kit.types import Row

GROUPS, GROUP, PROCESSES = 8, 12, 2
RECIPE = Path(__file__).parent.parent / "recipes" / "real.yaml"
SETTINGS = ("before/640", "groups/640", "examples/1152", "examples/2048", "recomputed/2048")


def drawn_rows(chat, problems) -> list[Row]:
    rng, rows = np.random.default_rng(0), []
    for problem in problems[:GROUPS]:
        prompt = chat.prompt_ids(problem)
        for _ in range(GROUP):
            own = rng.integers(100, 40_000, int(rng.integers(20, 41)))
            ids = np.concatenate([prompt, own]).astype(np.int32)
            old = np.full(len(ids), -8.0, dtype=np.float32)
            trained, advantage = np.arange(len(ids)) >= len(prompt), float(rng.normal())
            rows.append(Row(ids, trained, 1e-3, advantage, old_logprobs=old, temperature=0.7))
    return rows


def prepare(setting: str) -> tuple[Callable[[], object], int]:
    """What computes an update of a setting, and how many positions it has."""
    keep_memory()
    torch.set_num_threads(1)
    kind, context = setting.split("/")
    stage = load(RECIPE).stages[0]
    assert isinstance(stage, R1Zero)
    folder = RECIPE.parent.parent / stage.init
    ((task, _),) = load_tasks(stage.tasks).values()
    rows = drawn_rows(stage.talk.chat(folder), task.problems("train"))
    by_length = deal([len(row.token_ids) for row in rows], PROCESSES)
    own = (by_length if kind == "before" else deal_rows(rows, PROCESSES, True))[0]
    if kind in ("before", "groups"):
        packing.families = lambda rows, found, context: [packing.Family((bundle,)) for bundle in found]
    if kind == "before":
        packing.line_length = lambda rows, usual: usual
    keys = {"context": int(context), "gradient_checkpointing": kind == "recomputed"}
    learner = Learner(load_pretrained(folder), stage.learner.model_copy(update=keys))
    share = [rows[i] for i in own]
    positions = sum(int((batch.segments_BT > 0).sum()) for batch in learner.batches(share, share=True))
    return lambda: learner.update(share, PolicyLoss(stage.grpo), 1e-3), positions


def serve(setting: str, pipe: Connection) -> None:
    update, positions = prepare(setting)
    update()  # compilation, caches, moments
    pipe.send(positions)
    while pipe.recv():
        before = resource.getrusage(resource.RUSAGE_SELF)
        update()
        now = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send((now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime, now.ru_maxrss / 1024))


def main(words: Sequence[str] | None = None) -> None:
    line = argparse.ArgumentParser(description=__doc__)
    line.add_argument("--rounds", type=int, default=3)
    line.add_argument("settings", nargs="*", default=SETTINGS, help=f"among {', '.join(SETTINGS)}")
    arguments = line.parse_args(words)
    context = multiprocessing.get_context("spawn")
    started = []
    for setting in arguments.settings:
        mine, theirs = context.Pipe()
        process = context.Process(target=serve, args=(setting, theirs), daemon=True)
        process.start()
        started.append((setting, mine, mine.recv()))
    found = {setting: [] for setting, _, _ in started}
    for _ in range(arguments.rounds):
        for setting, pipe, _ in started:
            pipe.send(True)
            found[setting].append(pipe.recv())
    print("| setting | positions | CPU-s an update | MB |\n|---|---:|---:|---:|")
    for setting, pipe, positions in started:
        seconds = [one for one, _ in found[setting]]
        pipe.send(False)
        cost = f"{statistics.median(seconds):.1f} ({min(seconds):.1f}..{max(seconds):.1f})"
        print(f"| {setting} | {positions:,} | {cost} | {found[setting][-1][1]:,.0f} |")


if __name__ == "__main__":
    main()
