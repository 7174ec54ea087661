"""Where packs run: the settings of executors, and packs as jobs of a Slurm that is played."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from hydratune import extras
from hydratune.errors import ConfigError, SweepError
from hydratune.records.files import write_json
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import Outcome
from hydratune.records.sweep import SweepJob
from hydratune.settings.commands import Resume
from hydratune.sweeps import in_packs, job_processes, pack_processes
from hydratune.sweeps.executor_options import SlurmOptions
from hydratune.sweeps.executors import slurm, submitted
from hydratune.sweeps.executors.slurm_job import result_file
from hydratune.sweeps.executors.submitted import SubmittedPack, read_submitted
from hydratune.sweeps.in_packs import run_in_packs
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.pack_arguments import SETTINGS_FOLDER
from hydratune.sweeps.pack_processes import PacksEnd, run_packs
from hydratune.sweeps.planning import PlannedJob, PlannedPack
from hydratune.sweeps.stop_requests import request_stop
from test_config import compose

Command = Callable[..., tuple[int, str]]
CANARY = "canary-7d81f2c04b"
# A Slurm whose jobs do what the file "states" says: id -> state, or nothing for an unknown job.
SBATCH = """#!/bin/sh
env > "$PLAYED/environment"
cp "$1" "$PLAYED/script"
echo $(($(cat "$PLAYED/count" 2>/dev/null || echo 6) + 1)) > "$PLAYED/count"
echo "Submitted batch job $(cat "$PLAYED/count")"
"""
SQUEUE = """#!/bin/sh
test -e "$PLAYED/silent" && { echo "Unable to contact slurm controller" >&2; exit 1; }
cat "$PLAYED/states"
"""
SCANCEL = """#!/bin/sh
echo "$@" >> "$PLAYED/cancelled"
: > "$PLAYED/states"
"""


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a Slurm that is played by shell scripts, which answers at once."""
    pytest.importorskip("submitit")
    folder = tmp_path / "played"
    folder.mkdir()
    scripts = {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": SCANCEL, "srun": "#!/bin/sh\n"}
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "states").write_text("")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PLAYED", str(folder))
    for name in ("_POLL", "_NO_RESULT"):
        monkeypatch.setattr(slurm, name, 0.0)
    return folder


@pytest.fixture(scope="module")
def settings() -> Any:
    return compose()


def jobs_in(folder: Path, settings: Any, count: int = 4) -> list[PlannedJob]:
    folder.mkdir(exist_ok=True)
    composed = OmegaConf.create({"hydra": {}})
    return [
        PlannedJob(SweepJob(str(n), (), {}), RunDirectory(folder / str(n)), settings, composed)
        for n in range(count)
    ]


def options(**settings: Any) -> PackOptions:
    return PackOptions(executor=SlurmOptions(**settings))


def executor_of(jobs: list[PlannedJob], **settings: Any) -> slurm.SlurmExecutor:
    packing = options(**settings)
    assert isinstance(packing.executor, SlurmOptions)
    folder = jobs[0].record.path.parent
    return slurm.SlurmExecutor(folder, packing, packing.executor, {j.name: j for j in jobs})


def two_packs(jobs: list[PlannedJob]) -> list[PlannedPack]:
    return [PlannedPack("pack 1", tuple(jobs[:2]), 2), PlannedPack("pack 2", tuple(jobs[2:]), 2)]


def finish(job: PlannedJob) -> None:
    job.record.path.mkdir(exist_ok=True)
    write_json(job.record.status_file, {"state": "finished"})
    write_json(job.record.metrics_file, {"val/loss": 1.0})


# ------------------------------------------------------------------------------------- settings
def test_the_settings_of_slurm_are_read() -> None:
    given = OmegaConf.create({"_kind": "slurm", "partition": "low", "setup": ["module load cuda"]})
    executor = PackOptions.from_mapping({"executor": given}).executor
    assert executor == SlurmOptions(partition="low", setup=["module load cuda"])
    assert type(executor.setup) is list  # submitit pickles and writes plain values
    assert PackOptions.from_mapping({}).executor.waits


