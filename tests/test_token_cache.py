"""The tokens of a prepared data set are counted once, and what was found is found again."""

from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.preparation import prepare
from hydratune.data.prepared import Prepared
from hydratune.data.report_content import count_tokens
from hydratune.data.sources.files import FilesData
from hydratune.data.tokens import TokenCheck


class Sizes:
    context_window, embeddings = 2048, 49152


@pytest.fixture
def data(tmp_path: Path) -> FilesData:
    """Rows of which the first is far longer than data.max_length, the second has a token."""
    prompts = ["word " * 200, "say <|im_end|>", *(f"What is {n} and one?" for n in range(18))]
    rows = [{"prompt": text, "completion": f"Answer {n}."} for n, text in enumerate(prompts)]
    write_rows(tmp_path / "rows.jsonl", rows)
    return FilesData(train=str(tmp_path / "rows.jsonl"), max_length=100)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits that are counted."""
    found: list[str] = []
    split = TokenCheck.split
    monkeypatch.setattr(
        TokenCheck, "split", lambda own, name, *rest: (found.append(name), split(own, name, *rest))
    )
    return found


def findings(check: TokenCheck) -> dict[str, Any]:
    summary = check.summary()
    return {"tokens": summary} | {name: found.plain() for name, found in check.findings.items()}


def test_rows_are_counted_once_for_equal_settings(
    data: FilesData, encoder: ChatEncoder, calls: list[str]
) -> None:
    prepared = prepare(data)
    first = findings(count_tokens(data, prepared, encoder, Sizes()))
    assert calls == ["train", "validation", "test"]
    again = findings(count_tokens(data, prepared, encoder, Sizes()))
    assert calls == ["train", "validation", "test"]
    assert again == first
    assert first["overlength"]["count"] == 1 and first["template_tokens"]["count"] == 1
    assert first["tokens"]["splits"]["train"]["tokens"] > 100


def test_another_length_tokenizer_or_window_is_counted_again(
    data: FilesData, encoder: ChatEncoder, calls: list[str]
) -> None:
    prepared = prepare(data)
    assert count_tokens(data, prepared, encoder, Sizes()).too_long.total() == 1
    data.max_length = 1000
    assert count_tokens(data, prepared, encoder, Sizes()).too_long.total() == 0
    wider = type("Wider", (Sizes,), {"context_window": 4096})()
    assert count_tokens(data, prepared, encoder, wider).context_window == 4096
    template = encoder.tokenizer.chat_template
    encoder.tokenizer.chat_template = template + "{# another #}"
    count_tokens(data, prepared, ChatEncoder(encoder.tokenizer, encoder.turn_end_ids), Sizes())
    encoder.tokenizer.chat_template = template
    assert len(calls) == 4 * 3


def test_a_folder_that_people_can_edit_is_counted_every_time(
    data: FilesData, encoder: ChatEncoder, calls: list[str], tmp_path: Path
) -> None:
    kept = prepare(data)
    own = Prepared(kept.path.rename(tmp_path / "own"), kept.report)
    count_tokens(data, own, encoder, Sizes())
    count_tokens(data, own, encoder, Sizes())
    assert len(calls) == 2 * 3
