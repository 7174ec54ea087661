"""Jobs that share a process and a base model: their numbers are those of the same jobs alone."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from conftest import SMALL
from hydratune.sweeps.records import read_sweep

Command = Callable[..., tuple[int, str]]
QUICK = (*SMALL[:1], *(s for s in SMALL[1:] if not s.startswith(("data.batch_size", "trainer.max_steps"))), "data.max_train_rows=9")
TRIALS = {
    "plain": "adapter: {r: 4}",
    "dropout": "adapter: {r: 8, lora_dropout: 0.2}\nseed: 3",
    "accumulate": "trainer: {accumulate_grad_batches: 2, max_epochs: 2, gradient_clip_val: 0.1}\ndata: {batch_size: 2}",
    "noise": "trainer: {neftune_alpha: 5.0}\noptimizer: {lr: 3e-3}",
    "few": "adapter: {r: 2, target_modules: [q_proj, down_proj], use_rslora: true}\ndata: {batch_size: 1}",
    "top": "adapter: {layers_to_transform: [1]}",
    "dora": "defaults:\n  - override /adapter: dora\nadapter: {r: 2}",
    "virtual": "defaults:\n  - override /adapter: prefix_tuning\nadapter: {num_virtual_tokens: 4}",
    "quantities": "defaults:\n  - override /adapter: ia3",
    "lion": "defaults:\n  - override /optimizer: lion\noptimizer: {lr: 1e-4, schedule: wsd}",
}


def history(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open() as stream:
        return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in csv.DictReader(stream)]


def assert_same_run(a: Path, b: Path) -> None:
    assert history(a) == history(b)
    ours, theirs = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (a, b))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (a, b)]
    scores = [{k: v for k, v in m.items() if not k.startswith("cost/") and k != "seconds"} for m in metrics]
    assert scores[0] == scores[1]
    assert (a / "predictions.jsonl").read_bytes() == (b / "predictions.jsonl").read_bytes()
    assert (a / "config.yaml").read_bytes() == (b / "config.yaml").read_bytes()


@pytest.fixture
def experiments(tmp_path: Path) -> str:
    folder = tmp_path / "own" / "experiment"
    folder.mkdir(parents=True)
    for name, text in TRIALS.items():
        (folder / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    return f"--config-dir={folder.parent}"


def test_a_job_of_a_pack_is_the_same_as_alone_to_the_last_bit(hydratune: Command, tmp_path: Path, experiments: str) -> None:
    sweep = tmp_path / "sweep"
    names = ",".join(TRIALS)
    code, text = hydratune("train", experiments, "-m", *QUICK, f"experiment={names}", "hydra/launcher=pack", f"hydra.sweep.dir={sweep}")
    assert code == 0, text
    assert f"{len(TRIALS)} jobs on one base model" in text and "best:" in text
    jobs = read_sweep(sweep)
    for number, name in enumerate(TRIALS):
        assert jobs[str(number)].varying == {"experiment": name}
        alone = tmp_path / name
        code, text = hydratune("train", experiments, *QUICK, f"experiment={name}", f"hydra.run.dir={alone}")
        assert code == 0, text
        assert_same_run(sweep / str(number), alone)
        assert sorted(p.name for p in (sweep / str(number)).iterdir()) == sorted(p.name for p in alone.iterdir())
