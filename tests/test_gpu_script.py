"""benchmarks/gpu.py on a CPU: all its parts with small models, and what its file holds when a part
fails.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

# the scripts find each other by this path as well
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import gpu
import gpu_model
import gpu_speed

ROOT = Path(__file__).parents[1]
TOY = """
import sys
import without_packages

# as on a machine with the packages that gpu_wheels.sh collects
without_packages.hide(set(without_packages.DISTRIBUTIONS) - {"bitsandbytes"})
import gpu

sys.exit(gpu.main(["--toy", "--out", *sys.argv[1:]]))
"""


def start_toy_run(file: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the toy run in a separate process, without the packages that only other commands
    need.
    """
    search = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "benchmarks"), *sys.path])
    command = [sys.executable, "-c", TOY, str(file), *arguments]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": search},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def toy(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, int]:
    """Return (content of the file, printed text, exit code)."""
    file = tmp_path_factory.mktemp("gpu") / "gpu.json"
    process = start_toy_run(file)
    printed, _ = process.communicate()
    assert file.is_file(), printed[-3000:]
    return json.loads(file.read_text()), printed, process.returncode


@pytest.mark.slow
def test_every_check_passes_with_its_figures_and_its_tolerance(
    toy: tuple[dict[str, Any], str, int],
) -> None:
    record, printed, code = toy
    checks = {name: part for name, part in record["parts"].items() if name.startswith("check: ")}
    assert len(checks) == 9 and code == 0, printed[-3000:]
    assert {part["status"] for part in checks.values()} == {"passed"}, checks
    step = checks["check: packed step, fp32"]["result"]
    assert (
        step["matrices"] == 2 * 7 * 2 and 0 < step["gradient_error"] <= step["gradient_tolerance"]
    )
    assert checks["check: nf4 step"]["result"]["gradient_error"] > 0
    assert (
        checks["check: shared prefix, bf16"]["result"]["prefix"] > 64
        and checks["check: shared prefix, bf16"]["result"]["micro_packs"] > 1
    )
    assert checks["check: generation, fp32"]["result"]["tokens"] == 6 * 16


@pytest.mark.slow
def test_every_measurement_has_its_numbers_and_a_reason_for_those_it_lacks(
    toy: tuple[dict[str, Any], str, int],
) -> None:
    record, printed, _ = toy
    speeds = {
        name: part["result"] for name, part in record["parts"].items() if name.startswith("speed: ")
    }
    assert len(speeds) == 2 * 2 * 2 * 2 + 3 and all(speeds.values())
    for result in speeds.values():
        assert (
            result["tokens_per_second"] > 0
            and result["step_seconds"] > 0
            and 0 < result["utilisation"] < 1
        )
        assert {result[name] for name in gpu_speed.COUNTED} == {None} and result[
            "why_no_counters"
        ] == "no CUDA device"
        assert (
            result["out_of_memory"] == []
            and result["batch"] == 64
            and result["peak_memory"] is None
        )
    # the same model, adapter and rows
    for plain in (name for name in speeds if name.endswith("plain")):
        assert speeds[plain]["first_loss"] == pytest.approx(
            speeds[plain.replace("plain", "ours")]["first_loss"], rel=1e-5
        )
    trials = {
        name: part["result"]
        for name, part in record["parts"].items()
        if name.startswith("trials: ")
    }
    assert [name.split("step, ")[1] for name in trials] == list(gpu_speed.MODES)
    assert all(
        t["trial_steps_per_second"] > 0 and t["losses_apart"] < 1e-5 and len(t["losses"]) == 4
        for t in trials.values()
    )
    assert [t["merged"] > 0.5 for t in trials.values()] == [False, False, True]
    assert (
        all(f"| {name.partition(': ')[2]} |" in printed for name in (*speeds, *trials))
        and "3,083 tokens/s" in printed
    )
    assert record["ended"] == "by itself" and record["versions"]["torch"]


