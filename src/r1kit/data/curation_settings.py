"""What a curation is to do, and what it has done: settings and counts, without the packages that do it."""

from collections.abc import Mapping
from typing import Any, Literal

from r1kit.config import Config, R1kitError

Rule = Literal["gopher", "repetition", "c4", "fineweb", "chinese"]


class NearConfig(Config):
    """Near duplicates by MinHash: shingles of ``words`` words, ``buckets`` x ``rows`` hashes.

    Two documents of similarity s are found with probability 1 - (1 - s^rows)^buckets: .988 at s = .8, .33 at
    .6, .004 at one third, with the defaults. FineWeb has 14 x 8 (.924, .21, .002)."""

    words: int = 5
    buckets: int = 24
    rows: int = 8
    seed: int = 1  # of the hash functions


class ExecutorConfig(Config):
    """Where the steps run: ``tasks`` shares of the sources, ``workers`` at a time. ``options`` are those of
    datatrove's executor for Slurm (partition, time, ...) or Ray."""

    kind: Literal["local", "slurm", "ray"] = "local"  # this machine, or datatrove's executor for a cluster
    tasks: int = 1
    workers: int = 1
    options: dict[str, Any] = {}


class CurationConfig(Config):
    """What is done with the sources' documents.

    ``unicode``: repair (ftfy). ``mask``: e-mail and IP addresses, telephone numbers. ``languages``: the ones
    that are kept, all where it is empty, with at least the ``confidence``. ``rules`` of quality, for texts.
    ``exact``, ``lines`` and ``near``: duplicates of whole documents, of three lines in a row, and near ones.
    ``decontaminate``: evaluation files of which no ``gram`` words in a row may occur."""

    unicode: bool = True
    mask: bool = True
    languages: list[str] = []
    confidence: float = 0.5
    rules: list[Rule] = ["gopher", "repetition", "fineweb", "chinese"]
    exact: bool = True
    lines: bool = True
    near: NearConfig | None = NearConfig()
    decontaminate: list[str] = []
    gram: int = 10
    executor: ExecutorConfig = ExecutorConfig()  # where and in how many parts it runs


class Kept(Config):
    """What was made of a source: documents and characters read and kept, bad rows, and what was dropped, by
    reason."""

    read: int = 0
    read_characters: int = 0
    bad: int = 0
    kept: int = 0
    kept_characters: int = 0
    dropped: dict[str, int] = {}


def check_counts(counts: Mapping[str, Kept]) -> None:
    """Raises R1kitError where a source's documents are neither kept nor dropped for a reason."""
    for name, found in counts.items():
        dropped = sum(count for reason, count in found.dropped.items() if reason != "lines_removed")
        if found.read != found.kept + dropped:
            raise R1kitError(
                f"{name}: {found.read} documents were read, {found.kept} kept and {dropped} dropped; run the "
                "stage again with --from"
            )
