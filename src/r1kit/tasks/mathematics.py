"""Check answers to mathematical problems: what was said last, outside the thinking, against the gold answer.

A false positive teaches a model to cheat and a false negative only costs signal, so doubt is decided against the answer. Three
steps, each only where the one before cannot tell:

1. take the final answer: what follows ``</think>``, inside ``<answer>`` or the last box, else what the last sentence states;
2. read both sides (``read_answer``): numbers, units, percentages, expressions, tuples, sets, intervals, matrices, equations,
   inequalities, choices, words; compare exactly (``r1kit.tasks.expressions``);
3. ask math-verify, in a locked-in worker that is killed after a second.

A gold answer that nobody can read makes the problem ``unverifiable``; it never makes an answer right.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from r1kit.sandbox.comparer import compare_elsewhere
from r1kit.tasks.expressions import Expression, NotUnderstood, TooLarge, proportional, read_expression, same
from r1kit.types import Verdict

LONGEST_ANSWER = 1000
DEEPEST_ANSWER = 30
Kind = Literal["value", "based", "sequence", "union", "matrix", "relation", "infinity", "words"]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was understood. ``parts`` hold what it is made of; which fields count depends on ``kind``.

    value: ``expression``, ``unit``, ``percent``; based: ``text`` (digits), ``unit`` (base); sequence: ``text`` (its brackets, ""
    for a bare list); relation: ``text`` (=, <, \\le ..., one sign) and two parts; matrix: ``text`` (rows x columns); words: ``text``.
    """

    kind: Kind
    text: str = ""
    expression: Expression | None = None
    unit: str = ""
    percent: bool = False
    parts: tuple["Answer", ...] = ()


def check_math(gold: str, response: str) -> Verdict:
    """Judge a response to a problem whose gold answer is ``gold`` (LaTeX or plain text; a worked solution is unwrapped).

    Only what follows ``</think>`` counts, an ``<answer>`` is unwrapped, and of several answers the last one counts, unless they are
    offered side by side ("3 or 4") against a gold answer that is one. ``unverifiable``: nobody can read the gold answer;
    ``failed``: math-verify did not finish within its second. Never raises for what a response says.
    """
    gold = gold_text(gold)
    said = final_answer(response, bool(_CHOICE.fullmatch(gold)))
    if not tidy(gold):
        return Verdict("unverifiable", "the gold answer is empty")
    if said is None:
        return Verdict("wrong", "no final answer")
    if len(said) > LONGEST_ANSWER or nesting(said) > DEEPEST_ANSWER:
        return Verdict("wrong", "the final answer is too long or nested too deep")
    try:
        outcome = compare(gold, said)
    except TooLarge as error:
        return Verdict("wrong", f"the answer cannot be computed: {error}")
    return outcome


def check_math_batch(golds: Sequence[str], responses: Sequence[str], threads: int = 4) -> list[Verdict]:
    """Judge many responses; those that need math-verify wait for its workers side by side."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(check_math, golds, responses))


def compare(gold: str, said: str) -> Verdict:
    """Compare two answers. Raises TooLarge where the said one is beyond computing."""
    if tidy(gold) == tidy(said) and _is_plain_number(tidy(gold)):
        return Verdict("correct")
    known = read_gold(gold)
    if known is not None:
        try:
            return Verdict("correct") if agree(known, read_answer(said)) else Verdict("wrong", "another value")
        except TooLarge:
            raise
        except NotUnderstood:
            # What can be read only by a more lenient reader must at least be LaTeX.
            if known.kind == "words" or "\\" not in tidy(said) or _is_prose(said):
                return Verdict("wrong", "not an answer of this kind")
    verdict = compare_elsewhere(tidy(gold), tidy(said))
    if verdict.outcome == "unverifiable" and known is not None:
        return Verdict("wrong", "the answer cannot be read")  # the gold answer can
    return verdict


@lru_cache(maxsize=50_000)
def read_gold(gold: str) -> Answer | None:
    """Read a gold answer, once."""
    try:
        return read_answer(gold)
    except NotUnderstood:
        return None


# --- the final answer of a response -------------------------------------------------------------------------------------------

_CHOICE = re.compile(r"\s*\$?\s*(?:\\(?:text|mathrm|textbf|mathbf)\{)?\s*\(?([A-J])\)?\s*\}?\s*\$?\.?\s*")
_ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_BOX = re.compile(r"\\f?boxed\s*")
_STATED = re.compile(
    r"(?:answer|result)\s*(?:\*\*)?\s*(?:is|are|was|equals|:|=|：)\s*(?:\*\*)?\s*:?"
    r"|(?:答案|结果|答)\s*(?:是|为|等于|应为|：|:)+|####|(?:therefore|thus|hence|so)\b[^.\n]{0,80}?(?:\bis\b|\bare\b|=)",
    re.IGNORECASE,
)
_HEDGE = re.compile(r"\b(?:or|either|maybe|perhaps|possibly|alternatively|might|unless|could be)\b|或者?|也许|可能|要么", re.IGNORECASE)
_NEGATED = re.compile(
    r"(?:\bnot|n't|\bnever|\bno longer|\bisnt|不是|不等于|并非|≠|\\ne(?:q)?)\s*(?:equal(?: to)?|be|the)?\s*$", re.IGNORECASE
)
_NUMBER = re.compile(r"[-+−]?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?\s*(?:\\?%)?")
_MATH_SPAN = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_GOLD_MARK = "####"


def gold_text(gold: str) -> str:
    """The answer in a gold text: what follows ``####`` in GSM8K, the last box of a solution, else the text itself."""
    if _GOLD_MARK in gold:
        return gold.rpartition(_GOLD_MARK)[2].strip()
    boxes = boxed(gold)
    return boxes[-1][2] if boxes else gold.strip()


