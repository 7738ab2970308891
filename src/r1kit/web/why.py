"""The page of ``r1kit why`` from the rollouts: which kept update has a rollout, and the page itself, which
another process makes, because replaying needs torch and the pages do without."""

import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

from r1kit.records import UPDATES, stage_folder
from r1kit.terminal import printable
from r1kit.web.kept_rollouts import KeptRollout

SECONDS = 120.0  # a replay may take, and then its process is ended
LARGEST = 64 << 20  # bytes of an update's rollouts that are searched


def update_with(run_dir: Path, kept: KeptRollout, steps: Sequence[int]) -> int | None:
    """The step of the kept update that learned from this rollout; None where there is none. ``steps``: those
    with samples of its training, of which the next one begins another phase."""
    end = min((step for step in steps if step > kept.step), default=None)
    folder = stage_folder(run_dir, kept.stage)
    for out in (folder.final, folder.partial) if not kept.part else ():
        for update in sorted((out / UPDATES).glob("step_*")):
            step = update.name.removeprefix("step_")
            in_phase = step.isdecimal() and kept.step <= int(step) and (end is None or int(step) < end)
            if in_phase and _has(update / "rollouts.jsonl", kept):
                return int(step)
    return None


def _has(file: Path, kept: KeptRollout) -> bool:
    try:
        if file.is_symlink() or file.stat().st_size > LARGEST:
            return False
        for line in file.read_bytes().splitlines():
            row = json.loads(line)
            if (row["problem"], row["group"], row["index"]) == (kept.problem, kept.group, kept.index):
                return bool(row["text"] == kept.text)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return False


class Replays:
    """Makes the pages of replays, one at a time: each has the memory of a training. ``program`` calls
    r1kit."""

    def __init__(self, program: Sequence[str] = (sys.executable, "-m", "r1kit")) -> None:
        self.program = program
        self._one = asyncio.Lock()

    async def page(self, run_dir: Path, stage: str, step: str, problem: str) -> tuple[int, str]:
        """The status and the HTML of a replay's page, or of why there is none."""
        if number_of(step) is None:
            return 404, _plain("the address names no step")
        async with self._one:
            with tempfile.TemporaryDirectory(prefix="r1kit-why-") as folder:
                file = Path(folder) / "why.html"
                words = ["why", str(run_dir), f"--stage={stage}", f"--step={step}", f"--problem={problem}"]
                try:
                    code, said = await _run([*self.program, *words, f"--out={file}"])
                    return (200, file.read_text(encoding="utf-8")) if not code else (404, _plain(said))
                except TimeoutError:
                    limit = f"the replay took longer than {SECONDS:.0f} s"
                    return 504, _plain(f"{limit}; r1kit why in a terminal has no limit")
                except (OSError, ValueError) as error:
                    return 404, _plain(str(error))


def number_of(step: str) -> int | None:
    """The step that an address names; None for anything else."""
    return int(step) if step.isascii() and step.isdecimal() and len(step) < 12 else None


async def _run(command: Sequence[str]) -> tuple[int, str]:
    """The exit code of a command, and what it printed to standard error."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, said = await asyncio.wait_for(process.communicate(), SECONDS)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return process.returncode or 0, said.decode(errors="replace")


def _plain(message: str) -> str:
    return f"<!doctype html><meta charset=utf-8><title>why</title><pre>{escape(printable(message))}</pre>"
