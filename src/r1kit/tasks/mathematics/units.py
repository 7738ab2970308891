"""Units after a number: which words are units, and which words mean the same unit."""

import re

from r1kit.tasks.mathematics.expressions import NotUnderstood

_UNIT_NAMES = {
    "cm": "cm centimeter centimetre 厘米", "m": "m meter metre 米", "km": "km kilometer kilometre 千米 公里",
    "mm": "mm millimeter millimetre 毫米", "dm": "dm decimeter 分米", "in": "in inch inches",
    "ft": "ft foot feet", "yd": "yd yard", "mi": "mi mile", "g": "g gram 克", "kg": "kg kilogram 千克 公斤",
    "mg": "mg milligram", "t": "ton tonne 吨", "lb": "lb lbs pound", "oz": "oz ounce", "s": "s sec second 秒",
    "min": "min minute 分钟", "h": "h hr hour 小时 时", "day": "day 天 日", "week": "week 周",
    "month": "month 个月", "year": "year yr 年", "l": "l liter litre 升", "ml": "ml milliliter 毫升",
    "degree": "degree deg 度", "radian": "radian rad", "dollar": "dollar usd bucks 美元",
    "yuan": "yuan rmb cny 元 块", "cent": "cent cents 分", "jiao": "角", "percent": "percent pct",
    "mi/h": "mph", "km/h": "kmh kph",
    "unit": "unit units 个 只 本 人 页 次 棵 条 张 件 支 辆 名 朵 把 头 台 箱 盒 袋 瓶 束 颗 粒 块 "
    "位 句 朵 双 根 面 户 步 倍 岁 道 种",
}  # fmt: skip
UNITS = {name: unit for unit, names in _UNIT_NAMES.items() for name in names.split()}
_KNOWN = frozenset(part for unit in _UNIT_NAMES for part in unit.split("/"))
_RATES = r"(?:[ckm]?m|km|mi|ft|in|[km]?g|l|ml)/(?:s|h|hr|min|sec|m?l|cm|m)"
_TRAILING_UNIT = re.compile(
    r"(?P<rest>.*?[\d})!%°])\s*"
    r"(?:\\(?:text|mathrm|mbox|textit|rm|operatorname)\s*\{?\s*(?P<wrapped>[^{}]*)\}?(?P<power>\^\{?[23]\}?)?"
    r"|(?P<degree>\\degree)|\s?(?P<rate>"
    rf"{_RATES}"
    r")(?![A-Za-z])(?P<ratepower>\^\{?[23]\}?)?"
    r"|\s(?P<bare>[A-Za-z]{2,}(?: [A-Za-z]{2,}){0,2})(?P<barepower>\^\{?[23]\}?)?"
    r"|(?P<glued>(?:cm|mm|km|kg|mg|ml|ft|mph|lbs?|oz|hrs?|min)(?:\^\{?[23]\}?)?)|(?P<han>[一-鿿]{1,4}))\s*"
)
_NOT_UNITS = (
    "or and not if then maybe but mod base unless to than is no cannot except less minus plus times over "
    "squared cubed sqrt pi million billion thousand hundred dozen half quarter third quarters thirds halves"
)
NOT_UNITS = frozenset(_NOT_UNITS.split())
SCALES = {
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "万": 10**4,
    "亿": 10**8,
    "dozen": 12,
    "hundred": 100,
}


def normal_unit(text: str) -> str:
    """The standard name of a unit: centimetres and 厘米 are cm; an unknown word only loses its plural s."""
    above, slash, below = re.sub(r"\s+per\s+|\s*/\s*", "/", text.strip()).partition("/")
    if slash and above and below:
        return f"{normal_unit(above)}/{normal_unit(below)}"
    word = text.strip().strip(".").lower().replace("²", "^2").replace("³", "^3")
    if word in UNITS:
        return UNITS[word]
    singular = word[:-1] if word.endswith("s") and len(word) > 2 else word
    return UNITS.get(singular, singular)


def split_unit(text: str) -> tuple[str, str]:
    """Split a trailing unit off; the unit is "" if there is none. Raises NotUnderstood for words that are not
    a unit."""
    match = _TRAILING_UNIT.fullmatch(text)
    if match is None:
        return text, ""
    if match["degree"]:
        return match["rest"], "degree"
    name = match["wrapped"] or match["rate"] or match["bare"] or match["glued"] or match["han"] or ""
    words = re.split(r"[\s/\\]+", name.lower().strip())
    if (
        (name and not re.search(r"[^\W\d]|[%'\"²³]", name))
        or NOT_UNITS.intersection(words)
        or re.search(r"[不非没无或]|\d", re.sub(r"\^\{?[23]\}?", "", name))
    ):
        raise NotUnderstood(f"{name!r} is not a unit")
    power = re.sub(r"[{}]", "", match["power"] or match["ratepower"] or match["barepower"] or "")
    glued = re.fullmatch(r"([a-z]+)\^\{?([23])\}?", name)
    if glued:
        name, power = glued[1], f"^{glued[2]}"
    squared = re.match(r"(square|sq\.?|cubic|平方|立方)\s*(.*)", name.lower().strip())
    if squared:
        name, power = squared[2], "^2" if squared[1][0] in "s平" else "^3"
    return match["rest"].strip(), normal_unit(name) + power


def units_agree(one: str, other: str) -> bool:
    """Whether two units may mean the same; a missing unit agrees with all, and two unknown words agree."""
    parts = one.split("/"), other.split("/")
    if len(parts[0]) == len(parts[1]) > 1:
        return all(units_agree(*pair) for pair in zip(*parts, strict=True))
    known = [all(part.partition("^")[0] in _KNOWN for part in unit.split("/")) for unit in (one, other)]
    return not one or not other or one == other or "unit" in (one, other) or not any(known)
