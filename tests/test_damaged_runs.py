"""A flipped bit in any file of a run is reported with the file named, or changes no result."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL
from damage import copy_run, flip_bit
from hydratune import digests
from hydratune.comparison.runs import read_run
from hydratune.errors import RunError
from hydratune.records.files import read_jsonl
from hydratune.records.run_directory import RunDirectory
from run_files import assert_same_run
from test_resume import RUN, interrupt_after

Command = Callable[..., tuple[int, str]]


WORDS = ("train", *RUN, "trainer.checkpoint_minutes=1e-9", "evaluation.baselines=[base]")


_PLACES = (0.02, 0.4, 0.97)


def stored_files(run: Path) -> list[str]:
    """Return the names of the files of a run, without locks and files that are only read by
    people.
    """
    names = sorted(
        str(file.relative_to(run))
        for file in run.rglob("*")
        if file.is_file() and file.stat().st_size
    )
    return [name for name in names if not name.endswith((".lock", ".log", ".html", "README.md"))]


def cached_copy(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None], target: Path
) -> Path:
    """Return a copy of the run that ``make`` writes once, for the first test that needs it."""
    original = factory.getbasetemp() / f"digests-{name}"
    if not original.is_dir():
        make(original)
    shutil.copytree(original, target / name)
    return target / name


def without_times(value: Any) -> Any:
    """Return ``value`` without measured times."""
    if isinstance(value, dict):
        return {
            key: without_times(item)
            for key, item in value.items()
            if key not in ("seconds", "costs")
        }
    return [without_times(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def whole(hydratune: Command, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(run: Path) -> None:
        code, text = hydratune(*WORDS, f"hydra.run.dir={run}")
        assert code == 0, text

    return cached_copy(tmp_path_factory, "whole", make, tmp_path)


@pytest.fixture
def interrupted(hydratune: Command, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted after step 8: its last checkpoint is of step 8, its best of step
    5.
    """

    def make(run: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            interrupt_after(8, patch)
            assert hydratune(*WORDS, f"hydra.run.dir={run}")[0] == 130

    return cached_copy(tmp_path_factory, "interrupted", make, whole.parent)


@pytest.mark.fault(
    "the last checkpoint is cut, empty or has a flipped bit",
    seen="the file is named, and the checkpoint that is used instead",
    kept="the training until the best checkpoint",
)
@pytest.mark.parametrize(
    "place", [0.4, *(pytest.param(place, marks=pytest.mark.slow) for place in (0.02, 0.75, 0.97))]
)
def test_a_damaged_last_checkpoint_is_reported_and_the_best_is_used(
    hydratune: Command, interrupted: Path, place: float
) -> None:
    flip_bit(interrupted / "checkpoints" / "last.ckpt", place)
    code, text = hydratune(*WORDS, f"hydra.run.dir={interrupted}")
    assert code == 0, text
    assert f"{interrupted}/checkpoints/last.ckpt is not as it was written" in text
    assert (
        f"the run is resumed from {interrupted}/checkpoints/best.ckpt instead" in text
        and "resumed after step 5 of 15" in text
    )
    assert_same_run(interrupted, interrupted.parent / "whole")


def test_a_damaged_best_checkpoint_is_made_again(hydratune: Command, interrupted: Path) -> None:
    flip_bit(interrupted / "checkpoints" / "best.ckpt", 0.4)
    code, text = hydratune(*WORDS, f"hydra.run.dir={interrupted}")
    assert code == 0 and f"{interrupted}/checkpoints/best.ckpt is not as it was written" in text, (
        text
    )
    assert (
        "last.ckpt alone is not enough" in text
        and "the run begins anew" in text
        and "resumed after" not in text
    )
    assert_same_run(interrupted, interrupted.parent / "whole")


def test_a_damaged_best_checkpoint_is_restored_where_the_last_is_the_same(
    hydratune: Command, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = whole.parent / "broken"
    interrupt_after(5, monkeypatch)
    assert hydratune(*WORDS, f"hydra.run.dir={run}")[0] == 130
    (run / "checkpoints" / "best.ckpt").unlink()
    code, text = hydratune(*WORDS, f"hydra.run.dir={run}")
    assert code == 0 and "restored from it" in text and "resumed after step 5 of 15" in text, text
    assert_same_run(run, whole)


@pytest.mark.fault(
    "all checkpoints are damaged",
    seen="the files are named; the run begins anew",
    kept="what was there, in `previous/`",
)
def test_without_an_undamaged_checkpoint_the_run_starts_again(
    hydratune: Command, interrupted: Path
) -> None:
    for name in ("last", "best"):
        flip_bit(interrupted / "checkpoints" / f"{name}.ckpt", 0.4)
    code, text = hydratune(*WORDS, f"hydra.run.dir={interrupted}")
    assert (
        code == 0 and "is left whole: the run begins anew" in text and "resumed after" not in text
    ), text
    assert_same_run(interrupted, interrupted.parent / "whole")


@pytest.mark.parametrize("keep", [0, 1, 2000, 0.5, 0.99])
def test_a_truncated_checkpoint_without_a_digest_gives_a_plain_message(
    tmp_path: Path, keep: float
) -> None:
    import torch

    from hydratune.training.checkpoints import read_checkpoint

    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"w": torch.ones(1000)}, "place": {}}, file)
    content = file.read_bytes()
    file.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(RunError, match=r"last[.]ckpt cannot be read as a checkpoint") as caught:
        read_checkpoint(file)
    assert "weights_only" not in str(caught.value) and "pickle" not in str(caught.value).lower()


