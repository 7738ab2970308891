"""A model on benchmarks: k samples of each problem by the paper's protocol, judged, and kept problem by
problem, so that a measurement that was stopped continues.

A benchmark's file of results begins with the protocol and the model. A file of another protocol or model is
refused, never continued. A line that was cut off by the stop is measured again; samples are a function of
their seeds, so nothing changes by a stop."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from r1kit.chat import Chat, parse, turns_of
from r1kit.config import ConfigError, R1kitError
from r1kit.endpoints import DEFAULT_KEY, ask
from r1kit.engine import Engine
from r1kit.figures.benchmarks import (
    BenchmarkResult,
    Contamination,
    ProblemResult,
    Sample,
    Setting,
    as_row,
    summarise,
)
from r1kit.figures.json_file import write
from r1kit.files import hash_text, make_folder
from r1kit.language import language_share
from r1kit.rewards.benchmark_judges import (
    Judge,
    controlled_win_rate,
    judge_against_baseline,
    judge_by_reference,
)
from r1kit.seeds import derive_seed
from r1kit.stages.sampling import sample
from r1kit.tasks.benchmarks import PAPER_TEMPERATURE, PAPER_TOKENS, PAPER_TOP_P, Card
from r1kit.tasks.benchmarks.checks import Judged, judge_answers, vote_classes
from r1kit.tasks.benchmarks.rows import Read, read_benchmark
from r1kit.tasks.overlap import without_contaminated
from r1kit.types import Finish, Problem, Sampling

COMPLETIONS = 256  # that are sampled between two lines on the disk, in whole problems
NEEDS_JUDGE = ("judged", "pairwise")
_LINE = TypeAdapter(ProblemResult)


@dataclass(frozen=True, slots=True)
class Written:
    """A completion as text: ``followed``: it has the exact format; ``length`` in the responder's unit."""

    text: str
    finish: Finish
    length: int
    followed: bool


class Responder(Protocol):
    """A model that is measured. ``identity`` changes with its weights, ``style`` says how it is prompted."""

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str: ...

    @property
    def style(self) -> str: ...

    @property
    def unit(self) -> str: ...

    def longest(self, problems: Sequence[Problem]) -> int:
        """The most tokens that a completion of each of these problems may have."""
        ...

    def respond(self, problems: Sequence[Problem], sampling: Sampling) -> list[list[Written]]:
        """``sampling.n`` completions of each problem, a function of its id and ``sampling.seed``."""
        ...


@dataclass(frozen=True, slots=True)
class EngineResponder:
    """A model folder, sampled by an engine; ``positions`` is the longest text that it reads."""

    name: str
    identity: str
    style: str
    engine: Engine
    chat: Chat
    positions: int
    unit: str = "tokens"

    def longest(self, problems: Sequence[Problem]) -> int:
        return self.positions - max(len(self.chat.prompt_ids(problem)) for problem in problems)

    def respond(self, problems: Sequence[Problem], sampling: Sampling) -> list[list[Written]]:
        groups = sample(self.engine, self.chat, problems, sampling, sampling.seed)
        return [
            [
                Written(r.text, r.completion.finish, len(r.completion.token_ids), r.answer is not None)
                for r in group
            ]
            for group in groups
        ]


@dataclass(frozen=True, slots=True)
class EndpointResponder:
    """A model behind an OpenAI-compatible endpoint (".../v1"), asked with chat messages. Lengths are in
    words, because its tokens are not known here."""

    name: str
    url: str
    model: str
    key_variable: str = DEFAULT_KEY
    seconds: float = 600.0
    parallel: int = 8
    style: str = "the server's own template"
    unit: str = "words"

    @property
    def identity(self) -> str:
        return hash_text(f"{self.url} {self.model}")

    def longest(self, problems: Sequence[Problem]) -> int:
        return PAPER_TOKENS

    def respond(self, problems: Sequence[Problem], sampling: Sampling) -> list[list[Written]]:
        asked = [(problem, index) for problem in problems for index in range(sampling.n)]

        def one(question: tuple[Problem, int]) -> Written:
            problem, index = question
            body = {
                "model": self.model,
                "messages": [{"role": role, "content": text} for role, text in turns_of(problem)],
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_tokens,
                "seed": derive_seed(sampling.seed, problem.id, index) >> 32,
            }
            text, ended = ask(self.url, "chat/completions", body, self.key_variable, self.seconds)
            if "</think>" in text and "<think>" not in text:  # the template opened it
                text = f"<think>\n{text}"
            finish: Finish = "length" if ended == "length" else "stop"
            return Written(text, finish, len(text.split()), finish == "stop" and parse(text) is not None)

        with ThreadPoolExecutor(self.parallel) as threads:
            found = list(threads.map(one, asked))
        return [found[start : start + sampling.n] for start in range(0, len(found), sampling.n)]


