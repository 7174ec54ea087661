import itertools

import pytest

from hydratune.data.datamodule import OptimizerBatches
from hydratune.settings.optimizer import OptimizerConfig, Schedule
from hydratune.training.module import learning_rate_factor
from hydratune.training.validation import validation_steps

SUPERVISED = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(("batch", "accumulate"), [(2, 1), (2, 2), (4, 1), (3, 2), (20, 1)])
def test_ranks_share_every_row_once_and_agree_on_the_normaliser(
    world: int, batch: int, accumulate: int
) -> None:
    ranks = [
        list(OptimizerBatches(SUPERVISED, batch, accumulate, 0, rank, world))
        for rank in range(world)
    ]
    assert sorted(i for rank in ranks for rows, _ in rank for i in rows) == list(
        range(len(SUPERVISED))
    )
    assert len({len(rank) for rank in ranks}) == 1
    assert len(ranks[0]) == len(OptimizerBatches(SUPERVISED, batch, accumulate, 0, 0, world))
    for update in range(0, len(ranks[0]), accumulate):
        window = [micro for rank in ranks for micro in rank[update : update + accumulate]]
        counted = sum(SUPERVISED[i] for rows, _ in window for i in rows)
        assert {normaliser for _, normaliser in window} == {counted}


def test_order_depends_on_seed_and_epoch_only() -> None:
    sampler = OptimizerBatches(SUPERVISED, 2, 1, 0)
    first = list(sampler)
    assert first == list(sampler)
    sampler.set_epoch(1)
    assert first != list(sampler)
    assert first != list(OptimizerBatches(SUPERVISED, 2, 1, 1))


def test_accumulation_trains_the_same_rows_per_update() -> None:
    whole = [set(rows) for rows, _ in OptimizerBatches(SUPERVISED, 4, 1, 0)]
    halves = [rows for rows, _ in OptimizerBatches(SUPERVISED, 2, 2, 0)]
    assert [set(sum(halves[i : i + 2], ())) for i in range(0, len(halves), 2)] == whole


def test_validation_times_end_with_the_last_step() -> None:
    assert validation_steps(150, 4) == {38, 75, 112, 150}
    assert validation_steps(3, 8) == {1, 2, 3}
    assert validation_steps(1, 2) == {1}


@pytest.mark.parametrize("schedule", list(Schedule))
def test_schedule_warms_up_and_ends_where_it_should(schedule: Schedule) -> None:
    factor = learning_rate_factor(
        OptimizerConfig(schedule=schedule, warmup_ratio=0.1, min_lr_ratio=0.2), 100
    )
    values = [factor(step) for step in range(101)]
    assert 0 < values[0] < 0.2
    assert max(values) == pytest.approx(1.0)
    assert values[100] == pytest.approx(1.0 if schedule is Schedule.constant else 0.2)
    assert all(a >= b for a, b in itertools.pairwise(values[10:]))
