"""Baselines of a run: the base model, few-shot prompts, and their cache."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import SMALL, write_rows
from hydratune.evaluation import assess
from run_files import SAME_ROWS

Command = Callable[..., tuple[int, str]]


def test_few_shot_prompt_has_as_many_examples_as_fit(hydratune: Command, tmp_path: Path) -> None:
    files = [f"data.{split}={tmp_path}/{split}.jsonl" for split in ("train", "validation", "test")]
    for length, shown in (("word " * 140, "instead of 3 examples"), ("word " * 300, "is skipped")):
        rows = [{"prompt": f"{i} {length}", "completion": "yes"} for i in range(9)]
        for split in ("train", "validation", "test"):
            write_rows(tmp_path / f"{split}.jsonl", rows)
        code, text = hydratune(
            "train",
            *SMALL,
            "data=files",
            *files,
            *SAME_ROWS,
            "evaluation.baselines=[fewshot]",
            "evaluation.shots=3",
            "model.context_window=1500",
            "data.max_length=1400",
            f"hydra.run.dir={tmp_path}/{len(length)}",
        )
        assert code == 0, text
        assert shown in text
        was_measured = (
            "fewshot"
            in json.loads((tmp_path / str(len(length)) / "metrics.json").read_text())["settings"]
        )
        assert was_measured == ("instead" in shown)


def test_cached_baseline_has_the_row_groups_of_this_run(hydratune: Command, tmp_path: Path) -> None:
    pairs = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(9)]
    for name, more in (("plain", {}), ("grouped", {"group": "g"})):
        rows = [{**pair, **more} for pair in pairs]
        files = [
            f"data.{split}={write_rows(tmp_path / name / f'{split}.jsonl', rows)}"
            for split in ("train", "validation", "test")
        ]
        run = f"hydra.run.dir={tmp_path}/{name}/run"
        code, text = hydratune(
            "train", *SMALL, "data=files", *files, *SAME_ROWS, "evaluation.baselines=[base]", run
        )
        assert code == 0, text
    assert "taken from the cache" in text
    stored = [
        json.loads(line)
        for line in (
            (tmp_path / "grouped" / "run" / "predictions_base.jsonl").read_text().splitlines()
        )
    ]
    assert {row["group"] for row in stored} == {"g"}


def test_cached_baselines_are_used_only_for_equal_computations(
    model: Any, encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydratune.data.rows import Message, Row
    from hydratune.settings.evaluation import EvaluationConfig, Task

    test_rows = [
        Row(
            f"r{n}", (Message("user", f"question {n}" * (n + 1)), Message("assistant", "yes")), None
        )
        for n in range(4)
    ]
    test_set = assess.TestSet(test_rows, encoder, EvaluationConfig(), Task.text, None, 2048)

    def key(**more: Any) -> str:
        return test_set.cache_key(
            "base", test_set.zero_shot(), SimpleNamespace(**(attributes | more))
        )

    attributes: dict[str, Any] = {
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "config": model.config,
    }
    attributes["parameters"] = lambda: iter([torch.zeros(1)])
    first = key()
    assert key() == first
    assert key(dtype=torch.float32) != first
    assert key(hydratune_autocast=torch.bfloat16) != first
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"card {device.index}")
    on_gpu = [key(device=torch.device("cuda", number)) for number in (0, 1)]
    assert len({first, *on_gpu}) == 3
    test_set.config = EvaluationConfig(batch_size=2)
    halved = key()
    assert halved != first
    test_set.config = EvaluationConfig(batch_size=50, batch_tokens=1)
    assert key() not in (first, halved)
    test_set.config = EvaluationConfig(batch_size=1)
    one_by_one = key()
    test_set.config = EvaluationConfig(batch_size=50, batch_tokens=1)
    assert key() == one_by_one  # the batches are the same
