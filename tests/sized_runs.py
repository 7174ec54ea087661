"""A made-up sweep over the number of training rows, for tests of what more data brings."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

from compared_runs import write_run


def sized_sweep(
    folder: Path,
    shares_right: Sequence[float],
    *,
    sizes: Sequence[int] = (16, 32, 64, 128),
    seeds: int = 3,
    rows: int = 60,
    luck: float = 0.02,
    more: str = "",
    steps: Sequence[int] = (),
) -> Path:
    """Write runs of each size and seed that answer about this share of the test rows correctly.

    ``more``: lines of config.yaml; ``steps``: optimizer steps of each size.
    """
    rng = random.Random(0)
    hard = [rng.random() for _ in range(rows)]
    first = len(list(folder.glob("*"))) if folder.is_dir() else 0
    for number, (size, share) in enumerate(zip(sizes, shares_right, strict=True)):
        for seed in range(seeds):
            shift = rng.gauss(0, luck)
            right = [0.3 * rng.random() + 0.7 * h < share + shift for h in hard]
            nll = [max(0.01, (1.05 - share) * (0.5 + h) + shift + rng.gauss(0, 0.05)) for h in hard]
            run = write_run(
                folder / str(first + seeds * number + seed),
                right=right,
                nll=nll,
                loss=1.05 - share - shift,
                seed=seed + 1,
            )
            share_of_rows = size / sizes[-1]
            with (run / "config.yaml").open("a") as stream:
                stream.write(f"data: {{train_share: {share_of_rows}}}\n{more}")
            splits = {"validation": {"tokens_hash": "v"}, "train": {"rows": size}}
            (run / "data.json").write_text(
                json.dumps({"splits": splits, "prepared": "0123456789abcdef"})
            )
            last = steps[number] if steps else size // 4
            lines = "".join(f"{step},{1 / step}\n" for step in range(1, last + 1))
            (run / "history.csv").write_text(f"step,train/loss\n{lines}")
    return folder
