"""Ask math-verify whether two answers are the same. Runs in a confined worker that may be killed at any time.

math-verify's own time limits are alarms, which work in a main thread only. They are switched off here: the
caller measures the time."""

import logging
from functools import lru_cache
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify  # type: ignore[import-untyped]
from sympy import Basic, MatrixBase  # type: ignore[import-untyped]

logging.disable(logging.CRITICAL)
_LATEX = [LatexExtractionConfig(boxed_match_priority=0)]


def compare(gold: str, answer: str) -> str:
    """Return "same", "different", or which side could not be read: "gold", "answer"."""
    known = _read(gold)
    if not known:
        return "gold"
    said = _read(answer)
    if not said:
        return "answer"
    try:
        return "same" if verify(list(known), list(said), timeout_seconds=None) else "different"
    except Exception:  # sympy raises any exception; the gold answer was read before
        return "answer"


def warm_up() -> None:
    """Load what math-verify loads on first use, so that forked workers have it already."""
    for gold, answer in (
        ("\\frac{1}{2}", "0.5"),
        ("x^2+1=0", "(1,2]"),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\{1,\\sqrt{2}\\}"),
    ):
        compare(gold, answer)
        compare(answer, answer)
    _read.cache_clear()


@lru_cache(maxsize=10_000)
def _read(text: str) -> tuple[Any, ...]:
    try:
        found = parse(
            f"$\\boxed{{{text}}}$",
            extraction_config=_LATEX,
            fallback_mode="no_fallback",
            parsing_timeout=None,
        )
    except Exception:  # ANTLR's parser raises any exception
        return ()
    return tuple(value for value in found if isinstance(value, Basic | MatrixBase))