def final_answer(response: str, choice: bool = False) -> str | None:
    """The answer that a response settles on; None where it settles on none. ``choice``: a letter is asked for."""
    text = outside_thinking(response)
    if text is None:
        return None
    tagged = _ANSWER_TAG.findall(text)
    if tagged:
        if len({tidy(answer) for answer in tagged}) > 1:
            return None
        text = tagged[-1]
    elif re.search(r"</?answer>", text, re.IGNORECASE):
        return None
    boxes = boxed(text)
    if boxes:
        return _settled_box(text, boxes)
    if _BOX.search(text):
        return None  # a box that was never closed
    text = text.strip()
    if not text:
        return None
    if choice:
        return text if _CHOICE.fullmatch(text) else _stated_choice(text)
    return _stated(text)


def outside_thinking(response: str) -> str | None:
    """What follows the thinking; the whole response where there is none; None where the thinking never ends."""
    closed = response.rfind("</think>")
    if closed >= 0:
        return response[closed + len("</think>") :]
    return None if "<think>" in response else response


def boxed(text: str) -> list[tuple[int, int, str]]:
    """All ``\\boxed{...}`` of a text: begin, end and content, braces balanced. An unclosed box is none."""
    found = []
    position = 0
    while (match := _BOX.search(text, position)) is not None:
        begin = match.end()
        if text[begin : begin + 1] != "{":
            bare = re.match(r"[\w.]+", text[begin:])
            if bare:
                found.append((match.start(), begin + bare.end(), bare.group()))
            position = begin + 1
            continue
        depth, end = 0, begin
        for end in range(begin, len(text)):
            depth += (text[end] == "{" and text[end - 1] != "\\") - (text[end] == "}" and text[end - 1] != "\\")
            if depth == 0:
                break
        if depth:
            return found
        found.append((match.start(), end + 1, text[begin + 1 : end].strip()))
        position = end + 1
    return found


def _settled_box(text: str, boxes: list[tuple[int, int, str]]) -> str | None:
    """The last box, joined with its neighbours where a list was boxed piece by piece; None for hedging."""
    settled = [boxes[-1][2]]
    for (_, end, content), (begin, _, following) in zip(reversed(boxes[:-1]), reversed(boxes[1:]), strict=True):
        between = text[end:begin]
        if alike(content, following):
            continue
        if re.fullmatch(r"[\s$,;.、]*(?:\band\b|\\text\{\s*and\s*\}|和|以及|及)?[\s$,;、]*", between) and len(between) < 30:
            settled.insert(0, content)
        elif len(between) < 200 and _HEDGE.search(between):
            return None
        else:
            break
    if _NEGATED.search(text[: boxes[-1][0]].rstrip(" $\\([{")):
        return None
    return ",".join(settled)


def alike(one: str, other: str) -> bool:
    """Tell whether two answers are the same, as far as that is known without asking further."""
    if tidy(one) == tidy(other):
        return True
    try:
        return agree(read_answer(one), read_answer(other))
    except NotUnderstood:
        return False


def _stated_choice(text: str) -> str | None:
    """The letter that a text without a box settles on."""
    last = text.splitlines()[-1]
    for place in (last, text):
        stated = re.findall(r"(?:answer|option|choice|答案|选项?|选择)\W*(?:is|are|as|为|是|:|：)?\W*\(?([A-J])\b", place, re.IGNORECASE)
        letters = {letter.upper() for letter in stated}
        if len(letters) == 1 and not (_HEDGE.search(last) and len(set(re.findall(r"\b[B-J]\b", last))) > 1):
            return str(letters.pop())
        if len(letters) > 1:
            return None
    whole = re.fullmatch(r"\W*([A-J])(?:\W.*)?", last) if len(last) < 200 else None
    return whole[1] if whole and (len(last.strip("().*$ ")) == 1 or last.strip("*$ (")[1:2] in ").:、．") else None


