"""Packs as tasks of a Ray that is played: settings, ends of packs, what is sent to them."""

import os
import pickle
import socket
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from hydratune import extras
from hydratune.errors import ConfigError, SweepError
from hydratune.records.files import write_json
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import Outcome, Rung, State
from hydratune.records.sweep import SweepJob
from hydratune.sweeps.executor_options import RayOptions
from hydratune.sweeps.executors import ray_cluster, ray_tasks, ray_worker
from hydratune.sweeps.executors.ray_worker import PackNews, PackWork, run_pack
from hydratune.sweeps.in_packs import run_in_packs
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.pack_arguments import NEEDS_NEW_PACK
from hydratune.sweeps.planning import PlannedJob, PlannedPack
from hydratune.sweeps.stop_requests import request_stop
from test_config import compose

CANARY = "canary-1f6de0b7c3"


class RayError(Exception):
    pass


class WorkerCrashedError(RayError):
    pass


class TaskCancelledError(RayError):
    pass


class NodeDiedError(RayError):
    pass


class RayTaskError(RayError):
    pass


class PlayedRay(ModuleType):
    """A cluster whose tasks yield what ``script`` holds for them, one list for each task."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.exceptions = SimpleNamespace(
            RayError=RayError,
            NodeDiedError=NodeDiedError,
            RayTaskError=RayTaskError,
            TaskCancelledError=TaskCancelledError,
        )
        self.script: list[list[object]] = []
        self.works: list[PackWork] = []
        self.asked: list[dict[str, Any]] = []
        self.cancelled: list[object] = []
        self.node = {"CPU": 2.0, "GPU": 0.0}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": self.node}]

    def remote(self, **settings: Any) -> Any:
        def of(function: object) -> Any:
            assert function is run_pack and settings["max_retries"] == 0
            return SimpleNamespace(options=options)

        def options(**wanted: Any) -> Any:
            self.asked.append(wanted)
            return SimpleNamespace(remote=start)

        def start(work: PackWork) -> Any:
            self.works.append(work)
            return iter(self.script.pop(0) if self.script else [])

        return of

    def wait(self, tasks: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return tasks, []

    def get(self, item: object) -> object:
        if isinstance(item, Exception):
            raise item
        return item

    def cancel(self, task: object, *, force: bool) -> None:
        assert force
        self.cancelled.append(task)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> PlayedRay:
    ray = PlayedRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(extras, "is_installed", lambda module: True)
    monkeypatch.setattr(
        ray_tasks, "RayCluster", lambda settings: SimpleNamespace(close=lambda: None)
    )
    for name in ("_TIME_TO_LEAVE", "_TIME_TO_BEGIN"):
        monkeypatch.setattr(ray_tasks, name, 0.0)
    return ray


@pytest.fixture(scope="module")
def settings() -> Any:
    return compose("trainer.accelerator=cpu")


def jobs_in(folder: Path, settings: Any, count: int = 2) -> list[PlannedJob]:
    folder.mkdir(exist_ok=True)
    composed = OmegaConf.create({"hydra": {}})
    return [
        PlannedJob(SweepJob(str(n), (), {}), RunDirectory(folder / str(n)), settings, composed)
        for n in range(count)
    ]


def executor_of(jobs: list[PlannedJob], **settings: Any) -> ray_tasks.RayExecutor:
    options = PackOptions(executor=RayOptions(**settings))
    assert isinstance(options.executor, RayOptions)
    folder = jobs[0].record.path.parent
    return ray_tasks.RayExecutor(folder, options, options.executor, {j.name: j for j in jobs})


def pack_of(jobs: list[PlannedJob]) -> PlannedPack:
    return PlannedPack("pack 1 of 1: jobs", tuple(jobs), 2)


def begin(job: PlannedJob) -> None:
    job.record.path.mkdir(exist_ok=True)
    job.record.start()


def finish(job: PlannedJob) -> None:
    job.record.path.mkdir(exist_ok=True)
    write_json(job.record.status_file, {"state": "finished"})
    write_json(job.record.metrics_file, {"val/loss": 1.0})


# ------------------------------------------------------------------------------------- settings
@pytest.mark.parametrize(
    ("values", "key", "why"),
    [
        ({"num_cpus": 0.0}, "num_cpus", "needs a core"),
        ({"at_once": 0}, "at_once", "has to run"),
        ({"lost_nodes": -1}, "lost_nodes", "counts"),
        ({"num_gpus": 1.5}, "num_gpus", "whole ones"),
        ({"num_gpus": -1.0}, "num_gpus", "share"),
        ({"resources": {"GPU": 1.0}}, "resources", "by their names"),
        ({"resources": {"spot": 0.0}}, "resources", "by their names"),
        ({"address": "ray://head:10001"}, "address", "running cluster"),
        ({"address": "head"}, "address", "running cluster"),
    ],
)
def test_wrong_settings_are_refused(
    played: PlayedRay, values: dict[str, Any], key: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=why) as raised:
        PackOptions(executor=RayOptions(**values))
    assert [p.key for p in raised.value.problems] == [f"hydra.launcher.executor.{key}"]


def test_right_settings_are_not_refused(played: PlayedRay) -> None:
    for address in (None, "auto", "head:6379", "10.0.0.1:6379", "[::1]:6379"):
        own = RayOptions(address=address, num_gpus=0.5, num_cpus=0.5, resources={"spot": 1.0})
        assert PackOptions(executor=own).executor.cores == 1


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda module: module != "ray")
    with pytest.raises(ConfigError, match=r"(?s)package ray.*pip install 'hydratune\[ray\]'"):
        PackOptions(executor=RayOptions())


def test_an_address_at_which_nothing_listens_is_said_at_once() -> None:
    ray_cluster._require_answer("auto")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        ray_cluster._require_answer(address)
    with pytest.raises(SweepError, match=rf"address={address}: nothing answers there"):
        ray_cluster._require_answer(address)


# ------------------------------------------------------------------------- what is sent to tasks
def test_only_names_and_arguments_are_pickled(
    played: PlayedRay, tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    monkeypatch.setenv("HF_ENDPOINT", f"http://me:{CANARY}@proxy")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MY_OWN", "value")
    jobs = jobs_in(tmp_path / "sweep", settings)
    executor_of(jobs).submit([pack_of(jobs)])
    (work,) = played.works
    assert CANARY.encode() not in pickle.dumps(work)
    assert work.variables["WANDB_MODE"] == "offline" and "MY_OWN" not in work.variables
    assert set(work.variables) <= {n for n in os.environ if n.startswith(ray_tasks._PASSED)}
    assert all(isinstance(word, str) for word in work.command)


def test_variables_that_are_not_sent_are_named(
    played: PlayedRay,
    tmp_path: Path,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    jobs = jobs_in(tmp_path / "sweep", settings)
    executor_of(jobs)  # Ray of this machine: its processes have the variables of this one
    assert "WANDB_API_KEY" not in capfd.readouterr().out
    executor_of(jobs, address="auto")
    assert "packs do not get WANDB_API_KEY" in capfd.readouterr().out


def test_a_pack_gets_a_gpu_where_there_is_one(
    played: PlayedRay, tmp_path: Path, settings: Any
) -> None:
    on_cpu = jobs_in(tmp_path / "sweep", settings)
    anywhere = jobs_in(tmp_path / "sweep", compose("trainer.accelerator=auto"))
    shares = []
    for jobs, gpus, own in (
        (anywhere, 0.0, {}),
        (anywhere, 2.0, {}),
        (on_cpu, 2.0, {}),
        (on_cpu, 2.0, {"num_gpus": 0.5}),
    ):
        played.node["GPU"] = gpus
        executor_of(jobs, **own).submit([pack_of(jobs)])
        shares.append(played.asked[-1]["num_gpus"])
    assert shares == [0.0, 1.0, 0.0, 0.5]


def test_trials_of_a_search_are_known_later(
    played: PlayedRay, tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search creates its executor before it has asked for its first trials."""
    monkeypatch.setattr(type(ray_tasks.console), "is_terminal", property(lambda _: True))
    jobs = jobs_in(tmp_path / "sweep", settings)
    options, played.node["GPU"] = RayOptions(), 1.0
    packing = PackOptions(executor=options)
    executor = ray_tasks.RayExecutor(tmp_path / "sweep", packing, options, {})
    played.script = [[PackNews(code=0)]]
    executor.submit([pack_of(jobs)])
    assert played.asked[-1]["num_gpus"] == 1.0
    begin(jobs[0])
    jobs[0].record.end(State.finished)
    assert [end.code for end in executor.ended()] == [0]
    assert executor._board is not None and executor._board.lines["0"].state == "finished"
    executor.close()


