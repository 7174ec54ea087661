"""Files of a data source that cannot be read are one message: which file, what, and what to do."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import MISSING

from conftest import SMALL, write_rows
from hydratune.data.preparation import prepare
from hydratune.data.rows import Message, Row
from hydratune.data.sources.base import OpenedSource, SourceConfig
from hydratune.data.sources.files import FilesData
from hydratune.data.sources.mixed import MixedData
from hydratune.errors import DataError, summarise
from hydratune.settings import registry

Command = Callable[..., tuple[int, str]]
PAIRS = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(12)]


def row(number: int, text: str) -> Row:
    return Row(str(number), (Message("user", f"{text} {number}"), Message("assistant", text)))


@dataclass
class TextData(SourceConfig):
    """A source as a contributor writes it: it expects that its file can be read."""

    source: str = "text"
    path: str = MISSING

    def texts(self) -> Iterator[str]:
        with open(self.path) as stream:  # noqa: PTH123  # as many write it
            yield from stream

    def open(self) -> OpenedSource:
        rows = (row(number, text) for number, text in enumerate(self.texts()))
        return OpenedSource({"train": rows}, self.path)


@dataclass
class WholeText(TextData):
    """Reads its file at once, before the first row."""

    def open(self) -> OpenedSource:
        lines = Path(self.path).read_text().splitlines()
        return OpenedSource({"train": iter([row(i, text) for i, text in enumerate(lines)])}, "")


@dataclass
class PackedText(TextData):
    def texts(self) -> Iterator[str]:
        with gzip.open(self.path, "rt") as stream:
            yield from stream


@dataclass
class JsonText(TextData):
    def texts(self) -> Iterator[str]:
        yield from (json.loads(line) for line in super().texts())


@dataclass
class WholeJson(TextData):
    def texts(self) -> Iterator[str]:
        yield from json.loads(Path(self.path).read_text())


@dataclass
class ParquetText(TextData):
    def texts(self) -> Iterator[str]:
        import pyarrow.parquet

        yield from pyarrow.parquet.read_table(self.path)["text"].to_pylist()


@dataclass
class FolderText(TextData):
    def texts(self) -> Iterator[str]:
        for file in sorted(Path(self.path).iterdir()):
            yield file.read_text()


def refusal(config: SourceConfig) -> str:
    with pytest.raises(DataError) as refused:
        prepare(config)
    return str(refused.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.txt"


@pytest.mark.parametrize("kind", [TextData, WholeText])
def test_text_that_is_not_utf8_names_the_line(kind: type[TextData], file: Path) -> None:
    file.write_bytes(b"first\n" * 3000 + b"caf\xe9\nlast\n")
    expected = f"{file}:3001: not utf-8 (byte 0xe9); save the file as UTF-8"
    assert refusal(kind(path=str(file))) == expected


@pytest.mark.parametrize("kind", [TextData, WholeText])
def test_what_cannot_be_opened_says_why(kind: type[TextData], file: Path, tmp_path: Path) -> None:
    fix = "; give a file that can be opened"
    folder = f"{tmp_path}: cannot be read (Is a directory){fix}"
    assert refusal(kind(path=str(tmp_path))) == folder
    assert (
        refusal(kind(path=str(file))) == f"{file}: cannot be read (No such file or directory){fix}"
    )
    file.symlink_to("elsewhere")
    assert (
        refusal(kind(path=str(file))) == f"{file}: cannot be read (No such file or directory){fix}"
    )
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    reason = "Too many levels of symbolic links"
    assert refusal(kind(path=str(circle))) == f"{circle}: cannot be read ({reason}){fix}"


def test_a_file_without_permission_says_so(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("text\n")
    error = PermissionError(13, "Permission denied", str(file))

    def refuse(self: TextData) -> OpenedSource:
        raise error

    monkeypatch.setattr(TextData, "open", refuse)
    expected = f"{file}: cannot be read (Permission denied); give a file that can be opened"
    assert refusal(TextData(path=str(file))) == expected


def test_broken_archives_and_tables_name_the_file(file: Path) -> None:
    file.write_text("no archive\n")
    assert refusal(PackedText(path=str(file))).startswith(f"{file}: cannot be read (Not a gzipped")
    file.write_bytes(gzip.compress(b"text\n" * 1000)[:-12])
    assert refusal(PackedText(path=str(file))).startswith(
        f"{file}: cannot be read (Compressed file"
    )
    file.write_bytes(gzip.compress(b"caf\xe9\n"))
    assert refusal(PackedText(path=str(file))).startswith(f"{file}: not utf-8 (byte 0xe9); save")
    file.write_text("no table\n")
    message = refusal(ParquetText(path=str(file)))
    assert message.startswith(f"{file}: cannot be read (") and "right format" in message


def test_broken_json_names_the_line(file: Path) -> None:
    file.write_text('"one"\n"two"\n{"three": }\n')
    for kind in (JsonText, WholeJson):
        message = refusal(kind(path=str(file)))
        line = 3 if kind is JsonText else 2
        assert message.startswith(f"{file}:{line}: broken JSON at column "), message
    file.write_text("")
    expected = f"{file}: the file is empty, and JSON was expected; give a file with rows"
    assert refusal(WholeJson(path=str(file))) == expected


def test_the_broken_file_of_a_folder_is_named(tmp_path: Path) -> None:
    for name, content in (("a", b"fine"), ("b", b"\xff"), ("c", b"fine")):
        (tmp_path / name).write_bytes(content)
    assert refusal(FolderText(path=str(tmp_path))).startswith(f"{tmp_path}/b:1: not utf-8 (byte 0x")


def test_a_pipe_is_refused_before_anything_waits_for_it(file: Path) -> None:
    os.mkfifo(file)
    assert refusal(TextData(path=str(file))).startswith(f"data.path = {file}: this is a pipe")
    assert "this is a pipe" in refusal(TextData(path="/dev/null"))


def test_an_error_that_is_not_about_a_file_stays_what_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: TextData) -> Iterator[str]:
        yield "text"
        raise KeyError("a mistake in the code")

    monkeypatch.setattr(TextData, "texts", fail)
    with pytest.raises(KeyError, match="a mistake in the code") as raised:
        prepare(TextData(path="anything"))
    note = "the data source text raised it (TextData, test_source_errors)"
    assert raised.value.__notes__ == [note]
    assert summarise(raised.value) == f"KeyError: 'a mistake in the code'; {note}"


def test_a_part_of_a_mixture_names_its_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = write_rows(tmp_path / "fine.jsonl", PAIRS)
    file.write_bytes(b"\xff\n")
    monkeypatch.setitem(registry._VARIANTS["data"], "text", TextData)
    parts = {
        "own": {"source": "text", "path": str(file)},
        "fine": {"source": "files", "train": str(fine)},
    }
    assert (
        refusal(MixedData(parts=parts))
        == f"{file}:1: not utf-8 (byte 0xff); save the file as UTF-8"
    )


# ------------------------------------------------------------------------- through the command line
@pytest.mark.parametrize("command", ["prepare", "train"])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b'{"prompt": "caf\xe9", "completion": "b"}\n', "rows.jsonl:1: not utf-8"),
        ("rows.csv", b"prompt,completion\ncaf\xe9,b\n", "rows.csv:2: not utf-8"),
        ("rows.jsonl", b"", "the file is empty"),
        ("rows.jsonl", b'{"prompt": \n', "rows.jsonl:1: broken JSON"),
        ("rows.json", b"[{]", "rows.json:1: broken JSON"),
        ("rows.json", b"", "the file is empty"),
        ("rows.parquet", b"PAR1 and no more", "not a readable Parquet file"),
        ("rows.parquet", b"", "the file is empty"),
        ("rows.jsonl.gz", b"\x1f\x8b", "unpack it first"),
    ],
)
def test_files_are_refused_with_exit_code_2(
    hydratune: Command, tmp_path: Path, command: str, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    usual = SMALL if command == "train" else ("model=tiny",)
    code, text = hydratune(command, *usual, "data=files", f"data.train={tmp_path}/{name}")
    assert code == 2 and name in text and message in text, text
    assert "unexpected" not in text and "Traceback" not in text


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_paths_that_are_no_files_are_refused_with_exit_code_2(
    hydratune: Command, tmp_path: Path, command: str
) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "link.jsonl").symlink_to("elsewhere.jsonl")
    (tmp_path / "circle.jsonl").symlink_to(tmp_path / "circle.jsonl")
    for name, message in (
        ("pipe.jsonl", "this is a pipe or a device"),
        ("folder.jsonl", "this is a folder, not a file"),
        ("link.jsonl", "this is a link to elsewhere.jsonl, which does not exist"),
        ("circle.jsonl", "this is a link to"),
        (f"{'long' * 100}.jsonl", "File name too long"),
    ):
        code, text = hydratune(command, "data=files", f"data.train={tmp_path}/{name}")
        assert code == 2 and name in text and message in text, text
        assert "unexpected" not in text and "hydra.run.dir" not in text, text
        assert "files with rows in that folder" not in text, text


def test_a_contributed_source_is_refused_with_exit_code_2(
    hydratune: Command, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_bytes(b"\xff\n")
    monkeypatch.setattr(FilesData, "open", lambda self: TextData(path=self.train).open())
    code, text = hydratune("train", *SMALL, "data=files", f"data.train={file}")
    assert code == 2 and f"{file}:1: not utf-8 (byte 0xff); save the file as UTF-8" in text, text
    assert "unexpected" not in text and "cannot write" not in text


@pytest.mark.parametrize("sweep", [(), ("-m", "seed=1,2")])
def test_a_wrong_column_is_refused_before_torch_is_loaded(
    tmp_path: Path, sweep: tuple[str, ...]
) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"frage": "a", "antwort": "b"}] * 3)
    words = ["train", *sweep, "model=tiny", "data=files", "data.train=rows.jsonl"]
    code = (
        f"import sys; from hydratune.cli import main; code = main({words});"
        " sys.exit(code + 10 * ('torch' in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "rows.jsonl:1: no known layout in the columns frage, antwort" in done.stderr
    assert not list(tmp_path.glob("outputs/*/*/status.json"))


def test_parts_of_a_mixture_are_looked_at_as_well(hydratune: Command, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"frage": "a", "antwort": "b"}] * 3)
    part = "data.parts.own"
    words = [f"{part}.source=files", f"{part}.train={tmp_path}/rows.jsonl"]
    code, text = hydratune("train", "model=tiny", "data=mixed", *words)
    assert code == 2 and "no known layout" in text and "set-up" not in text
