"""Devices and threads of a GPU, shown on a CPU: fake devices, meta tensors, one autograd thread."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import SMALL
from hydratune.adapters import attach
from hydratune.adapters.methods.lora import LoraAdapter
from hydratune.evaluation.generation import answer
from hydratune.models import compute, loading, varlen
from hydratune.models.attention import NAME
from hydratune.models.compute import Compute
from hydratune.sweeps.pack import count_computing_threads
from hydratune.sweeps.pack_arguments import PackArguments
from hydratune.training.objective import Objective
from hydratune.training.patches import with_lean_layers
from reference_answers import OPTIONS, PROMPTS, REFERENCES
from small_models import build, rows_with_prefix, with_lora
from test_config import compose

Command = Callable[..., tuple[int, str]]


CUDA = torch.device("cuda", 0)


@pytest.fixture
def one_autograd_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run every backward pass of the process in one thread, one after the other, as on a GPU."""
    grad = torch.autograd.grad
    with ThreadPoolExecutor(1, "autograd of the device") as device:
        monkeypatch.setattr(
            torch.autograd,
            "grad",
            lambda *args, **kwargs: device.submit(grad, *args, **kwargs).result(timeout=30),
        )
        yield


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_backward_pass_never_waits_for_another_one(
    workers: int, one_autograd_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hydratune.training.plan.LEAST_SAVED", 8)
    monkeypatch.setattr("hydratune.training.execution.has_one_autograd_thread", lambda device: True)
    model = with_lora(build("Llama"))
    model.get_base_model().set_attn_implementation(NAME)
    examples = rows_with_prefix([5, 6, 7, 8, 9, 10])
    expected, expected_gradients = Objective(
        model, micro_tokens=1000, workers=1, share=False
    ).gradients(examples)
    with Objective(model, micro_tokens=16, workers=workers) as objective:
        # several micro-packs wait for one
        assert sum(micro.reader is not None for micro in objective.plan(examples)) >= 2
        for _ in range(3):
            loss, gradients = objective.gradients(examples)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=1e-5)


def test_only_a_cpu_runs_backward_passes_side_by_side() -> None:
    assert not compute.has_one_autograd_thread(torch.device("cpu"))
    assert compute.has_one_autograd_thread(CUDA)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A machine with two GPUs of compute capability 8.0, as PyTorch reports it; returns the calls
    that change them.
    """
    done: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Fake A100")
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: done.append(("current", str(device)))
    )
    monkeypatch.setattr(compute, "be_deterministic", lambda: done.append("deterministic"))
    return done


def store_job_settings(folder: Path, *overrides: str) -> Path:
    """Write the settings of job 0 of a pack."""
    from omegaconf import OmegaConf

    (folder / ".pack").mkdir(exist_ok=True)
    (folder / ".pack" / "0.yaml").write_text(
        OmegaConf.to_yaml(OmegaConf.structured(compose(*overrides)))
    )
    return folder


def computing_threads(folder: Path, *names: str) -> int:
    return count_computing_threads(PackArguments(folder, names, together=2, threads=16))


def test_a_pack_on_a_gpu_has_one_computing_thread(two_gpus: list[Any], tmp_path: Path) -> None:

    assert computing_threads(store_job_settings(tmp_path, "trainer=gpu"), "done", "0") == 1
    assert computing_threads(store_job_settings(tmp_path, "trainer=auto"), "0") == 1
    assert computing_threads(store_job_settings(tmp_path, "trainer=cpu"), "0") == 16


def test_a_pack_without_a_gpu_has_a_thread_per_core(tmp_path: Path) -> None:

    assert computing_threads(store_job_settings(tmp_path), "0") == 16
    # its jobs ask for a GPU that does not exist
    assert computing_threads(store_job_settings(tmp_path, "trainer=gpu"), "0") == 16
    assert computing_threads(tmp_path / "nothing", "0") == 16


def test_answers_are_computed_by_the_threads_of_the_pool_alone(model: Any) -> None:
    threads = set()
    model.register_forward_pre_hook(lambda *args: threads.add(threading.current_thread().name))
    options = {**OPTIONS, "batch_size": 2}
    with ThreadPoolExecutor(1, "the only one") as pool:
        answer(model, PROMPTS, REFERENCES, pool=pool, **options)
    assert threads == {"the only one_0"}


@pytest.mark.parametrize("rank", [0, 1])
def test_the_device_of_a_rank_is_current_before_weights_are_loaded_onto_it(
    rank: int, two_gpus: list[Any], tiny: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    from_pretrained = AutoModelForCausalLM.from_pretrained

    def noted(*args: Any, device_map: Any = None, **options: Any) -> Any:
        two_gpus.append(("loaded", device_map, options["dtype"]))
        return from_pretrained(*args, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", noted)
    settings = compose("trainer=ddp", "trainer.accelerator=gpu", "model=tiny")
    chosen = compute.compute_of(settings)
    loading.load_model(tiny[0], tiny[1], chosen)
    device = f"cuda:{rank}"
    assert two_gpus == [
        "deterministic",
        ("current", device),
        ("loaded", {"": device}, torch.bfloat16),
    ]
    assert (chosen.accelerator, str(chosen.device), chosen.precision) == (
        "gpu",
        device,
        "bf16-mixed",
    )


def test_a_local_rank_without_ddp_is_refused(
    hydratune: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a run would write no record, and would compute on another GPU than Lightning."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    code, text = hydratune("train", *SMALL)
    assert (
        code == 2
        and "LOCAL_RANK" in text
        and "set trainer=ddp trainer.devices=N, or unset LOCAL_RANK" in text
    )
    assert (
        str(compute.device_of_rank("gpu", "auto")) == "cuda:0"
        and str(compute.device_of_rank("gpu", "ddp")) == "cuda:1"
    )


def test_weights_arrive_on_the_device_in_their_final_type(tiny: tuple[Any, Any, Any]) -> None:
    model = loading.load_model(
        tiny[0], tiny[1], Compute("gpu", torch.device("meta"), "bf16-mixed", torch.bfloat16)
    )
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}


def test_an_adapter_is_loaded_onto_the_device_of_its_base(
    hydratune: Command, tmp_path: Path, tiny: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT by itself uses the first GPU, also for a base on the CPU."""
    model = with_lean_layers(
        attach.add_adapter(
            loading.load_model(tiny[0], tiny[1], compute.on_cpu()), LoraAdapter(r=2, lora_alpha=4)
        )
    )
    attach.save(model, tiny[2], tmp_path / "adapter")
    devices: list[Any] = []
    load_adapter = attach.PeftModel.load_adapter

    def noted(self: Any, *args: Any, torch_device: Any = None, **options: Any) -> Any:
        devices.append(torch_device)
        return load_adapter(self, *args, torch_device=torch_device, **options)

    monkeypatch.setattr(attach.PeftModel, "load_adapter", noted)
    attach.load_tuned(
        tiny[0], LoraAdapter(r=2, lora_alpha=4), tiny[1], tmp_path / "adapter", compute.on_cpu()
    )
    assert devices == ["cpu"]


