"""hydratune doctor: what it finds, also where packages are missing or broken."""

import http.server
import json
import os
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hydratune.cli import main
from hydratune.doctor import accounts, hardware, packages, places, runs
from hydratune.doctor.command import parse_options
from hydratune.doctor.finding import Finding, Level, guarded

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
TORCH: dict[str, Any] = {
    "version": "2.13.0",
    "cuda": None,
    "hip": None,
    "threads": 2,
    "capability": "AVX2",
    "devices": [],
}


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any] | None, str], None]:
    """Set what the process that imports torch finds, which takes two seconds otherwise."""

    class Probe:
        found: tuple[dict[str, Any] | None, str] = (TORCH, "")

        def result(self) -> tuple[dict[str, Any] | None, str]:
            return self.found

        def close(self) -> None:
            pass

    monkeypatch.setattr(hardware, "TorchProbe", Probe)
    return lambda found, why: setattr(Probe, "found", (found, why))


@pytest.fixture
def report(
    probed: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, dict[str, dict[str, Any]]]]:
    """Run the command in an empty folder; return its exit code and the findings by name."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, dict[str, dict[str, Any]]]:
        capfd.readouterr()
        code = main(["doctor", "--json", *words])
        found = json.loads(capfd.readouterr().out)["findings"]
        return code, {finding["name"]: finding for finding in found}

    return call


def only(check: Iterator[Finding]) -> Finding:
    (finding,) = check
    return finding


def test_this_machine_can_train(report: Any, probed: object, capfd: Any) -> None:
    code, found = report()
    assert code == 0
    assert {"Python", "packages", "CPU", "memory", "torch", "outputs", "cache", "W&B"} <= set(found)
    assert found["packages"]["facts"]["versions"]["hydra-core"]
    assert not [f for f in found.values() if f["level"] == "problem"]
    assert main(["doctor"]) == 0
    text = capfd.readouterr().out
    assert "\npackages\n" in text and "nothing stops training: 0 problems" in text


def test_torch_is_imported_in_a_process_of_its_own() -> None:
    probe = hardware.TorchProbe()
    found, why = probe.result()
    assert found is not None and found["capability"] and not why


def test_a_broken_torch_stops_training_and_not_the_doctor(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libtorch.so: cannot open')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.pathsep.join(sys.path)}"}
    hidden = "import sys; sys.modules.update(dict.fromkeys(['rich', 'hydra', 'huggingface_hub']))"
    program = f"{hidden}; from hydratune.cli import main; sys.exit(main(['doctor', 'json=true']))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    found = {f["name"]: f for f in json.loads(done.stdout)["findings"]}
    assert found["torch"]["level"] == "problem" and "libtorch.so" in found["torch"]["text"]
    assert "pip install" in found["torch"]["remedy"]
    assert found["cache"]["level"] == "warning" and "missing" in found["cache"]["text"]
    assert found["hub"]["level"] == "warning"


def test_no_key_is_printed(report: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("WANDB_API_KEY", secret)
    monkeypatch.setenv("HF_TOKEN", "hf_" + secret)
    _, found = report()
    assert found["W&B"]["facts"]["login"] == "WANDB_API_KEY"
    assert found["Hugging Face"]["facts"]["token"] == "HF_TOKEN"
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {secret}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    code, more = report()
    assert code == 0 and more["W&B"]["facts"]["login"] == str(tmp_path / "netrc")
    assert secret not in json.dumps([found, more])


def test_the_mode_of_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for mode, level in (("online", "warning"), ("offline", "note"), ("on", "warning")):
        monkeypatch.setenv("WANDB_MODE", mode)
        assert only(accounts.weights_and_biases()).level.value == level


def test_folders_that_cannot_be_written_stop_training(report: Any, tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file")
    code, found = report()
    assert code == 1 and found["outputs"]["level"] == "problem"
    assert "is a file" in found["outputs"]["text"]
    command = found["outputs"]["remedy"].partition(", or ")[0]
    subprocess.run(shlex.split(command), check=True)
    assert report()[1]["outputs"]["level"] == "ok"


def test_little_disk_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for free, level in ((2**40, "ok"), (2**30, "warning"), (2**20, "problem")):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr(places.shutil, "disk_usage", lambda _, usage=usage: usage)
        assert only(places.outputs_of(tmp_path / "new")()).level.value == level


def test_versions_outside_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    real = packages.version_of
    versions = {"torch": "1.0", "peft": None}
    monkeypatch.setattr(packages, "version_of", lambda name: versions.get(name, real(name)))
    found = {finding.name: finding for finding in packages.required_packages()}
    assert found["torch"].level is Level.warning and found["torch"].remedy.startswith("pip install")
    assert found["peft"].level is Level.problem


def test_every_extra_says_what_it_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    developers = {"dev", "docs", "bench", "browser", "all"}
    assert set(packages.EXTRAS) == PROJECT["optional-dependencies"].keys() - developers
    monkeypatch.setattr(packages, "version_of", lambda _: None)
    found = {finding.name: finding for finding in packages.missing_extras()}
    assert found["search"].remedy == "pip install 'hydratune[search]'"


def status(run: Path, **content: Any) -> None:
    run.mkdir(parents=True)
    (run / "status.json").write_text(json.dumps(content))


def test_runs_that_did_not_end_and_damaged_ones(report: Any, tmp_path: Path) -> None:
    status(tmp_path / "outputs" / "a" / "killed", state="running")
    (tmp_path / "outputs" / "a" / "killed" / ".hydra").mkdir()
    overrides = tmp_path / "outputs" / "a" / "killed" / ".hydra" / "overrides.yaml"
    overrides.write_text("- model=tiny\n- evaluation.baselines=[]\n")
    status(tmp_path / "outputs" / "a" / "failed", state="failed", error="out of\nmemory")
    status(tmp_path / "outputs" / "a" / "whole", state="finished")
    (tmp_path / "outputs" / "a" / "whole" / "metrics.json").write_text("{}")
    status(tmp_path / "outputs" / "a" / "cut", state="finished")
    (tmp_path / "outputs" / "a" / "cut" / "metrics.json").write_text("{")
    code, found = report()
    assert code == 0
    assert "1 failed, 2 finished, 1 unfinished" in found["runs"]["text"]
    assert found["unfinished"]["remedy"] == (
        "hydratune train model=tiny 'evaluation.baselines=[]' hydra.run.dir=outputs/a/killed"
    )
    assert "out of memory" in found["failed"]["text"]
    assert "metrics.json is not readable" in found["damaged"]["text"]


def test_a_run_that_is_training_is_not_unfinished(tmp_path: Path) -> None:
    from filelock import FileLock

    status(tmp_path / "a" / "now", state="running")
    with FileLock(tmp_path / "a" / "now" / ".lock"):
        assert [f.name for f in runs.runs_of(tmp_path)()] == ["runs"]


@pytest.mark.parametrize(
    ("found", "driver", "name", "text"),
    [
        (TORCH, None, "GPU", "none that torch can use"),
        (TORCH, "550.1", "GPU", "built without CUDA"),
        ({**TORCH, "cuda": "12.8"}, "550.1", "GPU", "torch sees no GPU"),
        (None, None, "torch", "is not installed"),
    ],
)
def test_gpus(
    monkeypatch: pytest.MonkeyPatch, found: Any, driver: str | None, name: str, text: str
) -> None:
    monkeypatch.setattr(hardware, "_driver_version", lambda: driver)
    probe = type("Probe", (), {"result": lambda _: (found, "is not installed")})
    every = {f.name: f for f in hardware.torch_of(probe())()}  # type: ignore[arg-type]
    assert text in every[name].text
    device = {"name": "H100", "memory": 2**36, "free": 2**35, "capability": [9, 0]}
    probe = type("Probe", (), {"result": lambda _: ({**TORCH, "devices": [device]}, "")})
    every = {f.name: f for f in hardware.torch_of(probe())()}  # type: ignore[arg-type]
    assert every["GPU 0"].text == "H100, 64.0 GiB, 32.0 GiB free, compute capability 9.0"


def test_a_slow_import_of_torch_is_no_broken_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_LIMIT", 0)
    (found,) = hardware.torch_of(hardware.TorchProbe())()
    assert found.level is Level.warning and "slow disk" in found.text
    assert "reinstall" not in found.remedy


def test_servers_are_asked() -> None:
    class Teapot(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(418)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Teapot) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert accounts._answer("hub", address, "remedy").level is Level.ok
        server.shutdown()
        thread.join()
    closed = accounts._answer("hub", address, "remedy")
    assert closed.level is Level.warning and closed.remedy == "remedy"


def test_a_check_that_fails_is_a_finding() -> None:
    def my_check() -> Iterator[Finding]:
        yield Finding("first", "fine")
        raise RuntimeError("no such thing")

    first, second = guarded(my_check)
    assert first.level is Level.ok and second.name == "my check" and "no such thing" in second.text


@pytest.mark.parametrize("word", ["nework=true", "network", "json=maybe", "outputs="])
def test_wrong_options(word: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", word]) == 2
    assert word in capfd.readouterr().err
    with pytest.raises(ValueError):
        parse_options([word])


def test_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--help"]) == 0
    assert "usage: hydratune doctor" in capfd.readouterr().out
