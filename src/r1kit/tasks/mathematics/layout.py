"""From the text of a response to its sentences: without marks of emphasis, notes of a calculator, end tokens
and quotation marks; display mathematics on one line; a label or an open line joined to what it introduces.

Every step takes linear time in a text of at most ``extraction.LONGEST_END`` characters."""

import re
from dataclasses import dataclass

from r1kit.tasks.mathematics.notation import is_prose
from r1kit.tasks.mathematics.phrases import ANSWER_WORDS, BARE_LABEL, LABEL

_END_TOKENS = re.compile(
    r"(?:\s*(?:<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>|<(?:eos|pad|end_of_turn)>|\[/?INST\]))+\s*\Z"
)
_LONGEST_TOKENS = 200
_SPACE_RUN, _LINE_RUN = re.compile(r"[^\S\n]{2,}"), re.compile(r"\n(?:[^\S\n]?\n){2,}")
_CALCULATION = re.compile(r"<<[^<>\n]{0,200}>>")
_GOLD_MARK = re.compile(r"(?<!#)####(?!#)")
_QUOTED = re.compile(r"^[ \t]*>[ \t]+(?=[*_#A-Za-z一-鿿])", re.MULTILINE)  # a quotation in Markdown
_LABEL_IN_FORMULA = re.compile(
    rf"(\$?)\s*\\text(?:bf|rm|it)?\{{([^{{}}]{{0,60}}?(?:{ANSWER_WORDS})[^{{}}]{{0,20}})\}}", re.IGNORECASE
)
_FENCE = re.compile(r"^[ \t]*(?:```[\w+-]*|~~~[\w+-]*)[ \t]*$|^#{1,3}[ \t]+(?=\S+$)", re.MULTILINE)
_PICTURE = re.compile("[\u2600-\u27bf\U0001f300-\U0001faff\ufe0f]")
_UNIT_IN_BRACKETS = re.compile(r"(?<=\d)\s*[（(]([一-鿿/]{1,4})[)）]")
_LINE_BREAK_TAG = re.compile(r"<br\s*/?>|</p>|</div>", re.IGNORECASE)
_EMPHASIS_TAG = re.compile(
    r"</?(?:b|strong|i|em|u|span|p|div|code|mark|font|center)(?:\s[^<>]{0,80})?>", re.I
)
_EMPHASIS = re.compile(
    r"(?<![A-Za-z0-9\\*_`)}\]])(\*{1,3}|_{1,3}"
    r"|`{1,3})(?=[^\s*_`{^])([^\n]{0,400}?[^\s*_`\\])\1(?![A-Za-z0-9*_`{])"
)
_ENVIRONMENTS = "equation|align|aligned|alignat|gather|gathered|eqnarray|multline|split|displaymath|math"
_DISPLAY = re.compile(
    r"\$\$((?:(?!\$\$).)*)\$\$|\\\[((?:(?!\\[\[\]]).)*)\\\]|\\\(((?:(?!\\[()]).)*)\\\)"
    rf"|\\begin\{{(?:{_ENVIRONMENTS})\*?\}}((?:(?!\\(?:begin|end)\{{(?:{_ENVIRONMENTS})).)*)"
    rf"\\end\{{(?:{_ENVIRONMENTS})\*?\}}",
    re.DOTALL,
)
# A dollar sign opens a formula only before something, and closes it only after something and not before a
# digit; otherwise it is money: "$400 + $60". Spaces on both sides inside are a formula too.
FORMULA = re.compile(r"(?<!\\)\$(?! )(?:\\\$|[^$\n])*[^$\n ]\$(?! ?\d)|(?<!\\)\$ (?:\\\$|[^$\n])+ \$(?! ?\d)")
_ALIGNMENT = re.compile(rf"\\(?:begin|end)\{{(?:{_ENVIRONMENTS})\*?\}}(?:\{{\d+\}})?")
_ROW_END = re.compile(r"\\\\(?:\[[^\]\n]{0,20}\])?")
_NAMED_ROW = re.compile(r"\s*([A-Za-z](?:_\{?\w+\}?)?)\s*&?\s*=")
_OPEN_LINE = re.compile(
    r"(?:[:：=]|\b(?:is|are|get|have|obtain|equals|gives|that|conclude|thus|hence|so)|[是为得])\s*$", re.I
)
_SENTENCE_END = re.compile(r"[.!?。！？।۔؟։]['\"”’»」)$*]*\s*$")
_LONGEST_ENDING = 40
_BULLET = re.compile(r"\s*(?:[-*•]\s+|\(?(?:\d{1,2}|[a-z])[.)]\s+)(?=\S)")
_AFTER_MARK = r"['\"”’)$*]*"
_BREAK = re.compile(
    rf"\.{_AFTER_MARK}\s+(?=[^\s\da-z])|(?<=[A-Za-z)$])\.{_AFTER_MARK}\s+(?=\d)"
    rf"|(?<!\\)[!?]{_AFTER_MARK}\s+|[。！？।۔؟։](?!\s*$)"
)
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|approx|eqs?|figs?|nos?|vs|resp|cf|secs?|ch|refs?|thm|prop|pp?|a\.m|p\.m|sq|cu"
    r"|mr|mrs|dr))\.$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of a response. ``opens_line``: a line begins with it, so that it may have a label."""

    text: str
    opens_line: bool


