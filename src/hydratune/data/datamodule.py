"""The order of rows, and the batches of an optimizer step."""

import itertools
from collections.abc import Iterator, Sequence

import lightning
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hydratune.data.encoding.encoded import Encoded


class Batch:
    """Rows of one micro-batch on one device, and ``numbers``: which rows of their split these are.

    ``normaliser`` is the number of trained tokens in the *whole* optimizer batch: all its
    micro-batches on all devices. A loss summed over tokens and divided by it is the mean over
    tokens, however rows were dealt out. It is no dataclass, because Lightning looks for tensors
    inside those, to convert them, by assigning to every field.
    """

    def __init__(
        self, rows: tuple[Encoded, ...], normaliser: int, numbers: tuple[int, ...] = ()
    ) -> None:
        self.rows, self.normaliser, self.numbers = rows, normaliser, numbers

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) - 1 for row in self.rows)


class OptimizerBatches(Sampler[tuple[tuple[int, ...], int]]):
    """Yields (row numbers, normaliser) per micro-batch; the order is a pure function of (seed,
    epoch).

    Every rank knows the whole order, so it can count the tokens of the other ranks without talking
    to them. Rows left over at the end of an epoch make a smaller last optimizer batch; every rank
    gets the same number of micro-batches, some of them possibly empty.
    """

    def __init__(
        self,
        supervised: Sequence[int],
        batch_size: int,
        accumulate: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.supervised, self.batch_size, self.accumulate = list(supervised), batch_size, accumulate
        self.seed, self.rank, self.world, self.epoch = seed, rank, world, 0
        self.skip = 0  # micro-batches at the beginning that were trained before

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before every epoch."""
        self.epoch = epoch

    @property
    def rows_per_update(self) -> int:
        return self.batch_size * self.accumulate * self.world

    def __len__(self) -> int:
        """Micro-batches per epoch on one rank, without those that are skipped."""
        full, left = divmod(len(self.supervised), self.rows_per_update)
        return full * self.accumulate + -(-left // (self.batch_size * self.world)) - self.skip

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], int]]:
        return itertools.islice(self._whole_epoch(), self.skip, None)

    def _whole_epoch(self) -> Iterator[tuple[tuple[int, ...], int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.supervised), generator=generator).tolist()
        for start in range(0, len(order), self.rows_per_update):
            window = order[start : start + self.rows_per_update]
            normaliser = sum(self.supervised[i] for i in window)
            for micro in range(0, len(window), self.batch_size * self.world):
                share = window[micro : micro + self.batch_size * self.world]
                yield tuple(share[self.rank :: self.world]), normaliser


class EncodedRows(Dataset[Batch]):
    """Indexed by what the sampler yields."""

    def __init__(self, rows: Sequence[Encoded]) -> None:
        self.rows = rows

    def __getitem__(self, index: tuple[tuple[int, ...], int]) -> Batch:
        numbers, normaliser = index
        return Batch(tuple(self.rows[i] for i in numbers), normaliser, numbers)


class ConversationData(lightning.LightningDataModule):
    """Encoded rows as Lightning wants them."""

    def __init__(
        self,
        train: Sequence[Encoded],
        validation: Sequence[Encoded],
        *,
        batch_size: int,
        accumulate: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.train, self.validation = train, validation
        self.batch_size, self.accumulate, self.seed = batch_size, accumulate, seed
        self._begun = (0, 0)  # (epoch, micro-batches of it) that were trained before

    def go_on(self, epoch: int, batches: int) -> None:
        """Training begins in ``epoch`` after so many micro-batches; the Trainer must ask for a new
        loader every epoch.
        """
        self._begun = (epoch, batches)

    def place(self, epoch: int, batches: int) -> tuple[int, int]:
        """(epoch, micro-batches of it done), from how the Trainer counts: since it began, in this
        epoch.
        """
        done = batches + (self._begun[1] if epoch == self._begun[0] else 0)
        return (epoch, done) if done < len(self._order()) else (epoch + 1, 0)

    def _order(self) -> OptimizerBatches:
        assert self.trainer is not None
        rank, world = self.trainer.global_rank, self.trainer.world_size
        return OptimizerBatches(
            [row.supervised for row in self.train],
            self.batch_size,
            self.accumulate,
            self.seed,
            rank,
            world,
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Training rows in the order of this epoch, from where it was left."""
        assert self.trainer is not None
        sampler = self._order()
        if self.trainer.current_epoch == self._begun[0]:
            sampler.skip = self._begun[1]
        return self._loader(self.train, sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Validation rows in order; every rank reads its share."""
        assert self.trainer is not None
        rank, world = self.trainer.global_rank, self.trainer.world_size
        own = list(range(len(self.validation)))[rank::world]
        shares = [tuple(own[i : i + self.batch_size]) for i in range(0, len(own), self.batch_size)]
        return self._loader(self.validation, [(share, 1) for share in shares])

    def _loader(
        self,
        rows: Sequence[Encoded],
        sampler: Sampler[tuple[tuple[int, ...], int]] | list[tuple[tuple[int, ...], int]],
    ) -> DataLoader[Batch]:
        # Its own generator: the loader must not draw from the global one, or the run
        # depends on how often it is read.
        return DataLoader(
            EncodedRows(rows),
            sampler=sampler,
            batch_size=None,
            generator=torch.Generator().manual_seed(self.seed),
        )  # type: ignore[arg-type]
