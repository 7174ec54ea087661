"""How close a text is to one or several references."""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from hydratune.evaluation.measures import Measure, Scores, mean, rate
from hydratune.records.files import Json

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

ROUGE = ("rouge1", "rouge2", "rougeL")
ROUGE_HOW = {
    "rouge": (
        "F1 by row, mean over rows; words are runs of a-z and digits, without case and stemming;"
        " rougeL over the whole text, not by sentences (rougeLsum); the best reference counts"
    )
}
MATCH_HOW = {
    "exact_match": "equal to a reference but for white space at the ends",
    "normalised_match": "equal to a reference but for case and white space",
}
_ORDERS = 4


def signatures(references: Sequence[int]) -> dict[str, str]:
    """Return how BLEU and chrF were taken, in the form of sacrebleu's signatures (Post 2018).

    ``references`` are the numbers of references of the rows.
    """
    kinds = set(references)
    count = kinds.pop() if len(kinds) == 1 else "var"
    own = f"version:{version('sacrebleu')}"
    bleu = f"nrefs:{count}|case:mixed|eff:no|tok:13a|smooth:exp|{own}"
    chrf = f"nrefs:{count}|case:mixed|eff:yes|nc:6|nw:0|space:no|{own}"
    return {
        "bleu": (
            f"sacrebleu {bleu}; over all rows, in [0, 1]; 1- to {_ORDERS}-grams, an order without a"
            " match is smoothed"
        ),
        "chrf": (
            f"sacrebleu {chrf}; over all rows, in [0, 1]; chrF2, the nearest reference of each row"
        ),
    }


def match(prediction: str, references: Sequence[str]) -> dict[str, Json]:
    """Return whether the answer is one of the references.

    ``normalised_match`` ignores case and white space.
    """
    return {
        "exact_match": prediction.strip() in [r.strip() for r in references],
        "normalised_match": _plain(prediction) in [_plain(r) for r in references],
    }


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def match_measures(scores: Sequence[Scores]) -> dict[str, Measure]:
    """Return the rates of both kinds of matches."""
    if "normalised_match" not in scores[0]:
        return {}
    return {name: rate([s[name] for s in scores]) for name in ("normalised_match", "exact_match")}


def rouge(prediction: str, references: Sequence[str]) -> dict[str, float]:
    """Return F1 of ROUGE-1, -2 and -L (Lin 2004) of one answer, in [0, 1].

    Of several references, each score takes the best.
    """
    # takes seconds to import, and only texts need it
    from torchmetrics.functional.text.rouge import rouge_score

    # rougeLsum, which is on by default, would download a sentence splitter
    scores = [rouge_score(prediction, reference, rouge_keys=ROUGE) for reference in references]
    return {key: max(float(s[f"{key}_fmeasure"]) for s in scores) for key in ROUGE}


def rouge_measures(scores: Sequence[Scores]) -> dict[str, Measure]:
    """Return the means over the rows."""
    return {key: mean([s[key] for s in scores]) for key in ROUGE} if ROUGE[0] in scores[0] else {}


@cache
def _sacrebleu() -> tuple["BLEU", "CHRF"]:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return BLEU(effective_order=True), CHRF()


def bleu(prediction: str, references: Sequence[str]) -> dict[str, Json]:
    """Return the counts that are summed over rows.

    ``bleu``: matched n-grams, all n-grams, words of the answer and of the reference; ``chrf``: for
    each order of n-grams of characters those of the answer, of the reference, and of both.
    """
    words, characters = _sacrebleu()
    score = words.sentence_score(prediction, list(references))
    counts = [*score.counts, *score.totals, score.sys_len, score.ref_len]
    return {
        "bleu": list(map(int, counts)),
        "chrf": characters._extract_corpus_statistics([prediction], [[r] for r in references])[0],
    }


def bleu_measures(scores: Sequence[Scores]) -> dict[str, Measure]:
    """Return BLEU and chrF over all rows."""
    if "bleu" not in scores[0]:
        return {}
    measured = {"bleu": Measure(_columns([s["bleu"] for s in scores]), _bleu)}
    if isinstance(scores[0]["chrf"], list):
        measured["chrf"] = Measure(_columns([s["chrf"] for s in scores]), _chrf)
    return measured


def _columns(rows: Sequence[Sequence[int]]) -> list[list[float]]:
    return [list(map(float, column)) for column in zip(*rows, strict=True)]


def _bleu(sums: np.ndarray) -> np.ndarray:
    """Return BLEU (Papineni et al. 2002) in [0, 1] of summed counts (..., 10).

    It is smoothed as sacrebleu does by default (exp): the first order without a match counts as
    half an n-gram, the next as a quarter (Chen and Cherry 2014, method 3). It is 0 where nothing
    matches at all, or where all answers are too short for an order.
    """
    matched, total = sums[..., :_ORDERS], sums[..., _ORDERS : 2 * _ORDERS]
    predicted, expected = sums[..., -2], sums[..., -1]
    counted = np.where(matched > 0, matched, 0.5 ** np.cumsum(matched == 0, axis=-1))
    precise = np.divide(counted, total, out=np.ones(np.shape(counted)), where=total > 0)
    usable = (total > 0).all(axis=-1) & (matched > 0).any(axis=-1)
    logs = np.log(precise).mean(axis=-1)
    brevity = np.minimum(
        0.0,
        1 - np.divide(expected, predicted, out=np.ones(np.shape(predicted)), where=predicted > 0),
    )
    return np.where(usable & (predicted > 0), np.exp(logs + brevity), 0.0)


def _chrf(sums: np.ndarray) -> np.ndarray:
    """Return chrF2 (Popovic 2015) in [0, 1] of summed counts (..., 3 * orders).

    Orders that no text has do not count.
    """
    predicted, expected, matched = (sums[..., part::3] for part in range(3))
    counts = (predicted > 0) & (expected > 0)
    orders = counts.sum(axis=-1)
    shares = []
    for whole in (predicted, expected):
        each = np.divide(matched, whole, out=np.zeros(np.shape(matched)), where=counts)
        shares.append(
            np.divide(each.sum(axis=-1), orders, out=np.zeros(np.shape(orders)), where=orders > 0)
        )
    precision, recall = shares
    below = 4 * precision + recall
    return np.divide(5 * precision * recall, below, out=np.zeros(np.shape(below)), where=below > 0)
