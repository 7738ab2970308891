"""``r1kit probe``: what each layer of a model knows, as a table (train/probe.py)."""

from collections.abc import Sequence
from pathlib import Path

from r1kit.model.huggingface import load_pretrained
from r1kit.tokenizer import Tokenizer
from r1kit.train.probe import READS, LayerFigures, labelled_texts, probe


def measure(
    models: Sequence[Path], task: str, count: int, both_sides: bool, seed: int
) -> dict[str, list[LayerFigures]]:
    """The figures of each model's layers on the same texts, by the model's folder. Raises ConfigError for an
    unknown task, and R1kitError for a file or a model that cannot be read."""
    texts = labelled_texts(task, count, seed)
    return {
        str(folder): probe(
            load_pretrained(folder), Tokenizer.load(folder), texts, READS.get(task, "last"), both_sides, seed
        )
        for folder in models
    }


def as_table(task: str, figures: dict[str, list[LayerFigures]]) -> list[str]:
    """One line a layer: the accuracy with its standard error, of random labels, of the commonest label."""
    lines = [f"task {task}: accuracy of a linear probe on a quarter of the texts"]
    for model, layers in figures.items():
        lines += ["", model, f"{'layer':<16}{'accuracy':>18}{'random labels':>16}{'commonest':>12}"]
        for one in layers:
            accuracy = f"{one.accuracy:.3f} ± {one.stderr:.3f}"
            lines.append(f"{one.layer:<16}{accuracy:>18}{one.shuffled:>16.3f}{one.majority:>12.3f}")
    return lines
