"""W&B's transaction logs, read without a server: records over several blocks, truncated files,
files of other programs, and comparisons of them.
"""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from hydratune.comparison.collect import collect_runs
from hydratune.comparison.comparison import compare
from hydratune.comparison.criterion import Criterion
from hydratune.errors import RunError
from hydratune.tracking import wandb_file

Command = Callable[..., tuple[int, str]]
HEADER, BLOCK = b":W&B\xe1\xbe\x00", 32768


def log(content: list[Record]) -> bytes:
    """Write a log as the client does: pieces that end where a block ends, and zeros where no header
    fits.
    """
    written = bytearray(HEADER)
    for record in content:
        remaining, first = record.SerializeToString(), True
        while first or remaining:
            room = BLOCK - len(written) % BLOCK
            if room < 7:
                written += bytes(room)
                continue
            piece, remaining = remaining[: room - 7], remaining[room - 7 :]
            kind = (1 if not remaining else 2) if first else (4 if not remaining else 3)
            written += struct.pack("<IHB", 0, len(piece), kind) + piece
            first = False
    return bytes(written)


def record(kind: str, values: dict[str, Any]) -> Record:
    result = Record()
    part = getattr(result, kind)
    for key, value in values.items():
        item = part.item.add() if kind == "history" else part.update.add()
        item.nested_key.extend(key.split(".")) if "." in key else setattr(item, "key", key)
        item.value_json = json.dumps(value)
    return result


def run(
    name: str,
    loss: float | None,
    *,
    rate: float = 1e-3,
    code: int | None = 0,
    started: int = 0,
    rows: str = "same",
    more: str = "",
) -> list[Record]:
    begun = Record()
    begun.run.run_id, begun.run.display_name, begun.run.run_group = f"id{name}", name, "sweep"
    begun.run.start_time.FromSeconds(1_700_000_000 + started)
    settings = {
        "optimizer": {"lr": rate},
        "tracking": {"mode": name},
        "facts": {"validation": rows},
        "_wandb": {},
    }
    for key, value in settings.items():
        item = begun.run.config.update.add()
        item.key, item.value_json = key, json.dumps(value)
    content = [
        begun,
        *(
            record("history", {"trainer/global_step": n, "train/loss": 3.0 - n, "text": more})
            for n in (1, 2)
        ),
    ]
    if loss is not None:
        content.append(
            record(
                "summary",
                {"val/loss": loss, "objective": loss, "eval/exact_match": 0.5, "_step": 2},
            )
        )
    if code is not None:
        ended = Record()
        ended.exit.exit_code = code
        content.append(ended)
    return content


def write(folder: Path, name: str, content: bytes) -> Path:
    place = folder / "wandb" / f"offline-run-20260101_000000-id{name}"
    place.mkdir(parents=True)
    file = place / f"run-id{name}.wandb"
    file.write_bytes(content)
    return file


def test_a_log_over_several_blocks(tmp_path: Path) -> None:
    file = write(tmp_path, "a", log(run("a", 0.5, more="x" * 70_000)))
    assert file.stat().st_size > 4 * BLOCK
    read = wandb_file.read_log(file)
    assert (read.id, read.name, read.group, read.exit_code) == ("ida", "a", "sweep", 0)
    assert read.config["optimizer"] == {"lr": 1e-3}
    assert [row["train/loss"] for row in read.history] == [2.0, 1.0]
    assert read.summary["val/loss"] == 0.5


def test_every_length_around_the_end_of_a_block(tmp_path: Path) -> None:
    file = tmp_path / "run-x.wandb"
    for more in range(BLOCK - 400, BLOCK + 40, 1):
        file.write_bytes(log(run("a", 0.5, more="x" * more)))
        read = wandb_file.read_log(file)
        assert (
            read.exit_code == 0 and len(read.history) == 2 and len(read.history[1]["text"]) == more
        )


def test_a_truncated_log_is_read_up_to_its_end(tmp_path: Path) -> None:
    whole = log(run("a", 0.5))
    file = write(tmp_path, "a", whole)
    for size in range(len(log(run("a", 0.5)[:1])), len(whole)):
        file.write_bytes(whole[:size])
        read = wandb_file.read_log(file)
        assert read.id == "ida" and read.exit_code is None


NO_LOGS = [
    (HEADER, "before anything was written"),
    (b"", "no file of W&B"),
    (b"PK a zip file", "no file of W&B"),
    (HEADER + struct.pack("<IHB", 0, 4, 1) + b"\xff\xff\xff\xff", "damaged"),
]


