"""Loss masks of many generated conversations, against a second implementation that shares no code
with the project's.
"""

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from generated_cases import Case, ExpectedTokens, cases, expected_tokens, write
from generated_formats import FORMATS
from generated_tokenizers import END, tokenizer
from hydratune.data.encoding.encoded import Encoded
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.encoding.examples import encode_split
from hydratune.data.formats.reader import read_file
from hydratune.data.mask_check import check_masks
from hydratune.errors import DataError
from hydratune.models.loading import plain_template
from hydratune.settings.data import DataConfig, TrainOn

MOST_REFUSED = 0.02  # of the valid inputs


@functools.cache
def encoder_of(kind: str, adds_begin: bool, form: str) -> ChatEncoder:
    its_tokenizer = tokenizer(kind, adds_begin=adds_begin)
    its_tokenizer.chat_template = (
        plain_template(its_tokenizer) if FORMATS[form].jinja == "plain" else FORMATS[form].jinja
    )
    return ChatEncoder(its_tokenizer, frozenset({its_tokenizer.convert_tokens_to_ids(END)}))


def trained(case: Case, folder: Path) -> tuple[ChatEncoder, list[Encoded]]:
    """Return the loss mask after the readers, the encoder and the mask check, as ``hydratune
    train`` computes it.
    """
    encoder = encoder_of(case.tokenizer, case.adds_begin, case.format)
    rows = list(read_file(write(case, folder), {}))
    kept, examples, _ = encode_split(
        encoder, rows, DataConfig(train_on=TrainOn(case.train_on), max_length=100_000), "train"
    )
    check_masks(encoder, kept, examples)
    return encoder, examples


def is_right(encoder: ChatEncoder, example: Encoded, want: ExpectedTokens) -> bool:
    """Check the tokens of the whole text. Where a token would join prompt and answer, check the
    same text cut after the prompt.
    """
    if not want.joined:
        return list(example.ids) == want.ids and list(example.loss_mask) == want.loss_mask
    prompt = encoder.tokenize(want.text[: want.starts[-1]])
    start = (
        len(example.loss_mask) - list(reversed(example.loss_mask)).index(False)
        if False in example.loss_mask
        else 0
    )
    same = encoder.decode(example.ids) == encoder.decode(encoder.tokenize(want.text))
    return same and list(example.ids[:start]) == prompt


def judged(case: Case, folder: Path) -> str:
    try:
        encoder, examples = trained(case, folder)
    except DataError as error:
        return "refused, rightly" if case.invalid else f"refused: {error}"
    if case.invalid:
        return f"trained, though {case.invalid}"
    wants = expected_tokens(case, encoder.tokenizer)
    same = len(examples) == len(wants) and all(
        is_right(encoder, e, w) for e, w in zip(examples, wants, strict=True)
    )
    return "right" if same else "wrong"


@pytest.mark.parametrize(
    ("count", "seed"), [(100, 1), pytest.param(1000, 2, marks=pytest.mark.slow)]
)
def test_generated_conversations_are_trained_as_they_are_written(
    tmp_path: Path, count: int, seed: int
) -> None:
    verdicts: list[tuple[str, Case]] = [
        (judged(case, tmp_path), case) for case in cases(count, seed)
    ]
    silent = [
        f"{verdict}: {case}"
        for verdict, case in verdicts
        if verdict == "wrong" or verdict.startswith("trained, though")
    ]
    assert not silent, "\n\n".join(silent[:5])
    refused = [
        f"{verdict}\n  {case}" for verdict, case in verdicts if verdict.startswith("refused: ")
    ]
    valid = sum(not case.invalid for _, case in verdicts)
    assert len(refused) <= MOST_REFUSED * valid, f"{len(refused)} of {valid}:\n" + "\n\n".join(
        refused[:5]
    )


def test_generated_cases_hold_every_kind_there_is() -> None:
    """The test above would show little if its cases were all of one kind."""
    generated = list(cases(1000, 2))
    counts: dict[str, Counter[Any]] = {
        "tokenizer": Counter(case.tokenizer for case in generated),
        "format": Counter(case.format for case in generated),
        "layout": Counter(case.layout for case in generated),
        "train_on": Counter(case.train_on for case in generated),
    }
    assert all(least >= 50 for counter in counts.values() for least in counter.values())
    assert sum(any("tool_calls" in turn for turn in case.turns) for case in generated) >= 40
    assert (
        sum(len(turn.get("tool_calls", [])) > 1 for case in generated for turn in case.turns) >= 20
    )
    assert sum("reasoning_content" in turn for case in generated for turn in case.turns) >= 40
    assert sum(bool(case.invalid) for case in generated) >= 20
    assert (
        sum(
            want.joined
            for case in generated
            for want in expected_tokens(case, encoder_of(case.tokenizer, False, "ChatML").tokenizer)
        )
        >= 3
    )
