"""Forgetting: the panel of rows that measures it, its metrics, and its budgets."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import SMALL, write_rows
from hydratune.adapters import attach
from hydratune.adapters.methods.lora import LoraAdapter
from hydratune.errors import ConfigError, DataError
from hydratune.evaluation import forgetting, panel
from hydratune.records.files import read_jsonl
from hydratune.settings.evaluation import ForgettingConfig
from hydratune.training.patches import with_lean_layers

Hydratune = Callable[..., tuple[int, str]]
MEASURED = ("evaluation.forgetting.measure=true", "evaluation.forgetting.answer_tokens=4")


def probe(model: Any, encoder: Any, config: ForgettingConfig) -> forgetting.PanelScores:
    return forgetting.measure(
        model, encoder, panel.load(config), config, pad=0, window=512, title="", pool=None
    )


def test_an_untrained_adapter_forgets_nothing(model: Any, encoder: Any) -> None:
    config = ForgettingConfig(measure=True, answer_tokens=4)
    before = probe(model, encoder, config)
    tuned = with_lean_layers(attach.add_adapter(model, LoraAdapter(r=2)))
    values, intervals = forgetting.summary(
        forgetting.join_records(before, probe(tuned, encoder, config)), config, 0.95, 200
    )
    assert (
        abs(values["forgetting/bits_per_byte_delta"]) < 1e-6
        and abs(values["forgetting/nll_delta"]) < 1e-6
    )
    assert values["forgetting/instructions_delta"] == 0 and values["forgetting/kl"] < 1e-9
    assert values["forgetting/within_budget"] is True
    assert values["forgetting/bits_per_byte"] > 1 and set(intervals) > {"forgetting/kl"}


def test_divergence_is_that_of_the_whole_distributions(model: Any, encoder: Any) -> None:
    config = ForgettingConfig(measure=True, answers=False)
    before = probe(model, encoder, config)
    tuned = with_lean_layers(attach.add_adapter(model, LoraAdapter(r=2)))
    torch.manual_seed(0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    after = probe(tuned, encoder, config)
    divergences = forgetting.divergences(before, after)
    row = panel.load(config).neutral[0]
    ids = torch.tensor([encoder.prompt_tokens(row.prompt)])
    with torch.no_grad():
        new = tuned(input_ids=ids).logits[0].log_softmax(-1)
        with tuned.disable_adapter():
            old = tuned(input_ids=ids).logits[0].log_softmax(-1)
    expected = float(torch.nn.functional.kl_div(old, new, log_target=True, reduction="sum"))
    assert divergences[row.id]["kl"] == pytest.approx(expected, rel=1e-3) and expected > 0.01
    assert divergences[row.id]["tokens"] == ids.shape[1]


def items(
    part: str, base: list[dict[str, Any]], tuned: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    return [
        {"id": f"{part} {n}", "part": part, "base": b, "tuned": t}
        for n, (b, t) in enumerate(zip(base, tuned, strict=True))
    ]


def test_summary_by_hand() -> None:
    texts = items(
        "texts",
        [{"nll": 10.0, "bytes": 10}, {"nll": 20.0, "bytes": 30}],
        [{"nll": 12.0, "bytes": 10}, {"nll": 24.0, "bytes": 30}],
    )
    question_items = items("questions", [{"nll": 4.0, "tokens": 4}], [{"nll": 2.0, "tokens": 4}])
    instruction_items = items(
        "instructions",
        [{"followed": True}, {"followed": True}],
        [{"followed": False}, {"followed": True}],
    )
    values, _ = forgetting.summary(
        [*texts, *question_items, *instruction_items],
        ForgettingConfig(fail={"instructions": 0.4, "nll": 0.1}),
        0.95,
        200,
    )
    assert values["forgetting/bits_per_byte_delta"] == pytest.approx(6 / 40 / math.log(2))
    assert values["forgetting/nll_delta"] == pytest.approx(-0.5)
    assert values["forgetting/instructions_delta"] == -0.5
    assert values["forgetting/within_budget"] is False
    assert forgetting.exceeded(values, {"instructions": 0.4, "nll": 0.1}) == [
        "instructions: +0.5000, budget 0.4"
    ]
    assert forgetting.exceeded(values, {"instructions": 0.6}) == []


def test_own_files_replace_parts_of_the_panel(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("word " * 700)
    questions = write_rows(
        tmp_path / "q.jsonl", [{"turns": ["Why?", "And?"], "reference": ["Because.", "So."]}] * 3
    )
    rules = [
        {"key": 7, "prompt": "Do.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    ]
    instructions = write_rows(tmp_path / "i.jsonl", rules)
    parts = panel.load(
        ForgettingConfig(
            texts=str(tmp_path / "texts.txt"),
            questions=str(questions),
            instructions=str(instructions),
            items=2,
        )
    )
    assert (
        len(parts.texts) == 2
        and len(parts.questions) == 2
        and [i.id for i in parts.instructions] == ["7"]
    )
    assert (parts.questions[0].prompt[0].content, parts.questions[0].answer) == ("Why?", "Because.")
    assert panel.load(ForgettingConfig()).fingerprint != parts.fingerprint


@pytest.mark.parametrize(
    ("key", "record", "message"),
    [
        ("questions", {"question": "?"}, "a question needs one of"),
        (
            "instructions",
            {"prompt": "?", "instruction_id_list": ["a"], "kwargs": []},
            "as many kwargs",
        ),
        (
            "instructions",
            {"prompt": "?", "instruction_id_list": ["a:b"], "kwargs": [{}]},
            "no such instruction: a:b",
        ),
    ],
)
def test_wrong_files(tmp_path: Path, key: str, record: dict[str, Any], message: str) -> None:
    file = write_rows(tmp_path / "x.jsonl", [record])
    with pytest.raises(DataError, match=message):
        panel.check(ForgettingConfig(measure=True, **{key: str(file)}))
    with pytest.raises(ConfigError, match="no such file"):
        panel.check(ForgettingConfig(measure=True, **{key: str(tmp_path / "nowhere.jsonl")}))


def test_a_run_measures_what_it_forgot(hydratune: Hydratune, tmp_path: Path) -> None:
    code, out = hydratune("train", *SMALL, *MEASURED, "hydra.run.dir=run")
    assert code == 0, out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (
        metrics["forgetting/within_budget"] is True
        and metrics["forgetting/bits_per_byte_delta"] != 0
    )
    assert "forgetting/kl" in metrics["intervals"] and "divergence from the base" in out
    rows = read_jsonl(tmp_path / "run" / "forgetting.jsonl")
    assert {row["part"] for row in rows} == {"texts", "questions", "instructions", "neutral"}
    assert {"the panel, before", "the panel, after"} <= metrics["seconds"].keys()


def test_measuring_changes_nothing_else(hydratune: Hydratune, tmp_path: Path) -> None:
    for name, settings in (("with", MEASURED), ("without", ())):
        code, out = hydratune(
            "train", *SMALL, *settings, "trainer.cpu_workers=1", f"hydra.run.dir={name}"
        )
        assert code == 0, out
    losses = [
        [line.split(",")[2] for line in (tmp_path / name / "history.csv").read_text().splitlines()]
        for name in ("with", "without")
    ]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_a_run_that_forgets_too_much_is_never_best(hydratune: Hydratune, tmp_path: Path) -> None:
    budget = "evaluation.forgetting.fail.kl=0.0"
    code, out = hydratune(
        "train", *SMALL, *MEASURED, budget, "optimizer.lr=0.05", "hydra.run.dir=sweep/forgetful"
    )
    assert code == 0 and "forgotten too much: kl" in out, out
    code, out = hydratune("train", *SMALL, "optimizer.lr=1e-5", "hydra.run.dir=sweep/careful")
    assert code == 0
    code, out = hydratune("compare", "sweep")
    assert code == 0 and "best: sweep/careful" in out.replace("\n", " "), out


def test_budgets_are_checked(hydratune: Hydratune) -> None:
    code, out = hydratune("train", *SMALL, "evaluation.forgetting.fail.memory=1")
    assert code == 2 and "no such measure" in out and "nothing is measured" in out
