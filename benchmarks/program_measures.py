"""What a model's programs are like on held-out problems with hidden tests (claims 25 to 27): how often they
are right, their processor time, and what the linter finds."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from r1kit.chat import Chat
from r1kit.engine import Engine
from r1kit.rewards.lint import count_findings, find_ruff
from r1kit.rewards.rules import check_all
from r1kit.seeds import derive_seed
from r1kit.stages.problem_scores import Scored, held_out_problems
from r1kit.stages.sampling import sample
from r1kit.tasks import load_tasks
from r1kit.tasks.programs import read_program
from r1kit.types import Rollout, Sampling, Verdict

HELD_OUT = Path("recipes/findings/program_held_out.jsonl")


def score_programs(engine: Engine, chat: Chat, sampling: Sampling, limit: int) -> list[Scored]:
    """The measures of at most ``limit`` problems: ``right`` and ``format`` are shares of the responses;
    ``milliseconds`` of processor time on the hidden tests, the mean over right programs; ``lint``, the mean
    number of findings in a program that Python can read. The last two are None where there is no such
    program."""
    options = {"kind": "dataset", "check": "program", "held_out": str(HELD_OUT), "answer": "tests"}
    tasks = load_tasks({"programs": options})
    problems = held_out_problems(tasks, limit)
    groups = sample(engine, chat, problems, sampling, derive_seed(0, "programs"))
    verdicts = check_all(tasks["programs"][0], [rollout for group in groups for rollout in group])
    texts = [[program_of(rollout) for rollout in group] for group in groups]
    every = {text for own in texts for text in own if text is not None}
    found = count_findings(find_ruff(), sorted(every))
    counts = {text: count for text, count in found.items() if isinstance(count, int)}
    judged = iter(verdicts)
    return [
        scored(group[0].problem.id, [next(judged) for _ in group], own, counts)
        for group, own in zip(groups, texts, strict=True)
    ]


def program_of(rollout: Rollout) -> str | None:
    """The program in a response; None where it has no answer."""
    if rollout.answer is None:
        return None
    return read_program(rollout.answer, rollout.problem.columns["entry_point"])


def scored(
    problem: str, verdicts: Sequence[Verdict], programs: Sequence[str | None], counts: Mapping[str, int]
) -> Scored:
    """The measures of one problem. ``counts``: what the linter finds in each program that it can read."""
    seconds = [verdict.seconds for verdict in verdicts if verdict.outcome == "correct"]
    findings = [counts[text] for text in programs if text is not None and text in counts]
    measures = {
        "right": len(seconds) / len(verdicts),
        "format": sum(text is not None for text in programs) / len(programs),
        "milliseconds": 1000 * statistics.fmean(seconds) if seconds else None,
        "lint": statistics.fmean(findings) if findings else None,
    }
    return Scored(problem, None, len(verdicts), measures)