def _stated(text: str) -> str | None:
    """What a text without a box states: after its last "answer is", else its last line, its last formula or its last number."""
    marks = list(_STATED.finditer(text))
    line = text.splitlines()[-1].strip()
    if marks:
        after = text[marks[-1].end() :].strip()
        line = after.splitlines()[0].strip() if after else ""
    elif "\n" not in text and len(text) <= 200 and not _is_prose(text):
        return text
    sentences = [part for part in re.split(r"(?<=[^\d][.。!！?？])\s+|(?<=\d\.)\s+(?=[A-Z])|。", line) if part.strip()]
    sentence = (sentences[0] if marks else sentences[-1]).strip() if sentences else ""
    if marks and not _is_prose(sentence):
        return sentence or None
    spans = [next(group for group in match.groups() if group) for match in _MATH_SPAN.finditer(sentence)]
    numbers = [match.group() for match in _NUMBER.finditer(sentence)]
    candidates = spans or numbers
    if not candidates:
        return sentence if marks and len(sentence) <= 60 else None
    if len({tidy(candidate) for candidate in candidates}) > 1 and (_HEDGE.search(sentence) or marks):
        return None
    chosen = candidates[-1]
    return None if _NEGATED.search(sentence[: sentence.rfind(chosen)]) else chosen


# --- text to a common form ----------------------------------------------------------------------------------------------------

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SYMBOLS = {"×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "÷": "\\div ", "−": "-", "–": "-", "—": "-", "π": "\\pi ", "∞": "\\infty ",
            "≤": "\\le ", "≥": "\\ge ", "∪": "\\cup ", "∈": "\\in ", "°": "^\\circ ", "，": ",", "、": ",", "；": ";", "：": ":",
            "½": "\\frac12", "¼": "\\frac14", "¾": "\\frac34", "⅓": "\\frac13", "⅔": "\\frac23", "θ": "\\theta ", "±": "\\pm ", "∅": "\\emptyset ",
            "√": "\\sqrt ", "**": "^", "\\varnothing": "\\emptyset ", "\\leq": "\\le ", "\\geq": "\\ge ", "\\lt": "<", "\\gt": ">",
            "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac", "\\colon": ":", "\\lbrace": "\\{", "\\rbrace": "\\}",
            "\\lvert": "|", "\\rvert": "|", "\\vert": "|", "\\ne": "\\neq "}  # fmt: skip
_SPACING = re.compile(
    r"(?<!\\)\\[,;:!>]|(?<!\\)\\ |~|\\(?:displaystyle|textstyle|quad|qquad|limits|left|right|bigl?|bigr|Bigl?|Bigr|biggl?|biggr|middle"
    r"|hspace\{[^}]*\})(?![A-Za-z])"
)
_SIGN_WORDS = re.compile(
    "|".join(re.escape(word) + ("(?![A-Za-z])" if word[-1].isalpha() else "") for word in sorted(_SYMBOLS, key=len, reverse=True))
)
_THOUSANDS = re.compile(r"(?<![\d.])(\d{1,3})((?:(?:,|\{,\}|[\u2009\u202f\u00a0])\d{3})+)(?!\d)")
_DOLLAR_SPAN = re.compile(r"\\?[$€£¥￥]|\\[()\[\]](?![A-Za-z])|\\textdollar")


@lru_cache(maxsize=50_000)
def tidy(text: str) -> str:
    """Bring an answer into a common form: half-width, one spelling for each sign, no spacing commands, no dollar signs."""
    text = "".join(chr(ord(c) - 0xFEE0) if "！" <= c <= "～" and c not in "，；：" else c for c in text.replace("\u3000", " "))
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda m: "^{" + m[0].translate(_SUPERSCRIPTS) + "}", text)
    text = re.sub(r"(?<=\d)(?:\\[,!]|\{,\}|[\u2009\u202f\u00a0])(?=\d{3}(?!\d))", ",", text)
    text = re.sub(r"^\s*\$?([-+]?)\\\$\s*(\d[\d,]*(?:\.\d+)?|\.\d+)\s*\$?\s*\.?$", r"\1\2 \\text{dollar}", text)
    text = _DOLLAR_SPAN.sub("", text) if not re.search(r"\\\[\d", text) else text
    text = _SPACING.sub(" ", text)
    text = _SIGN_WORDS.sub(lambda m: _SYMBOLS[m[0]], text)
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf|mbox|textit|rm|bf|operatorname|textnormal)\s*\{\s*(and|or|及|和|或)\s*\}", " , ", text)
    text = re.sub(r"(?<=[\d})])\s+(?:and|or|和|或)\s+(?=[-\\(\d])", " , ", text)
    text = re.sub(r"\^\{?\s*\\circ\s*\}?", "\\\\degree ", text)
    text = re.sub(r"[ \t\n]+", " ", text).strip()
    text = re.sub(r"^[`*_ ]*(.*?)[`*_ ]*$", r"\1", text)
    return re.sub(r"(?<![\w)}])!+$", "", text.rstrip(".。;, ")).strip()


def _is_plain_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(?:\.\d+)?", text) is not None


def _is_prose(text: str) -> bool:
    """Tell whether a text holds words that are neither LaTeX, a function, a unit nor a lone variable."""
    bare = re.sub(r"\\(?:begin|end)\s*\{\w+\}|\\(?:text|mathrm|textbf|mbox)\{[^}]*\}|\\[A-Za-z]+", " ", text)
    words = re.findall(r"[A-Za-z]{2,}", bare)
    return len([word for word in words if word.lower() not in _FUNCTION_NAMES and normal_unit(word) not in _UNITS]) >= 2


