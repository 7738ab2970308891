"""A text with formulas in LaTeX, shown as MathML.

latex2mathml makes the MathML. It is parsed, and only elements of MathML that draw something are made again,
one by one, each with its text as a text: nothing that a model wrote reaches the page as markup. A formula
that is not understood stays as it is written."""

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from latex2mathml.converter import convert
from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from r1kit.terminal import printable

DRAWN = frozenset(
    [
        "math",
        "mrow",
        "mi",
        "mn",
        "mo",
        "ms",
        "mtext",
        "mspace",
        "mfrac",
        "msqrt",
        "mroot",
        "mstyle",
        "mpadded",
        "mphantom",
        "mfenced",
        "menclose",
        "msub",
        "msup",
        "msubsup",
        "munder",
        "mover",
        "munderover",
        "mtable",
        "mtr",
        "mtd",
    ]
)
LONGEST, MOST = 2_000, 60  # characters of a formula, formulas of a text
_FORMULA = re.compile(
    r"\$\$(?P<block>.+?)\$\$|\\\[(?P<display>.+?)\\\]|\\\((?P<inline>.+?)\\\)"
    r"|(?<![\\$\w])\$(?P<dollars>[^\s$](?:[^$\n]*[^\s$\\])?)\$(?![\w$])"
    r"|(?P<boxed>\\boxed\{(?:[^{}]|\{[^{}]*\})*\})",
    re.DOTALL,
)


def pieces(content: str) -> Iterator[tuple[str, str | None]]:
    """(text as it is written, formula in it or None), in order."""
    place = 0
    for number, found in enumerate(_FORMULA.finditer(content)):
        formula = next(group for group in found.groups() if group is not None)
        if number >= MOST or len(formula) > LONGEST:
            continue
        if found.start() > place:
            yield content[place : found.start()], None
        yield found[0], formula
        place = found.end()
    if content[place:]:
        yield content[place:], None


def with_formulas(content: str, classes: str = "") -> None:
    """Make a text with its formulas at the current place of the page."""
    with ui.element("div").classes(f"r1-text {classes}"):
        for written, formula in pieces(content):
            tree = None if formula is None else mathml(formula)
            if tree is None:
                TextElement(tag="span", text=printable(written))
            else:
                _draw(tree, written)


def mathml(formula: str) -> ElementTree.Element | None:
    """The formula as a tree of MathML without namespaces; None where it is not understood."""
    try:
        tree = ElementTree.fromstring(convert(formula))
    except Exception:  # the converter raises many kinds of errors on what is no LaTeX
        return None
    for element in tree.iter():
        element.tag = element.tag.rpartition("}")[2]
        if element.tag not in DRAWN:
            return None
    return tree


def _draw(element: ElementTree.Element, written: str = "") -> None:
    """An element and what is in it; attributes are left out, except that the whole has what was written."""
    content = "" if len(element) else printable(element.text or "")
    made = TextElement(tag=element.tag, text=content)
    if written:
        made.props["title"] = printable(written)
    with made:
        for inner in element:
            _draw(inner)
