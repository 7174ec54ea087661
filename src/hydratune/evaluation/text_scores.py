"""How near a text is to one or several references."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from hydratune.evaluation.measures import Measure, mean, rate

ROUGE = ("rouge1", "rouge2", "rougeL")
ROUGE_HOW = {"rouge": "F1 by row, mean over rows; words are runs of a-z and digits, without case and stemming; the best reference counts"}
BLEU_HOW = {"bleu": "over all rows, sacrebleu 13a, case kept, all references", "chrf": "mean of rows, sacrebleu chrF2, all references"}
_ORDERS = 4


def match(prediction: str, references: Sequence[str]) -> dict[str, Any]:
    """Whether the answer is one of the references; ``normalised_match``: but for case and white space."""
    return {
        "exact_match": prediction.strip() in [r.strip() for r in references],
        "normalised_match": _plain(prediction) in [_plain(r) for r in references],
    }


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def match_measures(scores: Sequence[Mapping[str, Any]]) -> dict[str, Measure]:
    if "normalised_match" not in scores[0]:
        return {}
    return {name: rate([s[name] for s in scores]) for name in ("normalised_match", "exact_match")}


def rouge(prediction: str, references: Sequence[str]) -> dict[str, float]:
    """F1 of ROUGE-1, -2 and -L (Lin 2004) of one answer, in [0, 1]; of several references the best, for each on its own."""
    from torchmetrics.functional.text.rouge import rouge_score  # seconds to import, and only texts need it

    # rougeLsum, the default, would download a sentence splitter
    found = [rouge_score(prediction, reference, rouge_keys=ROUGE) for reference in references]
    return {key: max(float(f[f"{key}_fmeasure"]) for f in found) for key in ROUGE}


def rouge_measures(scores: Sequence[Mapping[str, Any]]) -> dict[str, Measure]:
    return {key: mean([s[key] for s in scores]) for key in ROUGE} if ROUGE[0] in scores[0] else {}


@cache
def _sacrebleu() -> tuple[Any, Any]:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return BLEU(effective_order=True), CHRF()


def bleu(prediction: str, references: Sequence[str]) -> dict[str, Any]:
    """``bleu`` holds what is summed over rows: matched n-grams, all n-grams, words of the answer and of the reference."""
    counted, characters = _sacrebleu()
    found = counted.sentence_score(prediction, list(references))
    counts = [*found.counts, *found.totals, found.sys_len, found.ref_len]
    return {"bleu": list(map(int, counts)), "chrf": characters.sentence_score(prediction, list(references)).score / 100}


def bleu_measures(scores: Sequence[Mapping[str, Any]]) -> dict[str, Measure]:
    if "bleu" not in scores[0]:
        return {}
    columns = [list(map(float, column)) for column in zip(*(s["bleu"] for s in scores), strict=True)]
    return {"bleu": Measure(columns, _bleu), "chrf": mean([s["chrf"] for s in scores])}


def _bleu(sums: np.ndarray) -> np.ndarray:
    """BLEU (Papineni et al. 2002) in [0, 1] of summed counts (..., 10); 0 where an order has no match."""
    matched, total = sums[..., :_ORDERS], sums[..., _ORDERS : 2 * _ORDERS]
    said, wanted = sums[..., -2], sums[..., -1]
    precise = np.divide(matched, total, out=np.zeros(np.shape(matched)), where=total > 0)
    usable = (precise > 0).all(axis=-1)
    logs = np.log(np.where(precise > 0, precise, 1.0)).mean(axis=-1)
    brevity = np.minimum(0.0, 1 - np.divide(wanted, said, out=np.ones(np.shape(said)), where=said > 0))
    return np.where(usable & (said > 0), np.exp(logs + brevity), 0.0)
