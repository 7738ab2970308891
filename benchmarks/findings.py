"""The paper's findings as experiments: train the arms of recipes/findings/, measure them, and write
docs/findings.md with its drawings.

    python benchmarks/findings.py                       # all that is not done, three seeds; then the page
    python benchmarks/findings.py --only 1,7 --seeds 5  # some findings, more seeds
    python benchmarks/findings.py --page                # the page alone, from what there is

Claims and tests stand in recipes/findings/claims.yaml. Recipes are run in the order of ORDER, the cheapest
first, each with all seeds, in the run runs/findings. The command continues where it was interrupted. What was
measured is kept in benchmarks/findings.jsonl, so the page can be written where the models are no longer. A
finding whose stages have not finished in at least three seeds, there or before, is "not run yet"; no verdict
is written without its runs, and a figure that was kept counts only while the claim has the same tests."""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from figures import STYLE
from paired import (
    RUN,
    Difference,
    Values,
    add_options,
    difference,
    more_on_hard,
    rises,
    stage_of,
    train,
    values,
)
from pydantic import Field, field_validator
from results import table

from r1kit.config import Config, ConfigError, R1kitError
from r1kit.console import make_console
from r1kit.files import write_whole
from r1kit.jsonl import read_jsonl
from r1kit.records import finished_stages

CLAIMS = Path("recipes/findings/claims.yaml")
KEPT = Path("benchmarks/findings.jsonl")  # what was measured, one finding a line
ORDER = (
    "pure-rl.yaml",
    "format-reward.yaml",
    "language-reward.yaml",
    "length-cap.yaml",
    "stages.yaml",
    "clip-range.yaml",
    "process-reward.yaml",
    "data-size.yaml",
    "sizes.yaml",
    "reference.yaml",
    "programs.yaml",
    "verifier-noise.yaml",
    "ppo.yaml",
    "reward-hacking.yaml",
    "../ablation.yaml",
)
FEWEST_SEEDS = 3
ABSENT = "not in the paper"  # a claim about its method that it does not make
ALPHA = 0.05
WORDS = ("higher", "lower", "more_on_hard", "rises")
MARGINS = ("at_most", "at_least", "within")
INTRODUCTION = (
    "What the DeepSeek-R1 paper reports, and some claims about it, each tried with a small model on a CPU: a "
    "training, a control that differs from it in one key of the recipe, three seeds, and a test that was "
    "written down beforehand."
)
WRITTEN_BY = (
    "Written by `python benchmarks/findings.py` (`make findings`) from finished runs, whose figures are kept "
    "in [findings.jsonl](../benchmarks/findings.jsonl); not edited by hand. Every stage was trained by one "
    "process, on a machine with two cores that did other work too. So no figure here is one of speed, but "
    "for the processor time of programs in claim 26."
)
BEFOREHAND = (
    "Each claim and its test were written in [claims.yaml](../recipes/findings/claims.yaml) before its arms "
    "were trained; the file says what each test computes. Before that, one run of seed 0 was used to find a "
    "base and a budget from which RL learns; its model also tried the search of claim 22 on 60 problems, "
    "after that claim was written. All arms of all seeds start from one base model "
    "([base.yaml](../recipes/findings/base.yaml)), as in the paper, so the seeds vary what comes after "
    "pretraining; an arm differs from its control in one key. Claims 25 to 27 are about programs and have a "
    "base of their own, which was found in the same way with another seed."
)
NOT_REPRODUCED = (
    "*Not reproduced* means that at least one test of the finding did not hold at this size and budget: a "
    "model of 0.4 million parameters, some thousand rollouts, problems of two to four steps. It does not "
    "contradict the paper."
)
MEASURES = {
    "right": "share of right answers; of programs: that pass hidden tests",
    "majority": "share of problems whose most frequent answer is right",
    "format, cut": "shares of responses in the exact format, and cut off at the longest length",
    "language": "share of a thinking's words in the language of the prompt",
    "length": "tokens of a response",
    "reflects": "share of responses that check a result again or take one back",
    "repeats": "share of responses that end in a loop",
    "general": "score of responses to general prompts",
    "step_score": "how right the steps of a thinking are by a model of single steps",
    "milliseconds": "processor time of a right program on the hidden tests",
    "lint": "what a linter finds in a program, counted",
}
NAMES = (
    "A value is written `model.measure`: models are stages of the recipe (`base` is what all start from, "
    "`zero` R1-Zero), measures are below. `model@decoding.measure` is sampled in another way than at "
    "temperature 1: greedy, cool (temperature 0.6, top-p 0.95), shown (after two solved examples), searched; "
    "or on other problems: programs. Brackets hold the 95 % interval over held-out problems of the "
    "difference, and after *seeds* stands that of each seed."
)
WIDTH, LEFT, ROW = 640, 210, 20  # of a drawing, in pixels


