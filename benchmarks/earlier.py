"""Measurements of an objectives page that were made at an earlier revision, so that a page can be written
again from runs of some settings only.

A page is a list of measurements, each under a heading of its own and made at one revision: what its lines
have in common, its verdicts, its drawing and its tables. A setting that has been measured again is removed
from the earlier measurement; the reference stays, because the earlier verdicts compare with it."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from r1kit.config import R1kitError

KEPT = "## Not measured again since"
COMPARED = "against the first, same seed"  # the column of the verdicts
SUMMARY = "Better than the first line:"
NOTE = (
    "These lines are compared with the first line of their own table only, which was measured at the same "
    "revision. Settings of a table above are left out; the drawing shows them as they were."
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measurement of a page, its text without the heading: ``reason`` is why it must not be compared with
    later ones, empty where the page does not say it."""

    revision: str
    date: str
    reason: str
    paragraphs: tuple[str, ...]

    @property
    def short(self) -> str:
        return short(self.revision)

    @property
    def settings(self) -> list[str]:
        """The names of its lines, the reference first."""
        return [_setting(line) for line in _table(self)[2:]]


def short(revision: str) -> str:
    """The first seven digits of a revision, with its "+" where the source was changed."""
    return revision[:7] + "+" * revision.endswith("+")


def measurements(page: str) -> list[Measurement]:
    """The measurements of a page, in its order. Raises R1kitError for one without a date and a revision."""
    first, *others = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    if not others:  # pages had no headings when all their lines were measured together
        others = ["\n\n".join(_paragraphs(first)[2:])]
    return [_measurement(text) for text in others]


def _measurement(text: str) -> Measurement:
    paragraphs = _paragraphs(text)
    heading = paragraphs.pop(0) if paragraphs and paragraphs[0].startswith("## ") else ""
    found = re.search(r"^(\d{4}-\d\d-\d\d)\. .*source revision ([0-9a-f]+\+?)", text, re.MULTILINE)
    if found is None:
        raise R1kitError(
            f"{heading or 'the page'!r} has no line with date and source revision, so it is not known "
            "when its lines were measured: name a page that benchmarks/objectives.py has written"
        )
    reason = heading.partition(": ")[2] if heading.startswith(KEPT) else ""
    return Measurement(found[2], found[1], reason, tuple(p for p in paragraphs if p != NOTE))


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in text.split("\n\n") if part.strip()]


def kept(
    measurement: Measurement,
    again: Collection[str],
    reference: str,
    reason: str,
    summary: Callable[[Mapping[str, str]], str],
) -> str:
    """The measurement as the page keeps it, without the settings ``again``, which have been measured again;
    empty where only the reference would be left. ``summary`` makes the sentence from verdicts by setting."""
    lines = _table(measurement)
    rows = {_setting(line): line for line in lines[2:]}
    left = {name: line for name, line in rows.items() if name == reference or name not in again}
    if set(left) <= {reference}:
        return ""
    if reference not in left:
        raise R1kitError(
            f"revision {measurement.short}: no line {reference!r}, which the others are compared with"
        )
    column = _cells(lines[0]).index(COMPARED)
    verdicts = {name: _cells(line)[column] for name, line in left.items() if name != reference}
    head = f"{KEPT} {measurement.date}, revision {measurement.short}: {measurement.reason or reason}"
    body = []
    for paragraph in measurement.paragraphs:
        if paragraph.startswith(SUMMARY):
            paragraph = summary(verdicts)
        elif paragraph == "\n".join(lines):
            paragraph = "\n".join([*lines[:2], *left.values()])
        elif paragraph.startswith("!["):
            paragraph = re.sub(r"\(.*\)", f"(figures/{drawing_name(measurement)})", paragraph)
        body.append(paragraph)
    return "\n\n".join([head, NOTE, *body])


def drawing_name(measurement: Measurement) -> str:
    """The file of an earlier measurement's drawing, in docs/figures."""
    return f"objectives-{measurement.short.rstrip('+')}.svg"


def _table(measurement: Measurement) -> list[str]:
    """The lines of the table of settings."""
    for paragraph in measurement.paragraphs:
        lines = paragraph.splitlines()
        if COMPARED in _cells(lines[0]):
            return lines
    raise R1kitError(f"revision {measurement.short}: no table with a column {COMPARED!r}")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _setting(line: str) -> str:
    return _cells(line)[0].strip("`")
