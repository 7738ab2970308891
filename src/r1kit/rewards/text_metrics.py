"""The usual metrics of tasks whose answers are texts, from predictions and references.

    exact           share of answers that equal a reference
    squad           exact match and F1 of words in SQuAD's form, best reference (1606.05250, section 6.1)
    classification  accuracy, and F1 of each class, averaged (macro), over the classes of the references
    rouge           F1 of ROUGE-1, ROUGE-2 and ROUGE-L with stemming, by the package rouge-score
    translation     BLEU and chrF of the whole file, 0 to 100, by the package sacrebleu

All but BLEU and chrF are between 0 and 1. The two packages are imported here alone (extra "tasks")."""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from r1kit.config import R1kitError

MetricName = Literal["exact", "squad", "classification", "rouge", "translation"]
Figures = dict[str, float]
References = Sequence[Sequence[str]]  # one or more for each prediction

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NEEDED = "{} needs a package that is not installed: pip install 'r1kit[tasks]'"


def text_figures(metric: MetricName, predictions: Sequence[str], references: References) -> Figures:
    """The figures of a metric by name. Raises R1kitError where there is nothing to measure, or a package is
    missing."""
    if not predictions or len(predictions) != len(references) or not all(references):
        raise R1kitError(
            f"{metric}: {len(predictions)} predictions and {len(references)} lists of references; give one "
            "list of at least one reference for each prediction"
        )
    return METRICS[metric](predictions, references)


def check_installed(metric: str) -> None:
    """Raise R1kitError where a metric's package is missing."""
    text_figures_of = {"rouge": _rouge, "translation": _translation}
    if metric in text_figures_of:
        text_figures_of[metric](["a"], [["a"]])


def normalised(text: str) -> str:
    """SQuAD's form of an answer: lower case, without punctuation and articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def word_f1(prediction: str, reference: str) -> float:
    """F1 of the words of two normalised answers, counted with repetition; 1 for two empty ones."""
    own, wanted = normalised(prediction).split(), normalised(reference).split()
    if not own or not wanted:
        return float(own == wanted)
    common = sum((Counter(own) & Counter(wanted)).values())
    return 2 * common / (len(own) + len(wanted))


def _exact(predictions: Sequence[str], references: References) -> Figures:
    right = [
        one.strip() in [other.strip() for other in own]
        for one, own in zip(predictions, references, strict=True)
    ]
    return {"exact_match": _mean(right)}


def _squad(predictions: Sequence[str], references: References) -> Figures:
    exact, f1 = [], []
    for one, own in zip(predictions, references, strict=True):
        exact.append(any(normalised(one) == normalised(other) for other in own))
        f1.append(max(word_f1(one, other) for other in own))
    return {"exact_match": _mean(exact), "f1": _mean(f1)}


def _classification(predictions: Sequence[str], references: References) -> Figures:
    found = [one.strip() for one in predictions]
    gold = [own[0].strip() for own in references]
    right = Counter(one for one, other in zip(found, gold, strict=True) if one == other)
    said, wanted = Counter(found), Counter(gold)
    f1 = [2 * right[name] / (said[name] + wanted[name]) for name in wanted]
    return {"accuracy": sum(right.values()) / len(gold), "macro_f1": _mean(f1)}


def _rouge(predictions: Sequence[str], references: References) -> Figures:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise R1kitError(_NEEDED.format("metric rouge")) from None
    names = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(list(names), use_stemmer=True)
    scored = [scorer.score_multi(list(own), one) for one, own in zip(predictions, references, strict=True)]
    return {name: _mean([one[name].fmeasure for one in scored]) for name in names}


def _translation(predictions: Sequence[str], references: References) -> Figures:
    try:
        import sacrebleu
    except ImportError:
        raise R1kitError(_NEEDED.format("metric translation")) from None
    most = max(map(len, references))
    streams: Any = [[own[place] if place < len(own) else None for own in references] for place in range(most)]
    bleu = sacrebleu.corpus_bleu(list(predictions), streams)
    return {"bleu": float(bleu.score), "chrf": float(sacrebleu.corpus_chrf(list(predictions), streams).score)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


METRICS: Mapping[str, Callable[[Sequence[str], References], Figures]] = {
    "exact": _exact,
    "squad": _squad,
    "classification": _classification,
    "rouge": _rouge,
    "translation": _translation,
}
