"""Learning curves on the pages of a run and of a comparison: losses, and what is monitored."""

import json
import re
from pathlib import Path

import pytest

from compared_runs import write_run
from hydratune.comparison.collect import collect_runs
from hydratune.comparison.comparison import compare
from hydratune.comparison.page_data import page_data
from hydratune.evaluation import run_report
from hydratune.records.run_directory import RunDirectory

METRIC = "val/field_f1"
VALUES = {2: 0.25, 4: 0.5, 6: 0.8125, 8: 0.75}  # step -> field F1; the loss is lowest at step 8
SETTINGS = {"objective": {"metric": METRIC, "mode": "max"}}


def run_with_answers(folder: Path, *, finished: bool = True, shift: float = 0.0) -> Path:
    """Write a run that kept the weights of step 6, by its answers to validation rows."""
    more = {METRIC: 0.8125 + shift, "fit/best_step": 6, "settings": SETTINGS}
    state = "finished" if finished else "stopped"
    run = write_run(folder, loss=0.7, lr=1e-3 + shift, state=state, **more)
    lines = ["step,epoch,train/loss,val/loss,val/field_f1,val/nll"]
    for step in range(1, 9):
        own = f"{1 - step / 20},{VALUES[step] + shift},0.5" if step in VALUES else ",,"
        lines.append(f"{step},{step / 8},{2 / step},{own}")
    (run / "history.csv").write_text("\n".join(lines) + "\n")
    return run


def charts(run: Path) -> list[str]:
    text = run_report.render(RunDirectory(run))
    return re.findall(r'<figure class="curves">.*?</figure>', text, re.S)


def titles(chart: str) -> list[str]:
    """Return the entries of the legend."""
    return re.findall(r"<span[^>]*><i[^>]*></i>(?:<b>)?([^<]*)", chart)


def tick_labels(chart: str) -> list[str]:
    return re.findall(r'<text x="[^"]*" y="[^"]*" text-anchor="end">([^<]*)</text>', chart)


def test_a_run_shows_the_metric_beside_the_losses_and_marks_the_kept_step(tmp_path: Path) -> None:
    loss, answers = charts(run_with_answers(tmp_path / "run"))
    assert titles(loss) == ["training loss", "validation loss", "kept: step 6, 0.7000"]
    assert titles(answers) == ["validation field F1 (%)", "kept: step 6, 81.2 %"]
    for chart in (loss, answers):
        labels = tick_labels(chart)
        assert len(labels) > 2 and len(set(labels)) == len(labels)
    assert (tick_labels(answers)[0], tick_labels(answers)[-1]) == ("0", "100")
    points = re.findall(r'<circle class="val" cx="([^"]*)" cy="([^"]*)"', answers)
    mark = re.findall(r'<circle class="mark" cx="([^"]*)" cy="([^"]*)"', answers)
    assert len(points) == 4 and mark == [points[2]]
    assert float(points[2][1]) == min(float(y) for _, y in points)  # the highest


def test_a_run_that_was_stopped_shows_what_it_monitors(tmp_path: Path) -> None:
    run = run_with_answers(tmp_path / "run", finished=False)
    with (run / "config.yaml").open("a") as file:
        file.write("trainer: {monitor: 'val/nll:min'}\n")
    _, answers = charts(run)
    assert titles(answers) == ["validation NLL per token"]


def test_a_run_without_answers_to_validation_rows_has_one_chart(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **{"fit/best_step": 2})
    (run / "history.csv").write_text("step,epoch,train/loss,val/loss\n1,1,3.0,\n2,2,2.5,2.0\n")
    (chart,) = charts(run)
    assert titles(chart) == ["training loss", "validation loss", "kept: step 2, 2.0000"]


def test_a_comparison_offers_the_metric_first_where_it_ranks(tmp_path: Path) -> None:
    for name, shift in (("a", 0.0), ("b", 0.1)):
        run_with_answers(tmp_path / "runs" / name, shift=shift)
    data = page_data(compare(collect_runs([tmp_path / "runs"]), tests=False), tmp_path)
    titles = {curve["key"]: curve["title"] for curve in data["curves"]}
    assert list(titles) == [METRIC, "val", "train"]
    assert titles[METRIC] == "validation field F1 (%)" and titles["val"] == "validation loss"
    own = next(run for run in data["runs"] if run["name"] == "a")
    assert own["curve"][METRIC] == [[2, 25.0], [4, 50.0], [6, 81.25], [8, 75.0]]
    assert own["kept"] == {METRIC: [6, 81.25], "val": [6, 0.7]}
    assert len(own["curve"]["train"]) == 8


def test_the_kept_step_of_a_long_run_is_among_the_points_that_are_drawn(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "long", **{"fit/best_step": 1000})
    rows = [f"{step},{step / 100},1.0,{1 + abs(step - 1000) / 1000}" for step in range(1, 1501)]
    (run / "history.csv").write_text("\n".join(["step,epoch,train/loss,val/loss", *rows]) + "\n")
    data = page_data(compare(collect_runs([tmp_path / "runs"])), tmp_path)
    (own,) = data["runs"]
    steps = [step for step, _ in own["curve"]["val"]]
    assert 1000 in steps and steps == sorted(set(steps)) and len(steps) < 125
    assert (steps[0], steps[-1]) == (1, 1500) and own["kept"] == {"val": [1000, 1.0]}
    assert json.dumps(data["curves"]).count('"key"') == 2


@pytest.mark.parametrize("broken", ["", "step\n1\n", "step,val/loss\n1,no number\n"])
def test_a_history_that_cannot_be_read_has_no_chart(tmp_path: Path, broken: str) -> None:
    run = write_run(tmp_path / "run")
    (run / "history.csv").write_text(broken)
    assert charts(run) == []
