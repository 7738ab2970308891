"""Augmentation: further problems made of those that are there, each checked again before it is kept.

    paraphrase         a model asks the same in other words
    back_translation   a model translates into ``through`` and back (Sennrich et al. 2016; here of problems)
    translation        a model translates problem and solution into ``to``
    numbers            other numbers, the worked solution computed again (data/substitution.py)
    names              other first names
    code               the reference program with other local names and order (data/code_mutation.py)

A new row keeps the id of its parent. It is dropped, with its reason counted, where its text is the parent's
or another row's, where a rewriting has changed the numbers or the language, where the task's verifier does
not accept the row's own answer (for code: does not pass the tests), where the verifier still accepts its
parent's answer although numbers changed, and where it shares ten words in a row with an evaluation (R1,
supplement D.1). ``solver`` asks a model to solve the new problem: it is kept if one of ``attempts`` answers
is right, which also finds rewritings that have become another problem."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from r1kit.chat import prompt_column
from r1kit.config import InputError, R1kitError
from r1kit.data.code_mutation import mutated
from r1kit.data.contamination import Contamination, Evaluation, evaluations_of
from r1kit.data.corpora import SourceConfig, source_errors
from r1kit.data.substitution import Solved, UnclearError, numbers_in, other_names, other_numbers
from r1kit.jsonl import write_jsonl
from r1kit.language import language_share
from r1kit.seeds import derive_seed
from r1kit.stages.models import PromptStyle, fits, longest_prompt, sampling_style
from r1kit.stages.recipe_names import RequiredTasks, log_tasks
from r1kit.stages.results import report
from r1kit.stages.sampling import correct, harvest, train_problems
from r1kit.stages.stage import Context, SamplingPhase, Stage, StagePlan
from r1kit.stages.written import WriterConfig, write
from r1kit.tasks import load_tasks
from r1kit.tasks.documents import write_summary
from r1kit.tasks.overlap import fingerprint
from r1kit.tasks.task import Task
from r1kit.types import Problem, Sampling

Kind = Literal["paraphrase", "back_translation", "translation", "numbers", "names", "code"]
WRITTEN: tuple[Kind, ...] = ("paraphrase", "back_translation", "translation")
LANGUAGES = {"en": "English", "zh": "Chinese"}
EXAMPLES = 3  # of each kind, in the report

PARAPHRASE = (
    "Write the problem below again in other words, in the same language. Keep every number, every name and "
    "what is asked. Reply with the new problem and nothing else.\n\n{text}"
)
TRANSLATE = (
    "Translate the text below into {language}. Keep every number and formula as it is. Reply with the "
    "translation and nothing else.\n\n{text}"
)


@dataclass(frozen=True, slots=True)
class Made:
    """A new problem of a kind; its ``solution`` is empty where it has none."""

    kind: Kind
    parent: Problem
    problem: Problem
    solution: str


class Augment(Stage):
    """Make ``kinds`` (how many rows of each kind a problem gets at most) of at most ``problems`` training
    problems of ``tasks``. ``writer`` is the model of the kinds that are written by one.

    problems.jsonl has rows for a task of kind dataset: prompt, answer, solution, the columns of the parent's
    program; data.jsonl rows for sft (prompt, completion) of those that have a solution; both with ``parent``
    and ``kind``. Without ``held_out`` new problems are not compared with the tasks' held-out ones."""

    writes: ClassVar[tuple[str, ...]] = ("problems.jsonl", "data.jsonl", "report.json")

    stage: Literal["augment"] = "augment"
    tasks: RequiredTasks = {}
    kinds: dict[Kind, int] = Field({"numbers": 1, "names": 1}, min_length=1)
    problems: int = Field(1000, ge=1)
    writer: WriterConfig | None = None
    through: str = "zh"  # the language of back_translation
    to: str = "zh"  # the language of translation
    purity: float = Field(0.9, ge=0.0, le=1.0)  # least share of words in the wanted language
    decontaminate: list[str] = []  # files of evaluations; a row that shares ten words in a row is left out
    held_out: bool = True
    solver: str = ""  # the model that solves new problems, to check them
    attempts: int = Field(4, ge=1)  # of the solver; one has to be right
    max_tokens: int = Field(512, ge=1)
    talk: PromptStyle = PromptStyle()

    @model_validator(mode="after")
    def _written_kinds_have_a_writer(self) -> Self:
        written = [kind for kind in self.kinds if kind in WRITTEN]
        if written and self.writer is None:
            raise ValueError(
                f'{", ".join(written)}: name the model that writes (writer: {{model: "@sft"}} or writer: '
                "{endpoint: URL, model: NAME})"
            )
        if any(count < 1 for count in self.kinds.values()):
            raise ValueError("kinds: a kind has a number of rows, from 1 on; leave out the others")
        for key in ("through", "to"):
            if getattr(self, key) not in LANGUAGES:
                raise ValueError(f"{key}: {getattr(self, key)!r} is no language of {', '.join(LANGUAGES)}")
        return self

    def input_errors(self) -> Iterator[InputError]:
        for place, file in enumerate(self.decontaminate):
            for _, error in source_errors({"decontaminate": SourceConfig(path=file)}):
                yield ("decontaminate", place), error

    def plan(self) -> StagePlan:
        made = float(self.problems * sum(self.kinds.values()))
        solved = (SamplingPhase(made * self.attempts, self.max_tokens, self.solver, self.attempts),)
        return StagePlan(phases=solved if self.solver else (), rows=made, row_tokens=self.max_tokens)

    def run(self, ctx: Context) -> None:
        tasks = load_tasks(self.tasks)
        log_tasks(ctx, tasks)
        parents = train_problems(self.tasks, self.problems, derive_seed(ctx.seed, "problems"))
        counts = Counts()
        made = [
            one for kind, many in self.kinds.items() for one in self._made(ctx, kind, many, parents, counts)
        ]
        kept = without_copies(made, parents, counts)
        kept = accepted(kept, tasks, counts)
        kept = uncontaminated(kept, self._evaluations(ctx, tasks), counts)
        if self.solver:
            kept = self._solved(ctx, kept, tasks, counts)
        for one in kept:
            counts.kept[one.kind] += 1
        write_jsonl(ctx.out / "problems.jsonl", [problem_row(one) for one in kept])
        write_jsonl(ctx.out / "data.jsonl", [training_row(one) for one in kept if one.solution])
        counts.log(ctx, len(parents))
        examples = {
            kind: [problem_row(one) for one in kept if one.kind == kind][:EXAMPLES] for kind in self.kinds
        }
        report(ctx, parents=len(parents), made=len(made), rows=len(kept), **counts.facts(), examples=examples)

    def _made(
        self, ctx: Context, kind: Kind, many: int, parents: Sequence[Problem], counts: "Counts"
    ) -> list[Made]:
        if kind in WRITTEN:
            return self._written(ctx, kind, many, parents, counts)
        change = _RULES[kind]
        found: list[Made] = []
        for parent in parents:
            for copy in range(many):
                rng = random.Random(f"augment/{ctx.seed}/{kind}/{parent.id}/{copy}")
                counts.asked[kind] += 1
                try:
                    found.append(change(parent, f"{parent.id}/{kind}{copy}", rng))
                except UnclearError as why:
                    counts.drop(kind, str(why))
        return found

    def _written(
        self, ctx: Context, kind: Kind, many: int, parents: Sequence[Problem], counts: "Counts"
    ) -> list[Made]:
        """The problems that the writer has written, of the right language and with the same numbers."""
        asked = [(parent, f"{parent.id}/{kind}{copy}") for parent in parents for copy in range(many)]
        counts.asked[kind] += len(asked)
        foreign = {"back_translation": self.through, "translation": self.to}.get(kind)
        for parent, _ in asked:
            if parent.language == foreign:
                counts.drop(kind, f"its parent is in {foreign} already")
        asked = [(parent, name) for parent, name in asked if parent.language != foreign]
        texts = self._replies(ctx, kind, [(name, parent.prompt, parent.language) for parent, name in asked])
        solutions = [solution_of(parent) for parent, _ in asked]
        if kind == "translation":
            there = [
                (f"{name}/solution", text, parent.language)
                for (parent, name), text in zip(asked, solutions, strict=True)
            ]
            solutions = self._replies(ctx, "translation_of_solutions", there)
        found: list[Made] = []
        for (parent, name), text, solution in zip(asked, texts, solutions, strict=True):
            language = self.to if kind == "translation" else parent.language
            why = why_not(parent, text, solution, language, self.purity)
            if why:
                counts.drop(kind, why)
                continue
            problem = replace(parent, id=name, prompt=text, language=language)
            found.append(Made(kind, parent, with_solution(problem, solution), solution))
        return found

    def _replies(self, ctx: Context, kind: str, asked: Sequence[tuple[str, str, str]]) -> list[str]:
        """What the writer makes of each (name, text, its language)."""

        def ask(step: str, form: str, texts: Sequence[tuple[str, str, str]]) -> list[str]:
            """The replies to a request about each (name, text, language to write)."""
            assert self.writer is not None
            requests = [
                (name, form.replace("{language}", LANGUAGES.get(to, to)).replace("{text}", text))
                for name, text, to in texts
                if text
            ]
            replies = iter(write(ctx, step, self.writer, requests, derive_seed(ctx.seed, step)))
            return [next(replies) if text else "" for _, text, _ in texts]

        if kind == "paraphrase":
            return ask(kind, PARAPHRASE, asked)
        to = self.through if kind == "back_translation" else self.to
        there = ask(f"{kind}_there", TRANSLATE, [(name, text, to) for name, text, _ in asked])
        if kind != "back_translation":
            return there
        back = [(name, text, home) for (name, _, home), text in zip(asked, there, strict=True)]
        return ask(f"{kind}_back", TRANSLATE, back)

    def _evaluations(self, ctx: Context, tasks: Mapping[str, tuple[Task, float]]) -> list[Evaluation]:
        """The texts that no new problem may repeat."""
        found = evaluations_of([str(ctx.path(file)) for file in self.decontaminate])
        if self.held_out:
            for name, (task, _) in tasks.items():
                try:
                    found += [Evaluation(f"{name}: {p.id}", p.prompt) for p in task.problems("held_out")]
                except R1kitError:  # a task with a train split alone
                    continue
        return found

    def _solved(
        self, ctx: Context, made: list[Made], tasks: Mapping[str, tuple[Task, float]], counts: "Counts"
    ) -> list[Made]:
        """Those that the solver solves at least once."""
        model = ctx.model(self.solver)
        chat, engine = sampling_style(model, self.talk).chat(model), ctx.runtime.engine(model)
        keep = fits(chat, longest_prompt(self.max_tokens, model))
        asked = [one for one in made if keep(one.problem)]
        sampling = Sampling(self.attempts, max_tokens=self.max_tokens)
        seed = derive_seed(ctx.seed, "solve")
        problems = [one.problem for one in asked]
        groups = harvest(ctx, "solved", model, engine, chat, problems, sampling, seed)
        ctx.runtime.release(engine)
        right = {one.problem.id for one, group in zip(asked, correct(groups, tasks), strict=True) if group}
        for one in made:
            if one.problem.id not in right:
                counts.drop(one.kind, "not solved by the solver")
        return [one for one in made if one.problem.id in right]


