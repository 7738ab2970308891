"""The value that one sentence gives: which of its formulas and free-standing numbers is the answer.

A number within a word, path, identifier, date or reference ("step 5") is no value, nor is one that the
sentence denies. Of several values, the last one counts where the sentence works towards it; several side by
side are a list if nothing but "and" or a comma stands between them, else no answer."""

import re
from dataclasses import dataclass

from r1kit.tasks.mathematics.agreement import same_answer
from r1kit.tasks.mathematics.answers import read_answer
from r1kit.tasks.mathematics.expressions import NotUnderstood
from r1kit.tasks.mathematics.notation import tidy
from r1kit.tasks.mathematics.phrases import (
    BOUND_AFTER,
    BOUND_BEFORE,
    CONCLUDES,
    CONDITION_AFTER,
    CONDITION_BEFORE,
    CONDITION_OF_FORMULA,
    DOUBT,
    GLUED,
    INTRODUCTION,
    LINKS,
    NEGATED_AFTER,
    NEGATED_BEFORE,
    OR,
    REFERENCE_AFTER,
    REFERENCE_BEFORE,
)
from r1kit.tasks.mathematics.units import UNITS

LONGEST_COMPARED = 1_000
_CONTEXT = 60  # characters looked at on each side of a value
_SIGNED = r"(?:(?<![\w)}\]\d])[-+−])?"
_DIGITS = r"\d{1,3}(?:(?:[ \u00a0\u202f\u2009~]|\\[,; ]|\{,\})\d{3})+|\d+(?:,\d+)*"
_LATEX_VALUE = (
    r"\\[dtc]?frac\s*(?:\{(?:[^{}]|\{[^{}]*\})*\}\s*){2}|\\sqrt\s*(?:\[\w+\])?\s*\{(?:[^{}]"
    r"|\{[^{}]*\})*\}|\\pi(?![A-Za-z])"
)
_UNIT_GLUED = (
    r"(?:[ckm]?m|kg|m?g|ml|mph|km/h|m/s|lbs?|oz|hrs?|min|ft|s|h)(?:\^?\{?[23]\}?|[²³])?|°C?|\^\{?\\circ\}?"
    r"|\\degree"
)
_POWER_OF_TEN = r"(?:[x×*]|\\times|\\cdot)\s?10\s?(?:\^\s?[{(]?[-−]?\d+[})]?|[⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)"
_HAN_SHARE = "(?:百|[一二两三四五六七八九十百千]{1,6})分之[零一二两三四五六七八九十百千]{1,6}"
_TERM = r"(?:\d+(?:\.\d+)?)?[A-Za-z](?![A-Za-z])(?:\^\{?\d+\}?|[²³])?"
# x, 2x, 3x + 2, a + b
_LEFT_SIDE = rf"(?:\d+(?:\.\d+)?\s?[-+]\s?)*{_TERM}(?:\s?[-+]\s?(?:{_TERM}|\d+(?:\.\d+)?))*"
_ENTRY = r"[-+−]?(?:\d+(?:\.\d+)?(?:/\d+)?|∞)"
_VALUE = re.compile(
    r"(?<!\\)\$(?P<formula>(?! )(?:\\\$|[^$\n])*[^$\n ]| (?:\\\$|[^$\n])+ )\$(?! ?\d)"
    rf"|(?<![{GLUED}_\d.\\@~^/:#%&])(?P<tuple>[(\[]\s*{_ENTRY}(?:\s*,\s*{_ENTRY})+\s*[)\]])"
    rf"|(?<![{GLUED}_\d.\\@~^/:#%&])(?<![{GLUED}]-)(?<![\d),],)(?P<left>{_LEFT_SIDE}\s*=\s*)?"
    rf"(?P<number>{_SIGNED}(?:(?:US)?\\?[$€£¥￥]\s?)?{_SIGNED}"
    rf"(?:(?:{_DIGITS})(?:\.\d+)?\s?{_POWER_OF_TEN}|(?:{_DIGITS})?\s*(?:{_LATEX_VALUE})"
    rf"|\d{{1,3}}(?::\d{{1,3}}){{1,2}}"
    rf"|(?:{_DIGITS})(?:\.\d+)?(?:\s\d+/\d+|/\d+)?(?:e[-+]?\d+)?|\.\d+"
    rf"|[-+]?\d*[½¼¾⅓⅔]|\d*√\d+|\d*π))"
    rf"(?:(?P<percent>\s*\\?[%％])|(?P<glued>{_UNIT_GLUED})(?=[^\w^²³]|$)"
    rf"|(?P<scale>\s?[万亿千百](?![一-鿿]?分)|\s(?:hundred|thousand|[mb]illion|trillion|dozen)\b))?"
    rf"(?![{GLUED}_\d^]|[.,:/@]\d|[-–][A-Za-z]|\s*\\?[%％]\d|\\[A-Za-z]"
    rf"|/(?![a-z]{{1,8}}(?![\w./]))[A-Za-z]|\.[A-Za-z]|\()"
    rf"|(?P<share>{_HAN_SHARE})"
)
_UNIT_AFTER = re.compile(
    r"\s+(?:(?P<word>(?:square |cubic |sq\.? )?[A-Za-z]{1,12})(?P<power>\^\{?[23]\}?|[²³])?(?![A-Za-z\d])"
    r"(?P<more>\s+(?!(?:per|squared|cubed)\b))?)"
    r"|\s?(?P<han>平方[一-鿿]{1,2}|立方[一-鿿]{1,2}|[一-鿿]{1,2})"
)
_RATE_AFTER = re.compile(r"\s+(?:per|squared|cubed)\b|/[A-Za-z]")
_NO_UNIT_WORDS = frozenset(["in", "a", "s", "h", "t", "l", "m", "unit", "units", "pct", "块"])
_JOINS = re.compile(
    r"[\s$,;.、，；&]*(?:\b(?:and|und|et|y|e|en|i|ve|và|dan|och|og|a|și|ja|és|и|та|і)\b|と|과|와"
    r"|\\text\{\s*and\s*\}|和|以及|及|与)?"
    r"[\s$,;、，；&]*"
)
_OPERATOR_BETWEEN = re.compile(
    r"\s*(?:[-+*/×÷·x−]|\\times|\\cdot|\\div|\\times)\s*\(?\s*|\)?\s*[-+*/×÷·−]\s*\(?\s*"
)
_EQUALS_BETWEEN = re.compile(r"\s*\)?\s*[A-Za-z]{0,12}\s*=\s*")
_PART_OF_FORMULA_BEFORE = re.compile(
    r"(?:(?<![A-Za-z])[A-Za-z]|[\d)\]])\s?[-+*/^_<>−]\s?$|(?:[<≤≥]|(?<![=-])>)\s?$"
    r"|(?<![A-Za-z])[b-zB-HJ-Z]\s*[<>]\s*$"
)
_POWER_BEFORE = re.compile(r"[A-Za-z)]\s?\^\{?\d+\}?\s?[-+*/−]\s?$")
_OPERATOR_WORD_AFTER = re.compile(
    r"\s+(?:minus|plus|times|divided|multiplied|modulo|mod|factorial|squared|cubed)\b"
)
_PART_OF_FORMULA_AFTER = re.compile(
    r"\s?[-+*/^−]\s?(?:[\d.]*[A-Za-z](?![A-Za-z])|\()|\s?[<>≤≥^]|\s?[+*/]\s?\d|\s?!(?=[\w(])"
)
_CALCULATION_AFTER = re.compile(r"\s?[-+*/−]\s?(?:[($]|\d+(?:\.\d+)?(?![\d.]|[A-Za-z](?![A-Za-z])))")
_REASON = re.compile(
    r"[,;，；]?\s+(?:since|because|weil|parce que|porque|perché|omdat|ponieważ|eftersom|fordi|protože"
    r"|deoarece"
    r"|koska|mert|потому что|так как)\b|因为|由于",
    re.IGNORECASE,
)
_BRACKETED = re.compile(r"\((?=[^()]*[^\W\d_]{3})[^()]*\)")
_BARE_NAME = re.compile(
    r"\s*(?:\\(?:triangle|angle|odot|Delta|overline|vec|overrightarrow|mathbf|mathcal|text|mathrm"
    r"|square|parallel)\s*\{?\s*)?"
    r"[A-Za-z][A-Za-z'\s]{0,12}(?:_\{?\w+\}?)?\}?(?:\([\w.,\s+-]{0,9}\))?\s*|\s*\\[A-Za-z]+\s*"
)
_RELATION = re.compile(r"=|<|>|\\(?:le|ge|leq|geq|in|ne|neq|to)(?![A-Za-z])")
_TEXT_LABEL = re.compile(
    r"\s*[A-Za-z]\s*\(\s*-?\d[-\d.,\s]*\)\s*=\s*(?=[^=]*$)"
    r"|\s*\\(?:text|mathrm|textbf|operatorname)\s*\{[^{}]*\}\s*(?:\([^()=]*\))?\s*=\s*(?=[^=]*$)"
)
_CIRCUMSTANCE_BEFORE = re.compile(
    r"\b(?:of|in|for|during|over|within|after|from|on|per)\s+(?:the|his|her|their|its|these|those|all"
    r"|every)\s+(?:\w+\s+)?$|\bout of\s*[$(]*$",
    re.I,
)
_ADVERBIAL = re.compile(
    r"[^.;:=]*\b(?:of|in|for|during|over|within|after|before|from|on|per|to|by|with|at|than|if"
    r"|years? old)\b[^.;:=]{0,40}",
    re.I,
)
_THERE_ARE = re.compile(
    r"\bthere (?:is|are|were|will be|must be)\s+(?:(?:a total of|exactly|only|in total|altogether|thus"
    r"|therefore|then"
    r"|hence)\s+)*[$(]*$",
    re.I,
)
_COUNTED = tuple("步页题章节条项行段")
_NUMBERED = re.compile(r"\s*[步页题章节条项行段]")
_HOLDS_FOR = re.compile(
    r"\b(?:holds?|true|valid|satisfied|works?)\s+(?:exactly |only |precisely )?(?:for|when|if|iff"
    r"|if and only if)"
    r"(?: all)?\s*[($]*$",
    re.I,
)
_NAME, _OR_ONLY = re.compile(r"\s*([A-Za-z])\s*="), re.compile(r"[\s,]*(?:or|或|oder|ou)[\s,]*")
_AND_NEXT = re.compile(
    r"[^.;:=?!]{0,60}(?:\band\b|&|[和与及]|以及)\s*(?:for |with |about |only |have |has )?\s*\$?$"
)


