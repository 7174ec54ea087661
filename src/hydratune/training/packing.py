"""The tensors of rows that are laid end to end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hydratune.data.encoding.encoded import Encoded
from hydratune.models.compute import to_device
from hydratune.models.row_packing import OUR_ATTENTION, RowPacking, packed_inputs


@dataclass(frozen=True)
class PackedRows:
    """Rows laid end to end; the last token of a row is only ever a target, never an input."""

    input_ids: torch.Tensor  # (1, tokens)
    position_ids: torch.Tensor  # (1, tokens), in every row from where the prefix ends
    row_lengths: tuple[int, ...]
    predicts: torch.Tensor  # (targets,) positions whose next token is trained
    targets: torch.Tensor  # (targets,)

    def inputs(self, packing: RowPacking = OUR_ATTENTION) -> dict[str, Any]:
        """Return the arguments for a transformers model."""
        return packed_inputs(self.input_ids, self.position_ids, self.row_lengths, packing)


def pack_rows(
    rows: Sequence[Encoded],
    device: torch.device | None = None,
    skip: int = 0,
    *,
    prefix: bool = False,
) -> PackedRows:
    """Lay ``rows`` end to end, without their first ``skip`` tokens, none of which may predict a
    trained one.

    With ``prefix`` these tokens, the same in all rows, stand in front, once.
    """
    ids = list(rows[0].ids[:skip]) if prefix else []
    positions = list(range(len(ids)))
    predicts: list[int] = []
    targets: list[int] = []
    for row in rows:
        start, length = len(ids) - skip, len(row.ids) - 1
        ids += row.ids[skip:-1]
        positions += range(skip, length)
        predicts += [start + i for i in range(skip, length) if row.loss_mask[i + 1]]
        targets += [row.ids[i + 1] for i in range(skip, length) if row.loss_mask[i + 1]]
    lists = [ids, positions, predicts, targets]
    input_ids, position_ids, predicting, predicted = to_device(lists, device)
    lengths = (*([skip] if prefix else []), *(len(row.ids) - 1 - skip for row in rows))
    return PackedRows(input_ids[None], position_ids[None], lengths, predicting, predicted)
