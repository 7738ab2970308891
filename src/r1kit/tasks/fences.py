"""The program in an answer: which fenced block it is, and where it begins in bare text.

In this order: the whole answer, if it is Python that does something, or bare code with fences inside its
strings; the last block marked as Python (of several, the last that defines the entry point); the last
unmarked block that is Python; the last block; what follows the prose, if it is Python; the whole answer. A
fence is a line of three or more backticks or tildes, as in CommonMark; a line of such signs inside a string
of the program does not end it; a last fence may be unclosed, and then ends at a line that begins with its
signs. Bare code may be indented, or stand between tags: <code>, [PYTHON], \\begin{lstlisting}. An answer
that is quoted ("> ") is read without the quotation's marks."""

import ast
import bisect
import itertools
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST_ANSWER = 200_000  # characters; of a longer answer only the end is searched
MOST_TRIALS = 40  # texts of one answer that are tried as Python
MOST_BLOCKS, MOST_CLOSING, LONGEST_FENCE, DEEPEST_BLOCK = 100, 8, 300, 3

_OPENING = re.compile(r"^(?P<before>.*?)(?P<fence>`{3,}|~{3,})[ \t]*(?P<mark>[^`\n]*)$")
_INDENT = re.compile(r"[ \t]*(?:(?:[-*+]|\d+[.)])[ \t]+)?")  # of a list
_INLINE = re.compile(r"```[ \t]*(?:(python3?|py3?)[ \t]+)?([^`\n]+)```", re.IGNORECASE)
_INVISIBLE = " \t\r\f\v\u00a0\u200b\u2060\ufeff"
_PYTHON = frozenset(("python", "py", "python3", "py3", "ipython", "ipython3"))
_MARKDOWN = frozenset(("markdown", "md", "text", "txt"))
_QUOTED = re.compile(r"^[ \t]*>[ \t]*(?:`{3,}|~{3,})", re.MULTILINE)
_QUOTATION = re.compile(r"^[ \t]*> ?", re.MULTILINE)
_END_TAG = re.compile(r"^[ \t]*(?:(?:</[\w.-]+>[ \t]*)+|\\end\{\w+\}|\[/\w+\])[ \t]*$", re.MULTILINE)
_BEGINS = re.compile(
    r"[ \t]*(?:def|class|import|from|async def|if|for|while|with|try|print)\b|[@#]|\"\"\""
    r"|[A-Za-z_][\w., \[\]]*[-+*/]?=[^=]|[a-z_][\w.]*\("
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its mark in small letters ("" for none) and its text."""

    mark: str
    text: str


class _Trials:
    """Whether texts are Python, for at most MOST_TRIALS of them."""

    def __init__(self) -> None:
        self.left = MOST_TRIALS

    def tree(self, text: str) -> ast.Module | None:
        """The text as Python; None if it is none, or when the trials are used up."""
        self.left -= 1
        if self.left < 0:
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def read_program(answer: str, entry_point: str | None = None) -> str:
    """The program in an answer; see on top. ``entry_point``: the names that it should define."""
    answer = answer[-LONGEST_ANSWER:]
    if _QUOTED.search(answer) and _Trials().tree(answer) is None:
        answer = _QUOTATION.sub("", answer)
    return _read(answer, entry_point, DEEPEST_BLOCK)


def _read(answer: str, entry_point: str | None, depth: int) -> str:
    trials = _Trials()
    whole = trials.tree(answer)
    if whole is not None and _does_something(whole):
        return _without_words(answer.strip("\n").rstrip())
    around = _around_fences(answer)
    if around:
        return around
    blocks = list(_blocks(answer, trials))
    marked = [block.text for block in blocks if block.mark in _PYTHON]
    if marked:
        return next((text for text in reversed(marked) if _defines(text, entry_point)), marked[-1])
    for block in reversed(blocks):
        tree = None if block.mark else trials.tree(block.text)
        if tree is not None and _does_something(tree):
            return block.text
        if depth and block.mark in ("", *_MARKDOWN) and any(map(_opening, block.text.split("\n"))):
            return _read(block.text, entry_point, depth - 1)
    return _read_rest(answer, blocks, trials)


def _read_rest(answer: str, blocks: list[Block], trials: _Trials) -> str:
    """The program of an answer whose blocks are no Python: a fence in one line, an unmarked block, bare
    code."""
    inline: list[tuple[str, str]] = [] if blocks else _INLINE.findall(answer)
    inline = [(mark, text) for mark, text in inline if trials.tree(text.strip()) is not None]
    if inline:
        return next((text for mark, text in reversed(inline) if mark), inline[-1][1]).strip()
    unmarked = [block.text for block in blocks if not block.mark]
    if unmarked:
        return unmarked[-1]
    bare = _after_prose(_before_blocks(answer), trials)
    return bare if not blocks or (bare and trials.tree(bare) is not None) else blocks[-1].text


def _defines(text: str, entry_point: str | None) -> bool:
    if entry_point is None:
        return True
    names = [name.strip().rpartition(".")[2] for name in entry_point.split(",")]
    return all(re.search(rf"\b{re.escape(name)}\b", text) for name in names) and any(
        re.search(rf"^[ \t]*(?:(?:async )?def|class) {re.escape(name)}\b|^{re.escape(name)}\s*=", text, re.M)
        for name in names
    )


def _does_something(tree: ast.Module) -> bool:
    """Whether a text is more than values: "2" and "yes" are Python too."""
    return any(
        not isinstance(statement, ast.Expr) or any(isinstance(node, ast.Call) for node in ast.walk(statement))
        for statement in tree.body
    )


def _blocks(answer: str, trials: _Trials) -> Iterator[Block]:
    fences = _Fences(answer.split("\n"))
    place = -1
    for _ in range(MOST_BLOCKS):
        found = bisect.bisect_right(fences.openings, place)
        if found == len(fences.openings):
            return
        place = fences.openings[found]
        fence, mark = _opening(fences.lines[place]) or ("", "")
        end, text = _body(fences, place + 1, fence, mark, trials)
        yield Block(mark, text)
        place = end - 1


class _Fences:
    """Lines, and the places of those that may open or close a block."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        found = [_opening(line) for line in lines]
        self.openings = [place for place, opening in enumerate(found) if opening is not None]
        self.python = [place for place in self.openings if (found[place] or ("", ""))[1] in _PYTHON]
        self.ends = {
            sign: [place for place, line in enumerate(lines) if line.rstrip(_INVISIBLE).endswith(3 * sign)]
            for sign in "`~"
        }

    def closing(self, start: int, fence: str) -> list[tuple[int, str]]:
        """(place, what stands before the fence) of the first lines from ``start`` on that may close a
        block."""
        ends = self.ends[fence[0]]
        first = bisect.bisect_left(ends, start)
        texts = [
            (place, _before_closing(self.lines[place], fence)) for place in ends[first : first + MOST_CLOSING]
        ]
        return [(place, text) for place, text in texts if text is not None]


def _opening(line: str) -> tuple[str, str] | None:
    """(fence, mark) of a line that opens a block; after prose it must be marked as Python."""
    match = _OPENING.match(line.rstrip()) if len(line) <= LONGEST_FENCE else None
    if match is None:
        return None
    mark = re.split(r"[\s{}.,:=]+", match["mark"].strip().lower().lstrip("{."))[0]
    if not _INDENT.fullmatch(match["before"]) and (mark not in _PYTHON or "`" in match["before"]):
        return None
    return match["fence"], mark


def _body(fences: _Fences, start: int, fence: str, mark: str, trials: _Trials) -> tuple[int, str]:
    """(the place after a block, its text): up to the first closing fence with which it is Python, else up to
    the first one, else up to the next block that is marked as Python, else to the end."""
    lines, may_be_python = fences.lines, mark in ("", *_PYTHON)
    first: tuple[int, str] | None = None
    for place, last in fences.closing(start, fence):
        text = _dedented([*lines[start:place], *([last] if last else [])])
        first = first or ((place + 1, text) if not last else None)
        if may_be_python and trials.tree(text) is not None:
            return place + 1, text
        if not may_be_python and first:
            break
    rest = _dedented(lines[start:])
    if may_be_python and first is not None:  # never closed, with fences inside a string?
        whole = trials.tree(rest) is not None
        longest = rest if whole else _longest_start(rest, trials)
        if whole or (longest != rest and len(longest) > len(first[1])):
            return len(lines), longest
    end = first[0] if first else len(lines)
    again = bisect.bisect_left(fences.python, start)
    if mark in _PYTHON and again < len(fences.python) and fences.python[again] < end - 1:
        return fences.python[again], _dedented(lines[start : fences.python[again]])
    if first is not None:
        return first
    if trials.tree(rest) is not None:
        return len(lines), rest
    signs = [place for place in range(start, len(lines)) if lines[place].lstrip().startswith(fence)]
    if signs:
        return signs[0] + 1, _dedented(lines[start : signs[0]])
    return len(lines), _longest_start(rest, trials)


def _before_closing(line: str, fence: str) -> str | None:
    """What stands before the closing fence in a line ("" for a line of its own); None if it closes
    nothing."""
    bare = line.rstrip(_INVISIBLE)
    signs = len(bare) - len(bare.rstrip(fence[0]))
    return bare[: len(bare) - signs].rstrip() if signs >= len(fence) else None


def _dedented(lines: list[str]) -> str:
    return textwrap.dedent("\n".join(lines) + "\n") if lines else ""


def _longest_start(text: str, trials: _Trials) -> str:
    """The paragraphs of a text up to which it is Python; all of it if it never is."""
    paragraphs = re.split(r"(\n[ \t]*\n)", text)
    for count in range(len(paragraphs) - 2, 0, -2):
        if trials.left <= 0:
            break
        start = "".join(paragraphs[:count])
        if trials.tree(start) is not None:
            return start
    return text


def _around_fences(answer: str) -> str:
    """The program that begins before the first fence and goes on after it: the fence is inside a string;
    empty if there is none."""
    lines = answer.split("\n")
    fence = next((place for place, line in enumerate(lines) if _opening(line) is not None), 0)
    trials = _Trials()
    for place in [place for place in range(fence) if _BEGINS.match(lines[place])][:MOST_CLOSING]:
        text = _bare_from(lines, place)
        whole = trials.tree(text) is not None
        start = text if whole else _longest_start(text, trials)
        if (whole or start != text) and start.count("\n") > fence - place:
            return start
    return ""


def _before_blocks(answer: str) -> str:
    lines = answer.split("\n")
    return "\n".join(itertools.takewhile(lambda line: _opening(line) is None, lines))


def _after_prose(answer: str, trials: _Trials) -> str:
    """The program that begins at some line of a text without fences; all of it if there is none."""
    lines = answer.strip("\n").split("\n")
    for place, line in enumerate(lines):
        if not _BEGINS.match(line):
            continue
        text = _bare_from(lines, place)
        if trials.tree(text) is not None:
            return text
        start = _longest_start(text, trials)
        if start != text:
            return start
        if trials.left <= 0:
            break
    return answer.strip()


def _bare_from(lines: list[str], place: int) -> str:
    """The text from a line on, up to a closing tag, without the indentation of its first line, up to the
    first line that has less."""
    text = "\n".join(lines[place:])
    tagged = _END_TAG.search(text)
    text = text[: tagged.start()] if tagged else text
    indent = text[: len(text) - len(text.lstrip(" \t"))]
    if not indent:
        return text.rstrip()
    kept = itertools.takewhile(lambda line: not line.strip() or line.startswith(indent), text.split("\n"))
    return "\n".join(line.removeprefix(indent) for line in kept).rstrip()


def _without_words(program: str) -> str:
    """A program without bare words at its top, such as "Solution": each would be a NameError."""
    lines = program.split("\n")
    while len(lines) > 1 and (not lines[0].strip() or lines[0].strip().isidentifier()):
        lines.pop(0)
    return "\n".join(lines)