class Test(Config):
    """One condition of a finding: a value, what it is compared with, and what is expected."""

    value: str
    against: str = ""
    expect: str | dict[str, float]

    @field_validator("expect")
    @classmethod
    def _is_known(cls, expect: str | dict[str, float]) -> str | dict[str, float]:
        known = expect in WORDS if isinstance(expect, str) else len(expect) == 1 and set(expect) <= {*MARGINS}
        if not known:
            raise ValueError(f"no test {expect!r}; known: {', '.join([*WORDS, *MARGINS])}")
        return expect

    def in_words(self) -> str:
        expected = self.expect
        if isinstance(expected, dict):
            ((name, margin),) = expected.items()
            expected = f"{name.replace('_', ' ')} {margin:g}"
        against = f" − `{self.against}`" if self.against else ""
        return f"`{self.value}`{against}: {expected.replace('_', ' ')}"


class Finding(Config):
    """A claim of the paper: its number there, the recipe of its arms, and the tests that decide it; or why it
    is not tested here. ``shown`` are further values of the table and the drawing."""

    number: int
    title: str
    paper: str
    recipe: str = ""
    tests: list[Test] = Field(default_factory=list)
    shown: list[str] = Field(default_factory=list)
    not_built: str = ""
    not_testable: str = ""

    def names(self) -> list[str]:
        """Every value that is shown or tested, each once."""
        found = [*self.shown, *(name for test in self.tests for name in (test.value, test.against) if name)]
        return list(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Outcome:
    """A test and what came of it, both in words."""

    test: str
    holds: bool
    measured: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A finding with the means of its values (by name, one a seed), outcomes, the day of its last training,
    and the verdict."""

    finding: Finding
    seeds: Sequence[int]
    means: Mapping[str, Sequence[float]]
    outcomes: Sequence[Outcome]
    day: str

    @property
    def verdict(self) -> str:
        if self.finding.not_testable:
            return "not testable in miniature"
        if self.finding.not_built:
            return "not built"
        if not self.outcomes:
            return "not run yet"
        return "reproduced" if all(one.holds for one in self.outcomes) else "not reproduced"


def read_claims(file: Path = CLAIMS) -> list[Finding]:
    """All findings, in the file's order. Raises ConfigError naming the finding and its key."""
    found = yaml.safe_load(file.read_text(encoding="utf-8"))["findings"]
    return [
        Finding.parse(one, f"{file}: finding {one.get('number', place)}") for place, one in enumerate(found)
    ]


def judge(finding: Finding, seeds: Sequence[int]) -> Judged:
    """Measure a finding in every seed that has all its stages, and decide it where there are enough."""
    found: dict[str, list[Values]] = {name: [] for name in finding.names()}
    used = []
    for seed in seeds:
        own = {name: values(name, seed) for name in found}
        if own and all(own.values()):
            used.append(seed)
            for name, value in own.items():
                if value is not None:
                    found[name].append(value)
    enough = len(used) >= FEWEST_SEEDS
    outcomes = [outcome(test, found) for test in finding.tests] if enough else []
    means = {name: [value.mean for value in seeds_of] for name, seeds_of in found.items()}
    return Judged(finding, used, means, outcomes, last_day(finding, used) if enough else "")


def last_day(finding: Finding, seeds: Sequence[int]) -> str:
    """The day on which the last stage of the finding's values finished."""
    models = {name.rpartition(".")[0].partition("@")[0] for name in finding.names()}
    names = {stage_of(model, seed) for model in models for seed in seeds}
    ends = [stage.record.finished or 0.0 for stage in finished_stages(RUN) if stage.name in names]
    return f"{datetime.fromtimestamp(max(ends), UTC):%Y-%m-%d}" if ends else ""


def read_kept(findings: Sequence[Finding], file: Path) -> dict[int, Judged]:
    """What was measured before, by the number of the finding; without findings whose values or tests have
    changed since."""
    by_number = {finding.number: finding for finding in findings}
    kept = {}
    for _, row in read_jsonl(file) if file.is_file() else ():
        finding = by_number.get(row["number"])
        outcomes = [Outcome(**one) for one in row["outcomes"]]
        if finding is None or list(row["values"]) != finding.names():
            continue
        if [one.test for one in outcomes] == [test.in_words() for test in finding.tests]:
            kept[finding.number] = Judged(finding, row["seeds"], row["values"], outcomes, row["day"])
    return kept


def write_kept(judged: Sequence[Judged], file: Path) -> None:
    """Keep the findings that have a verdict by their runs."""
    rows = [
        {
            "number": one.finding.number,
            "day": one.day,
            "seeds": list(one.seeds),
            "values": {name: [round(mean, 4) for mean in means] for name, means in one.means.items()},
            "outcomes": [asdict(outcome) for outcome in one.outcomes],
        }
        for one in judged
        if one.outcomes
    ]
    write_whole(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def outcome(test: Test, found: Mapping[str, Sequence[Values]]) -> Outcome:
    """Decide one test by the rules of the file of claims."""
    words = test.in_words()
    if test.expect == "rises":
        trend = rises(found[test.value])
        low, high = trend.interval
        said = f"correlation {statistics.fmean(trend.seeds):+.3f} [{low:+.3f}, {high:+.3f}]"
        return Outcome(words, trend.holds, f"{said}; seeds {_seeds(trend.seeds)}")
    pairs = list(zip(found[test.value], found[test.against], strict=True))
    if test.expect == "more_on_hard":
        trend = more_on_hard(pairs)
        low, high = trend.interval
        said = f"gain on hard minus on easy {statistics.fmean(trend.seeds):+.3f} [{low:+.3f}, {high:+.3f}]"
        return Outcome(words, trend.holds, f"{said}; seeds {_seeds(trend.seeds)}")
    gap = difference(pairs)
    low, high = gap.test.interval
    said = f"{gap.test.difference:+.3f} [{low:+.3f}, {high:+.3f}], p = {gap.test.p_value:.4f}"
    return Outcome(words, holds(test.expect, gap), f"{said}; seeds {_seeds(gap.seeds)}")


def holds(expect: str | Mapping[str, float], gap: Difference) -> bool:
    """Whether a difference is as expected: ``higher``, ``lower``, or a margin."""
    low, high = gap.test.interval
    if isinstance(expect, str):
        sign = 1 if expect == "higher" else -1
        return gap.one_sign and sign * gap.test.difference > 0 and gap.test.p_value < ALPHA
    ((name, margin),) = expect.items()
    below, above = high < margin, low > (margin if name == "at_least" else -margin)
    return {"at_most": below, "at_least": above, "within": below and above}[name]


def _seeds(numbers: Sequence[float]) -> str:
    return " ".join(f"{one:+.3f}" for one in numbers)


def page(judged: Sequence[Judged]) -> str:
    """docs/findings.md."""
    verdicts = [one.verdict for one in judged]
    kinds = list(dict.fromkeys(verdicts))
    summary = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in kinds)
    rows = [
        [
            f"[{one.finding.number}](#finding-{one.finding.number})",
            one.finding.title,
            one.finding.paper,
            _measured_in_words(one),
            f"**{one.verdict}**",
        ]
        for one in judged
    ]
    return (
        "\n\n".join(
            [
                "# The paper's findings, tried in miniature",
                f"{INTRODUCTION} {len(judged)} claims: {summary}.",
                table(["", "claim", "the paper", "measured", "verdict"], rows),
                NOT_REPRODUCED,
                "## How they were tried",
                f"{WRITTEN_BY}\n\n{BEFOREHAND}\n\n{NAMES}",
                "\n".join(f"- `{name}`: {said}" for name, said in MEASURES.items()),
                *(_section(one) for one in judged),
            ]
        )
        + "\n"
    )


def _measured_in_words(one: Judged) -> str:
    if one.finding.not_built or one.finding.not_testable:
        return one.finding.not_built or one.finding.not_testable
    if not one.outcomes:
        return f"{len(one.seeds)} of {FEWEST_SEEDS} seeds" if one.finding.tests else "–"
    first = one.finding.tests[0]
    names = [name for name in (first.against, first.value) if name]
    return ", ".join(f"{name} {_middle(one.means[name])}" for name in names)


def _middle(means: Sequence[float]) -> str:
    return f"{statistics.fmean(means):.3f}"


def _each(means: Sequence[float]) -> str:
    return " ".join(f"{mean:.3f}" for mean in means)


def _section(one: Judged) -> str:
    finding = one.finding
    lines = [
        f'<a id="finding-{finding.number}"></a>',
        f"## {finding.number}. {finding.title}: {one.verdict}",
        (f"The paper: {finding.paper}." if finding.paper != ABSENT else "Not in the paper.")
        + (
            f" Recipe: [{Path(finding.recipe).name}](../recipes/findings/{finding.recipe})."
            if finding.recipe
            else ""
        )
        + (f" Measured {one.day}." if one.day else ""),
    ]
    if one.outcomes:
        rows = [[o.test, o.measured, "holds" if o.holds else "does not hold"] for o in one.outcomes]
        means = [[f"`{name}`", _middle(found), _each(found)] for name, found in one.means.items()]
        lines.append(table(["value", "mean", "each seed"], means))
        lines.append(table(["test", f"difference over seeds {', '.join(map(str, one.seeds))}", ""], rows))
        lines.append(f"![{finding.title}](figures/{drawing_name(finding)})")
    elif finding.tests:
        lines.append("Tests: " + "; ".join(test.in_words() for test in finding.tests) + ".")
    elif finding.not_built or finding.not_testable:
        lines.append(f"{(finding.not_built or finding.not_testable).capitalize()}.")
    return "\n\n".join(lines)


def drawing_name(finding: Finding) -> str:
    return f"finding-{finding.number}.svg"


def drawing_of(one: Judged) -> str:
    """Every value of the finding a line: a dot a seed, a stroke at their mean. Values above 1 (lengths) are
    drawn as a share of the largest."""
    means = one.means
    height = ROW * len(means) + 40
    drawn = []
    for place, (name, seeds) in enumerate(means.items()):
        group = [means[other] for other in means if other.rpartition(".")[2] == name.rpartition(".")[2]]
        largest = max(max(other) for other in group)
        scale = largest if largest > 1 else 1.0
        drawn.append(
            _line(name, [value / scale for value in seeds], statistics.fmean(seeds), 18 + ROW * place)
        )
    head = (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(one.finding.title)}" '
        'xmlns="http://www.w3.org/2000/svg" style="font:12px system-ui,sans-serif;fill:var(--ink,#222)">'
    )
    return f"{head}{STYLE}{_ticks(height)}{''.join(drawn)}</svg>\n"


