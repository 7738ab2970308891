"""What objectives and mixtures of tasks do, in a world of seconds (benchmarks/effects_world.py).

    python benchmarks/data_effects.py corpus                            the files that both recipes read
    r1kit run recipes/data-effects.yaml seed=0 --out runs/data-effects/0                (likewise 1 and 2)
    r1kit run recipes/data-effects-tasks.yaml seed=0 --out runs/data-effects/tasks-0    (likewise)
    python benchmarks/data_effects.py measure runs/data-effects/0       figures of the bases alone
    python benchmarks/data_effects.py page runs/data-effects            fills docs/data.md and its figure

`make data-effects` does all of it. Each part continues where it was interrupted; a cell without a finished
run behind it says so."""

import argparse
import json
import random
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from effects_world import TASKS, documents, story, task_rows
from figures import framed

from r1kit.data.masking import Masking
from r1kit.model.huggingface import load_pretrained
from r1kit.report.charts import Line, line_chart
from r1kit.stages.corpus_documents import document_rows
from r1kit.tokenizer import Tokenizer
from r1kit.train.learner import Learner, LearnerConfig
from r1kit.train.probe import LabelledText, labelled_texts, probe
from r1kit.types import Row

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks/data_effects.jsonl", ROOT / "docs/data.md"
FIGURE = ROOT / "docs/figures/data-effects.svg"
FOLDER = Path("runs/data-effects")
DOCUMENTS, ROWS, TEST_ROWS, SMALL = 9000, 300, 40, 30
BASES = ("plain", "mtp", "fim", "mlm", "nsp")
NOT_YET = "not measured yet"
CONTEXT, HELD_OUT, PROBED = 96, 300, 400
Cells = dict[str, float]


