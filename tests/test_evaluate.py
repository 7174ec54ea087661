"""hydratune evaluate: metrics are reproduced from the run directory, and changed or broken files
are noticed.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import SMALL, edited, write_rows
from run_files import SAME_ROWS, read_metrics

Command = Callable[..., tuple[int, str]]


@pytest.mark.parametrize("source", ["adapter", "predictions"])
def test_evaluate_reproduces_the_metrics(
    hydratune: Command, tmp_path: Path, finished_run: Callable[..., Path], source: str
) -> None:
    run = finished_run()
    code, text = hydratune("evaluate", f"run={run}", f"source={source}")
    assert code == 0, text
    assert "are reproduced" in text
    again = json.loads((run / "evaluation.json").read_text())
    assert again["eval/nll"] == pytest.approx(read_metrics(run)["eval/nll"], abs=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # evaluate creates no run


def test_evaluate_from_elsewhere_says_where_the_run_was_started(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(9)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    files = [f"data.{split}=a.jsonl" for split in ("train", "validation", "test")]
    run = tmp_path / "run"
    assert (
        hydratune("train", *SMALL, "data=files", *files, *SAME_ROWS, f"hydra.run.dir={run}")[0] == 0
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, text = hydratune("evaluate", f"run={run}")
    assert code == 1 and "data.train = a.jsonl" in text and f"started in {tmp_path}" in text
    assert hydratune("evaluate", f"run={run}", "source=predictions")[0] == 0
    monkeypatch.chdir(tmp_path)
    assert hydratune("evaluate", f"run={run}", "accelerator=cpu")[0] == 0
    environment = json.loads((run / "environment.json").read_text())
    edited(run / "environment.json", json.dumps({**environment, "base": "tiny:another"}))
    code, text = hydratune("evaluate", f"run={run}")
    assert code == 1 and "the base model has changed" in text


def test_evaluate_notices_changed_predictions(
    hydratune: Command, finished_run: Callable[..., Path]
) -> None:
    file = finished_run() / "predictions.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text(
        "".join(json.dumps({**row, "prediction": row["reference"]}) + "\n" for row in rows)
    )
    code, text = hydratune("evaluate", f"run={file.parent}", "source=predictions")
    assert code == 1 and f"{file} is not as it was written" in text
    (file.parent / "digests.json").unlink()
    code, text = hydratune("evaluate", f"run={file.parent}", "source=predictions")
    assert code == 1
    assert "differ from metrics.json" in text and "eval/exact_match" in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", "{}", "metrics.json"),
        ("metrics.json", '{"cut', "not readable JSON"),
        ("predictions.jsonl", "", "predictions.jsonl"),
        ("config.yaml", "model: {source: nonsense}", "config.yaml"),
        ("config.yaml", "", "config.yaml"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_broken_run_directory_is_one_clear_message(
    hydratune: Command,
    finished_run: Callable[..., Path],
    name: str,
    content: str,
    message: str,
    command: str,
) -> None:
    run = finished_run()
    edited(run / name, content)
    words = (
        ("evaluate", f"run={run}", "source=predictions")
        if command == "evaluate"
        else ("compare", str(run))
    )
    code, text = hydratune(*words)
    assert "Traceback" not in text
    if command == "evaluate":
        assert code in (1, 2) and message in text
    elif message == "not readable JSON":  # no run can be compared
        assert code == 2 and "nothing here can be read" in text and message in text
    else:
        assert code == 0 and "run" in text


def test_losses_over_different_tokens_name_no_best_run(hydratune: Command, tmp_path: Path) -> None:
    turns = [
        {"role": role, "content": f"{role} {i}"} for i in range(2) for role in ("user", "assistant")
    ]
    file = write_rows(tmp_path / "rows.jsonl", [{"messages": turns}] * 4)
    files = [f"data.{split}={file}" for split in ("train", "validation", "test")]
    for train_on in ("all", "last"):
        run = f"hydra.run.dir={tmp_path}/runs/{train_on}"
        assert (
            hydratune(
                "train", *SMALL, "data=files", *files, *SAME_ROWS, f"data.train_on={train_on}", run
            )[0]
            == 0
        )
    code, text = hydratune("compare", str(tmp_path / "runs"))
    assert code == 0 and "no best run" in text
