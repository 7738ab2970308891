"""Curation: from raw files to documents that are worth training on.

DeepSeek-V3 (section 4.1) names deduplication, filtering and a multilingual corpus without further details; R1
(Nature version, supplement D.1) adds decontamination by runs of ten words. The rules are those of Gopher (Rae
et al. 2021), C4 (Raffel et al. 2020) and FineWeb (Penedo et al. 2024), near duplicates are found by MinHash
(Broder 1997). datatrove executes them (r1kit.data.curation_pipeline); every document that is dropped is
counted by its reason, with examples in the report."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from r1kit.config import InputError
from r1kit.data.corpora import Source, SourceConfig, source_errors
from r1kit.data.curation_settings import CurationConfig, Kept, check_counts
from r1kit.files import hash_text, remove_tree, replacing, write_whole
from r1kit.log import Log
from r1kit.stages.results import report
from r1kit.stages.stage import Context, Stage

WORK = "steps"  # the folder of unfinished work


class Curate(Stage):
    """Curate ``sources`` as ``curation`` says, and write what is kept to ``data/<source>/``, rows that cannot
    be read to ``quarantine.jsonl``. ``keep_steps``: keep the documents between the steps, and the dropped
    ones."""

    writes: ClassVar[tuple[str, ...]] = ("data", "quarantine.jsonl", "report.json", WORK)

    stage: Literal["curate"] = "curate"
    sources: dict[str, SourceConfig] = Field(min_length=1)
    curation: CurationConfig = CurationConfig()
    keep_steps: bool = False

    def input_errors(self) -> Iterator[InputError]:
        for (name, *rest), error in source_errors(self.sources):
            yield ("sources", name, *rest), error
        for place, file in enumerate(self.curation.decontaminate):
            for _, error in source_errors({"decontaminate": SourceConfig(path=file)}):
                yield ("curation", "decontaminate", place), error

    def run(self, ctx: Context) -> None:
        os.environ.setdefault("TQDM_DISABLE", "1")  # datatrove's bars, in processes of its own too
        # Imported here, because datatrove is an extra and takes seconds to import.
        from r1kit.data.curation_pipeline import curate, report_of

        sources = {name: resolved_source(ctx, config) for name, config in self.sources.items()}
        config = self.curation.model_copy(
            update={"decontaminate": [str(ctx.path(file)) for file in self.curation.decontaminate]}
        )
        for name, source in sources.items():
            ctx.log.info(Source(name, source).describe())
        work, data = ctx.out / WORK, ctx.out / "data"
        clear_other(ctx.log, (work, data), mark_of(sources, config))
        if not data.is_dir():  # else it was interrupted after its last step
            curate(work, sources, config)
        counts, reasons = report_of(work, list(sources), data if data.is_dir() else None)
        check_counts(counts)
        log_counts(ctx.log, counts, reasons)
        bad = sorted((work / "quarantine").glob("*.jsonl"))
        with replacing(ctx.out / "quarantine.jsonl") as file:
            for path in bad:
                file.write(path.read_bytes())
        if not data.is_dir():
            (work / "kept").rename(data)
        report(ctx, **facts_of(counts), reasons=reasons)
        if not self.keep_steps:
            remove_tree(work)


def mark_of(sources: Mapping[str, SourceConfig], config: CurationConfig) -> str:
    """A hash of all that the result depends on: of files, size and time."""
    evaluations = [SourceConfig(path=file) for file in config.decontaminate]
    stamps = [Source("", source).stamps() for source in (*sources.values(), *evaluations)]
    read = {name: source.model_dump() for name, source in sources.items()}
    done = config.model_dump(exclude={"executor": {"kind", "workers", "options"}})
    return hash_text(json.dumps([read, done, stamps], sort_keys=True))


def clear_other(log: Log, folders: Sequence[Path], mark: str) -> None:
    """Remove what an interrupted curation of other sources or settings has left, and write the mark of this
    one into the first folder."""
    file = folders[0] / "made_of"
    if any(folder.is_dir() for folder in folders) and (not file.is_file() or file.read_text() != mark):
        log.info("warning: sources or settings have changed since the interruption; curated again")
        for folder in folders:
            remove_tree(folder)
    folders[0].mkdir(exist_ok=True)
    write_whole(file, mark)


def resolved_source(ctx: Context, config: SourceConfig) -> SourceConfig:
    """The source with the paths of other stages' files in the place of their references."""
    paths = [config.path] if isinstance(config.path, str) else config.path
    found = [str(ctx.path(path)) if path.startswith("@") else path for path in paths]
    return config.model_copy(update={"path": found[0] if isinstance(config.path, str) else found})


def facts_of(counts: Mapping[str, Kept]) -> dict[str, Any]:
    """The report's figures: sums, and each source's counts."""
    return {
        "read": sum(found.read for found in counts.values()),
        "kept": sum(found.kept for found in counts.values()),
        "bad": sum(found.bad for found in counts.values()),
        "sources": {name: found.model_dump() for name, found in counts.items()},
    }


def log_counts(log: Log, counts: Mapping[str, Kept], reasons: Mapping[str, Any]) -> None:
    """A line for each source, and one for each reason with its first example."""
    for name, found in counts.items():
        log.info(
            f"{name}: {found.kept} of {found.read} documents kept "
            f"({found.kept_characters / 1e6:.1f} of {found.read_characters / 1e6:.1f} million characters), "
            f"{found.bad} bad rows in quarantine.jsonl"
        )
    for reason, found in sorted(reasons.items(), key=lambda item: -item[1]["count"]):
        example = found["examples"][0]
        log.info(f"  {reason}: {found['count']}, such as {example['where']}: {example['text'][:60]!r}")