@dataclass(frozen=True, slots=True)
class Value:
    """A formula or number in a sentence: where it stands, its text as an answer, and whether it is what a
    calculation in the sentence comes to."""

    begin: int
    end: int
    text: str
    is_formula: bool
    computed: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What a sentence gives: ``text`` is None if it has values and none of them is an answer; ``any`` is
    False if there are no values in it at all."""

    text: str | None
    any: bool = True


NOTHING = Found(None, any=False)


def alike(one: str, other: str) -> bool:
    """Whether two answers are the same, as far as r1kit's own reader can decide."""
    if one == other or len(one) + len(other) > LONGEST_COMPARED:
        return one == other
    if tidy(one) == tidy(other):
        return True
    try:
        return same_answer(read_answer(one), read_answer(other))
    except NotUnderstood:
        return False


def value_of(sentence: str, strict: bool) -> Found:
    """The value of a sentence. ``strict``: it states the answer, so that several different values that are
    not a list are no answer."""
    everything = _values(sentence)
    if not everything:
        return NOTHING
    standing = [value for value in everything if not _denied(sentence, value)]
    if not standing:
        return Found(None)
    standing = [value for value in standing if not _aside(sentence, value)]
    if not standing:
        return NOTHING
    standing = _runs(sentence, standing)
    named = [value for value in standing if not (value.is_formula and _BARE_NAME.fullmatch(value.text))]
    standing = named or standing
    standing = _outside_brackets(sentence, standing)
    if not strict:
        standing = _after_introduction(sentence, standing)
        standing = _before_reason(sentence, standing)
        standing = _without_circumstances(sentence, _after_last_link(sentence, standing))
        standing = _counted(sentence, standing)
    listed = _listed(sentence, standing)
    chosen = standing[-1]
    conditional = not chosen.computed and CONDITION_AFTER.match(sentence, chosen.end)
    if conditional or _bounded(sentence, standing[0] if listed else chosen, chosen):
        return Found(None)
    if listed:
        return Found(listed)
    different = [value for value in standing if not alike(value.text, chosen.text)]
    if different and (strict or _hedged(sentence, different[-1], chosen)):
        return Found(None)
    return Found(chosen.text)


