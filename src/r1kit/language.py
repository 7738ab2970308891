"""Count words by language, for the language-consistency reward.

The paper's reward is Num(words of the target language) / Num(words) over the thinking [DeepSeek-R1, eq. 7];
it does not say how to recognise a word's language. Here a language with a script of its own is recognised by
its script. Text that belongs to no language is neutral and counts on neither side: code, formulas, numbers,
links, variable names, units and (in a text of another script) names. A run of Han characters counts as half
as many words, because a Chinese word has two characters on average. Latin-script languages share their
letters; with ``rivals`` they are distinguished by function words."""

import re
from functools import lru_cache

SCRIPTS = {
    "latin": "A-Za-zªºÀ-ÖØ-öø-ʯḀ-ỿ",
    "han": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3005\u3007",
    "kana": "ぁ-ゖゝ-ゟァ-ヺー-ヿｦ-ﾝ",
    "hangul": "가-힣ᄀ-ᇿㄱ-ㆎ",
    "cyrillic": "Ѐ-ԯ",
    "arabic": "ؠ-ي٫-ۓݐ-ݿࢠ-ࣿ",
    "hebrew": "א-ת",
    "greek": "Ͱ-Ͽἀ-῿",
    "devanagari": "ऀ-ॣ॰-ॿ",
    "thai": "ก-ฺเ-๎",
    "bengali": "ঀ-৿",
    "tamil": "஀-௿",
    "georgian": "Ⴀ-ჿ",
    "armenian": "Ա-֏",
}