def test_a_job_that_is_halved_after_its_pack_is_shown_so(
    played: PlayedRay, tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(ray_tasks.console), "is_terminal", property(lambda _: True))
    jobs = jobs_in(tmp_path / "sweep", settings)
    executor = executor_of(jobs)
    board = executor._board
    assert board is not None
    begin(jobs[0])
    jobs[0].record.change_status(lambda status: status.report(Rung(2, 0.5)).pause())
    board.paused("0", jobs[0].status)
    jobs[0].record.change_status(lambda status: status.halve())
    executor.close()
    assert (board.lines["0"].state, board.lines["0"].reason) == ("stopped", "halved at step 2")


def test_what_no_node_has_is_refused(played: PlayedRay, tmp_path: Path, settings: Any) -> None:
    jobs = jobs_in(tmp_path / "sweep", settings)
    with pytest.raises(SweepError, match=r"needs: CPU 8 \(most: CPU 2, GPU 0\)"):
        executor_of(jobs, num_cpus=8.0)
    with pytest.raises(SweepError, match="spot 1"):
        executor_of(jobs, resources={"spot": 1.0})


def test_packs_wait_until_there_is_room(played: PlayedRay, tmp_path: Path, settings: Any) -> None:
    jobs = jobs_in(tmp_path / "sweep", settings)
    executor = executor_of(jobs, at_once=2)
    played.script = [[PackNews(code=0)]]
    assert executor.free() == 2
    executor.submit([pack_of(jobs)])
    assert executor.free() == 1 and executor.running() == [pack_of(jobs)]
    assert [end.code for end in executor.ended()] == [0] and executor.free() == 2