def write_files(folder: Path) -> None:
    """The corpus, and the rows of each task: 300, a tenth of them, and 40 held-out ones."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "corpus.jsonl", [{"text": text} for text in islice(documents(0), DOCUMENTS)])
    for name in TASKS:
        test = task_rows(name, TEST_ROWS, seed=1)
        rows = task_rows(name, ROWS, 0, [str(row["prompt"]) for row in test])
        held_out = (
            [{key: row[key] for key in ("prompt", "test_list")} for row in test] if name == "code" else test
        )
        _write(folder / f"{name}.jsonl", [_pair(row) for row in rows])
        _write(folder / f"{name}_small.jsonl", [_pair(row) for row in rows[:SMALL]])
        _write(folder / f"{name}_test.jsonl", held_out)


def _pair(row: Mapping[str, object]) -> dict[str, object]:
    return {key: row[key] for key in ("prompt", "completion")}


def _write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


class Base:
    """A pretrained model with the figures that its run does not report."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.load(folder)
        self.model = load_pretrained(folder)
        self.model.eval()
        self.texts = list(islice(documents(1, held_out=True), HELD_OUT))

    def next_token(self) -> Cells:
        """The loss on held-out documents, in nats per token."""
        rows = list(islice(document_rows(iter(self.texts), self.tokenizer, CONTEXT), HELD_OUT))
        learner = Learner(self.model, LearnerConfig(context=CONTEXT, lines=16, precision="float32"))
        logprobs = learner.logprobs(rows)
        return {"next_token_loss": _mean_loss(rows, logprobs)}

    def masked(self) -> Cells:
        """Loss and accuracy at masked tokens of held-out documents, with attention to both sides."""
        masking = Masking.of(self.tokenizer, 0.15)
        rng = np.random.default_rng(0)
        ids = [row.token_ids for row in document_rows(iter(self.texts), self.tokenizer, CONTEXT - 1)]
        rows = [masking.masked(one, rng) for one in ids]
        learner = Learner(self.model, LearnerConfig(context=CONTEXT, lines=16, precision="float32"))
        loss = _mean_loss(rows, learner.logprobs(rows))
        right = [self._masked_right(row) for row in rows]
        return {"masked_loss": loss, "masked_accuracy": sum(sum(one) for one in right) / sum(map(len, right))}

    @torch.no_grad()
    def _masked_right(self, row: Row) -> list[bool]:
        assert row.targets is not None
        ids_BT = torch.from_numpy(row.token_ids[:-1].astype(np.int64))[None]
        best_T = self.model.logits(self.model(ids_BT, bidirectional=True).hidden_BTD)[0].argmax(-1).numpy()
        return [bool(best_T[at - 1] == row.targets[at]) for at in np.flatnonzero(row.mask)]

    def infilling(self) -> Cells:
        """How often a number that is cut out of a held-out document is written again, greedily: from both
        sides by the tokens of fill in the middle, and from what stands before it alone."""
        found: dict[str, list[bool]] = {"infilling": [], "left_alone": []}
        begin, hole, end = (self.tokenizer.id(f"<｜fim▁{name}｜>") for name in ("begin", "hole", "end"))
        for text in self.texts:
            numbers = list(re.finditer(r"(?<=[=+-])\d+", text))
            if not numbers:
                continue
            place = numbers[len(numbers) // 2]
            parts = self.tokenizer.encode_batch([text[: place.start()], text[place.end() :]], special=True)
            start = self.tokenizer.start_ids
            both = np.concatenate([start, [begin], parts[0], [hole], parts[1], [end]])
            wanted = self.tokenizer.encode(place[0])
            for name, prompt in (("infilling", both), ("left_alone", np.concatenate([start, parts[0]]))):
                found[name].append(self._continues(prompt.astype(np.int64), wanted))
        return {name: statistics.fmean(right) for name, right in found.items()}

    @torch.no_grad()
    def _continues(self, prompt: np.ndarray, wanted: np.ndarray) -> bool:
        ids_BT = torch.from_numpy(np.concatenate([prompt, wanted[:-1]]))[None]
        best_T = self.model.logits(self.model(ids_BT).hidden_BTD)[0, -len(wanted) :].argmax(-1).numpy()
        return bool((best_T == wanted).all())

    def probes(self) -> Cells:
        """The best layer's accuracy for the parity of a sum and for the order of a story's sentences."""
        parity = labelled_texts("parity_of_sum", PROBED, 0)
        figures = {"parity": probe(self.model, self.tokenizer, parity)}
        order = list(ordered_stories())
        figures["order"] = probe(self.model, self.tokenizer, order, "mean")
        figures["order_both_sides"] = probe(self.model, self.tokenizer, order, "mean", bidirectional=True)
        return {f"probe_{name}": max(one.accuracy for one in layers) for name, layers in figures.items()}


def ordered_stories() -> Iterator[LabelledText]:
    """Stories whose second sentence is their own, or another story's."""
    rng = random.Random("order")
    for _ in range(PROBED):
        first, second = (story(rng).split(". ", 1) for _ in range(2))
        own = rng.random() < 0.5
        yield LabelledText(f"{first[0]}. {first[1] if own else second[1]}", "own" if own else "other")


def _mean_loss(rows: Sequence[Row], logprobs: Sequence[np.ndarray]) -> float:
    tokens = sum(int(row.mask[1:].sum()) for row in rows)
    return -sum(float(one.sum()) for one in logprobs) / tokens


def measure(run: Path) -> None:
    """Add the figures of a run's finished bases to RESULTS, those that are not there."""
    seed = int(run.name)
    done = {(row["seed"], row["base"], row["part"]) for row in read_results()}
    parts: dict[str, Callable[[Base], Cells]] = {
        "next_token": Base.next_token, "masked": Base.masked, "infilling": Base.infilling,
        "probes": Base.probes,
    }  # fmt: skip
    for name in BASES:
        folder = run / "stages" / name / "model"
        missing = [part for part in parts if (seed, name, part) not in done]
        if not folder.is_dir() or not missing:
            continue
        base = Base(folder)
        for part in missing:
            row = {"seed": seed, "base": name, "part": part, **_rounded(parts[part](base))}
            print(json.dumps(row), flush=True)
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def _rounded(cells: Cells) -> Cells:
    return {name: round(value, 4) for name, value in cells.items()}


def read_results() -> list[dict[str, object]]:
    if not RESULTS.is_file():
        return []
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]


def stage_metrics(run: Path, stage: str) -> list[dict[str, float]]:
    file = run / "metrics.jsonl"
    if not file.is_file() or not (run / "stages" / stage / "stage.json").is_file():
        return []
    return [row for line in file.read_text().splitlines() if (row := json.loads(line)).get("stage") == stage]


