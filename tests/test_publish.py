"""What compare to_wandb=true writes, without a server: the report's content as it would be sent.

With one: test_wandb_server.py.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compared_runs import hits, write_run
from hydratune.comparison import publish
from hydratune.comparison.collect import collect_runs
from hydratune.comparison.comparison import compare
from hydratune.comparison.panels import panels_by_section
from hydratune.tracking import wandb_server
from hydratune.tracking.wandb_server import Project

pytest.importorskip("wandb_workspaces")
Command = Callable[..., tuple[int, str]]


def sweep(folder: Path, prompts: tuple[str, ...] = ("", "", ""), **tracking: Any) -> Any:
    """Three tracked runs."""
    for number, prompt in enumerate(prompts):
        run = write_run(
            folder / str(number), loss=0.5 + number / 10, lr=10.0**-number, right=hits(20 + number)
        )
        (run / "status.json").write_text(
            json.dumps({"state": "finished", "wandb_id": f"id{number}"})
        )
        more = {
            "data": {"system_prompt": prompt},
            "tracking": {"mode": "online", "project": "p", **tracking},
        }
        (run / "config.yaml").write_text(
            (run / "config.yaml").read_text()
            + "".join(f"{k}: {json.dumps(v)}\n" for k, v in more.items())
        )
    return compare(collect_runs([folder]))


def sent(compared: Any) -> str:
    """Return what is sent, without the grid of panels, which needs the project's number from the
    server.
    """
    compared = publish._without_texts(compared)
    blocks = [
        b
        for b in publish._blocks(compared, Project("me", "p"), ["id0", "id1", "id2"])
        if type(b).__name__ != "PanelGrid"
    ]
    panels = [panel for section in panels_by_section(compared).values() for panel in section]
    return json.dumps(
        [
            part._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
            for part in (*blocks, *panels)
        ]
    )


def test_the_report_has_the_verdict_of_the_terminal(tmp_path: Path) -> None:
    compared = sweep(tmp_path)
    text = sent(compared)
    assert "| 1 | 0 | 1 | 0.5000 |" in text and "validation loss 0.5000" in text
    assert "What each setting did" in text
    assert "config:optimizer.value.lr" in text and "summary:eval/exact_match" in text
    assert '"targetKey": "val/loss"' in text
    names = [
        type(panel).__name__
        for section in panels_by_section(compared).values()
        for panel in section
    ]
    assert names[:5] == [
        "ParallelCoordinatesPlot",
        "ParameterImportancePlot",
        "RunComparer",
        "LinePlot",
        "LinePlot",
    ]
    assert "WeavePanelSummaryTable" not in names  # no answers were sent


def test_answers_are_shown_where_they_were_sent(tmp_path: Path) -> None:
    panels = panels_by_section(sweep(tmp_path, log_predictions=True))
    assert type(panels["Answers"][0]).__name__ == "WeavePanelSummaryTable"


def test_panels_do_not_overlap(tmp_path: Path) -> None:
    places = [
        panel.layout
        for section in panels_by_section(sweep(tmp_path, log_predictions=True)).values()
        for panel in section
    ]
    cells = [
        (x, y) for at in places for x in range(at.x, at.x + at.w) for y in range(at.y, at.y + at.h)
    ]
    assert len(cells) == len(set(cells)) and all(at.x + at.w <= 24 for at in places)


def test_texts_are_not_sent_if_log_text_is_off(tmp_path: Path) -> None:
    prompts = ("You are a secret.", "You are another secret.", "Be brief.")
    assert "You are a secret" in sent(sweep(tmp_path / "told", prompts))
    kept = sent(sweep(tmp_path / "kept", prompts, log_text=False))
    assert (
        "secret" not in kept
        and "Be brief" not in kept
        and all(f"text {n}" in kept for n in (1, 2, 3))
    )


def test_the_view_has_these_runs_and_marks_the_best(tmp_path: Path) -> None:
    compared = sweep(tmp_path)
    shown = publish._view_settings(compared, ["id0", "id1", "id2"])
    assert shown.pinned_runs == ["id0"] and all(
        name in str(shown.filters) for name in ("id0", "id1", "id2")
    )
    assert "config:optimizer.value.lr" in shown.pinned_columns


@pytest.mark.parametrize(
    ("tracked", "message"),
    [(False, "none of these runs was tracked"), (True, "send them first: wandb sync")],
)
def test_runs_that_cannot_be_published_give_a_message(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracked: bool, message: str
) -> None:
    if tracked:
        sweep(tmp_path / "s")
    else:
        write_run(tmp_path / "s" / "0")
    monkeypatch.setattr(wandb_server, "project_of", lambda project, entity: Project("me", "p"))
    monkeypatch.setattr(wandb_server, "ids_on_server", lambda project, ids: set())
    code, text = hydratune("compare", str(tmp_path / "s"), "html=false", "--to-wandb")
    assert code == 2 and message in text


def test_a_server_that_does_not_answer_is_one_message(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        pytest.raises(Exception, match="me/p cannot be read: refused; is WANDB_API_KEY set"),
        wandb_server.explain_errors("me/p cannot be read"),
    ):
        raise ConnectionError("refused\nat length")
