"""Damage one file or folder of a run, give the command that reads it, and judge what came of it.

    identical   the result is that of the undisturbed run
    recovered   the same, and a warning names the file
    refused     exit code 1 or 2, with an error that names the file; all other results are as they were
    wrong       anything else: another result, a traceback, an unexpected error, a hang, a file outside the
                run's folder that was changed

A finished stage that reads nothing of the damaged file may leave it as it is, if ``r1kit verify`` names it:
that counts as refused."""

import json
import random
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from chaos.damage import OF_FILES, OF_FOLDERS, Source, describe
from chaos.runs import contents, differences, fingerprint, fork, r1kit, wait_or_end
from chaos.targets import Case, Donors, Target
from chaos.world import Moment, World, inside, until_finished
from r1kit.marks import OWN_HASH

LIMIT_S = 120.0
# What the promise leaves out, with the reason. docs/reliability.md lists the same.
UNREAD = {
    "lock": "says which process works on the run; the lock itself is the system's",
    "env.json": "what the machine was; only a model card repeats it",
    "finished.json": "that nothing remains to do; with another content run looks at every stage again",
}
# Damage that a finished run's ``run`` must not pass over: what later commands read as its result.
RESULTS = ("weights", "model configurations", "tokenizers", "data of stages", "reports of stages")


def _same_end(run: Path, wanted: Path) -> bool:
    """Whether two finished.json differ in nothing but the hash of env.json, which has the time."""
    ends = []
    for folder in (run, wanted):
        try:
            found = json.loads((folder / "finished.json").read_text(encoding="utf-8"))
            ends.append({**found, "files": {**found["files"], "env.json": ""}, OWN_HASH: ""})
        except (OSError, ValueError, KeyError, TypeError):
            return False
    return ends[0] == ends[1]


@dataclass(frozen=True)
class Outcome:
    """The verdict on one case."""

    number: int
    kind: str
    target: str
    moment: str
    damage: str
    command: str
    verdict: str
    details: str = ""

    def __str__(self) -> str:
        at = f"at {self.moment}" if self.moment != "finished" else "finished"
        return (
            f"case {self.number}: {self.verdict}: {self.target} ({at}), {self.damage}, {self.command}: "
            f"{self.details}"
        )


