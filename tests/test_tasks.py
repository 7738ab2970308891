"""The miniature's tasks against brute force: every solution holds, checks accept what is right and nothing
else, held out is held out."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1kit.config import ConfigError, R1kitError
from r1kit.tasks import (
    KINDS,
    REASONING,
    General,
    Procedural,
    Task,
    is_held_out,
    load_tasks,
    single_answer,
    vote_key,
)
from r1kit.tasks.documents import write_summary
from r1kit.tasks.miniature.general import CLOSINGS, OPENINGS, REFUSALS, gold_score, reference_answer
from r1kit.tasks.miniature.procedural import LIMIT, Parameters, exact, make_problem
from r1kit.tasks.miniature.rewriter import rewrite_steps
from r1kit.tasks.miniature.worked_solutions import (
    Worked,
    holds,
    read_steps,
    rechecks,
    takes_back,
    write_raw,
    write_readable,
)
from r1kit.tasks.overlap import fingerprint, without_contaminated
from r1kit.types import Completion, Problem, Rollout

ARITHMETIC = [name for name in KINDS if name != "code"]


def drawn(name: str, count: int = 300) -> list[Parameters]:
    rng = random.Random(f"test/{name}")
    return [KINDS[name].draw(rng) for _ in range(count)]


def solved_by_brute_force(name: str, parameters: Parameters) -> int:
    """The answer from the question alone, by search or evaluation, not by the task's own steps."""
    values = [int(value) for value in parameters]
    if name == "chain":
        return sum(values)
    if name == "mul":
        return values[0] * values[1] + values[2]
    if name == "eq":
        a, b, k, e = values
        roots = [x for x in range(200) if a * x + b == k * x + e]
        assert len(roots) == 1
        return roots[0]
    if name == "mod":
        return next(rest for rest in range(values[2]) if (values[0] + values[1] - rest) % values[2] == 0)
    things, bags, each, given, people = values[:5]
    left = things + bags * each - given
    assert left % people == 0
    return left // people


@pytest.mark.parametrize("name", ARITHMETIC)
def test_every_answer_is_that_of_brute_force_and_every_step_holds(name: str) -> None:
    for parameters in drawn(name):
        work = KINDS[name].solve(parameters, exact)
        assert int(work.answer) == solved_by_brute_force(name, parameters)
        assert all(holds(step) for step in (*work.steps, work.check))
        assert work.steps[-1].endswith(f"={work.answer}")
        numbers = [
            int(n)
            for step in work.steps
            for n in step.replace("=", " ").translate(str.maketrans("+-*/", "    ")).split()
        ]
        assert all(0 <= number <= LIMIT for number in numbers)
        if name == "eq":  # its check runs backwards
            assert work.check.endswith(work.steps[1].rpartition("=")[2])


def test_every_program_computes_what_its_problem_shows_and_its_hidden_tests() -> None:
    kind = KINDS["code"]
    for parameters in drawn("code"):
        work = kind.solve(parameters, exact)
        namespace: dict[str, object] = {}
        exec(work.answer, namespace)
        prompt = kind.ask(parameters, "en")
        for x in (1, 2, 3):
            assert f"f({x})={namespace['f'](x)}" in prompt  # type: ignore[operator]
        for x in (0, 4, 5, 7, 11):
            assert namespace["f"](x) == kind.value(parameters, x)  # type: ignore[operator, attr-defined]
        assert all(holds(step) for step in work.steps)


def test_a_slip_in_a_step_shows_in_the_steps() -> None:
    for name in ARITHMETIC:
        parameters = drawn(name, 1)[0]
        work = KINDS[name].solve(parameters, lambda value: value + 1)
        assert not all(holds(step) for step in work.steps)


@pytest.mark.parametrize(
    ("equation", "true"),
    [
        ("12+35=47", True),
        ("12+35=48", False),
        ("47-8=39", True),
        ("8-47=39", False),
        ("7*8=56", True),
        ("7*8=54", False),
        ("83/7=11", True),
        ("83/7=12", False),
        ("5/0=0", False),
        ("f(1)=3+4=7", True),
        ("1+2+3=7", True),
    ],
)
def test_an_equation_of_two_numbers_holds_or_not(equation: str, true: bool) -> None:
    assert holds(equation) is true


