"""How many labels a reward model needs, with pairs chosen at random and by reward models; and what two rounds
of recipes/feedback.yaml give.

    python benchmarks/feedback.py choice runs/feedback/stages/start/model --seed 0     (likewise 1 and 2)
    python benchmarks/feedback.py page runs/feedback runs/feedback-1 runs/feedback-2

``choice`` adds lines to benchmarks/feedback.jsonl; ``page`` fills docs/feedback.md and its figure from them
and from finished runs of the recipe. A scripted annotator of known taste labels, with noise; agreement is
with the taste itself, on held-out prompts, over pairs that it does not call nearly equal."""

import argparse
import json
import random
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from figures import framed

from r1kit.chat import Chat
from r1kit.data.label_choice import disagreement_order, margin_order, random_order, spread
from r1kit.data.labels import Label, Pair, pair_of
from r1kit.report.charts import Line, line_chart
from r1kit.rewards.taste import Taste, TasteAnnotator
from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.seeds import derive_seed
from r1kit.stages.label import label_by
from r1kit.stages.models import PromptStyle
from r1kit.stages.sampling import sample
from r1kit.tasks.miniature.general import General
from r1kit.train.learner import LearnerConfig
from r1kit.train.optimizers import OptimizerConfig
from r1kit.train.preference import RewardTraining, pair_rows, read_values, train_pairwise
from r1kit.types import Preference, Problem, Response, Rollout, Sampling

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks/feedback.jsonl", ROOT / "docs/feedback.md"
FIGURE = ROOT / "docs/figures/feedback.svg"
POINTS = (20, 40, 60, 80, 120, 160, 240)  # labels
STRATEGIES = ("random", "margin", "disagreement")
MODELS = 3  # reward models that may disagree
SAMPLES, POOL = {"train": 6, "held_out": 10}, {"train": 6, "held_out": 10}  # answers and pairs of a prompt
TOKENS = 64  # of an answer
NEARLY_EQUAL, TIE, NOISE = 0.05, 0.02, 0.05  # of the taste, which is 0 to 1
LEARNER = LearnerConfig(optimizer=OptimizerConfig(learning_rate=3e-4))
EPOCHS, BATCH = 4, 16  # as in the recipe


@dataclass(frozen=True)
class Candidate:
    """A pair with its problem and the two answers without their thinking."""

    problem: Problem
    pair: Pair
    answers: tuple[Response, Response]

    def preference(self, verdict: str) -> Preference | None:
        if verdict not in ("better", "worse"):
            return None
        return Preference(self.problem, *(self.answers if verdict == "better" else self.answers[::-1]))


def candidates(groups: Sequence[Sequence[Rollout]], seed: int, most: int) -> list[Candidate]:
    """At most ``most`` pairs of different answers of each group."""
    found = []
    for group in groups:
        answers = {r.answer: Response(r.text, r.answer) for r in group if r.answer}
        both = list(combinations(answers.values(), 2))
        random.Random(f"{seed}/{group[0].problem.id}").shuffle(both)
        for one, other in both[:most]:
            pair = pair_of(group[0].problem.prompt, one.text, other.text)
            ordered = (one, other) if pair.first == one.text else (other, one)
            found.append(Candidate(group[0].problem, pair, ordered))
    return found