class Mutator:
    """Works on cases in a place of its own."""

    def __init__(self, world: World, place: Path) -> None:
        self.world, self.place = world, world.place(place)
        self.run, self.outside = place / "run", place / "outside"
        self.donors = Donors(world)
        self._wanted: dict[str, object] = {}

    def work(self, case: Case) -> Outcome:
        """Do one case: restore the moment, damage, give the command, judge."""
        target = case.target
        wanted = None if target.moment.working or case.command in ("run", "verify") else self._intact(case)
        self._restore(target)
        before = self._everything()
        damage = self._damage(case)
        if damage is None:
            return self._outcome(case, "none", "identical", "no damage of any kind changes it")
        outside = contents(self.outside)
        code, said = self._command(case)
        verdict, details = self._judge(case, code, said, wanted, before)
        if changed := differences(contents(self.outside), outside):
            verdict, details = "wrong", f"changed outside the run: {changed}"
        return self._outcome(case, damage, verdict, details)

    def continued(self, moment: Moment) -> Outcome:
        """Continue an undamaged moment, as after a kill: only the same result counts as identical."""
        target = Target(moment, "run", "no damage", is_folder=True)
        case = Case(-1, target, (), "run")
        self._restore(target)
        code, said = self._command(case)
        different = self._changed(case) if code == 0 else []
        details = f"ended with {code}: {said[-400:]}" if code else f"another result: {different[:4]}"
        good = code == 0 and not different
        return self._outcome(case, "nothing", "identical" if good else "wrong", "" if good else details)

    def _outcome(self, case: Case, damage: str, verdict: str, details: str) -> Outcome:
        target = case.target
        details = re.sub(r"\s+", " ", details)[:600]
        return Outcome(
            case.number, target.kind, target.name, target.moment.name, damage, case.command, verdict, details
        )

    def _restore(self, target: Target) -> None:
        for folder in (self.run, self.outside, self.place / "exported"):
            shutil.rmtree(folder, ignore_errors=True) if not folder.is_symlink() else folder.unlink()
        shutil.copytree(target.moment.folder, self.run, symlinks=True)
        self.outside.mkdir()
        if target.kind == "kernels" or differences(
            contents(self.place / "cache"), contents(self.world.kernels)
        ):
            shutil.rmtree(self.place / "cache", ignore_errors=True)
            shutil.copytree(self.world.kernels, self.place / "cache")

    def _damage(self, case: Case) -> str | None:
        """Damage the target by the first kind that changes something; return its name."""
        path = self.place / case.target.name
        kinds = OF_FOLDERS if case.target.is_folder else OF_FILES
        chance = random.Random(f"damage/{case.number}/{case.target.name}")
        before = describe(path)
        for name in case.order:
            others = self.donors.of(case.target, path) if name == "foreign" else []
            kinds[name](path, Source(chance, others, self.outside))
            if describe(path) != before:
                return name
        return None

    def _command(self, case: Case) -> tuple[int | None, str]:
        output = self.place / "output.txt"
        code = wait_or_end(fork(inside(self.place, self._work_of(case)), output), LIMIT_S)
        return code, output.read_text(encoding="utf-8", errors="replace")

    def _work_of(self, case: Case) -> Callable[[], None]:
        stage = case.target.stage.removesuffix(".partial") or "alignment_rl"
        model = ("--stage", stage) if "/model/" in f"{case.target.name}/" else ()

        def run() -> None:
            if case.target.moment.working:
                until_finished(case.target.moment.working)
            r1kit(*self.world.command())

        works: Mapping[str, Callable[[], None]] = {
            "run": run,
            "verify": lambda: r1kit("verify", "run"),
            "export": lambda: r1kit("export", "run", "--to", "exported", *model),
            "chat": lambda: r1kit(
                "chat", "run", *model, "--prompt", "What is 1 + 2?", "--max-tokens", "8", "--temperature", "0"
            ),
            "report": _write_report,
        }
        return works[case.command]

    def _intact(self, case: Case) -> object:
        """What the command gives on an intact run."""
        name = f"{case.command}/{case.target.stage if '/model' in case.target.name else ''}"
        if name not in self._wanted:
            self._restore(case.target)
            code, said = self._command(case)
            if code != 0:
                raise SystemExit(f"{case.command} of the undisturbed run failed ({code}):\n{said}")
            self._wanted[name] = self._given(case.command, said)
        return self._wanted[name]

    def _given(self, command: str, said: str) -> object:
        """What a command gave: the exported folder, the answer, or the report."""
        if command == "export":
            return contents(self.place / "exported")
        if command == "report":
            return {name: digest for name, digest in contents(self.run).items() if name.startswith("report.")}
        return said

    def _everything(self) -> dict[str, str]:
        return {f"run/{name}": digest for name, digest in contents(self.run).items()}

    def _judge(
        self,
        case: Case,
        code: int | None,
        said: str,
        wanted: object,
        before: Mapping[str, str],
    ) -> tuple[str, str]:
        """The verdict on what a command did, and why."""
        if code is None:
            return "wrong", f"no end within {LIMIT_S:.0f} s: {said[-300:]}"
        if code != 0:
            return self._judge_refusal(case, code, said, before)
        if "Traceback" in said:
            return "wrong", f"a traceback: {said[-400:]}"
        is_good = "recovered" if _warned(said, case.target) else "identical"
        if case.command not in ("run", "verify"):
            good = self._given(case.command, said) == wanted or self._says_the_same(case, said, wanted)
            return (is_good, "") if good else ("wrong", "another result, exit code 0")
        if case.command == "verify":
            if "stranger.bin" in said:
                return "recovered", "a file of another origin, named by verify"
            return self._judge_rest(case, self._changed(case), "whole, says verify")
        return self._judge_run(case, is_good)

    def _judge_run(self, case: Case, is_good: str) -> tuple[str, str]:
        """The verdict on a run that ended well: on its result, and on damage that it has not read."""
        different = self._changed(case)
        if not different:
            return is_good, ""
        if case.target.kind in RESULTS and not case.target.moment.working:
            return "wrong", f"done, says run; different: {different[:4]}"
        places = (case.target.name, case.target.name.replace(".partial", ""))  # a stage's folder is renamed
        rest = [name for name in different if not any(_is_below(name, place) for place in places)]
        if rest:
            return "wrong", f"another result: {rest[:4]}"
        code, said = self._command(Case(case.number, case.target, case.order, "verify"))
        if code == 1 and _names(said, case.target):
            return "refused", "still damaged; verify names it"
        if "stranger.bin" in said:
            return "recovered", "a file of another origin, named by verify"
        if case.target.kind == "log" and "which has not begun" in said:
            return "recovered", "rows of stages that have not begun, named by verify"
        return self._judge_rest(case, different, "run and verify do not see it")

    def _judge_rest(self, case: Case, different: list[str], words: str) -> tuple[str, str]:
        """The verdict on a damage that is still there, and was not named."""
        if not different or case.target.kind in UNREAD:
            return "identical", ""
        return "wrong", f"{words}; different: {different[:4]}"

    def _says_the_same(self, case: Case, said: str, wanted: object) -> bool:
        """Whether an answer is the same but for warnings."""
        return case.command == "chat" and str(wanted).strip() in said

    def _changed(self, case: Case) -> list[str]:
        """The names of files that differ from those of the undisturbed run at the same place."""
        working = case.target.moment.working
        wanted = self.world.after(working) if working else self.world.finished()
        compared = fingerprint if working else contents
        found = differences(compared(self.run), compared(wanted))
        if "finished.json" in found and _same_end(self.run, wanted):
            found.remove("finished.json")
        return [f"run/{name}" for name in found if name not in ("lock", "run.lock", "env.json")]

    def _judge_refusal(self, case: Case, code: int, said: str, before: Mapping[str, str]) -> tuple[str, str]:
        reason = said[said.find("r1kit: ") :] if "r1kit: " in said else ""
        if code not in (1, 2) or "Traceback" in said:
            return "wrong", f"ended with {code}: {said[-400:]}"
        if case.command == "verify":
            named = _names(said, case.target)
            return ("refused", "") if named else ("wrong", f"verify does not name it: {said[-400:]}")
        if not reason or "unexpected" in reason or "please report" in reason or "whole traceback" in reason:
            return "wrong", f"an unexpected error: {said[-400:]}"
        if not _names(reason, case.target):
            return "wrong", f"the error does not name the file: {reason[-400:]}"
        lost = [
            name
            for name in differences(self._everything(), before)
            if name in before and _is_result(name) and not _is_below(name, case.target.name)
        ]
        return ("wrong", f"refused, and changed: {lost[:4]}") if lost else ("refused", "")


