"""How rows are divided into micro-packs, and the positions and targets of a pack."""

import pytest
import torch

from hydratune.data.encoding.encoded import Encoded
from hydratune.training.packing import pack_rows
from hydratune.training.plan import micro_packs
from small_models import rows, rows_with_prefix


def test_micro_packs_keep_every_row_within_the_budget() -> None:
    examples = rows(8)
    packs = micro_packs(examples, 50, at_least=2)
    assert sorted(len(r.ids) for p in packs for r in p) == sorted(len(r.ids) for r in examples)
    assert all(sum(len(r.ids) for r in p) <= 50 or len(p) == 1 for p in packs)
    assert micro_packs([], 50) == []


def test_pack_positions_restart_and_last_tokens_are_only_targets() -> None:
    packed = pack_rows(rows(2))
    assert packed.row_lengths == (8, 13)
    assert packed.position_ids[0].tolist() == [*range(8), *range(13)]
    assert len(packed.targets) == sum(r.supervised for r in rows(2))


def test_a_prefix_stands_once_in_front_of_a_pack() -> None:
    examples = rows_with_prefix([5, 6, 7, 8])[:2]
    packed = pack_rows(examples, skip=4, prefix=True)
    assert packed.input_ids[0, :4].tolist() == [5, 6, 7, 8]
    assert packed.row_lengths == (4, 8, 13)
    assert packed.position_ids[0].tolist() == [*range(4), *range(4, 12), *range(4, 17)]
    behind = pack_rows(examples, skip=4)
    assert behind.row_lengths == (8, 13)
    assert torch.equal(packed.predicts, behind.predicts + 4)
    assert torch.equal(packed.targets, behind.targets)


def test_every_pack_has_a_row_even_beside_a_long_prefix() -> None:
    packs = micro_packs(rows_with_prefix(list(range(60)))[:3], 70, at_least=2, prefix=60)
    assert all(packs)
    assert sorted(len(r.ids) for p in packs for r in p) == [69, 74, 79]


@pytest.mark.parametrize("workers", [1, 3])
def test_padded_packs_count_their_padding(workers: int) -> None:
    long = Encoded(tuple(range(200)), (False, *[True] * 199))
    short = [
        Encoded(tuple(range(4 + i % 3)), (*[False] * 3, *[True] * (1 + i % 3))) for i in range(40)
    ]
    packs = micro_packs([*short, long], 64, workers, padded=True)
    assert sorted(id(row) for part in packs for row in part) == sorted(map(id, [*short, long]))
    assert all(
        len(part) == 1 or len(part) * max(len(row.ids) for row in part) <= 64 for part in packs
    )
    assert len(packs) >= workers
    assert len(micro_packs(short, 10_000, workers, padded=True)) == workers
