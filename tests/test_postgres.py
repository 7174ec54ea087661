"""Searches whose study is in a PostgreSQL database."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from conftest import SMALL
from run_files import states
from search_cases import SPACE, ended_jobs
from sweep_driver import Driver
from test_serve import free_port

pytestmark = pytest.mark.slow
_PROGRAMS = [*Path("/usr/lib/postgresql").glob("*/bin"), *map(Path, os.get_exec_path())]


class Database:
    """A PostgreSQL server on the loopback address, of the user ``postgres`` if this is root."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self._programs, self.port = folder, programs, free_port()
        self._user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        folder.mkdir()
        if self._user:
            shutil.chown(folder, "postgres")
            for parent in folder.parents:
                if parent.owner() == "root" and parent != Path("/"):
                    parent.chmod(parent.stat().st_mode | 0o011)
        self._run("initdb", "--auth=trust", "--username=study", "-D", str(folder / "data"))
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://study@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder}"
        log = str(self.folder / "log")
        self._run(
            "pg_ctl", "-D", str(self.folder / "data"), "-l", log, "-w", "-o", options, "start"
        )

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._user, str(self._programs / program), *arguments]
        done = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/", check=False
        )
        assert done.returncode == 0, done.stderr.decode()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    pytest.importorskip("psycopg")
    programs = next((place for place in _PROGRAMS if (place / "initdb").is_file()), None)
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    server = Database(tmp_path / "postgres", programs)
    yield server
    server.stop()


def words(database: Database) -> list[str]:
    return [
        *(*SMALL, *SPACE, "hydra/sweeper=optuna", "hydra/launcher=pack"),
        *("hydra.sweeper.n_trials=8", "hydra.sweeper.batch=2", "tracking=disabled"),
        *(f"hydra.sweeper.storage={database.url}", "hydra.sweeper.study_name=s"),
    ]


def finished_jobs(folder: Path) -> list[Path]:
    return [file for file in ended_jobs(folder) if '"finished"' in file.read_text()]


@pytest.mark.fault(
    "kill -9 of one of two drivers of a study in PostgreSQL",
    seen="the other one takes over its trials",
    kept="all finished trials; none runs twice",
)
@pytest.mark.fault(
    "the database of a study goes away",
    seen="an error says so; the same command continues",
    kept="all finished trials",
)
def test_several_drivers_and_a_database_that_goes_away(tmp_path: Path, database: Database) -> None:
    folder = tmp_path / "sweep"
    first, second = Driver(folder, *words(database)), Driver(folder, *words(database))
    first.until(lambda: len(first.packs()) and len(second.packs()))
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    second.until(lambda: len(finished_jobs(folder)) >= 2)
    database.stop()
    text = second.end(1)
    assert "the database of the study does not answer" in text and "Traceback" not in text
    finished = {file: file.stat().st_mtime_ns for file in finished_jobs(folder)}
    database.start()
    text = Driver(folder, *words(database)).end()
    assert text.count("\nbest: ") == 1
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    storage = optuna.storages.RDBStorage(database.url)
    trials = optuna.load_study(study_name="s", storage=storage).trials
    storage.remove_session()
    storage.engine.dispose()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 8
    assert len({str(trial.params) for trial in trials}) == 8
    assert states(folder) == {str(number): "finished" for number in range(8)}
    assert first.processes() == second.processes() == {}
