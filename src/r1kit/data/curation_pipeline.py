"""Curation as a datatrove pipeline: the only file that imports datatrove (0.10).

datatrove executes the steps (on this machine, on Ray or Slurm), keeps what is finished, and has the rules of
Gopher, C4 and FineWeb, exact, line-wise and MinHash deduplication, ftfy's repair and masks of e-mail and IPv4
addresses. Here its steps are put in order, with those that it lacks: a reader of r1kit's sources, languages
without a download, rules for Chinese, decontamination, and signatures that also cut Chinese into words.

A document that is no plain text (a pair, a conversation, a problem) keeps its columns: its texts are repaired
and masked, and it is deduplicated and decontaminated as one text; rules of quality are for texts alone.

The steps, each a folder: ``clean`` (repair, language, quality, decontamination), ``unique`` (without exact
duplicates), ``apart`` (without near ones), ``kept`` (without three lines in a row that stand elsewhere)."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import loguru
import numpy as np
import orjson
import xxhash
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import (
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
    SentDedupConfig,
    SentenceDedupFilter,
    SentenceDedupSignature,
    SentenceFindDedups,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter
from datatrove.pipeline.writers import JsonlWriter

from r1kit.config import R1kitError
from r1kit.data.contamination import Contamination, evaluations_of
from r1kit.data.corpora import SAID, BadRow, Record, Source, SourceConfig, document_of
from r1kit.data.curation_settings import CurationConfig, ExecutorConfig, Kept, NearConfig, Rule
from r1kit.data.language_id import identify
from r1kit.data.text_rules import chinese_fault, mask_numbers
from r1kit.tasks.overlap import words

loguru.logger.disable("datatrove")  # its lines go to files below ``logs``; r1kit writes its own report

MOST_LINES = 60_000  # of a document whose lines are compared: datatrove numbers them in 16 bits
RUNS = 2048  # of words, that are hashed at a time
CHECKED = ("problem", "program")  # kinds of rows with an answer or tests
EMAIL, IPV4 = "email@example.com", "192.0.2.1"


@dataclass(frozen=True, slots=True)
class Paths:
    """The folders of a curation below ``root``: documents by step, dropped ones by reason, and the rest."""

    root: Path

    def of(self, name: str) -> Path:
        return self.root / name

    def dropped(self, reason: str) -> JsonlWriter:
        return _writer(self.root / "dropped" / reason)


def curate(root: Path, sources: Mapping[str, SourceConfig], config: CurationConfig) -> None:
    """Do all steps in the folder ``root``; those that are finished there are not repeated. The result is in
    ``kept/<source>/``, what was dropped in ``dropped/<step>/``, bad rows in ``quarantine/``.

    Raises R1kitError for sources that cannot be read."""
    paths = Paths(root)
    folder = "clean"
    first: list[PipelineStep] = [ReadSources(dict(sources), root / "counts", root / "quarantine")]
    first += _cleaning(paths, config)
    steps = [*first, _writer(root / folder)]
    exact = ExactDedupConfig(content_getter=_whole_text)
    if config.exact:
        steps.append(ExactDedupSignature(str(root / "exact/signatures"), exact))
    _execute(root, "clean", steps, config.executor)
    if config.exact:
        find = ExactFindDedups(str(root / "exact/signatures"), str(root / "exact/found"), exact)
        _execute(root, "exact", [find], config.executor, tasks=1)
        drop = ExactDedupFilter(str(root / "exact/found"), exact, paths.dropped("exact"))
        steps = [ReadParts(root / folder), drop, _writer(root / "unique")]
        _execute(root, "unique", steps, config.executor)
        folder = "unique"
    steps = [ReadParts(root / folder)]
    if config.near is not None:
        steps.append(_without_near(paths, folder, config.near, config.executor))
    if config.lines:
        steps = _without_lines(paths, steps, config.executor)
    _execute(root, "kept", [*steps, _rows_writer(root / "kept")], config.executor)


def _cleaning(paths: Paths, config: CurationConfig) -> list[PipelineStep]:
    steps: list[PipelineStep] = []
    if config.unicode or config.mask:
        steps.append(Repair(config.unicode, config.mask))
    steps.append(Languages(config.languages, config.confidence, paths.dropped("language")))
    for rule in config.rules:
        for others in (False, True) if rule == "gopher" else (False,):
            steps.append(ForTexts(_filter(rule, others), rule, others, paths.dropped(_dropped(rule, others))))
    if config.decontaminate:
        steps.append(Decontaminate(config.decontaminate, config.gram, paths.dropped("contaminated")))
    return steps


def _dropped(rule: Rule, others: bool) -> str:
    return f"{rule}_other_languages" if others else rule


def _without_near(paths: Paths, folder: str, near: NearConfig, executor: ExecutorConfig) -> PipelineStep:
    """MinHash's first three steps; returns the fourth, which leaves out what they found."""
    root, minhash = paths.root, MinhashConfig(near.words, near.buckets, near.rows, near.seed)
    signatures, buckets, found = (str(root / "near" / name) for name in ("signatures", "buckets", "found"))
    sign = [ReadParts(root / folder), SignWords(signatures, minhash)]
    _execute(root, "near_signatures", sign, executor)
    pair = MinhashDedupBuckets(signatures, buckets, config=minhash)
    _execute(root, "near_buckets", [pair], executor, tasks=near.buckets)
    cluster = MinhashDedupCluster(buckets, found, minhash)
    _execute(root, "near_clusters", [cluster], executor, tasks=1)
    return MinhashDedupFilter(found, paths.dropped("near"))