_FUNCTION_NAMES = frozenset(
    ["sqrt", "pi", "sin", "cos", "tan", "cot", "sec", "csc", "ln", "log", "exp", "arcsin", "arccos", "arctan", "or", "and"]
)

# --- units --------------------------------------------------------------------------------------------------------------------

_UNIT_NAMES = {
    "cm": "cm centimeter centimetre 厘米", "m": "m meter metre 米", "km": "km kilometer kilometre 千米 公里", "mm": "mm millimeter millimetre 毫米",
    "dm": "dm decimeter 分米", "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard", "mi": "mi mile", "g": "g gram 克",
    "kg": "kg kilogram 千克 公斤", "mg": "mg milligram", "t": "ton tonne 吨", "lb": "lb lbs pound", "oz": "oz ounce", "s": "s sec second 秒",
    "min": "min minute 分钟", "h": "h hr hour 小时", "day": "day 天 日", "week": "week 周", "month": "month 个月", "year": "year yr 年",
    "l": "l liter litre 升", "ml": "ml milliliter 毫升", "degree": "degree deg 度", "radian": "radian rad", "dollar": "dollar usd bucks 美元",
    "yuan": "yuan rmb cny 元 块", "cent": "cent cents 分", "jiao": "角", "percent": "percent pct", "mph": "mph", "kmh": "kmh kph",
    "unit": "unit units 个 只 本 人 页 次 棵 条 张 件 支 辆 名 朵 把 头 台 箱 盒 袋 瓶 束 颗 粒 块 位 句 朵 双 根 面 户 步 倍 岁 道 种",
}  # fmt: skip
_UNITS = {name: unit for unit, names in _UNIT_NAMES.items() for name in names.split()}
_TRAILING_UNIT = re.compile(
    r"(?P<rest>.*?[\d})!%°])\s*(?:\\(?:text|mathrm|mbox|textit|rm|operatorname)\s*\{?\s*(?P<wrapped>[^{}]*)\}?(?P<power>\^\{?[23]\}?)?"
    r"|(?P<degree>\\degree)|\s(?P<bare>[A-Za-z]{2,}(?: [A-Za-z]{2,}){0,2})(?P<barepower>\^\{?[23]\}?)?"
    r"|(?P<glued>(?:cm|mm|km|kg|mg|ml|ft|mph|lbs?|oz|hrs?|min)(?:\^\{?[23]\}?)?)|(?P<han>[一-鿿]{1,4}))\s*"
)
_NOT_UNITS = frozenset(["or", "and", "not", "if", "then", "maybe", "but", "mod", "base", "unless", "to", "than", "is", "no", "cannot", "except",
    "less",
                        "minus", "plus", "times", "over", "squared", "cubed", "sqrt", "pi", "million", "billion", "thousand", "hundred", "dozen",
                        "half", "quarter", "third", "quarters", "thirds", "halves"])  # fmt: skip
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "万": 10**4, "亿": 10**8, "dozen": 12, "hundred": 100}


def normal_unit(text: str) -> str:
    """The name under which a unit is known: centimetres and 厘米 are cm; an unknown word is itself without its plural s."""
    word = text.strip().strip(".").lower().replace("²", "^2").replace("³", "^3")
    if word in _UNITS:
        return _UNITS[word]
    singular = word[:-1] if word.endswith("s") and len(word) > 2 else word
    return _UNITS.get(singular, singular)


def split_unit(text: str) -> tuple[str, str]:
    """Split a trailing unit off; the unit is "" where there is none. Raises NotUnderstood for words that are no unit."""
    match = _TRAILING_UNIT.fullmatch(text)
    if match is None:
        return text, ""
    if match["degree"]:
        return match["rest"], "degree"
    name = match["wrapped"] or match["bare"] or match["glued"] or match["han"] or ""
    words = re.split(r"[\s/\\]+", name.lower().strip())
    if _NOT_UNITS.intersection(words) or re.search(r"[不非没无或]|\d", re.sub(r"\^\{?[23]\}?", "", name)):
        raise NotUnderstood(f"{name!r} is no unit")
    power = re.sub(r"[{}]", "", match["power"] or match["barepower"] or "")
    glued = re.fullmatch(r"([a-z]+)\^\{?([23])\}?", name)
    if glued:
        name, power = glued[1], f"^{glued[2]}"
    squared = re.match(r"(square|sq\.?|cubic|平方|立方)\s*(.*)", name.lower().strip())
    if squared:
        name, power = squared[2], "^2" if squared[1][0] in "s平" else "^3"
    return match["rest"].strip(), normal_unit(name) + power


def units_agree(one: str, other: str) -> bool:
    """Tell whether two units may stand for the same; an unnamed unit agrees with all, two unknown words agree."""
    known = [unit.partition("^")[0] in _UNITS.values() for unit in (one, other)]
    return not one or not other or one == other or "unit" in (one, other) or not any(known)


