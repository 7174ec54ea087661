"""What would go wrong on a GPU only, shown on a CPU: fake devices, meta tensors, one autograd
thread, bf16 autocast.
"""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft.tuners.lora import Linear as PeftLinear

from conftest import SMALL
from hydratune.adapters import attach
from hydratune.adapters.methods.lora import LoraAdapter
from hydratune.data.encoding.encoded import Encoded
from hydratune.evaluation import assess, corpus, prompt_reader
from hydratune.evaluation.batches import batches_of
from hydratune.evaluation.generation import answer
from hydratune.models import compute, loading, memory_plan, varlen
from hydratune.models.attention import NAME
from hydratune.models.compute import Compute, as_trained, remember_autocast
from hydratune.settings.commands import register_commands
from hydratune.sweeps.pack import count_computing_threads
from hydratune.sweeps.pack_arguments import PackArguments
from hydratune.sweeps.planning import shared_by
from hydratune.training import packing
from hydratune.training.adalora import RankAllocation
from hydratune.training.objective import Objective
from hydratune.training.patches import with_lean_layers
from hydratune.training.prefix import Prefix, View
from small_models import build, opening, rows, with_lora
from test_config import compose
from test_generation import PROMPTS, REFERENCES

Command = Callable[..., tuple[int, str]]
CUDA = torch.device("cuda", 0)


# -------------------------------------------------------------- 1: backward passes share one thread
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
    examples = opening([5, 6, 7, 8, 9, 10])
    expected, wanted = Objective(model, micro_tokens=1000, workers=1, share=False).gradients(
        examples
    )
    with Objective(model, micro_tokens=16, workers=workers) as objective:
        # several wait for one
        assert sum(micro.reader is not None for micro in objective.plan(examples)) >= 2
        for _ in range(3):
            loss, gradients = objective.gradients(examples)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for found, own in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(found, own, rtol=2e-4, atol=1e-5)


def test_only_a_cpu_runs_backward_passes_side_by_side() -> None:
    assert not compute.has_one_autograd_thread(torch.device("cpu"))
    assert compute.has_one_autograd_thread(CUDA)


# ------------------------------------------------------------------ 2: one thread computes on a GPU
@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A machine with two GPUs of compute capability 8.0, as far as PyTorch is asked; what is done
    to them is noted.
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


def stored(folder: Path, *overrides: str) -> Path:
    """The settings of job 0 of a pack."""
    from omegaconf import OmegaConf

    (folder / ".pack").mkdir(exist_ok=True)
    (folder / ".pack" / "0.yaml").write_text(
        OmegaConf.to_yaml(OmegaConf.structured(compose(*overrides)))
    )
    return folder


def threads_of(folder: Path, *names: str) -> int:
    return count_computing_threads(PackArguments(folder, names, together=2, threads=16))


def test_a_pack_on_a_gpu_has_one_computing_thread(two_gpus: list[Any], tmp_path: Path) -> None:
    register_commands()
    assert threads_of(stored(tmp_path, "trainer=gpu"), "done", "0") == 1
    assert threads_of(stored(tmp_path, "trainer=auto"), "0") == 1
    assert threads_of(stored(tmp_path, "trainer=cpu"), "0") == 16


def test_a_pack_without_a_gpu_has_a_thread_per_core(tmp_path: Path) -> None:
    register_commands()
    assert threads_of(stored(tmp_path), "0") == 16
    # whose jobs say that there is none
    assert threads_of(stored(tmp_path, "trainer=gpu"), "0") == 16
    assert threads_of(tmp_path / "nothing", "0") == 16


def test_answers_are_computed_by_the_threads_of_the_pool_alone(model: Any) -> None:
    threads = set()
    model.register_forward_pre_hook(lambda *args: threads.add(threading.current_thread().name))
    options: dict[str, Any] = {
        "stop": frozenset([2]),
        "pad": 0,
        "max_new_tokens": 3,
        "batch_size": 2,
        "title": "",
        "quiet": True,
    }
    with ThreadPoolExecutor(1, "the only one") as pool:
        answer(model, PROMPTS, REFERENCES, pool=pool, **options)
    assert threads == {"the only one_0"}


