"""A fine-tuned model behind a server: the right command, and no process left at the end."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL
from hydratune import digests, extras
from hydratune.errors import RunError
from hydratune.serving import process as serving
from hydratune.serving import servers

Command = Callable[..., tuple[int, str]]

# answers /health after a moment, and starts a child of its own
STAND_IN = """
    import http.server, os, subprocess, sys, time
    port = int(sys.argv[sys.argv.index("--port") + 1])
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open("pids", "w").write(f"{os.getpid()} {child.pid}")
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
        def log_message(self, *args): pass
    http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a merged export."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "parity.json"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "file"
    folder.mkdir()
    (folder / "model-f16.gguf").write_text("")
    return folder


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make these programs, and no others, the servers that are installed."""

    def install(*names: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name in names:
            script = textwrap.dedent(STAND_IN)
            (folder / name).write_text(f"#!{sys.executable}\n{script}")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.setattr(servers, "_has_accelerator", lambda: False)
        real = extras.is_installed
        server = {"fastapi", "uvicorn", "openai"}
        monkeypatch.setattr(
            extras,
            "is_installed",
            lambda module: "transformers" in names if module in server else real(module),
        )

    return install


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("installed", "settings", "command"),
    [
        (
            ["transformers"],
            [],
            "-m transformers.cli.transformers serve OUT --dtype float32 --host 127.0.0.1 --port",
        ),
        (["vllm", "transformers"], [], "vllm serve OUT --served-model-name out --host 127.0.0.1"),
        (["vllm", "transformers"], ["server=transformers"], "transformers serve OUT"),
        (
            ["vllm"],
            ["port=9", "arguments=[--max-model-len,4096]"],
            "--port 9 --max-model-len 4096",
        ),
    ],
)
def test_the_command_for_a_merged_model(
    installed: list[str],
    settings: list[str],
    command: str,
    export: Path,
    programs: Callable[..., None],
    command_line: Command,
) -> None:
    programs(*installed)
    code, text = command_line("serve", "export=out", "dry_run=true", *settings)
    assert code == 0, text
    assert command.replace("OUT", str(export)) in text


@pytest.mark.parametrize(
    ("installed", "command"),
    [
        (["llama-server", "transformers"], "llama-server -m GGUF --alias file --jinja --host"),
        (["transformers", "vllm"], "transformers serve FILE:model-f16.gguf"),
    ],
)
def test_the_command_for_a_gguf_file(
    installed: list[str],
    command: str,
    gguf: Path,
    programs: Callable[..., None],
    command_line: Command,
) -> None:
    programs(*installed)
    code, text = command_line("serve", "export=file", "dry_run=true")
    assert code == 0, text
    file = str(gguf / "model-f16.gguf")
    assert command.replace("GGUF", file).replace("FILE", str(gguf)) in text


def test_without_a_server_one_message_says_how_to_install_one(
    export: Path, gguf: Path, programs: Callable[..., None], command_line: Command
) -> None:
    programs()
    code, text = command_line("serve", "export=out")
    assert code == 2
    assert "pip install 'hydratune[serve]'" in text and "pip install vllm" in text
    code, text = command_line("serve", "export=file", "server=llama_cpp")
    assert code == 2 and "llama-server is on the PATH" in text
    code, text = command_line("serve", "export=file", "server=vllm")
    assert code == 2 and "cannot load a GGUF file" in text and "server=transformers" in text


def test_a_file_that_was_cut_is_named_before_a_server_starts(
    export: Path, programs: Callable[..., None], command_line: Command
) -> None:
    programs("transformers")
    digests.seal(export)
    assert command_line("serve", "export=out", "dry_run=true")[0] == 0
    (export / "model.safetensors").write_text("{")
    code, text = command_line("serve", "export=out", "dry_run=true")
    assert code == 1 and "out/model.safetensors is not as it was written" in text, text
    assert "or export the run again" in text


def test_what_is_no_export_is_refused(
    export: Path, programs: Callable[..., None], command_line: Command
) -> None:
    programs("transformers")
    (export / "model.safetensors").unlink()
    for settings, why in (
        (["export=out"], "there is no model in it"),
        (["export=nowhere"], "no such folder"),
        (["export=out/config.json"], "this is a file"),
        ([], "nothing to serve was given"),
        (["export=out", "run=out"], "not a run directory"),
        (["run=nowhere"], "not a run directory"),
        (["export=out", "port=0"], "must be in [1, 65535]"),
        (["export=out", "server=tgi"], "server"),
    ):
        code, text = command_line("serve", *settings)
        assert code == 2 and why in text, text
    (export / "adapter_config.json").write_text("{}")
    code, text = command_line("serve", "export=out")
    assert code == 2 and "form=merged" in text


def test_a_run_and_an_export_of_several_forms_name_what_to_type(
    export: Path, command_line: Command
) -> None:
    whole, adapter = Path("several/merged"), Path("several/adapter")
    shutil.copytree(export, whole)
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).write_text("{}")
    code, text = command_line("serve", "export=several")
    assert code == 2 and "choose one: export=several/merged" in text
    assert "export=several/adapter" not in text
    shutil.copytree(adapter, "mine/adapter")
    Path("mine/config.yaml").touch()
    code, text = command_line("serve", "export=mine")
    assert code == 2 and "this is a run, and not an export" in text and "fix: run=mine" in text


def test_a_run_is_exported_once_in_the_form_that_the_server_needs(
    hydratune: Command, programs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = hydratune("train", *SMALL, "tracking=disabled", "hydra.run.dir=run")
    assert code == 0, text
    programs("llama-server")
    code, text = hydratune("serve", "run=run", "dry_run=true")
    assert code == 0, text
    assert "hydratune export run=run output=run/served/gguf-" in text and "form=gguf" in text
    assert "model-f16.gguf --alias gguf-" in text
    programs("transformers")
    code, text = hydratune("serve", "run=run", "dry_run=true")
    line = next(line for line in text.splitlines() if line.startswith("hydratune export"))
    assert hydratune(*line.split()[1:], "rows=1")[0] == 0
    code, text = hydratune("serve", "run=run", "dry_run=true")
    assert code == 0 and "hydratune export" not in text and "run/served/merged-" in text
    for file in Path("run/adapter").glob("*.safetensors"):
        file.unlink()
    code, text = hydratune("serve", "run=run", "dry_run=true")
    assert code == 1 and "nothing to serve" in text
    assert "to export" in hydratune("export", "run=run", "output=new")[1]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.is_file() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def gone(pids: list[int], seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(map(alive, pids)):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_server_and_what_it_started(
    ending: signal.Signals, export: Path, programs: Callable[..., None], tmp_path: Path
) -> None:
    programs("vllm")
    port = free_port()
    command = [sys.executable, "-m", "hydratune", "serve", "export=out", f"port={port}"]
    served = subprocess.Popen(
        [*command, "server=vllm"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert served.stdout is not None
    lines: list[str] = []
    for line in served.stdout:
        lines.append(line)
        if line.startswith("python "):
            break
    assert any(f"http://127.0.0.1:{port}/v1" in line for line in lines), lines
    assert any(line.startswith("curl ") and '"model": "out"' in line for line in lines)
    assert urllib.request.urlopen(f"http://127.0.0.1:{port}/health").status == 200
    served.send_signal(ending)
    rest, _ = served.communicate(timeout=60)
    assert served.returncode == 0 and "the server has ended" in rest and "Traceback" not in rest
    assert gone([int(pid) for pid in (tmp_path / "pids").read_text().split()])


def test_a_server_that_fails_at_its_start_is_one_message(
    export: Path, tmp_path: Path, programs: Callable[..., None], command_line: Command
) -> None:
    programs("vllm")
    (tmp_path / "bin" / "vllm").write_text("#!/bin/sh\nexit 3\n")
    code, text = command_line("serve", "export=out", f"port={free_port()}")
    assert code == 1 and "exit code 3 before it answered" in text


def test_a_server_that_never_answers_is_ended(tmp_path: Path) -> None:
    sleeping = [sys.executable, "-c", "import time; time.sleep(600)"]
    with pytest.raises(RunError, match="start_timeout=1"):
        with serving.running(sleeping) as process:
            serving.wait_until_ready(process, f"http://127.0.0.1:{free_port()}/health", 0.5)
    assert process.returncode is not None


def test_a_port_in_use_is_noticed_before_anything_starts(
    export: Path, programs: Callable[..., None], command_line: Command
) -> None:
    programs("vllm")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, text = command_line("serve", "export=out", f"port={port}")
    assert code == 2 and f"set port={port + 1}" in text
    code, text = command_line("serve", "export=out", "host=no.such.host.invalid")
    assert code == 2 and "host=127.0.0.1" in text


@pytest.mark.slow
def test_the_test_rows_over_http_have_the_metrics_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_line: Command
) -> None:
    """The real model behind transformers serve, asked by OpenAI's client."""
    for module in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    code, text = command_line(
        *("train", "data.max_train_rows=48", "data.max_validation_rows=8"),
        *("data.max_test_rows=20", "evaluation.baselines=[]", "optimizer.lr=3e-3"),
        *("tracking=disabled", "hydra.run.dir=run"),
    )
    assert code == 0, text
    port = free_port()
    command = [sys.executable, "-m", "hydratune", "serve", "run=run", f"port={port}"]
    served = subprocess.Popen(
        [*command, "server=transformers"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert served.stdout is not None
    try:
        line = next(line for line in served.stdout if line.startswith("python "))
        name = line.partition('model="')[2].partition('"')[0]
        value = field_f1_over_http(tmp_path / "run", f"http://127.0.0.1:{port}/v1", name)
    finally:
        served.send_signal(signal.SIGINT)
        served.communicate(timeout=120)
    recorded = json.loads((tmp_path / "run" / "metrics.json").read_text())["eval/field_f1"]
    assert recorded > 0.5
    assert abs(value - recorded) < 0.01


def field_f1_over_http(run: Path, url: str, model: str) -> float:
    """Ask a server all test rows of a run, and return the field F1 of its answers."""
    import openai

    from hydratune.evaluation import assess, metrics
    from hydratune.evaluation.families import names
    from hydratune.experiment.finished_run import open_run
    from hydratune.records.predictions import read_predictions
    from hydratune.settings.evaluation import Task

    finished = open_run(str(run))
    client = openai.OpenAI(base_url=url, api_key="none", timeout=600)
    rows: list[Any] = []
    for row in read_predictions(finished.record.predictions_file()):
        answer = client.chat.completions.create(
            model=model,
            messages=row["prompt"],
            temperature=0,
            max_tokens=finished.measured_with["max_new_tokens"],
        )
        rows.append({**row, "prediction": answer.choices[0].message.content})
    evaluation = finished.settings.evaluation
    families = names(evaluation.metrics, Task(finished.measured_with["task"]))
    scored = assess.rescore(rows, families, finished.schema)
    measured = metrics.metrics(scored, evaluation, has_schema=True, families=families)
    return measured["field_f1"].value
