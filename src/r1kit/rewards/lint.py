"""The linter as a signal: what ruff finds in the program of an answer.

    score = max(0, 1 - findings / limit)      0 for what is no Python

Findings are those of pyflakes and of pycodestyle's errors (rules E7, E9 and F: undefined names, unused
imports and variables, comparisons such as ``== None``, ambiguous names). Comments and configuration that
silence a finding do not count. It says nothing about what a program computes: give it a small weight next to
``accuracy``. ruff is an optional extra, and this is the only file that runs it."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1kit.config import ConfigError
from r1kit.rewards.reward import CheckingTask, Failed, Reward
from r1kit.sandbox.leetcode import names_for
from r1kit.sandbox.programs import lint as fault_of
from r1kit.tasks.programs import read_program
from r1kit.types import Rollout

RULES = "E7,E9,F"
SECONDS = 60.0  # of one call; a program on which ruff takes longer alone is worth 0
_GOOD = "def f(x):\n    return x\n"


def lint(tasks: Mapping[str, CheckingTask], *, limit: int = 5) -> Reward:
    """Make the linter's reward: 1 for a program without findings, less by 1 / ``limit`` for each, 0 for no
    program; None for problems without tests. Raises ConfigError where ruff is not installed."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ConfigError(f"rewards.lint: limit must be a whole number of at least 1 (given: {limit!r})")
    ruff = find_ruff()

    def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
        asked = [place for place, rollout in enumerate(rollouts) if "tests" in rollout.problem.columns]
        programs = {place: _program(rollouts[place]) for place in asked}
        found = count_findings(ruff, sorted({text for text in programs.values() if text is not None}))
        values: list[float | None] = [None] * len(rollouts)
        for place, text in programs.items():
            count = None if text is None else found[text]
            values[place] = (
                count if isinstance(count, Failed) else 0.0 if count is None else max(0.0, 1 - count / limit)
            )
        return values

    return reward


def _program(rollout: Rollout) -> str | None:
    """The program of a rollout; None where there is none that Python can read."""
    if rollout.answer is None:
        return None
    program = read_program(rollout.answer, rollout.problem.columns.get("entry_point"))
    return None if fault_of(program) else program


def find_ruff() -> str:
    """The path of ruff: of this environment, else of PATH. Raises ConfigError where there is none."""
    own = Path(sys.executable).with_name("ruff")
    found = str(own) if own.is_file() else shutil.which("ruff")
    if found is None:
        raise ConfigError('rewards.lint: ruff is not installed: pip install "r1kit[lint]"')
    return found


def count_findings(ruff: str, programs: Sequence[str]) -> dict[str, int | Failed | None]:
    """The number of findings in each program; None for one that ruff cannot read. A program on which ruff
    itself ends is one of those; ``Failed`` where it ends on good programs too."""
    found = _count(ruff, programs)
    if found is not None:
        return dict(zip(programs, found, strict=True))
    if _count(ruff, [_GOOD]) is None:
        return dict.fromkeys(programs, Failed("lint: ruff cannot be run; see whether `ruff --version` works"))
    alone = {program: _count(ruff, [program]) for program in programs}
    return {program: None if counts is None else counts[0] for program, counts in alone.items()}


def _count(ruff: str, programs: Sequence[str]) -> list[int | None] | None:
    """The numbers of findings in programs; None where ruff ends without a report."""
    if not programs:
        return []
    with tempfile.TemporaryDirectory(prefix="r1kit-lint-") as folder:
        for place, program in enumerate(programs):
            Path(folder, f"{place}.py").write_text(program, encoding="utf-8")
        command = [ruff, "check", "--isolated", "--no-cache", "--ignore-noqa", "--exit-zero", "--quiet"]
        command += [f"--select={RULES}", "--target-version=py311", "--output-format=json", folder]
        try:
            done = subprocess.run(command, capture_output=True, timeout=SECONDS, cwd=folder, check=True)
            findings = json.loads(done.stdout)
        except (subprocess.SubprocessError, OSError, ValueError):
            return None
    by_file = [(int(Path(finding["filename"]).stem), finding) for finding in findings]
    unread = {place for place, finding in by_file if finding["code"] in (None, "invalid-syntax")}
    counts = Counter(place for place, finding in by_file if not _is_given(finding, programs[place]))
    return [None if place in unread else counts[place] for place in range(len(programs))]


def _is_given(finding: Mapping[str, Any], program: str) -> bool:
    """Whether a finding is a name that the sandbox defines, such as List for ``class Solution``."""
    name = re.search("`(.+?)`", str(finding["message"])) if finding["code"] == "F821" else None
    return name is not None and name[1] in names_for(program)
