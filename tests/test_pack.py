"""Jobs that share a process and a base model: their numbers are those of the same jobs alone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer import trainer
from lightning.pytorch.trainer.connectors import data_connector
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from conftest import write_rows
from hydratune.records.sweep import read_sweep
from hydratune.training import products
from run_files import QUICK, assert_same_run, history, states

Command = Callable[..., tuple[int, str]]


TRIALS = {
    "plain": "adapter: {r: 4}",
    "dropout": "adapter: {r: 8, lora_dropout: 0.2}\nseed: 3",
    "accumulate": (
        "trainer: {accumulate_grad_batches: 2, max_epochs: 2, gradient_clip_val: 0.1}\ndata:"
        " {batch_size: 2}"
    ),
    "noise": "trainer: {neftune_alpha: 5.0}\noptimizer: {lr: 3e-3}",
    "few": (
        "adapter: {r: 2, target_modules: [q_proj, down_proj], use_rslora: true}\ndata:"
        " {batch_size: 1}"
    ),
    "top": "adapter: {layers_to_transform: [1]}",
    "dora": "defaults:\n  - override /adapter: dora\nadapter: {r: 2}",
    "virtual": "defaults:\n  - override /adapter: prefix_tuning\nadapter: {num_virtual_tokens: 4}",
    "quantities": "defaults:\n  - override /adapter: ia3",
    "lion": "defaults:\n  - override /optimizer: lion\noptimizer: {lr: 1e-4, schedule: wsd}",
}
# dropout, accumulation, another method and another optimizer
FEW = ("dropout", "accumulate", "dora", "lion")


@pytest.fixture
def experiments(tmp_path: Path) -> str:
    folder = tmp_path / "own" / "experiment"
    folder.mkdir(parents=True)
    for name, text in TRIALS.items():
        (folder / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    return f"--config-dir={folder.parent}"


@pytest.mark.parametrize(
    "trials", [FEW, pytest.param(tuple(TRIALS), marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_a_job_of_a_pack_is_the_same_as_alone_to_the_last_bit(
    hydratune: Command, tmp_path: Path, experiments: str, trials: tuple[str, ...]
) -> None:
    sweep = tmp_path / "sweep"
    names = ",".join(trials)
    code, text = hydratune(
        "train",
        experiments,
        "-m",
        *QUICK,
        f"experiment={names}",
        "hydra/launcher=pack",
        f"hydra.sweep.dir={sweep}",
    )
    assert code == 0, text
    assert f"{len(trials)} jobs on one base model" in text and "best:" in text
    lays_out = (
        products.ONEDNN
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and not torch.cuda.is_available()
    )
    logs = [log.read_text() for log in sweep.glob("*/run.log")]
    # jobs that run alone have no copies
    assert sum("copies of the frozen weights" in log for log in logs) == lays_out
    jobs = read_sweep(sweep)
    for number, name in enumerate(trials):
        assert jobs[str(number)].varying == {"experiment": name}
        alone = tmp_path / name
        code, text = hydratune(
            "train", experiments, *QUICK, f"experiment={name}", f"hydra.run.dir={alone}"
        )
        assert code == 0, text
        assert_same_run(sweep / str(number), alone)
        assert sorted(p.name for p in (sweep / str(number)).iterdir()) == sorted(
            p.name for p in alone.iterdir()
        )


def test_jobs_may_be_asked_for_their_data_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning replaces methods of the class, which another job may find half removed."""
    from hydratune.sweeps.pack import keep_lightning_from_other_jobs

    for module, name in ((trainer, "isolate_rng"), (data_connector, "_replace_dunder_methods")):
        monkeypatch.setattr(module, name, getattr(module, name))
    keep_lightning_from_other_jobs()
    own, seen = dict(vars(DataLoader)), dict[str, Any]()

    class Source:
        def dataloader(self) -> DataLoader[int]:
            seen.update(vars(DataLoader))
            return DataLoader([1, 2])  # type: ignore[arg-type]  # a list is enough

    loader = data_connector._request_dataloader(Source())  # type: ignore[arg-type]  # all it asks
    assert seen == own == dict(vars(DataLoader)) and list(loader)


REAL_TRIALS = {
    "small": "adapter: {r: 2, lora_alpha: 8}\noptimizer: {lr: 3e-3}",
    "large": "adapter: {r: 32}\noptimizer: {lr: 1e-4}",
    "drops": "adapter: {r: 8, lora_dropout: 0.1}\nseed: 5",
    "one": "data: {batch_size: 1}",
    "four": "data: {batch_size: 4}\ntrainer: {max_epochs: 2}",
    "accumulates": "trainer: {accumulate_grad_batches: 2}",
    "unclipped": "trainer: {gradient_clip_val: null}\noptimizer: {schedule: constant}",
    "attention": "adapter: {r: 16, target_modules: [q_proj, v_proj]}",
}


