"""Built-in data set: synthetic contract prose and the JSON object of its terms."""

from hydratune.data.contracts.generate import KEYS, contract_rows

__all__ = ["KEYS", "contract_rows"]