@pytest.mark.slow
def test_a_run_that_is_killed_keeps_the_parts_that_were_done(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    process = start_toy_run(file)
    try:
        while sum("seconds" in part for part in parts_of(file).values()) < 3:
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    kept = parts_of(file)
    assert (
        len(kept) >= 3
        and kept["check: packed step, fp32"]["status"] == "passed"
        and "ended" not in json.loads(file.read_text())
    )


def parts_of(file: Path) -> dict[str, Any]:
    parts: dict[str, Any] = json.loads(file.read_text())["parts"] if file.is_file() else {}
    return parts


@pytest.fixture(autouse=True)
def just_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script measures time from its import, which was long ago in this process."""
    monkeypatch.setattr(gpu, "STARTED", time.monotonic())


@pytest.fixture
def run(tmp_path: Path, just_started: None) -> gpu.Run:
    return gpu.Run(tmp_path / "gpu.json", {"device": {"name": "none"}, "versions": {}}, 1.0)


def test_a_part_that_raises_is_written_down_and_the_others_run(run: gpu.Run) -> None:
    def fails() -> dict[str, Any]:
        raise ValueError("no such thing")

    run.do(gpu.Part("speed: first", fails))
    run.do(gpu.Part("check: second", lambda: {"passed": True, "error": float("nan")}))
    run.do(gpu.Part("check: third", lambda: {"passed": False, "error": 0.5}))
    parts = parts_of(run.file)
    assert (
        parts["speed: first"]["status"] == "error"
        and parts["speed: first"]["reason"] == "ValueError: no such thing"
    )
    assert (
        parts["check: second"]["status"] == "passed"
        and parts["check: second"]["result"]["error"] == "nan"
    )
    assert (
        parts["check: third"]["status"] == "FAILED"
        and parts["check: third"]["result"]["error"] == 0.5
    )
    assert run.bad == ["speed: first", "check: third"]
    assert "| first | error |" in gpu.report(run) and "| check: third | FAILED |" in gpu.report(run)


def test_parts_that_lack_something_or_take_too_long_are_skipped_with_the_reason(
    run: gpu.Run,
) -> None:
    run.do(gpu.Part("first", dict, lacks=lambda: "no such package"))
    run.do(gpu.Part("second", dict, lambda: 3600.0))
    assert [part["status"] for part in parts_of(run.file).values()] == ["skipped", "skipped"]
    reasons = [part["reason"] for part in parts_of(run.file).values()]
    assert (
        reasons[0] == "no such package"
        and reasons[1].startswith("it takes about 3600 s, and ")
        and not run.bad
    )


def test_a_part_ends_with_the_time_of_the_run(run: gpu.Run) -> None:
    def sleep() -> dict[str, Any]:
        time.sleep(20)
        return {}

    run.ends = time.monotonic() + 0.3
    entry = run.do(gpu.Part("first", sleep, lambda: 0.1))
    assert entry["status"] == "out of time" and entry["seconds"] < 5
    assert run.do(gpu.Part("second", dict))["status"] == "skipped"
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_out_of_memory_is_a_result_and_halves_what_is_computed_at_once(run: gpu.Run) -> None:
    place = gpu_model.ComputeDevice(torch.device("cpu"))

    def fits(limit: int) -> Any:
        def step(at_once: int) -> dict[str, Any]:
            if at_once > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return {"step_seconds": 1.0}

        return step

    result = gpu_model.halving(fits(300), 1024, 128, place)
    assert result == {
        "step_seconds": 1.0,
        "batch": 256,
        "out_of_memory": ["1024: out of memory", "512: out of memory"],
    }
    assert "256 (halved)" in gpu.line("speed: x", {"result": result})
    entry = run.do(gpu.Part("first", lambda: gpu_model.halving(fits(64), 256, 128, place)))
    assert (
        entry["status"] == "out of memory"
        and entry["reason"] == "256: out of memory; 128: out of memory"
        and not run.bad
    )
    with pytest.raises(ValueError, match="other"):
        gpu_model.halving(lambda size: (_ for _ in ()).throw(ValueError("other")), 8, 1, place)


def test_launches_and_waits_are_counted_by_the_names_of_the_profiler() -> None:
    events = {
        "cudaLaunchKernel": 70,
        "cudaLaunchKernelExC": 7,
        "cuLaunchKernel": 3,
        "aten::mm": 50,
        "cudaStreamSynchronize": 4,
    }
    events |= {
        "Memcpy DtoH (Device -> Pageable)": 2,
        "Memcpy HtoD (Pageable -> Device)": 9,
        "cudaDeviceSynchronize": 1,
    }
    counts = gpu_speed.counted(events)
    assert counts == {
        "kernel_launches": 80,
        "stream_syncs": 4,
        "device_syncs": 1,
        "copies_to_host": 2,
        "why_no_counters": None,
    }
    assert gpu_speed.counted({"aten::mm": 5})["why_no_counters"] == "the profiler saw no kernel"


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_rows_that_see_their_neighbours_fail_the_check(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    threads: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from hydratune.training import micro_pack_loss

    pack = micro_pack_loss.pack_rows

    def leaking(*args: Any, **options: Any) -> Any:
        packed = pack(*args, **options)
        return replace(packed, row_lengths=(sum(packed.row_lengths),))

    monkeypatch.setattr(micro_pack_loss, "pack_rows", leaking)
    code = gpu.main(["--toy", "--only", "packed step", "--out", str(tmp_path / "gpu.json")])
    parts = parts_of(tmp_path / "gpu.json")
    assert code == 1 and {
        parts[f"check: packed step, {kind}"]["status"] for kind in ("fp32", "bf16")
    } == {"FAILED"}
    assert "check: packed step, fp32: FAILED" in capsys.readouterr().out


def test_a_4_bit_base_has_the_bits_that_transformers_makes_of_the_same_weights(
    tmp_path: Path,
) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    place, shape = gpu_model.ComputeDevice(torch.device("cpu")), gpu_model.TOY_1B
    gpu_model.build(shape, place, torch.bfloat16).save_pretrained(tmp_path)
    options = {
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.bfloat16,
    }
    quantization = BitsAndBytesConfig(load_in_4bit=True, **options)
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=quantization, dtype=torch.bfloat16
    )
    built = gpu_model.build(shape, place, torch.bfloat16, nf4=True)
    for name, module in built.model.layers.named_modules():
        if hasattr(module, "compute_dtype"):
            ours, theirs = module.weight, loaded.model.layers.get_submodule(name).weight
            states = ours.quant_state, theirs.quant_state
            pairs = [
                (ours, theirs),
                *((getattr(s, key) for s in states) for key in ("absmax", "code", "offset")),
            ]
            pairs += [(getattr(s.state2, key) for s in states) for key in ("absmax", "code")]
            assert (
                all(torch.equal(a.flatten(), b.flatten()) for a, b in pairs)
                and states[0].dtype == states[1].dtype
            ), name
            assert module.compute_dtype == torch.bfloat16
    assert sum(hasattr(module, "compute_dtype") for module in built.modules()) == 7 * shape.layers


def test_without_bitsandbytes_4_bit_parts_are_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert gpu.no_bitsandbytes() is None
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert "bitsandbytes cannot be imported" in str(gpu.no_bitsandbytes())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nonsense"], "--only nonsense: no part has this in its name"),
        (["--minutes", "0"], "--minutes 0: give more than 0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    threads: None,
    arguments: list[str],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--toy", "--out", str(tmp_path / "gpu.json"), *arguments])
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and message in printed
    assert "check: packed step, fp32" in printed or "minutes" in message


def test_a_file_that_cannot_be_written_is_one_message(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], threads: None
) -> None:
    (tmp_path / "file").write_text("")
    assert gpu.main(["--toy", "--out", str(tmp_path / "file" / "gpu.json")]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("gpu.py: ") and "Traceback" not in printed


def test_a_run_without_a_completed_part_fails(
    run: gpu.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.work_through(run, [gpu.Part("check: first", dict, lambda: 3600.0)], []) == 1
    assert "nothing was run" in capsys.readouterr().out


def test_without_the_rate_of_the_device_speeds_are_skipped(run: gpu.Run) -> None:
    (part,) = [
        part
        for part in gpu.planned(run, toy=True)
        if part.name == "speed: toy, tied, LoRA, 16 tokens, plain"
    ]
    assert run.do(part)["reason"] == "the device's rate was not measured"


def test_ctrl_c_keeps_what_was_measured(run: gpu.Run, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> dict[str, Any]:
        raise KeyboardInterrupt

    parts = [
        gpu.Part("check: first", lambda: {"passed": True}),
        gpu.Part("check: second", interrupted),
        gpu.Part("check: third", dict),
    ]
    assert gpu.work_through(run, parts, []) == 130
    kept = json.loads(run.file.read_text())
    assert kept["ended"] == "interrupted"
    assert [part["status"] for part in kept["parts"].values()] == ["passed", "interrupted"]
    assert "| check: first | passed |" in capsys.readouterr().out