def test_a_best_checkpoint_that_is_damaged_before_the_end_is_not_used(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydratune.training import fit

    load, done = fit.best_weights, list[int]()

    def damaging(checkpoint: Path) -> Any:
        if not done:
            done.append(1)
            flip_bit(checkpoint, 0.4)
        return load(checkpoint)

    monkeypatch.setattr(fit, "best_weights", damaging)
    words = ("train", *SMALL, f"hydra.run.dir={tmp_path}/run")
    code, text = hydratune(*words)
    assert (
        code == 1
        and "best.ckpt is not as it was written" in text
        and "The same command again is resumed from what is whole" in text
    )
    code, text = hydratune(*words)  # the advice of the message
    assert code == 0, text


@pytest.mark.fault(
    "a file of a finished run is damaged, of every kind",
    seen="the command that reads it names the file and what to do",
    kept="all other files",
)
def test_every_file_of_a_finished_run_is_verified_when_it_is_read(
    hydratune: Command, whole: Path
) -> None:
    """The fast part of the test below: one place in each file, without a model."""
    code, undamaged_text = hydratune("compare", str(copy_run(whole)), "html=false")
    assert code == 0
    for name in stored_files(whole):
        run = copy_run(whole)
        flip_bit(run / name, 0.4)
        named = Path(name).name
        code, text = hydratune("compare", str(run), "html=false")
        assert named in "".join(text.split("\n")) or text == undamaged_text, name
        record = RunDirectory(run)
        if name.count("/") == 0 and name != digests.INDEX:
            with pytest.raises(RunError, match=f"{named} is not as it was written"):
                digests.content(run / name)
            assert named in str(read_run(run).error) + str(read_run(run).damage), name
        elif name.startswith("adapter/"):
            assert named in str(digests.damaged(record.adapter)), name


@pytest.mark.slow  # a minute or two each: every file is damaged in turn
@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize(
    "command",
    [
        ("evaluate",),
        ("evaluate", "source=predictions"),
        ("compare",),
        ("decide", "rows=2", "output=out"),
    ],
)
def test_a_flipped_bit_in_a_file_of_a_finished_run_is_noticed_or_harmless(
    hydratune: Command, whole: Path, command: tuple[str, ...], place: float
) -> None:
    def outcome_of(run: Path) -> tuple[int, str, str]:
        words = (
            [command[0], str(run), "html=false"]
            if command[0] == "compare"
            else [command[0], f"run={run}", *command[1:]]
        )
        code, text = hydratune(*words)
        result = (
            run / "evaluation.json"
            if command[0] == "evaluate"
            else run.parent / "out" / "decision.json"
        )
        stored = result.read_text() if result.is_file() and command[0] != "compare" else ""
        values = json.loads(stored or "{}")
        return (
            code,
            text,
            json.dumps(without_times({k: v for k, v in values.items() if k != "run"})),
        )

    undamaged = outcome_of(copy_run(whole))
    assert undamaged[0] == 0, undamaged
    silent = []
    for name in stored_files(whole):
        run = copy_run(whole)
        shutil.rmtree(run.parent / "out", ignore_errors=True)
        flip_bit(run / name, place)
        code, text, result = outcome_of(run)
        named = Path(name).name in "".join(text.split("\n"))
        same = (
            code == 0
            and result == undamaged[2]
            and (command[0] != "compare" or text == undamaged[1])
        )
        if not (named or same):
            silent.append((name, code, text[-600:]))
    assert not silent


@pytest.mark.fault(
    "a flipped bit in any file of an interrupted run",
    seen="the file is named, or the run ends with the same losses",
    kept="the run",
)
@pytest.mark.slow  # some minutes: a run is resumed for every file
@pytest.mark.parametrize("place", _PLACES)
def test_a_flipped_bit_in_a_file_of_an_interrupted_run_is_noticed_or_harmless(
    hydratune: Command, interrupted: Path, place: float
) -> None:
    wrong = []
    for name in stored_files(interrupted):
        run = copy_run(interrupted)
        flip_bit(run / name, place)
        code, text = hydratune(*WORDS, f"hydra.run.dir={run}")
        if code == 0:
            try:
                assert_same_run(run, run.parent / "whole")
            except AssertionError as error:
                wrong.append((name, str(error)[:300]))
        elif Path(name).name not in "".join(text.split("\n")):
            wrong.append((name, text[-600:]))
    assert not wrong


def test_the_advice_of_the_message_works(hydratune: Command, whole: Path) -> None:
    run = copy_run(whole)
    rows = read_jsonl(run / "predictions.jsonl")
    # the same
    (run / "predictions.jsonl").write_text(
        "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    )
    code, text = hydratune("evaluate", f"run={run}", "source=predictions")
    assert code == 1 and f"{run}/predictions.jsonl is not as it was written" in text
    command = text.split("if you changed it yourself, ")[1].split(" makes the files")[0]
    subprocess.run(command.replace("\n", ""), shell=True, check=True)
    code, text = hydratune("evaluate", f"run={run}", "source=predictions")
    assert code == 0 and "are reproduced" in text, text


def test_a_check_of_two_runs_refuses_a_damaged_one(hydratune: Command, whole: Path) -> None:
    other = copy_run(whole, "other")
    flip_bit(other / "history.csv", 0.5)
    code, text = hydratune("compare", f"baseline={whole}", f"candidate={other}")
    assert code == 2 and f"candidate: {other}/history.csv is not as it was written" in text
    code, text = hydratune("compare", str(other), "html=false")
    assert code == 0 and "history.csv is not as it was written" in text


@pytest.mark.fault(
    "the adapter from which a run starts is damaged",
    seen="it is refused, and its file is named",
    kept="the adapter's folder as it is",
)
def test_damaged_adapter_is_not_trained_further(
    hydratune: Command, whole: Path, tmp_path: Path
) -> None:
    flip_bit(whole / "adapter" / "adapter_model.safetensors", 0.5)
    code, text = hydratune(*WORDS, f"model.adapter={whole}", f"hydra.run.dir={tmp_path}/further")
    assert code == 2 and "adapter_model.safetensors is not as it was written" in text, text


def test_finished_run_whose_extension_ends_before_its_first_step_is_unchanged(
    hydratune: Command, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydratune.experiment import run as experiment

    before = {
        name: (whole / name).read_bytes()
        for name in ("metrics.json", "predictions.jsonl", "adapter/adapter_model.safetensors")
    }

    def stopping(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "_measure_and_train", stopping)
        assert (
            hydratune("train", "resume=extend", "trainer.max_epochs=4", f"hydra.run.dir={whole}")[0]
            == 130
        )
    assert {name: (whole / name).read_bytes() for name in before} == before
    assert json.loads((whole / "status.json").read_text())["state"] == "finished"
    code, text = hydratune("evaluate", f"run={whole}")
    assert code == 0 and "are reproduced" in text, text
