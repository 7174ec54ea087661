"""Mixed precision: evaluation computes as training does, adapters stay in fp32, and gradients are
summed in fp32.
"""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import Linear as PeftLinear

from conftest import SMALL
from hydratune.data.encoding.encoded import Encoded
from hydratune.evaluation import prompt_reader
from hydratune.models import compute, varlen
from hydratune.models.compute import as_trained, remember_autocast
from hydratune.training.objective import Objective
from hydratune.training.prefix import Prefix, View
from reference_answers import PROMPTS, REFERENCES, reference_nlls
from small_models import with_lora

Command = Callable[..., tuple[int, str]]


def bf16_lora_model(model: Any) -> Any:
    """Return LoRA in fp32 on a base in bf16, which is what bf16-mixed trains."""
    model = with_lora(model.to(torch.bfloat16))
    remember_autocast(model.get_base_model(), torch.bfloat16)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    return model.eval()


def validation_losses(model: Any) -> list[float]:
    """Return the losses that the objective computes in a validation during training."""
    objective = Objective(model, micro_tokens=1000, workers=1)
    examples = [
        Encoded((*p, *r), (*[False] * len(p), *[True] * len(r)))
        for p, r in zip(PROMPTS, REFERENCES, strict=True)
    ]
    with torch.autocast("cpu", torch.bfloat16):
        return [float(objective.loss([row])) for row in examples]


def test_likelihoods_of_evaluation_equal_those_of_validation(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = bf16_lora_model(model)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.mul_(30)  # what is rounded is far more than other differences
    slow: list[Any] = []
    forward = PeftLinear.forward
    monkeypatch.setattr(
        PeftLinear,
        "forward",
        lambda self, *args, **kwargs: slow.append(self) or forward(self, *args, **kwargs),
    )
    evaluated = reference_nlls(tuned)
    assert not slow  # no layer is computed by PEFT's own forward, in fp32
    validated = validation_losses(tuned)
    remember_autocast(tuned.get_base_model(), None)
    without_autocast = reference_nlls(tuned)
    assert slow
    error = max(abs(a - b) / b for a, b in zip(evaluated, validated, strict=True))
    assert (
        error
        < 2e-3
        < max(abs(a - b) / b for a, b in zip(without_autocast, validated, strict=True)) * 10
    )
    assert error <= max(abs(a - b) / b for a, b in zip(without_autocast, validated, strict=True))


def test_weights_trained_in_fp32_are_evaluated_in_bf16(model: Any) -> None:
    """In an earlier version, everything was fp32 after full fine-tuning with bf16-mixed, and
    attention looped over the rows.
    """
    remember_autocast(model, torch.bfloat16)
    seen, queries = set(), set()
    model.model.layers[0].self_attn.q_proj.register_forward_hook(
        lambda module, inputs, output: seen.add(output.dtype)
    )
    model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(
        lambda module, inputs: queries.add(inputs[0].dtype)
    )
    reference_nlls(model)
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
    reference_nlls(model)
    assert dtypes == {torch.bfloat16}


def test_autocast_of_a_model_applies_in_threads_and_with_adapters(model: Any) -> None:
    remember_autocast(model, torch.bfloat16)
    with ThreadPoolExecutor(1) as pool:
        assert reference_nlls(model, pool=pool) == reference_nlls(model)
    assert compute.autocast_of(with_lora(model)) is torch.bfloat16
    with as_trained(model):
        assert torch.is_autocast_enabled("cpu")
    remember_autocast(model, None)
    with as_trained(model):
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_a_run_in_mixed_precision_is_evaluated_in_it(
    hydratune: Command, tmp_path: Path, adapter: str
) -> None:
    """Through the command line: the same rows have the same likelihood in the validation of
    training and in the evaluation after it.
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
    """The reason for the refusal: AdamW's first step is as large as the learning rate."""
    for dtype, moved in ((torch.bfloat16, 0.0), (torch.float32, 1.0)):
        weight = torch.nn.Parameter(torch.full((64,), 0.5, dtype=dtype))
        optimizer = torch.optim.AdamW([weight], lr=2e-4, weight_decay=0.0)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        assert (weight != 0.5).float().mean().item() == moved


def test_full_fine_tuning_in_bf16_gives_a_warning(hydratune: Command, tmp_path: Path) -> None:
    code, text = hydratune(
        "train",
        *SMALL,
        "trainer.precision=bf16-true",
        "adapter=none",
        f"hydra.run.dir={tmp_path}/run",
    )
    assert code == 0, text
    assert "weights in bf16 lose updates" in text


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