# --- reading an answer --------------------------------------------------------------------------------------------------------

_PREFIX = re.compile(
    r"^(?:the\s+)?(?:final\s+)?(?:answer|result|solution)s?\s*(?:is|are|:|=)+\s*|^(?:答案|答|结果|共|一共|约|大约|等于|得)\s*(?:是|为|:|等于)*\s*"
    r"|^(?:therefore|thus|hence|so|approximately|about|roughly|\\approx|≈|=)\s*,?\s*",
    re.IGNORECASE,
)
_RELATIONS = re.compile(r"(\\(?:le|ge|neq|in|equiv)(?![A-Za-z])|<=|>=|<|>|=)")
_MATRIX = re.compile(r"\\begin\s*\{([pbvBV]?matrix|array|smallmatrix)\}(?:\{[clr|]*\})?(.*)\\end\s*\{\1\}", re.DOTALL)
_WRAPPED_WORDS = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|textit|rm|operatorname)\s*\{([^{}]*)\}")
_BASED = re.compile(
    r"([0-9A-Za-z]+)\s*_\s*\{?\s*(?:\\text\s*\{)?\s*(\w+)\s*\}*(?:\s*\(?base\s*\w+\)?)?|([0-9A-Fa-f]+)\s*\(?\s*(?:in )?base\s*-?\s*(\w+)\)?"
)
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10", "twelve": "12",
          "sixteen": "16"}  # fmt: skip
_ENTITIES = frozenset(["\\infty", "+\\infty", "-\\infty", "infinity", "+infinity", "-infinity", "+ \\infty", "- \\infty"])


def read_answer(text: str) -> Answer:
    """Read an answer. Raises NotUnderstood, or TooLarge."""
    text = tidy(text)
    for _ in range(3):
        text = _PREFIX.sub("", text).strip()
    text = _without_box(text)
    if not text:
        raise NotUnderstood("nothing is said")
    if _is_plain_number(text):
        return Answer("value", expression=read_expression(text))
    return _read(text, 0)


def _without_box(text: str) -> str:
    boxes = boxed(text)
    return boxes[0][2] if len(boxes) == 1 and boxes[0][0] == 0 and boxes[0][1] == len(text) else text


def _read(text: str, depth: int) -> Answer:
    text = text.strip()
    if depth > 4 or not text:
        raise NotUnderstood("empty, or nested too deep")
    text = _drop_thousands(text)
    for reader in (_read_words, _read_infinity, _read_based, _read_matrix, _read_union, _read_list, _read_relation, _read_bracketed):
        answer = reader(text, depth)
        if answer is not None:
            return answer
    return _read_value(text)


def _drop_thousands(text: str) -> str:
    if "," in text and not re.search(r"[()\[\]]|\\\{", text):
        whole = _THOUSANDS.fullmatch(re.sub(r"[^\d,]", "", text)) if not re.search(r",\s", text) else None
        if whole or re.search(r"\d{1,3}(,\d{3})+\.\d", text):
            return _THOUSANDS.sub(lambda m: m[1] + re.sub(r"\D", "", m[2]), text)
    return text


def _read_words(text: str, depth: int) -> Answer | None:
    """Words and choices: nothing but letters, and no expression."""
    unwrapped = re.sub(r"\s+", " ", _WRAPPED_WORDS.sub(r"\1", text)).strip(" .:")
    choice = re.fullmatch(r"\(?([A-J])(?:\)|\.|:|、)?(?:\s.*)?", unwrapped)
    if choice and (len(unwrapped) == 1 or re.match(r"\([A-J]\)|[A-J][).:、]", unwrapped)):
        return Answer("words", choice[1].lower())
    if re.fullmatch(r"(?:\\emptyset|\\\{\s*\\\}|empty set|no solutions?|none|无解|空集)", unwrapped, re.IGNORECASE):
        return Answer("words", "\\emptyset")
    wrapped = _WRAPPED_WORDS.fullmatch(text)
    if re.fullmatch(r"[A-Za-z][A-Za-z'’ \-]*", unwrapped) and (wrapped or re.search(r"[A-Za-z]{3,}", unwrapped)):
        if (
            unwrapped.lower() in _FUNCTION_NAMES
            or len(unwrapped.split()) > 8
            or _NOT_UNITS.intersection({"or", "maybe"} & set(unwrapped.lower().split()))
        ):
            raise NotUnderstood("words, but no answer")
        return Answer("words", re.sub(r"[\s\-]+", " ", unwrapped).lower())
    if re.fullmatch(r"[一-鿿]+", text):
        number = _chinese_number(text)
        if number is not None:
            return Answer("value", expression=read_expression(f"({number})"))
        return Answer("words", text)
    clock = re.fullmatch(r"(\d{1,2}:\d\d)\s*(a\.?m\.?|p\.?m\.?)?", unwrapped, re.IGNORECASE)
    if clock:
        return Answer("words", clock[1].lstrip("0") + (clock[2] or "").lower().replace(".", ""))
    return None


