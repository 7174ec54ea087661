"""Which jobs of a sweep share a pack, and why others run alone."""

import pytest

from hydratune.adapters.methods.full import FullFinetune
from hydratune.adapters.methods.lora import LoraBias
from hydratune.settings.data import Control
from hydratune.sweeps.planning import plan, why_alone
from test_config import compose


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"trainer": {"devices": 2}}, "several devices"),
        (
            {"adapter": {"lora_dropout": 0.1}, "trainer": {"gradient_checkpointing": True}},
            "gradient_checkpointing",
        ),
        ({"adapter": {"init_lora_weights": "olora"}}, "init_lora_weights=olora"),
        ({"adapter": {"bias": LoraBias.lora_only}}, "adapter.bias=lora_only trains biases"),
    ],
)
def test_why_a_job_runs_alone(change: dict[str, dict[str, object]], why: str) -> None:
    settings = compose()
    assert why_alone(settings) is None
    for group, values in change.items():
        for key, value in values.items():
            setattr(getattr(settings, group), key, value)
    assert why in str(why_alone(settings))


def test_jobs_of_a_pack_have_base_data_and_precision_in_common() -> None:
    configs = {number: compose() for number in range(7)}
    configs[1].optimizer.lr = 0.5
    configs[2].data.max_length = 7
    configs[3].data.max_length = 7
    configs[4].data.batch_size = 31
    configs[5].trainer.precision = "bf16-true"
    configs[6].adapter = FullFinetune(method="none")
    planned = plan(configs, None)
    assert planned.packs == ((0, 1, 4), (2, 3))
    assert set(planned.alone) == {5, 6}
    assert plan(configs, 2).packs == ((0, 1), (4,), (2, 3))
    assert plan({7: configs[0]}, None).alone == {7: "no other job is left to run"}
    for number in (0, 1, 4):
        configs[number].data.control = Control.shuffled_targets
    configs[1].seed = 7  # another shuffle, so other rows
    assert plan(configs, None).packs == ((0, 4), (2, 3))


def test_jobs_of_all_sizes_of_the_training_set_share_a_pack() -> None:
    sizes = ((0.125, 1), (0.5, 1), (0.5, 2), (1, 1))
    configs = {
        number: compose(f"data.train_share={share}", f"seed={seed}")
        for number, (share, seed) in enumerate(sizes)
    }
    assert plan(configs, None).packs == ((0, 1, 2, 3),)