def _bounded(sentence: str, first: Value, last: Value) -> bool:
    """Whether values are only a bound: at least 5, 5 or more."""
    before = sentence[max(0, first.begin - _CONTEXT) : first.begin]
    return BOUND_BEFORE.search(before) is not None or BOUND_AFTER.match(sentence, last.end) is not None


def _values(sentence: str) -> list[Value]:
    found = []
    for match in _VALUE.finditer(sentence):
        if match["formula"] is not None:
            text = _TEXT_LABEL.sub("", match["formula"].strip().rstrip(".,;").strip())
            if text:
                found.append(Value(match.start(), match.end(), text, True))
            continue
        whole = match["tuple"] or match["share"]
        if whole is not None:
            found.append(Value(match.start(), match.end(), whole, match["tuple"] is not None))
            continue
        if found and match.start() < found[-1].end:
            continue  # the exponent of its unit
        before = sentence[max(0, match.start() - 8) : match.start()]
        if _POWER_BEFORE.search(before) or _OPERATOR_WORD_AFTER.match(sentence, match.end()):
            continue
        if _PART_OF_FORMULA_BEFORE.search(before) and not before.rstrip(" -+*/^_<>−")[-1:].isdigit():
            continue
        if _PART_OF_FORMULA_AFTER.match(sentence, match.end()) and not _CALCULATION_AFTER.match(
            sentence, match.end()
        ):
            continue
        number = re.sub(r"(?<=\d)(?:[ \u00a0\u202f\u2009~])(?=\d{3}(?!\d))", "", match["number"])
        end, unit = match.end(), ""
        if match["glued"]:
            unit = _written_unit(match["glued"])
        elif match["percent"] or match["scale"]:
            number += (match["percent"] or match["scale"]).strip()
        if match["scale"] or not (unit or match["percent"]):
            end, unit = _unit_after(sentence, end)
        left = match["left"] or ""
        if not (any(map(str.isdigit, left)) or left.strip(" =").isalpha()):
            left = ""  # a sum of names is what the number stands for
        found.append(Value(match.start(), end, left + number + unit, False))
    return found