@pytest.fixture(scope="module")
def on_the_real_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that runs experiments of ``REAL_TRIALS`` with 40 steps each, by name, in
    packs or alone, and returns the folder.
    """
    place = tmp_path_factory.mktemp("real")
    folder = place / "own" / "experiment"
    folder.mkdir(parents=True)
    usual = {"data": {"batch_size": 2}, "trainer": {"max_epochs": 3}}
    for name, text in REAL_TRIALS.items():
        own = OmegaConf.to_yaml(OmegaConf.merge(usual, OmegaConf.create(text)))
        (folder / f"{name}.yaml").write_text(f"# @package _global_\n{own}")
    rows = [
        {"prompt": f"What is {a} times {b}?", "completion": f"{a} times {b} is {a * b}."}
        for a in range(2, 11)
        for b in range(2, 13)
    ]
    write_rows(place / "rows.jsonl", rows)
    data = (
        "data=files",
        f"data.train={place}/rows.jsonl",
        "data.max_test_rows=2",
        "data.max_validation_rows=8",
    )
    trainer = ("trainer.max_steps=40", "trainer.max_loss_ratio=null")
    rest = ("evaluation.baselines=[]", "evaluation.max_new_tokens=8", "tracking=disabled")

    def call(names: Sequence[str], *options: str, packed: bool = True) -> Path:
        target = place / "-".join([*names, "packed" if packed else "alone"])
        where = ["-m", f"hydra.sweep.dir={target}"] if packed else [f"hydra.run.dir={target}"]
        if not target.exists():
            words = [
                "train",
                f"--config-dir={folder.parent}",
                *data,
                *trainer,
                *rest,
                f"experiment={','.join(names)}",
                *where,
                *options,
            ]
            done = subprocess.run(
                [sys.executable, "-m", "hydratune", *words],
                capture_output=True,
                text=True,
                cwd=place,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
        return target

    return call


@pytest.mark.slow  # the real base: five minutes, then one for each job
@pytest.mark.parametrize("name", list(REAL_TRIALS))
def test_on_the_real_base_each_of_eight_jobs_is_the_same_as_alone(
    on_the_real_base: Callable[..., Path], name: str
) -> None:
    sweep, alone = on_the_real_base(list(REAL_TRIALS)), on_the_real_base([name], packed=False)
    assert len(history(alone)) == 40
    assert_same_run(sweep / str(list(REAL_TRIALS).index(name)), alone)


@pytest.mark.slow
def test_on_the_real_base_jobs_are_the_same_in_another_pack(
    on_the_real_base: Callable[..., Path],
) -> None:
    """The other pack has fewer jobs, in another order."""
    names = ["attention", "drops", "small"]
    sweep, fewer = on_the_real_base(list(REAL_TRIALS)), on_the_real_base(names)
    for number, name in enumerate(names):
        assert_same_run(fewer / str(number), sweep / str(list(REAL_TRIALS).index(name)))


@pytest.mark.fault(
    "jobs of a pack fail",
    seen="their errors, in the ranking and in their folders",
    kept="the other jobs, equal to the last bit",
)
def test_failing_jobs_do_not_change_the_other_jobs(
    hydratune: Command, tmp_path: Path, packs_here: None
) -> None:
    """Three jobs fail: a rank that is too high, an infinite loss, and more memory than available.
    The fourth equals the job alone.
    """
    sweep, config = tmp_path / "sweep", tmp_path / "own" / "experiment"
    config.mkdir(parents=True)
    broken = {
        "well": "seed: 0",
        "rank": "adapter: {r: 9999}",
        "infinite": "optimizer: {lr: 1e30}\ntrainer: {gradient_clip_val: null}",
        "memory": (
            "defaults:\n  - override /adapter: prefix_tuning\nadapter: {prefix_projection: true,"
            " encoder_hidden_size: 100000000000}"
        ),
    }
    for name, text in broken.items():
        (config / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    command = ("train", f"--config-dir={config.parent}", *QUICK)
    code, text = hydratune(
        *command,
        "-m",
        f"experiment={','.join(broken)}",
        "hydra/launcher=pack",
        f"hydra.sweep.dir={sweep}",
    )
    assert code == 1
    assert states(sweep) == {"0": "finished", "1": "failed", "2": "failed", "3": "failed"}
    assert (
        "3 of 4 jobs failed" in text
        and "no target layer is wider than" in text
        and "training was stopped" in text
    )
    assert json.loads((sweep / "2" / "status.json").read_text())["error"].startswith(
        "training was stopped"
    )
    assert json.loads((sweep / "3" / "status.json").read_text())["error"].startswith(
        "out of memory ("
    )
    assert "out of memory" in text and "what helps: smaller trainer.micro_tokens" in text
    code, text = hydratune(*command, "experiment=well", f"hydra.run.dir={tmp_path}/alone")
    assert code == 0, text
    assert_same_run(sweep / "0", tmp_path / "alone")


@pytest.mark.fault(
    "Ctrl-C while a pack trains",
    seen="every job says stopped",
    kept="every adapter; the same command resumes",
)
@pytest.mark.slow  # two sweeps
def test_ctrl_c_keeps_every_adapter_and_the_same_command_resumes(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    words = [
        *QUICK,
        "seed=0,1,2,3,4,5,6",
        "trainer.max_epochs=40",
        "hydra/launcher=pack",
        "hydra.launcher.together=3",
    ]
    command = [sys.executable, "-m", "hydratune", "train", "-m", *words, f"hydra.sweep.dir={sweep}"]
    options = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
        "cwd": tmp_path,
    }
    with subprocess.Popen(command, **options) as process:  # type: ignore[call-overload]
        deadline = time.monotonic() + 120
        while (
            not {"3", "4", "5", "6"} & states(sweep).keys()
            and time.monotonic() < deadline
            and process.poll() is None
        ):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        text = process.communicate(timeout=60)[0]
    assert process.returncode == 130, text
    assert "Traceback" not in text
    assert not (sweep / ".pack").exists()
    after_ctrl_c = states(sweep)
    assert (
        set(after_ctrl_c.values()) <= {"finished", "stopped"} and "stopped" in after_ctrl_c.values()
    ), after_ctrl_c
    for name, state in after_ctrl_c.items():
        if state == "stopped" and (sweep / name / "history.csv").is_file():
            assert (sweep / name / "adapter" / "adapter_model.safetensors").is_file()
    finished = {
        name: (sweep / name / "metrics.json").stat().st_mtime_ns
        for name, state in after_ctrl_c.items()
        if state == "finished"
    }
    done = subprocess.run(command, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout
    assert f"{len(finished)} of 7 jobs finished before; skipped" in done.stdout
    assert set(states(sweep).values()) == {"finished"} and len(states(sweep)) == 7
    assert {
        name: (sweep / name / "metrics.json").stat().st_mtime_ns for name in finished
    } == finished


@pytest.mark.fault(
    "kill -9 of a pack",
    seen="its jobs are resumed from their checkpoints in another pack",
    kept="all results, equal to the last bit",
)
@pytest.mark.slow  # two sweeps each
@pytest.mark.parametrize("kills", [1, None])
def test_the_jobs_of_a_killed_pack_are_resumed_in_another(
    tmp_path: Path, kills: int | None
) -> None:
    """If the pack is killed once while job 1 runs, every job finishes. If it is killed whenever job
    1 runs, only job 1 fails.
    """
    sweep = tmp_path / "sweep"
    words = [
        *QUICK,
        "seed=0,1,2",
        "trainer.max_epochs=12",
        "hydra/launcher=pack",
        "hydra.launcher.together=1",
    ]
    command = [sys.executable, "-m", "hydratune", "train", "-m", *words, f"hydra.sweep.dir={sweep}"]
    killed: set[str] = set()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    ) as process:
        deadline = time.monotonic() + 180
        while process.poll() is None and time.monotonic() < deadline:
            if states(sweep).get("1") == "running" and (kills is None or len(killed) < kills):
                for child in (
                    Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                ):
                    if child not in killed:
                        os.kill(int(child), signal.SIGKILL)
                        killed.add(child)
            time.sleep(0.05)
        text = process.communicate(timeout=60)[0]
    assert (
        "pack 1 ended early: the process was killed by signal 9" in text
        and "tried again: 1" in text
    )
    status = json.loads((sweep / "1" / "status.json").read_text())
    if kills == 1:
        assert process.returncode == 0, text
        assert states(sweep) == dict.fromkeys("012", "finished") and status["tries"] == 2
    else:
        assert process.returncode == 1, text
        assert states(sweep) == {"0": "finished", "1": "failed", "2": "finished"}
        assert (
            len(killed) == status["tries"] == 2
            and "its pack ended 2 times while it ran" in status["error"]
        )
    assert "1 of 3 jobs failed before" not in text and not (sweep / ".pack").exists()


@pytest.mark.slow  # five processes
def test_jobs_that_cannot_share_run_alone_and_say_why(hydratune: Command, tmp_path: Path) -> None:
    code, text = hydratune(
        "train",
        "-m",
        *QUICK,
        "adapter=lora,none,freeze,pissa",
        "hydra/launcher=pack",
        f"hydra.sweep.dir={tmp_path}/sweep",
    )
    assert code == 0, text
    assert (
        "it trains the base model's own weights" in text
        and "changes the base model's weights" in text
    )
    assert "no other job has the same base model" in text
    assert states(tmp_path / "sweep") == dict.fromkeys("0123", "finished")
