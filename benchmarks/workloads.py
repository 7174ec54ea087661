"""Write the rows that every system of the benchmark trains on to a file: tokens, masks and order.

    python benchmarks/workloads.py a --data FOLDER rows.json

FOLDER holds the published files of the case studies in ``cuad``, ``snips`` and ``mts-dialog``. The
rows come from hydratune's own readers and encoder; the synthetic workload needs no files.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

DATA = "HYDRATUNE_BENCH_DATA"
# of every system; r=16, lora_alpha=32, all-linear and clipping at 1.0 are hydratune's defaults
SETTINGS = (
    "name=bench",
    "adapter=lora",
    "optimizer.lr=1e-3",
    "optimizer.schedule=constant",
    "optimizer.warmup_ratio=0",
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.validations_per_epoch=1",
    "tracking=disabled",
)


@dataclass(frozen=True)
class Workload:
    """Which rows: the first ``rows`` of a data set's training rows, in the order of a hash, that
    are not too long.
    """

    title: str
    data: str  # option of the config group
    folder: str | None  # below the data folder
    rows: int
    longest: int  # tokens; keeps the mean near that of the figures to compare with
    schema: bool = False  # the JSON schema is part of the system prompt


WORKLOADS = {
    "a": Workload("CUAD, JSON schema in the system prompt", "cuad", "cuad", 64, 696, schema=True),
    "a1": Workload("CUAD", "cuad", "cuad", 64, 410),
    "b": Workload("SNIPS, short rows", "snips", "snips", 256, 512),
    "c": Workload("MTS-Dialog, long rows", "mts_dialog", "mts-dialog", 48, 600),
    "s": Workload("synthetic contracts", "contracts", None, 64, 1024),
}


@dataclass(frozen=True)
class Rows:
    """What is trained, in which order, under which settings."""

    title: str
    ids: list[list[int]]
    loss_mask: list[list[bool]]
    steps: list[list[list[int]]]  # optimizer step -> micro-batch -> row numbers
    overrides: list[str]  # for ``settings``
    # ids and masks of rows to validate on
    validation: list[list[Any]] = field(default_factory=lambda: [[], []])
    validations: int = 2  # in all steps, the last one after the last

    @property
    def tokens(self) -> int:
        """Every token of every row, padding not counted."""
        return sum(map(len, self.ids))

    @property
    def supervised(self) -> int:
        return sum(map(sum, self.loss_mask))

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(path: Path) -> "Rows":
        return Rows(**json.loads(path.read_text()))


def missing(name: str, data: str | None) -> str | None:
    """Why this workload cannot be had, or None."""
    folder = WORKLOADS[name].folder
    if folder is None:
        return None
    if data is None:
        return f"no folder with published data: give --data FOLDER or set {DATA}"
    return None if (Path(data) / folder).is_dir() else f"{Path(data) / folder} does not exist"


def settings(overrides: Sequence[str]) -> Any:
    """``overrides`` as hydratune's own typed settings."""
    import hydra

    from hydratune.composition import CONF, register
    from hydratune.settings.commands import TrainConfig
    from hydratune.settings.registry import typed

    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(hydra.compose("train", [*SETTINGS, *overrides]), TrainConfig)


def take(
    name: str, data: str | None, share: float, overrides: Sequence[str], *, count: int | None = None
) -> Rows:
    """The rows of a workload:

    ``share`` of their usual number in whole batches of 8, or exactly ``count``.
    """
    batch = [
        "data.batch_size=8",
        *[
            o
            for o in overrides
            if o.startswith(("data.batch_size=", "model", "trainer.accumulate"))
        ],
    ]
    config, taken = first(name, data, count or share, batch)
    ids, masks = [list(row.ids) for _, row in taken], [list(row.loss_mask) for _, row in taken]
    return Rows(WORKLOADS[name].title, ids, masks, order(masks, config), [*batch, *overrides])


def first(
    name: str, data: str | None, size: int | float, overrides: Sequence[str]
) -> tuple[Any, list[tuple[Any, Any]]]:
    """The settings of a workload, and its first rows as read and as encoded: so many, or a share of
    their usual number.
    """
    from hydratune.data.encoding.encoder import ChatEncoder
    from hydratune.data.sets import load_sets
    from hydratune.evaluation.metrics import as_json_text
    from hydratune.models import loading

    chosen = WORKLOADS[name]
    path = [f"data.path={Path(str(data)).resolve() / chosen.folder}"] if chosen.folder else []
    config = settings([f"data={chosen.data}", *path, *overrides])
    if chosen.schema:
        config.data.system_prompt += (
            f"\nThe JSON object follows this JSON schema: {as_json_text(config.data.schema)}"
        )
    size = (
        size
        if isinstance(size, int)
        else max(config.data.batch_size, round(chosen.rows * size / 8) * 8)
    )
    config.data.max_train_rows = 2 * size
    reader = loading.load_reader(config.model)
    encoder = ChatEncoder(reader.tokenizer, reader.turn_end_ids)
    every = ((row, encoder.encode(row)) for row in load_sets(config.data, config.seed).train)
    taken = [(row, encoded) for row, encoded in every if len(encoded.ids) <= chosen.longest][:size]
    if len(taken) < size:
        raise SystemExit(
            f"workload {name} has {len(taken)} rows of at most {chosen.longest} tokens here, not"
            f" {size}"
        )
    return config, taken


def write_chats(taken: Sequence[tuple[Any, Any]], path: Path) -> None:
    """Rows as read, as a file of conversations."""
    lines = [
        json.dumps({"messages": [message.turn() for message in row.messages]}) for row, _ in taken
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def order(loss_masks: Sequence[Sequence[bool]], config: Any) -> list[list[list[int]]]:
    """hydratune's own order of the first epoch: optimizer step -> micro-batch -> row numbers."""
    from hydratune.data.datamodule import OptimizerBatches

    accumulate = config.trainer.accumulate_grad_batches
    micro = [
        list(rows)
        for rows, _ in OptimizerBatches(
            [sum(mask) for mask in loss_masks], config.data.batch_size, accumulate, config.seed
        )
    ]
    return [micro[i : i + accumulate] for i in range(0, len(micro), accumulate)]


def padded(rows: Rows, numbers: list[int]) -> tuple[Any, Any, Any]:
    """(ids, mask, labels) of a right-padded batch, (rows, longest); what is not trained has the
    label -100.
    """
    import torch

    longest = max(len(rows.ids[i]) for i in numbers)
    fill = [longest - len(rows.ids[i]) for i in numbers]
    ids = [[*rows.ids[i], *[0] * n] for i, n in zip(numbers, fill, strict=True)]
    mask = [[*[1] * len(rows.ids[i]), *[0] * n] for i, n in zip(numbers, fill, strict=True)]
    labels = [
        [
            *(t if m else -100 for t, m in zip(rows.ids[i], rows.loss_mask[i], strict=True)),
            *[-100] * n,
        ]
        for i, n in zip(numbers, fill, strict=True)
    ]
    return torch.tensor(ids), torch.tensor(mask), torch.tensor(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=WORKLOADS)
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", default=os.environ.get(DATA))
    parser.add_argument("--rows-share", type=float, default=1.0)
    parser.add_argument("--count", type=int)
    parser.add_argument(
        "--set", nargs="*", default=[], help="settings of hydratune, for every system"
    )
    args = parser.parse_args()
    take(args.name, args.data, args.rows_share, args.set, count=args.count).write(args.output)


if __name__ == "__main__":
    main()
