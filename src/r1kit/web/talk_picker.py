"""Problems of a run's tasks to pick from: by task, by a text in them, or by chance."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

from nicegui import ui

from r1kit.config import R1kitError
from r1kit.terminal import printable
from r1kit.types import Problem
from r1kit.web.page_frame import text
from r1kit.web.talk_problems import MOST_SHOWN, SPLITS, RunTasks

_MOST_TEXT = 200  # characters that are searched for
_LABEL = 90  # characters of a problem in the list


class ProblemPicker:
    """The row that offers problems; ``pick`` gets the one that is chosen."""

    def __init__(self, tasks: RunTasks, pick: Callable[[Problem], None]) -> None:
        self.tasks, self.pick = tasks, pick
        self.shown: dict[str, Problem] = {}
        self.rng = random.Random()

    def build(self) -> None:
        """Make the row."""
        for name, trouble in self.tasks.troubles.items():
            text(f"The task {name} cannot be used here: {trouble}", "r1-soft")
        names = list(self.tasks.tasks)
        if not names:
            return
        with ui.row().classes("w-full items-center gap-3"):
            self.task = ui.select(names, value=names[0], label="task").classes("w-40").mark("task")
            self.split = ui.select(list(SPLITS), value=SPLITS[0], label="split").classes("w-32")
            self.search = ui.input("find a problem").props("dense outlined clearable debounce=400")
            self.search.classes("w-48").mark("find-problem")
            self.choice = ui.select({}, label="problem").classes("r1-problem").mark("problem")
            for one in (self.task, self.split, self.choice):
                one.props("dense outlined options-dense")
            for changed in (self.task, self.split, self.search):
                changed.on_value_change(self.offer)
            self.choice.on_value_change(self._chosen)
            random_one = ui.button("random problem", on_click=self._any).mark("random-problem")
            random_one.props("outline dense no-caps").classes("q-px-sm")
        ui.timer(0.1, self.offer, once=True)

    async def offer(self) -> None:
        """List the problems whose text contains what was typed."""
        wanted = self.search.value if isinstance(self.search.value, str) else ""
        found = await self._asked(self.tasks.some, wanted[:_MOST_TEXT])
        if found is not None:
            self.shown = {problem.id: problem for problem in found}
            self.choice.set_options({one.id: _label(one) for one in found}, value=None)
            of = f"the first {MOST_SHOWN}" if len(found) == MOST_SHOWN else f"{len(found)}"
            self.choice.props["label"] = f"problem ({of})"

    def _chosen(self, event: Any) -> None:
        problem = self.shown.get(event.value) if isinstance(event.value, str) else None
        if problem is not None:
            self.pick(problem)

    async def _any(self) -> None:
        problem = await self._asked(self.tasks.any, self.rng)
        if problem is not None:
            self.pick(problem)

    async def _asked(self, work: Callable[..., Any], *given: Any) -> Any:
        """What ``work`` finds for the task and the split that are chosen; None, and a message, where it
        cannot."""
        try:
            return await asyncio.to_thread(work, self.task.value, self.split.value, *given)
        except (R1kitError, OSError, KeyError) as error:
            ui.notify(printable(str(error)), type="warning", multi_line=True)
            return None


def _label(problem: Problem) -> str:
    line = " ".join(problem.prompt.split())
    return printable(line if len(line) <= _LABEL else f"{line[:_LABEL]} ...")
