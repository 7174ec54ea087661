import json
from pathlib import Path
from typing import Any

import pytest

from hydratune.data.answers import json_schema
from hydratune.data.rows import stable_hash
from hydratune.data.sets import load_sets
from hydratune.data.sources.contracts import ContractsData
from hydratune.data.sources.files import FilesData
from hydratune.errors import DataError
from hydratune.settings.data import Control


def contracts(**options: object) -> ContractsData:
    values: dict[str, Any] = {"train_rows": 20, "validation_rows": 6, "test_rows": 6, **options}
    return ContractsData(**values)


def files(path: Path, count: int, groups: int | None = None, **options: object) -> FilesData:
    group = (lambda i: {"group": f"g{i % groups}"}) if groups else (lambda i: {})
    path.write_text(
        "".join(
            json.dumps({"prompt": f"q{i}", "completion": f"a{i}", **group(i)}) + "\n"
            for i in range(count)
        )
    )
    return FilesData(train=str(path), **options)  # type: ignore[arg-type]


def test_split_off_rows_are_disjoint_and_stable_when_rows_are_added(tmp_path: Path) -> None:
    small, large = (load_sets(files(tmp_path / f"{n}.jsonl", n), 0) for n in (300, 350))
    place = {row.prompt[0].content: name for name, rows in large.items() for row in rows}
    assert sum(len(rows) for _, rows in small.items()) == 300
    assert all(place[row.prompt[0].content] == name for name, rows in small.items() for row in rows)
    assert 10 < len(small.test) < 60


def test_rows_of_a_group_stay_together(tmp_path: Path) -> None:
    sets = load_sets(files(tmp_path / "a.jsonl", 400, groups=40), 0)
    groups = [{row.group for row in rows} for _, rows in sets.items()]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


def test_run_seed_moves_no_row(tmp_path: Path) -> None:
    data = files(tmp_path / "a.jsonl", 200, max_train_rows=50)
    assert load_sets(data, 0) == load_sets(data, 1)


def test_no_validation_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no validation rows"):
        load_sets(files(tmp_path / "a.jsonl", 200, validation_fraction=0.0), 0)


def test_shuffled_targets_give_no_row_its_own_answer() -> None:
    plain, control = (
        load_sets(contracts(), 0),
        load_sets(contracts(control=Control.shuffled_targets), 0),
    )
    assert [r.prompt for r in plain.train] == [r.prompt for r in control.train]
    assert sorted(r.answer for r in plain.train) == sorted(r.answer for r in control.train)
    assert all(a.answer != b.answer for a, b in zip(plain.train, control.train, strict=True))
    assert plain.test == control.test


def test_overfit_uses_the_same_rows_everywhere() -> None:
    sets = load_sets(contracts(overfit_rows=4), 0)
    assert len(sets.train) == 4
    assert sets.train == sets.validation == sets.test


def test_system_prompt_is_put_first_and_changes_the_fingerprint() -> None:
    sets = load_sets(contracts(system_prompt="be brief"), 0)
    assert all(row.messages[0].content == "be brief" for row in sets.train)
    assert sets.fingerprint != load_sets(contracts(), 0).fingerprint


def test_schema_is_read_from_a_file_and_checked(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"type": "object"}')
    assert json_schema(contracts(schema_file=str(tmp_path / "s.json"))) == {"type": "object"}
    with pytest.raises(DataError, match="not a valid JSON schema"):
        json_schema(contracts(schema={"type": "objekt"}))
    with pytest.raises(DataError, match="references must point into the schema"):
        json_schema(contracts(schema={"$ref": "http://127.0.0.1:9/s.json"}))


def test_hash_is_the_same_on_every_machine() -> None:
    assert stable_hash({"b": 1, "a": ["ü"]}) == "c79570202cf0d140"


@pytest.mark.parametrize("count", range(3, 12))
def test_small_file_leaves_no_split_empty(tmp_path: Path, count: int) -> None:
    for name in "abc":  # whatever the hashes are
        sets = load_sets(files(tmp_path / f"{name}-{count}.jsonl", count, groups=3), 0)
        groups = [{row.group for row in rows} for _, rows in sets.items()]
        assert all(groups) and sum(map(len, groups)) == 3
        assert sum(len(rows) for _, rows in sets.items()) == count


def test_documents_get_no_system_prompt_and_cannot_be_shuffled(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(60)))
    sets = load_sets(FilesData(train=str(path), system_prompt="Be terse."), 0)
    assert {len(row.messages) for _, rows in sets.items() for row in rows} == {1}
    with pytest.raises(DataError, match=r"a\.jsonl:\d+: a text row has no prompt and no answer"):
        load_sets(FilesData(train=str(path), control=Control.shuffled_targets), 0)