def _without_lines(
    paths: Paths, before: Sequence[PipelineStep], executor: ExecutorConfig
) -> list[PipelineStep]:
    """Do the steps ``before``, and find the lines that stand elsewhere in what is left; returns the steps
    that read it again without these lines."""
    root, lines = paths.root, SentDedupConfig(split_sentences=False, min_doc_words=0, min_num_sentences=0)
    signatures, found = str(root / "line/signatures"), str(root / "line/found")
    steps = [*before, _writer(root / "apart"), SignLines(signatures, config=lines)]
    _execute(root, "apart", steps, executor)
    _execute(root, "line", [SentenceFindDedups(signatures, found, config=lines)], executor, tasks=1)
    return [ReadParts(root / "apart"), DropLines(found, lines, paths.dropped("lines"))]


def _execute(
    root: Path, name: str, steps: Sequence[PipelineStep], config: ExecutorConfig, tasks: int | None = None
) -> None:
    """Run one pipeline to its end; tasks that are finished are not repeated. Raises what a step raises."""
    count, logs = tasks or config.tasks, str(root / "logs" / name)
    workers = min(config.workers, count)
    if config.kind == "local":
        LocalPipelineExecutor(list(steps), count, workers, logs).run()
        return
    if config.kind == "ray":
        from datatrove.executor import RayPipelineExecutor

        RayPipelineExecutor(
            list(steps), tasks=count, workers=workers, logging_dir=logs, **config.options
        ).run()
        return
    from datatrove.executor import SlurmPipelineExecutor

    job = SlurmPipelineExecutor(
        list(steps),
        tasks=count,
        workers=workers,
        logging_dir=logs,
        job_name=f"r1kit_{name}",
        **config.options,
    )
    job.run()
    while job.get_incomplete_ranks(skip_completed=True):  # submitted, not awaited, by datatrove
        time.sleep(20)


class ReadSources(PipelineStep):
    """The usable rows of sources as documents; bad rows go to ``quarantine``, counts by source to
    ``counts``."""

    type = "reader"
    name = "r1kit sources"

    def __init__(self, sources: Mapping[str, SourceConfig], counts: Path, quarantine: Path) -> None:
        super().__init__()
        self.sources, self.counts, self.quarantine = sources, counts, quarantine

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        yield from data or ()
        read: dict[str, dict[str, int]] = {}
        bad: list[BadRow] = []
        for name, config in self.sources.items():
            counts = read.setdefault(name, {"documents": 0, "characters": 0, "bad": 0})
            for record in Source(name, config).records(shard=rank, shards=world_size, note=bad.append):
                document = _document(record)
                if fault := _unstorable(record):
                    if config.bad_rows == "error":
                        raise R1kitError(f"{record.where}: {fault}")
                    bad.append(BadRow(name, record.where, fault, record.text[:200]))
                    continue
                counts["documents"] += 1
                counts["characters"] += len(document.text)
                self.stat_update("documents")
                yield document
            counts["bad"] = sum(one.source == name for one in bad)
        self.counts.mkdir(parents=True, exist_ok=True)
        (self.counts / f"{rank:05d}.json").write_text(json.dumps(read))
        self.quarantine.mkdir(parents=True, exist_ok=True)
        with (self.quarantine / f"{rank:05d}.jsonl").open("wb") as file:
            for one in bad:
                file.write(orjson.dumps(one.as_json(), option=orjson.OPT_APPEND_NEWLINE))


def _document(record: Record) -> Document:
    columns = {} if record.kind == "text" else {"columns": dict(record.columns)}
    return Document(
        record.text, record.where, metadata={"source": record.source, "kind": record.kind, **columns}
    )


def _unstorable(record: Record) -> str | None:
    """Why a row cannot be written as JSON between the steps; None where it can."""
    try:
        orjson.dumps(record.columns)
        return None
    except TypeError as error:  # such as an integer of more than 64 bits
        return f"the row cannot be written as JSON ({error}); write the value as a text, or remove the row"