_CHINESE_DIGITS = {**{digit: value for value, digit in enumerate("零一二三四五六七八九")}, "两": 2, "〇": 0}
_CHINESE_SCALES = {"十": 10, "百": 100, "千": 1000}


def _chinese_number(text: str) -> Fraction | None:
    """Read a number in Chinese characters: 三百零五, 三分之二, 百分之五十; None where it is none."""
    if text.startswith("百分之"):
        share = _chinese_number(text[3:])
        return share / 100 if share is not None else None
    below, slash, above = text.partition("分之")
    if slash:
        denominator, numerator = _chinese_number(below), _chinese_number(above)
        return numerator / denominator if numerator is not None and denominator else None
    if not text or not all(c in _CHINESE_DIGITS or c in _CHINESE_SCALES or c in "万亿" for c in text):
        return None
    total = section = digit = 0
    for character in text:
        if character in _CHINESE_DIGITS:
            digit = _CHINESE_DIGITS[character]
        elif character in _CHINESE_SCALES:
            section += (digit or 1) * _CHINESE_SCALES[character]
            digit = 0
        else:
            total = (total + section + digit) * (10**4 if character == "万" else 10**8)
            section = digit = 0
    return Fraction(total + section + digit)


def _read_infinity(text: str, depth: int) -> Answer | None:
    if text.lower() in _ENTITIES:
        return Answer("infinity", "-" if text.startswith("-") else "+")
    return None


def _read_based(text: str, depth: int) -> Answer | None:
    match = _BASED.fullmatch(_WRAPPED_WORDS.sub(r"\1", text))
    if match is None:
        return None
    digits, base = (match[1], match[2]) if match[1] else (match[3], match[4])
    base = _BASES.get(base.lower(), base)
    if (not digits[0].isdigit() and not (base.isdigit() and len(digits) > 1)) or not base.isdigit():
        return None  # x_1 is a variable
    return Answer("based", digits.upper().lstrip("0") or "0", unit=base)


def _read_matrix(text: str, depth: int) -> Answer | None:
    match = _MATRIX.fullmatch(text)
    if match is None:
        return None
    rows = [[cell.strip() for cell in row.split("&")] for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\cr", match[2]) if row.strip()]
    if len({len(row) for row in rows}) != 1:
        raise NotUnderstood("a matrix with uneven rows")
    if match[1] in ("vmatrix", "Vmatrix"):
        raise NotUnderstood("a determinant")
    return Answer("matrix", f"{len(rows)}x{len(rows[0])}", parts=tuple(_read(cell, depth + 1) for row in rows for cell in row))


def _read_union(text: str, depth: int) -> Answer | None:
    pieces = split_outside(text, "\\cup")
    if len(pieces) < 2:
        return None
    prefix = re.match(r"\s*[a-z]\s*\\in\s*", pieces[0])
    pieces[0] = pieces[0][prefix.end() :] if prefix else pieces[0]
    return Answer("union", parts=tuple(_read(piece, depth + 1) for piece in pieces))


def _read_list(text: str, depth: int) -> Answer | None:
    pieces = [part for piece in split_outside(text, ",") for part in split_outside(piece, ";")]
    pieces = [re.sub(r"^\s*(?:and|or|和|或)\b\s*", "", piece) for piece in pieces if piece.strip()]
    pieces = [both for piece in pieces for both in _both_signs(piece)]
    if len(pieces) < 2:
        return None
    # x = 1, 2: the name counts for all
    named = re.match(r"\s*([a-zA-Z])\s*=\s*(?=[^=]*$)", pieces[0])
    if named and not any("=" in piece for piece in pieces[1:]):
        pieces[0] = pieces[0][named.end() :]
    return Answer("sequence", "", parts=tuple(_read(piece, depth + 1) for piece in pieces))


def _both_signs(text: str) -> list[str]:
    sides = split_outside(text, "\\pm")
    return [sign.join(sides) for sign in ("+", "-")] if len(sides) == 2 else [text]


def _read_relation(text: str, depth: int) -> Answer | None:
    signs = _RELATIONS.findall(text)
    if not signs:
        return None
    sides = [side.strip() for side in _RELATIONS.split(text)[::2]]
    signs = [{"<=": "\\le", ">=": "\\ge"}.get(sign, sign) for sign in signs]
    if signs == ["\\in"]:
        if not re.fullmatch(r"[A-Za-z](?:_\{?\w+\}?)?", sides[0]):
            raise NotUnderstood("membership of what is no variable")
        return _read(sides[1], depth + 1)
    if "\\in" in signs or "\\equiv" in signs or len(signs) > 2 or not all(sides):
        raise NotUnderstood("such a chain of relations")
    if len(signs) == 2:
        return _read_between(sides, signs, depth)
    if signs == ["="] and re.fullmatch(
        r"[a-zA-Z](?:_\{?\w+\}?)?|[a-zA-Z]\s*(?:'|\^\{-1\})?\([a-z](?:,\s*[a-z])*\)|\\angle\s*[A-Z]+|[A-Z]{2,3}", sides[0]
    ):
        return Answer("relation", "=", unit=re.sub(r"\s", "", sides[0]), parts=(_name(sides[0]), _read(sides[1], depth + 1)))
    return Answer("relation", signs[0], parts=(_read(sides[0], depth + 1), _read(sides[1], depth + 1)))


def _name(text: str) -> Answer:
    try:
        return _read_value(text)
    except NotUnderstood:
        return Answer("words", text)


def _read_between(sides: Sequence[str], signs: Sequence[str], depth: int) -> Answer:
    """``a < x \\le b`` is the interval that it describes."""
    if signs[0] in (">", "\\ge"):
        sides, signs = sides[::-1], [{">": "<", "\\ge": "\\le"}.get(sign, "") for sign in reversed(signs)]
    if not all(sign in ("<", "\\le") for sign in signs) or not re.fullmatch(r"[A-Za-z]|\\theta", sides[1]):
        raise NotUnderstood("such a chain of relations")
    brackets = ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]")
    return Answer("sequence", brackets, parts=(_read(sides[0], depth + 1), _read(sides[2], depth + 1)))


