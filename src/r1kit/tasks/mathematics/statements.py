"""What a text without a box states as its answer.

The sentences are read from the last one back. One that has no value (and refuses nothing) is passed over; the
first that has one decides. A labelled line ("A: 9") and a statement ("the answer is 9", "so x = 9") count
wherever they stand then; a sentence that merely contains a value counts only if nothing but a closing formula
("I hope this helps.") or a note follows it."""

import re

from r1kit.tasks.mathematics.layout import FORMULA, Sentence, sentences
from r1kit.tasks.mathematics.notation import is_prose
from r1kit.tasks.mathematics.phrases import (
    ANSWER,
    ANSWER_IS,
    BARE_LABEL,
    CLOSING,
    CONCLUDES,
    HYPOTHESIS,
    LABEL,
    NEGATED_BEFORE,
    NOTE,
    REFUSES,
    RETRACTS,
)
from r1kit.tasks.mathematics.sentence_values import NOTHING, Found, value_of

LONGEST_SENTENCE = 1_000
LONGEST_WORDS = 60
_QUOTES = "\"'“”‘’„«»「」『』`*_ \t\n"
_MARKS_OF_QUOTATION = re.compile('["“”„«»「」『』]')
_DIGIT_OR_FORMULA = re.compile(r"[\d$\\½¼¾⅓⅔π√∞]")
_WORDS_OF_OTHER_SCRIPTS = re.compile(r"[^\W\d_A-Za-z一-鿿πθ°²³½¼¾⅓⅔⁰-⁹]")
_OTHER_LABEL = re.compile(r"[^:：$\\]{0,80}[^\d:：$\\][:：](?!\S*//)\s*(?=\S)")
_EXPLANATION = re.compile(
    r"[,;，；]?\s+(?:since|because|which|whereas|weil|parce que|car|porque|perché|omdat|bo|ponieważ"
    r"|eftersom|fordi|protože|deoarece|koska|mert|потому что|так как)\b"
    r"|[,;，；]\s*(?:as|where|i\.e\.|that is|so|因为|由于|即)\b|因为"
    r"|(?<=[\d$}])\s+for (?:all|any|every|each)\b|[,;]\s+(?:for|with) "
)
_ASIDE = re.compile(r"\s*\((?![^()]*(?:\bor\b|或))[^()\d$\\]*[A-Za-z]{3,}[^()$\\]*\)")
_IS_THE_ANSWER = re.compile(
    r"\s*(?:is|are|was|must be|should be|=)\s+(?:\w+ly\s+|then\s+|thus\s+|hence\s+|therefore\s+)?(?:the"
    r"|our|my|your)\s+"
    r"(?!wrong|incorrect|opposite)(?:[a-z]+\s+){0,2}?(?:answer|solution|result)s?\b",
    re.IGNORECASE,
)
_CORRECTION = re.compile(
    r"\s*[;:—–]\s*(?=[$\\A-Za-z]{1,2}\s*=|(?:it|this|that|the (?:right|correct|actual) \w+)(?:'s| is"
    r"| should be)\b)",
    re.IGNORECASE,
)
_LEADS_ON = re.compile(r"(?:then|now|next|again|we|this|it|there|i\s+[a-z]{3})\b", re.IGNORECASE)
_CHECKS = re.compile(r"\b(?:check|verif|substitut|plug|confirm|indeed|part|correct because)", re.IGNORECASE)
# The commonest ends of a response, read without taking the text apart: the rules below come to the same.
_PLAIN_END = re.compile(
    r"(?:\A|\n|[.!?] )(?:(?:So|Thus|Therefore|Hence),? )?(?:####|A:|(?:the )?(?:final )?answer(?: is:?"
    r"|:)) ?(\d[\d,]*(?:\.\d+)?)\.?\Z",
    re.IGNORECASE,
)
_BARE_FORMULA = re.compile(
    r"(?:\b(?:is|are|equals|get|gives|so|thus|hence|therefore)|[:：])\s+((?:(?:(?<![A-Za-z])[A-Za-z]|\d"
    r"|sqrt|sin|cos|tan|log|ln|pi)(?![A-Za-z]{2})"
    r"|[-+*/^=()|.,\s√π²³])+?)[.\s]*$"
)
_VALUE_ALONE = re.compile(r"[-+−]?[$€£¥]?\d[\d,. ]*(?:/\d+)?\s*\\?[%％]?|\$[^$]+\$")


