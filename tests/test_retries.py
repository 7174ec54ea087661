"""How the unfinished jobs of a killed pack are retried, and on which GPUs packs run."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from hydratune.errors import ConfigError
from hydratune.records.files import write_json
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import State
from hydratune.records.sweep import SweepJob
from hydratune.sweeps import devices, in_packs
from hydratune.sweeps.in_packs import run_in_packs
from hydratune.sweeps.options import HalvingOptions, PackOptions
from hydratune.sweeps.pack_arguments import NEEDS_NEW_PACK
from hydratune.sweeps.planning import PlannedJob, PlannedPack
from hydratune.sweeps.retries import (
    KilledPack,
    RetriedPack,
    packs_for_unfinished,
    plan_retries,
)
from test_config import compose


def test_waiting_jobs_are_resumed_and_running_jobs_are_tried_alone() -> None:
    packs, lost = plan_retries(KilledPack("ab", "cde", together=2), {"a": 1, "b": 1}, retries=1)
    assert (
        packs == [RetriedPack(("c", "d", "e"), 2), RetriedPack(("a",), 1), RetriedPack(("b",), 1)]
        and lost == []
    )


def test_with_more_retries_packs_become_smaller_until_jobs_are_alone() -> None:
    packs, lost = plan_retries(
        KilledPack("abcd", "", together=4), dict.fromkeys("abcd", 1), retries=3
    )
    assert packs == [RetriedPack(("a", "b"), 2), RetriedPack(("c", "d"), 2)] and lost == []
    packs, lost = plan_retries(KilledPack("ab", "", together=2), dict.fromkeys("ab", 2), retries=3)
    assert packs == [RetriedPack(("a",), 1), RetriedPack(("b",), 1)] and lost == []
    assert plan_retries(KilledPack("a", "", together=1), {"a": 3}, retries=3) == (
        [RetriedPack(("a",), 1)],
        [],
    )
    assert plan_retries(KilledPack("a", "", together=1), {"a": 4}, retries=3) == ([], ["a"])


def test_without_retries_running_jobs_have_failed() -> None:
    assert plan_retries(KilledPack("ab", "c", together=2), {"a": 1, "b": 1}, retries=0) == (
        [RetriedPack(("c",), 2)],
        ["a", "b"],
    )


def test_a_pack_killed_before_any_job_ran_is_retried_unchanged() -> None:
    assert plan_retries(KilledPack("", "abc", together=2), dict.fromkeys("abc", 1), retries=1) == (
        [RetriedPack(("a", "b", "c"), 2)],
        [],
    )
    assert plan_retries(KilledPack("", "abc", together=2), dict.fromkeys("abc", 2), retries=1) == (
        [],
        ["a", "b", "c"],
    )


def test_jobs_that_are_halved_together_stay_together() -> None:
    death = KilledPack("abcd", "e", together=4, is_halving=True)
    assert plan_retries(death, dict.fromkeys("abcd", 1), retries=2) == (
        [RetriedPack(("a", "b", "c", "d", "e"), 2)],
        [],
    )
    assert plan_retries(death, dict.fromkeys("abcd", 1), retries=1) == (
        [RetriedPack(("a", "b", "c", "d", "e"), 1)],
        [],
    )
    assert plan_retries(death, {"a": 2, "b": 1, "c": 1, "d": 1}, retries=1) == (
        [RetriedPack(("b", "c", "d", "e"), 1)],
        ["a"],
    )


@pytest.mark.parametrize(
    ("variable", "gpus"),
    [
        ("0,1", ["0", "1"]),
        (" 2 ", ["2"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),
        ("GPU-a,GPU-b", ["GPU-a", "GPU-b"]),
    ],
)
def test_gpus_by_the_variable(
    variable: str, gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert devices.visible_gpus() == gpus


def test_gpus_by_the_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.visible_gpus() == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'GPU 0: X (UUID: GPU-1a)'\necho '  MIG 1g.5gb Device 0: (UUID:"
        " MIG-2)'\necho 'GPU 1: X (UUID: GPU-3b)'\n"
    )
    tool.chmod(0o755)
    assert devices.visible_gpus() == ["GPU-1a", "GPU-3b"]


def test_the_next_best_jobs_replace_those_that_failed(tmp_path: Path) -> None:
    """They replace failed jobs when no other job was left in their pack; once for each failed
    job.
    """
    items = []
    for name in ("winner", "second", "third"):
        record = RunDirectory(tmp_path / name)
        record.path.mkdir()
        record.start()
        if name != "winner":
            record.update(halved={"step": 2})
            record.end(State.stopped, "halved")
        items.append(
            PlannedJob(SweepJob(name, (), {}), record, compose(), OmegaConf.create({"hydra": {}}))
        )
    pack, halving = (
        PlannedPack("pack 1 of 1: 3 jobs", tuple(items), 2),
        PackOptions(retries=1, halving=HalvingOptions(2)),
    )
    tries: dict[str, int] = {}
    (again,) = packs_for_unfinished(pack, -9, tries, halving)
    assert again.failed == () and "again: 1 job" in again.title  # the winner is tried once more
    items[0].record.update(state="running")
    (instead,) = packs_for_unfinished(again, -9, tries, halving)
    assert (
        instead.failed == ("winner",)
        and len(instead.jobs) == 3
        and instead.title == "pack 1, again: in place of jobs that failed"
    )
    assert (
        packs_for_unfinished(instead, 0, tries, halving)
        == []
        == packs_for_unfinished(instead, NEEDS_NEW_PACK, tries, halving)
    )
    # the winner hung, and was given up
    (instead,) = packs_for_unfinished(pack, NEEDS_NEW_PACK, tries, halving)
    assert instead.failed == ("winner",)
    # no job was halved
    assert packs_for_unfinished(pack, NEEDS_NEW_PACK, tries, PackOptions()) == []


# A pack that ends as planned: the process that starts packs is tested, not the packs.
# It imports nothing of hydratune, so it is fast.
STUB = """
import json, os, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.SIG_DFL)  # the process that runs the tests may ignore it
folder, options, names = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
plan = json.loads((folder / "plan.json").read_text())
with (folder / "starts.jsonl").open("a") as stream:
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    stream.write(json.dumps([devices, options["together"], names, time.time()]) + chr(10))
print("hello from", *names, flush=True)
time.sleep(plan.get("seconds", 0))
for name in names:
    file = folder / name / "status.json"
    (folder / name / "digests.json").unlink(missing_ok=True)
    status = json.loads(file.read_text()) if file.exists() else {}
    ends = plan.get(name, [])[status.get("tries", 1) - 1:][:1]
    if ends != [75]:
        file.write_text(json.dumps({**status, "state": "running"}))
    if ends and ends != [75]:
        os._exit(ends[0])
    end = {"state": "failed", "error": "it hangs"} if ends else {"state": "finished", "error": None}
    file.write_text(json.dumps({**status, **end}))
    (folder / name / "metrics.json").write_text("{}")
    if ends:
        sys.exit(75)
