"""What the hidden states of a frozen model know: a linear probe for each layer (Alain and Bengio 1610.01644).

    W = (X^T X + lambda I)^-1 X^T Y,    prediction: argmax of x W

X are the hidden states of texts after a layer, centred and scaled by the training texts, and Y their labels,
one column a class. lambda is the one of a grid that is best on a fifth of the training texts. What a probe
reaches by guessing is no knowledge of the layer: so the share of the most frequent label is given, and the
accuracy of the same probe on labels in random order."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from r1kit.config import ConfigError, R1kitError, suggest
from r1kit.jsonl import column, read_jsonl
from r1kit.model.decoder import LanguageModel
from r1kit.seeds import derive_seed
from r1kit.tasks.miniature.corpus import CorpusMix, documents
from r1kit.tokenizer import Tokenizer

Read = Literal["last", "mean"]
LAMBDAS = tuple(10.0**power for power in range(-2, 5))
TEST_SHARE, CHOICE_SHARE = 0.25, 0.2
LARGEST = 100  # of the numbers in the built-in tasks
_BATCH = 64


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text with its label, a class by name."""

    text: str
    label: str


@dataclass(frozen=True, slots=True)
class LayerFigures:
    """``accuracy`` of a layer's probe on texts that it was not fitted on, its standard error, the accuracy
    with labels in random order (``shuffled``), and the share of the most frequent label (``majority``)."""

    layer: str
    accuracy: float
    stderr: float
    shuffled: float
    majority: float


def operator(rng: random.Random) -> LabelledText:
    """Which operator stands two tokens or more before the last one."""
    sign = rng.choice("+-*/")
    return LabelledText(f"{rng.randrange(LARGEST)}{sign}{rng.randrange(LARGEST)}=", sign)


def parity(rng: random.Random) -> LabelledText:
    """Whether a number is even, read after it."""
    number = rng.randrange(LARGEST * 10)
    return LabelledText(f"x={number};", "even" if number % 2 == 0 else "odd")


def parity_of_sum(rng: random.Random) -> LabelledText:
    """Whether a sum is even, before it is written."""
    one, other = rng.randrange(LARGEST), rng.randrange(LARGEST)
    return LabelledText(f"{one}+{other}=", "even" if (one + other) % 2 == 0 else "odd")


def sentence_order(rng: random.Random) -> LabelledText:
    """Whether the halves of a document of the miniature's corpus stand in their own order, or swapped."""
    text = next(documents(rng.randrange(1 << 40), CorpusMix()))
    words = text.split(" ")
    middle = len(words) // 2
    first, second = " ".join(words[:middle]), " ".join(words[middle:])
    if rng.random() < 0.5:
        return LabelledText(f"{first} {second}", "own order")
    return LabelledText(f"{second} {first}", "swapped")


TASKS = {"operator": operator, "parity": parity, "parity_of_sum": parity_of_sum, "order": sentence_order}
READS: dict[str, Read] = {"order": "mean"}  # of the others the last token is read


def labelled_texts(task: str, count: int, seed: int) -> list[LabelledText]:
    """``count`` different texts of a built-in task, or the rows of a JSON Lines file with the columns text
    and label. Raises ConfigError for a name that is neither, and R1kitError naming file and row."""
    if task.endswith((".jsonl", ".jsonl.gz")):
        path = Path(task).expanduser()
        return [
            LabelledText(column(path, number, row, "text"), column(path, number, row, "label"))
            for number, row in islice(read_jsonl(path), count)
        ]
    if task not in TASKS:
        hint = suggest(task, list(TASKS), f"known: {', '.join(TASKS)}; or a file: FILE.jsonl")
        raise ConfigError(f"probe: there is no task {task!r}: {hint}")
    rng = random.Random(derive_seed(seed, "probe", task))
    found: dict[str, LabelledText] = {}
    for _ in range(50 * count):
        if len(found) == count:
            break
        made = TASKS[task](rng)
        found.setdefault(made.text, made)
    return list(found.values())


