"""Typed records: files keep their format, and no message for people is parsed."""

import json
from pathlib import Path

import pytest

from hydratune.errors import RunError
from hydratune.records.environment import Environment
from hydratune.records.metrics import RunMetrics
from hydratune.records.run_directory import KEPT_FILES, RunDirectory, RunFile
from hydratune.records.status import Halved, Outcome, Rung, State, Status

KEYS = ("wandb_id", "state", "started", "ended", "error", "host", "pid")


@pytest.fixture
def record(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def stored(record: RunDirectory) -> dict[str, object]:
    return dict(json.loads(record.status_file.read_text()))


def test_a_directory_without_a_run_has_an_empty_status(record: RunDirectory) -> None:
    assert record.read_status() == Status() and record.read_status().outcome is Outcome.no_run


def test_keys_stand_in_the_order_of_older_versions(record: RunDirectory) -> None:
    record.start()
    record.update(wandb_id="abc")
    record.end(State.failed, "the loss is not finite")
    assert list(stored(record)) == [*KEYS]
    assert stored(record)["state"] == "failed" and record.read_status().outcome is Outcome.failed


def test_halving_is_a_field_and_not_read_from_the_error(record: RunDirectory) -> None:
    record.start()
    for step, loss in ((4, 2.0), (8, 1.25)):
        record.change_status(lambda status, at=step, loss=loss: status.report(Rung(at, loss)))
    assert record.read_status().rungs == (Rung(4, 2.0), Rung(8, 1.25))
    record.change_status(Status.halve)
    status = record.read_status()
    assert status.outcome is Outcome.halved and status.halved == Halved(8, 1.25, 1)
    assert stored(record)["halved"] == {"step": 8, "value": 1.25, "rung": 1}
    assert status.error == "halved: not among the best at step 8 (validation loss 1.2500)"


def test_a_loss_that_is_reported_again_replaces_what_came_later() -> None:
    status = Status({"rungs": [[4, 2.0], [8, 1.5]]}).report(Rung(4, None))
    assert status.rungs == (Rung(4, None),)


def test_a_rung_keeps_the_metric_by_which_a_run_is_judged() -> None:
    judged = Rung(4, 1.5, 0.25, (0.1, 0.4))
    status = Status().report(Rung(2, 2.0)).report(judged)
    assert status.content["rungs"] == [[2, 2.0], [4, 1.5, 0.25, [0.1, 0.4]]]
    assert status.rungs == (Rung(2, 2.0), judged)
    stopped = status.halve("validation field F1 25.0 %")
    assert "(validation field F1 25.0 %, validation loss 1.5000)" in str(stopped.error)
    assert stopped.halved == Halved(4, 1.5, 1, 0.25)
    by_loss = status.halve()
    assert by_loss.halved == Halved(4, 1.5, 1)


def test_a_run_that_cannot_share_a_pack_says_why_and_starts_without_it(
    record: RunDirectory,
) -> None:
    record.start()
    record.change_status(lambda status: status.leave_pack("it trains weights of the base model"))
    status = record.read_status()
    assert status.outcome is Outcome.cannot_share_pack
    assert status.cannot_share_pack == "it trains weights of the base model"
    assert status.error == "runs alone: it trains weights of the base model"
    record.start(resumed=True)
    assert record.read_status().outcome is Outcome.running
    assert "cannot_share_pack" not in stored(record)


def test_the_error_alone_decides_nothing() -> None:
    status = Status({"state": "stopped", "error": "runs alone: halved at step 4"})
    assert status.outcome is Outcome.stopped


def test_a_resumed_run_keeps_its_start_its_rungs_and_unknown_keys(record: RunDirectory) -> None:
    record.start()
    record.update(started="2026-01-01T00:00:00+00:00", note="of another version", tries=2)
    record.change_status(lambda status: status.report(Rung(4, 1.0)).pause())
    assert record.read_status().outcome is Outcome.paused
    record.start(resumed=True)
    status = record.read_status()
    assert status.started == "2026-01-01T00:00:00+00:00" and status.rungs == (Rung(4, 1.0),)
    assert stored(record)["note"] == "of another version" and not status.is_paused
    record.start()
    assert list(stored(record)) == ["wandb_id", "tries", *KEYS[1:]]


@pytest.mark.parametrize(
    "content",
    [
        {"state": "dreaming"},
        {"state": 7, "halved": "yes", "rungs": 3, "error": [], "tries": "two"},
    ],
)
def test_values_of_the_wrong_type_count_as_missing(content: dict[str, object]) -> None:
    status = Status(content)
    assert status.outcome is Outcome.no_run and status.halved is None and status.rungs == ()
    assert status.error is None and status.tries is None


METRICS = {  # in the order in which versions without typed records wrote it
    "base/exact_match": 0.25,
    "eval/exact_match": 0.5,
    "fit/rise": 0.01,
    "course": {"verdict": "settled", "advice": "settled", "epochs": []},
    "train/loss": 1.0,
    "val/loss": 1.5,
    "objective": 1.5,
    "cost/tokens": 100,
    "settings": {"base": {"rows": 4}, "eval": {"rows": 4}, "objective": {"mode": "min"}},
    "intervals": {"eval/exact_match": [0.1, 0.9]},
    "seconds": {"training": 2.5},
    "forgetting/within_budget": True,
    "memorisation/difference": 0.0,
    "note": "of another version",
}


def test_metrics_are_written_as_they_were_read(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(METRICS, indent=2) + "\n")
    before = file.read_bytes()
    metrics = RunMetrics.read(file)
    metrics.write(file)
    assert file.read_bytes() == before
    assert metrics.values["val/loss"] == 1.5 and metrics.systems == ["base", "eval"]
    assert metrics.values["memorisation/difference"] == 0.0 and "note" not in metrics.values


def test_metrics_of_an_older_version_lack_what_it_did_not_write() -> None:
    metrics = RunMetrics.from_json({"eval/exact_match": 0.5, "val/loss": 1.0})
    assert metrics.settings == {} and metrics.course == {} and metrics.systems == []


ENVIRONMENT = {
    "versions": {"python": "3.11.9"},
    "hardware": {"cores": 2},
    "code": "abc",
    "seed": 3,
    "model": {"name": "toy", "licence": None, "source": "toy", "identity": "toy@1"},
    "base": "toy@1",
    "data_fingerprint": "def",
    "git": {"commit": "0123", "dirty": False},
    "precision": "32-true",
    "memory_plan": {"micro_tokens": 512},
    "note": "of another version",
}


@pytest.mark.parametrize("without", [None, "memory_plan"])
def test_the_environment_is_written_as_it_was_read(tmp_path: Path, without: str | None) -> None:
    file = tmp_path / "environment.json"
    content = {key: value for key, value in ENVIRONMENT.items() if key != without}
    file.write_text(json.dumps(content, indent=2) + "\n")
    before = file.read_bytes()
    environment = Environment.read(file)
    environment.write(file)
    assert file.read_bytes() == before
    assert list(environment.facts()) == ["base", "data_fingerprint", "git", "precision"]


@pytest.mark.parametrize("record", [RunMetrics, Environment])
def test_a_file_that_holds_no_object_is_refused(
    tmp_path: Path, record: type[RunMetrics] | type[Environment]
) -> None:
    file = tmp_path / "file.json"
    file.write_text("[1, 2]")
    with pytest.raises(RunError, match="changed or cut"):
        record.read(file)


def write_every_file(record: RunDirectory) -> None:
    for name in RunFile:
        if name in ("adapter", "checkpoints", "judge", ".hydra"):
            record.file(name).mkdir()
            (record.file(name) / "content").write_text("old")
        elif name is RunFile.status:
            record.end(State.finished)
        else:
            record.file(name).write_text("old")
    record.predictions_file("base").write_text("old")


def test_every_file_of_a_run_moves_to_previous_when_it_starts_anew(record: RunDirectory) -> None:
    write_every_file(record)
    record.clear()
    moved = {path.name for path in (record.path / "previous").iterdir()}
    for name in RunFile:
        assert record.file(name).exists() == (name in KEPT_FILES), name
        assert (name in moved) == (name not in KEPT_FILES), name
    assert "predictions_base.jsonl" in moved and not record.predictions_file("base").exists()
    # the status is changed in place, the log is appended to, .hydra is written again, and the lock
    # is held by the process that clears the directory
    assert set(KEPT_FILES) == {RunFile.status, RunFile.log, RunFile.hydra, RunFile.lock}


def test_a_run_that_is_resumed_keeps_its_checkpoints_and_answers(record: RunDirectory) -> None:
    write_every_file(record)
    record.clear(keep_checkpoints=True)
    kept = {*KEPT_FILES, RunFile.checkpoints, RunFile.validation}
    assert {name for name in RunFile if record.file(name).exists()} == kept


def test_every_file_of_a_finished_run_is_restored(record: RunDirectory) -> None:
    write_every_file(record)
    finished = record.read_status()
    record.clear(keep_checkpoints=True, into=record.next_finished_folder())
    record.start()
    record.restore_finished(finished)
    assert all(record.file(name).exists() for name in RunFile)
    assert record.read_status() == finished and not (record.path / "finished").exists()
