"""Where text leaves the program: the terminal, a report, a model's card.

A text from a file, a model, a data set or an environment may hold characters that move the terminal's cursor,
hide a word or turn the order of a line. One rule for all of them: at the boundary a character without a glyph
is written as its escape (``\\u001b``), as in JSON, so that the JSON of a command stays the same JSON.

- ``guard`` puts the rule on standard output and standard error, for ``print`` and for what libraries write.
- r1kit.console puts it on what is printed with rich, whose own colours and progress line remain.
- ``printable`` is for a page that is written; ``one_line`` is for a text within a list, which must not look
  like two entries of it."""

import codecs
import io
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

PREFIX = "r1kit: "  # what every message on standard error begins with
_KEPT = "\n\t"
_SPACES = "\u00a0\u1680\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
# Letters and marks that Unicode calls printable, and that are drawn as nothing. Of the marks that choose
# among the forms of a character, which can hide a text of any length, only that of emojis stays.
_INVISIBLE = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
_INVISIBLE += "".join(map(chr, (*range(0xFE00, 0xFE0F), *range(0xE0100, 0xE01F0))))


def printable(text: str) -> str:
    """The text with an escape for every character that has no glyph: control characters, marks of direction,
    zero-width characters, halves of a character. Line ends, tabs and spaces of all widths stay."""
    if text.isprintable() and text.isascii():
        return text
    return "".join(character if _has_glyph(character) else _escape(character) for character in text)


def one_line(text: str) -> str:
    """The text on one line: as ``printable``, with escapes for line ends and tabs too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def message(text: str) -> str:
    """A message of one or more lines, as it is printed: only its first line begins at the left edge, so no
    text within it can look like a message of its own."""
    return printable(text).replace("\n", "\n  ")


def print_lines(lines: Iterable[str]) -> None:
    """Print a list to standard output, an entry on a line of its own."""
    print("\n".join(map(one_line, lines)))


def _has_glyph(character: str) -> bool:
    return (character.isprintable() and character not in _INVISIBLE) or character in _KEPT + _SPACES


def _escape(character: str) -> str:
    code = ord(character)
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)  # a pair of surrogates, as JSON writes it
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


class GuardedStream(io.TextIOBase):
    """A text stream in front of another one. It is no terminal to those who ask, so libraries write no
    colours of their own to it.

    A write that begins with PREFIX is a message: further lines of it are indented."""

    def __init__(self, behind: TextIO) -> None:
        self.behind = behind

    def write(self, text: str) -> int:
        """Write the text, made printable."""
        if text.startswith(PREFIX):
            body = text.removesuffix("\n")
            self.behind.write(message(body) + text[len(body) :])
        else:
            self.behind.write(printable(text))
        return len(text)

    def flush(self) -> None:
        self.behind.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self.behind.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.behind.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.behind.errors

    @property
    def buffer(self) -> Any:
        return self.behind.buffer


def guard() -> None:
    """Make standard output and standard error printable from here on, and let neither stop on a character
    that its encoding does not have."""
    sys.stdout, sys.stderr = _guarded(sys.stdout), _guarded(sys.stderr)


def _guarded(stream: Any) -> Any:
    if stream is None or isinstance(stream, GuardedStream):
        return stream
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return GuardedStream(stream)


def use_utf8() -> str | None:
    """Start this program again with file names and texts in UTF-8, where the locale has another encoding:
    under LC_ALL=C a file whose name is not ASCII could not be opened, hours after the start. Returns what is
    wrong where that is not possible; returns None, or does not return, where all is well."""
    if codecs.lookup(sys.getfilesystemencoding()).name == "utf-8":
        return None
    if os.environ.get("PYTHONUTF8") == "1" or not sys.orig_argv[1:]:
        return (
            f"file names are written as {sys.getfilesystemencoding()} here (LC_ALL or LANG), so not every "
            "name can be opened; set PYTHONUTF8=1, or LC_ALL=C.UTF-8"
        )
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # in the place of this process


def argument_error(arguments: Iterable[str]) -> str | None:
    """What is wrong with the words of a command line: bytes that are no UTF-8, which no recipe, record or
    report could write down. None where all can be written."""
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            return f"the argument {one_line(argument)} is not UTF-8; rename the file or folder that it names"
    return None