@pytest.mark.parametrize(("content", "message"), NO_LOGS)
def test_files_that_are_no_log_give_a_message(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "run-x.wandb"
    file.write_bytes(content)
    with pytest.raises(RunError, match=message):
        wandb_file.read_log(file)


def test_summaries_of_a_minimum_are_numbers() -> None:
    values = {
        "val/loss": {"min": 0.25},
        "deep": {"a": {"b": 1}},
        "table": {"_type": "table-file", "nrows": 3},
        "text": "x",
        "yes": True,
    }
    assert wandb_file.numbers(values) == {"val/loss": 0.25, "deep.a.b": 1, "yes": True}


def test_logs_are_ranked_like_runs(hydratune: Command, tmp_path: Path) -> None:
    write(tmp_path, "a", log(run("a", 0.5, rate=1e-3)))
    write(tmp_path, "b", log(run("b", 0.4, rate=3e-3, started=1)))
    write(tmp_path, "c", log(run("c", 0.1, rate=1e-2, code=1)))
    write(tmp_path, "d", log(run("d", 0.1, rate=1e-1, code=None)))
    write(tmp_path, "e", HEADER)
    (tmp_path / "wandb" / "latest-run").symlink_to(
        tmp_path / "wandb" / "offline-run-20260101_000000-idb"
    )
    compared = compare(collect_runs([tmp_path / "wandb"]))
    # without the failed run and the run without an end
    assert [entry.runs[0].name for entry in compared.finished] == ["b", "a"]
    assert compared.keys == ("optimizer.lr",)
    assert [run.state for run in compared.runs].count("unreadable") == 1 and len(compared.runs) == 5
    assert compared.finished[0].runs[0].history() == [
        {"trainer/global_step": step, "train/loss": 3.0 - step, "step": step} for step in (1, 2)
    ]
    code, text = hydratune("compare", str(tmp_path / "wandb"), "export=csv")
    assert code == 0 and "hold no answers" in text and "without an end" in text
    code, text = hydratune(
        "compare", str(tmp_path / "wandb" / "offline-run-20260101_000000-ide" / "run-ide.wandb")
    )
    assert code == 2 and "before anything was written" in text


def test_a_resumed_run_is_one(tmp_path: Path) -> None:
    write(tmp_path, "a", log(run("a", None, code=None)))
    later = tmp_path / "wandb" / "run-20260101_010000-ida" / "run-ida.wandb"
    later.parent.mkdir()
    later.write_bytes(log(run("a", 0.5, started=9)))
    for given in ([tmp_path], sorted(tmp_path.glob("wandb/*/*.wandb"))):
        (only,) = collect_runs(given)
        assert only.objective == 0.5 and len(only.history()) == 4


def test_other_validation_rows_are_not_ranked(tmp_path: Path) -> None:
    write(tmp_path, "a", log(run("a", 0.5)))
    write(tmp_path, "b", log(run("b", 0.4, rows="others")))
    assert compare(collect_runs([tmp_path])).why_not_ranked


def test_runs_of_another_program(tmp_path: Path) -> None:
    """The Trainer of transformers calls its validation loss eval/loss."""
    begun = run("t", None)[0]
    content = [
        begun,
        record("history", {"train/global_step": 5, "eval/loss": 1.5}),
        record("summary", {"eval/loss": 1.25}),
    ]
    ended = Record()
    ended.exit.exit_code = 0
    write(tmp_path, "t", log([*content, ended]))
    (only,) = collect_runs([tmp_path])
    assert only.objective == 1.25
    assert only.history() == [
        {"train/global_step": 5.0, "eval/loss": 1.5, "step": 5.0, "val/loss": 1.5}
    ]
    assert compare([only], Criterion("eval/loss")).best is not None


def test_a_run_that_is_given_twice_is_one_and_equal_titles_are_distinguished(
    tmp_path: Path,
) -> None:
    """As by ``wandb/*/*.wandb``, of which ``latest-run`` is a link to another folder."""
    write(tmp_path, "a", log(run("a", 0.5)))
    write(tmp_path, "b", log(run("b", 0.4)))
    folder = tmp_path / "wandb"
    (folder / "latest-run").symlink_to(folder / "offline-run-20260101_000000-idb")
    files = sorted(folder.glob("*/*.wandb"))
    assert len(files) == 3
    runs = collect_runs(files)
    assert sorted(run.name for run in runs) == ["a", "b"]
    assert all(len(run.history()) == 2 for run in runs)
    assert sorted(run.name for run in collect_runs([folder, *files])) == ["wandb/a", "wandb/b"]


def test_equal_titles_are_followed_by_the_id(tmp_path: Path) -> None:
    for name in ("x", "y"):
        records = run(name, 0.5)
        records[0].run.display_name = "same"
        write(tmp_path, name, log(records))
    assert sorted(run.name for run in collect_runs([tmp_path])) == ["same (idx)", "same (idy)"]