def _read_bracketed(text: str, depth: int) -> Answer | None:
    match = re.fullmatch(r"(\\\{|[(\[])(.*)(\\\}|[)\]])", text, re.DOTALL)
    if match is None or not _brackets_match(text):
        return None
    pieces = split_outside(match[2], ",")
    if len(pieces) < 2 and match[1] != "\\{":
        return None  # (x + 1) is an expression, and so is (5)
    pieces = [both for piece in pieces for both in _both_signs(piece)]
    return Answer("sequence", (match[1] + match[3]).replace("\\", ""), parts=tuple(_read(piece, depth + 1) for piece in pieces))


def _brackets_match(text: str) -> bool:
    """Tell whether the first bracket closes with the last character."""
    depth = 0
    for place, character in enumerate(text):
        if character == "\\":
            continue
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return place == len(text) - 1
    return False


def nesting(text: str) -> int:
    """How deep the brackets of a text are nested."""
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


def split_outside(text: str, separator: str) -> list[str]:
    """Split a text at a separator that stands outside all brackets."""
    pieces, depth, begin, place = [], 0, 0, 0
    while place < len(text):
        if text[place] in "([{":
            depth += 1
        elif text[place] in ")]}":
            depth -= 1
        if (
            depth == 0
            and text.startswith(separator, place)
            and not text[place + len(separator) : place + len(separator) + 1].isalpha() * separator[0:1].startswith("\\")
        ):
            pieces.append(text[begin:place])
            begin = place + len(separator)
        place += 1
    return [*pieces, text[begin:]]


def _read_value(text: str) -> Answer:
    percent = re.fullmatch(r"(.*?)\s*(?:\\?%|percent|per cent|\\text\{\s*(?:percent|\\?%)\s*\})", text)
    if percent:
        return Answer("value", expression=read_expression(percent[1]), percent=True)
    ratio = re.fullmatch(r"\d+(?:\s*:\s*\d+)+", text)
    if ratio:
        terms = [Fraction(term) for term in text.split(":")]
        scale = next((term for term in terms if term), Fraction(1))
        return Answer("sequence", ":", parts=tuple(Answer("value", expression=read_expression(f"({term / scale})")) for term in terms))
    scaled = re.fullmatch(r"(.*\d)\s*(?:\\text\{\s*)?(thousand|million|billion|hundred|dozen|万|亿)\s*\}?\s*(.*)", text)
    if scaled:
        unit = split_unit("1 " + scaled[3])[1] if scaled[3] else ""
        return Answer("value", expression=read_expression(f"({scaled[1]})*{_SCALES[scaled[2]]}"), unit=unit)
    rest, unit = split_unit(text)
    return Answer("value", expression=read_expression(rest.replace("\\degree", "").replace("\\{", "(").replace("\\}", ")")), unit=unit)


# --- agreement ----------------------------------------------------------------------------------------------------------------


def agree(gold: Answer, said: Answer) -> bool:
    """Tell whether a said answer is the gold one."""
    if said.kind == "relation" and gold.kind != "relation":
        return (
            (_unwrap(said) is not None
            and agree(gold, _unwrap(said) or said))
            or (_as_interval(said) == _shape(gold)
            and _same_interval(gold, said))
        )
    if gold.kind == "relation" and said.kind != "relation":
        inner = _unwrap(gold)
        return (inner is not None and agree(inner, said)) or (_as_interval(gold) == _shape(said) and _same_interval(said, gold))
    if gold.kind == "based" or said.kind == "based":
        return _same_digits(gold, said)
    if gold.kind == "sequence" and len(gold.parts) == 1 and said.kind == "value":
        return agree(gold.parts[0], said)
    if gold.kind == "value" and said.kind == "sequence" and said.text == "{}" and len(said.parts) == 1:
        return agree(gold, said.parts[0])
    if (gold.kind == "words" and said.kind == "value") or (gold.kind == "value" and said.kind == "words"):
        return False
    if gold.kind != said.kind:
        return False
    return _AGREEMENTS[gold.kind](gold, said)


