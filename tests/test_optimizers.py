import copy
import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from conftest import SMALL, edited
from hydratune.adapters.attach import add_adapter
from hydratune.adapters.methods.lora import LoraAdapter
from hydratune.composition import CONF
from hydratune.errors import ConfigError
from hydratune.settings.commands import load
from hydratune.settings.optimizer import OptimizerConfig
from hydratune.settings.registry import plain, variants
from hydratune.training.fused import can_fuse
from hydratune.training.joint_optimizer import JointOptimizer
from hydratune.training.optimizers.adamw import AdamWOptimizer
from hydratune.training.parameter_groups import build_optimizer
from hydratune.training.patches import with_lean_layers
from test_config import compose

Command = Callable[..., tuple[int, str]]
KINDS = sorted(variants("optimizer"))
PAGED = [kind for kind in KINDS if kind.startswith("paged")]
ON_CPU = [kind for kind in KINDS if kind not in PAGED]


def settings(kind: str, **values: Any) -> OptimizerConfig:
    return variants("optimizer")[kind](**values)


@pytest.fixture
def full(model: Any) -> Any:
    return model.requires_grad_(True)


@pytest.fixture
def lora(model: Any) -> Any:
    return with_lean_layers(add_adapter(model.requires_grad_(False), LoraAdapter()))


def rates(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, tuple[float, float]]:
    """name -> (learning rate, weight decay)."""
    of = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    return {name: of[id(p)] for name, p in model.named_parameters() if p.requires_grad}


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator) if p.requires_grad else None
    optimizer.step()


def test_every_optimizer_is_shipped() -> None:
    assert sorted(file.stem for file in (CONF / "optimizer").glob("*.yaml")) == KINDS
    classes: dict[str, Any] = variants("optimizer")
    assert [classes[kind]().kind for kind in KINDS] == KINDS


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(k, marks=() if k in ("adamw_8bit", "muon") else pytest.mark.slow)
        for k in ON_CPU
    ],
)
def test_every_optimizer_trains(hydratune: Command, tmp_path: Path, kind: str) -> None:
    # the toy adapters are too small for 8-bit moments
    adapter = ["adapter=none"] if kind in ("muon", "adamw_8bit", "lion_8bit") else []
    code, text = hydratune(
        "train",
        *SMALL,
        f"optimizer={kind}",
        *adapter,
        "trainer.max_steps=3",
        "trainer.max_epochs=2",
        "trainer.validations_per_epoch=3",
        f"hydra.run.dir={tmp_path}/run",
    )
    assert code == 0, text
    with (tmp_path / "run" / "history.csv").open() as stream:
        losses = [float(row["val/loss"]) for row in csv.DictReader(stream)]
    assert len(losses) == 3 and all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    assert (
        load(tmp_path / "run" / "config.yaml").optimizer == compose(f"optimizer={kind}").optimizer
    )
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)[
        "optimizer_states"
    ][0]["state"]
    kinds = {
        v.dtype
        for entry in state.values()
        for part in (entry, *filter(lambda v: isinstance(v, dict), entry.values()))
        for v in part.values()
        if isinstance(v, torch.Tensor)
    }
    assert (torch.uint8 in kinds) == kind.endswith("8bit")