def _written_unit(unit: str) -> str:
    parts = re.fullmatch(r"(.*?)(?:\^?\{?([23²³])\}?)?", unit)
    if unit.startswith(("°", "^", "\\")):
        return "^\\circ"
    assert parts is not None
    power = {"²": "2", "³": "3"}.get(parts[2] or "", parts[2] or "")
    return f" \\text{{ {parts[1]}}}" + (f"^{power}" if power else "")


def _unit_after(sentence: str, end: int) -> tuple[int, str]:
    """The end of a known unit after a number, and how to write it; of an unknown word nothing."""
    match = _UNIT_AFTER.match(sentence, end)
    if match is None:
        return end, ""
    if match["han"]:
        for length in (4, 3, 2, 1):
            word = match["han"][:length]
            bare = word.removeprefix("平方").removeprefix("立方")
            if bare in UNITS and len(word) == min(length, len(match["han"])):
                return match.start("han") + len(word), word
        return end, ""
    word = match["word"]
    bare = re.sub(r"^(?:square|cubic|sq\.?)\s+", "", word)
    known = bare.lower() in UNITS or (bare.lower().endswith("s") and bare.lower()[:-1] in UNITS)
    if not known or (bare in _NO_UNIT_WORDS and (match["more"] or bare in ("a", "unit", "units"))):
        return end, ""
    after = match.start("more") if match["more"] else match.end()
    if _RATE_AFTER.match(sentence, after):
        return end, ""
    power = re.sub(r"[{}^]", "", match["power"] or "").translate(str.maketrans("²³", "23"))
    return after, f" \\text{{ {word}}}" + (f"^{power}" if power else "")


def _denied(sentence: str, value: Value) -> bool:
    before = sentence[max(0, value.begin - _CONTEXT) : value.begin]
    return NEGATED_BEFORE.search(before) is not None or NEGATED_AFTER.match(sentence, value.end) is not None


def _aside(sentence: str, value: Value) -> bool:
    """Whether a value is a reference (step 5) or a condition (if x = 5), not a statement."""
    before = sentence[max(0, value.begin - _CONTEXT) : value.begin]
    if _HOLDS_FOR.search(before):
        return False
    is_relation = value.is_formula and _RELATION.search(value.text) is not None
    if (REFERENCE_BEFORE.search(before) and not is_relation) or CONDITION_BEFORE.search(before):
        return True
    numbered = before.endswith("第") and _NUMBERED.match(sentence, value.end - value.text.endswith(_COUNTED))
    if numbered or (not value.is_formula and REFERENCE_AFTER.match(sentence, value.end)):
        return True
    return is_relation and CONDITION_OF_FORMULA.search(before) is not None


def _runs(sentence: str, values: list[Value]) -> list[Value]:
    """Calculations as one value: ``3 + 4`` is itself, ``3 + 4 = 7`` is 7."""
    runs = [values[0]]
    for value in values[1:]:
        last = runs[-1]
        between = sentence[last.end : value.begin]
        if len(between) < 20 and not (last.is_formula or value.is_formula):
            if _EQUALS_BETWEEN.fullmatch(between):
                runs[-1] = Value(last.begin, value.end, value.text, False, computed=True)
                continue
            signed = not between.strip() and value.text.startswith(("+", "-", "−"))
            if signed or _OPERATOR_BETWEEN.fullmatch(between):
                runs[-1] = Value(last.begin, value.end, sentence[last.begin : value.end], False)
                continue
        runs.append(value)
    return runs


