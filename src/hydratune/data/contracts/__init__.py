"""Built-in data set: synthetic contract prose and the JSON object of its terms."""

from hydratune.data.contracts.generate import KEYS, Difficulty, contract_rows

__all__ = ["KEYS", "Difficulty", "contract_rows"]
