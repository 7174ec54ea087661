"""The line that names a run: its model, its data and its settings."""

import pytest

from hydratune.records.headline import subject


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"data.source": "snips", "data.path": "/published/snips"}, "m on snips"),
        ({"data.source": "cuad", "data.path": "/published/contracts"}, "m on cuad contracts"),
        ({"data.source": "files", "data.train": ["a.jsonl", "b.csv"]}, "m on a.jsonl + b.csv"),
        ({"data.source": "hub", "data.id": "org/name"}, "m on org/name"),
        ({"data.source": "contracts"}, "m on contracts"),
        ({}, "m"),
    ],
)
def test_data_is_named_by_its_source_and_files(settings: dict[str, object], expected: str) -> None:
    assert subject({"model.name": "m", **settings}) == expected
