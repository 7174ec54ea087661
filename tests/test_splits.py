import numpy as np
import pytest

from hydratune.data.rows import Message, Row
from hydratune.data.splits import Candidates, Side, place, split, stratum, unit_hash


def candidates(
    places: list[float],
    groups: list[int] | None = None,
    texts: list[int] | None = None,
    strata: list[str] | None = None,
):
    count = len(places)
    return Candidates(
        np.asarray(places),
        np.asarray(groups or [-1] * count, np.int64),
        np.asarray(texts or list(range(count)), np.int64),
        strata,
    )


def test_rows_are_split_by_hash() -> None:
    assert split(candidates([0.05, 0.15, 0.5, 0.99]), {}, 0.1, 0.1).tolist() == [
        Side.validation,
        Side.test,
        Side.train,
        Side.train,
    ]


def test_group_follows_its_first_row() -> None:
    sides = split(candidates([0.05, 0.5, 0.99], groups=[7, 8, 7]), {}, 0.1, 0.0)
    assert sides.tolist() == [Side.validation, Side.train, Side.validation]


def test_near_duplicate_joins_the_earlier_row_and_is_dropped_between_two_splits() -> None:
    near = {0: [2, 3], 1: [3], 2: [0], 3: [0, 1]}
    sides = split(candidates([0.05, 0.5, 0.9, 0.9]), near, 0.1, 0.0)
    assert sides.tolist() == [Side.validation, Side.train, Side.validation, Side.straddles]


def test_row_whose_group_and_near_duplicate_are_in_different_splits_is_dropped() -> None:
    sides = split(candidates([0.05, 0.5, 0.9], groups=[1, 2, 2]), {0: [2], 2: [0]}, 0.1, 0.0)
    assert sides.tolist() == [Side.validation, Side.train, Side.straddles]


def test_added_rows_move_no_other_row() -> None:
    rng = np.random.default_rng(0)
    count, more = 400, 60
    places, groups = rng.random(count + more), rng.integers(-1, 80, count + more)
    near: dict[int, list[int]] = {}
    for a, b in rng.integers(0, count + more, (150, 2)).tolist():
        near.setdefault(a, []).append(b)
        near.setdefault(b, []).append(a)
    everything = list(range(count + more))
    before = split(
        candidates(places[:count].tolist(), groups[:count].tolist(), everything[:count]),
        near,
        0.2,
        0.2,
    )
    after = split(candidates(places.tolist(), groups.tolist(), everything), near, 0.2, 0.2)
    assert (after[:count] == before).all()
    kept = np.flatnonzero(after != Side.straddles)
    for group in range(80):
        assert len({int(after[i]) for i in kept if groups[i] == group}) <= 1
    assert all(
        after[a] == after[b]
        for a, others in near.items()
        for b in others
        if {a, b} <= set(kept.tolist())
    )
    assert 0 < len(after) - len(kept) < 100


@pytest.mark.parametrize("count", [40, 41, 57, 400])
def test_strata_have_equal_shares_in_every_split(count: int) -> None:
    strata = ["rare" if i % 4 == 0 else "common" for i in range(count)]
    sides = split(candidates([0.99] * count, strata=strata), {}, 0.2, 0.1)
    for label in ("rare", "common"):
        mine = [int(s) for s, stratum in zip(sides, strata, strict=True) if stratum == label]
        assert mine.count(Side.validation) == pytest.approx(0.2 * len(mine), abs=1.5)
        assert mine.count(Side.test) == pytest.approx(0.1 * len(mine), abs=1.5)


def test_stratified_rows_stay_where_they_are_when_rows_are_added() -> None:
    strata = [str(i % 3) for i in range(90)]
    before = split(candidates([0.5] * 60, strata=strata[:60]), {}, 0.2, 0.2)
    assert (split(candidates([0.5] * 90, strata=strata), {}, 0.2, 0.2)[:60] == before).all()


def test_small_sets_have_no_empty_split_and_groups_stay_together() -> None:
    sides = split(candidates([0.5, 0.6, 0.7, 0.9], groups=[1, 1, 2, 3]), {}, 0.1, 0.1)
    assert sides.tolist() == [Side.validation, Side.validation, Side.test, Side.train]


def test_split_depends_on_the_group_or_else_on_the_prompt() -> None:
    def row(question: str, answer: str, group: str | None = None) -> Row:
        return Row("id", (Message("user", question), Message("assistant", answer)), group)

    assert place(row("q", "a")) == place(row("q", "b")) != place(row("r", "a"))
    assert place(row("q", "a", "g")) == place(row("r", "b", "g"))
    assert 0 <= unit_hash("x") < 1


def test_stratum_is_read_from_meta_answer_or_json_field() -> None:
    row = Row(
        "id",
        (Message("user", "q"), Message("assistant", '{"kind": "a", "none": null}')),
        meta={"intent": 3},
    )
    assert [stratum(row, name) for name in ("intent", "kind", "none", "answer")] == [
        "3",
        "a",
        None,
        '{"kind": "a", "none": null}',
    ]