@pytest.mark.parametrize(
    ("capability", "width", "taken"),
    [
        ((7, 0), 128, False),
        ((7, 5), 64, False),
        ((8, 0), 64, True),
        ((8, 0), 224, True),
        ((8, 6), 128, True),
        ((8, 6), 224, False),
        ((8, 9), 256, True),
        ((9, 0), 256, True),
        ((9, 0), 264, False),
        ((9, 0), 60, False),
        ((12, 0), 200, False),
        ((12, 0), 128, True),
    ],
)
def test_the_kernel_is_used_only_on_supported_gpus(
    capability: tuple[int, int], width: int, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    query: Any = SimpleNamespace(device=CUDA, dtype=torch.bfloat16, shape=(1, 4, 9, width))
    assert varlen.supports(query, query, 0.0) is taken
    query.dtype = torch.float32
    assert not varlen.supports(query, query, 0.0)


def test_bf16_on_an_old_gpu_is_reported_as_slow(
    two_gpus: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Tesla T4")
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    assert compute.compute_of(compose("trainer=gpu")).precision == "32-true"
    assert "bf16" not in capsys.readouterr().out
    compute.compute_of(compose("trainer=gpu", "trainer.precision=bf16-mixed"))
    assert "Tesla T4 has no bf16 units" in capsys.readouterr().out


def test_determinism_is_switched_on_before_the_gpu_is_used(
    two_gpus: list[Any], determinism_reset: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.use_deterministic_algorithms(True)  # by an earlier run in this process
    compute.compute_of(compose("trainer=gpu", "trainer.deterministic=false"))
    assert "deterministic" not in two_gpus and not torch.are_deterministic_algorithms_enabled()
    compute.compute_of(compose("trainer=cpu"))
    assert "deterministic" not in two_gpus
    compute.compute_of(compose("trainer=gpu"))
    assert two_gpus[-2:] == ["deterministic", ("current", "cuda:0")]
    monkeypatch.undo()
    compute.be_deterministic()
    assert (
        torch.are_deterministic_algorithms_enabled()
        and not torch.is_deterministic_algorithms_warn_only_enabled()
    )
    assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
