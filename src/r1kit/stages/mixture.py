"""The mixture of fine-tuning data: rows of five domains in the paper's composition (DeepSeek-R1, Nature
version, supplement B.3.3, table 5: 804,745 rows; data/composition.py), at any size.

Reasoning rows come from rejection_sampling stages or files, general ones (writing, role play, factual
questions, self-cognition, translation) from files with written answers. As in the paper a model writes a
thinking for general prompts, and none for trivial ones. Every row passes the filters of
data/thought_filters.py first; what each drops is counted."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from r1kit.chat import Prompt
from r1kit.config import InputError, R1kitError
from r1kit.data.composition import (
    PAPER,
    PAPER_ROWS,
    apportion,
    in_words,
    largest_total,
    missing,
    shared_evenly,
)
from r1kit.data.sources import BadRows, read_pairs, write_jsonl
from r1kit.data.thought_filters import NO_THINKING, ThoughtFilters, language_of, thinking_of
from r1kit.files import hash_text
from r1kit.jsonl import first_error, read_usable
from r1kit.log import prompt_text
from r1kit.seeds import derive_seed
from r1kit.stages.results import report
from r1kit.stages.stage import Context, Stage, StagePlan
from r1kit.stages.written import WriterConfig, write
from r1kit.tasks.overlap import words

GENERAL = "general"
THINK = (
    "Below is a request and the answer that was given to it. Write the thoughts that lead to this answer, "
    "before it is written. Begin with what the person needs. First person, short paragraphs, no headings, no "
    "lists, no Markdown, in the language of the request. Do not repeat the answer. Reply with the thoughts "
    "and nothing else.\n\nRequest:\n{prompt}\n\nAnswer:\n{answer}"
)


class ThoughtWriter(WriterConfig):
    """The model that writes the thinking of general rows. Prompts of at most ``trivial_words`` words are
    trivial and get none."""

    trivial_words: int = Field(5, ge=0)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that may be taken: its domain, the name of its source within it, its prompt and completion."""

    domain: str
    source: str
    prompt: Prompt
    completion: str
    language: str


