"""The language of a text, by py3langid."""

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

_FEWEST_LETTERS = 40
_LONGEST_SAMPLE = 1000  # characters
_LEAST_PROBABILITY = 0.9
_NO_LANGUAGE = "zxx"


def detect_language(text: str) -> str | None:
    """Return the ISO 639-1 code of the language of ``text``.

    None if the text is too short to decide, or not clearly in one language.
    """
    sample = text[:_LONGEST_SAMPLE]
    if sum(map(str.isalpha, sample)) < _FEWEST_LETTERS:
        return None
    code, probability = _identifier().classify(sample)
    return str(code) if probability > _LEAST_PROBABILITY and code != _NO_LANGUAGE else None


def most_likely_language(text: str) -> str:
    """Return the ISO 639-1 code of the most likely language of ``text``, however short it is."""
    return str(_identifier().classify(text)[0])


@lru_cache(maxsize=1)
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
