"""What ``run`` prints at its end, and before it where it is only asked what it would do."""

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from r1kit.terminal import print_lines


def command_words(*words: str) -> str:
    """The command line for these words, with r1kit called as it was this time."""
    if Path(sys.argv[0]).name == "__main__.py":
        program = f"{Path(sys.executable).name} -m r1kit"
    else:
        program = "r1kit" if shutil.which("r1kit") else sys.argv[0]
    from r1kit.addresses import word_without_secrets

    return f"{program} {shlex.join(word_without_secrets(word) for word in words)}"


def print_end(run_dir: Path, states: Any, as_json: bool) -> None:
    from r1kit.records import has_model

    report = run_dir / "report.md"
    if as_json:
        known = {
            "run": str(run_dir),
            "report": str(report) if report.exists() else None,
            "states": dict(states),
        }
        print(json.dumps(known, indent=2))
        return
    worked = any(state != "done" for state in states.values())
    lines = [
        f"{run_dir}: all stages are done"
        + ("" if worked else " already; nothing to do (--fresh starts over)")
    ]
    if report.exists():
        lines.append(f"  read   {report}  (and {report.with_suffix('.html').name} in a browser)")
    if has_model(run_dir):
        lines.append(f"  chat   {command_words('chat', str(run_dir))}")
    lines.append(f"  look   {command_words('ui', str(run_dir))}  (curves and rollouts in a browser)")
    print_lines(lines)


def print_survey(recipe: Any, layers: Any, redo_from: str | None, fresh: bool, as_json: bool) -> None:
    from r1kit.recipe.inputs import check_inputs
    from r1kit.recipe.recipe import unloaded
    from r1kit.runs.survey import Standing, survey

    standings = [Standing(s, "new") for s in recipe.stages] if fresh else survey(recipe, redo_from)
    standings = [_as_far_as_known(standing, unloaded(recipe)) for standing in standings]
    _print_standings(recipe, standings, as_json)
    for line in () if as_json else not_imported(recipe):
        print(line)
    check_inputs(recipe, layers, [standing.stage.name for standing in standings if standing.state != "done"])


def _as_far_as_known(standing: Any, unloaded: set[str]) -> Any:
    """A stage whose code was not imported has no defaults to compare, so it cannot be said to have
    changed."""
    if standing.state == "changed" and standing.stage.name in unloaded:
        return replace(standing, state="unknown", differences=())
    return standing


def not_imported(recipe: Any) -> list[str]:
    """What was not checked because the code that the recipe names was not imported, in words."""
    from r1kit.recipe.recipe import resolved
    from r1kit.recipe.uses import imports_of
    from r1kit.user_code import are_imported

    names = [] if are_imported() else [code.name for code in imports_of(resolved(recipe))]
    if not names:
        return []
    return [
        f"not imported, so only its file and name were checked, not its parameters: {', '.join(names)} "
        "(--trust imports it, which runs it)"
    ]


def _print_standings(recipe: Any, standings: Sequence[Any], as_json: bool) -> None:
    if as_json:
        states = [{"name": s.stage.name, "state": s.state, "differences": s.differences} for s in standings]
        print(json.dumps({"run": str(recipe.run_dir), "stages": states}, indent=2))
        return
    words = {
        "done": "done, kept",
        "continue": "would continue",
        "new": "would run",
        "changed": "CHANGED since it was made",
        "unknown": "made by code that was not imported; --trust compares",
    }
    for standing in standings:
        print_lines([f"{standing.stage.name:<20} {words[standing.state]}"])
        print_lines(f"  {difference}" for difference in standing.differences)
