"""In which language a text is, by py3langid, whose model comes with the package: the only file that imports
it. It knows 97 languages (Lui and Baldwin 2012, langid.py); no network is needed."""

from functools import lru_cache
from typing import Any

from r1kit.config import ConfigError

READ = 1000  # characters of a text that are looked at


@lru_cache(maxsize=1)
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise ConfigError("identifying languages needs py3langid: pip install 'r1kit[data]'") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def identify(text: str) -> tuple[str, float]:
    """(two-letter code, confidence from 0 to 1) of a text's beginning."""
    code, confidence = _identifier().classify(text[:READ])
    return str(code), float(confidence)


def known_languages() -> list[str]:
    """The codes that ``identify`` can answer with."""
    return sorted(_identifier().labels)