def _write_report() -> None:
    from r1kit.config import R1kitError
    from r1kit.report import write

    try:
        write(Path("run"))
    except R1kitError as error:
        print(f"r1kit: {error}")
        sys.exit(1)


def _is_result(name: str) -> bool:
    """Whether a file belongs to a finished stage."""
    return name.startswith("run/stages/") and ".partial" not in name


def _is_below(name: str, folder: str) -> bool:
    return name == folder or name.startswith(f"{folder}/")


def _names(text: str, target: Target) -> bool:
    """Whether a text names the file, a folder that holds it alone, or its stage as an input."""
    path = Path(target.name)
    names = [path.name, path.parent.name if path.parent.name.startswith("step_") else path.name]
    if target.stage:
        names += [f"@{target.stage}"]
        if target.is_folder or path.name == "stage.json":
            names += [f"stages/{target.stage}", f"'{target.stage}'", f"{target.stage}:"]
    if target.kind == "kernels":
        names += ["kernel"]
    return any(name in re.sub(r"\n\s*", "", text) or name in text for name in names)


def _warned(said: str, target: Target) -> bool:
    """Whether a warning names the target."""
    return any(_names(said[place.start() :], target) for place in re.finditer("warning", said))


def as_json(outcome: Outcome) -> str:
    """An outcome as a line of a file."""
    return json.dumps(vars(outcome), ensure_ascii=False)