@pytest.mark.parametrize(
    ("values", "key", "why"),
    [
        ({"cpus": 0}, "cpus", "at least one"),
        ({"at_once": 0}, "at_once", "at least one"),
        ({"memory_gb": 0}, "memory_gb", "needs some"),
        ({"minutes": 1}, "minutes", "counts minutes"),
        ({"minutes": 2, "seconds_to_save": 120}, "seconds_to_save", "within the 2 minutes"),
        ({"seconds_to_save": 0}, "seconds_to_save", "has to be saved"),
        ({"time_limits": -1}, "time_limits", "counts"),
        ({"parameters": {"time": "5"}}, "parameters", "setting of its own"),
        ({"parameters": {"--qos": "long"}}, "parameters", "no option of sbatch"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, Any], key: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as raised:
        options(**values)
    assert [p.key for p in raised.value.problems] == [f"hydra.launcher.executor.{key}"]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda module: module != "submitit")
    with pytest.raises(ConfigError) as raised:
        options()
    (problem,) = raised.value.problems
    assert "submitit" in problem.why and problem.fix == "pip install 'hydratune[slurm]'"


def test_the_executor_is_chosen_with_slashes(hydratune: Command) -> None:
    sweep = ("train", "-m", "debug=smoke", "seed=0,1")
    code, text = hydratune(*sweep, "hydra.launcher.executor=slurm")
    assert code == 2 and "fix: hydra/launcher/executor=slurm" in text, text
    code, text = hydratune(
        *sweep, "hydra/launcher/executor=slurm", "hydra.launcher.executor.cpus=0"
    )
    assert code == 2 and "hydra.launcher.executor.cpus = 0" in text, text
    code, text = hydratune(
        *sweep, "hydra/launcher/executor=slurm", "hydra.launcher.executor.partiton=low"
    )
    assert code == 2 and "did you mean hydra.launcher.executor.partition?" in text, text
    for setting, fix in (
        ("at_once=2", "add hydra/launcher/executor=slurm or hydra/launcher/executor=ray"),
        ("gres=gpu:1", "add hydra/launcher/executor=slurm"),
        ("setup=[a]", "add hydra/launcher/executor=slurm"),
    ):
        code, text = hydratune(*sweep, f"hydra.launcher.executor.{setting}")
        assert code == 2 and fix in text, text


def test_a_machine_without_slurm_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SweepError, match="no sbatch"):
        executor_of(jobs_in(tmp_path / "sweep", settings))


def test_jobs_that_slurm_does_not_take_say_why(
    played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_line: Command
) -> None:
    (played / "sbatch").write_text("#!/bin/sh\necho invalid partition gpux >&2\nexit 1\n")
    monkeypatch.chdir(tmp_path)
    words = (
        *("train", "-m", "debug=smoke", "seed=0,1", "hydra/launcher/executor=slurm"),
        f"hydra.sweep.dir={tmp_path}/s",
    )
    for _ in range(2):  # typed again, it is asked again
        code, text = command_line(*words)
        assert code == 1 and "Slurm did not take the jobs: invalid partition gpux" in text, text
        assert not list((tmp_path / "s" / SETTINGS_FOLDER).glob("*"))
    code, text = command_line("status", "s")
    why = "0, 1: stopped: Slurm did not take the jobs: invalid partition gpux; set"
    assert code == 0 and why in text and "continue    hydratune train -m" in text, text


