"""What there is to label in a run: its stages that wait for people, their pairs, and which pair comes next
for an annotator. Reads the run's files; labels go into RUN/labels (r1kit.data.labels)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

from r1kit.chat import Prompt, parse
from r1kit.config import R1kitError
from r1kit.data.labels import (
    JUDGED,
    WRITTEN,
    Label,
    LabelStore,
    Pair,
    judged_pairs,
    read_pairs,
    shown_swapped,
)
from r1kit.files import odd
from r1kit.health import number
from r1kit.records import label_file, stage_folder
from r1kit.seeds import derive_seed

STAGE_NAME = re.compile(r"[A-Za-z0-9_-]+")
SHARED = 4  # every so many labels of an annotator one is of a pair that another one has judged


@dataclass(frozen=True, slots=True)
class LabelStage:
    """A stage that people label for: ``wanted`` pairs are to be judged; ``done`` when it has finished."""

    name: str
    wanted: int
    pairs_file: Path
    done: bool


def label_stages(run_dir: Path, recipe: Mapping[str, Any]) -> list[LabelStage]:
    """The stages of a run that wait for people and have pairs, in the recipe's order, finished ones last."""
    stages = recipe.get("stages")
    found = []
    for stage in stages if isinstance(stages, list) else []:
        if not isinstance(stage, Mapping) or stage.get("stage") != "label":
            continue
        if stage.get("annotator", "person") != "person":
            continue
        name = str(stage.get("name") or "label")
        if STAGE_NAME.fullmatch(name) is None:  # a recipe may come from a stranger, and a name is a path here
            continue
        folder = stage_folder(run_dir, name)
        for place, done in ((folder.partial, False), (folder.final, True)):
            if _is_own_file(run_dir, place / "pairs.jsonl"):
                wanted = int(number(stage.get("labels")) or 0)
                found.append(LabelStage(name, wanted, place / "pairs.jsonl", done))
                break
    return sorted(found, key=lambda stage: stage.done)


@dataclass(frozen=True, slots=True)
class Progress:
    """``judged`` of ``wanted`` pairs by all annotators, ``own`` by this one."""

    judged: int
    wanted: int
    own: int

    @property
    def share(self) -> float:
        return min(1.0, self.judged / self.wanted) if self.wanted else 0.0

    def in_words(self) -> str:
        return f"{self.judged} of {self.wanted} pairs, {self.own} by you"


@dataclass(frozen=True, slots=True)
class Shown:
    """A pair as it is shown: ``left`` and ``right`` are whole responses, and ``swapped`` says that the second
    answer of the pair is at the left."""

    pair: Pair
    seed: int
    swapped: bool

    @property
    def left(self) -> str:
        return self.pair.second if self.swapped else self.pair.first

    @property
    def right(self) -> str:
        return self.pair.first if self.swapped else self.pair.second

    def verdict_of_left(self, better: bool) -> str:
        """The verdict on the pair's first answer where the left one is better, or worse."""
        return "better" if better != self.swapped else "worse"

    def side(self, left: bool) -> str:
        """Which answer of the pair is at the left, or at the right."""
        return "second" if left == self.swapped else "first"


class Desk:
    """The pairs of a stage and the labels that were given for them. Raises R1kitError where the pairs cannot
    be read, or where the folder of labels is something else."""

    def __init__(self, run_dir: Path, stage: LabelStage) -> None:
        self.stage, self.pairs = stage, read_pairs(stage.pairs_file)
        file = label_file(run_dir, stage.name)
        for path, expected in ((file.parent, S_ISDIR), (file, S_ISREG)):
            if (found := odd(path, expected)) is not None:
                raise R1kitError(f"{path}: {found}, where the labels of a run are; move it away")
        self.store = LabelStore(file)

    def next_for(self, annotator: str) -> Shown | None:
        """The pair that an annotator sees next, None where all are labelled."""
        pair = next_pair(self.pairs, self.store.labels(), annotator)
        return None if pair is None else show(pair, annotator)

    def pair(self, key: str) -> Pair | None:
        return next((pair for pair in self.pairs if pair.id == key), None)

    def progress(self, annotator: str) -> Progress:
        labels = self.store.labels()
        own = sum(label.annotator == annotator and label.verdict in JUDGED for label in labels)
        return Progress(judged_pairs(labels), self.stage.wanted, own)


def show(pair: Pair, annotator: str) -> Shown:
    """A pair in an order that follows from pair and annotator, so that a page that is loaded again shows the
    same."""
    seed = derive_seed("shown", annotator, pair.id)
    return Shown(pair, seed, shown_swapped(seed))


def next_pair(pairs: Sequence[Pair], labels: Sequence[Label], annotator: str) -> Pair | None:
    """The first pair that no annotator has judged; every SHARED-th time, and where all are judged, the first
    that another annotator has judged and this one has not, so that agreement can be measured. None where this
    annotator has seen all."""
    own = {label.pair for label in labels if label.annotator == annotator}
    others = {label.pair for label in labels if label.annotator != annotator and label.verdict in JUDGED}
    new = next((pair for pair in pairs if pair.id not in own and pair.id not in others), None)
    shared = next((pair for pair in pairs if pair.id not in own and pair.id in others), None)
    if shared is not None and (new is None or len(own) % SHARED == SHARED - 1):
        return shared
    return new


def next_to_write(pairs: Sequence[Pair], labels: Sequence[Label]) -> Pair | None:
    """A pair whose prompt has no written answer yet: of those judged both bad first, then in order."""
    written = {str(label.prompt) for label in labels if label.verdict in WRITTEN}
    bad = {label.pair for label in labels if label.verdict == "both_bad"}
    open_ = [pair for pair in pairs if str(pair.prompt) not in written]
    return next((pair for pair in open_ if pair.id in bad), open_[0] if open_ else None)


def thinking_and_answer(response: str) -> tuple[str, str]:
    """The two parts of a response; all of it is the answer where it does not follow the template."""
    return parse(response) or ("", response)


def completion_of(thinking: str, answer: str) -> str:
    """A response with these parts; without a thinking it is the answer alone. Raises R1kitError where the
    parts hold tags of the template, so that what is learned would be read otherwise."""
    if not answer.strip():
        raise R1kitError("the answer is empty; write one")
    text = f"<think>{thinking.strip()}</think>{answer.strip()}" if thinking.strip() else answer.strip()
    if "<think>" in text and parse(text) != (thinking.strip(), answer.strip()):
        raise R1kitError("thinking and answer hold no tags such as <think> or <answer>; remove them")
    return text


def prompt_text(prompt: Prompt) -> str:
    """A prompt for readers: its text, or its turns one below the other."""
    if isinstance(prompt, str):
        return prompt
    turns = [turn for turn in prompt if isinstance(turn, Mapping)]
    return "\n\n".join(f"{turn.get('role', '')}: {turn.get('content', '')}" for turn in turns)


def _is_own_file(run_dir: Path, file: Path) -> bool:
    """Whether a file is there, and no link leads to it from within the run's folder."""
    inner = file.relative_to(run_dir)
    linked = any((run_dir / part).is_symlink() for part in (*list(inner.parents)[:-1], inner))
    return not linked and file.is_file()
