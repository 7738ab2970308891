"""The miniature's pretraining corpus: a small bilingual web, written by chance from a seed.

Like a real web it holds single facts (drills), general documents, and problems: most with a bare answer, some
worked out, some wrong, half in a chat layout of varying tidiness, in either language or both mixed. So the
base model can do a little of everything and nothing well, and reinforcement learning has something to select
from. Held-out problems never occur; single facts (7*8=56) may.

Shares follow the prototypes (their recipe is cited where it was kept); DeepSeek-V3's own corpus is not
public."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import field_validator

from r1kit.config import suggest
from r1kit.tasks.documents import Layout, Share, write_document, write_summary
from r1kit.tasks.miniature import general, worked_solutions
from r1kit.tasks.miniature.procedural import KINDS, LIMIT, Kind, Parameters, exact
from r1kit.tasks.miniature.worked_solutions import LANGUAGES
from r1kit.tasks.task import is_held_out
from r1kit.types import Problem


class CorpusMix(Layout):
    """Shares of the corpus; each is a probability per document."""

    drills: Share = 0.24
    general: Share = 0.16
    recheck: Share = 0.15  # of worked solutions
    wrong: Share = 0.15  # of problems: steps slip with slip_rate each, direct answers are off
    slip_rate: Share = 0.08
    taken_back: Share = 0.06  # of worked solutions: a wrong step that is noticed ("wait")
    prompt_language: Share = 0.4  # of thinkings: wholly in the prompt's language
    other_language: Share = 0.1  # wholly in the other one; the remainder switches between both
    switch: Share = 0.2  # per step, where a thinking mixes
    readable: Share = 0.25  # of thinkings in one language: whole sentences
    kinds: tuple[str, ...] = ()  # of problems; empty: all of the miniature's

    @field_validator("kinds")
    @classmethod
    def _kinds_are_known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        for kind in kinds:
            if kind not in KINDS:
                raise ValueError(f"no kind of problem {kind!r}: {suggest(kind, KINDS)}")
        return kinds


# Longer solutions are harder to learn and come more often.
_KIND_WEIGHTS = {"chain": 1.1, "mul": 0.6, "eq": 0.7, "mod": 1.3, "word": 1.0, "code": 1.6}


def generate(seed: int, **options: Any) -> Iterator[str]:
    """The corpus by the options of a recipe, which are those of CorpusMix. Raises ConfigError naming the
    option."""
    return documents(seed, CorpusMix.parse(options, "generated.miniature"))


def documents(seed: int, mix: CorpusMix) -> Iterator[str]:
    """Endless documents; special tokens are written out and mean themselves."""
    rng = random.Random(f"corpus/{seed}")
    prompts = general.General().problems("train")
    while True:
        draw = rng.random()
        if draw < mix.drills:
            yield _drill(rng)
        elif draw < mix.drills + mix.general:
            yield _general(prompts, rng, mix)
        else:
            yield _problem(rng, mix)


def draw_train_parameters(kind: Kind, rng: random.Random) -> Parameters:
    """Parameters of a problem that is not held out."""
    while True:
        parameters = kind.draw(rng)
        if not is_held_out(kind.name, *kind.identity(parameters)):
            return parameters


def _drill(rng: random.Random) -> str:
    """Six to ten single facts; sums and differences, the hardest, most often."""
    facts = []
    for _ in range(rng.randint(6, 10)):
        sign = rng.choice("++---*//")
        if sign == "*":
            a = rng.randint(1, 12)
            b = rng.randint(1, LIMIT // a)
            facts.append(f"{a}*{b}={a * b}")
        elif sign == "/":
            whole, divisor = rng.randint(0, LIMIT), rng.randint(1, 9)
            facts.append(f"{whole}/{divisor}={whole // divisor}")
        else:
            total = rng.randint(1, LIMIT)
            part = rng.randint(0, total)
            facts.append(
                f"{part}+{total - part}={total}" if sign == "+" else f"{total}-{part}={total - part}"
            )
    return rng.choice((", ", "\n", "; ")).join(facts)


def _problem(rng: random.Random, mix: CorpusMix) -> str:
    names = mix.kinds or tuple(_KIND_WEIGHTS)
    kind = KINDS[rng.choices(names, [_KIND_WEIGHTS[name] for name in names])[0]]
    language = rng.choice(LANGUAGES)
    parameters = draw_train_parameters(kind, rng)
    wrong = rng.random() < mix.wrong
    work = kind.solve(
        parameters,
        (lambda value: _slipped(value, rng) if rng.random() < mix.slip_rate else value) if wrong else exact,
    )
    if rng.random() < mix.direct:
        answer = work.answer
        if wrong and answer.isdigit() and rng.random() < 0.5:
            answer = str(_slipped(int(answer), rng))
        return write_document(
            kind.ask(parameters, language),
            "",
            answer,
            rng,
            mix,
            write_summary(answer, language),
        )
    thinking = _thinking(work, language, rng, mix)
    return write_document(
        kind.ask(parameters, language),
        thinking,
        work.answer,
        rng,
        mix,
        write_summary(work.answer, language),
    )


def _thinking(work: worked_solutions.Worked, language: str, rng: random.Random, mix: CorpusMix) -> str:
    draw = rng.random()
    switch = 0.0 if draw < mix.prompt_language + mix.other_language else mix.switch
    if mix.prompt_language <= draw < mix.prompt_language + mix.other_language or (
        switch and rng.random() < 0.5
    ):
        language = worked_solutions.other(language)
    recheck = rng.random() < mix.recheck
    if rng.random() < mix.taken_back:
        place = rng.randrange(len(work.steps))
        left, right = work.steps[place].rsplit("=", 1)
        return worked_solutions.write_raw(
            work, language, rng, switch, recheck, place, f"{left}={_slipped(int(right), rng)}"
        )
    if not switch and rng.random() < mix.readable:
        return worked_solutions.write_readable(work.steps, work.answer, language, rng)
    return worked_solutions.write_raw(work, language, rng, switch, recheck)


def _slipped(value: int, rng: random.Random) -> int:
    return max(0, value + rng.choice((-10, -2, -1, 1, 2, 10)))


def _general(prompts: Sequence[Problem], rng: random.Random, mix: CorpusMix) -> str:
    if rng.random() < 0.3:
        return _fact_list(rng)
    problem = rng.choice(prompts)
    answer = general.reference_answer(
        problem, rng, quality=0.75 if problem.columns["kind"] == "open" else 0.9
    )
    thinking = general.reference_thinking(problem) if rng.random() < 0.4 else ""
    return write_document(problem.prompt, thinking, answer, rng, mix)


def _fact_list(rng: random.Random) -> str:
    language = rng.choice(LANGUAGES)
    draw = rng.random()
    if draw < 0.4:
        pairs = rng.sample(general.WORDS, 6)
        return "; ".join(f"{en} {zh}" if language == "en" else f"{zh} {en}" for en, zh in pairs)
    if draw < 0.6:
        rows = rng.sample(general.CAPITALS, 4)
        return "; ".join(f"{row[0]}: {row[1]}" if language == "en" else f"{row[2]}：{row[3]}" for row in rows)
    topics = rng.sample(sorted(general.HOW_TO[language].items()), 2)
    return "\n".join(
        f"{topic}: {', '.join(facts)}." if language == "en" else f"{topic}：{'，'.join(facts)}。"
        for topic, facts in topics
    )