# ----------------------------------------------------------------------------- jobs of a cluster
def test_packs_are_submitted_as_one_array_without_secrets(
    played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    monkeypatch.setenv("PROXY_URL", f"http://me:{CANARY}@proxy")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "64")  # of a job in which the driver runs
    jobs = jobs_in(tmp_path / "sweep", settings)
    executor = executor_of(
        jobs,
        partition="low",
        account="lab",
        gres="gpu:1",
        memory_gb=1.5,
        minutes=90,
        at_once=2,
        setup=["module load cuda"],
        parameters={"qos": "long"},
    )
    executor.submit(two_packs(jobs))
    assert os.environ["WANDB_API_KEY"] == CANARY  # of this process
    script = (played / "script").read_text()
    for option in ("array=0-1%2", "partition=low", "account=lab", "gres=gpu:1", "mem=1536M"):
        assert f"#SBATCH --{option}\n" in script
    for option in ("time=90", "signal=USR2@120", "requeue", "qos=long", "cpus-per-task=1"):
        assert f"#SBATCH --{option}\n" in script
    assert "\nmodule load cuda\n" in script
    environment = (played / "environment").read_text()
    assert "SLURM_CPUS_PER_TASK" not in environment and "PLAYED=" in environment
    assert len(list((tmp_path / "sweep" / "slurm").glob("7_?_submitted.pkl"))) == 2
    stored = [played / "environment", *(f for f in tmp_path.rglob("*") if f.is_file())]
    assert not [file for file in stored if CANARY.encode() in file.read_bytes()]


def test_an_ended_pack_has_its_exit_code(played: Path, tmp_path: Path, settings: Any) -> None:
    jobs = jobs_in(tmp_path / "sweep", settings)
    executor, packs = executor_of(jobs), two_packs(jobs)
    executor.submit(packs)
    (played / "states").write_text("7_0|RUNNING|n1\n7_1|RUNNING|n2\n")
    assert executor.ended() == [] and executor.running() == packs
    write_json(result_file(tmp_path / "sweep" / "slurm", "7_1"), {"code": -9})
    (ended,) = executor.ended()
    assert (ended.pack, ended.code) == (packs[1], -9) and executor.running() == packs[:1]


@pytest.mark.parametrize(
    ("states", "is_cancelled"),
    [("7_0|NODE_FAIL|\n7_1|RUNNING|n2\n", False), ("7_0|CANCELLED|\n7_1|PENDING|\n", True)],
)
def test_a_job_that_ended_without_a_result_is_named(
    played: Path, tmp_path: Path, settings: Any, states: str, is_cancelled: bool
) -> None:
    jobs = jobs_in(tmp_path / "sweep", settings)
    executor = executor_of(jobs)
    executor.submit(two_packs(jobs))
    (played / "states").write_text(states)
    (ended,) = executor.ended()
    assert ended.code == 1 and ended.is_cancelled is is_cancelled
    assert "jobs 0, 1; see " in ended.why and "sweep/slurm/7_0_0_log.out" in ended.why


def test_a_job_that_slurm_has_forgotten_has_ended(
    played: Path, tmp_path: Path, settings: Any
) -> None:
    jobs = jobs_in(tmp_path / "sweep", settings)
    executor = executor_of(jobs)
    executor.submit(two_packs(jobs))
    assert [end.why.partition(";")[0] for end in executor.ended()] == [
        f"Slurm job 7_{number} ended without a result: unknown to Slurm" for number in (0, 1)
    ]


