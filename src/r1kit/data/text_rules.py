"""What datatrove lacks: rules for Chinese text, and masks for telephone numbers and IPv6 addresses.

Gopher's and FineWeb's rules (Rae et al. 2021, table A1; Penedo et al. 2024) count words and look for English
stop words, so they say nothing of Chinese. The rules here ask the same questions of characters: enough text,
few signs, lines that end as sentences do, no repetition. Their thresholds are r1kit's own."""

import ipaddress
import re
from collections import Counter

LEAST_HAN = 50  # characters; Gopher: 50 words
LEAST_SHARE = 0.3  # of Han characters among all but spaces
MOST_SIGNS = 0.4  # of characters that are neither letters nor digits; Chinese prose has about 0.12
LEAST_ENDS = 0.12  # of lines that end with a sign that ends a sentence; FineWeb: 0.12
LONGEST_SENTENCE = 300  # characters without a sign that ends or divides a sentence
MOST_REPEATED_LINES = 0.3  # Gopher's share of duplicate lines
RUN, MOST_REPEATED_RUNS = 10, 0.2  # characters in a row, and the share of them that occurred before

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_SIGN = re.compile(r"[^\w\s]|_")
_ENDS = ("。", "！", "？", "…", "”", "」", "』", "；", ".", "!", "?")
_DIVIDES = re.compile(r"[。！？；，、：,.!?;:\n]")
# What is left of text that was read in another encoding than it was written in.
_BROKEN = re.compile("锟斤拷|烫烫烫|屯屯屯|\ufffd{2,}|锘|鈥")


def chinese_fault(text: str) -> str | None:
    """The first rule that a Chinese text does not pass; None for a text that passes all."""
    han, signs = len(_HAN.findall(text)), len(_SIGN.findall(text))
    visible = max(1, sum(map(len, text.split())))
    if han < LEAST_HAN:
        return "zh_short"
    if _BROKEN.search(text):
        return "zh_broken_encoding"
    if han / visible < LEAST_SHARE:
        return "zh_few_han"
    if signs / visible > MOST_SIGNS:
        return "zh_many_signs"
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if sum(line.endswith(_ENDS) for line in lines) < LEAST_ENDS * len(lines):
        return "zh_few_sentence_ends"
    if max(map(len, _DIVIDES.split(text))) > LONGEST_SENTENCE:
        return "zh_long_sentence"
    return _repetition_fault(text, lines)


def _repetition_fault(text: str, lines: list[str]) -> str | None:
    if len(lines) - len(set(lines)) > MOST_REPEATED_LINES * len(lines):
        return "zh_repeated_lines"
    joined = "".join(text.split())
    runs = Counter(joined[start : start + RUN] for start in range(len(joined) - RUN + 1))
    repeated = runs.total() - len(runs)
    return "zh_repeated_runs" if repeated > MOST_REPEATED_RUNS * max(1, runs.total()) else None


PHONE, ADDRESS = "555-0100", "2001:db8::1"  # reserved for examples: no one's number, no one's address

_PHONE = re.compile(
    r"(?<![\w.+-])(?:"
    r"(?:\+?86[- ]?)?1[3-9]\d[- ]?\d{4}[- ]?\d{4}"  # Chinese mobile numbers
    r"|\+\d{1,3}(?:[- .]?\(?\d{1,4}\)?){2,5}"  # with a country's code
    r"|\(0?\d{2,4}\)[- ]?\d{3,4}[- ]?\d{4}"  # area code in brackets
    r"|\d{3}-\d{3}-\d{4}|0\d{2,3}-\d{7,8}"  # American; Chinese with an area code
    r")(?![\w-]|\.\d)"
)
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")


def mask_numbers(text: str) -> str:
    """The text with telephone numbers and public IPv6 addresses replaced by those of examples."""
    text = _PHONE.sub(_phone, text)
    return _IPV6.sub(_address, text) if ":" in text else text


def _phone(match: re.Match[str]) -> str:
    return PHONE if 7 <= sum(map(str.isdigit, match[0])) <= 15 else match[0]


def _address(match: re.Match[str]) -> str:
    try:
        return ADDRESS if ipaddress.ip_address(match[0]).is_global else match[0]
    except ValueError:
        return match[0]
