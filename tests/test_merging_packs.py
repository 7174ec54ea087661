"""Packs of several jobs whose micro-packs are merged: their numbers are those of each job alone."""

import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from hydratune.data.encoding.encoded import Encoded
from hydratune.records.run_directory import RunDirectory
from hydratune.sweeps.pack_resources import JobWorkers, PackResources
from hydratune.sweeps.watch import Heartbeat
from hydratune.sweeps.worker_pool import PoolTask
from hydratune.training.objective import Objective
from mergeable_trials import ADAPTERS, assert_same, base_of, trial
from run_files import QUICK, assert_same_run, history
from small_models import rows


def test_trials_of_a_pack_share_passes_and_a_bad_row_fails_its_own_trial_only() -> None:
    base = base_of()
    resources = PackResources(1, 4096)
    heartbeat = Heartbeat(RunDirectory(Path("job")), resources.leave)
    objectives = []
    for seed, name in enumerate(("all", "dropout", "few")):
        model = trial(resources.own(base, heartbeat), ADAPTERS[name], seed)
        objectives.append(
            Objective(
                model,
                micro_tokens=512,
                workers=2,
                pool=JobWorkers(resources, heartbeat, threading.Event()),
                seed=seed,
            )
        )
    pool, parts = resources.workers, [rows(2 + seed, seed) for seed in range(3)]

    def together(parts: Sequence[list[Encoded]]) -> list[Future[Any]]:
        start = threading.Event()
        pool.submit([PoolTask(start.wait)])
        with ThreadPoolExecutor(3) as threads:
            for objective in objectives:  # the same random numbers in both calls
                objective.generator.manual_seed(0)
            futures = [
                threads.submit(objective.gradients, part)
                for objective, part in zip(objectives, parts, strict=True)
            ]
            while len(pool._queue) < 6:
                time.sleep(0.001)
            start.set()
        return futures

    results = [future.result() for future in together(parts)]
    assert (pool.merged, pool.micro_packs) == (6, 6)
    pool.replica = None
    alone = [future.result() for future in together(parts)]
    assert pool.merged == 6
    for result, expected in zip(results, alone, strict=True):
        assert_same(result, expected, 1e-5)

    def no_replica() -> Any:
        return None

    pool.replica = resources.shared("replica", no_replica, heartbeat)
    outside = [Encoded((1, 96_000, 3, 4), (False, False, True, True))] * 2
    good, bad, also = together([parts[0], outside, parts[2]])
    assert isinstance(bad.exception(), IndexError)
    assert_same(good.result(), alone[0], 1e-5)
    assert_same(also.result(), alone[2], 1e-5)
    assert pool.merge_tokens
    pool.close()


@pytest.mark.slow  # six processes
@pytest.mark.parametrize("merge_tokens", [None, 8192])
def test_a_sweep_of_short_rows_is_merged_and_equals_each_job_alone(
    hydratune: Callable[..., tuple[int, str]], tmp_path: Path, merge_tokens: int | None
) -> None:
    """Equal to the last bit, unless merge_tokens is set, which merges wherever possible."""
    pairs = [(a, b) for a in range(2, 9) for b in range(2, 9)]
    write_rows(
        tmp_path / "rows.jsonl",
        [{"prompt": f"{a} times {b}?", "completion": f"It is {a * b}."} for a, b in pairs],
    )
    sweep, words = (
        tmp_path / "sweep",
        [
            "data=files",
            f"data.train={tmp_path}/rows.jsonl",
            *(w for w in QUICK if not w.startswith("data=")),
        ],
    )
    words += ["data.batch_size=2", "data.max_train_rows=12"]
    merging = [] if merge_tokens is None else [f"hydra.launcher.merge_tokens={merge_tokens}"]
    code, text = hydratune(
        "train",
        "-m",
        *words,
        "adapter.r=2,8",
        "adapter.lora_dropout=0,0.2",
        *merging,
        f"hydra.sweep.dir={sweep}",
    )
    assert code == 0, text
    counts = re.search(
        r"(\d+) of (\d+) micro-packs were computed together with others",
        (sweep / "pack.log").read_text(),
    )
    assert counts is not None and 0 < int(counts[1]) <= int(counts[2])
    for number, trial_ in (
        ("0", ["adapter.r=2", "adapter.lora_dropout=0"]),
        ("3", ["adapter.r=8", "adapter.lora_dropout=0.2"]),
    ):
        code, text = hydratune("train", *words, *trial_, f"hydra.run.dir={tmp_path / number}")
        assert code == 0, text
        if merge_tokens is None:
            assert_same_run(sweep / number, tmp_path / number)
        ours, theirs = (
            [
                [float(row[c] or 0) for c in ("train/loss", "val/loss")]
                for row in history(f / number)
            ]
            for f in (sweep, tmp_path)
        )
        assert len(ours) == len(theirs) == 4
        for mine, expected in zip(ours, theirs, strict=True):
            assert mine == pytest.approx(expected, rel=1e-5)