@pytest.mark.fault(
    "Slurm does not answer",
    seen="a message after a bounded time",
    kept="the jobs, which go on",
)
def test_a_silent_slurm_ends_nothing_and_is_not_waited_for_forever(
    played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    jobs = jobs_in(tmp_path / "sweep", settings)
    executor = executor_of(jobs)
    executor.submit(two_packs(jobs))
    (played / "silent").touch()
    assert executor.ended() == [] and len(executor.running()) == 2
    monkeypatch.setattr(slurm, "_SILENT", 0.0)
    with pytest.raises(SweepError, match=r"Unable to contact.*the same command collects"):
        executor.ended()
    assert len(read_submitted(tmp_path / "sweep", {job.name: job for job in jobs})) == 2


def test_cancelled_packs_are_forgotten(played: Path, tmp_path: Path, settings: Any) -> None:
    jobs = jobs_in(tmp_path / "sweep", settings)
    executor = executor_of(jobs)
    executor.submit(two_packs(jobs))
    (played / "states").write_text("7_0|RUNNING|n1\n7_1|RUNNING|n2\n")
    executor.cancel()
    assert (played / "cancelled").read_text() == "7_0 7_1\n" and executor.running() == []
    assert not submitted.submitted_ids(tmp_path / "sweep")


@pytest.mark.fault(
    "Ctrl-C, twice, while jobs of Slurm are cancelled",
    seen="they are cancelled",
    kept="what they had done",
)
def test_a_second_signal_does_not_reach_scancel(
    played: Path, tmp_path: Path, settings: Any
) -> None:
    """A terminal, and `timeout`, signal the whole group of processes."""
    (played / "scancel").write_text(SCANCEL.replace("echo", 'ps -o sid= $$ > "$PLAYED/sid"; echo'))
    jobs = jobs_in(tmp_path / "sweep", settings)
    executor = executor_of(jobs, at_once=2)
    executor.submit(two_packs(jobs))
    executor.cancel()
    assert int((played / "sid").read_text()) != os.getsid(0)


@pytest.mark.parametrize("does_answer", [True, False])
def test_jobs_that_slurm_does_not_cancel_are_remembered(
    played: Path,
    tmp_path: Path,
    settings: Any,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    does_answer: bool,
) -> None:
    """The same command would submit their packs a second time."""
    monkeypatch.setattr(slurm, "_TIME_TO_SAVE", 0.0)
    (played / "scancel").write_text(f"#!/bin/sh\nexit {0 if does_answer else 1}\n")
    jobs = jobs_in(tmp_path / "sweep", settings)
    executor = executor_of(jobs, at_once=2)
    executor.submit(two_packs(jobs))
    (played / "states").write_text("7_0|RUNNING|n1\n7_1|PENDING|Priority\n")
    executor.cancel()
    assert set(submitted.submitted_ids(tmp_path / "sweep").values()) == {"7_0", "7_1"}
    assert "type scancel 7_0 7_1" in capfd.readouterr().out


def test_a_reason_for_which_no_job_starts_is_said_once(
    played: Path, tmp_path: Path, settings: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = jobs_in(tmp_path / "sweep", settings)
    executor = executor_of(jobs, at_once=2)
    executor.submit(two_packs(jobs))
    (played / "states").write_text("7_0|PENDING|Priority\n7_1|PENDING|Priority\n")
    executor.ended()
    assert "does not start" not in capfd.readouterr().out
    (played / "states").write_text("7_0|PENDING|Resources\n7_1|PENDING|PartitionConfig\n")
    executor.ended(), executor.ended()
    text = capfd.readouterr().out
    assert text.count("Slurm job 7_1: pending (PartitionConfig)") == 1 and "7_0" not in text
    assert text.count("for this reason it does not start") == 1


def test_what_becomes_of_jobs_that_were_not_known_at_the_start_is_printed(
    played: Path, tmp_path: Path, settings: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = jobs_in(tmp_path / "sweep", settings)
    known = executor_of(jobs[:2])  # as in a search, which asks for the next trials later
    known.submit(two_packs(jobs))
    (played / "states").write_text("7_0|RUNNING|n1\n7_1|RUNNING|n2\n")
    finish(jobs[3])
    known.ended()
    assert "job 3 finished, validation loss 1.0000" in capfd.readouterr().out


# -------------------------------------------------------------------------------- whole commands
def test_a_command_that_does_not_wait_submits_once_and_later_collects(
    played: Path, tmp_path: Path, settings: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs, packing = jobs_in(tmp_path / "sweep", settings), options(wait=False, at_once=2)
    context: Any = None
    (played / "states").write_text("7_0|PENDING|Priority\n7_1|PENDING|Priority\n")
    assert run_in_packs(context, tmp_path / "sweep", jobs, packing) is None
    assert run_in_packs(context, tmp_path / "sweep", jobs, packing) is None
    assert (played / "count").read_text() == "7\n"  # submitted once
    assert sorted(p.stem for p in (tmp_path / "sweep" / SETTINGS_FOLDER).iterdir()) == list("0123")
    finish(jobs[0]), finish(jobs[1])
    write_json(result_file(tmp_path / "sweep" / "slurm", "7_0"), {"code": 0})
    assert run_in_packs(context, tmp_path / "sweep", jobs, packing) is None
    finish(jobs[2]), finish(jobs[3])
    write_json(result_file(tmp_path / "sweep" / "slurm", "7_1"), {"code": 0})
    assert run_in_packs(context, tmp_path / "sweep", jobs, packing) == []
    assert (played / "count").read_text() == "7\n"
    assert "submitted before: Slurm jobs 7_0, 7_1" in capfd.readouterr().out


@pytest.mark.fault(
    "a job of Slurm dies without a result",
    seen="it is named with its log, and submitted again",
    kept="its jobs, from their checkpoints",
)
def test_a_pack_that_died_is_submitted_again(
    played: Path, tmp_path: Path, settings: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs, packing = jobs_in(tmp_path / "sweep", settings, 2), options(wait=False)
    context: Any = None
    (played / "states").write_text("7|RUNNING|n1\n")
    assert run_in_packs(context, tmp_path / "sweep", jobs, packing) is None
    finish(jobs[0])
    jobs[1].record.path.mkdir(exist_ok=True)
    jobs[1].record.start()
    (played / "states").write_text("7|FAILED|\n8|PENDING|Priority\n")
    assert run_in_packs(context, tmp_path / "sweep", jobs, packing) is None
    assert (played / "count").read_text() == "8\n"
    assert "Slurm job 7 ended without a result: FAILED; jobs 0, 1" in " ".join(
        capfd.readouterr().out.split()
    )
    (item,) = read_submitted(tmp_path / "sweep", {job.name: job for job in jobs})
    assert item.job_id == "8" and [job.name for job in item.pack.jobs] == ["1"]


def test_a_command_that_does_not_wait_waits_for_a_late_result(
    played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    """A job that is over may have written a result that has not reached this machine."""
    monkeypatch.setattr(slurm, "_NO_RESULT", 60.0)
    jobs, packing = jobs_in(tmp_path / "sweep", settings, 2), options(wait=False)
    context: Any = None
    (played / "states").write_text("7|PENDING|\n")
    assert run_in_packs(context, tmp_path / "sweep", jobs, packing) is None
    (played / "states").write_text("7|COMPLETED|\n")

    def arrives(seconds: float) -> None:
        for job in jobs:
            finish(job)
        write_json(result_file(tmp_path / "sweep" / "slurm", "7"), {"code": 0})

    monkeypatch.setattr(slurm.time, "sleep", arrives)
    assert run_in_packs(context, tmp_path / "sweep", jobs, packing) == []
    assert (played / "count").read_text() == "7\n"


@pytest.mark.parametrize("code", [75, 130, -2])
@pytest.mark.parametrize("has_begun", [False, True])
def test_a_job_alone_that_is_stopped_ends_no_other(
    played: Path, tmp_path: Path, settings: Any, code: int, has_begun: bool
) -> None:
    jobs = jobs_in(tmp_path / "sweep", settings, 2)
    packs = [PlannedPack(f"job {n}", (job,), 1, command=("run",)) for n, job in enumerate(jobs)]
    executor = executor_of(jobs)
    executor.submit(packs)
    if has_begun:
        jobs[0].record.path.mkdir()
        jobs[0].record.start()
    request_stop(tmp_path / "sweep", "0")
    finish(jobs[1])
    for number, end in enumerate((code, 0)):
        write_json(result_file(tmp_path / "sweep" / "slurm", f"7_{number}"), {"code": end})
    assert run_packs(tmp_path / "sweep", [], options(), executor) is PacksEnd.over
    assert [job.status.outcome for job in jobs] == [Outcome.stopped, Outcome.finished]
    assert jobs[0].status.error == "interrupted"  # by whom is not known
    assert (played / "count").read_text() == "7\n"


def test_a_cancelled_pack_is_stopped_and_not_tried_again(
    played: Path, tmp_path: Path, settings: Any
) -> None:
    jobs = jobs_in(tmp_path / "sweep", settings, 2)
    context: Any = None
    for job in jobs:
        job.record.path.mkdir()
        job.record.start()
    (played / "states").write_text("7|CANCELLED|\n")
    assert run_in_packs(context, tmp_path / "sweep", jobs, options()) == []
    assert [job.status.outcome for job in jobs] == [Outcome.stopped] * 2
    assert "CANCELLED" in str(jobs[0].status.error) and (played / "count").read_text() == "7\n"


def test_what_slurm_runs_is_not_run_here_as_well(
    played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    jobs = jobs_in(tmp_path / "sweep", settings)
    context: Any = None
    executor_of(jobs).submit(two_packs(jobs))
    (played / "states").write_text("7_0|RUNNING|n1\n7_1|COMPLETED|\n")
    with pytest.raises(SweepError, match=r"Slurm runs jobs of this sweep: 7_0; .*scancel 7_0"):
        run_in_packs(context, tmp_path / "sweep", jobs, PackOptions())
    (played / "states").write_text("")
    monkeypatch.setattr(in_packs, "run_packs", lambda *args: pack_processes.PacksEnd.left)
    assert run_in_packs(context, tmp_path / "sweep", jobs, PackOptions()) is None


def test_a_job_that_is_begun_anew_is_so_once(tmp_path: Path, settings: Any) -> None:
    """A pack that Slurm queues again must not lose what it has trained."""
    (job,) = jobs_in(tmp_path / "sweep", settings, 1)
    job.record.path.mkdir()
    job.record.start()
    job.record.history_file.write_text("step\n")
    never = PlannedJob(job.job, job.record, compose("resume=never"), job.composed)
    begun = job_processes.begun_anew(never, ())
    assert begun.settings.resume is Resume.auto and not job.record.history_file.exists()
    assert (job.record.path / "previous" / "history.csv").is_file()
    assert job_processes.begun_anew(never, {"0"}) is never


def test_packs_of_other_jobs_are_not_picked_up(tmp_path: Path, settings: Any) -> None:
    jobs = jobs_in(tmp_path / "sweep", settings)
    packs = two_packs(jobs)
    items = [SubmittedPack(str(number), pack) for number, pack in enumerate(packs)]
    submitted.add_submitted(tmp_path / "sweep", items)
    assert read_submitted(tmp_path / "sweep", {job.name: job for job in jobs}) == items
    assert read_submitted(tmp_path / "sweep", {job.name: job for job in jobs[:3]}) == items[:1]
    submitted.forget_submitted(tmp_path / "sweep", ["0"])
    assert submitted.submitted_ids(tmp_path / "sweep").keys() == {"2", "3"}


def test_settings_of_a_pack_stay_until_it_has_ended(
    played: Path, tmp_path: Path, settings: Any
) -> None:
    jobs = jobs_in(tmp_path / "sweep", settings)
    packing, folder = options(wait=False), tmp_path / "sweep"
    (played / "states").write_text("7|RUNNING|n1\n")
    pack = PlannedPack("pack 1", tuple(jobs), 2)
    executor = executor_of(jobs)
    end = pack_processes.PacksEnd
    assert pack_processes.run_packs(folder, [pack], packing, executor) is end.left
    assert len(list((folder / SETTINGS_FOLDER).iterdir())) == 4
    for job in jobs:
        finish(job)
    write_json(result_file(folder / "slurm", "7"), {"code": 0})
    assert pack_processes.run_packs(folder, [], packing, executor) is end.over
    assert not (folder / SETTINGS_FOLDER).exists()