def stated_answer(text: str) -> str | None:
    """The answer that a text (without marks of emphasis) states; None if it states none."""
    text = text.strip()
    plain = _PLAIN_END.search(text, max(0, len(text) - 60))
    if plain:
        return plain[1]
    if _is_bare(text):
        return text.strip(_QUOTES)
    nothing_since = True
    for sentence in reversed(sentences(text)):
        found = _decide(sentence, last=nothing_since)
        if found.any:
            return found.text
        if not (CLOSING.fullmatch(sentence.text) or NOTE.match(sentence.text)):
            nothing_since = False
    return None


def corrected_answer(text: str) -> str | None:
    """The answer that the text after a box states in so many words ("Final answer: 30", "The answer is 30");
    None if there is none, or one without a number or formula."""
    if not (ANSWER.search(text) or "####" in text or re.search(r"^\W*A\s*[:：]", text, re.MULTILINE)):
        return None
    for sentence in reversed(sentences(text)):
        content = sentence.text[-LONGEST_SENTENCE:]
        content = re.sub(r"^[\s.,;:)}\]$]+(?=\s)", "", content).lstrip()
        label = LABEL.match(content)
        if (
            label
            and not sentence.opens_line
            and content.startswith(("A", "a"))
            and not content[1:2].isalpha()
        ):
            label = None
        stated = label or (None if _CHECKS.search(content) else _last_match(ANSWER_IS, content))
        if (
            stated
            and (label or ":" not in stated.group())
            and _DIGIT_OR_FORMULA.search(content, stated.end())
        ):
            found = _after_label(content[stated.end() :])
            if found.text is not None and _DIGIT_OR_FORMULA.search(found.text):
                return found.text
    return None


def _is_bare(text: str) -> bool:
    """Whether a text is nothing but its answer: one short line that is no sentence."""
    return (
        "\n" not in text
        and len(text) <= 200
        and not is_prose(text)
        and not LABEL.match(text)
        and not re.match(r"(?:[A-Za-z][A-Za-z ]+|[一-鿿]{1,8})[:：]\s*\S", text)
        and not BARE_LABEL.match(text)
        and not _LEADS_ON.match(text)
        and not ANSWER.search(text)
        and not CONCLUDES.search(text)
        and not _WORDS_OF_OTHER_SCRIPTS.search(text)
        and not re.search(
            r"[。;；]|(?<!\\)[.!?]\s|(?<!\\)[A-Za-z]{3,}\s*=|[一-鿿]{3}.*\d|\d.*[一-鿿]{3}|\$[^$]+\$\W*\w",
            text,
        )
    )


