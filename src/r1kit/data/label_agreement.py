"""How far annotators agree: Krippendorff's alpha over the pairs that two or more have judged.

    alpha = 1 - D_observed / D_expected

1 is full agreement, 0 what chance gives. The verdicts are nominal: better and worse are as different as
better and tie. The library ``krippendorff`` computes it (extra ``ui``)."""

import importlib.util
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from r1kit.data.labels import JUDGED, Label


@dataclass(frozen=True, slots=True)
class Agreement:
    """``alpha`` over ``pairs`` pairs of ``annotators`` annotators; None where it is not defined, ``why``
    says the reason."""

    alpha: float | None
    pairs: int
    annotators: int
    why: str = ""

    def in_words(self) -> str:
        if self.alpha is None:
            return f"agreement: {self.why}"
        return (
            f"agreement of {self.annotators} annotators on {self.pairs} pairs: Krippendorff's alpha "
            f"{self.alpha:.2f}"
        )


def verdict_table(labels: Iterable[Label]) -> np.ndarray:
    """The verdicts [annotators, pairs] as numbers, nan where an annotator has not judged a pair; pairs that
    only one has judged are left out. What is marked unsafe counts: one answer, the other, or both."""
    by_pair: dict[str, dict[str, str]] = defaultdict(dict)
    for label in labels:
        if label.verdict in JUDGED:
            by_pair[label.pair][label.annotator] = "/".join([label.verdict, *sorted(label.unsafe)])
    shared = {pair: own for pair, own in by_pair.items() if len(own) > 1}
    annotators = sorted({name for own in shared.values() for name in own})
    kinds = {
        kind: number for number, kind in enumerate(sorted({k for o in shared.values() for k in o.values()}))
    }
    table = np.full((len(annotators), len(shared)), np.nan)
    for place, own in enumerate(shared.values()):
        for name, kind in own.items():
            table[annotators.index(name), place] = kinds[kind]
    return table


def agreement(labels: Iterable[Label]) -> Agreement:
    """The agreement of those who gave these labels in force."""
    table = verdict_table(labels)
    annotators, pairs = table.shape
    if pairs == 0:
        return Agreement(None, 0, annotators, "no pair has two annotators yet")
    if len(np.unique(table[~np.isnan(table)])) == 1:
        return Agreement(None, pairs, annotators, f"the same verdict on all {pairs} shared pairs")
    if importlib.util.find_spec("krippendorff") is None:
        return Agreement(None, pairs, annotators, "needs the extra ui: pip install 'r1kit[ui]'")
    import krippendorff  # optional

    alpha = krippendorff.alpha(reliability_data=table, level_of_measurement="nominal")
    return Agreement(float(alpha), pairs, annotators)
