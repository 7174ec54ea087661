"""Run commands with the code of one tree, several at the same time, and keep what they leave."""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from golden.commands import Command, Step

RESULT = "golden_result.json"  # written last: without it, a folder is half of a result
LOG = "output.log"
_POLL = 0.005  # seconds between looks for the file that a kill waits for
_FIXED = {  # equal in both trees, whatever the user's own environment says
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "WANDB_MODE": "disabled",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "COLUMNS": "120",
    "NO_COLOR": "1",
    "TZ": "UTC",
}
_FOREIGN = ("HYDRATUNE_", "HYDRA_", "WANDB_", "PYTHON", "HF_", "LOCAL_RANK", "MASTER_", "WORLD_")


class GoldenError(Exception):
    """The comparison cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Result:
    """What a command left, and how its steps ended."""

    folder: Path
    exit_codes: tuple[int, ...]
    seconds: float
    root: str  # the folder of all results when the command ran: files may contain its path
    problem: str = ""  # why it is no result of all steps

    def store(self) -> None:
        """Write the result beside the outcome, as the mark of a complete one."""
        content = {"exit_codes": self.exit_codes, "seconds": self.seconds, "root": self.root}
        (self.folder / RESULT).write_text(json.dumps(content))

    def is_complete(self, command: Command) -> bool:
        """Tell whether every step ended with the exit code that it must have."""
        return self.exit_codes == tuple(step.exit_code for step in command.steps)


def stored(folder: Path) -> Result | None:
    """Return the complete result in ``folder``, or None."""
    try:
        content = json.loads((folder / RESULT).read_text())
    except (OSError, ValueError):
        return None
    return Result(folder, tuple(content["exit_codes"]), content["seconds"], content["root"])


def environment_key() -> str:
    """Return a name for everything outside the source that may decide a result."""
    packages = sorted(
        f"{found.metadata['Name']}=={found.version}"
        for found in importlib.metadata.distributions()
        if found.metadata["Name"] != "hydratune"
    )
    machine = [platform.platform(), platform.machine(), _processor(), os.cpu_count()]
    text = json.dumps([sys.version, packages, machine, _FIXED])
    return f"python{platform.python_version()}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), "")


def key_of(command: Command, others: Mapping[str, Command]) -> str:
    """Return a hash of everything that is run for ``command``."""
    used = [key_of(others[name], others) for name in command.uses]
    text = json.dumps([[asdict(step) for step in command.steps], dict(command.files), used])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@contextmanager
def worktree(repository: Path, commit: str) -> Iterator[Path]:
    """Check out ``commit`` in a temporary folder, which is removed at the end."""
    temporary = Path(tempfile.mkdtemp(prefix="golden-base-"))
    tree = temporary / "tree"
    try:
        git(repository, "worktree", "add", "--quiet", "--detach", str(tree), commit)
        yield tree
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        git(repository, "worktree", "prune")


def git(repository: Path, *arguments: str) -> str:
    """Return what a git command prints. Raises ``GoldenError`` if it fails."""
    done = subprocess.run(
        ["git", *arguments], cwd=repository, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise GoldenError(f"git {arguments[0]} failed: {done.stderr.strip() or 'no message'}")
    return done.stdout.strip()


class Runner:
    """Run commands with the source of one tree, into folders below ``root``."""

    def __init__(
        self, tree: Path, root: Path, names: Mapping[str, str], models: Path | None
    ) -> None:
        """``names``: command -> folder below ``root``. ``models``: a shared folder of models."""
        self.tree, self.root, self.names, self.models = tree, root, names, models
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock, self._stopped = threading.Lock(), False

    def check_tree(self) -> None:
        """Raise ``GoldenError`` unless ``import hydratune`` is the tree's own."""
        code = "import hydratune; print(hydratune.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=self._environment(self.root),
            capture_output=True,
            text=True,
            check=False,
        )
        imported = done.stdout.strip()
        if not imported.startswith(str(self.tree / "src")):
            why = imported or done.stderr.strip()[-300:]
            raise GoldenError(f"{self.tree}: import hydratune is not this tree's own: {why}")

    def folder(self, name: str) -> Path:
        """Return the folder of a command."""
        return self.root / self.names[name]

    def run(self, command: Command) -> Result:
        """Run all steps of ``command``; stops after a step without its usual exit code."""
        folder = self.folder(command.name)
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "cache").mkdir(parents=True)
        if self.models is not None:
            (folder / "cache" / "models").symlink_to(self.models)
        for name, content in command.files.items():
            (folder / name).write_text(content, "utf-8")
        for name in command.uses:
            shutil.copytree(self.folder(name) / "run", folder / name / "run")
        start = time.monotonic()
        codes: list[int] = []
        for step in command.steps:
            codes.append(self._step(step, folder))
            if codes[-1] != step.exit_code:
                break
        seconds = round(time.monotonic() - start, 1)
        return Result(folder, tuple(codes), seconds, str(self.root))

    def stop(self) -> None:
        """Kill everything that runs, and start nothing more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                _kill(process)

    def _step(self, step: Step, folder: Path) -> int:
        with (folder / LOG).open("ab") as log:
            log.write(f"$ hydratune {' '.join(step.arguments)}\n".encode())
            log.flush()
            with self._lock:
                if self._stopped:
                    raise GoldenError("stopped")
                process = subprocess.Popen(
                    [sys.executable, "-m", "hydratune", *step.arguments],
                    cwd=folder,
                    env=self._environment(folder),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                self._running.add(process)
        try:
            if step.kill_when is not None:
                _kill_when(process, folder / step.kill_when)
            return process.wait()
        finally:
            with self._lock:
                self._running.discard(process)

    def _environment(self, folder: Path) -> dict[str, str]:
        own = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
        cache = folder / "cache"
        tree = {"PYTHONPATH": str(self.tree / "src"), "HYDRATUNE_CACHE": str(cache)}
        return {**own, **_FIXED, **tree, "HF_DATASETS_CACHE": str(folder / "datasets")}


def _kill_when(process: "subprocess.Popen[bytes]", file: Path) -> None:
    while process.poll() is None:
        if file.exists():
            _kill(process)
            return
        time.sleep(_POLL)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):  # it ended by itself
        os.killpg(process.pid, signal.SIGKILL)


def run_all(
    runner: Runner, commands: Sequence[Command], jobs: int, done: Callable[[Command, Result], None]
) -> dict[str, Result]:
    """Run ``commands``, ``jobs`` at a time; those that another one uses come before it.

    ``done`` is called in a worker thread after each. A command whose needed one failed is not run.
    Ctrl-C kills what runs and is raised again.
    """
    futures: dict[str, Future[Result]] = {}

    by_name = {command.name: command for command in commands}

    def work(command: Command) -> Result:
        for name in command.uses:  # it began earlier, so that this wait always ends
            if not futures[name].result().is_complete(by_name[name]):
                why = f"not run, because {name} failed"
                return Result(runner.folder(command.name), (), 0.0, str(runner.root), why)
        result = runner.run(command)
        done(command, result)
        return result

    with ThreadPoolExecutor(jobs) as pool:
        for command in commands:
            futures[command.name] = pool.submit(work, command)
        try:
            return {name: future.result() for name, future in futures.items()}
        except BaseException:
            runner.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