def late(rows: Sequence[Mapping[str, float]], name: str) -> float | None:
    """The mean of a metric over the last fifth of a training; its documents were not trained on before."""
    values = [row[name] for row in rows if name in row]
    last = values[-max(1, len(values) // 5) :]
    return statistics.fmean(last) if last else None


def cell(values: Sequence[float | None], digits: int = 3) -> str:
    """Mean, lowest to highest and how many seeds; or that there is no run."""
    found = [value for value in values if value is not None]
    if not found:
        return NOT_YET
    mean = f"{statistics.fmean(found):.{digits}f}"
    if len(found) == 1:
        return f"{mean} (one seed)"
    return f"{mean} ({min(found):.{digits}f}..{max(found):.{digits}f}; {len(found)} seeds)"


def base_table(runs: Sequence[Path]) -> list[str]:
    """What each objective learns itself, and what it does to the base and to R1-Zero after it."""
    results = read_results()

    def measured(base: str, name: str) -> str:
        return cell([float(str(row[name])) for row in results if row["base"] == base and name in row])

    def logged(base: str, name: str) -> str:
        return cell([late(stage_metrics(run, base), name) for run in runs])

    def evaluated(name: str) -> str:
        return cell([pass_1(run, name) for run in runs])

    lines = [
        "| base | held-out next token, nats | pass@1 | pass@1 after R1-Zero | infilling | "
        "masked tokens right | parity of a sum | order of sentences |",
        "|---" * 8 + "|",
    ]
    for base in BASES:
        own = (
            measured(base, "next_token_loss"), evaluated(base), evaluated(f"zero_{base}"),
            measured(base, "infilling"), measured(base, "masked_accuracy"), measured(base, "probe_parity"),
            measured(base, "probe_order"),
        )  # fmt: skip
        lines.append(f"| {base} | " + " | ".join(own) + " |")
    return [
        *lines,
        "",
        f"In training, on documents that had not been read before (mean of the last fifth): masked tokens "
        f"{logged('mlm', 'mlm_loss')} nats; pairs {logged('nsp', 'nsp_loss')} nats, of which "
        f"{logged('nsp', 'nsp_accuracy')} were judged right; the token after the next "
        f"{logged('mtp', 'mtp_loss')} nats. From what stands before it alone the number is written "
        f"{measured('fim', 'left_alone')} of the time by `fim`, and "
        f"{measured('plain', 'left_alone')} by `plain`.",
    ]


def pass_1(run: Path, model: str) -> float | None:
    file = run / "stages/evaluate/report.json"
    if not file.is_file():
        return None
    return float(json.loads(file.read_text())["models"][model]["overall"]["pass@1"])


FIGURES_OF = {
    "qa": "f1", "topic": "macro_f1", "pinyin": "chrf", "short": "rougeL", "code": "pass_1",
}  # fmt: skip


def task_table(runs: Sequence[Path]) -> list[str]:
    """Each task's figure after one run on all tasks, and after a run of its own; and where tasks are
    uneven."""
    columns = {
        "alone": "",
        "together": "together",
        "proportional": "proportional",
        "T = 2": "warm",
        "equal": "equal",
    }
    lines = ["| task | figure | " + " | ".join(columns) + " |", "|---" * (2 + len(columns)) + "|"]
    for task, figure in FIGURES_OF.items():
        cells = [
            cell([reported(run, stage or task, f"task/{task}/{figure}") for run in runs])
            for stage in columns.values()
        ]
        lines.append(f"| {task} | {figure} | " + " | ".join(cells) + " |")
    return lines


def reported(run: Path, stage: str, name: str) -> float | None:
    file = run / "stages" / stage / "report.json"
    return float(json.loads(file.read_text())[name]) if file.is_file() else None


def fill(text: str, name: str, lines: Sequence[str]) -> str:
    """The page with the part between two marks replaced."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    assert pattern.search(text), f"docs/data.md has no part {name}"
    return pattern.sub(lambda match: match[1] + "\n".join(lines) + "\n" + match[2], text)


def write_page(folder: Path) -> None:
    runs = sorted(run for run in folder.glob("[0-9]*") if run.is_dir())
    tasks = sorted(folder.glob("tasks-[0-9]*"))
    text = fill(PAGE.read_text(encoding="utf-8"), "objectives", base_table(runs))
    PAGE.write_text(fill(text, "tasks", task_table(tasks)), encoding="utf-8")
    curves = []
    for colour, (base, name, label) in enumerate(
        (("mlm", "mlm_loss", "masked tokens, nats"), ("nsp", "nsp_loss", "pairs, nats"),
         ("mtp", "mtp_loss", "token after the next, nats"), ("plain", "loss", "next token alone, nats"))
    ):  # fmt: skip
        rows = [stage_metrics(run, base) for run in runs]
        curves.append(Line(label, smoothed([r for r in rows if r], name), colour))
    FIGURE.write_text(framed(line_chart("Losses while the bases are pretrained", curves, "update", "nats")))


def smoothed(
    rows: Sequence[Sequence[Mapping[str, float]]], name: str, width: int = 10
) -> list[tuple[float, float]]:
    """The mean over the seeds and over ``width`` updates."""
    longest = max(map(len, rows), default=0)
    found = []
    for start in range(0, longest, width):
        values = [row[name] for own in rows for row in own[start : start + width] if name in row]
        if values:
            found.append((start + width / 2, statistics.fmean(values)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("corpus")
    commands.add_parser("measure").add_argument("runs", type=Path, nargs="+")
    commands.add_parser("page").add_argument("folder", type=Path, nargs="?", default=FOLDER)
    given = parser.parse_args()
    if given.command == "corpus":
        write_files(FOLDER)
    elif given.command == "page":
        write_page(given.folder)
    else:
        for run in given.runs:
            measure(run)


if __name__ == "__main__":
    main()
