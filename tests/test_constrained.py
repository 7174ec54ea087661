"""Answers constrained to a JSON schema."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from conftest import SMALL, write_rows
from hydratune.errors import ConfigError
from hydratune.evaluation.constrained import Guide, guide_for
from hydratune.evaluation.generation import answer

Command = Callable[..., tuple[int, str]]
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["lease", "sale"]},
        "months": {"type": "integer", "minimum": 1, "maximum": 99},
        "party": {"type": ["string", "null"], "maxLength": 8},
        "signed": {"type": "boolean"},
    },
    "required": ["kind", "months", "party", "signed"],
    "additionalProperties": False,
}


def answers_of(
    model: Any, encoder: Any, guide: Guide | None, most: int = 200, batch: int = 4
) -> list[Any]:
    prompts = [encoder.tokenizer.encode(f"row {n} " * (n + 1)) for n in range(7)]
    return answer(
        model,
        prompts,
        [[1, 2]] * len(prompts),
        stop=encoder.turn_end_ids,
        pad=encoder.tokenizer.pad_token_id,
        max_new_tokens=most,
        batch_size=batch,
        title="",
        quiet=True,
        guide=guide,
    )


def texts(encoder: Any, answers: list[Any]) -> list[str]:
    return [
        encoder.tokenizer.decode([t for t in a.tokens if t not in encoder.turn_end_ids])
        for a in answers
    ]


def test_an_untrained_model_writes_valid_answers(model: Any, encoder: Any) -> None:
    """Without the constraint it writes none."""
    guided = answers_of(model, encoder, guide_for(SCHEMA, encoder, model))
    whole = [
        text
        for text, answered in zip(texts(encoder, guided), guided, strict=True)
        if answered.finish_reason == "stop"
    ]
    assert len(whole) >= 5
    for text in whole:
        jsonschema.validate(json.loads(text), SCHEMA)
    for text in texts(encoder, answers_of(model, encoder, None)):
        with pytest.raises(ValueError):
            json.loads(text)


@pytest.mark.slow
def test_a_row_does_not_depend_on_its_batch(model: Any, encoder: Any) -> None:
    guide = guide_for(SCHEMA, encoder, model)
    assert texts(encoder, answers_of(model, encoder, guide, batch=7)) == texts(
        encoder, answers_of(model, encoder, guide, batch=1)
    )


def test_likelihoods_are_those_of_the_model(model: Any, encoder: Any) -> None:
    guided, free = (
        answers_of(model, encoder, guide_for(SCHEMA, encoder, model), 4),
        answers_of(model, encoder, None, 4),
    )
    assert [a.nll for a in guided] == [a.nll for a in free]


def test_schemas_that_cannot_be_enforced_are_refused(model: Any, encoder: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be enforced"):
        guide_for(
            {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?<=a)b"}}},
            encoder,
            model,
        )
    with pytest.raises(ConfigError, match="no JSON schema"):
        guide_for(None, encoder, model)


@pytest.mark.slow
def test_constrained_answers_are_stored_beside_the_free_ones(
    hydratune: Command, tmp_path: Path
) -> None:
    words = [s for s in SMALL if not s.startswith("evaluation.baselines")]
    run = tmp_path / "run"
    small = ("evaluation.baselines=[fewshot]", "evaluation.shots=1", "evaluation.max_new_tokens=60")
    assert hydratune("train", *words, *small, f"hydra.run.dir={run}")[0] == 0
    before = {
        file: (run / file).read_bytes()
        for file in ("predictions.jsonl", "metrics.json", "predictions_fewshot.jsonl")
    }
    code, text = hydratune("evaluate", f"run={run}", "constrained=true")
    assert (
        code == 0 and "fine-tuned, constrained" in text and "base, few-shot, constrained" in text
    ), text
    assert all((run / file).read_bytes() == content for file, content in before.items())
    scores = json.loads((run / "evaluation_constrained.json").read_text())
    rows = [
        json.loads(line)
        for line in (run / "predictions_constrained.jsonl").read_text().splitlines()
    ]
    schema = json.loads((run / "schema.json").read_text())
    for row in rows:
        if row["finish_reason"] == "stop":
            jsonschema.validate(json.loads(row["prediction"]), schema)
    assert scores["eval_constrained/schema_valid"] == sum(
        r["finish_reason"] == "stop" for r in rows
    ) / len(rows)
    assert (
        "value" in scores["fewshot_constrained/schema_valid_difference"]
        and "eval_constrained/nll" not in scores
    )
    code, text = hydratune("evaluate", f"run={run}", "constrained=true", "source=predictions")
    assert code == 2 and "need the model" in text
    code, text = hydratune("evaluate", f"run={run}", "constrained=true", "texts=some")
    assert code == 2 and "leave one of the two out" in text
    code, text = hydratune(
        "decide",
        f"run={run}",
        "constrained=true",
        "rows=2",
        f"output={tmp_path}/d",
        "evaluation.shots=1",
    )
    assert code == 0 and "held to the JSON schema, fine-tuned changes by" in text, text
    decision = json.loads((tmp_path / "d" / "decision.json").read_text())
    assert "tuned_constrained" in decision["systems"] and len(decision["constrained"]) == 2
    assert not any("constrained" in c["ours"] + c["theirs"] for c in decision["comparisons"])
    assert "held to the JSON schema" in (tmp_path / "d" / "report.html").read_text()


def test_without_a_schema_constrained_decoding_is_refused(
    hydratune: Command, tmp_path: Path
) -> None:
    rows = [
        {"prompt": f"say the number {n}", "completion": f"the number is {n}"} for n in range(40)
    ]
    small = [s for s in SMALL if not s.startswith("data.max")]
    words = (
        "train",
        *small,
        "data=files",
        f"data.train={write_rows(tmp_path / 'rows.jsonl', rows)}",
        f"hydra.run.dir={tmp_path}/run",
    )
    code, text = hydratune(
        *words, "data.quality.near_leaks=off", "data.quality.near_duplicates=off"
    )
    assert code == 0, text
    code, text = hydratune("evaluate", f"run={tmp_path}/run", "constrained=true")
    assert code == 2 and "no JSON schema to hold the answers to" in text and "Traceback" not in text