@pytest.mark.parametrize("kind", ON_CPU)
def test_next_step_after_loading_is_the_next_step(full: Any, tmp_path: Path, kind: str) -> None:
    optimizer = build_optimizer(full, settings(kind, layer_lr_decay=0.5, weight_decay=0.1))
    for number in range(3):
        step(full, optimizer, number)
    torch.save(optimizer.state_dict(), tmp_path / "state")
    other = copy.deepcopy(full)
    # with another rate: the stored rate is used
    loaded = build_optimizer(other, settings(kind, lr=7.0))
    with pytest.raises(ValueError):
        loaded.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    loaded = build_optimizer(other, settings(kind, lr=7.0, layer_lr_decay=0.5, weight_decay=0.1))
    loaded.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    forgetful = copy.deepcopy(full)
    for model, its in (
        (full, optimizer),
        (other, loaded),
        (forgetful, build_optimizer(forgetful, settings(kind, layer_lr_decay=0.5))),
    ):
        step(model, its, 3)
    pairs = list(zip(full.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not all(
        torch.equal(a, b) for a, b in zip(full.parameters(), forgetful.parameters(), strict=True)
    )


def test_muon_moves_hidden_matrices_and_adamw_the_rest(full: Any) -> None:
    optimizer = build_optimizer(full, settings("muon"))
    assert isinstance(optimizer, JointOptimizer)
    muon, adamw = optimizer.optimizers
    assert isinstance(muon, torch.optim.Muon) and isinstance(adamw, torch.optim.AdamW)
    names = {id(p): name for name, p in full.named_parameters()}
    hidden = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert hidden == {name for name in names.values() if name.endswith("_proj.weight")}
    assert {names[id(p)] for group in adamw.param_groups for p in group["params"]} == set(
        names.values()
    ) - hidden


def test_muon_and_adamw_steps_equal_separate_steps(full: Any) -> None:
    alone = copy.deepcopy(full)
    hidden = [p for name, p in alone.named_parameters() if name.endswith("_proj.weight")]
    others = [p for name, p in alone.named_parameters() if not name.endswith("_proj.weight")]
    both = build_optimizer(full, settings("muon", lr=0.01))
    schedule = torch.optim.lr_scheduler.LambdaLR(both, lambda step: 1 / (step + 1))
    muon = torch.optim.Muon(hidden, lr=0.01, weight_decay=0, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=0.01, weight_decay=0)
    for number in range(3):
        step(full, both, number)
        schedule.step()
        step(alone, muon, number)
        adamw.step()
        for optimizer in (muon, adamw):
            optimizer.param_groups[0]["lr"] = 0.01 / (number + 2)
    assert all(
        torch.allclose(a, b, atol=1e-6)
        for a, b in zip(full.parameters(), alone.parameters(), strict=True)
    )


def test_fused_kernel_is_used(lora: Any, full: Any) -> None:
    for kind in ("adamw", "sgd"):
        assert all(group["fused"] for group in build_optimizer(full, settings(kind)).param_groups)
    assert not can_fuse([{"params": [torch.nn.Parameter(torch.zeros(1, device="meta"))]}])


@pytest.mark.parametrize(
    ("kind", "adapter", "threads"), [("adamw", "lora", 1), ("muon", "none", 2)]
)
def test_one_thread_updates_the_weights_unless_matrices_are_multiplied(
    hydratune: Command, kind: str, adapter: str, threads: int
) -> None:
    seen, before = [], torch.get_num_threads()
    torch.set_num_threads(2)
    hook = register_optimizer_step_post_hook(lambda *_: seen.append(torch.get_num_threads()))
    try:
        assert (
            hydratune(
                "train",
                *SMALL,
                f"optimizer={kind}",
                f"adapter={adapter}",
                "trainer.accelerator=cpu",
            )[0]
            == 0
        )
        assert set(seen) == {threads} and torch.get_num_threads() == 2
    finally:
        hook.remove()
        torch.set_num_threads(before)


def test_adamw_equals_torch_without_the_fused_kernel(full: Any) -> None:
    other = copy.deepcopy(full)
    fused = build_optimizer(full, settings("adamw", weight_decay=0.1, decay_norms_and_biases=True))
    plain = torch.optim.AdamW(other.parameters(), lr=1e-3, weight_decay=0.1, fused=False)
    for number in range(3):
        step(full, fused, number)
        step(other, plain, number)
    assert all(
        torch.allclose(a, b, rtol=1e-5, atol=1e-7)
        for a, b in zip(full.parameters(), other.parameters(), strict=True)
    )


def test_norms_and_biases_do_not_decay_by_default(full: Any) -> None:
    for decay_all in (False, True):
        optimizer = build_optimizer(
            full, settings("adamw", weight_decay=0.1, decay_norms_and_biases=decay_all)
        )
        decays = {name: decay for name, (_, decay) in rates(full, optimizer).items()}
        assert {decay for name, decay in decays.items() if "norm" in name} == {
            0.1 if decay_all else 0.0
        }
        assert {decay for name, decay in decays.items() if "norm" not in name} == {0.1}


def test_groups_have_their_own_rates_and_the_first_pattern_counts(full: Any) -> None:
    groups = {"q_proj": 3.0, r"layers\.1\.": 0.5}
    decays = {"norm": 2.0, "embed": 0.0}
    by_name = rates(
        full,
        build_optimizer(
            full,
            settings(
                "adamw", lr=0.1, weight_decay=0.1, lr_groups=groups, weight_decay_groups=decays
            ),
        ),
    )
    assert by_name["model.layers.1.self_attn.q_proj.weight"] == pytest.approx((0.3, 0.1))
    assert by_name["model.layers.1.mlp.up_proj.weight"] == pytest.approx((0.05, 0.1))
    assert by_name["model.layers.0.mlp.up_proj.weight"] == pytest.approx((0.1, 0.1))
    assert by_name["model.norm.weight"] == pytest.approx((0.1, 0.2))
    assert by_name["model.embed_tokens.weight"] == pytest.approx((0.1, 0.0))


def test_layers_further_down_learn_more_slowly(full: Any) -> None:
    by_layer = {
        name: rate
        for name, (rate, _) in rates(
            full, build_optimizer(full, settings("adamw", lr=1.0, layer_lr_decay=0.5))
        ).items()
    }
    assert by_layer["model.norm.weight"] == 1.0
    assert by_layer["model.layers.1.self_attn.q_proj.weight"] == 1.0
    assert by_layer["model.layers.0.self_attn.q_proj.weight"] == 0.5
    assert by_layer["model.embed_tokens.weight"] == 0.25


def test_distance_counts_from_the_top_of_the_model_not_of_the_adapter(model: Any) -> None:
    only = with_lean_layers(
        add_adapter(
            model.requires_grad_(False),
            LoraAdapter(target_modules=["q_proj"], layers_to_transform=[0]),
        )
    )
    by_name = rates(only, build_optimizer(only, settings("adamw", lr=1.0, layer_lr_decay=0.5)))
    assert {rate for rate, _ in by_name.values()} == {0.5}


def test_loraplus_multiplies_the_rate_of_b_only(lora: Any) -> None:
    by_name = rates(
        lora,
        build_optimizer(
            lora, settings("adamw", lr=0.1, loraplus_lr_ratio=16.0, layer_lr_decay=0.5)
        ),
    )
    for layer, factor in ((0, 0.5), (1, 1.0)):
        of_layer = {name: rate for name, (rate, _) in by_name.items() if f"layers.{layer}." in name}
        assert {rate for name, rate in of_layer.items() if "lora_A" in name} == {0.1 * factor}
        assert {rate for name, rate in of_layer.items() if "lora_B" in name} == {0.1 * 16 * factor}


def test_history_has_the_rate_of_the_schedule_whatever_the_groups(
    hydratune: Command, tmp_path: Path
) -> None:
    code, text = hydratune(
        "train",
        *SMALL,
        "optimizer.schedule=constant",
        "optimizer.warmup_steps=1",
        "optimizer.loraplus_lr_ratio=4",
        "optimizer.lr_groups.lora_A=2",
        f"hydra.run.dir={tmp_path}/run",
    )
    assert code == 0, text
    with (tmp_path / "run" / "history.csv").open() as stream:
        assert [float(row["lr"]) for row in csv.DictReader(stream)] == pytest.approx([0.5e-3, 1e-3])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.loraplus_lr_ratio=4", "adapter=none"], "matrix B"),
        (["optimizer.lr_groups.q_prooj=2"], "names are such as"),
        (["optimizer.weight_decay_groups.norm=0"], "no trained parameter"),
        (["optimizer.warmup_steps=5"], "only 2 optimizer steps"),
        (["optimizer=paged_adamw"], "optimizer=adamw"),
        (["optimizer=paged_adamw_8bit", "trainer=cpu"], "optimizer=adamw_8bit"),
        (["optimizer=muon"], "adapter=none"),
    ],
)
def test_settings_without_effect_or_that_cannot_work_are_refused(
    hydratune: Command, overrides: list[str], message: str
) -> None:
    if overrides == ["optimizer=paged_adamw"] and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    code, text = hydratune("train", *SMALL, *overrides)
    assert (code, message in text, "Traceback" in text) == (2, True, False), text


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["optimizer.warmup_steps=3", "optimizer.warmup_ratio=0.1"], "optimizer.warmup_steps"),
        (["optimizer.warmup_steps=-1"], "optimizer.warmup_steps"),
        (["optimizer.schedule=wsd", "optimizer.decay_ratio=0.98"], "optimizer.decay_ratio"),
        (["optimizer.schedule=polynomial", "optimizer.power=0"], "optimizer.power"),
        (["optimizer.layer_lr_decay=1.1"], "optimizer.layer_lr_decay"),
        (["optimizer.loraplus_lr_ratio=0"], "optimizer.loraplus_lr_ratio"),
        (["+optimizer.lr_groups.lora_B=0"], "optimizer.lr_groups.lora_B"),
        (
            ["optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=true"],
            "optimizer.nesterov",
        ),
        (["optimizer=muon", "adapter=none", "optimizer.ns_steps=0"], "optimizer.ns_steps"),
        (["optimizer=adafactor", "optimizer.decay_rate=0.8"], "optimizer.decay_rate"),
        (["optimizer=lion", "optimizer.betas=[1,1]"], "optimizer.betas"),
        (["optimizer=paged_adamw", "trainer=cpu"], "optimizer"),
        (["trainer.max_loss_ratio=1"], "trainer.max_loss_ratio"),
    ],
)
def test_wrong_setting_is_refused_with_a_fix(overrides: list[str], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(*overrides).check()
    assert [p.key for p in caught.value.problems] == [key]


def test_configuration_of_an_older_run_still_loads(tmp_path: Path) -> None:
    values = plain(compose("model=tiny"))
    values["optimizer"] = {
        "lr": 3e-4,
        "weight_decay": 0.0,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "schedule": "cosine",
        "warmup_ratio": 0.05,
        "min_lr_ratio": 0.0,
    }
    del values["trainer"]["max_loss_ratio"]
    (tmp_path / "config.yaml").write_text(json.dumps(values))
    assert load(tmp_path / "config.yaml").optimizer == AdamWOptimizer(lr=3e-4)


def test_run_with_a_paged_optimizer_is_evaluated_on_a_cpu(
    hydratune: Command, finished_run: Callable[..., Path]
) -> None:
    run = finished_run()
    stored = (run / "config.yaml").read_text()
    edited(run / "config.yaml", stored.replace("kind: adamw", "kind: paged_adamw"))
    code, text = hydratune("evaluate", f"run={run}", "accelerator=cpu")
    assert code == 0, text