class Counts:
    """How many rows of each kind were asked for and kept, and why the others were dropped."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self.dropped: dict[str, Counter[str]] = {}

    def drop(self, kind: str, why: str) -> None:
        self.dropped.setdefault(kind, Counter())[why] += 1

    def facts(self) -> dict[str, Any]:
        """By kind: asked, kept, dropped by reason; they add up."""
        return {
            "kinds": {
                kind: {"asked": asked, "kept": self.kept[kind], "dropped": dict(self.dropped.get(kind, {}))}
                for kind, asked in self.asked.items()
            }
        }

    def log(self, ctx: Context, parents: int) -> None:
        for kind, asked in self.asked.items():
            reasons = self.dropped.get(kind, Counter()).most_common()
            said = ", ".join(f"{count} {why}" for why, count in reasons) or "none"
            ctx.log.info(f"{kind}: {self.kept[kind]} kept of {asked} ({parents} parents); dropped: {said}")


def solution_of(problem: Problem) -> str:
    """The worked solution of a problem; empty where it has none."""
    solution = problem.columns.get("solution")
    return solution if isinstance(solution, str) else ""


def with_solution(problem: Problem, solution: str) -> Problem:
    columns = {name: value for name, value in problem.columns.items() if name != "solution"}
    return replace(problem, columns={**columns, "solution": solution} if solution else columns)


def why_not(parent: Problem, text: str, solution: str, language: str, purity: float) -> str:
    """Why a rewritten problem cannot be used; empty where it can."""
    if not text.strip():
        return "no reply"
    if Counter(numbers_in(text)) != Counter(numbers_in(parent.prompt)):
        return "other numbers than its parent"
    if solution_of(parent) and not solution:
        return "no reply"
    if Counter(numbers_in(solution)) != Counter(numbers_in(solution_of(parent))):
        return "other numbers than its parent"
    share = language_share(text, language)
    if share is not None and share < purity:
        return f"words of another language than {language}"
    return ""


def _with_numbers(parent: Problem, name: str, rng: random.Random) -> Made:
    if not solution_of(parent) or parent.answer is None:
        raise UnclearError("no worked solution")
    new = other_numbers(Solved(parent.prompt, solution_of(parent), parent.answer), rng)
    problem = replace(parent, id=name, prompt=new.prompt, answer=new.answer)
    return Made("numbers", parent, with_solution(problem, new.solution), new.solution)


def _with_names(parent: Problem, name: str, rng: random.Random) -> Made:
    prompt, solution = other_names([parent.prompt, solution_of(parent)], rng)
    problem = replace(parent, id=name, prompt=prompt)
    return Made("names", parent, with_solution(problem, solution), solution)


def _with_code(parent: Problem, name: str, rng: random.Random) -> Made:
    reference = parent.columns.get("reference")
    if not isinstance(reference, str) or not reference:
        raise UnclearError("no reference program")
    program = mutated(reference, f"{parent.columns.get('tests')} {parent.columns.get('entry_point')}", rng)
    problem = replace(parent, id=name, columns={**parent.columns, "reference": program})
    return Made("code", parent, problem, program)


_RULES: dict[Kind, Callable[[Problem, str, random.Random], Made]] = {
    "numbers": _with_numbers,
    "names": _with_names,
    "code": _with_code,
}


def without_copies(made: Sequence[Made], parents: Sequence[Problem], counts: Counts) -> list[Made]:
    """The rows whose text (for code: program) is neither a parent's nor an earlier row's."""
    seen = {fingerprint(problem.prompt) for problem in parents}
    programs = {str(problem.columns.get("reference")) for problem in parents}
    kept = []
    for one in made:
        known, text = (
            (programs, one.solution) if one.kind == "code" else (seen, fingerprint(one.problem.prompt))
        )
        if text in known:
            counts.drop(one.kind, "the text of its parent or of another row")
            continue
        known.add(text)
        kept.append(one)
    return kept


def accepted(made: Sequence[Made], tasks: Mapping[str, tuple[Task, float]], counts: Counts) -> list[Made]:
    """The rows whose own answer the task's verifier accepts, and, where the answer has changed, whose
    parent's answer it does not."""
    kept = []
    for one in made:
        task = tasks[one.problem.task][0]
        verdict = task.check(one.problem, answer_of(one))
        if verdict.outcome != "correct":
            counts.drop(one.kind, f"its own answer is {verdict.outcome} by the task's verifier")
            continue
        if one.kind == "numbers" and one.problem.answer != one.parent.answer:
            old = write_summary(str(one.parent.answer), one.parent.language)
            if task.check(one.problem, old).outcome == "correct":
                counts.drop(one.kind, "the verifier still accepts its parent's answer")
                continue
        kept.append(one)
    return kept


