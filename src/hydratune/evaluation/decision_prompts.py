"""The prompts that ``hydratune decide`` compares: examples, nearest examples and retrieval."""

from collections.abc import Sequence
from dataclasses import replace

from hydratune.console import console
from hydratune.data.rows import Message, Row
from hydratune.evaluation.assess import TestSet
from hydratune.evaluation.retrieval import Library, Passage, request, with_sources

Prompts = list[tuple[Message, ...]]  # one for each test row
# for each test row the passages that were retrieved, the best first
RetrievedPassages = Sequence[Sequence[Passage]]


def base_prompts(
    test_set: TestSet,
    examples: Sequence[Row],
    candidates: Sequence[Row],
    retrieved: RetrievedPassages,
    documents: Library | None,
) -> dict[str, Prompts]:
    """Return system -> prompts of the base model.

    ``examples``: rows for the few-shot prompt. ``candidates``: rows among which the nearest are
    searched. ``documents``: where ``retrieved`` comes from, if not from the training rows.
    """
    prompts: dict[str, Prompts] = {"base": test_set.zero_shot()}
    if examples:
        prompts["fewshot"] = test_set.few_shot(examples)
        prompts["nearest"] = _nearest(test_set, examples, candidates)
    prompts["rag"] = _retrieval(test_set, examples, retrieved, documents)
    return prompts


def _nearest(test_set: TestSet, examples: Sequence[Row], candidates: Sequence[Row]) -> Prompts:
    """Return few-shot prompts with the examples nearest to each test row, the nearest last."""
    library = Library([Passage(str(n), request(row)) for n, row in enumerate(candidates)])
    prompts = []
    for index, row in enumerate(test_set.rows):
        nearest = library.search(request(row), len(examples))
        chosen = [candidates[int(passage.source)] for passage in nearest]
        prompts.append(test_set.few_shot(chosen[::-1] or examples)[index])
    return prompts


def _retrieval(
    test_set: TestSet,
    examples: Sequence[Row],
    retrieved: RetrievedPassages,
    documents: Library | None,
) -> Prompts:
    """Return the few-shot prompts with the passages found, and as many examples as fit.

    The examples show the form of an answer. With ``documents`` each example also shows a passage,
    and so how an answer is taken from one.
    """
    shown = list(examples)
    if documents is not None:
        passages = [documents.search(request(row), 1) for row in shown]
        shown = [
            replace(row, messages=(*with_sources(row.prompt, own), row.messages[-1]))
            for row, own in zip(shown, passages, strict=True)
        ]
    for count in range(len(shown), 0, -1):
        prompts = test_set.few_shot(shown[:count])
        if test_set.fits(_with_passages(prompts, retrieved, 1)):
            return with_passages(test_set, prompts, retrieved)
    return with_passages(test_set, test_set.few_shot([]), retrieved)


def with_passages(test_set: TestSet, prompts: Prompts, retrieved: RetrievedPassages) -> Prompts:
    """Return the prompts with as many passages as fit into the context with the longest one.

    One passage is shown even if it does not fit.
    """
    most = max(map(len, retrieved))
    for count in range(most, 0, -1):
        extended = _with_passages(prompts, retrieved, count)
        if test_set.fits(extended):
            if count < most:
                console.print(
                    f"[yellow]{count} instead of {most} passages: no more fit into the model's"
                    " context"
                )
            return extended
    return _with_passages(prompts, retrieved, 1)


def _with_passages(prompts: Prompts, retrieved: RetrievedPassages, count: int) -> Prompts:
    return [
        with_sources(prompt, own[:count]) for prompt, own in zip(prompts, retrieved, strict=True)
    ]