# --------------------------------------------------------------- 3: generation is bounded by tokens
def test_batches_hold_no_more_tokens_than_they_may() -> None:
    prompts = [[0, 1, *range(length)] for length in (5, 900, 7, 40, 41, 42, 900, 8000)]
    references = [[1] * 10] * len(prompts)
    found = batches_of(prompts, references, 20, at_most=50, tokens=2000)
    assert sorted(n for batch in found for n in batch) == list(range(8))
    shared = len(prompt_reader.common_prefix(prompts))
    for batch in found:
        longest = max(len(prompts[n]) for n in batch) - shared + 20
        assert len(batch) == 1 or len(batch) * longest <= 2000
    assert len(found) > 1
    assert batches_of(prompts, references, 20, at_most=50, tokens=10**9) == [
        sorted(range(8), key=lambda n: len(prompts[n]))
    ]
    assert [
        len(batch) for batch in batches_of(prompts, references, 20, at_most=3, tokens=10**9)
    ] == [2, 3, 3]


def test_memory_of_a_token_covers_its_keys_and_values(model: Any) -> None:
    """50 prompts of 8,000 tokens of an 8B model have 53 GB of keys and values: once one batch."""
    from transformers import DynamicCache, LlamaConfig

    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.ones(1, 10, dtype=torch.long), past_key_values=cache, use_cache=True)
    held = (
        sum(
            t.numel() * t.element_size()
            for layer in cache.layers
            for t in (layer.keys, layer.values)
        )
        / 10
    )
    assert 2 * held < memory_plan.bytes_per_generated_token(model.config, 4)
    eight_b = LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    taken = memory_plan.bytes_per_generated_token(eight_b, 2)
    assert 2 * 131_072 < taken < 3.5 * 131_072
    assert 60 * 2**30 // taken < 50 * 8000