"""


class Sweep:
    """Jobs in ``folder`` whose packs end as planned: name of job -> exit code of its pack at its
    first try, its second, ...
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = compose()

    def run(self, plan: dict[str, Any], jobs: int = 4, **packing: Any) -> dict[str, str]:
        """Run the sweep; return the final states."""
        write_json(self.folder / "plan.json", plan)
        (self.folder / "starts.jsonl").unlink(missing_ok=True)
        planned = [
            PlannedJob(
                SweepJob(str(n), (), {}),
                RunDirectory(self.folder / str(n)),
                self.settings,
                OmegaConf.create({"hydra": {}}),
            )
            for n in range(jobs)
        ]
        context: Any = None
        self.failed = [
            item.job.name
            for item in run_in_packs(
                context, self.folder, planned, PackOptions(together=2, **packing)
            )
        ]
        return {str(n): self.status(n)["state"] for n in range(jobs)}

    def status(self, number: int) -> dict[str, Any]:
        return dict(json.loads((self.folder / str(number) / "status.json").read_text()))

    def starts(self) -> list[Any]:
        """Return (GPU, jobs at a time, jobs, time) of every pack."""
        return [
            json.loads(line) for line in (self.folder / "starts.jsonl").read_text().splitlines()
        ]


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sweep:
    start = subprocess.Popen
    (tmp_path / "stub.py").write_text(STUB)

    def popen(command: list[str], **options: Any) -> Any:
        assert command[1:3] == ["-m", "hydratune.sweeps.pack"]
        return start([sys.executable, "-I", str(tmp_path / "stub.py"), *command[3:]], **options)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(in_packs, "visible_gpus", list)
    return Sweep(tmp_path)