# --------------------------------------------------------------------------------- ends of packs
def test_what_a_pack_prints_is_shown_with_its_name(
    played: PlayedRay, tmp_path: Path, settings: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = jobs_in(tmp_path / "sweep", settings)
    executor = executor_of(jobs)
    played.script = [[PackNews(host="n1"), PackNews(("one", "[red]two\x1b[2J")), PackNews(code=-9)]]
    executor.submit([pack_of(jobs)])
    (end,) = executor.ended()
    printed = capfd.readouterr().out
    assert end.code == -9 and "pack 1 of 1 runs on n1" in printed
    assert "pack 1 of 1 | one\n" in printed and "pack 1 of 1 | [red]two\\x1b[2J\n" in printed


def test_a_dead_worker_counts_as_a_crash_and_its_jobs_continue(
    played: PlayedRay, tmp_path: Path, settings: Any
) -> None:
    jobs = jobs_in(tmp_path / "sweep", settings)
    for job in jobs:
        begin(job)
        job.record.end(State.stopped, "interrupted by the user")  # by its pack, which left
    executor = executor_of(jobs)
    played.script = [[PackNews(host="n1"), WorkerCrashedError("it died\nmore")]]
    executor.submit([pack_of(jobs)])
    assert executor.ended() == []  # its jobs may be saved now
    (end,) = executor.ended()
    assert end.code == 1 and "WorkerCrashedError: it died" in end.why and "more" not in end.why
    assert [job.status.outcome for job in jobs] == [Outcome.waiting] * 2


def test_a_pack_is_waited_for_whose_worker_died(
    played: PlayedRay, tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_tasks, "_TIME_TO_LEAVE", 60.0)
    jobs = jobs_in(tmp_path / "sweep", settings)
    executor = executor_of(jobs)
    played.script = [[PackNews(host="n1"), WorkerCrashedError("it died")]]
    executor.submit([pack_of(jobs)])
    assert executor.ended() == [] and executor.ended() == []
    write_json(Path(played.works[0].result), {"code": 0})  # it was about to end anyway
    assert [end.code for end in executor.ended()] == [0]
    assert not Path(played.works[0].result).exists()


def test_lost_nodes_are_counted_apart_from_crashes(
    played: PlayedRay, tmp_path: Path, settings: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = jobs_in(tmp_path / "sweep", settings)
    executor = executor_of(jobs, lost_nodes=2)
    codes = []
    for _ in range(3):
        played.script = [[PackNews(host="n1"), NodeDiedError("gone")]]
        executor.submit([pack_of(jobs)])
        executor.ended()
        (end,) = executor.ended()
        codes.append(end.code)
    assert codes == [NEEDS_NEW_PACK, NEEDS_NEW_PACK, 1]
    assert "3 times" in end.why and "lost_nodes=2" in end.why
    assert "lost its node (2 of 2); begun again" in capfd.readouterr().out


def test_a_job_of_lost_nodes_is_not_tried_less_often(
    played: PlayedRay, tmp_path: Path, settings: Any
) -> None:
    """A whole sweep: two nodes are lost, then a worker dies, then all jobs finish."""
    jobs = jobs_in(tmp_path / "sweep", settings)
    lost = [PackNews(host="n1"), NodeDiedError("gone")]
    played.script = [lost, lost, [PackNews(host="n1"), WorkerCrashedError("it died")]]
    # half of the jobs at a time, after a crash
    played.script += [[PackNews(code=0)]] * 2

    real = played.get

    def get(item: object) -> object:
        news = real(item)
        assert isinstance(news, PackNews)
        number = len(played.works)
        for name in played.works[-1].command[-2 if number <= 3 else -1 :]:
            job = jobs[int(name)]
            finish(job) if news.code == 0 else begin(job)
        return news

    played.get = get  # type: ignore[method-assign]
    options = PackOptions(executor=RayOptions())
    context: Any = None
    assert run_in_packs(context, tmp_path / "sweep", jobs, options) == []
    assert len(played.works) == 5


def test_a_worker_without_hydratune_is_explained(
    played: PlayedRay, tmp_path: Path, settings: Any
) -> None:
    jobs = jobs_in(tmp_path / "sweep", settings)
    executor = executor_of(jobs)
    played.script = [[RayTaskError("trace\nModuleNotFoundError: No module named 'hydratune'")]]
    executor.submit([pack_of(jobs)])
    with pytest.raises(SweepError, match=r"No module named 'hydratune'; the nodes need"):
        executor.ended()
    executor.close()
    assert len(played.cancelled) == 1


# ------------------------------------------------------------------------------------ the worker
def work(place: Path, code: str, **changes: Any) -> PackWork:
    (place / "log").touch()
    result, log = str(place / "result.json"), str(place / "log")
    command = ("another python", "-S", "-c", code)
    given = PackWork(command, str(place), log, result, {"A": "b"}, ray_worker.versions())
    return given._replace(**changes)


def test_a_worker_runs_the_pack_with_its_own_interpreter(
    played: PlayedRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", CANARY)
    played.get_gpu_ids = list  # type: ignore[attr-defined]
    code = (
        "import os, sys; e = os.environ; print(e['A'], 'RAY_AUTH_TOKEN' in e, os.getcwd());"
        " print([e['CUDA_VISIBLE_DEVICES']], end=''); sys.exit(4)"
    )
    first, *others = run_pack(work(tmp_path, code))
    assert first.host and [news.code for news in others][-1] == 4
    lines = [line for news in others for line in news.lines]
    assert lines == [f"b False {tmp_path}", "['']"]


@pytest.mark.parametrize("is_asked_before", [False, True])
def test_a_job_alone_is_stopped_on_request(
    played: PlayedRay, tmp_path: Path, is_asked_before: bool
) -> None:
    """The process of a pack looks for requests itself, that of a single job does not."""
    played.get_gpu_ids = list  # type: ignore[attr-defined]
    job = RunDirectory(tmp_path / "0")
    if is_asked_before:
        request_stop(tmp_path, "0")
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(130));"
        " print('begun', flush=True); time.sleep(600)"
    )
    codes = []
    for news in run_pack(work(tmp_path, code, alone_in=str(job.path))):
        codes.append(news.code)
        if "begun" in news.lines:
            job.path.mkdir()
            job.start()
            request_stop(tmp_path, "0")
    assert codes[-1] == 130 and (len(codes) == 1) is is_asked_before


def test_a_worker_that_cannot_run_the_pack_says_why(tmp_path: Path) -> None:
    (news,) = run_pack(work(tmp_path, "", versions="Python 2.7"))
    assert "and the driver Python 2.7" in news.problem
    (news,) = run_pack(work(tmp_path, "", folder=str(tmp_path / "absent")))
    assert f"has no folder {tmp_path / 'absent'}" in news.problem


# ----------------------------------------------------------------------- a cluster of this machine
FAILS_ONCE = """
import os, sys, time
before = os.path.exists("{mark}")
open("{mark}", "w").close()
if not before or {always}:
    print("Exception: timed out\\n")
    sys.exit(1)
print("Ray runtime started", *sys.argv[1:], flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("always", [False, True])
def test_ray_of_this_machine_is_started_again_where_it_was_too_slow(
    played: PlayedRay,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    always: bool,
) -> None:
    script = tmp_path / "python"
    code = FAILS_ONCE.format(mark=tmp_path / "mark", always=always)
    script.write_text(f"#!{sys.executable} -S\n{code}")
    script.chmod(0o755)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "")
    start = ray_cluster.GuardedProcess

    def started(command: list[str], *others: Any, **more: Any) -> Any:
        assert "--node-ip-address=127.0.0.1" in command
        return start([str(script), *command[1:]], *others, **more)

    monkeypatch.setattr(ray_cluster, "GuardedProcess", started)

    if always:
        with pytest.raises(SweepError, match="did not start on this machine: Exception: timed out"):
            ray_cluster._start_own(RayOptions())
    else:
        cluster, address = ray_cluster._start_own(RayOptions())
        assert address.startswith("127.0.0.1:") and os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        folder = cluster._folder
        assert folder.stat().st_mode & 0o777 == 0o700
        cluster.close()
        assert not folder.exists()
    assert capfd.readouterr().out.count("timed out; once more") == (2 if always else 1)