def _is_text(document: Document) -> bool:
    return bool(document.metadata["kind"] == "text")


def _whole_text(document: Document) -> str:
    return str(document.text)


class ReadParts(PipelineStep):
    """The documents that the task of the same number wrote in an earlier step."""

    type = "reader"
    name = "r1kit parts"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        yield from data or ()
        path = self.folder / f"{rank:05d}.jsonl"
        if not path.exists():
            return  # the task kept nothing
        with path.open("rb") as file:
            for line in file:
                row = orjson.loads(line)
                yield Document(row["text"], row["id"], metadata=row["metadata"])


def _writer(folder: Path) -> JsonlWriter:
    return JsonlWriter(str(folder), "${rank}.jsonl", compression=None)


def _rows_writer(folder: Path) -> JsonlWriter:
    """Writes the rows that are kept, by source, in the columns of their kind."""
    return JsonlWriter(str(folder), "${source}/${rank}.jsonl", compression=None, adapter=_as_row)


def _as_row(writer: JsonlWriter, document: Document) -> dict[str, Any]:
    more = {"id": document.id, "language": document.metadata.get("language")}
    columns = document.metadata.get("columns")
    return {**(columns if columns is not None else {"text": document.text}), **more}


class Repair(PipelineStep):
    """Repairs the encoding of texts and masks personal data in them, also in a row's columns. Problems and
    programs are not masked: a number in them may be the answer, and their tests stay as they are."""

    type = "formatter"
    name = "r1kit repair"

    def __init__(self, unicode: bool, mask: bool) -> None:
        super().__init__()
        self.repairs: list[Callable[[str], str]] = [FTFYFormatter().format] if unicode else []
        hide = PIIFormatter(email_replacement=EMAIL, ip_replacement=IPV4)
        self.masks: list[Callable[[str], str]] = [hide.format, mask_numbers] if mask else []

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for document in data:
            before = document.text
            changes = self.repairs if document.metadata["kind"] in CHECKED else self.repairs + self.masks
            if _is_text(document):
                document.text = _changed(before, changes)
            else:
                columns = {
                    name: _changed(value, changes) if name in SAID else value
                    for name, value in document.metadata["columns"].items()
                }
                document.metadata["columns"], document.text = columns, document_of(columns)
            self.stat_update("changed" if document.text != before else "unchanged")
            yield document


def _changed(value: Any, changes: Sequence[Callable[[str], str]]) -> Any:
    """A value with all its texts changed, those of roles left as they are."""
    if isinstance(value, str):
        for change in changes:
            value = change(value)
        return value
    if isinstance(value, list | tuple):
        return [_changed(inner, changes) for inner in value]
    if isinstance(value, dict):
        return {
            name: inner if name in ("role", "from") else _changed(inner, changes)
            for name, inner in value.items()
        }
    return value


class Languages(BaseFilter):
    """Notes each document's language, and drops those of others than ``kept``, or of which it is not
    certain."""

    name = "r1kit languages"

    def __init__(self, kept: Sequence[str], confidence: float, dropped: JsonlWriter) -> None:
        super().__init__(dropped)
        self.kept, self.confidence = frozenset(kept), confidence

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        language, confidence = identify(doc.text)
        doc.metadata["language"] = language
        if not self.kept:
            return True
        if language not in self.kept:
            return False, f"language_{language}"
        return True if confidence >= self.confidence else (False, "language_uncertain")


class ForTexts(BaseFilter):
    """A rule of quality for texts of its languages: Chinese, or all but Chinese (with ``others``: all but
    Chinese and English; for Gopher, whose stop words are English)."""

    def __init__(self, inner: BaseFilter, rule: Rule, others: bool, dropped: JsonlWriter) -> None:
        super().__init__(dropped)
        self.inner, self.rule, self.others = inner, rule, others
        self.name = f"r1kit {rule}"

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        language = doc.metadata.get("language")
        english_only = self.rule == "gopher" and not self.others
        concerned = (
            (language == "zh") == (self.rule == "chinese")
            and (not english_only or language == "en")
            and (not self.others or language != "en")
        )
        found: bool | tuple[bool, str] = self.inner.filter(doc) if concerned and _is_text(doc) else True
        return found


def _filter(rule: Rule, others: bool) -> BaseFilter:
    if rule == "gopher":
        return GopherQualityFilter(min_stop_words=0 if others else 2)
    if rule == "repetition":
        return GopherRepetitionFilter()
    if rule == "fineweb":
        return FineWebQualityFilter()
    if rule == "c4":  # FineWeb uses C4's rules without that of the last sign of a line
        return C4QualityFilter(filter_no_terminal_punct=False)
    return Chinese()