LANGUAGE_SCRIPTS = {
    "zh": ("han",),
    "ja": ("kana", "han"),
    "ko": ("hangul",),
    "ru": ("cyrillic",),
    "uk": ("cyrillic",),
    "bg": ("cyrillic",),
    "sr": ("cyrillic",),
    "ar": ("arabic",),
    "fa": ("arabic",),
    "ur": ("arabic",),
    "he": ("hebrew",),
    "el": ("greek",),
    "hi": ("devanagari",),
    "mr": ("devanagari",),
    "ne": ("devanagari",),
    "th": ("thai",),
    "bn": ("bengali",),
    "ta": ("tamil",),
    "ka": ("georgian",),
    "hy": ("armenian",),
    **{
        code: ("latin",)
        for code in (
            "en",
            "fr",
            "de",
            "es",
            "it",
            "pt",
            "nl",
            "pl",
            "tr",
            "vi",
            "id",
            "sv",
            "da",
            "cs",
            "ro",
            "fi",
            "hu",
        )
    },
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Function words identify a Latin-script language: they are frequent, short and rarely borrowed.
FUNCTION_WORDS: dict[str, frozenset[str]] = {
    "en": _words(
        """the of and to in is that it we so then have this be for are as with on by from not but or an at if
        can has was which there will would should must let now since because therefore thus hence first
        next also each all two one what when where how i you they he she his her its our their my your do
        does did need know get find add check wait answer"""
    ),
    "fr": _words(
        """le la les de des du un une et est que qui dans pour pas sur avec nous on donc par il elle ce cette
        sont au aux mais ou si alors plus comme puis car ils être fait peut deux"""
    ),
    "de": _words(
        """der die das und ist nicht ein eine den dem des zu mit von auf für wir dass also sich als auch es im
        aber oder wenn dann so sind wird haben man nur noch nach bei aus zwei"""
    ),
    "es": _words(
        """el la los las de que y en un una es por con para no se del al lo como pero más su entonces si son o
        cuando hay este esta nos porque dos ser"""
    ),
    "it": _words(
        """il lo la gli le di che e è un una per non con si da del della dei nel sono ma come più o se quindi
        allora questo questa abbiamo due essere"""
    ),
    "pt": _words(
        """o a os as de que e é um uma em para não com se do da dos das no na por mais como mas ou então são
        temos este esta dois ser"""
    ),
    "nl": _words(
        """de het een en van is dat in te niet met op voor we dus zijn aan er maar als dan ook om bij of uit
        deze dit heeft twee"""
    ),
}

NEUTRAL_WORDS = _words(
    """sin cos tan cot sec csc log ln exp mod max min gcd lcm abs sqrt lim det dim arcsin arccos arctan sinh
    cosh tanh deg pi cm mm km kg mg ml kw hz mph kmh kph nm ms px ok qed mb gb kb def print return lambda
    len int str float bool none true false"""
)

_ALL_LETTERS = "".join(SCRIPTS.values())
_NEUTRAL_SPAN = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|\\\[(?:(?!\\\[).)*?\\\]|\\\((?:(?!\\\().)*?\\\)"
    r"|\\[A-Za-z]+\*?|https?://\S+|</?[A-Za-z][^<>\n]{0,40}>",
    re.DOTALL,
)
# A token of letters; digits, underscores and dots inside it make it an identifier, which is neutral.
_WORD = re.compile(rf"[0-9_]*(?:[{_ALL_LETTERS}]['’]?)+(?:[0-9_][0-9_A-Za-z]*)?")
_RUN = re.compile("|".join(f"(?P<{name}>[{letters}]+)" for name, letters in SCRIPTS.items()))
_IDENTIFIER = re.compile(r"[0-9_]|[a-z][A-Z]")


def language_share(text: str, language: str, rivals: tuple[str, ...] = ()) -> float | None:
    """The share of the words of ``text`` that are in ``language``, from 0 to 1; None for a text without
    words, such as "3 + 4 = 7", which is in every language and in none.

    ``language`` is a two-letter code. ``rivals`` are other Latin-script languages that may be mixed in: then
    only function words count among Latin words, the rest is neutral. Raises ValueError for an unknown
    language. Source: DeepSeek-R1, eq. 7."""
    scripts = scripts_of(language)
    for rival in rivals:
        if rival not in FUNCTION_WORDS:
            raise ValueError(
                f"no function words for the rival language {rival!r}; known: {', '.join(FUNCTION_WORDS)}"
            )
    inside, outside = 0, 0
    has_kana = language != "ja" or bool(re.search(f"[{SCRIPTS['kana']}]", text))
    names_are_neutral = "latin" not in scripts
    plain_english = language == "en" and not rivals
    for token in _WORD.findall(_NEUTRAL_SPAN.sub(" ", text)):
        if plain_english and token.isascii():  # a shortcut for most words of most texts
            inside += not is_neutral_latin(token, token, False)
            continue
        for run in _RUN.finditer(token):
            script, letters = run.lastgroup, run.group()
            if script == "latin":
                if is_neutral_latin(letters, token, names_are_neutral):
                    continue
                words, is_target = (
                    1,
                    latin_belongs(letters.lower(), language, rivals) if not names_are_neutral else False,
                )
                if is_target is None:
                    continue
            elif script == "greek" and language != "el" and len(letters) == 1:
                continue
            else:
                words = (len(letters) + 1) // 2 if script in ("han", "kana", "thai") else 1
                is_target = script in scripts and (has_kana or script != "han")
            inside, outside = (inside + words, outside) if is_target else (inside, outside + words)
    return inside / (inside + outside) if inside + outside else None


def scripts_of(language: str) -> tuple[str, ...]:
    """The scripts that ``language`` is written in. Raises ValueError for an unknown code."""
    try:
        return LANGUAGE_SCRIPTS[language]
    except KeyError:
        raise ValueError(
            f"unknown language {language!r}; known: {', '.join(sorted(LANGUAGE_SCRIPTS))}"
        ) from None


@lru_cache(maxsize=20_000)
def is_neutral_latin(letters: str, token: str, names_are_neutral: bool) -> bool:
    """Whether a Latin word belongs to no language: a variable, an identifier, a unit, or a name in a text of
    another script."""
    if len(letters) == 1:
        return letters not in ("a", "I")
    if _IDENTIFIER.search(token) or letters.lower() in NEUTRAL_WORDS:
        return True
    if letters.isupper() and len(letters) <= 5:
        return True
    return names_are_neutral and letters[0].isupper() and letters.lower() not in FUNCTION_WORDS["en"]


def latin_belongs(word: str, language: str, rivals: tuple[str, ...]) -> bool | None:
    """Whether a Latin word is of ``language``; None if function words do not decide. Without rivals every
    Latin word is."""
    if not rivals:
        return True
    own = word in FUNCTION_WORDS.get(language, frozenset())
    foreign = any(word in FUNCTION_WORDS[rival] for rival in rivals)
    return own if own != foreign else None
