"""Is an export the model of the run? Both read the same test rows, and are compared.

At every position of the reference answers: the distribution of the next token of both, by the
Kullback-Leibler divergence, and whether both find the same token most likely. Then both answer, and
their answers are scored as those of the run were.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from hydratune.console import progress
from hydratune.errors import RunError
from hydratune.evaluation import metrics
from hydratune.models.compute import as_trained
from hydratune.settings.evaluation import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hydratune.evaluation.assess import TestSet

_MOST_POSITIONS = 4096  # of all rows together: their distributions are kept in memory
_MAIN_METRICS = {Task.json: "field_f1", Task.text: "rougeL"}


@dataclass(frozen=True)
class Reading:
    """What one model makes of the test rows."""

    prompts: list[list[int]]  # as its tokenizer reads them
    answers: list[tuple[int, ...]]  # the reference answers, with the token that ends them
    log_probabilities: list[torch.Tensor]  # of a row: (positions, vocabulary), fp32 on the CPU
    texts: list[str]  # its own answers
    metric: str | None  # the task metric; None: nothing is answered
    value: float | None


@dataclass(frozen=True)
class Parity:
    """How far an export is from the model of the run."""

    rows: int
    positions: int
    mean_kl: float  # nats, of the run's distribution to the export's
    max_kl: float
    agreement: float  # share of positions with the same most likely token
    same_answers: int | None  # rows that both answer with the same text
    metric: str | None  # the task metric ...
    metric_run: float | None  # ... of the run's model on these rows
    metric_export: float | None  # ... of the export
    other_prompts: int  # rows that the export's tokenizer reads as other tokens

    @property
    def metric_drop(self) -> float:
        """How much lower the task metric of the export is; 0 where nothing is answered."""
        if self.metric_run is None or self.metric_export is None:
            return 0.0
        return self.metric_run - self.metric_export

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def read(model: "PreTrainedModel", test_set: "TestSet", title: str) -> Reading:
    """Return what ``model`` makes of the rows: distributions, and answers of its own."""
    prompts, answers = test_set.prompt_tokens(), [tuple(ids) for ids in test_set.answers]
    pad = int(test_set.encoder.tokenizer.pad_token_id)  # type: ignore[arg-type]  # sources set one
    predictions = test_set.generate(model, test_set.zero_shot(), title=title, pad=pad)
    metric = value = None
    if not test_set.documents:
        measured = metrics.metrics(
            predictions,
            test_set.config,
            has_schema=test_set.schema is not None,
            families=test_set.families,
        )
        metric = _main_metric(test_set, list(measured))
        value = measured[metric].value if metric is not None else None
    distributions = _distributions(model, prompts, answers, f"{title}: distributions")
    texts = [prediction["prediction"] for prediction in predictions]
    return Reading(prompts, answers, distributions, texts, metric, value)


def _main_metric(test_set: "TestSet", measured: Sequence[str]) -> str | None:
    """Return the metric that says how good answers of this task are."""
    for name in ("label_accuracy", _MAIN_METRICS[test_set.task], "exact_match"):
        if name in measured:
            return name
    return None


@torch.inference_mode()
def _distributions(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    title: str,
) -> list[torch.Tensor]:
    """Return the log-probabilities of the next token at the first positions of every answer."""
    most = max(1, _MOST_POSITIONS // len(prompts))
    device = next(model.parameters()).device
    result = []
    with progress(title, len(prompts), quiet=True) as ticker, as_trained(model):
        for prompt, answer in zip(prompts, answers, strict=True):
            kept = answer[:most]
            ids = torch.tensor([[*prompt, *kept[:-1]]], device=device)
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(kept)).logits[0]
            logits = logits[-len(kept) :].float()
            result.append(torch.log_softmax(logits, dim=-1).cpu())
            ticker.advance(1, len(ids[0]))
    return result


def compare(run: Reading, export: Reading) -> Parity:
    """Return how far an export is from the run's model.

    Raises ``RunError`` if they cannot be compared position by position.
    """
    if run.answers != export.answers:
        raise RunError(
            "the tokenizer of the export writes the reference answers as other tokens than the run"
            " trained"
        )
    divergences, same = [], []
    for ours, theirs in zip(run.log_probabilities, export.log_probabilities, strict=True):
        if ours.shape != theirs.shape:
            raise RunError(
                f"the export has a vocabulary of {theirs.shape[-1]:,} tokens, the run's model"
                f" {ours.shape[-1]:,}"
            )
        divergences.append(_kl(ours, theirs))
        same.append(ours.argmax(-1) == theirs.argmax(-1))
    every, agreeing = torch.cat(divergences), torch.cat(same)
    answered = run.metric is not None
    equal = sum(a == b for a, b in zip(run.texts, export.texts, strict=True))
    pairs = zip(run.prompts, export.prompts, strict=True)
    return Parity(
        rows=len(run.prompts),
        positions=len(every),
        mean_kl=float(every.mean()),
        max_kl=float(every.max()),
        agreement=float(agreeing.double().mean()),
        same_answers=equal if answered else None,
        metric=run.metric,
        metric_run=run.value,
        metric_export=export.value,
        other_prompts=sum(ours != theirs for ours, theirs in pairs),
    )


def _kl(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Return KL(ours || theirs) in nats at each position, summed in fp64; rounding is not < 0.

    A distribution that is not finite is infinitely far away.
    """
    difference = ours.double() - theirs.double()
    terms = torch.where(ours == -torch.inf, 0.0, ours.double().exp() * difference)
    return terms.sum(-1).nan_to_num(torch.inf, torch.inf, torch.inf).clamp(min=0.0)