@pytest.mark.parametrize("name", ARITHMETIC)
def test_the_right_number_is_accepted_however_it_is_laid_out_and_no_other(name: str) -> None:
    task = Procedural(name, size=60)
    for problem in task.problems("train"):
        truth = int(str(problem.answer))
        box = f"\\boxed{{{truth}}}"
        for said in (
            f"{truth}",
            f" {truth}\n",
            box,
            f"The answer is \\boxed{{ {truth} }}.",
            f"不是{truth + 1}，是{box}。",
        ):
            assert task.check(problem, said).outcome == "correct", said
        for said in (
            f"{truth + 1}", f"{truth} or {truth + 1}", f"The answer is {truth}.", f"{truth}.5",
            f"{truth} apples", f"={truth}", f"1{truth}",
            f"\\boxed{{{truth}}} or \\boxed{{{truth + 1}}}", f"\\boxed{{{truth}}}\\boxed{{{truth}}}",
            f"{truth} \\boxed{{{truth + 1}}}",
            f"\\boxed{{{truth} or {truth + 1}}}", "", " ", "x", "-", str(10**7 + truth), f"{truth}e0",
        ):  # fmt: skip
            assert task.check(problem, said).outcome == "wrong", said
        assert task.check(problem, None).outcome == "wrong"


@pytest.mark.slow
def test_programs_are_really_run() -> None:
    task = Procedural("code", size=60)
    line = next(p for p in task.problems("train") if p.columns["parameters"][0] == 1)
    _, k, b = line.columns["parameters"]
    answers = {
        f"def f(x):return {k}*x+{b}": "correct",
        f"def f(x):\n    total = {b}\n    for _ in range(x):\n        total += {k}\n    return "
        "total": "correct",
        f"\\boxed{{f = lambda x: {b} + x * {k}}}": "correct",
        f"def f(x):return {k}*x+{b + 1}": "wrong",
        # the shown values learned by heart
        f"def f(x):return {{1:{k + b},2:{2 * k + b},3:{3 * k + b}}}[x]": "wrong",
        f"def f(x):return '{k}'": "wrong",
        f"def g(x):return {k}*x+{b}": "wrong",
        f"{k}*x+{b}": "wrong",
        "def f(x):return (": "wrong",
        "def f(x):\n    while True: pass": "wrong",
        "import os\nos._exit(0)": "wrong",
        "": "wrong",
    }
    verdicts = task.check_batch([line] * (len(answers) + 1), [*answers, None])
    assert [verdict.outcome for verdict in verdicts] == [*answers.values(), "wrong"]
    assert task.check(line, next(iter(answers))).outcome == "correct"


def test_one_program_for_two_problems_is_judged_by_the_tests_of_each() -> None:
    task = Procedural("code", size=60)
    one, two = [p for p in task.problems("train") if p.columns["parameters"][0] == 1][:2]
    answer = str(one.answer)
    assert [v.outcome for v in task.check_batch([one, two, one], [answer, answer, answer])] == [
        "correct",
        "wrong",
        "correct",
    ]


@pytest.mark.parametrize("name", REASONING)
def test_held_out_problems_share_nothing_with_training_in_either_language(name: str) -> None:
    task, kind = Procedural(name, size=800), KINDS[name]
    train, held_out = task.problems("train"), task.problems("held_out")
    identities = [{kind.identity(p.columns["parameters"]) for p in split} for split in (train, held_out)]
    assert not identities[0] & identities[1]
    prompts = {kind.ask(p.columns["parameters"], language) for p in held_out for language in ("en", "zh")}
    assert not prompts & {p.prompt for p in train}
    for split in (train, held_out):
        assert len({p.id for p in split}) == len(split) and {p.language for p in split} == {"en", "zh"}
        assert abs(sum(p.language == "en" for p in split) / len(split) - 0.5) < 0.2
    assert len(held_out) == 100 and Procedural(name, size=800).problems("train")[:5] == train[:5]
    with pytest.raises(R1kitError, match="no split 'test'"):
        task.problems("test")


@pytest.mark.parametrize(
    ("name", "problems", "shared"),
    [*((name, 6000, 0) for name in ("chain", "mul", "eq", "mod")), ("word", 6000, 3961), ("code", 3146, 0)],
)
def test_what_the_templates_share_is_as_the_page_of_evaluation_says(
    name: str, problems: int, shared: int
) -> None:
    """Ten words in a row with a held-out problem, by the paper's filter; never the text or the numbers."""
    ((task, _),) = load_tasks({name: 1.0}).values()
    train, held_out = task.problems("train"), task.problems("held_out")
    kept = without_contaminated(train, [problem.prompt for problem in held_out])
    assert (len(train), len(train) - len(kept)) == (problems, shared)
    texts = [{fingerprint(problem.prompt) for problem in split} for split in (train, held_out)]
    numbers = [{KINDS[name].identity(p.columns["parameters"]) for p in split} for split in (train, held_out)]
    assert not texts[0] & texts[1] and not numbers[0] & numbers[1]
    page = (Path(__file__).parents[1] / "docs/stages/evaluate.md").read_text(encoding="utf-8")
    row = f"| `{name}` | {problems:,} | {shared:,} | 0 | 0 |"
    assert row in page or (not shared and f"`{name}`" in page and "| 24,000 | 0 | 0 | 0 |" in page)


