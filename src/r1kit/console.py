"""The console of a command, for what is printed with rich: the rule of r1kit.terminal for every text, while
rich's own colours and its progress line remain."""

import sys
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from r1kit.terminal import GuardedStream, printable


class PrintableConsole(Console):
    """A console of rich that prints no character of a text that ``printable`` would escape."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Rich's own control sequences pass, texts are made printable."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


def make_console(to_stderr: bool = False) -> PrintableConsole:
    """A console on standard output or standard error as they were before ``terminal.guard``."""
    stream = sys.stderr if to_stderr else sys.stdout
    raw = stream.behind if isinstance(stream, GuardedStream) else stream
    return PrintableConsole(file=raw, highlight=False)