def answer_of(one: Made) -> str:
    """The answer of a row as a model would write it."""
    if one.kind == "code" or one.problem.columns.get("reference"):
        return f"```python\n{one.problem.columns['reference']}\n```"
    return write_summary(str(one.problem.answer), one.problem.language)


def uncontaminated(made: Sequence[Made], texts: Sequence[Evaluation], counts: Counts) -> list[Made]:
    """The rows that share no ten words in a row with an evaluation, and equal none; where the parent does so
    too, only rows that equal one are dropped, since what both share is the parent's."""
    if not texts:
        return list(made)
    known = Contamination(texts)
    whole = {fingerprint(text.text) for text in texts}
    kept = []
    for one in made:
        text = one.problem.prompt
        leak = one.kind != "code" and (
            fingerprint(text) in whole
            or (known.find(text) is not None and known.find(one.parent.prompt) is None)
        )
        if leak:
            counts.drop(one.kind, "ten words in a row of an evaluation")
        else:
            kept.append(one)
    return kept


def problem_row(one: Made) -> dict[str, Any]:
    """The row of problems.jsonl."""
    problem = one.problem
    shared = {"parent": one.parent.id, "kind": one.kind, "language": problem.language}
    columns = {name: value for name, value in problem.columns.items() if name not in ("messages", "solution")}
    level = {} if problem.difficulty is None else {"difficulty": problem.difficulty}
    own = {"prompt": prompt_column(problem), **level}
    if one.kind == "code" or problem.columns.get("reference"):
        return {**columns, **own, **shared}
    return {**own, "answer": problem.answer, **({"solution": one.solution} if one.solution else {}), **shared}


def training_row(one: Made) -> dict[str, Any]:
    """The row of data.jsonl."""
    thinking = "" if one.kind == "code" else one.solution
    return {
        "prompt": prompt_column(one.problem),
        "completion": f"<think>{thinking}</think>{answer_of(one)}",
        "parent": one.parent.id,
        "kind": one.kind,
    }