def test_the_same_problem_in_another_order_is_the_same_problem() -> None:
    assert KINDS["mul"].identity((7, 8, 9)) == KINDS["mul"].identity((8, 7, 9))
    assert KINDS["mod"].identity((45, 38, 7)) == KINDS["mod"].identity((38, 45, 7))
    assert KINDS["word"].identity((2, 3, 4, 5, 1, 0, 0)) == KINDS["word"].identity((2, 3, 4, 5, 1, 5, 3))


def test_about_an_eighth_is_held_out() -> None:
    for name in REASONING:
        share = np.mean([is_held_out(name, *KINDS[name].identity(p)) for p in drawn(name, 2000)])
        assert 0.08 < share < 0.17, name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("42", "42"),
        (" 42 ", "42"),
        ("\\boxed{42}", "42"),
        ("so \\boxed{ 4 }!", "4"),
        ("\\boxed{1}\\boxed{1}", None),
        ("", ""),
        ("\\boxed{}", ""),
    ],
)
def test_the_single_answer_is_the_only_box_or_the_whole_text(text: str, expected: str | None) -> None:
    assert single_answer(text) == expected


def test_equal_answers_vote_together() -> None:
    task = Procedural("chain", size=8)
    assert (
        len({task.vote_key(text) for text in ("7", " 7 ", "07", "\\boxed{7}", "The answer is \\boxed{7}.")})
        == 1
    )
    assert len({task.vote_key(text) for text in ("7", "8", "-7", "seven")}) == 4
    assert task.vote_key("\\boxed{7} \\boxed{8}") is None and vote_key(None) is None
    code = Procedural("code", size=8)
    assert (
        code.vote_key("def f(x): return x")
        == code.vote_key("def  f(x):return x")
        != code.vote_key("def f(x):return 2*x")
    )


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(REASONING),
    st.sampled_from(["en", "zh"]),
    st.sampled_from([0.0, 0.5]),
    st.booleans(),
    st.integers(0, 10_000),
)
def test_steps_written_in_words_are_read_back(
    name: str, language: str, switch: float, recheck: bool, seed: int
) -> None:
    rng = random.Random(seed)
    work = KINDS[name].solve(KINDS[name].draw(rng), exact)
    raw = write_raw(work, language, rng, switch, recheck)
    assert read_steps(raw) == list(work.steps) and rechecks(raw) == recheck and not takes_back(raw)
    place = rng.randrange(len(work.steps))
    slipped = work.steps[place].rsplit("=", 1)[0] + "=77"
    taken_back = write_raw(work, language, rng, switch, recheck, place, slipped)
    assert read_steps(taken_back) == list(work.steps) and takes_back(taken_back) and slipped in taken_back
    assert read_steps(write_readable(work.steps, work.answer, language, rng)) == list(work.steps)


def as_rollout(problem: Problem, thinking: str | None, answer: str | None) -> Rollout:
    completion = Completion(np.zeros(1, np.int32), np.zeros(1, np.float32), "stop")
    return Rollout(problem, 0, np.zeros(1, np.int32), completion, "", thinking, answer)


def test_the_rewriter_keeps_true_steps_in_one_language_and_drops_the_rest() -> None:
    problem = make_problem(KINDS["chain"], (12, 35, -8), "zh")
    mixed = "first 12+35=47, 再算47-8=39，check 39+8=47, good, so 39"
    thinking, summary = rewrite_steps(as_rollout(problem, mixed, "39")) or ("", "")
    assert thinking.startswith("我先算12+35=47。") and thinking.endswith("所以答案是39。")
    assert summary == "答案是\\boxed{39}。" and not any(word in thinking for word in ("first", "check", "so"))
    for other in ("first 12+35=48, then 48-8=40, so 39", "so 39", "", None, "12+35=47, 12+35=47, 47-8=39"):
        assert rewrite_steps(as_rollout(problem, other, "39")) is None, other
    assert rewrite_steps(as_rollout(problem, mixed, "\\boxed{39}\\boxed{40}")) is None
    assert Procedural("chain").check(problem, write_summary("39", "en")).outcome == "correct"


