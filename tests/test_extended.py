"""resume=extend: a finished run is trained further."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from conftest import SMALL, edited
from run_files import assert_same_run, history
from test_resume import interrupt_after

pytestmark = pytest.mark.usefixtures("packs_here")

Command = Callable[..., tuple[int, str]]
WEIGHTS = "adapter_model.safetensors"


RUN = (
    *(s for s in SMALL if not s.startswith(("data.batch_size", "trainer.max_steps"))),
    "data.max_train_rows=9",
    "data.batch_size=2",
    "trainer.max_steps=null",
    "trainer.validations_per_epoch=1",
    "optimizer.schedule=constant",
    "optimizer.warmup_ratio=null",
)


@pytest.mark.parametrize(
    "options",
    [
        (),
        pytest.param(
            ("adapter.lora_dropout=0.2", "optimizer=lion", "optimizer.lr=1e-4"),
            marks=pytest.mark.slow,
        ),
        pytest.param(("adapter=none", "optimizer.lr=1e-3"), marks=pytest.mark.slow),
    ],
)
def test_an_extended_run_equals_the_longer_run_to_the_last_bit(
    hydratune: Command, tmp_path: Path, options: tuple[str, ...]
) -> None:
    whole, short = tmp_path / "whole", tmp_path / "short"
    assert (
        hydratune("train", *RUN, *options, "trainer.max_epochs=2", f"hydra.run.dir={whole}")[0] == 0
    )
    assert (
        hydratune("train", *RUN, *options, "trainer.max_epochs=1", f"hydra.run.dir={short}")[0] == 0
    )
    first = {
        name: (short / name).read_bytes()
        for name in ("metrics.json", "predictions.jsonl", "history.csv")
    }
    # the stored settings are used
    code, text = hydratune(
        "train", "resume=extend", "trainer.max_epochs=2", f"hydra.run.dir={short}"
    )
    assert code == 0 and "resumed after step 5 of 10" in text, text
    for run in (whole, short):
        lines = (run / "config.yaml").read_text().splitlines()
        edited(
            run / "config.yaml", "\n".join(line for line in lines if not line.startswith("resume:"))
        )
    if "adapter=none" in options:
        assert history(whole) == history(short)
    else:
        assert_same_run(whole, short)
    assert {name: (short / "finished" / name).read_bytes() for name in first} == first
    code, text = hydratune("evaluate", f"run={short}")
    assert code == 0 and "are reproduced" in text


def rates(run: Path) -> list[float]:
    with (run / "history.csv").open() as stream:
        return [float(row["lr"]) for row in csv.DictReader(stream)]


@pytest.mark.slow
def test_the_rate_of_an_extended_run_follows_the_longer_schedule_and_says_so(
    hydratune: Command, tmp_path: Path
) -> None:
    cosine = ("optimizer.schedule=cosine", "optimizer.lr=0.001")
    for name, epochs in (("short", 1), ("whole", 2)):
        assert (
            hydratune(
                "train",
                *RUN,
                *cosine,
                f"trainer.max_epochs={epochs}",
                f"hydra.run.dir={tmp_path}/{name}",
            )[0]
            == 0
        )
    before = rates(tmp_path / "short")
    code, text = hydratune(
        "train",
        *RUN,
        *cosine,
        "resume=extend",
        "trainer.max_epochs=2",
        f"hydra.run.dir={tmp_path}/short",
    )
    assert code == 0, text  # the whole command with another length works as well
    whole = rates(tmp_path / "whole")
    assert rates(tmp_path / "short") == [*before, *whole[5:]]
    message = re.search(
        r"cosine schedule of all 10 steps from here: it had (\S+) at step 5 and has (\S+) at the"
        r" next",
        " ".join(text.split()),
    )
    assert message and (float(message[1]), float(message[2])) == (
        pytest.approx(before[-1], rel=0.01),
        pytest.approx(whole[5], rel=0.01),
    )


@pytest.mark.slow
def test_an_interrupted_extension_is_resumed_and_keeps_the_finished_record(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, short = tmp_path / "whole", tmp_path / "short"
    assert hydratune("train", *RUN, "trainer.max_epochs=3", f"hydra.run.dir={whole}")[0] == 0
    assert hydratune("train", *RUN, "trainer.max_epochs=1", f"hydra.run.dir={short}")[0] == 0
    first = (short / "metrics.json").read_bytes()
    words = (
        "train",
        "resume=extend",
        "trainer.max_epochs=3",
        "trainer.checkpoint_minutes=1e-9",
        f"hydra.run.dir={short}",
    )
    interrupt_after(8, monkeypatch)
    assert hydratune(*words)[0] == 130
    code, text = hydratune(*words)
    assert code == 0 and "resumed after step 8 of 15" in text, text
    assert history(whole) == history(short)
    assert (short / "finished" / "metrics.json").read_bytes() == first
    assert (
        load_file(whole / "adapter" / WEIGHTS).keys()
        == load_file(short / "adapter" / WEIGHTS).keys()
    )
    code, text = hydratune(
        "train", "resume=extend", "trainer.max_epochs=4", f"hydra.run.dir={short}"
    )
    assert code == 0 and "resumed after step 15 of 20" in text, text
    assert (short / "finished-2" / "metrics.json").is_file() and (
        short / "finished" / "metrics.json"
    ).read_bytes() == first


@pytest.mark.slow
def test_runs_that_cannot_be_extended_are_refused_and_not_changed(
    hydratune: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    code, text = hydratune("train", "resume=extend", "trainer.max_epochs=2", f"hydra.run.dir={run}")
    assert code == 2 and "there is no run in" in text
    assert hydratune("train", *RUN, "trainer.max_steps=3", f"hydra.run.dir={run}")[0] == 0
    names = sorted(p.name for p in run.iterdir())
    before = {
        p: p.read_bytes()
        for p in run.rglob("*")
        if p.is_file() and p.name not in ("run.log", "digests.json")
    }
    cases = [
        ((), "was already trained for so long"),
        (("trainer.max_epochs=1",), "set trainer.max_epochs=2 trainer.max_steps=null"),
        # max_steps still ends it
        (("trainer.max_epochs=2",), "has taken 3 optimizer steps, and this would be 3"),
        (("trainer.max_steps=6", "optimizer.lr=0.5"), "remove optimizer.lr=0.5"),
        (("trainer.max_steps=6", "adapter=dora"), "remove adapter=dora"),
        (("trainer.max_steps=6", "seed=5"), "remove seed=5"),
    ]
    for options, message in cases:
        code, text = hydratune("train", "resume=extend", *options, f"hydra.run.dir={run}")
        assert code == 2 and message in text, text
        assert sorted(p.name for p in run.iterdir()) == names
        assert all(
            p.read_bytes() == content
            for p, content in before.items()
            if p.name != "hydra.yaml" and ".hydra" not in str(p)
        ), options
    code, text = hydratune("train", *RUN, "trainer.max_steps=3", f"hydra.run.dir={run}")
    assert code == 2 and "resume=extend" in text
    code, text = hydratune(
        "train",
        "resume=extend",
        "trainer.max_steps=6",
        "trainer.max_epochs=2",
        f"hydra.run.dir={run}",
    )
    assert code == 0 and "resumed after step 3 of 6" in text, text
    (run / "checkpoints" / "last.ckpt").unlink()
    code, text = hydratune(
        "train",
        "resume=extend",
        "trainer.max_steps=9",
        "trainer.max_epochs=2",
        f"hydra.run.dir={run}",
    )
    assert code == 2 and "model.adapter=run/adapter, in another hydra.run.dir" in text


@pytest.mark.slow
def test_extending_an_early_stopped_run_resets_its_patience(
    hydratune: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ("trainer.max_epochs=8", "trainer.early_stopping_patience=1", "optimizer.lr=1e-9")
    code, text = hydratune("train", *RUN, *options, f"hydra.run.dir={run}")
    assert code == 0 and "stopped early" in text, text
    steps = len(history(run))
    assert steps < 40
    code, text = hydratune(
        "train", "resume=extend", "trainer.early_stopping_patience=null", f"hydra.run.dir={run}"
    )
    assert code == 0 and len(history(run)) == 40, text


@pytest.mark.slow
def test_a_job_of_a_sweep_is_not_extended(hydratune: Command, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    assert (
        hydratune("train", "-m", *SMALL, "optimizer.lr=1e-3,1e-4", f"hydra.sweep.dir={sweep}")[0]
        == 0
    )
    code, text = hydratune(
        "train", "resume=extend", "trainer.max_epochs=2", f"hydra.run.dir={sweep}/0"
    )
    assert code == 2 and "a job of a sweep" in text and "model.adapter=" in text
    code, text = hydratune(
        "train", "-m", *SMALL, "optimizer.lr=1e-3,1e-4", "resume=extend", f"hydra.sweep.dir={sweep}"
    )
    assert code == 2 and "resume = extend" in text and "hydra.run.dir" in text
    code, text = hydratune("train", *SMALL, f"model.adapter={sweep}")
    assert code == 2 and "a sweep of several runs" in text
    typed = re.search(r"(model\.adapter=\S+/0)", text)
    assert typed and hydratune("train", *SMALL, typed[1])[0] == 0
