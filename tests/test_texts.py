"""hydratune evaluate on running texts and on lm-eval's tasks."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import write_rows
from hydratune.evaluation.corpus import TextScore
from hydratune.evaluation.texts import summary

Hydratune = Callable[..., tuple[int, str]]


def test_summary_sums_over_texts_and_compares_them_in_pairs() -> None:
    base = [TextScore(-10.0, 5, 20), TextScore(-30.0, 10, 40), TextScore(-21.0, 9, 33)]
    tuned = [TextScore(-11.0, 5, 20), TextScore(-33.0, 10, 40), TextScore(-25.0, 9, 33)]
    result = summary({"base": base, "tuned": tuned}, ["a", "b", "c"], 128, None, 0.95, 500)
    assert result["systems"]["base"]["log_likelihood"] == -61.0
    assert result["systems"]["base"]["perplexity_w128"] == pytest.approx(2.718281828 ** (61 / 24))
    assert result["systems"]["base"]["bits_per_byte"] == pytest.approx(61 / 0.6931471806 / 93)
    delta = result["bits_per_byte_delta"]
    # three texts are too few for an interval
    assert delta == {"value": pytest.approx(8 / 0.6931471806 / 93), "interval": None, "p": 0.25}
    many = summary(
        {"base": base * 3, "tuned": tuned * 3}, [str(n) for n in range(9)], 128, None, 0.95, 500
    )["bits_per_byte_delta"]
    assert 0 < many["interval"][0] <= many["value"] <= many["interval"][1] and many["p"] < 0.05
    assert many["value"] == pytest.approx(delta["value"])


def test_one_text_has_no_interval() -> None:
    scores = [TextScore(-10.0, 5, 20)]
    result = summary({"base": scores, "tuned": scores}, ["a"], 128, 64, 0.95, 500)
    assert result["systems"]["base"]["interval"] is None
    assert result["bits_per_byte_delta"] == {"value": 0.0, "interval": None, "p": None}


@pytest.fixture
def trained(finished_run: Callable[..., Path]) -> Path:
    return finished_run()


def test_texts_of_a_folder(hydratune: Hydratune, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("The supplier delivers within ten days. " * 8)
    write_rows(
        tmp_path / "texts" / "b.jsonl", [{"title": "[one]", "text": "Either party may terminate."}]
    )
    code, out = hydratune("evaluate", "run=run", "texts=texts", "window=64", "stride=32")
    assert code == 0, out
    stored = json.loads((trained / "evaluation_texts.json").read_text())
    assert stored["settings"] == {"window": 64, "stride": 32, "texts": 2}
    assert stored["systems"]["base"]["bytes"] == 8 * 39 + 27
    assert (
        stored["systems"]["base"]["log_likelihood"] != stored["systems"]["tuned"]["log_likelihood"]
    )
    assert "perplexity_w64" in out and "bits per byte" in out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["texts=nowhere"], "no such file or folder"),
        (["texts=run/config.yaml", "window=0"], "window"),
        (["texts=run/config.yaml", "window=16", "stride=17"], "stride"),
        (["texts=run/config.yaml", "window=100000"], "the model reads"),
        (["texts=empty.txt"], "is empty"),
        (["texts=empty.txt", "source=predictions"], "source"),
    ],
)
def test_wrong_settings_of_texts_are_refused(
    hydratune: Hydratune, trained: Path, tmp_path: Path, settings: list[str], message: str
) -> None:
    (tmp_path / "empty.txt").write_text("")
    code, out = hydratune("evaluate", "run=run", *settings)
    assert code == 2 and message in out, out
    assert not (trained / "evaluation_texts.json").exists()


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_tasks_need_lm_eval(hydratune: Hydratune, trained: Path) -> None:
    code, out = hydratune("evaluate", "run=run", "lm_eval=[wikitext]")
    assert code == 2 and "pip install 'hydratune[lm_eval]'" in out