def test_settings_bound_the_tokens_of_a_batch(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    read = prompt_reader.PromptReader.read

    def noted(self: Any, prompts: Sequence[Sequence[int]], capacity: int) -> Any:
        sizes.append(tuple(map(len, prompts)))
        return read(self, prompts, capacity)

    monkeypatch.setattr(prompt_reader.PromptReader, "read", noted)
    options: dict[str, Any] = {
        "stop": frozenset([2]),
        "pad": 0,
        "max_new_tokens": 3,
        "batch_size": 4,
        "title": "",
        "quiet": True,
    }
    together = answer(model, PROMPTS, REFERENCES, **options)
    assert len(sizes) == 1
    sizes.clear()
    apart = answer(model, PROMPTS, REFERENCES, batch_tokens=16, **options)
    assert len(sizes) == 4
    assert [one.tokens for one in apart] == [one.tokens for one in together]
    assert [one.nll for one in apart] == pytest.approx([one.nll for one in together], rel=1e-5)


def test_answers_go_on_in_halves_where_memory_runs_out(
    model: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {
        "stop": frozenset([2]),
        "pad": 0,
        "max_new_tokens": 3,
        "batch_size": 4,
        "title": "",
        "quiet": True,
    }
    expected = answer(model, PROMPTS, REFERENCES, **options)
    read = prompt_reader.PromptReader.read
    most = 2

    def small(self: Any, prompts: Sequence[Sequence[int]], capacity: int) -> Any:
        if len(prompts) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return read(self, prompts, capacity)

    monkeypatch.setattr(prompt_reader.PromptReader, "read", small)
    found = answer(model, PROMPTS, REFERENCES, **options)
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    assert (
        capsys.readouterr().out.count("out of memory with 4 answers at once: batches are halved")
        == 1
    )
    most = 1  # halved once, and no more
    with pytest.raises(torch.OutOfMemoryError):
        answer(model, PROMPTS, REFERENCES, **options)


# -------------------------------------------------- 4: every rank on its own device, from the start
@pytest.mark.parametrize("rank", [0, 1])
def test_the_device_of_a_rank_is_current_before_anything_is_loaded_straight_onto_it(
    rank: int, two_gpus: list[Any], tiny: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    from_pretrained = loading.AutoModelForCausalLM.from_pretrained

    def noted(*args: Any, device_map: Any = None, **options: Any) -> Any:
        two_gpus.append(("loaded", device_map, options["dtype"]))
        return from_pretrained(*args, **options)

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", noted)
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


def test_a_rank_that_was_left_in_the_environment_is_refused(
    hydratune: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would keep no record, and compute on another GPU than Lightning."""
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
    """PEFT itself takes the first GPU it sees, also for a base on the CPU."""
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


# ---------------------------------------------------------------------------- 5: GPUs before Ampere
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
def test_the_kernel_is_only_taken_where_it_exists(
    capability: tuple[int, int], width: int, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    query: Any = SimpleNamespace(device=CUDA, dtype=torch.bfloat16, shape=(1, 4, 9, width))
    assert varlen.supports(query, query, 0.0) is taken
    query.dtype = torch.float32
    assert not varlen.supports(query, query, 0.0)


def test_bf16_on_an_old_gpu_is_said_to_be_slow(
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


# ------------------------------------------------------------------------------- 6: to the last bit
@pytest.fixture
def nothing_deterministic() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


def test_determinism_is_asked_for_before_the_gpu_is_used(
    two_gpus: list[Any], nothing_deterministic: None, monkeypatch: pytest.MonkeyPatch
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


def test_an_operation_that_has_no_order_is_named_and_training_goes_on(
    nothing_deterministic: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = with_lora(build("Llama"))
    model.get_base_model().set_attn_implementation(NAME)
    expected, wanted = Objective(model, micro_tokens=1000, workers=1).gradients(rows())
    real = packing.pack

    def strict(*args: Any, **options: Any) -> Any:
        if (
            torch.are_deterministic_algorithms_enabled()
            and not torch.is_deterministic_algorithms_warn_only_enabled()
        ):
            raise RuntimeError(
                "histc_cuda does not have a deterministic implementation, but you set"
                " 'torch.use_deterministic_algorithms(True)'"
            )
        return real(*args, **options)

    monkeypatch.setattr("hydratune.training.pack_loss.pack", strict)
    compute.be_deterministic()
    objective = Objective(model, micro_tokens=1000, workers=1)
    objective.peak_of_a_step(64)  # which comes first, to plan the memory
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    compute.be_deterministic()
    loss, gradients = objective.gradients(rows())
    assert torch.equal(loss, expected) and all(map(torch.equal, gradients, wanted))
    assert (
        "histc_cuda has no deterministic implementation on this device" in capsys.readouterr().out
    )


def apart(model: Any) -> list[float]:
    """Likelihoods after prompts that share no beginning: nothing is read before the batches."""
    options: dict[str, Any] = {
        "stop": frozenset([2]),
        "pad": 0,
        "max_new_tokens": 3,
        "batch_size": 4,
        "title": "",
        "quiet": True,
    }
    return [one.nll for one in answer(model, [[1, 2, 3], [4, 5]], [[6], [7]], **options)]


def passages(model: Any) -> list[list[float]]:
    both = [corpus.Passage((1, 2), (3, 4)), corpus.Passage((1,), (5,))]
    return [
        values.tolist() for values in corpus.token_log_likelihoods(model, both, pad=0, quiet=True)
    ]


@pytest.mark.parametrize(
    "evaluated",
    [lambda model: nlls(model), apart, passages],
    ids=["shared beginning", "answers", "passages"],
)
def test_whatever_is_evaluated_goes_on_as_well(
    model: Any,
    nothing_deterministic: None,
    capsys: pytest.CaptureFixture[str],
    evaluated: Callable[[Any], Any],
) -> None:
    expected = evaluated(model)

    def strict(*args: Any) -> None:
        if (
            torch.are_deterministic_algorithms_enabled()
            and not torch.is_deterministic_algorithms_warn_only_enabled()
        ):
            raise RuntimeError(
                "cumsum_cuda_kernel does not have a deterministic implementation, but you set"
                " 'torch.use_...'"
            )

    model.register_forward_pre_hook(strict)
    compute.be_deterministic()
    assert evaluated(model) == expected
    assert "cumsum_cuda_kernel has no deterministic implementation" in capsys.readouterr().out


def test_what_only_warns_is_set_back(nothing_deterministic: None) -> None:
    compute.be_deterministic()
    with compute.nothing_refused():
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert (
        torch.are_deterministic_algorithms_enabled()
        and not torch.is_deterministic_algorithms_warn_only_enabled()
    )
    torch.use_deterministic_algorithms(False)
    with compute.nothing_refused():
        assert not torch.are_deterministic_algorithms_enabled()


def test_ranks_are_dealt_out_where_nothing_is_refused(nothing_deterministic: None) -> None:
    """AdaLoRA's threshold is a k-th smallest value, which CUDA refuses in deterministic mode;
    computed twice, ranks would differ.
    """
    refusing: list[bool] = []
    callback = object.__new__(RankAllocation)
    allocate = lambda step: refusing.append(  # noqa: E731
        not torch.is_deterministic_algorithms_warn_only_enabled()
    )
    base_model = SimpleNamespace(update_and_allocate=allocate)
    callback.model = SimpleNamespace(base_model=base_model)  # type: ignore[assignment]
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(_should_accumulate=lambda: False))
    trainer: Any = SimpleNamespace(global_step=1, fit_loop=loop)
    compute.be_deterministic()
    callback.on_train_batch_end(trainer)
    assert refusing == [False] and not torch.is_deterministic_algorithms_warn_only_enabled()


def test_jobs_that_are_deterministic_share_no_process_with_others() -> None:
    assert shared_by(compose()) == shared_by(compose("optimizer.lr=0.5"))
    assert shared_by(compose()) != shared_by(compose("trainer.deterministic=false"))


def test_only_workspaces_that_are_deterministic_are_left(
    nothing_deterministic: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given, used in ((":16:8", ":16:8"), (":0:0", ":4096:8"), ("", ":4096:8")):
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given)
        compute.be_deterministic()
        assert compute.os.environ["CUBLAS_WORKSPACE_CONFIG"] == used


# -------------------------------------- 7: what is evaluated is computed as it is in training steps
def half(model: Any) -> Any:
    """LoRA in fp32 on a base in bf16: what bf16-mixed trains."""
    model = with_lora(model.to(torch.bfloat16))
    remember_autocast(model.get_base_model(), torch.bfloat16)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    return model.eval()


def nlls(model: Any, **options: Any) -> list[float]:
    found = answer(
        model,
        PROMPTS,
        REFERENCES,
        stop=frozenset([2]),
        pad=0,
        max_new_tokens=3,
        batch_size=4,
        title="",
        quiet=True,
        **options,
    )
    return [one.nll for one in found]


def losses(model: Any) -> list[float]:
    """By the objective, as a validation in training computes them."""
    objective = Objective(model, micro_tokens=1000, workers=1)
    examples = [
        Encoded((*p, *r), (*[False] * len(p), *[True] * len(r)))
        for p, r in zip(PROMPTS, REFERENCES, strict=True)
    ]
    with torch.autocast("cpu", torch.bfloat16):
        return [float(objective.loss([row])) for row in examples]


def test_likelihoods_are_those_of_the_validation(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = half(model)
    slow: list[Any] = []
    forward = PeftLinear.forward
    monkeypatch.setattr(
        PeftLinear,
        "forward",
        lambda self, *args, **kwargs: slow.append(self) or forward(self, *args, **kwargs),
    )
    found = nlls(tuned)
    assert not slow  # none by PEFT's own way, in fp32
    wanted = losses(tuned)
    remember_autocast(tuned.get_base_model(), None)
    before = nlls(tuned)  # as it was: without autocast
    assert slow
    apart = max(abs(a - b) / b for a, b in zip(found, wanted, strict=True))
    assert apart < 2e-3 < max(abs(a - b) / b for a, b in zip(before, wanted, strict=True)) * 10
    assert apart <= max(abs(a - b) / b for a, b in zip(before, wanted, strict=True))


def test_weights_trained_in_fp32_are_asked_in_bf16_as_well(model: Any) -> None:
    """After full fine-tuning with bf16-mixed everything was fp32, and attention looped over the
    rows.
    """
    remember_autocast(model, torch.bfloat16)
    seen, queries = set(), set()
    model.model.layers[0].self_attn.q_proj.register_forward_hook(
        lambda module, inputs, output: seen.add(output.dtype)
    )
    model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(
        lambda module, inputs: queries.add(inputs[0].dtype)
    )
    nlls(model)
    assert seen == queries == {torch.bfloat16}


def test_keys_and_values_are_held_in_the_dtype_of_attention(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember_autocast(model, torch.bfloat16)
    dtypes = set()
    show = prompt_reader.ReservedLayer._slice_buffers

    def noted(self: Any) -> None:
        show(self)
        dtypes.update((self.keys.dtype, self.values.dtype))

    monkeypatch.setattr(prompt_reader.ReservedLayer, "_slice_buffers", noted)
    nlls(model)
    assert dtypes == {torch.bfloat16}


def test_the_arithmetic_goes_with_the_model_into_threads_and_adapters(model: Any) -> None:
    remember_autocast(model, torch.bfloat16)
    with ThreadPoolExecutor(1) as pool:
        assert nlls(model, pool=pool) == nlls(model)
    assert compute.autocast_of(with_lora(model)) is torch.bfloat16
    with as_trained(model):
        assert torch.is_autocast_enabled("cpu")
    remember_autocast(model, None)
    with as_trained(model):
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_a_run_in_mixed_precision_measures_in_it(
    hydratune: Command, tmp_path: Path, adapter: str
) -> None:
    """Through the command line: the same rows validated in training and asked after it have the
    same likelihood.
    """
    lines = [
        {"prompt": f"clause {n} of contract {n * 7}", "completion": f"party {n}, term {n} years"}
        for n in range(12)
    ]
    for name, part in (("train", lines[:4]), ("held", lines[4:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in part))
    files = [
        f"data.train={tmp_path}/train.jsonl",
        f"data.validation={tmp_path}/held.jsonl",
        f"data.test={tmp_path}/held.jsonl",
    ]
    options = [
        "data.quality.exact_leaks=off",
        "data.quality.near_leaks=off",
        "optimizer.lr=0.01",
        "data.max_test_rows=null",
    ]
    small = [
        word
        for word in SMALL
        if "precision" not in word and "max_test_rows" not in word and "max_validation" not in word
    ]
    code, text = hydratune(
        "train",
        *small,
        "data=files",
        *files,
        *options,
        "data.max_validation_rows=null",
        f"adapter={adapter}",
        "trainer.precision=bf16-mixed",
        f"hydra.run.dir={tmp_path}/run",
    )
    assert code == 0, text
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["eval/nll"] == pytest.approx(metrics["val/loss"], rel=2e-3)


# ------------------------------------------------------------ 8: adapters are never trained in bf16
@pytest.mark.parametrize("adapter", ["lora", "dora", "ia3", "prompt_tuning"])
def test_adapters_in_bf16_are_refused(hydratune: Command, tmp_path: Path, adapter: str) -> None:
    code, text = hydratune(
        "train",
        *SMALL,
        "trainer.precision=bf16-true",
        f"adapter={adapter}",
        f"hydra.run.dir={tmp_path}/run",
    )
    assert code == 2
    assert (
        "trainer.precision = bf16-true" in text
        and "round to nothing" in text
        and "set trainer.precision=bf16-mixed" in text
    )
    assert not (tmp_path / "run" / "status.json").exists()


def test_small_updates_are_lost_in_bf16_and_kept_in_fp32() -> None:
    """Why it is refused: AdamW's first step is as large as the learning rate."""
    for dtype, moved in ((torch.bfloat16, 0.0), (torch.float32, 1.0)):
        weight = torch.nn.Parameter(torch.full((64,), 0.5, dtype=dtype))
        optimizer = torch.optim.AdamW([weight], lr=2e-4, weight_decay=0.0)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        assert (weight != 0.5).float().mean().item() == moved


def test_full_fine_tuning_in_bf16_is_warned_of(hydratune: Command, tmp_path: Path) -> None:
    code, text = hydratune(
        "train",
        *SMALL,
        "trainer.precision=bf16-true",
        "adapter=none",
        f"hydra.run.dir={tmp_path}/run",
    )
    assert code == 0, text
    assert "weights in bf16 lose updates" in text


# ----------------------------------------------------- 9: baselines of one device are not another's
def test_baselines_are_found_again_only_where_they_would_be_the_same(
    model: Any, encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydratune.data.rows import Message, Row
    from hydratune.settings.evaluation import EvaluationConfig, Task

    test_rows = [
        Row(
            f"r{n}", (Message("user", f"question {n}" * (n + 1)), Message("assistant", "yes")), None
        )
        for n in range(4)
    ]
    bench = assess.TestBench(test_rows, encoder, EvaluationConfig(), Task.text, None, 2048)

    def key(**more: Any) -> str:
        return bench.cache_key("base", bench.zero_shot(), SimpleNamespace(**(known | more)))

    known: dict[str, Any] = {
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "config": model.config,
    }
    known["parameters"] = lambda: iter([torch.zeros(1)])
    first = key()
    assert key() == first
    assert key(dtype=torch.float32) != first
    assert key(hydratune_autocast=torch.bfloat16) != first
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"card {device.index}")
    on_gpu = [key(device=torch.device("cuda", number)) for number in (0, 1)]
    assert len({first, *on_gpu}) == 3
    bench.config = EvaluationConfig(batch_size=2)
    halved = key()
    assert halved != first
    bench.config = EvaluationConfig(batch_size=50, batch_tokens=1)
    assert key() not in (first, halved)
    bench.config = EvaluationConfig(batch_size=1)
    one_by_one = key()
    bench.config = EvaluationConfig(batch_size=50, batch_tokens=1)
    assert key() == one_by_one  # the same batches for another reason


# ----------------------------------------------------- 10: gradients of a prefix are summed in fp32
SMALL_SHARE = 2**-9  # added to 1 in bf16 it is lost


def test_gradients_of_many_micro_packs_are_summed_in_fp32() -> None:
    prefix = Prefix(257)
    key = torch.ones(1, 1, 2, 4, dtype=torch.bfloat16, requires_grad=True)
    with torch.enable_grad():
        kept, _ = prefix.record(0, key, key.detach().clone().requires_grad_())
    for pack in range(257):
        leaf, _ = View(prefix, pack)[0]
        assert leaf.dtype == torch.float32
        for which in (0, 1):
            prefix.deliver(
                0, which, pack, torch.full(leaf.shape, 1.0 if pack == 0 else SMALL_SHARE)
            )
    prefix.wait_for_gradients()
    (gradient,) = torch.autograd.grad(kept.float().sum() * 0, key)
    assert gradient.dtype == torch.bfloat16 and torch.equal(gradient, torch.full_like(key, 1.5))


def test_gradients_of_many_rows_are_summed_in_fp32() -> None:
    lengths, before = (1,) * 257, 3
    prefix = torch.randn(before, 2, 4).to(torch.bfloat16).float().requires_grad_()
    x = torch.randn(257, 2, 4).to(torch.bfloat16).requires_grad_()
    put = varlen.BeforeEach.apply(prefix, x, lengths)
    assert put.dtype == torch.bfloat16
    expected = torch.cat(
        [part for row in x.split(lengths) for part in (prefix.to(torch.bfloat16), row)]
    )
    assert torch.equal(put, expected)
    shares = torch.full((257, before + 1, 2, 4), SMALL_SHARE)
    shares[0] = 1.0
    d_prefix, d_x = torch.autograd.grad(put, [prefix, x], shares.flatten(0, 1).to(torch.bfloat16))
    assert d_prefix.dtype == torch.float32 and torch.equal(d_prefix, torch.full_like(prefix, 1.5))
    assert torch.equal(d_x, shares[:, -1].to(torch.bfloat16))


def test_where_rows_begin_is_made_once_for_all_layers() -> None:
    varlen._starts.cache_clear()
    varlen._places.cache_clear()
    with torch.inference_mode():  # an answer comes first: a training step must be able to keep it
        first = varlen._starts((3, 4), 0, torch.device("cpu"))
        assert not any(
            part.is_inference() for part in (first, *varlen._places((3, 4), 2, torch.device("cpu")))
        )
    assert first.tolist() == [0, 3, 7] and first.dtype == torch.int32
    assert varlen._starts((3, 4), 0, torch.device("cpu")) is first
    assert varlen._starts((3, 4), 2, torch.device("cpu")).tolist() == [0, 5, 11]
