"""Numbers written as words: 三百零五, 三分之二, 百分之五十, twenty-one."""

from fractions import Fraction

_CHINESE_DIGITS = {**{digit: value for value, digit in enumerate("零一二三四五六七八九")}, "两": 2, "〇": 0}
_CHINESE_SCALES = {"十": 10, "百": 100, "千": 1000}


def chinese_number(text: str) -> Fraction | None:
    """Read a number in Chinese characters: 三百零五, 三分之二, 百分之五十; None where it is none."""
    if text.startswith("百分之"):
        share = chinese_number(text[3:])
        return share / 100 if share is not None else None
    below, slash, above = text.partition("分之")
    if slash:
        denominator, numerator = chinese_number(below), chinese_number(above)
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


_BELOW_TWENTY = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ENGLISH = {
    **{word: value for value, word in enumerate(_BELOW_TWENTY)},
    **{word: 10 * value for value, word in enumerate(_TENS, 2)},
}
_ENGLISH_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}


def english_number(text: str) -> int | None:
    """Read a whole number in English words: twenty-one, three hundred and five; None where it is none."""
    words = [word for word in text.lower().replace("-", " ").split() if word != "and"]
    if not words or not all(word in _ENGLISH or word in _ENGLISH_SCALES for word in words):
        return None
    total = section = 0
    before = ""
    for word in words:
        if word in _ENGLISH:
            if before in _ENGLISH and not (_ENGLISH[before] >= 20 and 0 < _ENGLISH[word] < 10):
                return None  # "one two" is no number
            section += _ENGLISH[word]
        elif word == "hundred":
            section = (section or 1) * 100
        else:
            total, section = total + (section or 1) * _ENGLISH_SCALES[word], 0
        before = word
    return total + section