class ComposeMixture(Stage):
    """Write ``rows`` rows to data.jsonl, each domain's share by ``composition``. ``sources``: a domain's
    files, a list, or a mapping of names to files whose rows are taken in equal parts. A row is a prompt with
    a completion, response or messages; ``thinking`` is put in front.

    ``missing``: where a domain has too few rows, ``error`` stops, and ``shrink`` makes the whole mixture
    smaller, in the same composition. ``thoughtless``: domains whose rows may have no thinking."""

    writes: ClassVar[tuple[str, ...]] = ("data.jsonl", "report.json")

    stage: Literal["mixture"] = "mixture"
    rows: int = Field(PAPER_ROWS, ge=1)
    composition: dict[str, float] = Field(default_factory=lambda: {k: float(v) for k, v in PAPER.items()})
    sources: dict[str, list[str] | dict[str, str]] = Field(min_length=1)
    missing: Literal["error", "shrink"] = "error"
    filters: ThoughtFilters = ThoughtFilters()  # what a row has to pass
    thoughtless: list[str] = [GENERAL]
    thoughts: ThoughtWriter | None = None  # the model that writes the thinking of general rows
    bad_rows: BadRows = "error"  # or quarantine: leave out rows that cannot be read

    @model_validator(mode="after")
    def _domains_have_sources(self) -> Self:
        wanted = {name for name, weight in self.composition.items() if weight > 0}
        if without := sorted(wanted - set(self.sources)):
            raise ValueError(
                f"composition: {', '.join(without)} ha{'s' if len(without) == 1 else 've'} no sources; name "
                "files for each, or set its weight to 0"
            )
        if unknown := sorted(set(self.sources) - set(self.composition)):
            raise ValueError(
                f"sources: {', '.join(unknown)} is no domain of the composition; give it a weight"
            )
        apportion(self.rows, self.composition)
        return self

    def files(self) -> Iterator[tuple[tuple[str | int, ...], str, str]]:
        """(key path, domain, file) of each source."""
        for domain, own in self.sources.items():
            named = own.items() if isinstance(own, dict) else enumerate(own)
            yield from ((("sources", domain, key), domain, file) for key, file in named)

    def input_errors(self) -> Iterator[InputError]:
        for path, _, file in self.files():
            if not file.startswith("@"):
                error = first_error(Path(file).expanduser(), _read, self.bad_rows)
                if error is not None:
                    yield path, error

    def shortage(self, counted: Mapping[str, float | None]) -> str:
        """What is missing where each source file has at most ``counted`` rows (None: not known); empty where
        enough may be there. Filters may drop more."""
        needed = apportion(self.rows, self.composition)
        most: dict[str, float] = dict.fromkeys(needed, 0.0)
        for _, domain, file in self.files():
            found = counted.get(file)
            most[domain] += float("inf") if found is None else found
        there = {name: needed[name] if count >= needed[name] else int(count) for name, count in most.items()}
        lacking = missing(needed, there)
        if not lacking or self.missing == "shrink":
            return ""
        return (
            f"{self.rows:,} rows need more than the sources can have ({in_words(needed, there)}): "
            + ", ".join(f"{name} lacks {count:,}" for name, count in lacking.items())
            + ". Sample or bring more, lower rows, or set missing: shrink"
        )

    def plan(self) -> StagePlan:
        return StagePlan(rows=float(self.rows))

    def run(self, ctx: Context) -> None:
        dropped: dict[str, Counter[str]] = {name: Counter() for name in self.sources}
        candidates, read = self._candidates(ctx, dropped)
        there = Counter(one.domain for one in candidates)
        needed = apportion(self.rows, self.composition)
        ctx.log.info(f"rows that pass the filters, of those needed: {in_words(needed, there)}")
        for domain, reasons in dropped.items():
            said = ", ".join(f"{count} {why}" for why, count in reasons.most_common()) or "none"
            ctx.log.info(f"{domain}: {there[domain]} of {read[domain]} rows pass; dropped: {said}")
        needed = self._possible(ctx, needed, there)
        chosen = [
            row
            for domain, count in needed.items()
            for row in self._chosen(candidates, domain, count, ctx.seed)
        ]
        chosen, written = self._with_thoughts(ctx, chosen)
        random.Random(f"mixture/{ctx.seed}").shuffle(chosen)
        write_jsonl(
            ctx.out / "data.jsonl",
            [
                {
                    "prompt": one.prompt,
                    "completion": one.completion,
                    "domain": one.domain,
                    "source": one.source,
                }
                for one in chosen
            ],
        )
        counts = Counter(one.domain for one in chosen)
        ctx.log.info(f"{len(chosen):,} rows: " + ", ".join(f"{name} {counts[name]:,}" for name in needed))
        report(
            ctx, rows=len(chosen), domains=dict(counts), there=dict(there), read=dict(read), thoughts=written,
            sources={f"{d}/{s}": n for (d, s), n in Counter((o.domain, o.source) for o in chosen).items()},
            dropped={name: dict(reasons) for name, reasons in dropped.items()},
        )  # fmt: skip

    def _candidates(
        self, ctx: Context, dropped: dict[str, Counter[str]]
    ) -> tuple[list[Candidate], Counter[str]]:
        """All rows that pass the filters, each text once, and how many were read by domain."""
        read: Counter[str] = Counter()
        seen: set[str] = set()
        kept: list[Candidate] = []
        for path, domain, file in self.files():
            for prompt, completion, language in read_usable(ctx.path(file), _read, self.bad_rows):
                read[domain] += 1
                source = str(path[2]) if isinstance(path[2], str) else domain
                one = Candidate(domain, source, prompt, completion, language)
                why = self._why_not(one, seen)
                if why:
                    dropped[domain][why] += 1
                else:
                    kept.append(one)
        return kept, read

    def _why_not(self, one: Candidate, seen: set[str]) -> str | None:
        mark = hash_text(f"{one.prompt}\n{one.completion}")
        if mark in seen:
            return "the same row twice"
        seen.add(mark)
        thinking = thinking_of(one.completion)
        if thinking is None:
            return None if one.domain in self.thoughtless else NO_THINKING
        return self.filters.why_not(thinking, one.language)

    def _possible(self, ctx: Context, needed: dict[str, int], there: Mapping[str, int]) -> dict[str, int]:
        """The counts that can be had. Raises R1kitError where a domain has too few rows and nothing may
        shrink."""
        lacking = missing(needed, there)
        if not lacking:
            return needed
        total = largest_total(self.rows, self.composition, there)
        said = ", ".join(f"{name} lacks {count:,}" for name, count in lacking.items())
        if self.missing == "error" or not total:
            raise R1kitError(
                f"too few rows for {self.rows:,} in this composition: {said}. What is there is enough for "
                f"{total:,}: bring more, lower rows, or set missing: shrink"
            )
        ctx.log.info(f"too few rows for {self.rows:,}: {said}; the mixture has {total:,} instead")
        return apportion(total, self.composition)

    def _chosen(self, candidates: Sequence[Candidate], domain: str, count: int, seed: int) -> list[Candidate]:
        """``count`` rows of a domain, in equal parts of its named sources as far as they have them."""
        own: dict[str, list[Candidate]] = {}
        for one in candidates:
            if one.domain == domain:
                own.setdefault(one.source, []).append(one)
        parts = shared_evenly(count, {source: len(rows) for source, rows in own.items()})
        return [
            row
            for source, rows in own.items()
            for row in random.Random(f"mixture/{seed}/{domain}/{source}").sample(rows, parts[source])
        ]

    def _with_thoughts(
        self, ctx: Context, chosen: Sequence[Candidate]
    ) -> tuple[list[Candidate], dict[str, int]]:
        """The rows, the general ones with the thinking that a model wrote for them, and how many got one.
        What the filters do not accept of it is left out, and the row stays without."""
        rows = list(chosen)
        bare = [place for place, one in enumerate(rows) if thinking_of(one.completion) is None]
        counts: Counter[str] = Counter({"without": len(bare)})
        if self.thoughts is None:
            return rows, dict(counts)
        asked = [place for place in bare if not self._is_trivial(rows[place].prompt, self.thoughts)]
        counts["trivial"] = len(bare) - len(asked)
        requests = [
            (f"{place}/{hash_text(str(rows[place].prompt))[:16]}", _request(rows[place])) for place in asked
        ]
        replies = write(ctx, "thoughts", self.thoughts, requests, derive_seed(ctx.seed, "thoughts"))
        for place, reply in zip(asked, replies, strict=True):
            one = rows[place]
            thinking = reply.strip()
            fit = bool(thinking) and "<think" not in thinking and "</think" not in thinking
            if fit and self.filters.why_not(thinking, one.language) is None:
                rows[place] = replace(one, completion=f"<think>{thinking}</think>{_answer(one.completion)}")
                counts["written"] += 1
            else:
                counts["not usable"] += 1
        said = ", ".join(f"{count} {name}" for name, count in counts.items())
        ctx.log.info(f"thinking of rows that have none: {said}")
        return rows, dict(counts)

    def _is_trivial(self, prompt: Prompt, writer: ThoughtWriter) -> bool:
        return isinstance(prompt, str) and len(words(prompt)) <= writer.trivial_words


def _request(one: Candidate) -> str:
    parts = {"{prompt}": prompt_text(one.prompt), "{answer}": _answer(one.completion)}
    head, _, rest = THINK.partition("{prompt}")
    middle, _, end = rest.partition("{answer}")
    return f"{head}{parts['{prompt}']}{middle}{parts['{answer}']}{end}"


def _answer(completion: str) -> str:
    return completion.rpartition("</think>")[2]


def _read(path: Path, number: int, row: dict[str, Any]) -> tuple[Prompt, str, str]:
    """(prompt, completion, language) of a row; a column ``thinking`` is put in front, and a response without
    any thinking gets the empty one that trained models write."""
    prompt, completion = read_pairs(path, number, row)[-1]
    thinking = row.get("thinking")
    if thinking is not None and not isinstance(thinking, str):
        raise R1kitError(f"{path}:{number}: column 'thinking' is to be a text, not {type(thinking).__name__}")
    if "</think>" not in completion:
        completion = f"<think>{thinking or ''}</think>{completion}"
    language = row.get("language")
    known = language if isinstance(language, str) and language else language_of(prompt_text(prompt))
    return prompt, completion, known