def _x(share: float) -> float:
    return LEFT + (WIDTH - LEFT - 70) * share


def _ticks(height: int) -> str:
    lines = [
        f'<line x1="{_x(t / 4):.1f}" x2="{_x(t / 4):.1f}" y1="6" y2="{height - 26}" '
        'style="stroke:var(--rule,#ddd)"/>'
        f'<text x="{_x(t / 4):.1f}" y="{height - 10}" text-anchor="middle">{t / 4:g}</text>'
        for t in range(5)
    ]
    return "".join(lines)


def _line(name: str, shares: Sequence[float], middle: float, y: int) -> str:
    at = _x(statistics.fmean(shares))
    return (
        f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
        + "".join(
            f'<circle cx="{_x(share):.1f}" cy="{y}" r="3.5" style="fill:var(--c0,#1f5fa8);opacity:.55"/>'
            for share in shares
        )
        + f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y - 7}" y2="{y + 7}" '
        'style="stroke:var(--c1,#c0562b);stroke-width:2.5"/>'
        + f'<text x="{WIDTH - 62}" y="{y + 4}">{middle:.3g}</text>'
    )


def write(findings: Sequence[Finding], seeds: Sequence[int], out: Path, kept: Path = KEPT) -> None:
    """Measure what is trained, keep it, and write the page and the drawings of what is new."""
    earlier = read_kept(findings, kept)
    own = [judge(finding, seeds) for finding in findings]
    judged = [one if one.outcomes else earlier.get(one.finding.number, one) for one in own]
    drawings = out.parent / "figures"
    drawings.mkdir(parents=True, exist_ok=True)
    for one in own:
        if one.outcomes:
            (drawings / drawing_name(one.finding)).write_text(drawing_of(one), encoding="utf-8")
    write_kept(judged, kept)
    out.write_text(page(judged), encoding="utf-8")


def run_all(findings: Sequence[Finding], only: Sequence[int], seeds: Sequence[int], out: Path) -> None:
    """Train recipe by recipe with all seeds, and write the page after each recipe."""
    console = make_console()
    chosen = [one for one in findings if not only or one.number in only]
    wanted = {one.recipe for one in chosen if one.recipe}
    unknown = wanted - set(ORDER)
    if unknown:
        raise ConfigError(f"{CLAIMS}: {', '.join(unknown)} has no place in ORDER of benchmarks/findings.py")
    for recipe in ORDER:
        if recipe in wanted:
            for seed in seeds:
                train(CLAIMS.parent / recipe, seed, console)
            write(findings, seeds, out)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", metavar="1,2", help="findings by number")
    add_options(parser, FEWEST_SEEDS, Path("docs/findings.md"))
    given = parser.parse_args(words)
    seeds = range(given.seeds)
    try:
        findings = read_claims()
        if not given.page:
            run_all(findings, [int(one) for one in given.only.split(",") if one], seeds, given.out)
        write(findings, seeds, given.out)
    except (R1kitError, OSError) as error:
        sys.exit(f"findings: {error}")
    print(given.out)


if __name__ == "__main__":
    main()
