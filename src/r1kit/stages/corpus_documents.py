"""The documents of a pretraining: where they come from, and in which order."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from r1kit.config import Config, InputError
from r1kit.data.corpus import load_generators, solved_documents
from r1kit.data.sources import BadRows, blend, texts
from r1kit.seeds import derive_seed
from r1kit.stages.recipe_names import TaskSpec
from r1kit.stages.stage import file_errors
from r1kit.tasks import load_tasks
from r1kit.tasks.documents import Layout
from r1kit.tokenizer import Tokenizer
from r1kit.train.supervised import text_row
from r1kit.types import Row

_CHUNK = 512  # documents that are encoded at a time


def _known_generators(spec: dict[str, Any]) -> dict[str, Any]:
    load_generators(spec)
    return spec


class DocumentsConfig(Config):
    """Where documents come from: rows of JSON Lines ``files`` (their ``fields`` joined by a newline), the
    training problems of ``tasks`` with their written solutions, laid out as ``layout`` says, and documents
    that are ``generated`` (data/corpus.py: ``{miniature: 1.0}``, or a function of your own).

    Weights are per document. ``bad_rows: quarantine`` leaves out rows that cannot be read, up to 5 % of a
    file (jsonl.py)."""

    files: dict[str, float] = {}
    fields: list[str] = ["text"]
    bad_rows: BadRows = "error"
    tasks: TaskSpec = {}
    layout: Layout = Layout()
    generated: Annotated[dict[str, Any], AfterValidator(_known_generators)] = {}

    @property
    def named(self) -> bool:
        """Whether any documents are named."""
        return bool(self.files or self.tasks or self.generated)

    def file_errors(self, *path: str) -> Iterator[InputError]:
        for file in self.files:
            yield from file_errors((*path, "files", file), file, self.fields, self.bad_rows)

    def documents(self, seed: int) -> Iterator[str]:
        sources = [
            (weight, texts([Path(file)], self.fields, seed, self.bad_rows))
            for file, weight in self.files.items()
        ]
        for name, (task, weight) in load_tasks(self.tasks).items():
            sources.append(
                (weight, solved_documents(task.problems("train"), derive_seed(seed, name), self.layout))
            )
        sources += [
            (generator.weight, generator.documents(seed)) for generator in load_generators(self.generated)
        ]
        return blend(sources, seed)


class FirstDocuments(DocumentsConfig):
    """Other documents that a training begins with, in the place of its corpus, until they have made
    ``share`` of its tokens: an order by hand, such as single facts and worked solutions before everything
    else. The tokenizer is learned from the corpus alone."""

    share: float = Field(gt=0.0, lt=1.0)


def document_rows(source: Iterator[str], tokenizer: Tokenizer, context: int) -> Iterator[Row]:
    """Rows of documents between begin (where the tokenizer has one) and end tokens; a document longer than
    the context is cut into pieces."""
    begin, end = tokenizer.start_ids, np.asarray([tokenizer.eos_id], dtype=np.int32)
    while chunk := list(itertools.islice(source, _CHUNK)):
        for ids in tokenizer.encode_batch(chunk, special=True):
            whole = np.concatenate([begin, ids, end])
            for start in range(0, len(whole) - 1, context):
                yield text_row(whole[start : start + context + 1])


def until(rows: Iterator[Row], tokens: float) -> Iterator[Row]:
    """The rows with which ``tokens`` tokens are reached."""
    done = 0
    for row in rows:
        if done >= tokens:
            return
        yield row
        done += len(row.token_ids)
