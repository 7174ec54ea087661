"""``data=contracts``: synthetic contracts and the JSON object of their terms."""

from collections.abc import Iterator
from dataclasses import dataclass

from hydratune.data.contracts import Difficulty, contract_rows
from hydratune.data.sources.base import OpenedSource, SourceConfig
from hydratune.errors import Problem
from hydratune.settings.ranges import at_least
from hydratune.settings.registry import variant


@variant("data", "contracts")
@dataclass
class ContractsData(SourceConfig):
    """Synthetic contracts and the JSON object of their terms; see ``hydratune.data.contracts``."""

    source: str = "contracts"
    train_rows: int = 280  # rows to generate
    validation_rows: int = 50  # rows to generate
    test_rows: int = 100  # rows to generate
    difficulty: Difficulty = Difficulty.standard  # how much the wording of contracts varies
    seed: int = 0  # of the generator; another seed is another set of contracts

    def source_problems(self) -> Iterator[Problem]:
        """Yield the problems of the settings that only this source has."""
        for name in ("train_rows", "validation_rows", "test_rows"):
            yield from at_least(f"data.{name}", getattr(self, name), 1, " row")

    def open(self) -> OpenedSource:
        """Generate the rows."""
        counts = {
            "train": self.train_rows,
            "validation": self.validation_rows,
            "test": self.test_rows,
        }
        rows = {
            split: contract_rows(split, count, self.difficulty, self.seed)
            for split, count in counts.items()
        }
        statement = (
            f"contracts: written by the generator, difficulty {self.difficulty.value}, seed"
            f" {self.seed}"
        )
        return OpenedSource(rows, "generated", sum(counts.values()), [statement])