def _after_last_link(sentence: str, values: list[Value]) -> list[Value]:
    """The values after the last "is", "=" or colon that has one; all of them if there is none."""
    links = [link.end() for link in LINKS.finditer(sentence) if link.end() <= values[-1].begin + 1]
    inside = [link for link in links if not any(value.begin < link < value.end for value in values)]
    after = [value for value in values if inside and value.begin >= inside[-1] - 1]
    joined = [len(values) - 1]
    for place in range(len(values) - 2, -1, -1):
        if not _JOINS.fullmatch(sentence[values[place].end : values[place + 1].begin]):
            break
        joined.append(place)
    return values[min([*joined, len(values) - len(after)]) :] if after else values


def _without_circumstances(sentence: str, values: list[Value]) -> list[Value]:
    """The values without later ones such as "of the 24 litres", which say what the first is part of."""
    kept = values[:1]
    for value in values[1:]:
        between = sentence[kept[-1].end : value.begin]
        if _CIRCUMSTANCE_BEFORE.search(between):
            continue
        of_result = kept[-1].computed and not value.computed and _ADVERBIAL.fullmatch(between)
        if of_result and not LINKS.search(between) and not CONCLUDES.search(between):
            continue
        kept.append(value)
    return kept


def _after_introduction(sentence: str, values: list[Value]) -> list[Value]:
    """The values after a clause such as "After 3 hours, ...", if there are any."""
    clause = INTRODUCTION.match(sentence)
    return [value for value in values if clause is None or value.begin >= clause.end()] or values


def _before_reason(sentence: str, values: list[Value]) -> list[Value]:
    """The values before a "because" that nothing is concluded from."""
    reason = _REASON.search(sentence, values[0].end)
    if reason is None or CONCLUDES.search(sentence, reason.end()):
        return values
    return [value for value in values if value.end <= reason.start()] or values


def _outside_brackets(sentence: str, values: list[Value]) -> list[Value]:
    """The values outside brackets with words in them, if there are any: 72 clips (48 in April)."""
    spans = [match.span() for match in _BRACKETED.finditer(sentence) if not OR.search(match[0])]
    outside = [v for v in values if not any(begin < v.begin < end for begin, end in spans)]
    return outside or values


def _counted(sentence: str, values: list[Value]) -> list[Value]:
    """Of "there are 10 ways to choose 3 of them" only the first value: it is what the sentence counts."""
    for place, value in enumerate(values[:-1]):
        rest = sentence[value.end : values[-1].begin]
        following = sentence[value.end : values[place + 1].begin]
        if _THERE_ARE.search(sentence[: value.begin]) and not (
            LINKS.search(rest) or CONCLUDES.search(rest) or OR.search(rest) or _AND_NEXT.fullmatch(following)
        ):
            return values[: place + 1]
    return values


def _listed(sentence: str, values: list[Value]) -> str | None:
    """The different values at the end that nothing but "and" or a comma joins, as a list."""
    texts = [values[-1].text]
    for value, following in zip(reversed(values[:-1]), reversed(values[1:]), strict=True):
        between = sentence[value.end : following.begin]
        if len(between) > 30 or not (_JOINS.fullmatch(between) or _same_name(value, following, between)):
            break
        if not any(alike(value.text, text) for text in texts):
            texts.insert(0, value.text)
    return ", ".join(texts) if len(texts) > 1 else None


def _same_name(value: Value, following: Value, between: str) -> bool:
    """Whether two values are solutions for one name: x = 1 or x = 2."""
    names = [_NAME.match(one.text) for one in (value, following)]
    return all(names) and names[0][1] == names[1][1] and _OR_ONLY.fullmatch(between) is not None  # type: ignore[index]


def _hedged(sentence: str, other: Value, chosen: Value) -> bool:
    """Whether a sentence offers two values instead of working from one to the other."""
    between = sentence[other.end : chosen.begin]
    if DOUBT.search(sentence) or _AND_NEXT.fullmatch(between):
        return True
    alternatives = list(OR.finditer(between))
    if not alternatives:
        return re.search(r"\b(?:else|otherwise)\b", sentence) is not None
    return CONCLUDES.search(between, alternatives[-1].end()) is None