def _same_value(gold: Answer, said: Answer) -> bool:
    assert gold.expression is not None and said.expression is not None
    if not units_agree(gold.unit, said.unit):
        return False
    if gold.percent == said.percent:
        return same(gold.expression, said.expression)
    if same(gold.expression, said.expression):
        # 40 against 40%: the sign names the unit; but 0.5 is not 0.5%.
        bare = gold.expression if not gold.percent else said.expression
        return not bare.names and isinstance(bare.values[0], Fraction) and abs(bare.values[0]) >= 1
    hundredth = read_expression("1/100")
    scaled = [
        _scaled(answer.expression, hundredth) if answer.percent else answer.expression for answer in (gold, said) if answer.expression
    ]
    return same(scaled[0], scaled[1])


def _scaled(expression: Expression, factor: Expression) -> Expression:
    return Expression(
        tuple(value * factor.values[0] if isinstance(value, Fraction) else value / 100 for value in expression.values), expression.names
    )


def _same_digits(gold: Answer, said: Answer) -> bool:
    """Numbers in a base: the digits and the base; a bare number is taken to be in the base that was asked for."""
    if gold.kind == said.kind:
        return gold.text == said.text and gold.unit == said.unit
    based, bare = (gold, said) if gold.kind == "based" else (said, gold)
    if based is said and said.unit != "10":
        return False
    return bare.expression is not None and based.text.isdigit() and same(bare.expression, read_expression(based.text))


def _same_sequence(gold: Answer, said: Answer) -> bool:
    if len(gold.parts) != len(said.parts):
        return False
    unordered = {"", "{}"}
    if gold.text in unordered and said.text in unordered:
        return _same_without_order(gold.parts, said.parts)
    return gold.text == said.text and all(agree(g, s) for g, s in zip(gold.parts, said.parts, strict=True))


def _same_without_order(gold: Sequence[Answer], said: Sequence[Answer]) -> bool:
    left = list(said)
    for part in gold:
        place = next((place for place, other in enumerate(left) if agree(part, other)), None)
        if place is None:
            return False
        del left[place]
    return not left


def _same_matrix(gold: Answer, said: Answer) -> bool:
    return gold.text == said.text and all(agree(g, s) for g, s in zip(gold.parts, said.parts, strict=True))


def _same_union(gold: Answer, said: Answer) -> bool:
    return len(gold.parts) == len(said.parts) and _same_without_order(gold.parts, said.parts)


def _same_words(gold: Answer, said: Answer) -> bool:
    return gold.text == said.text


_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\neq": "\\neq"}


def _same_relation(gold: Answer, said: Answer) -> bool:
    named = gold.unit and said.unit
    if named and gold.unit != said.unit and not (gold.parts[0].expression and said.parts[0].expression):
        return False
    sides = [part.expression for part in (*gold.parts, *said.parts)]
    if any(side is None for side in sides):
        return gold.text == said.text and all(agree(g, s) for g, s in zip(gold.parts, said.parts, strict=True))
    factor = proportional((sides[0], sides[1]), (sides[2], sides[3]))  # type: ignore[arg-type]
    if factor is None or factor == 0:
        return False
    return said.text == (gold.text if factor > 0 else _FLIPPED[gold.text]) or (gold.text == said.text and gold.text in ("=", "\\neq"))


def _unwrap(answer: Answer) -> Answer | None:
    """The right side of ``x = ...``."""
    return answer.parts[1] if answer.kind == "relation" and answer.text == "=" and answer.unit else None


def _as_interval(answer: Answer) -> str:
    """The brackets of the interval that ``x > 3`` describes; a sign that no interval has, for anything else."""
    left = answer.parts[0].expression if answer.kind == "relation" and answer.parts[0].kind == "value" else None
    if left is None or len(left.names) != 1 or answer.text not in ("<", ">", "\\le", "\\ge"):
        return "none"
    return {"<": "()", ">": "()", "\\le": "(]", "\\ge": "[)"}[answer.text]


def _shape(answer: Answer) -> str:
    return answer.text if answer.kind == "sequence" else "nothing"


def _same_interval(interval: Answer, relation: Answer) -> bool:
    variable = relation.parts[0].expression
    assert variable is not None
    if not same(variable, read_expression(next(iter(variable.names)))):
        return False
    infinite, finite = (0, 1) if relation.text in ("<", "\\le") else (1, 0)
    end = interval.parts[infinite]
    return end.kind == "infinity" and end.text == "-+"[infinite] and agree(interval.parts[finite], relation.parts[1])


_AGREEMENTS = {"value": _same_value, "sequence": _same_sequence, "union": _same_union, "matrix": _same_matrix, "relation": _same_relation,
               "infinity": _same_words, "words": _same_words}  # fmt: skip