def without_marks(text: str) -> str:
    """The text without emphasis, tags of emphasis, calculator notes and end tokens at its end."""
    text = _LINE_RUN.sub("\n\n", _SPACE_RUN.sub(" ", text)).strip()
    if text.endswith((">", "]")):
        text = text[:-_LONGEST_TOKENS] + _END_TOKENS.sub("", text[-_LONGEST_TOKENS:])
    if "#" in text or "```" in text:
        text = _FENCE.sub("", _GOLD_MARK.sub("\n####", text))
    text = _PICTURE.sub("", _UNIT_IN_BRACKETS.sub(r"\1", text)) if not text.isascii() else text
    if "\\text" in text:
        text = _LABEL_IN_FORMULA.sub(r"\2 \1", text)
    if ">" in text:
        text = _QUOTED.sub("", text)
    if "<" in text:
        text = _CALCULATION.sub("", text)
        text = _EMPHASIS_TAG.sub("", _LINE_BREAK_TAG.sub("\n", text))
    if "*" in text or "_" in text or "`" in text:
        for _ in range(3):
            text = _EMPHASIS.sub(r"\2", text)
    return text


def sentences(text: str) -> list[Sentence]:
    """The sentences of a text without marks, in order."""
    found = []
    for line in _lines(text):
        begin, opens = 0, True
        formulas = [match.span() for match in FORMULA.finditer(line)] if "$" in line else []
        for match in _BREAK.finditer(line):
            if _ABBREVIATION.search(line[max(0, match.start() - 7) : match.start() + 1]):
                continue
            if any(start < match.start() + 1 < end - 1 for start, end in formulas):
                continue
            if sentence := line[begin : match.end()].strip():
                found.append(Sentence(sentence, opens))
                opens = False
            begin = match.end()
        if sentence := line[begin:].strip():
            found.append(Sentence(sentence, opens))
    return found


def _lines(text: str) -> list[str]:
    """The lines of a text. Display mathematics is one formula in the line that leads to it; a label or an
    open line ("Answer:", "The area is") is joined to the next; a list of values is one line."""
    text = _DISPLAY.sub(_one_line, text)
    lines: list[str] = []
    bullets = 0
    for line in text.splitlines():
        line = line.strip()
        if not line:
            continue
        bullet = _BULLET.match(line)
        if lines and _continues(lines[-1], line):
            if (
                len(lines[-1]) < 100
                and BARE_LABEL.fullmatch(lines[-1])
                and not lines[-1].rstrip().endswith((":", "："))
            ):
                lines[-1] += ":"
            lines[-1] += " " + (line[bullet.end() :] if bullet else line)
            bullets = 1 if bullet else 0
        elif bullet and bullets and not is_prose(line) and len(line) < 60:
            lines[-1] = lines[-1].rstrip(".;,") + ", " + line[bullet.end() :]
            bullets += 1
        else:
            lines.append(line[bullet.end() :] if bullet and not line[bullet.end()].isdigit() else line)
            bullets = 1 if bullet and not is_prose(line) and len(line) < 60 else 0
    return lines


def _continues(before: str, line: str) -> bool:
    """Whether a line belongs to the sentence of the line before it."""
    if LABEL.match(line):
        return False
    end = before[-_LONGEST_ENDING:]
    if _OPEN_LINE.search(end) or (
        len(before) < 100 and (BARE_LABEL.fullmatch(before) or LABEL.fullmatch(before))
    ):
        return True
    if line.startswith("$"):
        return not _SENTENCE_END.search(end) and FORMULA.fullmatch(line) is not None
    return before.endswith("$") and line[0].islower() and not _SENTENCE_END.search(end.rstrip("$ "))


def _one_line(match: re.Match[str]) -> str:
    """A display as a formula between dollars: of its rows the last; all, if each names another value."""
    inside = next(group for group in match.groups() if group is not None)
    rows = [inside]
    if "\\\\" in inside and not re.search(r"\\begin\{(?!" + _ENVIRONMENTS + r")", inside):
        rows = [row for row in _ROW_END.split(_ALIGNMENT.sub(" ", inside)) if row.strip(" \n&")]
    names = {name[1] for row in rows if (name := _NAMED_ROW.match(row))}
    if len(rows) > 1 and len(names) == len(rows):
        formula = ", ".join(row.strip(" \n,.") for row in rows)
    else:
        formula = rows[-1] if rows else ""
    if len(rows) > 1 or ("&" in formula and "\\begin{" not in formula):
        formula = re.sub(r"(?<!\\)&", "", formula)
    formula = _ALIGNMENT.sub(" ", formula)
    return "$" + " ".join(formula.replace("$", " ").split()) + "$"
