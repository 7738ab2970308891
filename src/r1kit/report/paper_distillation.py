"""The distilled models of DeepSeek-R1 next to those of a run.

The paper's numbers are those of DeepSeek-R1 (arXiv 2501.12948, version 2, tables 6 and 15 to 17): models that
were trained by SFT alone on the 800,000 samples of R1, and at 32B the same base trained by RL instead. Their
benchmarks are not a run's tasks, so what can be compared is the order of the rows, not the numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

from r1kit.report.document import Table
from r1kit.report.run import Measured
from r1kit.report.sentences import percent, votes_of

DASH = "–"


@dataclass(frozen=True, slots=True)
class Published:
    """A model of the paper: pass@1 and cons@64 on AIME 2024, and the other benchmarks, in percent."""

    name: str
    aime: float
    aime_cons: float
    math: float
    gpqa: float
    code: float


PUBLISHED = (
    Published("R1-Distill-Qwen-1.5B", 28.9, 52.7, 83.9, 33.8, 16.9),
    Published("R1-Distill-Qwen-7B", 55.5, 83.3, 92.8, 49.1, 37.6),
    Published("R1-Distill-Llama-8B", 50.4, 80.0, 89.1, 49.0, 39.6),
    Published("R1-Distill-Qwen-14B", 69.7, 80.0, 93.9, 59.1, 53.1),
    Published("R1-Distill-Qwen-32B", 72.6, 83.3, 94.3, 62.1, 57.2),
    Published("R1-Distill-Llama-70B", 70.0, 86.7, 94.5, 65.2, 57.5),
    Published("Qwen2.5-32B, by RL instead", 47.0, 60.0, 91.6, 55.0, 40.2),
)
# Names that a run's task may have, for each column of the paper after the first two.
COLUMNS = (
    ("MATH-500", ("math500",)),
    ("GPQA Diamond", ("gpqa", "gpqadiamond")),
    ("LiveCodeBench", ("livecodebench", "lcb")),
)


def distillation_table(models: Sequence[tuple[Measured, str]]) -> Table:
    """The table for a run's students, each with the name of the model that it was made from."""
    rows = []
    for model, made_from in models:
        overall = model.figures.overall
        tasks = {_plain(name): scores for name, scores in model.figures.tasks.items()}
        others = [
            next((percent(tasks[name].pass_1) for name in names if name in tasks), DASH)
            for _, names in COLUMNS
        ]
        pass_1 = percent(overall.pass_1, overall.pass_1_stderr)
        name, measured = f"**{model.name}** from {made_from}", f"{overall.problems} of this run"
        rows.append([name, measured, pass_1, percent(overall.cons_n), *others])
    for one in PUBLISHED:
        numbers = (one.aime, one.aime_cons, one.math, one.gpqa, one.code)
        rows.append([one.name, "AIME 2024", *(f"{value:.1f}" for value in numbers)])
    votes = votes_of([model for model, _ in models])
    header = ["", "problems", "pass@1", "cons", *(name for name, _ in COLUMNS)]
    note = (
        f"cons: {votes} for this run, cons@64 in the paper. Below this run's rows are those of the paper "
        "(arXiv 2501.12948v2, tables 6 and 15 to 17): SFT alone on R1's 800,000 samples, in the last row RL "
        "on the same base instead. The benchmarks differ from this run's tasks, so the order of the rows can "
        "be compared, not their numbers."
    )
    return Table("Distilled students, and the paper's, %.", header, rows, note)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