class Experiment:
    """One seed: a pool of pairs to label, held-out pairs with the better one first, and reward models."""

    def __init__(self, model: Path, seed: int) -> None:
        self.model, self.seed = model, seed
        self.runtime = LocalRuntime(LocalConfig(processes=1))
        self.chat: Chat = PromptStyle().chat(model)
        task = General()
        self.pool = candidates(self._sample(task.problems("train"), "train"), seed, POOL["train"])
        self.labels = self._labels()
        held_out = [*task.problems("held_out"), *task.problems("watch")]
        self.held_out = []
        for one in candidates(self._sample(held_out, "held_out"), seed, POOL["held_out"]):
            first, second = (Taste().score(one.problem, response.answer) for response in one.answers)
            if abs(first - second) > NEARLY_EQUAL:
                self.held_out += [one.preference("better" if first > second else "worse")]

    def _sample(self, problems: Sequence[Problem], name: str) -> list[list[Rollout]]:
        engine = self.runtime.engine(self.model)
        sampling = Sampling(SAMPLES[name], max_tokens=TOKENS)
        groups = sample(engine, self.chat, list(problems), sampling, derive_seed(self.seed, name))
        self.runtime.release(engine)
        return groups

    def _labels(self) -> list[Label]:
        """What the annotator would say of each pair of the pool: the same whichever strategy asks."""
        asked = [(one.problem, one.pair) for one in self.pool]
        rng = random.Random(f"labels/{self.seed}")
        return list(label_by(TasteAnnotator(None, noise=NOISE), asked, rng, TIE))

    def margins(self, places: Sequence[int], number: int, of: Sequence[int]) -> tuple[np.ndarray, float]:
        """A reward model is trained on the labels of ``places``: its margins [pairs] of the pool's pairs
        ``of``, and its agreement on the held-out pairs."""
        found = [self.pool[place].preference(self.labels[place].verdict) for place in places]
        learner = self.runtime.learner(self.model, LEARNER, scalar_head=True)
        how = RewardTraining(LEARNER.context, BATCH, EPOCHS, derive_seed(self.seed, "train", number))
        train_pairwise(learner, self.chat, [pair for pair in found if pair is not None], how)
        asked = [self.pool[place].preference("better") for place in of]
        rows = pair_rows(self.chat, [pair for pair in asked + self.held_out if pair], LEARNER.context)
        values = read_values(learner, rows)
        self.runtime.release(learner)
        every = values[0::2] - values[1::2]
        return every[: len(of)], float((every[len(of) :] > 0).mean())

    def run(self, strategy: str) -> list[dict[str, object]]:
        """Label, train and choose again, up to the last of POINTS."""
        chosen = random_order(len(self.pool), self.seed)[: POINTS[0]]
        rows: list[dict[str, object]] = []
        for place, point in enumerate(POINTS):
            rest = sorted(set(range(len(self.pool))) - set(chosen))
            models = MODELS if strategy == "disagreement" and place + 1 < len(POINTS) else 1
            wanted = rest if strategy != "random" and place + 1 < len(POINTS) else []
            results = [self.margins(chosen, number, wanted) for number in range(models)]
            verdicts = [self.labels[one].verdict for one in chosen]
            preferences = sum(verdict in ("better", "worse") for verdict in verdicts)
            row = {"seed": self.seed, "strategy": strategy, "labels": point, "preferences": preferences}
            rows.append({**row, "agreement": round(results[0][1], 4), "held_out": len(self.held_out)})
            print(json.dumps(rows[-1]), flush=True)
            if place + 1 < len(POINTS):
                order = self._order(strategy, rest, np.array([margins for margins, _ in results]))
                chosen = chosen + order[: POINTS[place + 1] - point]
        return rows

    def _order(self, strategy: str, rest: Sequence[int], margins_ZY: np.ndarray) -> list[int]:
        if strategy == "random":
            order = random_order(len(rest), derive_seed(self.seed, len(rest)))
        elif strategy == "margin":
            order = margin_order(margins_ZY[0])
        else:
            order = disagreement_order(margins_ZY)
        order = spread(order, [self.pool[one].problem.id for one in rest], 1)
        return [rest[one] for one in order]


def curve(rows: Sequence[Mapping[str, float]], strategy: str) -> list[tuple[float, float]]:
    """(labels, mean agreement over the seeds)."""
    return [
        (float(point), statistics.fmean(found))
        for point in POINTS
        if (found := [r["agreement"] for r in rows if r["strategy"] == strategy and r["labels"] == point])
    ]


