from typing import Any

import pytest

from hydratune.errors import ConfigError
from hydratune.settings.optimizer import Schedule
from hydratune.training import schedules
from hydratune.training.optimizers.adamw import AdamWOptimizer


def curve(total: int, **settings: Any) -> list[float]:
    config = AdamWOptimizer(**{"warmup_ratio": 0.0, **settings})
    factor = schedules.learning_rate_factor(config, total)
    return [factor(step) for step in range(total + 1)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": Schedule.constant, "min_lr_ratio": 0.5}, [1, 1, 1, 1, 1]),
        ({"schedule": Schedule.linear}, [1, 0.75, 0.5, 0.25, 0]),
        ({"schedule": Schedule.linear, "min_lr_ratio": 0.2}, [1, 0.8, 0.6, 0.4, 0.2]),
        ({"schedule": Schedule.cosine}, [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0]),
        ({"schedule": Schedule.polynomial, "power": 3.0}, [1, 0.75**3, 0.125, 0.25**3, 0]),
        ({"schedule": Schedule.wsd, "decay_ratio": 0.5}, [1, 1, 1, 0.5, 0]),
        ({"schedule": Schedule.wsd, "decay_ratio": 0.5, "min_lr_ratio": 0.1}, [1, 1, 1, 0.55, 0.1]),
    ],
)
def test_schedule_at_every_quarter_of_the_run(
    settings: dict[str, Any], expected: list[float]
) -> None:
    assert curve(4, **settings) == pytest.approx(expected)


@pytest.mark.parametrize(
    "settings", [{"warmup_ratio": None, "warmup_steps": 3}, {"warmup_ratio": 0.3}]
)
def test_warmup_rises_evenly_to_the_full_rate(settings: dict[str, Any]) -> None:
    assert curve(10, schedule=Schedule.linear, **settings)[:6] == pytest.approx(
        [0.25, 0.5, 0.75, 1, 6 / 7, 5 / 7]
    )


def test_wsd_that_is_still_warming_up_decays_right_after() -> None:
    assert curve(
        4, schedule=Schedule.wsd, decay_ratio=0.75, warmup_ratio=None, warmup_steps=2
    ) == pytest.approx([1 / 3, 2 / 3, 1, 0.5, 0])


def test_warmup_longer_than_the_run_is_refused() -> None:
    schedules.check(AdamWOptimizer(warmup_ratio=None, warmup_steps=9), 10)
    with pytest.raises(ConfigError, match="only 10 optimizer steps"):
        schedules.check(AdamWOptimizer(warmup_ratio=None, warmup_steps=10), 10)
