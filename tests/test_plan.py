"""hydratune plan: parameters, memory, time, licence, advice, sweeps; nothing is loaded or run."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch

from hydratune.composition.catalogue_options import settings_of
from hydratune.composition.resolvers import CONF, register
from hydratune.errors import ConfigError
from hydratune.models.catalogue.entries import models
from hydratune.planning import advice, licence
from hydratune.planning import sweep as planned_sweep
from hydratune.planning.duration import Basis, chosen_device
from hydratune.planning.live_memory import LiveMemory
from hydratune.planning.memory import STATE_BYTES
from hydratune.planning.page import stacked
from hydratune.planning.plan import Plan, accelerators, make_plan, needs_of, this_machine
from hydratune.planning.probe import Probe
from hydratune.planning.step_cost import Small, measured, step_cost
from hydratune.planning.structure import find_structure, trained_part
from hydratune.planning.sweep_plan import memory_of_pack, steps_with_halving
from hydratune.planning.terminal import licence_line
from hydratune.settings.commands import IntendedUse, PlanConfig
from hydratune.settings.registry import typed, variants
from hydratune.sweeps.options import HalvingOptions, PackOptions

Command = Callable[..., tuple[int, str]]
FEW = ("data.max_train_rows=8", "data.max_validation_rows=4", "data.max_test_rows=2")


@cache
def _composed(*overrides: str) -> Any:
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("plan", ["name=test", *FEW, *overrides])


def settings(*overrides: str) -> PlanConfig:
    return typed(_composed(*overrides), PlanConfig)


def of_model(name: str, *overrides: str) -> PlanConfig:
    """Settings with a model of the catalogue, composed once for all of them."""
    config = settings(*overrides)
    quantization = config.model.quantization
    config.model = replace(settings_of(models()[name]), quantization=quantization)
    return config


def plan_folder(place: Path) -> Path:
    """Return the folder of the only plan that was made there."""
    (folder,) = (place / "outputs/plan").iterdir()
    return folder


def planned(config: PlanConfig) -> Plan:
    return make_plan(config, [], None)


# ------------------------------------------------------------------------------------- parameters
def test_the_trained_parameters_are_those_of_a_run(model: Any) -> None:
    from hydratune.adapters import attach

    config = settings("model=tiny")
    structure = find_structure(config.model)
    trained = trained_part(structure, config.adapter, 2)
    tuned = attach.add_adapter(model, config.adapter, 2)
    assert (trained.parameters, structure.parameters + trained.added) == attach.count_parameters(
        tuned
    )
    assert trained.layers == 2 and trained.frozen_layers == 0 and not trained.trains_head


def test_full_and_partial_fine_tuning_are_counted() -> None:
    whole = settings("model=tiny", "adapter=none")
    structure = find_structure(whole.model)
    full = trained_part(structure, whole.adapter, 2)
    assert full.parameters == structure.parameters and full.trains_head and full.added == 0
    top = trained_part(
        structure, settings("model=tiny", "adapter=freeze", "adapter.last_layers=1").adapter, 2
    )
    assert 0 < top.parameters < full.parameters and top.frozen_layers == 1


def test_an_adapter_that_does_not_fit_is_refused_as_in_training() -> None:
    config = settings("model=tiny", "adapter.target_modules=[no_such_layer]")
    with pytest.raises(ConfigError):
        needs_of(config)


def test_a_start_that_needs_weights_is_planned_without_them() -> None:
    config = of_model("qwen3_0_6b", "adapter=pissa")
    structure = find_structure(config.model)
    assert trained_part(structure, config.adapter, 2).parameters > 0


# ----------------------------------------------------------------------------------------- memory
def test_living_tensors_are_counted_once_and_forgotten() -> None:
    before = torch.ones(100)
    with LiveMemory([before]) as memory:
        first = torch.ones(1000)
        view = first.view(10, 100)
        before.add_(1)
        assert memory.live == 4000
        second = view + 1
        assert memory.live == memory.peak == 8000
        del first, view
        assert memory.live == 4000 and memory.peak == 8000
        del second
    assert memory.live == 0


def test_the_cost_of_a_token_is_that_of_the_real_layers() -> None:
    """The step of a model of full width, measured in the same way, takes as much per token."""
    config = of_model("smollm2_135m")
    structure = find_structure(config.model)
    trained = trained_part(structure, config.adapter, 2)
    text = structure.config.get_text_config()
    estimated = step_cost(config, structure.config, trained)
    assert trained.layers == 30
    assert _kept_by_a_layer(text, config.adapter) == pytest.approx(estimated.of_a_layer, rel=0.1)


def _kept_by_a_layer(text: Any, adapter: Any) -> float:
    """Bytes per token of a layer in its full width, all tensors that live at the peak."""
    peaks = [measured(Small(text, 1, layers, adapter, checkpointing=False)) for layers in (1, 2)]
    return peaks[1] - peaks[0]


def test_memory_grows_with_rank_length_and_precision() -> None:
    here = this_machine(settings())
    base = needs_of(of_model("qwen3_0_6b")).at(here)
    wide = needs_of(of_model("qwen3_0_6b", "adapter.r=64")).at(here)
    for part in ("adapter", "gradients", "optimizer"):
        assert wide.parts[part] == 4 * base.parts[part]
    full = needs_of(of_model("qwen3_0_6b", "adapter=none")).at(here)
    assert full.parts["optimizer"] == pytest.approx(8 * 596e6, rel=0.01)
    assert full.parts["logits"] > base.parts["logits"]
    coded = needs_of(of_model("qwen3_0_6b", "model.quantization=nf4")).at(here)
    assert coded.parts["weights"] < 0.5 * base.parts["weights"]
    frugal = needs_of(of_model("qwen3_0_6b", "trainer.gradient_checkpointing=true")).at(here)
    assert frugal.per_token < 0.5 * base.per_token


@pytest.mark.parametrize(
    ("model", "overrides", "remedy", "fits"),
    [
        ("qwen3_32b", (), "model.quantization=nf4", True),
        pytest.param(
            *("llama3_3_70b", (), "model.quantization=nf4 needs", False), marks=pytest.mark.slow
        ),
        ("qwen3_8b", ("adapter=none",), "adapter=lora", True),
        pytest.param(
            *("qwen3_32b", ("adapter.r=4096",), "a smaller adapter.r", False),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_does_not_fit_is_said_with_what_needs_less(
    model: str, overrides: tuple[str, ...], remedy: str, fits: bool
) -> None:
    plan = planned(of_model(model, "device=l40s", *overrides))
    text = next(w.text for w in plan.warnings if w.text.startswith("L40S has 44.7 GiB"))
    assert remedy in text
    if fits:
        setting = next(word for word in ("model.quantization=nf4", "adapter=lora") if word in text)
        better = planned(of_model(model, "device=l40s", *overrides, setting))
        assert not [w for w in better.warnings if "the run needs" in w.text]
    else:
        assert "smaller" in text


@pytest.mark.slow  # a model of 80 layers
def test_a_gpu_that_is_too_small_does_not_fit() -> None:
    plan = planned(of_model("llama3_1_8b"))
    fits = {memory.place.name: memory.fits for memory in plan.elsewhere}
    assert fits["H100 SXM 80GB"] and fits["L40S"]
    big = planned(of_model("llama3_1_70b"))
    fits = {memory.place.name: memory.fits for memory in big.elsewhere}
    assert not fits["H100 SXM 80GB"] and fits["B200"]
    rows = {memory.place.name: memory.longest_row for memory in plan.elsewhere}
    assert rows["RTX 4090"] < rows["A100 40GB"] < rows["H200 141GB"]


class _Layer(torch.nn.Linear):
    """A linear layer that is asked for its head, as models are."""

    def __init__(self) -> None:
        super().__init__(64, 64, bias=False)

    def get_output_embeddings(self) -> None:
        return None


def test_the_state_of_every_optimizer_is_known() -> None:
    """Of those that run on a CPU, the bytes are those that the optimizer keeps after a step."""
    assert set(variants("optimizer")) <= set(STATE_BYTES)
    layer = _Layer()
    for kind in ("adamw", "adafactor", "sgd"):
        optimizer = settings("model=tiny", f"optimizer={kind}").optimizer.build(layer)
        layer.weight.grad = torch.ones_like(layer.weight)
        optimizer.step()
        kept = sum(
            value.numel() * value.element_size()
            for own in optimizer.state.values()
            for value in own.values()
            if isinstance(value, torch.Tensor) and value.numel() > 1
        )
        assert kept / layer.weight.numel() == pytest.approx(STATE_BYTES[kind], abs=0.15), kind


# ------------------------------------------------------------------------------- every model of it
SOME = ("gemma3_4b", "granite3_3_8b", "gpt_oss_20b", "phi3_5_mini")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in SOME else pytest.mark.slow) for n in models()]
)
def test_every_model_of_the_catalogue_is_planned_without_a_network(name: str) -> None:
    planned(of_model("smollm2_360m"))  # rows and libraries are read
    taken = []
    for _ in range(2):  # the first imports the classes of the model, which a busy machine prolongs
        began = time.process_time()
        plan = planned(of_model(name))
        taken.append(time.process_time() - began)
        if taken[-1] < 2:
            break
    assert min(taken) < 2, taken
    assert plan.needs.structure.parameters == pytest.approx(models()[name].parameters, rel=0.07)
    assert plan.here.total > 0 and len(plan.elsewhere) == 12
    if plan.needs.structure.stand_in:
        assert "only the number of parameters is known" in plan.needs.structure.source
    json.dumps(plan.content())


# ------------------------------------------------------------------------- time, money and licence
def test_time_and_money_follow_from_a_stated_rate() -> None:
    config = settings("model=tiny", "tokens_per_second=100", "price_per_hour=36")
    duration = planned(config).duration
    assert duration.basis is Basis.stated and duration.steps == 4  # 8 rows in batches of 2
    assert duration.seconds == pytest.approx(duration.tokens / 100)
    assert duration.money == pytest.approx(duration.seconds / 100)


def test_an_estimate_says_that_it_is_one_and_grows_with_the_model() -> None:
    small, large = (
        planned(of_model(name, "device=h100sxm80gb")).duration for name in ("qwen3_4b", "qwen3_8b")
    )
    assert small.basis is large.basis is Basis.estimate
    assert large.seconds / small.seconds == pytest.approx(8.19 / 4.02, rel=0.05)
    unknown = planned(of_model("qwen3_4b", "device=A10G")).duration
    assert unknown.seconds is None and unknown.basis is Basis.unknown
    with pytest.raises(ConfigError, match="RTX 4090"):
        chosen_device("RTX 4091")


@pytest.mark.parametrize(
    ("name", "use", "verdict"),
    [
        ("qwen3_8b", IntendedUse.commercial, "yes"),
        ("llama3_1_8b", IntendedUse.commercial, "conditional"),
        ("olmo2_1b", IntendedUse.commercial, "unknown"),
        ("olmo2_1b", IntendedUse.research, "unknown"),
        ("gemma2_2b", IntendedUse.research, "yes"),
        ("qwen3_8b", IntendedUse.unstated, "not asked"),
    ],
)
def test_the_licence_is_read_against_the_intended_use(
    name: str, use: IntendedUse, verdict: str
) -> None:
    facts = models()[name]
    found = licence.licence_of(settings_of(facts), facts, use)
    assert found.verdict == verdict and facts.checked in found.source
    if verdict == "conditional":
        assert licence_line(found).count(str(facts.conditions)) == 1


def test_a_model_outside_the_catalogue_has_an_unknown_licence() -> None:
    config = settings("model=hub", "model.id=a/b", "model.licence=MIT")
    found = licence.licence_of(config.model, None, IntendedUse.commercial)
    assert found.name == "MIT" and found.verdict == "unknown"


# ----------------------------------------------------------------------------------------- advice
def test_unusual_rates_and_scales_are_warned_of_with_a_source() -> None:
    usual = planned(of_model("llama3_1_8b", "optimizer.lr=3e-4"))
    assert not [w for w in usual.warnings if "optimizer.lr=" in w.text]
    high = planned(of_model("llama3_1_8b", "optimizer.lr=1e-2"))
    (warning,) = [w for w in high.warnings if w.text.startswith("optimizer.lr=")]
    assert "33.3 times above the usual 0.0003" in warning.text and "tinker" in warning.source
    full = advice.usual_rate(needs_of(of_model("llama3_1_8b", "adapter=none")))
    assert full.value == pytest.approx(3e-5) and "LoRA Without Regret" in full.source
    scale = planned(of_model("llama3_1_8b", "adapter.lora_alpha=512"))
    assert any("lora_alpha / r = 32" in w.text for w in scale.warnings)
    large = needs_of(of_model("qwen2_5_32b", "model.quantization=nf4"))
    assert advice.usual_rate(large).value == 1e-4


def test_too_few_steps_are_warned_of() -> None:
    few = planned(settings("model=tiny")).warnings
    assert any("only 4 optimizer steps" in w.text for w in few)


def test_the_first_sweep_is_a_command_that_can_be_typed(hydratune: Command) -> None:
    code, text = hydratune("plan", "model=tiny", *FEW, "optimizer.lr=1e-2", "html=false")
    assert code == 0
    (line,) = [line for line in text.splitlines() if line.startswith("  hydratune train -m ")]
    import shlex

    words = shlex.split(line)
    assert "optimizer.lr=1e-2" not in words and "model=tiny" in words
    code, shown = hydratune("plan", *words[2:], "html=false")
    assert code == 0 and "3 trials" in shown


# ----------------------------------------------------------------------------------------- sweeps
def test_halving_leaves_a_share_of_the_steps() -> None:
    options = PackOptions(halving=HalvingOptions(min_steps=10, eta=3))
    # 9 trials to step 10, 3 to step 30, 1 to step 90
    assert steps_with_halving([90] * 9, options) == 9 * 10 + 3 * 20 + 60
    assert steps_with_halving([90] * 9, PackOptions()) == 810


def test_a_pack_holds_the_base_once() -> None:
    memory = needs_of(of_model("qwen3_0_6b")).at(this_machine(settings()))
    pack = memory_of_pack([memory] * 4, together=4)
    own = sum(memory.parts[part] for part in ("adapter", "gradients", "optimizer"))
    assert pack == memory.total + 3 * own < 4 * memory.total


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("hydra.launcher.pack_size=3",), "4 trials: 2 packs of 1 to 3 jobs"),
        (
            ("hydra/launcher/executor=slurm", "hydra.launcher.executor.at_once=2"),
            "4 trials: 2 packs of 2 jobs, each on one base model",
        ),
        (
            ("hydra/sweeper=random", "hydra.sweeper.n_trials=9", "hydra.sweeper.batch=3"),
            "9 trials: 3 packs of 3 jobs",
        ),
    ],
)
def test_packs_are_those_of_the_executor(
    hydratune: Command, words: tuple[str, ...], expected: str
) -> None:
    pytest.importorskip("submitit")
    code, text = hydratune("plan", "-m", "debug=smoke", "seed=0,1", "adapter.r=2,4", *words)
    assert code == 0 and expected in text, text
    assert ("2 packs at a time" in text) is ("hydra.launcher.executor.at_once=2" in words)


def test_a_sweep_is_planned_with_the_packs_of_a_run_and_nothing_is_left_behind(
    hydratune: Command, tmp_path: Path
) -> None:
    code, text = hydratune(
        *("plan", "-m", "model=tiny", *FEW, "optimizer.lr=1e-3,1e-2", "adapter.r=4,8"),
        "hydra.launcher.halving.min_steps=2",
    )
    assert code == 0, text
    assert "4 trials: 1 pack of 4 jobs" in text and "halving leaves" in text
    assert sorted(p.name for p in (tmp_path / "outputs").iterdir()) == ["plan"]
    content = json.loads((plan_folder(tmp_path) / "plan.json").read_text())
    assert content["sweep"]["packs"] == [[0, 1, 2, 3]] and content["sweep"]["trials"] == 4


def test_devices_are_known_however_their_name_is_typed() -> None:
    for name in ("RTX 4090", "rtx_4090", "rtx-4090", "RTX4090"):
        config = of_model("qwen3_0_6b", f"device={name}")
        assert planned(config).duration.explanation.count("RTX 4090") == 1


def test_warnings_of_every_trial_and_the_models_side_by_side_are_said(
    hydratune: Command, tmp_path: Path
) -> None:
    words = ("plan", "-m", "model=tiny,qwen3_0_6b", *FEW, "optimizer.lr=1e-3,5")
    code, text = hydratune(*words, "price_per_hour=3600", "tokens_per_second=1000")
    assert code == 0, text
    assert "trials 1, 3: " not in text  # the usual rate of each model is its own
    assert "trial 1: optimizer.lr=5 is 2,500 times above" in text
    assert "trial 3: optimizer.lr=5 is 5,000 times above" in text
    folder = plan_folder(tmp_path)
    first, second = json.loads((folder / "plan.json").read_text())["sweep"]["models"]
    assert (first["model"], second["model"]) == ("tiny-random-llama", "Qwen3-0.6B")
    assert second["parameters"] == "0.596B" and second["licence"] == "Apache-2.0"
    assert float(first["money"]) > 0 and "for all trials one after the other, 0.00" not in text
    assert second["commercial use"] == "yes"
    # each model has learning rates of its own, and a command with that model alone
    assert "train -m model=qwen3_0_6b " in text and "a first sweep for tiny-random-llama" in text
    own = text.partition("a first sweep for tiny-random-llama")[2].splitlines()[1]
    assert "model=tiny " in own and "optimizer.lr=0.0007,0.002,0.006" in own
    page = (folder / "report.html").read_text()
    assert "Memory by part, of the largest trial" in page and page.count("Qwen3-0.6B") >= 2


def test_a_probe_measures_each_model_of_a_sweep(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed: list[Sequence[str]] = []

    def run_probe(config: PlanConfig, overrides: Sequence[str]) -> Probe:
        probed.append(overrides)
        return Probe(3, 100.0 if "tiny" in str(config.model.name) else 10.0, 2**30)

    monkeypatch.setattr(planned_sweep, "run_probe", run_probe)
    words = ("model=tiny,qwen3_0_6b,qwen3_32b", *FEW, "probe=true", "html=false")
    code, text = hydratune("plan", "-m", *words, "tracking=disabled", "price_per_hour=3600")
    assert code == 0, text
    assert [next(w for w in own if w.startswith("model=")) for own in probed] == [
        "model=tiny",
        "model=qwen3_0_6b",  # and not the one that does not fit
    ]
    content = json.loads((plan_folder(tmp_path) / "plan.json").read_text())
    tiny, small, large = (float(m["money"].replace(",", "")) for m in content["sweep"]["models"])
    assert small == pytest.approx(10 * tiny, rel=0.3) and large > 0  # tokenizers differ
    assert "measured by a probe, an estimate" in text


def test_plans_of_other_settings_have_other_folders(hydratune: Command, tmp_path: Path) -> None:
    for words in (("model=tiny",), ("model=tiny", "adapter.r=4"), ("model=qwen3_0_6b",)):
        for shown in ("html=false", "json=true"):  # the same plan, shown otherwise
            assert hydratune("plan", *words, *FEW, shown)[0] == 0
    names = sorted(folder.name for folder in (tmp_path / "outputs/plan").iterdir())
    assert [name.rpartition("-")[0] for name in names] == [
        "contracts-Qwen3-0.6B",
        "contracts-tiny-random-llama",
        "contracts-tiny-random-llama",
    ]


def test_the_picture_shows_the_memory_of_answers_where_it_is_larger() -> None:
    memory = needs_of(of_model("qwen3_0_6b")).at(this_machine(settings()))
    grown = replace(memory, generation=memory.total * 2)
    assert 'class="more"' in stacked([grown])
    assert 'class="more"' not in stacked([replace(memory, generation=0)])


@pytest.mark.parametrize(
    ("usual", "rates"),
    [
        (5e-4, "0.00017,0.0005,0.0015"),
        (1e-3, "0.0003,0.001,0.003"),
        (2e-3, "0.0007,0.002,0.006"),
        (3e-5, "1e-05,3e-05,9e-05"),
    ],
)
def test_the_rates_of_the_first_sweep_are_about_a_factor_of_three_apart(
    usual: float, rates: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advice, "usual_rate", lambda _: advice.Rate(usual, "", True))
    sweep = advice.first_sweep(needs_of(of_model("qwen3_0_6b")), [])
    assert f"optimizer.lr={rates}" in sweep.command


def test_a_search_is_planned_by_its_number_of_trials(hydratune: Command) -> None:
    code, text = hydratune("plan", "-m", "model=tiny", *FEW, "sweep=search", "html=false")
    assert code == 0 and "24 trials" in text, text


def test_conflicts_of_a_sweep_are_refused_as_in_training(hydratune: Command) -> None:
    code, text = hydratune("plan", "-m", "model=tiny", "optimizer.lr=1e-3,-1", *FEW)
    assert code == 2 and "optimizer.lr = -1" in text
    halving = "hydra.launcher.halving.min_steps=2"
    words = ("-m", "model=tiny", *FEW, "data.train_share=0.5,1", "seed=1,2", halving)
    refusals = [hydratune(command, *words) for command in ("plan", "train")]
    assert [code for code, _ in refusals] == [2, 2]
    reasons = [text.partition("hydra.launcher.halving")[2] for _, text in refusals]
    assert reasons[0] == reasons[1] != ""
    code, text = hydratune("plan", "sweep=learning_rate", "model=tiny")
    assert code == 2 and "hydratune plan -m sweep=learning_rate" in text


# --------------------------------------------------------------------------- output and mistakes
def test_a_plan_is_printed_written_and_shown_as_a_page(hydratune: Command, tmp_path: Path) -> None:
    code, text = hydratune("plan", "model=tiny", *FEW, "intended_use=commercial")
    assert code == 0
    for part in ("activations", "framework", "RTX 4090", "a first sweep", "licence: "):
        assert part in text
    folder = plan_folder(tmp_path)
    page = (folder / "report.html").read_text()
    assert (
        "<svg" in page and "Memory by part" in page and "http://" not in page and "src=" not in page
    )
    content = json.loads((folder / "plan.json").read_text())
    here = content["memory"][0]
    assert here["needed"] >= sum(here["parts"].values()) > 0
    assert content["rows"]["counted_by_tokenizer"] is True


def test_json_alone_is_printed(hydratune: Command) -> None:
    code, text = hydratune("plan", "model=tiny", *FEW, "json=true", "html=false")
    assert code == 0 and json.loads(text)["model"]["name"] == "tiny-random-llama"


def test_names_of_rows_and_models_cannot_put_markup_on_the_page() -> None:
    from hydratune.planning import page

    config = settings("model=tiny")
    config.model.name = config.name = "<script>alert(1)</script>"
    shown = page.render(planned(config), None)
    assert "<script>" not in shown and "&lt;script&gt;" in shown


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("price_per_hour=-1",), "price_per_hour = -1"),
        (("utilisation=2",), "utilisation=0.4"),
        (("device=h100",), "one of: 'device=H100 SXM 80GB'\n"),
        (("device=my_card",), "device=MI300X"),
        (("probe=true", "tokens_per_second=5"), "leave one of the two out"),
        (("intended_use=profit",), "commercial"),
        (("model=local", "model.path=nowhere"), "no such folder"),
        (("output=file.txt",), "a file"),
        (("output=full",), "other files: mine.txt"),
        (("data=files", "data.train=none.jsonl"), "none.jsonl"),
        (("prise_per_hour=1",), "did you mean price_per_hour"),
        (("data.max_length=8",), "data.max_length"),
    ],
)
def test_a_mistake_is_one_clear_message(
    typed: tuple[str, ...], said: str, hydratune: Command, tmp_path: Path
) -> None:
    (tmp_path / "file.txt").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    before = set(tmp_path.rglob("*"))
    code, text = hydratune("plan", "model=tiny", *typed)
    assert code == 2 and said in text and "Traceback" not in text, text
    assert set(tmp_path.rglob("*")) - before <= {tmp_path / "outputs"}


@pytest.mark.slow
def test_the_probe_measures_a_run(hydratune: Command) -> None:
    code, text = hydratune(
        "plan", "model=tiny", *FEW, "probe=true", "json=true", "html=false", "debug=smoke"
    )
    assert code == 0, text
    content = json.loads(text[text.index("{") :])
    assert content["probe"]["tokens_per_second"] > 0
    assert content["duration"]["basis"] == Basis.probe.value
    assert content["probe"]["peak_memory"] == pytest.approx(content["memory"][0]["needed"], rel=0.3)


def test_a_probe_that_fails_says_why(hydratune: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from hydratune.planning import probe

    failed = SimpleNamespace(returncode=2, stderr="hydratune train: the disk is full\n")
    monkeypatch.setattr(probe.subprocess, "run", lambda *_, **__: failed)
    code, text = hydratune("plan", "model=tiny", *FEW, "probe=true")
    assert code == 1 and "the disk is full" in text and "probe=true" in text


def test_accelerators_compute_in_bf16_unless_told_otherwise() -> None:
    config = settings("model=tiny")
    assert {place.activation_bytes for place in accelerators(config)} == {2}
    exact = replace(config, trainer=replace(config.trainer, precision="32-true"))
    assert {place.activation_bytes for place in accelerators(exact)} == {4}