def labels_for(points: Sequence[tuple[float, float]], target: float) -> float | None:
    """The labels at which a curve first reaches ``target``, by straight lines between its points."""
    before: tuple[float, float] | None = None
    for labels, value in points:
        if value >= target:
            if before is None:
                return labels
            share = (target - before[1]) / (value - before[1])
            return before[0] + share * (labels - before[0])
        before = (labels, value)
    return None


def choice_table(rows: Sequence[Mapping[str, float]]) -> list[str]:
    lines = ["| labels | " + " | ".join(STRATEGIES) + " |", "|---" * (len(STRATEGIES) + 1) + "|"]
    for point in POINTS:
        cells = []
        for strategy in STRATEGIES:
            own = [r for r in rows if r["strategy"] == strategy and r["labels"] == point]
            values = [r["agreement"] for r in own]
            spread_of = f" ({min(values):.3f}..{max(values):.3f})" if values else ""
            ties = f"; {statistics.fmean(r['preferences'] for r in own):.0f} preferences" if own else ""
            cells.append(f"{statistics.fmean(values):.3f}{spread_of}{ties}" if values else "")
        lines.append(f"| {point} | " + " | ".join(cells) + " |")
    return lines


def needed(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """How many labels each strategy needs for what random choice reaches."""
    random_curve = curve(rows, "random")
    lines = [
        "| agreement | random | " + " | ".join(STRATEGIES[1:]) + " |",
        "|---" * (len(STRATEGIES) + 1) + "|",
    ]
    best = -1.0
    for labels, value in random_curve[1:]:
        if value <= best:
            continue
        best = value
        cells = []
        for strategy in STRATEGIES[1:]:
            found = labels_for(curve(rows, strategy), value)
            cells.append("not reached" if found is None else f"{found:.0f} ({found / labels:.0%})")
        lines.append(f"| {value:.3f} | {labels:.0f} | " + " | ".join(cells) + " |")
    return lines


def loop_table(runs: Sequence[Path]) -> list[str]:
    """The true taste of each model of finished runs, and the reward models' agreement on held-out labels."""
    lines = ["| run | start | after round 1 | after round 2 |", "|---|---|---|---|"]
    for run in runs:
        models = json.loads((run / "stages/evaluate/report.json").read_text())["models"]
        cells = []
        for name in ("start", "rl_1", "rl_2"):
            found = models[name]["general"]
            cells.append(f"{found['score']:.3f} ± {found['stderr']:.3f}")
        lines.append(f"| {run.name} | " + " | ".join(cells) + " |")
    return lines


def fill(text: str, name: str, lines: Sequence[str]) -> str:
    """The page with the part between two marks replaced."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    assert pattern.search(text), f"docs/feedback.md has no part {name}"
    return pattern.sub(lambda match: match[1] + "\n".join(lines) + "\n" + match[2], text)


def write_page(runs: Sequence[Path]) -> None:
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    lines = [Line(name, curve(rows, name), colour) for colour, name in enumerate(STRATEGIES)]
    FIGURE.write_text(
        framed(
            line_chart(
                "Labels and agreement", lines, "labels", "agreement with the taste", y_range=(0.5, 1.0)
            )
        )
    )
    text = fill(PAGE.read_text(encoding="utf-8"), "choice", choice_table(rows))
    text = fill(text, "needed", needed(rows))
    if runs:
        text = fill(text, "loop", loop_table(runs))
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    choice = commands.add_parser("choice")
    choice.add_argument("model", type=Path)
    choice.add_argument("--seed", type=int, default=0)
    choice.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    page = commands.add_parser("page")
    page.add_argument("runs", type=Path, nargs="*")
    given = parser.parse_args()
    if given.command == "page":
        write_page(given.runs)
        return
    experiment = Experiment(given.model, given.seed)
    for strategy in given.strategies:
        rows = experiment.run(strategy)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