def test_a_written_solution_of_every_kind_survives_the_rewriter() -> None:
    for name in REASONING:
        for parameters in drawn(name, 20):
            work: Worked = KINDS[name].solve(parameters, exact)
            if len(set(work.steps)) < len(work.steps):
                continue
            raw = write_raw(work, "en", random.Random(1), 0.5, True)
            made = rewrite_steps(as_rollout(make_problem(KINDS[name], parameters, "en"), raw, work.answer))
            assert (
                made is not None
                and made[1] == write_summary(work.answer, "en")
                and all(step in made[0] for step in work.steps)
            )


def general(kind: str, language: str = "en") -> Problem:
    return next(
        p for p in General().problems("train") if p.columns["kind"] == kind and p.language == language
    )


def test_the_gold_score_of_closed_questions_falls_with_surplus_characters() -> None:
    problem = general("dictionary")
    right = problem.columns["facts"][0]
    assert gold_score(problem, right) == 1.0
    assert gold_score(problem, f"{right}1234567890") == pytest.approx(0.8)
    assert gold_score(problem, right + "x" * 60) == 0.0
    assert gold_score(problem, "x") == gold_score(problem, "") == gold_score(problem, None) == 0.0
    forbidden = general("forbidden")
    assert (
        gold_score(forbidden, REFUSALS["en"]) == 1.0
        and gold_score(forbidden, "Gladly! boil the water") == 0.0
    )


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_gold_score_of_open_questions_adds_facts_opening_and_closing(language: str) -> None:
    problem = general("open", language)
    a, b, c = problem.columns["facts"]
    opening, closing = OPENINGS[language], CLOSINGS[language]
    assert gold_score(problem, f"{opening} {a}, {b}, {c}. {closing}") == pytest.approx(1.0)
    assert gold_score(problem, f"{a}, {b}, {c}") == pytest.approx(0.7)
    assert gold_score(problem, a) == pytest.approx(0.7 / 3)
    assert gold_score(problem, f"{opening}{a}") == pytest.approx(0.7 / 3 + 0.15)
    padded = f"{opening} {a}, {b}, {c}. " + "z" * 80 + closing
    assert gold_score(problem, padded) < 0.35
    assert gold_score(problem, f"{opening} {a}, {b}, {c}. {a}, {b}, {c}. {closing}" + closing) < 1.0


def test_a_perfect_writer_scores_one_and_a_careless_one_less() -> None:
    problems = [*General().problems("train"), *General().problems("held_out")]
    perfect = [gold_score(p, reference_answer(p, random.Random(i))) for i, p in enumerate(problems)]
    careless = [
        gold_score(p, reference_answer(p, random.Random(i), quality=0.5)) for i, p in enumerate(problems)
    ]
    assert min(perfect) == 1.0 and 0.3 < np.mean(careless) < 0.85


def test_general_prompts_are_held_out_as_whole_prompts_and_left_to_judges() -> None:
    task = General()
    train, held_out = ({p.prompt for p in task.problems(split)} for split in ("train", "held_out"))
    assert not train & held_out and 0.08 < len(held_out) / len(train | held_out) < 0.17
    assert len(task.problems("train")) + len(task.problems("held_out")) == len(train | held_out)
    kinds = {p.columns["kind"] for p in task.problems("held_out")}
    assert kinds == {"dictionary", "capital", "talk", "open", "forbidden"}
    assert task.check(next(iter(task.problems("train"))), "anything").outcome == "unverifiable"
    with pytest.raises(R1kitError, match="no split 'dev'"):
        task.problems("dev")


def test_a_recipe_names_tasks_with_weights_and_options() -> None:
    loaded = load_tasks({"reasoning": 3.0, "general": {"weight": 0.5}})
    assert {name: weight for name, (_, weight) in loaded.items()} == {
        **dict.fromkeys(REASONING, 0.5),
        "general": 0.5,
    }
    assert all(isinstance(task, Task) for task, _ in loaded.values())
    assert load_tasks({"mul": {"weight": 2, "size": 7}})["mul"][0] == Procedural("mul", 7)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"chian": 1}, "did you mean 'chain'"),
        ({"quantum": 1}, "known: reasoning, chain"),
        ({"chain": {"weight": 1, "seize": 5}}, "seize"),
        ({"chain": "much"}, "weight must be a number"),
        ({"chain": 1, "reasoning": 1}, "already"),
    ],
)
def test_a_mistake_in_the_tasks_is_named(spec: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_tasks(spec)