class Chinese(BaseFilter):
    """Rules for Chinese texts (r1kit.data.text_rules)."""

    name = "r1kit Chinese"

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        fault = chinese_fault(doc.text)
        return True if fault is None else (False, fault)


class Decontaminate(BaseFilter):
    """Drops documents that have words in a row in common with evaluation files."""

    name = "r1kit decontamination"

    def __init__(self, files: Sequence[str], gram: int, dropped: JsonlWriter) -> None:
        super().__init__(dropped)
        self.files, self.gram = list(files), gram
        self._found: Contamination | None = None  # made in the task's process

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        if self._found is None:
            self._found = Contamination(evaluations_of(self.files), self.gram)
        leak = self._found.find(doc.text)
        if leak is None:
            return True
        doc.metadata["leak"] = {"where": leak.where, "run": leak.run}
        return False, f"contaminated_{leak.where.rpartition(':')[0]}"


class SignLines(SentenceDedupSignature):
    """Signs three lines in a row, of texts only."""

    def get_hashes(self, doc: Document, doc_idx: int) -> list[Any]:
        if not _is_text(doc) or doc.text.count("\n") > MOST_LINES:
            return []
        found: list[Any] = super().get_hashes(doc, doc_idx)
        return found


class DropLines(SentenceDedupFilter):
    """Leaves out lines that were found elsewhere, and notes whether a document is left."""

    def remove_dup_sentences(self, doc: Document, du_lines: np.ndarray) -> tuple[str, str]:
        kept, marked = super().remove_dup_sentences(doc, du_lines)
        doc.metadata["filter_reason"] = "lines_removed" if kept else "lines"
        return kept, marked


class SignWords(MinhashDedupSignature):
    """MinHash signatures over runs of words as r1kit.tasks.overlap cuts them: without case, width and
    punctuation, each Chinese character a word. A text of fewer words is one run."""

    def get_shingles(self, text: str) -> np.ndarray:
        """The hash of each run [N, 1] uint64."""
        found = words(text)
        if not found:
            return np.zeros((0, 1), dtype=np.uint64)
        hashes = np.fromiter(map(xxhash.xxh64_intdigest, found), dtype=np.uint64, count=len(found))
        size = min(self.config.n_grams, len(hashes))
        count = len(hashes) - size + 1
        mixed = np.zeros(count, dtype=np.uint64)
        with np.errstate(over="ignore"):
            for place in range(size):
                mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + hashes[place : place + count]
            mixed ^= mixed >> np.uint64(31)
        return np.unique(mixed).reshape((-1, 1))

    def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
        """The least hashes of each bucket, of so many runs at a time that a long document needs no more
        memory than a short one."""
        parts = [
            np.asarray(super(SignWords, self).get_signature(shingles[start : start + RUNS]))
            for start in range(0, len(shingles), RUNS)
        ]
        least: list[list[int]] = np.min(parts, axis=0).tolist()
        return least


def report_of(
    root: Path, sources: Sequence[str], kept: Path | None = None, examples: int = 3
) -> tuple[dict[str, Kept], dict[str, Any]]:
    """(what was made of each source, by reason the count and some ``examples`` of what was dropped), from the
    folders of a finished curation; ``kept``: where its result has been moved to."""
    counts = {name: dict(Kept().model_dump(), dropped={}) for name in sources}
    for file in sorted((root / "counts").glob("*.json")):
        for name, read in json.loads(file.read_text()).items():
            counts[name]["read"] += read["documents"]
            counts[name]["read_characters"] += read["characters"]
            counts[name]["bad"] += read["bad"]
    reasons: dict[str, Any] = {}
    for path in sorted((root / "dropped").glob("*/*.jsonl")):
        for row in _rows(path):
            name, step = row["metadata"]["source"], path.parent.name
            own = row["metadata"].get("filter_reason") if step not in ("exact", "near") else None
            reason = str(own or step)
            counts[name]["dropped"][reason] = counts[name]["dropped"].get(reason, 0) + 1
            found = reasons.setdefault(reason, {"count": 0, "examples": []})
            found["count"] += 1
            if len(found["examples"]) < examples:
                leak = row["metadata"].get("leak")
                example = {"where": row["id"], "text": row["text"][:160], **({"leak": leak} if leak else {})}
                found["examples"].append(example)
    for name in sources:
        for path in sorted(((kept or root / "kept") / name).glob("*.jsonl")):
            for row in _rows(path):
                counts[name]["kept"] += 1
                counts[name]["kept_characters"] += len(document_of(row))
    return {name: Kept.model_validate(found) for name, found in counts.items()}, reasons


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            yield orjson.loads(line)
