"""One row as tokens with its loss mask: what training and evaluation work with."""

import itertools
from dataclasses import dataclass


@dataclass(frozen=True)
class Encoded:
    """One row as tokens.

    ``loss_mask[i]`` says whether ``ids[i]`` is a target of the loss. The last token always is one;
    the first never is, because nothing predicts it.
    """

    ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]

    @property
    def supervised(self) -> int:
        """Number of trained tokens."""
        return self.loss_mask.count(True)

    @property
    def target_ids(self) -> list[int]:
        """The trained tokens, in order."""
        return list(itertools.compress(self.ids, self.loss_mask))
