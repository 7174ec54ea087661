"""Fixtures: an empty cache, no network, a tiny real model, and the command line in this process."""

import csv
import gc
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

os.environ.pop("COLUMNS", None)  # pytest-xdist sets 80: tables would be wrapped otherwise

# Python would look through all modules of torch and transformers again and again
gc.set_threshold(50_000, 20, 50)

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("WANDB_MODE", "disabled")  # tests that want W&B files say so
SHARED = Path(__file__).parents[2] / "shared"
SHARED_DATA = SHARED / "data"


# settings of a run that takes about a second
SMALL = (
    "debug=smoke",
    "trainer.precision=32-true",  # on processors with AMX, auto is bf16
    "data.batch_size=4",
    "data.max_train_rows=8",
    "data.max_validation_rows=4",
    "data.max_test_rows=2",
    "trainer.max_steps=2",
    "evaluation.baselines=[]",
    "evaluation.max_new_tokens=4",
)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty model cache, so that no test depends on what an earlier run stored."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYDRATUNE_CACHE", str(folder))
        # before anything imports datasets
        patch.setenv("HF_DATASETS_CACHE", str(folder / "datasets"))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def settings_read_once() -> Iterator[None]:
    from quick_hydra import quick_hydra

    with quick_hydra():
        yield


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Restore the signal handlers. An interrupted run ignores Ctrl-C at its end; the next test and
    the processes it starts must not.
    """

    def restore() -> None:  # also after a fixture of a whole module
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)

    restore()
    yield
    restore()


@pytest.fixture
def determinism_reset() -> Iterator[None]:
    """Switch deterministic algorithms off again when the test ends."""
    import torch

    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def tiny() -> tuple[Any, Any, Any]:
    """(settings, source, tokenizer) of the random-weight model."""
    from hydratune.models import loading
    from hydratune.models.sources.tiny import TinyModel

    settings = TinyModel(name="tiny", context_window=2048)
    source = loading.locate(settings)
    return settings, source, loading.load_tokenizer(settings, source)


@pytest.fixture
def model(tiny: tuple[Any, Any, Any]) -> Any:
    """A new tiny model."""
    from hydratune.models import loading
    from hydratune.models.compute import on_cpu

    return loading.load_model(tiny[0], tiny[1], on_cpu())


@pytest.fixture
def encoder(tiny: tuple[Any, Any, Any], model: Any) -> Any:
    from hydratune.data.encoding.encoder import ChatEncoder
    from hydratune.models import loading

    return ChatEncoder(tiny[2], loading.turn_end_ids(tiny[2], model))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread: products of a few numbers are not faster with more."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """Start a scripted judge (judge_server.Judge); all of them are closed after the test."""
    from judge_server import Judge

    started: list[Judge] = []

    def start(script: Callable[[list[dict[str, str]], int], Any]) -> Judge:
        started.append(Judge(script))
        return started[-1]

    yield start
    for judge in started:
        judge.close()


@pytest.fixture
def judged_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory whose answers a scripted judge can judge, and the key for its server."""
    from judge_server import KEY, write_answers

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("HYDRATUNE_CACHE", str(tmp_path / "cache"))
    return write_answers(tmp_path / "run")


@pytest.fixture
def command_line(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a command line; return (exit code, everything printed)."""

    def call(*args: str) -> tuple[int, str]:
        from hydratune.cli import main

        capfd.readouterr()
        code = main(list(args))
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    return call


@pytest.fixture
def hydratune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_line: Callable[..., tuple[int, str]]
) -> Callable[..., tuple[int, str]]:
    """Run a command line in an empty folder; return (exit code, everything printed)."""
    monkeypatch.chdir(tmp_path)
    return command_line


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that gives the run directory of settings; each are trained once a session.

    Tests only read what it gives: others get the same folder.
    """
    runs: dict[tuple[str, ...], Path] = {}

    def train(*settings: str) -> Path:
        from hydratune.cli import main

        if settings not in runs:
            folder = tmp_path_factory.mktemp("trained")
            with chdir(folder):
                assert main(["train", *settings, "hydra.run.dir=run"]) == 0
            runs[settings] = folder / "run"
        return runs[settings]

    return train


@pytest.fixture
def finished_run(tmp_path: Path, trained_once: Callable[..., Path]) -> Callable[..., Path]:
    """Return a function that copies the run of ``SMALL`` and further settings to tmp_path/run."""

    def copy(*settings: str, words: Sequence[str] = SMALL) -> Path:
        run = tmp_path / "run"
        return Path(shutil.copytree(trained_once(*words, *settings), run, symlinks=True))

    return copy


class PackHere:
    """A pack that has run in this process, in place of a process for it."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], **_: object) -> None:
        from hydratune.sweeps import pack

        folder, options, *names = command[3:]
        # the process that started it cannot be another one
        options = json.dumps({**json.loads(options), "parent": None})
        handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", sys.argv)
            self.returncode = pack.main([folder, options, *names])
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def poll(self) -> int:
        return self.returncode


@pytest.fixture
def packs_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the packs of sweeps in this process, which has imported torch already.

    It is for tests of what sweeps compute and say; tests of processes start processes.
    """
    import torch
    from lightning.pytorch.trainer import trainer
    from lightning.pytorch.trainer.connectors import data_connector

    from hydratune.sweeps.executors import local

    threads = torch.get_num_threads()
    monkeypatch.setattr(local, "subprocess", SimpleNamespace(Popen=PackHere))
    for module, name in ((trainer, "isolate_rng"), (data_connector, "_replace_dunder_methods")):
        monkeypatch.setattr(module, name, getattr(module, name))  # a pack replaces it
    yield
    torch.set_num_threads(threads)


def write_rows(path: Path, records: list[dict[str, Any]]) -> Path:
    """Write ``records`` in the format of the suffix of ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in records))
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    else:
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(
                stream, list(records[0]), delimiter="\t" if path.suffix == ".tsv" else ","
            )
            writer.writeheader()
            writer.writerows(
                {k: json.dumps(v) if isinstance(v, list) else v for k, v in r.items()}
                for r in records
            )
    return path


def edited(path: Path, text: str) -> None:
    """Change a file of a run as a user does on purpose: its digests are removed, as the message
    says.
    """
    path.write_text(text)
    (path.parent / "digests.json").unlink()
