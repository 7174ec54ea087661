"""Whether an instruction was followed, by the rules of IFEval (Zhou et al. 2023), strictly read.

Each rule gets the answer and the options that the data set gives it. Sentences are counted by their
end marks, where IFEval uses a trained splitter: the counts differ where abbreviations occur.
Languages are recognised by langid's model.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence

from hydratune.data.quality.languages import most_likely_language
from hydratune.errors import DataError
from hydratune.records.files import Json

_CHOICES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_LANGUAGE_RULES = (
    "language:response_language",
    "change_case:english_capital",
    "change_case:english_lowercase",
)
_LESS = "less than"  # every other relation is "at least"

Options = Mapping[str, Json]  # of a rule
Rules = Sequence[tuple[str, Options]]  # (name, options)


def known(rules: Rules) -> None:
    """Raise ``DataError`` for a rule that is not one of ``RULES``."""
    for name, _ in rules:
        if name not in RULES:
            raise DataError(f"no such instruction: {name}; known: {', '.join(RULES)}")


def needs_languages(rules: Rules) -> bool:
    """Return whether a rule asks for the language of an answer, which py3langid recognises."""
    return any(name in _LANGUAGE_RULES for name, _ in rules)


def followed(answer: str, rules: Rules) -> bool:
    """Return whether an answer is not empty and keeps all ``rules``."""
    return bool(answer.strip()) and all(RULES[name](answer, options) for name, options in rules)


def _compared(count: int, relation: str | None, number: float) -> bool:
    return count < number if relation == _LESS else count >= number


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def _sentences(text: str) -> int:
    parts = re.split(r"(?<=[.!?])[\"')\]]*\s+|\n{2,}", text.strip())
    return len([part for part in parts if re.search(r"\w", part)])


def _times(word: str, text: str) -> int:
    return len(re.findall(rf"\b{re.escape(word)}\b", text, re.IGNORECASE))


def _paragraphs(text: str) -> list[str]:
    """Split at ``***``; empty paragraphs at the ends are dropped, inside they are a mistake."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    end = len(parts) - 1 if len(parts) > 1 and not parts[-1] else len(parts)
    return parts[0 if parts[0] else 1 : end]


def _has_paragraphs(text: str, options: Options) -> bool:
    parts = _paragraphs(text)
    return all(parts) and len(parts) == options["num_paragraphs"]


def _has_first_word(text: str, options: Options) -> bool:
    parts = [part.strip() for part in re.split(r"\n\n", text) if part.strip()]
    number = options["nth_paragraph"]
    if len(parts) != options["num_paragraphs"] or number > len(parts):
        return False
    word = re.split(r"[.,?!'\"]", parts[number - 1].split()[0].lstrip("'\""))[0]
    return word.lower() == str(options["first_word"]).lower()


def _highlights(text: str) -> int:
    matches = re.findall(r"\*[^\n*]*\*", text) + re.findall(r"\*\*[^\n*]*\*\*", text)
    return sum(bool(match.strip("*").strip()) for match in matches)


def _bullets(text: str) -> int:
    stars = re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE)
    return len(stars) + len(re.findall(r"^\s*-.*$", text, re.MULTILINE))


def _is_json(text: str, _: Options) -> bool:
    inner = re.sub(r"^```(?:json|JSON|Json)?\s*|\s*```$", "", text.strip())
    try:
        json.loads(inner)
    except (ValueError, RecursionError):
        return False
    return True


def _has_two_responses(text: str, _: Options) -> bool:
    parts = text.split("******")
    inner = [
        part.strip()
        for number, part in enumerate(parts)
        if part.strip() or 0 < number < len(parts) - 1
    ]
    return len(inner) == 2 and all(inner) and inner[0] != inner[1]


def _has_postscript(text: str, options: Options) -> bool:
    marker = str(options["postscript_marker"]).strip()
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    pattern = patterns.get(marker, re.escape(marker.lower()))
    return bool(re.search(rf"\s*{pattern}.*$", text.lower(), re.MULTILINE))


RULES: dict[str, Callable[[str, Options], bool]] = {
    "keywords:existence": lambda a, k: all(
        re.search(re.escape(word), a, re.IGNORECASE) for word in k["keywords"]
    ),
    "keywords:frequency": lambda a, k: _compared(
        len(re.findall(re.escape(k["keyword"]), a, re.IGNORECASE)), k["relation"], k["frequency"]
    ),
    "keywords:forbidden_words": lambda a, k: (
        not any(_times(word, a) for word in k["forbidden_words"])
    ),
    "keywords:letter_frequency": lambda a, k: _compared(
        a.lower().count(k["letter"].lower()), k["let_relation"], k["let_frequency"]
    ),
    "language:response_language": lambda a, k: most_likely_language(a) == k["language"],
    "length_constraints:number_sentences": lambda a, k: _compared(
        _sentences(a), k["relation"], k["num_sentences"]
    ),
    "length_constraints:number_paragraphs": _has_paragraphs,
    "length_constraints:number_words": lambda a, k: _compared(
        len(_words(a)), k["relation"], k["num_words"]
    ),
    "length_constraints:nth_paragraph_first_word": _has_first_word,
    "detectable_content:number_placeholders": lambda a, k: (
        len(re.findall(r"\[.*?\]", a)) >= k["num_placeholders"]
    ),
    "detectable_content:postscript": _has_postscript,
    "detectable_format:number_bullet_lists": lambda a, k: _bullets(a) == k["num_bullets"],
    "detectable_format:constrained_response": lambda a, _: any(choice in a for choice in _CHOICES),
    "detectable_format:number_highlighted_sections": lambda a, k: (
        _highlights(a) >= k["num_highlights"]
    ),
    "detectable_format:multiple_sections": lambda a, k: (
        len(re.findall(rf"\s?{re.escape(k['section_spliter'])}\s?\d+\s?", a)) >= k["num_sections"]
    ),
    "detectable_format:json_format": _is_json,
    "detectable_format:title": lambda a, _: any(
        title.strip("<> ") for title in re.findall(r"<<[^\n]+>>", a)
    ),
    "combination:two_responses": _has_two_responses,
    "combination:repeat_prompt": lambda a, k: (
        a.strip().lower().startswith(k["prompt_to_repeat"].strip().lower())
    ),
    "startend:end_checker": lambda a, k: (
        a.strip().strip('"').lower().endswith(k["end_phrase"].strip().lower())
    ),
    "startend:quotation": lambda a, _: len(a.strip()) > 1 and a.strip()[0] == a.strip()[-1] == '"',
    "change_case:capital_word_frequency": lambda a, k: _compared(
        sum(word.isupper() for word in _words(a)), k["capital_relation"], k["capital_frequency"]
    ),
    "change_case:english_capital": lambda a, _: (
        a.isupper() and most_likely_language(a.lower()) == "en"
    ),
    "change_case:english_lowercase": lambda a, _: a.islower() and most_likely_language(a) == "en",
    "punctuation:no_comma": lambda a, _: "," not in a,
}
