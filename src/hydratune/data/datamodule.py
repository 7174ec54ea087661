"""Deal encoded rows into optimizer steps and micro-batches, in an order that the seed decides."""

import itertools
from collections.abc import Iterator, Sequence

import lightning
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hydratune.data.encoding.encoded import Encoded

MicroBatch = tuple[tuple[int, ...], int]  # (row numbers, normaliser)


class Batch:
    """Rows of one micro-batch on one device.

    ``numbers`` says which rows of their split these are. ``normaliser`` is the number of trained
    tokens in the *whole* optimizer batch: all its micro-batches on all devices. A loss summed over
    tokens and divided by it is the mean over tokens, however rows were distributed.

    This is no dataclass, because Lightning looks for tensors inside dataclasses, to move them, by
    assigning to every field.
    """

    def __init__(
        self, rows: tuple[Encoded, ...], normaliser: int, numbers: tuple[int, ...] = ()
    ) -> None:
        self.rows, self.normaliser, self.numbers = rows, normaliser, numbers

    @property
    def tokens(self) -> int:
        """Number of tokens that are read to predict another one."""
        return sum(len(row.ids) - 1 for row in self.rows)


class OptimizerBatches(Sampler[MicroBatch]):
    """Yields (row numbers, normaliser) for each micro-batch of an epoch.

    The order is a pure function of (seed, epoch). Every rank knows the whole order, so it can count
    the tokens of the other ranks without communication. Rows that remain at the end of an epoch
    make a smaller last optimizer batch; every rank gets the same number of micro-batches, some of
    them possibly empty.
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
        """Set the epoch; Lightning calls this before every epoch."""
        self.epoch = epoch

    @property
    def rows_per_update(self) -> int:
        """Rows of a whole optimizer batch on all ranks."""
        return self.batch_size * self.accumulate * self.world

    def __len__(self) -> int:
        """Return the micro-batches per epoch on one rank, without those that are skipped."""
        full, remaining = divmod(len(self.supervised), self.rows_per_update)
        rows_per_micro_batch = self.batch_size * self.world
        return full * self.accumulate + -(-remaining // rows_per_micro_batch) - self.skip

    def __iter__(self) -> Iterator[MicroBatch]:
        return itertools.islice(self._whole_epoch(), self.skip, None)

    def _whole_epoch(self) -> Iterator[MicroBatch]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.supervised), generator=generator).tolist()
        rows_per_micro_batch = self.batch_size * self.world
        for start in range(0, len(order), self.rows_per_update):
            update = order[start : start + self.rows_per_update]
            normaliser = sum(self.supervised[row] for row in update)
            for first in range(0, len(update), rows_per_micro_batch):
                rows = update[first : first + rows_per_micro_batch]
                yield tuple(rows[self.rank :: self.world]), normaliser


class EncodedRows(Dataset[Batch]):
    """A data set whose indices are the micro-batches that the sampler yields."""

    def __init__(self, rows: Sequence[Encoded]) -> None:
        self.rows = rows

    def __getitem__(self, index: MicroBatch) -> Batch:
        numbers, normaliser = index
        return Batch(tuple(self.rows[number] for number in numbers), normaliser, numbers)


class ConversationData(lightning.LightningDataModule):
    """The encoded rows of a run as a Lightning data module."""

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
        self._resumed = (0, 0)  # (epoch, micro-batches of it) that were trained before

    def resume_at(self, epoch: int, batches: int) -> None:
        """Begin training in ``epoch`` after ``batches`` micro-batches.

        The Trainer must ask for a new loader every epoch.
        """
        self._resumed = (epoch, batches)

    def position(self, epoch: int, batches: int) -> tuple[int, int]:
        """Return (epoch, micro-batches of it that are done).

        ``batches`` is what the Trainer counts: those of this epoch since this process began.
        """
        done = batches + (self._resumed[1] if epoch == self._resumed[0] else 0)
        return (epoch, done) if done < len(self._sampler()) else (epoch + 1, 0)

    def _sampler(self) -> OptimizerBatches:
        assert self.trainer is not None
        return OptimizerBatches(
            [row.supervised for row in self.train],
            self.batch_size,
            self.accumulate,
            self.seed,
            self.trainer.global_rank,
            self.trainer.world_size,
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return training rows in the order of this epoch, without those trained before."""
        assert self.trainer is not None
        sampler = self._sampler()
        if self.trainer.current_epoch == self._resumed[0]:
            sampler.skip = self._resumed[1]
        return self._loader(self.train, sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return validation rows in order; every rank reads its share."""
        assert self.trainer is not None
        rank, world = self.trainer.global_rank, self.trainer.world_size
        own = list(range(len(self.validation)))[rank::world]
        batches = [tuple(own[i : i + self.batch_size]) for i in range(0, len(own), self.batch_size)]
        return self._loader(self.validation, [(numbers, 1) for numbers in batches])

    def _loader(
        self, rows: Sequence[Encoded], sampler: Sampler[MicroBatch] | list[MicroBatch]
    ) -> DataLoader[Batch]:
        # The loader has a generator of its own. It must not draw from the global one, or the run
        # would depend on how often the loader is read.
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(
            EncodedRows(rows),
            sampler=sampler,  # type: ignore[arg-type]  # torch types it as one of single rows
            batch_size=None,
            generator=generator,
        )