def _decide(sentence: Sentence, last: bool) -> Found:
    """What one sentence says. ``last``: nothing that counts follows it."""
    content = sentence.text[-LONGEST_SENTENCE:]
    if REFUSES.search(content):
        return Found(None)
    supposed = HYPOTHESIS.match(content)
    if supposed:
        content = content[supposed.end() :]
        sentence = Sentence(content, opens_line=False)
    retracted = _last_match(RETRACTS, content)
    if retracted:
        corrected = _CORRECTION.match(content, retracted.end())
        return value_of(content[corrected.end() :], strict=True) if corrected else Found(None)
    label = LABEL.match(content) if sentence.opens_line else None
    if not label and content.rstrip(_QUOTES).endswith(("?", "？")):
        return Found(None) if value_of(content, strict=False).any else NOTHING
    if label:
        return _after_label(content[label.end() :])
    bare = BARE_LABEL.match(content) if sentence.opens_line else None
    if bare and _VALUE_ALONE.fullmatch(content[bare.end() :].strip(_QUOTES + ".")):
        return Found(content[bare.end() :].strip(_QUOTES + "."))
    if NOTE.match(content):
        return NOTHING
    stated = _last_match(ANSWER_IS, content)
    if stated is not None and content[stated.end() :].strip(_QUOTES + "."):
        return _after_label(content[stated.end() :])
    subject = _IS_THE_ANSWER.search(content)
    if subject:
        return value_of(content[: subject.start()], strict=False)
    word = ANSWER.search(content)
    if word:
        found = value_of(content[word.end() :], strict=True)
        return found if found.any else value_of(content, strict=True)
    formula = _formula_at_end(content)
    if formula and (last or CONCLUDES.search(content)):
        return Found(formula)
    if CONCLUDES.search(content):
        return value_of(content, strict=False)
    if not last:
        found = value_of(content, strict=False)
        return Found(None) if found.any else NOTHING
    other = _OTHER_LABEL.match(content) if sentence.opens_line else None
    if other and not is_prose(content[other.end() :]):
        found = value_of(content[other.end() :], strict=True)
        if found.any:
            return found
    return value_of(content, strict=False)


def _formula_at_end(content: str) -> str | None:
    """A formula with variables, without dollar signs, that a sentence ends in: "The line is y = 2x + 9."."""
    match = _BARE_FORMULA.search(content[-200:])
    if match is None or not re.search(r"\d?[a-z]\s*[-+*/^]|[-+*/^]\s*[\d.]*[a-z]", match[1]):
        return None
    return match[1].strip()


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = list(pattern.finditer(text))
    return found[-1] if found else None


def _after_label(text: str) -> Found:
    """The answer after a label or "the answer is": all of a short phrase, the one value of a sentence."""
    for _ in range(3):
        again = LABEL.match(text) or ANSWER_IS.match(text) or re.match(r"\s*(?:the )?(?=answer is)", text)
        inner = LABEL.match(text) or ANSWER_IS.search(text[:60])
        if not (again or inner) or inner is None:
            break
        text = text[inner.end() :]
    text = _MARKS_OF_QUOTATION.sub("", text).strip().strip(_QUOTES)
    if not text:
        return Found(None)
    if NEGATED_BEFORE.search(re.match(r"\W*(?:\w+)?", text)[0] + " "):  # type: ignore[index]
        return Found(None)
    cut = _EXPLANATION.search(text, 1)
    if cut and (_DIGIT_OR_FORMULA.search(text[: cut.start()]) or not _DIGIT_OR_FORMULA.search(text)):
        text = text[: cut.start()]
    shorter = _ASIDE.sub("", text)
    text = (shorter if _DIGIT_OR_FORMULA.search(shorter) else text).strip(_QUOTES)
    if text.endswith((")", "]")) and not re.search(r"[(\[]", text):
        text = text[:-1]  # (Answer: 45)
    phrase = text.rstrip(".。!！?？;,，।۔؟։" + _QUOTES)
    formula = re.fullmatch(r"\$((?:\\\$|[^$])+)\$", phrase)
    if formula:
        return Found(formula[1].strip())
    subject = _IS_THE_ANSWER.search(text)
    if subject:
        return value_of(text[: subject.start()], strict=True)
    if _is_phrase(phrase):
        return Found(phrase)
    found = value_of(text, strict=True)
    if found.any:
        return found
    if _DIGIT_OR_FORMULA.search(phrase) or len(phrase) > LONGEST_WORDS:
        return Found(None)
    return Found(phrase)


def _is_phrase(text: str) -> bool:
    """Whether a text is a value with at most a unit, so that all of it is the answer."""
    return not (
        is_prose(text)
        or re.search(r"\d,\s+[A-Za-z]{2,}\s+[A-Za-z]", text)
        or _WORDS_OF_OTHER_SCRIPTS.search(text)
        or FORMULA.search(text)
        or re.search(r"[一-鿿]{3}.*\d|\d.*[一-鿿]{3}|[一-鿿].*\$", text)
    )
