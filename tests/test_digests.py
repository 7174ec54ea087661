"""Digests of stored files, and damage in the cache, in prepared data and in searches."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import SMALL
from damage import copy_run, flip_bit
from hydratune import digests
from hydratune.cache import build_once
from hydratune.errors import RunError
from hydratune.records.files import read_json, write_json, write_jsonl
from hydratune.records.run_directory import RunDirectory
from run_files import assert_same_run

Command = Callable[..., tuple[int, str]]


@pytest.mark.fault(
    "kill -9 between a file and its digest",
    seen="nothing",
    kept="the file",
)
def test_a_process_killed_between_the_two_writes_leaves_a_file_with_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "metrics.json"
    write_json(file, {"a": 1})
    before = digests._write

    def killed(index: Path, entries: dict[str, list[str]]) -> None:
        before(index, entries)
        raise KeyboardInterrupt

    monkeypatch.setattr(digests, "_write", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            write_json(file, {"a": 2})
    assert read_json(file) == {"a": 1}
    monkeypatch.setattr(digests, "_write", before)
    write_json(file, {"a": 3})
    assert read_json(file) == {"a": 3}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_files_without_a_digest_and_digests_of_other_programs_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("[1]")
    assert read_json(tmp_path / "mine.json") == [1]
    for text in ('{"mine.json": "abc"}', "[]"):
        (tmp_path / "digests.json").write_text(text)
        assert read_json(tmp_path / "mine.json") == [1], text


def test_digests_that_are_damaged_themselves_are_named(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {})
    index = tmp_path / "digests.json"
    index.write_bytes(index.read_bytes()[:-9])
    with pytest.raises(RunError, match=r"digests[.]json is not readable"):
        read_json(tmp_path / "a.json")
    index.unlink()
    assert read_json(tmp_path / "a.json") == {}


@pytest.mark.fault(
    "two processes write into one folder",
    seen="nothing",
    kept="every digest",
)
def test_two_writers_in_one_folder_lose_no_digest(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from hydratune.records.files import write_json\n"
    code += "for n in range(100): write_json(Path(sys.argv[1]), {'n': n})"
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / f"{name}.json")])
        for name in "abc"
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert all(
        read_json(tmp_path / f"{name}.json") == {"n": 99}
        and digests.listed(tmp_path / f"{name}.json")
        for name in "abc"
    )


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HYDRATUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("hydratune.cache._verified", set[Path]())
    yield tmp_path / "cache"


@pytest.mark.fault(
    "a damaged entry of the cache",
    seen="it is built again",
    kept="everything",
)
def test_a_damaged_entry_of_the_cache_is_built_again(
    fresh_cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    times = list[int]()

    def build(folder: Path) -> None:
        times.append(1)
        (folder / "in").mkdir(parents=True)
        (folder / "in" / "states.bin").write_bytes(bytes(range(100)))

    for damage in (
        lambda file: None,
        lambda file: flip_bit(file, 0.5),
        lambda file: file.write_bytes(b""),
        lambda file: file.unlink(),
    ):
        monkeypatch.setattr("hydratune.cache._verified", set[Path]())
        if (fresh_cache / "x").is_dir():
            damage(fresh_cache / "x" / "in" / "states.bin")
        assert (build_once("x", build) / "in" / "states.bin").read_bytes() == bytes(range(100))
        assert ("states.bin" in capfd.readouterr().out) == (len(times) > 1)
    assert len(times) == 4
    (fresh_cache / "x" / "digests.json").unlink()  # an older version wrote none
    monkeypatch.setattr("hydratune.cache._verified", set[Path]())
    build_once("x", build)
    assert len(times) == 4


@pytest.mark.slow
def test_every_file_of_the_cache_is_verified(
    hydratune: Command, fresh_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train", *SMALL, "evaluation.baselines=[base]")
    assert hydratune(*words, f"hydra.run.dir={tmp_path}/first")[0] == 0
    for file in fresh_cache.rglob("*"):
        if (
            file.is_file()
            and file.stat().st_size
            and file.suffix not in (".lock", ".html")
            and file.name != "digests.json"
        ):
            flip_bit(file, 0.5)
    monkeypatch.setattr("hydratune.cache._verified", set[Path]())
    code, text = hydratune(*words, f"hydra.run.dir={tmp_path}/second")
    assert (
        code == 0
        and text.count("damaged, so it is built again") >= 2
        and "taken from the cache (" not in text
    ), text
    assert_same_run(tmp_path / "first", tmp_path / "second")


def test_a_damaged_prepared_data_set_is_refused(hydratune: Command, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"question {n} about the {n * 7}th of May", "completion": f"answer {n}"}
        for n in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        "prepare",
        "model=tiny",
        "data=files",
        f"data.train={tmp_path}/rows.jsonl",
        "data.quality.near_leaks=off",
        "output=out",
    ]
    assert hydratune(*words)[0] == 0
    for name in ("report.json", "train.parquet"):
        folder = copy_run(tmp_path / "out")
        flip_bit(folder / name, 0.6)
        code, text = hydratune("train", *SMALL, "data=prepared", f"data.path={folder}", "preview=1")
        assert code == 2 and name in text, text
    assert hydratune(*words)[0] == 0  # the advice of the message: hydratune prepare again


@pytest.mark.fault(
    "the journal of a search is damaged",
    seen="it is refused, with the place",
    kept="the runs, which `hydratune compare` ranks",
)
def test_a_damaged_journal_of_a_search_is_refused(tmp_path: Path) -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    from hydratune.sweeps.search.journal import JournalLock
    from hydratune.sweeps.search.study import open_storage

    journal = tmp_path / "study.log"
    study = optuna.create_study(storage=open_storage(str(journal)), study_name="s")
    for value in (0.25, 0.75):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, value)
    content, seal = journal.read_bytes(), (tmp_path / "study.log.sha256").read_bytes()
    assert len(optuna.load_study(storage=open_storage(str(journal)), study_name="s").trials) == 2
    for damaged in (
        content.replace(b"0.75", b"0.35"),
        content[: content.rindex(b"\n", 0, -1) + 1],
        b"",
    ):
        journal.write_bytes(damaged)
        with pytest.raises(RunError, match=r"study[.]log is not as it was written"):
            open_storage(str(journal))
    journal.write_bytes(content + b'{"half a li')  # written by a driver that was killed
    assert len(optuna.load_study(storage=open_storage(str(journal)), study_name="s").trials) == 2
    (tmp_path / "study.log.sha256").write_bytes(b"\xff" + seal[1:])
    with pytest.raises(RunError, match=r"study[.]log[.]sha256"):
        open_storage(str(journal))
    (
        tmp_path / "study.log.sha256"
    ).unlink()  # the fix that the message names; as of an older version, too
    two = [JournalStorage(JournalFileBackend(str(journal), JournalLock(journal))) for _ in range(2)]
    for number in range(6):  # two drivers alternate
        optuna.load_study(storage=two[number % 2], study_name="s").ask()
    assert len(optuna.load_study(storage=open_storage(str(journal)), study_name="s").trials) == 8


@pytest.mark.slow
def test_the_files_of_a_run_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    words = (
        "adapter.target_modules=[q_proj,k_proj,v_proj,o_proj,gate_proj]",
        "adapter.modules_to_save=[lm_head,norm]",
    )
    for seed in ("1", "2"):
        command = [
            sys.executable,
            "-m",
            "hydratune",
            "train",
            *SMALL,
            *words,
            f"hydra.run.dir={tmp_path}/{seed}",
        ]
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    first, second = tmp_path / "1", tmp_path / "2"
    names = ["data.json", "schema.json", "predictions.jsonl", "config.yaml"]
    names += [str(path.relative_to(first)) for path in (first / "adapter").iterdir()]
    assert len(names) > 8
    assert [
        name for name in names if (first / name).read_bytes() != (second / name).read_bytes()
    ] == []
    stored = json.loads((first / "adapter" / "adapter_config.json").read_text())
    assert (
        stored["target_modules"] == sorted(stored["target_modules"])
        and len(stored["target_modules"]) == 5
    )


def test_writing_rows_and_values_takes_a_digest_each(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"a": 1}])
    write_json(tmp_path / "b.json", 1)
    RunDirectory(tmp_path).write_history([{"step": 1}])
    for name in ("a.jsonl", "b.json", "history.csv"):
        assert digests.listed(tmp_path / name) == [digests.of_file(tmp_path / name)]


def test_every_bit_of_an_index_that_matters_is_noticed(tmp_path: Path) -> None:
    """If a damaged index counted as the file of another program, all files beside it would be used
    unverified.
    """
    write_json(tmp_path / "settings.json", {"a": 1})
    index = tmp_path / digests.INDEX
    stored = index.read_bytes()
    silent = []
    for place in range(len(stored)):
        index.write_bytes(stored[:place] + bytes([stored[place] ^ 1]) + stored[place + 1 :])
        try:
            if not digests.listed(tmp_path / "settings.json"):
                silent.append(place)
        except RunError:
            continue
    name = stored.index(b"settings.json")  # a file that is not listed is not verified
    assert set(silent) <= set(range(name, name + len("settings.json")))
    index.write_bytes(b"\377\376")
    with pytest.raises(RunError, match="not readable"):
        digests.listed(tmp_path / "settings.json")
    index.write_text(json.dumps({"someone": "else's"}))
    assert digests.listed(tmp_path / "settings.json") == []