@pytest.mark.fault(
    "a job kills its whole pack (SIGKILL)",
    seen="the other jobs are resumed in a new pack; this one fails",
    kept="the other jobs",
)
def test_a_job_that_kills_its_pack_fails_alone(
    sweep: Sweep, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sweep.run({"1": [9, 9]}) == {
        "0": "finished",
        "1": "failed",
        "2": "finished",
        "3": "finished",
    }
    assert sweep.failed == ["1"]
    assert [names for _, _, names, _ in sweep.starts()] == [["0", "1", "2", "3"], ["2", "3"], ["1"]]
    assert (
        "its pack ended 2 times while it ran (exit code 9; hydra.launcher.retries=1)"
        in sweep.status(1)["error"]
    )
    assert "pack 1 ended early: exit code 9\ntried again: 1\n" in capfd.readouterr().out
    assert not (sweep.folder / ".pack").exists()


def test_starting_again_tries_a_failed_job_again(
    sweep: Sweep, capfd: pytest.CaptureFixture[str]
) -> None:
    sweep.run({"1": [9, 9]})
    assert sweep.run({"1": [9]})["1"] == "finished" and sweep.status(1)["tries"] == 2
    assert "1 of 4 jobs failed before and are tried again: 1" in capfd.readouterr().out


def test_a_pack_that_cannot_start_is_not_retried_forever(sweep: Sweep) -> None:
    (sweep.folder / "stub.py").write_text(
        f"open({str(sweep.folder / 'count')!r}, 'a').write('x'); raise SystemExit(3)"
    )
    assert set(sweep.run({}, retries=2).values()) == {"failed"}
    assert (sweep.folder / "count").read_text() == "xxx"


def test_a_job_that_hangs_in_a_worker_is_not_tried_again_and_the_others_are_resumed(
    sweep: Sweep,
) -> None:
    assert sweep.run({"1": [NEEDS_NEW_PACK]}) == {
        "0": "finished",
        "1": "failed",
        "2": "finished",
        "3": "finished",
    }
    assert [names for _, _, names, _ in sweep.starts()] == [["0", "1", "2", "3"], ["2", "3"]]
    assert "tries" not in sweep.status(2) and sweep.status(1)["error"] == "it hangs"


def test_a_retried_pack_with_halving_keeps_all_its_jobs(sweep: Sweep) -> None:
    assert set(sweep.run({"1": [9]}, halving=HalvingOptions(1)).values()) == {"finished"}
    assert [(together, names) for _, together, names, _ in sweep.starts()] == [
        (2, list("0123")),
        (1, list("0123")),
    ]


def test_every_gpu_runs_one_pack_at_a_time(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two packs run side by side, the third on the GPU that is free first."""
    monkeypatch.setattr(in_packs, "visible_gpus", lambda: ["GPU-a", "GPU-b"])
    assert set(sweep.run({"seconds": 1.0}, jobs=6, pack_size=2).values()) == {"finished"}
    starts = sorted(sweep.starts(), key=lambda start: float(start[3]))
    assert sorted(gpu for gpu, *_ in starts[:2]) == ["GPU-a", "GPU-b"] and len(starts) == 3
    assert starts[1][3] - starts[0][3] < 1.0 <= starts[2][3] - starts[0][3]
    text = capfd.readouterr().out
    assert "pack 1 of 3 | hello from 0 1" in text and "pack 3 of 3 | hello from 4 5" in text


def test_a_sweep_is_divided_among_the_gpus(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_packs, "visible_gpus", lambda: ["GPU-a", "GPU-b", "GPU-c"])
    sweep.run({}, jobs=7)
    assert sorted((gpu, names) for gpu, _, names, _ in sweep.starts()) == [
        ("GPU-a", list("012")),
        ("GPU-b", list("345")),
        ("GPU-c", ["6"]),
    ]


@pytest.mark.parametrize(
    ("accelerator", "gpus"), [("auto", ["GPU-a"]), ("cpu", ["GPU-a", "GPU-b"])]
)
def test_one_gpu_or_cpu_training_is_as_without_gpus(
    accelerator: str, gpus: list[str], sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_packs, "visible_gpus", lambda: gpus)
    sweep.settings.trainer.accelerator = accelerator
    sweep.run({})
    assert [(gpu, names) for gpu, _, names, _ in sweep.starts()] == [(None, list("0123"))]


def test_ctrl_c_ends_every_pack_at_once(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_packs, "visible_gpus", lambda: ["GPU-a", "GPU-b"])
    began, pause, pressed = time.monotonic(), time.sleep, list[int]()

    def sleep(seconds: float) -> None:
        pressing = threading.current_thread() is threading.main_thread() and not pressed
        if pressing and (sweep.folder / "starts.jsonl").exists() and len(sweep.starts()) == 2:
            pressed.append(1)
            raise KeyboardInterrupt
        pause(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        sweep.run({"seconds": 60}, jobs=6, pack_size=2)
    assert time.monotonic() - began < 20 and len(sweep.starts()) == 2
    assert not (sweep.folder / ".pack").exists()


def test_wrong_options_of_the_launcher_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        PackOptions(pack_size=0, together=-1, patience=0, retries=-1)
    assert [problem.key.rpartition(".")[2] for problem in error.value.problems] == [
        "pack_size",
        "together",
        "patience",
        "retries",
    ]