@dataclass(frozen=True, slots=True)
class Measurement:
    """How benchmarks are measured. None is the task file's k, or the longest completion that fits, at most
    the paper's 32,768 tokens. ``data`` is the folder with local files."""

    data: Path | None = None
    k: int | None = None
    limit: int | None = None
    temperature: float = PAPER_TEMPERATURE
    top_p: float = PAPER_TOP_P
    max_tokens: int | None = None
    seed: int = 0
    judge: Judge | None = None
    trained_on: tuple[Path, ...] = ()
    code: str = ""


def measure_benchmark(
    card: Card,
    responder: Responder,
    how: Measurement,
    out: Path,
    texts: Callable[[], Iterable[str]] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> BenchmarkResult:
    """Measure one benchmark and write its files to the folder ``out``: CARD.jsonl, a line for each problem,
    and CARD.json. ``texts`` are those of the training data. Raises R1kitError naming what is missing."""
    if card.check in NEEDS_JUDGE and how.judge is None:
        raise ConfigError(
            f"{card.name} is judged by a model: name one, --judge http://HOST/v1 --judge-model NAME"
        )
    read = read_benchmark(card, how.data, how.limit)
    setting = _setting(card, responder, how, read)
    make_folder(out)
    file = out / f"{card.name}.jsonl"
    done = {result.id: result for result in _begin(file, setting, responder.identity)}
    left = [problem for problem in read.problems if problem.id not in done]
    sampling = Sampling(setting.k, setting.temperature, setting.top_p, setting.max_tokens, setting.seed)
    chunk = max(1, COMPLETIONS // setting.k)
    for start in range(0, len(left), chunk):
        problems = left[start : start + chunk]
        groups = responder.respond(problems, sampling)
        found = judge_groups(card, problems, groups, how.judge)
        _append(file, found)
        done |= {result.id: result for result in found}
        say(f"{card.name}: {len(done)} of {len(read.problems)} problems")
    results = [done[problem.id] for problem in read.problems]
    result = _result(card, responder, setting, results, how, read, texts)
    write(out / f"{card.name}.json", result)
    return result


def judge_groups(
    card: Card, problems: Sequence[Problem], groups: Sequence[Sequence[Written]], judge: Judge | None = None
) -> list[ProblemResult]:
    """The completions of each problem, judged: what a benchmark's file holds."""
    answers = [[answer_of(one) for one in group] for group in groups]
    flat = [problem for problem, group in zip(problems, groups, strict=True) for _ in group]
    said = [answer for own in answers for answer in own]
    scores = iter(_judge(card, flat, said, judge))
    return [
        ProblemResult(
            problem.id,
            str(problem.columns["question"]),
            str(problem.answer),
            problem.difficulty,
            str(problem.columns["category"]),
            str(problem.columns["cluster"]),
            _samples(problem, group, own, scores, vote_classes(card.check, own)),
        )
        for problem, group, own in zip(problems, groups, answers, strict=True)
    ]


def answer_of(written: Written) -> str | None:
    """The answer of a completion: what its exact format says, else all after its thinking, else all of a text
    that does not think. None where it was cut off, or never ended its thinking: the paper's format is not
    needed to be right, an end is."""
    if written.finish == "length":
        return None
    parsed = parse(written.text)
    if parsed is not None:
        return parsed[1]
    _, closed, rest = written.text.rpartition("</think>")
    if closed:
        return rest.strip() or None
    return None if "<think>" in written.text else written.text.strip() or None


def read_results(file: Path) -> tuple[Setting, list[ProblemResult]]:
    """Protocol and problems of a benchmark's file. Raises R1kitError naming file and line."""
    setting, _, results, _ = _read_file(file)
    return setting, results


def contamination(
    problems: Sequence[Problem], results: Sequence[ProblemResult], texts: Iterable[str], files: Sequence[str]
) -> Contamination:
    """Which problems of a benchmark the training ``texts`` hold, by the rule for decontamination: equal, or
    ten words in a row."""
    asked = [replace(problem, prompt=str(problem.columns["question"])) for problem in problems]
    clean = {problem.id for problem in without_contaminated(asked, texts)}
    kept = [result for result in results if result.id in clean and result.scores]
    found = len(problems) - len(clean)
    without = sum(sum(result.scores) / len(result.scores) for result in kept) / len(kept) if kept else None
    return Contamination(found, found / len(problems), tuple(files), without)


def _setting(card: Card, responder: Responder, how: Measurement, read: Read) -> Setting:
    longest = responder.longest(read.problems)
    tokens = min(PAPER_TOKENS, longest) if how.max_tokens is None else how.max_tokens
    if not 1 <= tokens <= longest:
        raise R1kitError(
            f"{card.name}: the longest prompt leaves {longest} tokens for a completion, and {tokens} are "
            "asked for: name fewer with --max-tokens, or take a model with a longer context"
        )
    return Setting(
        card.name, len(read.problems), how.k or card.k, how.temperature, how.top_p, tokens, how.seed,
        card.prompt, responder.style, card.metric,
        how.judge.name if how.judge is not None and card.check in NEEDS_JUDGE else "",
        read.source, card.digest(), read.data_hash, how.code, responder.unit,
    )  # fmt: skip


def _judge(
    card: Card, problems: Sequence[Problem], answers: Sequence[str | None], judge: Judge | None
) -> list[Judged]:
    if judge is not None and card.check == "judged":
        return judge_by_reference(judge, problems, answers)
    if judge is not None and card.check == "pairwise":
        return judge_against_baseline(judge, problems, answers)
    return judge_answers(card.check, problems, answers)


def _samples(
    problem: Problem, group: Sequence[Written], answers: Sequence[str | None], scores: Iterable[Judged],
    votes: Sequence[str | None],
) -> tuple[Sample, ...]:  # fmt: skip
    found = []
    for one, answer, vote, scored in zip(group, answers, votes, scores, strict=False):
        parsed = parse(one.text)
        share = language_share(parsed[0] if parsed else one.text, problem.language)
        found.append(
            Sample(
                scored.score, vote, one.finish, one.followed, share, one.length, len(answer or ""), one.text,
                scored.reason,
            )
        )  # fmt: skip
    return tuple(found)


def _result(
    card: Card, responder: Responder, setting: Setting, results: Sequence[ProblemResult], how: Measurement,
    read: Read, texts: Callable[[], Iterable[str]] | None,
) -> BenchmarkResult:  # fmt: skip
    figures = summarise(results, card.metric)
    if card.metric == "LC win rate":
        flat = [(r, s) for r in results for s in r.samples if s.score is not None]
        rate = controlled_win_rate(
            [float(s.score or 0.0) for _, s in flat],
            [s.answer_length for _, s in flat],
            [len(r.gold) for r, _ in flat],
        )
        figures = replace(figures, score=100 * rate)
    known = None
    if texts is not None:
        known = contamination(read.problems, results, texts(), [str(one) for one in how.trained_on])
    return BenchmarkResult(
        card.name, card.title, responder.name, responder.identity, setting, figures, known, card.paper,
        card.paper_k,
    )  # fmt: skip


def _begin(file: Path, setting: Setting, identity: str) -> list[ProblemResult]:
    """The results that a file has of this measurement. A new file gets its first line; a last line that was
    cut off is removed. Raises R1kitError for a file of another measurement."""
    head = json.dumps({"setting": asdict(setting), "model": identity})
    if not file.exists() or head.encode().startswith(file.read_bytes()):  # also where a stop cut it off
        file.unlink(missing_ok=True)
        _write_lines(file, [head])
        return []
    known, model, results, whole = _read_file(file)
    differences = [
        *known.differences(setting),
        *(["another prompt style"] if known.style != setting.style else []),
    ]
    differences += ["another model"] if model != identity else []
    if differences:
        raise R1kitError(
            f"{file}: results of another measurement ({'; '.join(differences)}). Name another folder with "
            "--out, or remove the file"
        )
    os.truncate(file, whole)
    return results


def _read_file(file: Path) -> tuple[Setting, str, list[ProblemResult], int]:
    """(protocol, the model's identity, results, bytes of whole lines) of a benchmark's file."""
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    lines = content[:whole].splitlines()
    try:
        head = json.loads(lines[0])
        setting, model = TypeAdapter(Setting).validate_python(head["setting"]), str(head["model"])
    except (IndexError, ValueError, TypeError, KeyError) as error:
        raise R1kitError(f"{file}: its first line is no protocol ({error}); remove the file") from None
    found = []
    for number, line in enumerate(lines[1:], 2):
        try:
            found.append(_LINE.validate_json(line))
        except ValidationError as error:
            raise R1kitError(
                f"{file}:{number}: no result of a problem ({error.error_count()} faults)"
            ) from None
    return setting, model, found, whole


def _append(file: Path, results: Sequence[ProblemResult]) -> None:
    _write_lines(file, [json.dumps(as_row(result), ensure_ascii=False) for result in results])


def _write_lines(file: Path, lines: Sequence[str]) -> None:
    with file.open("ab") as stream:
        stream.write("".join(f"{line}\n" for line in lines).encode())
        stream.flush()
        os.fsync(stream.fileno())