@torch.no_grad()
def hidden_states(
    model: LanguageModel, texts: Sequence[np.ndarray], read: Read = "last", bidirectional: bool = False
) -> dict[str, np.ndarray]:
    """The hidden states [texts, D] float32 of each layer: that of the last token of each text [T], or the
    mean over its tokens. ``embed_tokens`` is what enters the first layer, ``norm`` what the head reads.
    Raises R1kitError for attention to both sides in a model that transformers computes."""
    if bidirectional and model.config.family == "transformers":
        raise R1kitError(
            "probe: transformers' own class computes this model, with attention to one side; leave "
            "--both-sides out"
        )
    model.eval()
    found: dict[str, list[np.ndarray]] = {}
    names = {
        name: part
        for name, part in model.parts().items()
        if name in ("embed_tokens", "norm") or name.count(".") == 1
    }
    for start in range(0, len(texts), _BATCH):
        some = texts[start : start + _BATCH]
        longest = max(len(ids) for ids in some)
        tokens_BT = torch.zeros(len(some), longest, dtype=torch.int64)
        present_BT = torch.zeros_like(tokens_BT)
        for place, ids in enumerate(some):
            tokens_BT[place, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
            present_BT[place, : len(ids)] = 1
        for name, states_BTD in _states(model, names, tokens_BT, present_BT, bidirectional):
            found.setdefault(name, []).append(_pooled(states_BTD, present_BT, read))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _states(
    model: LanguageModel,
    names: Mapping[str, torch.nn.Module],
    tokens_BT: torch.Tensor,
    present_BT: torch.Tensor,
    bidirectional: bool,
) -> Iterator[tuple[str, torch.Tensor]]:
    """What each of the named parts puts out."""
    kept: dict[str, torch.Tensor] = {}

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(part: torch.nn.Module, given: object, out: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
            kept[name] = out[0] if isinstance(out, tuple) else out

        return names[name].register_forward_hook(hook)

    handles = [keep(name) for name in names]
    try:
        both = {"bidirectional": True} if bidirectional else {}
        model(tokens_BT.to(model.device), segments_BT=present_BT.to(model.device), **both)
    finally:
        for handle in handles:
            handle.remove()
    yield from kept.items()


def _pooled(states_BTD: torch.Tensor, present_BT: torch.Tensor, read: Read) -> np.ndarray:
    states_BTD, lengths_B = states_BTD.float().cpu(), present_BT.sum(1)
    if read == "last":
        return states_BTD[torch.arange(len(lengths_B)), lengths_B - 1].numpy()
    summed_BD = (states_BTD * present_BT[..., None]).sum(1)
    return (summed_BD / lengths_B[:, None]).numpy()


def ridge(x_ND: np.ndarray, y_NO: np.ndarray, penalty: float) -> np.ndarray:
    """The weights [D, outcomes] that minimise |X W - Y|^2 + penalty |W|^2."""
    gram_DD = x_ND.T @ x_ND + penalty * np.eye(x_ND.shape[1])
    return np.linalg.solve(gram_DD, x_ND.T @ y_NO)


def probe_accuracy(x_ND: np.ndarray, labels_N: np.ndarray, test: np.ndarray, seed: int) -> float:
    """The accuracy on the texts ``test`` [N] bool of a probe that was fitted on the others."""
    rng = np.random.default_rng(derive_seed(seed, "choice"))
    train = np.flatnonzero(~test)
    chosen = rng.permutation(train)[: max(1, round(CHOICE_SHARE * len(train)))]
    fitted = np.setdiff1d(train, chosen)

    def accuracy(fit: np.ndarray, measured: np.ndarray, penalty: float) -> float:
        mean, spread = x_ND[fit].mean(0), x_ND[fit].std(0) + 1e-6
        scaled_ND = np.concatenate([(x_ND - mean) / spread, np.ones((len(x_ND), 1))], axis=1)
        one_hot = np.eye(int(labels_N.max()) + 1)[labels_N[fit]]
        found = (scaled_ND[measured] @ ridge(scaled_ND[fit], one_hot, penalty)).argmax(1)
        return float((found == labels_N[measured]).mean())

    best = max(LAMBDAS, key=lambda penalty: accuracy(fitted, chosen, penalty))
    return accuracy(train, np.flatnonzero(test), best)


def probe(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts: Sequence[LabelledText],
    read: Read = "last",
    bidirectional: bool = False,
    seed: int = 0,
) -> list[LayerFigures]:
    """The figures of each layer's probe, from what enters the first layer to what the head reads. A quarter
    of the texts is held out. Raises R1kitError where there are too few, or only one label."""
    classes = sorted({one.label for one in texts})
    if len(classes) < 2 or len(texts) < 20:
        raise R1kitError(
            f"probe: {len(texts)} texts with {len(classes)} labels; give at least 20 texts and two labels"
        )
    labels_N = np.array([classes.index(one.label) for one in texts])
    encoded = tokenizer.encode_batch([one.text for one in texts])
    ids = [np.concatenate([tokenizer.start_ids, one]) for one in encoded]
    too_long = max(map(len, ids))
    if too_long > model.config.max_positions:
        raise R1kitError(
            f"probe: a text of {too_long} tokens, and the model reads {model.config.max_positions}; "
            "shorten it"
        )
    rng = np.random.default_rng(derive_seed(seed, "held out"))
    test = np.zeros(len(texts), dtype=bool)
    test[rng.permutation(len(texts))[: round(TEST_SHARE * len(texts))]] = True
    shuffled_N = rng.permutation(labels_N)
    majority = float(np.bincount(labels_N[test]).max() / test.sum())
    found = []
    for layer, x_ND in hidden_states(model, ids, read, bidirectional).items():
        accuracy = probe_accuracy(x_ND.astype(np.float64), labels_N, test, seed)
        random_labels = probe_accuracy(x_ND.astype(np.float64), shuffled_N, test, seed)
        stderr = math.sqrt(accuracy * (1 - accuracy) / int(test.sum()))
        found.append(LayerFigures(layer, accuracy, stderr, random_labels, majority))
    return found
