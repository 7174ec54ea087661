"""The factual check of data preparation by a judge."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from judge_server import Judge

Hydratune = Callable[..., tuple[int, str]]


def training_rows(folder: Path) -> list[str]:
    rows = [
        {
            "prompt": f"The fee of contract {n} is {n * 10} euros, paid by firm {n}.",
            "completion": f"fee {n * 10}",
        }
        for n in range(30)
    ]
    rows[4]["completion"] = "fee 40, due in May"
    files = {"train": rows[:24], "validation": rows[24:27], "test": rows[27:]}
    settings = [
        f"data.{name}={write_rows(folder / f'{name}.jsonl', split_rows)}"
        for name, split_rows in files.items()
    ]
    return ["prepare", "model=tiny", "data=files", *settings, "data.quality.near_leaks=off"]


def facts_of(folder: Path) -> dict[str, Any]:
    check: dict[str, Any] = json.loads((folder / "out" / "report.json").read_text())["checks"][
        "unsupported"
    ]
    return check


def find_invented_month(messages: list[dict[str, str]], n: int) -> str:
    """Judge an answer as unsupported if it holds the invented month."""
    wrong = "due in May" in messages[1]["content"]
    return json.dumps(
        {
            "feedback": "May is invented <b>" if wrong else "fine",
            "verdict": "unsupported" if wrong else "supported",
        }
    )


def test_unsupported_training_answers_are_found(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge]
) -> None:
    judge, folder = serve(find_invented_month), judged_run.parent
    command = [
        *training_rows(folder),
        f"facts.base_url={judge.url}",
        "facts.judge=scripted",
        "output=out",
    ]
    code, out = hydratune(*command)
    assert code == 0 and "1 unsupported" in out, out
    check = facts_of(folder)
    train = json.loads((folder / "out" / "report.json").read_text())["splits"]["train"]["rows"]
    assert (
        check["count"] == 1
        and check["level"] == "warn"
        and check["examples"][0]["texts"][1] == "fee 40, due in May"
    )
    assert check["note"].startswith(
        f"{train} rows asked of {judge.url} scripted: {train - 1} supported, 1 unsupported, 0"
        " unclear"
    )
    assert len(judge.requests) == train and judge.requests[0]["temperature"] == 0
    page = (folder / "out" / "report.html").read_text()
    assert "May is invented &lt;b&gt;" in page and "May is invented <b>" not in page
    code, out = hydratune(*command)
    assert code == 0 and len(judge.requests) == train and facts_of(folder)["count"] == 1
    code, _ = hydratune(*command[:-1], "output=out", "facts.rows=5")
    assert code == 0 and "5 rows asked" in facts_of(folder)["note"] and len(judge.requests) == train


@pytest.mark.parametrize(
    "answer", ["unsupported", '{"verdict": "unsupported"}', '{"feedback": "", "verdict": "no"}']
)
def test_replies_without_a_verdict_mark_no_row_as_unsupported(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge], answer: str
) -> None:
    judge = serve(lambda messages, n: answer)
    code, out = hydratune(
        *training_rows(judged_run.parent),
        f"facts.base_url={judge.url}",
        "facts.judge=scripted",
        "output=out",
        "facts.rows=3",
    )
    assert (
        code == 1
        and "no answer was judged: unparsed" in out
        and "3 without a verdict" in facts_of(judged_run.parent)["note"]
    )
    assert (
        facts_of(judged_run.parent)["count"] == 0
        and (judged_run.parent / "out" / "train.parquet").is_file()
    )


def test_a_dead_server_does_not_lose_the_prepared_data(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge]
) -> None:
    judge = serve(find_invented_month)
    judge.close()
    judge.close = lambda: None  # type: ignore[method-assign]
    settings = (
        f"facts.base_url={judge.url}",
        "facts.judge=scripted",
        "output=out",
        "facts.retries=0",
        "facts.rows=4",
    )
    code, out = hydratune(*training_rows(judged_run.parent), *settings)
    assert code == 1 and "no answer was judged" in out and "Traceback" not in out, out
    assert (
        facts_of(judged_run.parent)["count"] == 0
        and (judged_run.parent / "out" / "train.parquet").is_file()
    )


def test_wrong_settings_of_the_factual_check_are_refused_before_any_row_is_read(
    hydratune: Hydratune, judged_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for settings, message in (
        (["facts.rows=0"], "facts.rows"),
        (["facts.budget=1"], "facts.price_in"),
        (["facts.timeout=0"], "facts.timeout"),
    ):
        code, out = hydratune(
            *training_rows(judged_run.parent), "facts.judge=x", "output=out", *settings
        )
        assert code == 2 and message in out, out
    monkeypatch.delenv("OPENAI_API_KEY")
    code, out = hydratune(*training_rows(judged_run.parent), "facts.judge=x", "output=out")
    assert (
        code == 2 and "key_env" in out and not (judged_run.parent / "out" / "report.json").is_file()
    )
